"""Requantization of accumulators in few floating-point operations, proven equal to the kernel's integer arithmetic.

A requantization is a non-decreasing step function of the integer accumulator.  So is ``floor(g m + c)``
in floating point (a rounded product and a rounded sum are monotone).  Two such functions are equal on a
range of integers if they are equal at its ends and on both sides of every step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qebgate.ir.tensor import Array
from qebgate.numerics.fixed_point import I64
from qebgate.numerics.rounding import F64

Exact = Callable[[I64, NDArray[np.intp]], I64]
"""``exact(g [..., c], columns [c])``: codes of accumulators of some columns, by the runtime's own arithmetic."""

_BISECTIONS = 34
"""More than the bits of any range of 32-bit accumulators."""


class Staircase:
    """``apply`` turns accumulators ``g [B, C]``, ``lo <= g <= hi``, into codes, in place.

    ``slope [C] > 0`` is the real multiplier that the steps follow.  Columns in which no ``m``, ``c`` is
    found that passes the comparison keep the integer arithmetic (``exceptions``).
    """

    def __init__(self, exact: Exact, lo: I64, hi: I64, slope: F64, dtype: type[np.float32 | np.float64]) -> None:
        self._exact = exact
        columns = np.arange(lo.size)
        first, last = exact(lo, columns), exact(hi, columns)
        self.low, self.high = first.astype(dtype), last.astype(dtype)
        step, real = self._steps(lo, hi, first, last, slope)
        code = first + 1 + np.arange(len(step))[:, None]
        self.m = slope.astype(dtype)
        m = self.m.astype(np.float64)
        least = np.where(real, code - m * step, -np.inf).max(axis=0, initial=-np.inf)
        most = np.where(real, code - m * (step - 1), np.inf).min(axis=0, initial=np.inf)
        with np.errstate(invalid="ignore"):
            middle = np.where(np.isfinite(least + most), (least + most) / 2, first)
        self.c = middle.astype(dtype)
        self.exceptions = np.empty(0, np.intp)
        probes = np.concatenate([lo[None], hi[None], np.clip(step - 1, lo, hi), np.clip(step, lo, hi)])
        got = probes.astype(dtype)
        self.apply(got)
        self.exceptions = np.flatnonzero((got != exact(probes, columns)).any(axis=0))

    def _steps(self, lo: I64, hi: I64, first: I64, last: I64, slope: F64) -> tuple[I64, NDArray[np.bool_]]:
        """``step [S, C]``: the least accumulator whose code is at least ``first + 1 + row``; and which rows exist."""
        columns = np.arange(lo.size)
        code = first + 1 + np.arange(int((last - first).max(initial=0)))[:, None]
        real = code <= last
        target = np.minimum(code, last)
        # below: code under target (where the row exists), above: at least target
        below, above = np.broadcast_to(lo, code.shape).copy(), np.broadcast_to(hi, code.shape).copy()
        zero = np.clip(np.zeros_like(lo), lo, hi)
        guess = zero + (target - self._exact(zero, columns)) / slope
        for at in (guess - 1.5 / slope - 4, guess + 1.5 / slope + 4):
            probe = np.clip(at, below, above).astype(np.int64)
            over = self._exact(probe, columns) >= target
            above, below = np.where(over, probe, above), np.where(over, below, probe)
        for _ in range(_BISECTIONS):
            if (above - below).max(initial=0) <= 1:
                break
            probe = (above + below) // 2
            over = self._exact(probe, columns) >= target
            above, below = np.where(over, probe, above), np.where(over, below, probe)
        return above, real

    def apply(self, g: Array) -> None:
        """Replace accumulators ``g [B, C]`` by codes."""
        odd = self.exceptions
        kept = g[:, odd].astype(np.int64) if odd.size else None
        np.multiply(g, self.m, out=g)
        np.add(g, self.c, out=g)
        np.floor(g, out=g)
        np.maximum(g, self.low, out=g)
        np.minimum(g, self.high, out=g)
        if kept is not None:
            g[:, odd] = self._exact(kept, odd)
