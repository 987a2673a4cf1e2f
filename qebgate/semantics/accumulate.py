"""Exact integer matrix products through float BLAS, and the requantization of accumulators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qebgate.ir.tensor import Array
from qebgate.numerics.fixed_point import (
    I64,
    Multiplier,
    multiply_double_rounding,
    multiply_reduced,
    multiply_ruy,
    multiply_single_rounding,
    requantize_xnnpack,
    round_double,
)
from qebgate.numerics.rounding import F64
from qebgate.runtimes.profiles import MICRO, Runtime


def exact_matmul(a: Array, w: Array, bound: float) -> NDArray[np.float64] | NDArray[np.float32]:
    """``a @ w`` for integer arrays, exact: ``bound`` is an upper bound of ``sum |a_i w_i|``.

    Uses float32 BLAS while every partial sum fits in 24 bits, float64 BLAS up to 53.
    """
    if bound < 2.0**24:
        return a.astype(np.float32, copy=False) @ w.astype(np.float32, copy=False)
    assert bound < 2.0**53
    return a.astype(np.float64, copy=False) @ w.astype(np.float64, copy=False)


def multiply_quantized(runtime: Runtime) -> Callable[[I64, Multiplier], I64]:
    """``MultiplyByQuantizedMultiplier`` of the kernels that are portable C++, as a runtime was built."""
    return multiply_single_rounding if runtime is Runtime.TFLM_SINGLE else multiply_double_rounding


def scalar_tail(channels: int) -> NDArray[np.bool_]:
    """Channels that builtin's loops over vectors of 8 leave to a scalar loop, which rounds as gemmlowp does."""
    return np.arange(channels) >= channels // 8 * 8


def requantize(
    acc: I64,
    s_in: float,
    s_w: F64,
    s_out: float,
    zero_point: int,
    code_range: tuple[int, int],
    runtime: Runtime,
    *,
    dense: bool,
    wide: bool,
    tail: NDArray[np.bool_] | None = None,
) -> NDArray[np.int32]:
    """Codes of accumulators ``[..., C]`` of a linear operator.

    ``s_w`` has one entry (per tensor) or C (per channel).  ``dense`` selects FULLY_CONNECTED's own forms, ``wide``
    those of int16 activations, which are the same in every runtime.  ``tail`` marks channels for which ruy falls
    back to gemmlowp's rounding (depthwise, transposed).
    """
    lo, hi = code_range
    if wide:
        m = s_in * s_w / s_out
        out = round_double(acc, m) if dense else multiply_reduced(acc, Multiplier.of(m))
        return np.clip(out + zero_point, lo, hi).astype(np.int32)
    if runtime is Runtime.XNNPACK:
        scale = (np.float32(s_in) * s_w.astype(np.float32)) / np.float32(s_out)
        return requantize_xnnpack(acc, scale.astype(np.float32), zero_point, lo, hi).astype(np.int32)
    real = effective_scale(s_in, s_w, s_out, runtime, dense=dense)
    if runtime is Runtime.REFERENCE and dense:
        out = round_double(acc, real)
    elif runtime is Runtime.REFERENCE or runtime in MICRO:
        out = multiply_quantized(runtime)(acc, Multiplier.of(real))
    else:
        m = Multiplier.of(real)
        out = multiply_ruy(acc, m)
        if tail is not None and tail.any():
            out = np.where(tail, multiply_double_rounding(acc, m), out)
    return np.clip(out + zero_point, lo, hi).astype(np.int32)


def effective_scale(s_in: float, s_w: F64, s_out: float, runtime: Runtime, *, dense: bool) -> F64:
    """The double that the kernel starts from; per-tensor FULLY_CONNECTED multiplies in float32 (builtin, TFLM)."""
    if dense and s_w.size == 1 and (runtime is Runtime.BUILTIN or runtime in MICRO):
        return (np.float32(s_in) * s_w.astype(np.float32)).astype(np.float64) / s_out
    return s_in * s_w / s_out


WIDE_REACH = 2.0**15 + 8
"""Of int16 outputs: results beyond it saturate, whatever a multiplier of 15 bits makes of them."""


def linear_deviation(
    s_in: float, s_w: F64, s_out: float, runtime: Runtime, *, dense: bool, wide: bool, reach: float
) -> F64:
    """Largest ``|code - zero_point - y|`` before the clamp, per channel, for ``|y| <= reach``.

    0.5 + 2**-(r+1) for the double roundings with r > 0 (M in [2**-(r+1), 2**-r)), plus what the
    rounded multiplier loses; 0.5 for FULLY_CONNECTED's double product; 0.5 plus three float32
    roundings for XNNPACK.
    """
    m = s_in * s_w / s_out
    if wide:
        lost = 0.0 if dense else 2.0**-15 * (1 + 2.0**-10)
        flushed = Multiplier.of(m).mantissa == 0
        return np.where(flushed & (not dense), 0.5 + WIDE_REACH, 0.5 + WIDE_REACH * (lost + 2.0**-30))
    if runtime is Runtime.XNNPACK:
        return np.full(s_w.shape, 0.5 + reach * 2.0**-21)
    if runtime is Runtime.REFERENCE and dense:
        return np.full(s_w.shape, 0.5 + reach * 2.0**-50)
    mult = Multiplier.of(effective_scale(s_in, s_w, s_out, runtime, dense=dense))
    second = np.where(mult.right > 0, 2.0 ** -(mult.right.astype(np.float64) + 1.0), 0.0)
    slack = reach * (2.0**-23 if dense and s_w.size == 1 else 2.0**-30)
    flushed = mult.mantissa == 0
    return np.where(flushed, 0.5 + reach, 0.5 + second + slack) + 0.0 * m
