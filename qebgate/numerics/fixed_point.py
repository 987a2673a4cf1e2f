"""Integer requantization exactly as the TFLite, ruy and XNNPACK kernels do it.

All functions take and return int64 arrays.  ``real`` below is ``acc * M`` with the exact multiplier
``M = s_in * s_w / s_out``.  Sources: gemmlowp ``fixedpoint.h`` (SaturatingRoundingDoublingHighMul,
RoundingDivideByPOT), TFLite ``kernels/internal/common.h`` (MultiplyByQuantizedMultiplier), ruy
``apply_multiplier.cc``, XNNPACK ``qs8-requantization`` (fp32 variant).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


def round_half_away(x: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """C's ``round``: ties away from zero.  Exact for ``|x| < 2**52``."""
    v = np.asarray(x, dtype=np.float64)
    t = np.trunc(v)
    return t + np.sign(v) * (np.abs(v - t) >= 0.5).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Multiplier:
    """``M ~ mantissa * 2**(shift - 31)`` with a 31-bit mantissa (TFLite's QuantizeMultiplier)."""

    mantissa: I64
    shift: I64

    @classmethod
    def of(cls, real: NDArray[np.float64] | float) -> Multiplier:
        """Quantize positive real multipliers, one or an array of them."""
        m = np.atleast_1d(np.asarray(real, dtype=np.float64))
        frac, exp = np.frexp(m)
        q = round_half_away(frac * 2.0**31).astype(np.int64)
        carry = q == 1 << 31
        q = np.where(carry, q // 2, q)
        e = exp.astype(np.int64) + carry
        flushed = e < -31  # QuantizeMultiplier flushes tiny multipliers to zero
        return cls(np.where(flushed | (m == 0), 0, q), np.where(flushed | (m == 0), 0, e))

    @property
    def left(self) -> I64:
        return np.maximum(self.shift, 0)

    @property
    def right(self) -> I64:
        return np.maximum(-self.shift, 0)


def high_mul(a: I64, b: I64 | int) -> I64:
    """gemmlowp SaturatingRoundingDoublingHighMul without its one saturating case (-2**31 squared).

    The nudge and C++'s truncating division together round half up, also below zero.
    """
    return (np.asarray(a, np.int64) * np.asarray(b, np.int64) + (1 << 30)) >> 31


def divide_by_pot(x: I64, exponent: I64 | int) -> I64:
    """gemmlowp RoundingDivideByPOT: half away from zero."""
    e = np.asarray(exponent, np.int64)
    half = (np.int64(1) << e) >> 1  # 0 for e = 0
    below = np.where(e > 0, np.int64(-1), np.int64(0))
    return (x + half + ((x >> 63) & below)) >> e


def multiply_double_rounding(x: I64, m: Multiplier) -> I64:
    """MultiplyByQuantizedMultiplier as built by default: two roundings (gemmlowp)."""
    return divide_by_pot(high_mul(np.asarray(x, np.int64) << m.left, m.mantissa), m.right)


def multiply_single_rounding(x: I64, m: Multiplier) -> I64:
    """MultiplyByQuantizedMultiplier with TFLITE_SINGLE_ROUNDING: half up."""
    total = 31 - m.shift
    return (np.asarray(x, np.int64) * m.mantissa + (np.int64(1) << (total - 1))) >> total


def multiply_reduced(x: I64, m: Multiplier) -> I64:
    """MultiplyByQuantizedMultiplier of 64-bit accumulators (``|x| < 2**47``): 15 bits of multiplier, half up."""
    mantissa = np.where(m.mantissa < 0x7FFF0000, (m.mantissa + (1 << 15)) >> 16, 0x7FFF)
    total = 15 - m.shift
    return (np.asarray(x, np.int64) * mantissa + (np.int64(1) << (total - 1))) >> total


def multiply_ruy(x: I64, m: Multiplier) -> I64:
    """ruy's kernels on x86: high multiply rounding half up, then a rounding shift, half up."""
    a = high_mul(np.asarray(x, np.int64) << m.left, m.mantissa)
    half = np.where(m.right > 0, np.int64(1) << np.maximum(m.right - 1, 0), 0)
    return (a + half) >> m.right


def requantize_xnnpack(acc: I64, scale: NDArray[np.float32], zero_point: int, lo: int, hi: int) -> I64:
    """XNNPACK fp32 requantization: float32 product, ties to even, clamped to codes [lo, hi]."""
    v = np.asarray(acc, np.int64).astype(np.int32).astype(np.float32) * np.asarray(scale, np.float32)
    v = np.clip(v, np.float32(-(2.0**30)), np.float32(hi - zero_point))
    return np.clip(np.rint(v).astype(np.int64) + zero_point, lo, hi)


def round_double(acc: I64, scale: NDArray[np.float64]) -> I64:
    """``round(double(acc) * scale)``, half away from zero (reference FULLY_CONNECTED, per channel)."""
    return round_half_away(np.asarray(acc, np.float64) * scale).astype(np.int64)


def activation_limit(value: float, scale: float, zero_point: int, *, ties_even: bool) -> int:
    """The code of a fused activation's limit, unclamped.

    TFLite: ``zero_point + round(float32(value / scale))``, half away from zero.  XNNPACK: the zero point
    is added in float32 first, then ties to even.
    """
    q = np.float32(value) / np.float32(scale)
    if ties_even:
        return int(np.rint(q + np.float32(zero_point)))
    return zero_point + int(math.copysign(math.floor(abs(float(q)) + 0.5), float(q)))
