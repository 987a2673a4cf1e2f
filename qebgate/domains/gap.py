"""Intervals, and the three intervals that describe a pair of values: float, quantized, and their gap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qebgate.errors import InternalError
from qebgate.numerics.rounding import F64, down, up

I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """``lo <= x <= hi`` elementwise, arrays [n].  A NaN or an empty interval is an internal error."""

    lo: F64
    hi: F64

    def __post_init__(self) -> None:
        if not (self.lo <= self.hi).all():
            raise InternalError("QEB911", "an interval of the analysis is empty or not a number")

    @classmethod
    def point(cls, x: F64) -> Interval:
        return cls(x, x)

    @property
    def magnitude(self) -> F64:
        """Largest absolute value."""
        return np.maximum(np.abs(self.lo), np.abs(self.hi))

    @property
    def width(self) -> F64:
        return self.hi - self.lo

    @property
    def centre(self) -> F64:
        return 0.5 * (self.lo + self.hi)

    def meet(self, other: Interval) -> Interval:
        """The intersection; both contain the same true value, so it is never empty.

        Bounds that meet exactly can cross by nothing, because each is rounded outwards.
        """
        return Interval(np.maximum(self.lo, other.lo), np.minimum(self.hi, other.hi))

    def widened(self, below: F64 | float, above: F64 | float) -> Interval:
        """``[lo - below, hi + above]``, rounded outwards."""
        return Interval(down(self.lo - below), up(self.hi + above))

    def minus(self, other: Interval) -> Interval:
        """All differences ``x - y``, rounded outwards (exact zeros stay exact)."""
        lo, hi = self.lo - other.hi, self.hi - other.lo
        return Interval(np.where(self.lo == other.hi, 0.0, down(lo)), np.where(self.hi == other.lo, 0.0, up(hi)))

    def plus(self, other: Interval) -> Interval:
        return Interval(down(self.lo + other.lo), up(self.hi + other.hi))

    def clamp(self, a: float, b: float) -> Interval:
        return Interval(np.clip(self.lo, a, b), np.clip(self.hi, a, b))


@dataclass(frozen=True, slots=True, eq=False)
class Gap:
    """A pair of values: ``float`` h, ``quantized`` hq, ``delta`` hq - h, all in real units.

    ``codes`` are bounds of the quantized value's integer codes (None where it is a float).
    """

    float: Interval
    quantized: Interval
    delta: Interval
    codes: tuple[I64, I64] | None = None

    @property
    def size(self) -> int:
        return self.float.lo.size

    def tightened(self) -> Gap:
        """Each interval cut down by the other two (``hq = h + delta``)."""
        f, q, d = tighten(self.float, self.quantized, self.delta)
        return Gap(f, q, d, self.codes)


def tighten(f: Interval, q: Interval, d: Interval) -> tuple[Interval, Interval, Interval]:
    """``q = f + d`` used in all three directions."""
    d = d.meet(q.minus(f))
    q = q.meet(f.plus(d))
    f = f.meet(q.minus(d))
    return f, q, d
