"""Shapes that bend to one side only: squares, roots, reciprocals.

What is left of a line has its extremes at the ends and where the slope is the line's, which is known in closed form;
there the function is flat against the line, so that a rounded place costs nothing to speak of.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Interval
from qebgate.numerics.rounding import F64, down, up
from qebgate.ops.shapes import Shape

SMALLEST = 2.0**-60
"""Functions that are not defined at 0 are bounded from here on: float32 flushes nothing, and overflows nowhere."""


class OneSided(Shape):
    """Convex or concave everywhere."""

    @abstractmethod
    def flat(self, slope: F64) -> F64:
        """Where the function has a slope, anywhere beyond the ends (or nan) where it never has."""

    def rest(self, x: Interval, slope: F64) -> Interval:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            at = self.flat(slope)
        inner = np.clip(np.where(np.isnan(at), x.lo, at), x.lo, x.hi)
        points = np.stack([x.lo, x.hi, inner])
        value, line = self.value(points), slope * points
        error = 2.0**-46 * (np.abs(value) + np.abs(line)).max(axis=0) + 1e-300
        left = value - line
        return Interval(down(left.min(axis=0) - error), up(left.max(axis=0) + error))


class Square(OneSided):
    turn = 0.0
    least = 0.0

    def value(self, x: F64) -> F64:
        return x * x

    def slopes(self, x: Interval) -> tuple[F64, F64]:
        return 2.0 * x.lo, 2.0 * x.hi

    def flat(self, slope: F64) -> F64:
        return slope / 2.0


class Sqrt(OneSided):
    least = 0.0
    undefined = "the root of a number below 0"

    def inside(self, x: Interval) -> NDArray[np.bool_]:
        return x.lo >= 0.0

    def value(self, x: F64) -> F64:
        return np.sqrt(np.maximum(x, 0.0))

    def slopes(self, x: Interval) -> tuple[F64, F64]:
        with np.errstate(divide="ignore"):
            return 0.5 / self.value(x.hi), 0.5 / self.value(x.lo)

    def flat(self, slope: F64) -> F64:
        return 0.25 / (slope * slope)


class Rsqrt(OneSided):
    least = 0.0
    undefined = "the reciprocal root of 0 or less"

    def inside(self, x: Interval) -> NDArray[np.bool_]:
        return x.lo >= SMALLEST

    def value(self, x: F64) -> F64:
        return 1.0 / np.sqrt(x)

    def slopes(self, x: Interval) -> tuple[F64, F64]:
        return -0.5 * x.lo**-1.5, -0.5 * x.hi**-1.5

    def flat(self, slope: F64) -> F64:
        return np.where(slope < 0, np.abs(2.0 * slope) ** (-2.0 / 3.0), np.inf)


class Reciprocal(OneSided):
    """Of numbers that have one sign."""

    undefined = "a division by 0"

    def inside(self, x: Interval) -> NDArray[np.bool_]:
        return (x.lo >= SMALLEST) | (x.hi <= -SMALLEST)

    def value(self, x: F64) -> F64:
        return 1.0 / x

    def slopes(self, x: Interval) -> tuple[F64, F64]:
        ends = -1.0 / (x.lo * x.lo), -1.0 / (x.hi * x.hi)
        return np.minimum(*ends), np.maximum(*ends)

    def flat(self, slope: F64) -> F64:
        return np.where(slope < 0, np.abs(slope) ** -0.5, np.inf)

    def rest(self, x: Interval, slope: F64) -> Interval:
        """``1 / -t + slope t`` is ``-(1 / t - slope t)``."""
        falls = x.hi < 0
        mirrored = OneSided.rest(self, Interval(np.where(falls, -x.hi, x.lo), np.where(falls, -x.lo, x.hi)), slope)
        return Interval(np.where(falls, -mirrored.hi, mirrored.lo), np.where(falls, -mirrored.lo, mirrored.hi))
