"""Float32 corners of real intervals, without tolerance.

A real number is held as an unevaluated sum ``hi + lo`` of two float64 arrays, which is exact for every
centre plus radius that a policy can write.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from qebgate.numerics.rounding import F64

F32 = NDArray[np.float32]
MAX32 = float(np.finfo(np.float32).max)


def two_sum(a: F64, b: F64) -> tuple[F64, F64]:
    """``s + e == a + b`` exactly, ``s`` rounded to nearest (Knuth; Higham, section 4.3)."""
    s = np.asarray(a + b)
    v = s - a
    return s, np.asarray((a - (s - v)) + (b - v))


def split(exact: Fraction) -> tuple[float, float]:
    """A rational number as ``hi + lo`` (exact to 2**-106 relative)."""
    hi = float(exact)
    return hi, float(exact - Fraction(hi))


def floor32(hi: F64 | float, lo: F64 | float = 0.0) -> F64:
    """The largest finite float32 that is ``<= hi + lo``, in float64; ``-inf`` where there is none."""
    s, t = two_sum(np.asarray(hi, np.float64), np.asarray(lo, np.float64))
    f = s.clip(-MAX32, MAX32).astype(np.float32)
    over = (f.astype(np.float64) > s) | ((f.astype(np.float64) == s) & (t < 0))
    with np.errstate(over="ignore"):
        below = np.nextafter(f, np.float32(-np.inf))
    return np.where(over, below, f).astype(np.float64)


def ceil32(hi: F64 | float, lo: F64 | float = 0.0) -> F64:
    """The smallest finite float32 that is ``>= hi + lo``, in float64; ``inf`` where there is none."""
    return 0.0 - floor32(-np.asarray(hi, np.float64), -np.asarray(lo, np.float64))


def ball32(centre: F64, radius: F64 | float, radius_lo: F64 | float = 0.0) -> tuple[F64, F64]:
    """Outermost float32 numbers with ``|x - centre| <= radius + radius_lo`` in exact arithmetic."""
    c = np.asarray(centre, np.float64)
    r, rl = np.asarray(radius, np.float64), np.asarray(radius_lo, np.float64)
    s, e = two_sum(c, -r)
    t, f = two_sum(c, r)
    return ceil32(s, e - rl), floor32(t, f + rl)
