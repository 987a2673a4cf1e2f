"""gemmlowp's fixed-point functions, as integer kernels use them (SOFTMAX, DIV, RSQRT, the gates of an LSTM).

Raw values of ``FixedPoint<int32, I>``: ``value = raw / 2**(31 - I)``, and the same with fewer ``bits``.  Source:
gemmlowp ``fixedpoint/fixedpoint.h``, TFLite ``kernels/internal/common.h`` (GetReciprocal,
GetInvSqrtQuantizedMultiplierExp).  int64 arrays.
"""

from __future__ import annotations

import numpy as np

from qebgate.numerics.fixed_point import I64, divide_by_pot, high_mul

_MAX = (1 << 31) - 1
_BARREL = ((-2, 1672461947), (-1, 1302514674), (0, 790015084), (1, 290630308), (2, 39332535), (3, 720401), (4, 242))
"""(exponent, exp(-2**exponent) in Q0.31)."""


def _saturate(x: I64, bits: int = 32) -> I64:
    return np.clip(x, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def _times(a: I64, b: I64 | int, bits: int) -> I64:
    """SaturatingRoundingDoublingHighMul of a width; see :func:`high_mul` for that of 32 bits."""
    return high_mul(a, b) if bits == 32 else (a * np.asarray(b, np.int64) + (1 << (bits - 2))) >> (bits - 1)


def _constant(q31: int, bits: int) -> int:
    """A constant of 32 bits, rounded to a width."""
    return int(divide_by_pot(np.array(q31, np.int64), 32 - bits))


def exp_on_negative(a: I64, integer_bits: int, bits: int = 32) -> I64:
    """``exp`` of non-positive ``FixedPoint<integer_bits>`` values, with no integer bits.

    With more than 5 integer bits, what is below -32 gives 0.
    """
    fraction = bits - 1 - integer_bits
    quarter = np.int64(1) << (fraction - 2)
    shifted = (a & (quarter - 1)) - quarter
    x = _saturate(shifted << integer_bits, bits) + (1 << (bits - 4))  # no integer bits, centred at -1/8
    x2 = _times(x, x, bits)
    x3, x4 = _times(x2, x, bits), _times(x2, x2, bits)
    tail = divide_by_pot(_times(divide_by_pot(x4, 2) + x3, _constant(715827883, bits), bits) + x2, 1)
    one_eighth = _constant(1895147668, bits)
    result = _saturate(one_eighth + _times(x + tail, one_eighth, bits), bits)
    remainder = shifted - a
    for exponent, multiplier in _BARREL:
        if integer_bits > exponent:
            bit = np.int64(1) << (fraction + exponent)
            result = np.where(remainder & bit, _times(result, _constant(multiplier, bits), bits), result)
    if integer_bits > 5:
        result = np.where(a < -(np.int64(32) << fraction), 0, result)
    return np.where(a == 0, (1 << (bits - 1)) - 1, result)


def _inverse_of_half(half: I64, bits: int) -> I64:
    """``1 / half`` of values in [1/2, 1] without integer bits, with 2 integer bits: three steps of Newton's."""
    r = _constant(1515870810, bits) + _times(half, _constant(-1010580540, bits), bits)
    for _ in range(3):
        r = r + _saturate(_times(r, (1 << (bits - 3)) - _times(half, r, bits), bits) << 2, bits)
    return r


def _half_sum(a: I64, bits: int) -> I64:
    """RoundingHalfSum of a value and 1."""
    total = a + (1 << (bits - 1)) - 1
    return (total + np.where(total >= 0, 1, -1)) // 2  # the sum is never negative where this is used


def reciprocal(x: I64, integer_bits: int) -> tuple[I64, I64]:
    """``1 / x`` of positive ``FixedPoint<integer_bits>`` values: a Q0.31 value and how many bits to shift it right."""
    headroom = _leading_zeros(x)
    return _one_over_one_plus((x << headroom) - (np.int64(1) << 31)), integer_bits - headroom


def _leading_zeros(x: I64) -> I64:
    """Of 32 bits, for numbers of at least 0."""
    return 32 - np.ceil(np.log2(x.astype(np.float64) + 1.0)).astype(np.int64)


def _one_over_one_plus(a: I64) -> I64:
    """``1 / (1 + a)`` for a from 0 to 1, all in Q0.31."""
    return _saturate(_inverse_of_half(_half_sum(a, 32), 32) << 1)


def inverse_root(x: I64) -> tuple[I64, I64]:
    """``1 / sqrt(x)`` of integers from 1 to 2**29: a Q0.31 value and how many bits to shift it right."""
    pairs = (_leading_zeros(x) - 1) // 2 - 1
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


def logistic(a: I64, integer_bits: int, bits: int) -> I64:
    """``1 / (1 + exp(-x))`` with no integer bits."""
    one = (1 << (bits - 1)) - 1
    half = _half_sum(exp_on_negative(-np.abs(a), integer_bits, bits), bits)
    above = _saturate(_inverse_of_half(half, bits) << 1, bits)
    return np.where(a == 0, 1 << (bits - 2), np.where(a > 0, above, one - above))


def tanh(a: I64, integer_bits: int, bits: int) -> I64:
    """``tanh`` with no integer bits; the exponential's argument is twice the value."""
    half = _half_sum(exp_on_negative(-np.abs(a), integer_bits + 1, bits), bits)
    size = _saturate((_inverse_of_half(half, bits) - (1 << (bits - 3))) << 2, bits)
    return np.where(a == 0, 0, np.where(a < 0, -size, size))


_LOG_2, _ROOT_4, _ROOT_2 = 1488522236, 1805811301, 1518500250
"""Logarithm of 2, fourth root and root of 1/2, in Q0.31."""
_ALPHA_N, _ALPHA_D, _ALPHA_I, _ALPHA_F = 117049297, 127690142, 1057819769, 638450708


def log_of_sum(x: I64, input_bits: int, output_bits: int) -> I64:
    """``log`` of ``FixedPoint<input_bits>`` values of at least 1, as ``FixedPoint<output_bits>``.

    Of a mantissa near the fourth root of 1/2, by a rational function, and of a power of two: the better of two choices.
    """
    wide = output_bits + 1
    quarter = divide_by_pot(np.full_like(x, 1 << 29), wide)
    zeros = _leading_zeros(x)
    mantissa = _times_pot(high_mul(_times_pot(x, zeros - 1), _ROOT_2), 1)
    power = _saturate(_times_pot(input_bits - zeros, 31 - wide) + quarter)
    scaled = high_mul(x, _ROOT_2)
    headroom = _leading_zeros(scaled) - 1
    other = _saturate(_times_pot(input_bits - headroom, 31 - wide) - quarter)
    r, power = np.minimum(mantissa, _times_pot(x, headroom)), np.maximum(power, other)
    p = (r + _ROOT_4 + 1) // 2  # RoundingHalfSum of positive numbers
    q = 2 * (r - _ROOT_4)
    square = high_mul(q, q)
    numerator = high_mul(q, r) + high_mul(high_mul(q, square), _ALPHA_N)
    denominator = high_mul(p, _ALPHA_I + q + high_mul(square, _ALPHA_D)) + high_mul(q, _ALPHA_F)
    rational = high_mul(divide_by_pot(numerator, wide), _one_over_one_plus(denominator))
    return _times_pot(high_mul(power, _LOG_2) + rational, wide - output_bits)


def _times_pot(x: I64, exponent: I64 | int) -> I64:
    """SaturatingRoundingMultiplyByPOT for exponents of at least 0."""
    return _saturate(x << np.asarray(exponent, np.int64))
