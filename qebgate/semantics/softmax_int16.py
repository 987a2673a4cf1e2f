"""SOFTMAX on int16: two tables of 513 entries with interpolation (tensorflow/lite, reference/softmax.h).

The tables are made in double: of ``exp`` on [-10, 0] and of ``1 / (1 + x)`` on [0, 1], every entry moved by half the
error that interpolation has in the middle.  The same in all three runtimes (XNNPACK leaves it to builtin).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from qebgate.ir.tensor import Array, Tensor
from qebgate.numerics.fixed_point import I64, Multiplier, multiply_double_rounding, round_half_away
from qebgate.numerics.rounding import F64

STEPS = 512
SPAN = 10.0
"""Arguments below -10 count as -10."""
MOST = 2048
"""Largest number of logits."""


@cache
def _tables() -> tuple[I64, I64]:
    """Of exp on codes of ``10 / 65535`` up to 0, and of ``1 / (1 + x)`` on codes of ``1 / 65535`` from 0."""
    exp = _table(SPAN / 65535.0, 32767, np.exp)
    return exp, _table(1.0 / 65535.0, -32768, lambda x: 1.0 / (1.0 + x))


def _table(scale: float, zero: int, function: Callable[[F64], F64]) -> I64:
    low, high, unit = scale * (-32768 - zero), scale * (32767 - zero), 2.0 / 65535.0
    step, inverse = (high - low) / STEPS, 65536.0 / (unit * 65535.0)
    at = low + np.arange(STEPS) * step
    sample = round_half_away(function(at) * inverse)
    between = round_half_away((function(low + np.arange(1, STEPS + 1) * step) * inverse + sample) / 2)
    middle = round_half_away(function(at + step / 2) * inverse)
    last = round_half_away(function(np.array([high])) * inverse)
    return np.append(sample - round_half_away((between - middle) / 2), last).clip(-32768, 32767).astype(np.int64)


def _look_up(table: I64, code: I64) -> I64:
    """Interpolated value at codes of 16 bits."""
    index = 256 + (code >> 7)
    base = table[index]
    return base + (((table[index + 1] - base) * (code & 0x7F) + 64) >> 7)


def run(codes: Array, x: Tensor, beta: float) -> Array:
    """Codes of ``2**-15`` of the softmax over the last axis."""
    exp, reciprocal = _tables()
    diff = (codes - codes.max(axis=-1, keepdims=True)).astype(np.int64)
    scaled = multiply_double_rounding(diff, Multiplier.of(x.q.s * beta / (SPAN / 65535.0)))
    e = _look_up(exp, (scaled + 32767).clip(-32768, 32767))
    total = e.sum(axis=-1, keepdims=True)
    bits = np.frexp(total.astype(np.float64))[1].astype(np.int64)
    shifted = ((total << (31 - bits)) + (1 << 13)) >> 14
    scale = _look_up(reciprocal, (shifted - (1 << 15) - (1 << 16)).clip(-32768, 32767))
    shift = bits - 1
    return ((e * scale + ((np.int64(1) << shift) >> 1)) >> shift).clip(0, 32767).astype(np.int32)


@cache
def _errors() -> tuple[float, float]:
    """Largest absolute error of the first table's values, and largest relative one of the second's."""
    code = np.arange(-32768, 32768)
    exp, reciprocal = (_look_up(t, code) * (2.0 / 65535.0) for t in _tables())
    first = np.abs(exp - np.exp((code - 32767) * (SPAN / 65535.0))).max()
    second = np.abs(reciprocal * (1.0 + (code + 32768) / 65535.0) - 1.0).max()
    return float(first), float(second)


def deviation(n: int) -> float:
    """Largest distance from the real softmax of n logits, in quanta.

    Every exponential is ``E (1 + r) + a``: a rounded argument (at most one code, ``10 / 65535``), the table's error,
    and ``exp(-10)`` for what lies below -10.  With S >= 1 the sum of the exact ones, the quotient is off by at most
    ``(2 r + a (1 + n)) / (1 - r - n a)``; the reciprocal's table and the roundings around it are relative errors.
    """
    table, relative = _errors()
    r, a = 2.0**-12, table + np.exp(-SPAN) + 2.0**-30
    quotient = (2 * r + a * (1 + n)) / (1 - r - n * a)
    return float(0.5 + 2.0**15 * (quotient + (relative + 2.0**-13) * (1 + quotient)) * (1 + 2.0**-20) + 1.0)
