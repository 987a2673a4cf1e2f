"""gemmlowp's fixed-point exponential, reciprocal and inverse root, as int8 kernels use them (SOFTMAX, DIV, RSQRT).

Raw values of ``FixedPoint<int32, I>``: ``value = raw / 2**(31 - I)``.  Source: gemmlowp ``fixedpoint/fixedpoint.h``,
TFLite ``kernels/internal/common.h`` (GetReciprocal, GetInvSqrtQuantizedMultiplierExp).  int64 arrays.
"""

from __future__ import annotations

import numpy as np

from qebgate.numerics.fixed_point import I64, divide_by_pot, high_mul

_MAX = (1 << 31) - 1
_BARREL = ((-2, 1672461947), (-1, 1302514674), (0, 790015084), (1, 290630308), (2, 39332535), (3, 720401), (4, 242))
"""(exponent, exp(-2**exponent) in Q0.31)."""


def _saturate(x: I64) -> I64:
    return np.clip(x, -(1 << 31), _MAX)


def exp_on_negative(a: I64, integer_bits: int) -> I64:
    """``exp`` of non-positive ``FixedPoint<integer_bits>`` values (at most 5 integer bits), as Q0.31."""
    fraction = 31 - integer_bits
    quarter = np.int64(1) << (fraction - 2)
    shifted = (a & (quarter - 1)) - quarter
    x = _saturate(shifted << integer_bits) + (1 << 28)  # to Q0.31, centred at -1/8
    x2 = high_mul(x, x)
    x3, x4 = high_mul(x2, x), high_mul(x2, x2)
    tail = divide_by_pot(high_mul(divide_by_pot(x4, 2) + x3, 715827883) + x2, 1)
    result = 1895147668 + high_mul(x + tail, 1895147668)
    remainder = shifted - a
    for exponent, multiplier in _BARREL:
        if integer_bits > exponent:
            bit = np.int64(1) << (fraction + exponent)
            result = np.where(remainder & bit, high_mul(result, multiplier), result)
    return np.where(a == 0, _MAX, result)


def reciprocal(x: I64, integer_bits: int) -> tuple[I64, I64]:
    """``1 / x`` of positive ``FixedPoint<integer_bits>`` values: a Q0.31 value and how many bits to shift it right."""
    headroom = 32 - np.ceil(np.log2(x.astype(np.float64) + 1.0)).astype(np.int64)  # leading zeros of 32 bits
    over_unit = integer_bits - headroom
    a = (x << headroom) - (np.int64(1) << 31)
    total = a + _MAX
    half = (total + np.where(total >= 0, 1, -1)) // 2  # RoundingHalfSum; the sum is never negative here
    r = 1515870810 + high_mul(half, -1010580540)
    for _ in range(3):
        r = r + _saturate(high_mul(r, (1 << 29) - high_mul(half, r)) << 2)
    return _saturate(r << 1), over_unit


def inverse_root(x: I64) -> tuple[I64, I64]:
    """``1 / sqrt(x)`` of integers from 1 to 2**29: a Q0.31 value and how many bits to shift it right."""
    leading = 32 - np.ceil(np.log2(x.astype(np.float64) + 1.0)).astype(np.int64)
    pairs = (leading - 1) // 2 - 1
    right = 11 - pairs
    half_input = divide_by_pot((x << 2 * pairs) >> 1, 1)
    r = np.full_like(x, 1 << 28)  # 3 integer bits
    half_three = np.full_like(x, (1 << 28) + (1 << 27))
    for _ in range(5):
        cube = _saturate(high_mul(high_mul(r, r), r) << 6)
        r = _saturate((high_mul(half_three, r) - high_mul(half_input, cube)) << 3)
    r = high_mul(r, 1518500250)
    r, right = np.where(right < 0, r << np.maximum(-right, 0), r), np.maximum(right, 0)
    return np.where(x <= 1, _MAX, r), np.where(x <= 1, 0, right)
