"""Boxes of real numbers, rounded outwards."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qebgate.certify.errors import EvidenceError
from qebgate.numerics.rounding import F64, down, up

I64 = NDArray[np.int64]


class Box(NamedTuple):
    """``lo <= x <= hi`` elementwise, arrays [n]."""

    lo: F64
    hi: F64

    @property
    def magnitude(self) -> F64:
        return np.maximum(np.abs(self.lo), np.abs(self.hi))

    def plus(self, other: Box) -> Box:
        return Box(down(self.lo + other.lo), up(self.hi + other.hi))

    def minus(self, other: Box) -> Box:
        return Box(down(self.lo - other.hi), up(self.hi - other.lo))

    def widened(self, below: F64, above: F64) -> Box:
        return Box(down(self.lo - below), up(self.hi + above))

    def clipped(self, a: float, b: float) -> Box:
        return Box(np.clip(self.lo, a, b), np.clip(self.hi, a, b))

    def mirrored(self) -> Box:
        return Box(-self.hi, -self.lo)

    def meet(self, other: Box) -> Box:
        """Both hold the same true value.  Nothing in common, or a NaN, would be a contradiction: refused."""
        out = Box(np.maximum(self.lo, other.lo), np.minimum(self.hi, other.hi))
        if not (out.lo <= out.hi).all():
            raise EvidenceError("QEB487", "bounds contradict each other or are not numbers: nothing can be said")
        return out
