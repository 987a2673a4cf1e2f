"""A region instance: one set of inputs that one task asks about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qebgate.errors import DataError
from qebgate.ir.graph import Graph
from qebgate.ir.tensor import Array, DType, frozen
from qebgate.numerics.fixed_point import round_half_away
from qebgate.numerics.rounding import F64
from qebgate.regions.line import Line

NO_QUANTUM = 2.0**-8
"""Stands for the input's scale where it has none: searches look beside multiples of it."""
InputQuantization = Literal["nearest", "truncate"]


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A box of inputs, in real units of the model's input.

    ``lower``, ``upper`` [*input shape] are float32 numbers held in float64.  ``codes`` is the box of
    integer codes for ``domain: grid`` (``lower`` and ``upper`` are then the grid values of its corners)
    and None for ``domain: real``, which means *every float32 number* between the corners.
    ``index`` is the data row it came from.  Where there is a ``line``, the inputs are those of the line
    only, and the box around them serves whoever knows nothing but boxes: what holds in it holds on the
    line, but an input of the box need not be one of the line.
    """

    lower: F64
    upper: F64
    codes: tuple[NDArray[np.int32], NDArray[np.int32]] | None
    index: int
    centre: F64
    line: Line | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.lower).all() and np.isfinite(self.upper).all()):
            raise DataError("QEB451", "a region has a bound that is not finite", where=f"row {self.index}")
        if not (self.lower <= self.upper).all():
            raise DataError("QEB452", "a region is empty", where=f"row {self.index}")
        for a in (self.lower, self.upper, self.centre):
            frozen(a)
        if self.codes is not None:
            frozen(self.codes[0])
            frozen(self.codes[1])

    @property
    def is_point(self) -> bool:
        return bool((self.lower == self.upper).all())

    @property
    def count(self) -> int | None:
        """How many inputs a grid cell has (a Python integer, exact); None for a real one that is no point."""
        if self.codes is None:
            return 1 if self.is_point else None
        if self.line is not None:
            return self.line.count
        widths = (self.codes[1].astype(np.int64) - self.codes[0] + 1).ravel()
        total = 1
        for w in widths[widths > 1].tolist():
            total *= w
        return total


@dataclass(frozen=True, slots=True)
class InputCodec:
    """How real inputs become codes of the quantized model's first integer tensor.

    ``in_model`` says that the quantized model takes floats and quantizes them itself; otherwise the
    application does, by ``mode``.
    """

    scale: float
    zero_point: int
    dtype: DType
    in_model: bool
    mode: InputQuantization | None = None

    @classmethod
    def of(cls, quantized: Graph, mode: InputQuantization | None = None) -> InputCodec:
        """Read it off a quantized graph: its integer input, or the QUANTIZE behind a float input."""
        t = quantized.input
        if t.dtype.is_code:
            return cls(t.q.s, t.q.z, t.dtype, in_model=False, mode=mode)
        for n in quantized.consumers.get(quantized.inputs[0], []):
            out = quantized.tensors[n.outputs[0]]
            if n.op == "QUANTIZE" and out.dtype.is_code:
                return cls(out.q.s, out.q.z, out.dtype, in_model=True)
        if t.dtype is not DType.FLOAT32:
            raise DataError(
                "QEB453",
                "the quantized model's input is neither an integer nor a float32 number",
                where=quantized.source.label,
                found=t.dtype.value,
            )
        return cls(NO_QUANTUM, 0, DType.FLOAT32, in_model=True)

    @property
    def has_grid(self) -> bool:
        """Whether the model's input is, or becomes at once, integer codes."""
        return self.dtype.is_code

    def grid(self, codes: Array) -> NDArray[np.float32]:
        """The float32 inputs that codes stand for: ``float32((q - z) * s)``."""
        return ((codes.astype(np.float64) - self.zero_point) * self.scale).astype(np.float32)

    def encode(self, x: Array) -> NDArray[np.int32]:
        """Codes of real inputs as the application makes them (nearest: ties to even; clipped)."""
        y = x.astype(np.float32) / np.float32(self.scale) + np.float32(self.zero_point)
        q = np.trunc(y) if self.mode == "truncate" else np.rint(y)
        lo, hi = self.dtype.code_range
        return q.clip(lo, hi).astype(np.int32)

    def encode_half_away(self, x: Array) -> NDArray[np.int32]:
        """Codes with ties away from zero, as numpy-free applications round."""
        y = x.astype(np.float32) / np.float32(self.scale)
        lo, hi = self.dtype.code_range
        return (round_half_away(y.astype(np.float64)) + self.zero_point).clip(lo, hi).astype(np.int32)
