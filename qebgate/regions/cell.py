"""A region instance: one set of inputs that one task asks about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from qebgate.errors import DataError
from qebgate.ir.graph import Graph, InputPart
from qebgate.ir.tensor import Array, DType, Tensor, frozen
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
        if not quantized.parts:
            return cls._of(quantized, quantized.inputs[0], quantized.input, mode)
        each = [cls._of(quantized, p.tensor, quantized.tensors[p.tensor], mode) for p in quantized.parts]
        return JoinedCodec.join(quantized.parts, each)

    @classmethod
    def _of(cls, quantized: Graph, index: int, t: Tensor, mode: InputQuantization | None) -> InputCodec:
        if t.dtype.is_code:
            return cls(t.q.s, t.q.z, t.dtype, in_model=False, mode=mode)
        for n in quantized.consumers.get(index, []):
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
        y = x.astype(np.float32) / np.asarray(self.scale, np.float32) + np.asarray(self.zero_point, np.float32)
        q = np.trunc(y) if self.mode == "truncate" else np.rint(y)
        return q.clip(*self.limits).astype(np.int32)

    def encode_half_away(self, x: Array) -> NDArray[np.int32]:
        """Codes with ties away from zero, as numpy-free applications round."""
        y = x.astype(np.float32) / np.asarray(self.scale, np.float32)
        return (round_half_away(y.astype(np.float64)) + self.zero_point).clip(*self.limits).astype(np.int32)

    @property
    def limits(self) -> tuple[Array | int, Array | int]:
        """Smallest and largest code."""
        return self.dtype.code_range

    def only(self, index: NDArray[np.intp]) -> InputCodec:
        """The codec of some entries of the flattened input."""
        del index
        return self

    def unit(self, index: NDArray[np.intp] | int) -> F64:
        """The quantum of an entry of the flattened input, or of several."""
        return np.full(np.shape(index), self.scale)


@dataclass(frozen=True, slots=True)
class JoinedCodec(InputCodec):
    """Of several inputs joined into one: ``scale`` and ``zero_point`` are arrays, one entry an element.

    So they fit whole inputs ``[..., n]`` only; :meth:`InputCodec.only` gives those of some entries.  What needs one
    scale goes through ``parts``, the inputs one by one.
    """

    parts: tuple[InputPart, ...] = ()
    each: tuple[InputCodec, ...] = ()
    least: Array = field(default_factory=lambda: np.zeros(0))
    most: Array = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def join(cls, parts: Sequence[InputPart], each: Sequence[InputCodec]) -> JoinedCodec:
        """The codec of inputs one after another, all given as floats or all as codes."""
        sizes = [p.size for p in parts]
        on_grid = all(c.has_grid for c in each)
        kinds = {c.dtype for c in each}
        scale, zero, least, most = (
            np.repeat(np.array(v), sizes)
            for v in (
                [c.scale for c in each],
                [c.zero_point for c in each],
                *([c.dtype.code_range[k] if on_grid else 0 for c in each] for k in (0, 1)),
            )
        )
        dtype = DType.FLOAT32 if not on_grid else each[0].dtype if len(kinds) == 1 else DType.INT16
        for a in (scale, zero, least, most):
            frozen(a)
        return cls(
            cast("float", scale),
            cast("int", zero),
            dtype,
            each[0].in_model,
            each[0].mode,
            tuple(parts),
            tuple(each),
            least,
            most,
        )

    @property
    def limits(self) -> tuple[Array, Array]:
        return self.least, self.most

    def only(self, index: NDArray[np.intp]) -> JoinedCodec:
        scale, zero = np.asarray(self.scale)[index], np.asarray(self.zero_point)[index]
        return replace(
            self, scale=cast("float", scale), zero_point=cast("int", zero), least=self.least[index],
            most=self.most[index], parts=(), each=(),
        )  # fmt: skip

    def unit(self, index: NDArray[np.intp] | int) -> F64:
        return np.asarray(self.scale)[index]
