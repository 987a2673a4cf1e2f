"""Shapes of functions of one entry: values, slopes, and what is left of a line.

For back-substitution a function is a line and a rest; the rest of a function with ``|f''| <= K`` is within
``K w**2 / 8`` of the line through its values at points w apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.special
from numpy.typing import NDArray

from qebgate.domains.gap import Interval
from qebgate.errors import UnboundedError
from qebgate.numerics.rounding import F64, down, up

LIBM = 2.0**-48
"""Relative error allowed to float64 exp, tanh, erfc and the few operations around them (about 16 ulp)."""
SAMPLES = 17
"""Points at which a rest is evaluated."""


def outward(x: F64, sign: int) -> F64:
    """A computed value moved up or down by LIBM relative and a little absolute."""
    err = LIBM * np.abs(x) + 1e-300
    return up(x + err) if sign > 0 else down(x - err)


def sigmoid(x: F64) -> F64:
    """In float64, without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


class Shape(ABC):
    """A function that falls up to ``turn`` and rises from there; ``kinks`` are where its slope jumps.

    Arrays end in the tensor's entries, all of them or (for a function with parameters per channel) whole channels.
    """

    turn: float = -np.inf
    kinks: tuple[float, ...] = ()
    curvature: float = 0.0
    """Bound of ``|f''|`` between kinks."""
    least: float = -np.inf
    most: float = np.inf
    undefined: str = ""
    """What is outside of its domain, in words."""

    @abstractmethod
    def value(self, x: F64) -> F64: ...

    @abstractmethod
    def slopes(self, x: Interval) -> tuple[F64, F64]:
        """Least and largest slope over an interval (approximate: they are moved outwards)."""

    def image(self, x: Interval) -> Interval:
        """All values over an interval."""
        lo, hi = self.value(x.lo), self.value(x.hi)
        least = np.minimum(lo, hi)
        if np.isfinite(self.turn):
            inside = (x.lo < self.turn) & (x.hi > self.turn)
            least = np.where(inside, np.minimum(least, self.value(np.full_like(x.lo, self.turn)) - 1e-12), least)
        low, high = outward(least, -1), outward(np.maximum(lo, hi), +1)
        return Interval(np.clip(low, self.least, self.most), np.clip(high, self.least, self.most))

    def steep(self, x: Interval) -> Interval:
        """Slopes over an interval, outwards."""
        lo, hi = self.slopes(x)
        return Interval(outward(lo, -1), outward(hi, +1))

    def inside(self, x: Interval) -> NDArray[np.bool_]:
        """Entries for all of whose values the function is defined."""
        return np.ones(x.lo.shape, np.bool_)

    def require(self, where: str, *sides: Interval) -> None:
        """UnboundedError where a value may be what the function is not defined for."""
        if not all(self.inside(x).all() for x in sides):
            low = min(float(x.lo[~self.inside(x)].min(initial=np.inf)) for x in sides)
            message = f"{self.undefined} in the region, as far as it is bounded"
            raise UnboundedError("QEB440", message, where=where, found=f"{low:.4g}")

    def rest(self, x: Interval, slope: F64) -> Interval:
        """Bounds of ``f(t) - slope t`` for t in x."""
        steps = np.linspace(0.0, 1.0, SAMPLES)
        points = [x.lo + (x.hi - x.lo) * s for s in steps[:-1]] + [x.hi]
        points += [np.clip(np.full_like(x.lo, k), x.lo, x.hi) for k in self.kinks]
        at = np.clip(np.stack(points), x.lo, x.hi)
        value, line = self.value(at), slope * at
        error = 2.0**-46 * (np.abs(value) + np.abs(line)).max(axis=0) + 1e-300
        # two neighbours may be a little farther apart than a step: their places are rounded
        bend = self.curvature * ((x.hi - x.lo) / (SAMPLES - 1)) ** 2 / 8 * (1 + 2.0**-20)
        rest = value - line
        return Interval(down(rest.min(axis=0) - bend - error), up(rest.max(axis=0) + bend + error))


@dataclass(frozen=True, slots=True)
class Smooth(Shape):
    """LOGISTIC and TANH: ``gradient`` falls with the distance from 0."""

    function: Callable[[F64], F64]
    gradient: Callable[[F64], F64]
    least: float
    most: float
    curvature: float

    def value(self, x: F64) -> F64:
        return self.function(x)

    def slopes(self, x: Interval) -> tuple[F64, F64]:
        nearest = np.where((x.lo <= 0) & (x.hi >= 0), 0.0, np.minimum(np.abs(x.lo), np.abs(x.hi)))
        return self.gradient(x.magnitude), self.gradient(nearest)


LOGISTIC = Smooth(sigmoid, lambda x: sigmoid(x) * sigmoid(-x), 0.0, 1.0, 0.1)
TANH = Smooth(np.tanh, lambda x: 1.0 / np.cosh(np.minimum(x, 300.0)) ** 2, -1.0, 1.0, 0.78)


@dataclass(frozen=True, slots=True, eq=False)
class Bent(Shape):
    """``x`` above zero, ``alpha x`` below; alpha [1] or [C].  LEAKY_RELU, PRELU, ABS."""

    alpha: F64
    kinks: tuple[float, ...] = (0.0,)

    @property
    def turn(self) -> float:  # type: ignore[override]
        return 0.0 if (self.alpha < 0).any() else -np.inf

    def _each(self, x: F64) -> F64:
        """The slope below zero of every entry."""
        return np.resize(self.alpha, x.shape[-1])

    def value(self, x: F64) -> F64:
        return np.where(x >= 0, x, x * self._each(x))

    def slopes(self, x: Interval) -> tuple[F64, F64]:
        a = self._each(x.lo)
        some = np.stack([np.where(x.lo < 0, a, 1.0), np.where(x.hi > 0, 1.0, a)])
        return some.min(axis=0), some.max(axis=0)


class EluShape(Shape):
    kinks = (0.0,)
    curvature = 1.0
    least = -1.0

    def value(self, x: F64) -> F64:
        return np.where(x >= 0, x, np.expm1(np.minimum(x, 0.0)))

    def slopes(self, x: Interval) -> tuple[F64, F64]:
        return np.exp(np.minimum(x.lo, 0.0)), np.exp(np.minimum(x.hi, 0.0))


class HardSwishShape(Shape):
    turn = -1.5
    kinks = (-3.0, 3.0)
    curvature = 1.0 / 3.0 + 1e-9
    least = -0.375

    def value(self, x: F64) -> F64:
        return x * np.clip(x + 3.0, 0.0, 6.0) / 6.0

    def slopes(self, x: Interval) -> tuple[F64, F64]:
        touches = (x.lo <= 3.0) & (x.hi >= -3.0)
        inner = [(2.0 * np.clip(v, -3.0, 3.0) + 3.0) / 6.0 for v in (x.lo, x.hi)]
        lo, hi = (np.where(touches, v, fill) for v, fill in zip(inner, (np.inf, -np.inf), strict=True))
        lo, hi = np.where(x.lo < -3.0, np.minimum(lo, 0.0), lo), np.where(x.lo < -3.0, np.maximum(hi, 0.0), hi)
        return np.where(x.hi > 3.0, np.minimum(lo, 1.0), lo), np.where(x.hi > 3.0, np.maximum(hi, 1.0), hi)


class GeluShape(Shape):
    """``x Phi(x)``; its slopes are in [-0.1290, 1.1290] and its curvature is at most 0.7979 (at 0)."""

    turn = -0.7517915246935645
    curvature = 0.8
    least = -0.1701

    def value(self, x: F64) -> F64:
        return 0.5 * x * scipy.special.erfc(-x * np.sqrt(0.5))

    def gradient(self, x: F64) -> F64:
        """The slope at a point."""
        return 0.5 * scipy.special.erfc(-x * np.sqrt(0.5)) + x * np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)

    def slopes(self, x: Interval) -> tuple[F64, F64]:
        half = 0.5 * (x.hi - x.lo) + 1e-12
        at, off = self.gradient(np.clip(x.centre, -40.0, 40.0)), 0.85 * np.minimum(half, 100.0)
        return np.maximum(at - off, -0.135), np.minimum(at + off, 1.135)


class FastGeluShape(GeluShape):
    """The tanh approximation: within the same bounds (the least value is -0.17004, at -0.75246)."""

    turn = -0.7524614220710162

    def value(self, x: F64) -> F64:
        # x (1 + tanh u) / 2 = x sigmoid(2 u), which keeps its precision where tanh is near -1
        return x * sigmoid(self._inner(np.clip(x, -1e4, 1e4)))

    @staticmethod
    def _inner(x: F64) -> F64:
        return 2.0 * np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)

    def gradient(self, x: F64) -> F64:
        p = sigmoid(self._inner(x))
        return p + x * p * (1.0 - p) * 2.0 * np.sqrt(2.0 / np.pi) * (1.0 + 3 * 0.044715 * x * x)
