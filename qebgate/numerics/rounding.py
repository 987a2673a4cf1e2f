"""Outward rounding of float64 computations.

All bounds in qebgate are computed in float64 by ordinary (round-to-nearest) numpy and widened
afterwards by a proven error bound.  For a dot product of length ``n`` in any order of summation

    |fl(a.b) - a.b| <= gamma(n) * sum |a_i b_i| + n * tiny,    gamma(n) = n u / (1 - n u),  u = 2**-53

(N. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1; the second term
covers underflow, also on processors that flush subnormals to zero).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

U64 = 2.0**-53
"""Unit roundoff of float64."""
U32 = 2.0**-24
"""Unit roundoff of float32."""
TINY64 = 2.0**-1022
"""Smallest normal float64: an upper bound of what one operation can lose to underflow."""
TINY32 = 2.0**-126
"""Smallest normal float32 (TensorFlow and XNNPACK flush subnormals to zero)."""
SAFETY = 1.01
"""Covers the rounding of the error terms themselves (a few hundred operations of relative error u)."""


def gamma(n: int | float, unit: float = U64) -> float:
    """``n u / (1 - n u)``; raises ValueError where the bound is void (``n u >= 1/2``)."""
    nu = float(n) * unit
    if not nu < 0.5:
        msg = f"a sum of {n} terms is too long for a roundoff bound"
        raise ValueError(msg)
    return nu / (1.0 - nu)


def up(x: F64 | float) -> F64:
    """The next float64 above (``nan`` and ``inf`` are kept)."""
    return np.nextafter(np.asarray(x, dtype=np.float64), np.inf)


def down(x: F64 | float) -> F64:
    """The next float64 below."""
    return np.nextafter(np.asarray(x, dtype=np.float64), -np.inf)


def widen(lo: F64, hi: F64, err: F64 | float) -> tuple[F64, F64]:
    """``[lo - err, hi + err]`` rounded outwards; ``err >= 0`` is itself trusted to be an upper bound."""
    return down(lo - err), up(hi + err)


def passes(bound: float, limit: float) -> bool:
    """Whether a proven bound is within a limit: False for every NaN and infinity."""
    return bool(np.isfinite(bound) and np.isfinite(limit) and bound <= limit)
