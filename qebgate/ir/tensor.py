"""Tensors of a graph: shape, type, quantization, constant data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qebgate.errors import ModelError, printable
from qebgate.numerics.rounding import F64, TINY32

Array = NDArray[Any]


class DType(str, Enum):
    """Element types that qebgate reads; the value is numpy's name."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    UINT8 = "uint8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    BOOL = "bool"
    UINT16 = "uint16"
    """Only in models that are quantized on the fly."""
    FLOAT64 = "float64"
    """Exact accumulators of models that are quantized on the fly."""

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.value)

    @property
    def is_code(self) -> bool:
        """Whether activations of this type are integer codes."""
        return self in (DType.INT8, DType.UINT8, DType.INT16, DType.UINT16)

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code."""
        info = np.iinfo(self.numpy)
        return int(info.min), int(info.max)


def frozen(a: Array) -> Array:
    """The array itself, made read-only."""
    a.flags.writeable = False
    return a


@dataclass(frozen=True, slots=True, eq=False)
class QuantParams:
    """Affine quantization ``real = (code - zero_point) * scale``.

    ``scale`` [1] or [C] float64 holding exact float32 values; ``zero_point`` int64 of the same shape;
    ``axis`` is None for one scale per tensor.  Raises ModelError for a scale that is not positive and
    finite or is subnormal in float32, and for a zero point outside ``[qmin, qmax]``.
    """

    scale: F64
    zero_point: NDArray[np.int64]
    axis: int | None
    qmin: int
    qmax: int

    def __post_init__(self) -> None:
        s, z = self.scale, self.zero_point
        if s.ndim != 1 or s.size == 0 or s.shape != z.shape:
            raise ModelError("QEB421", "scales and zero points do not fit together", found=f"{s.shape} and {z.shape}")
        bad = ~(np.isfinite(s) & (s >= TINY32))
        if bad.any():
            raise ModelError(
                "QEB422",
                "a scale is not a positive, finite, normal float32 number",
                found=f"{float(s[bad][0])!r} ({int(bad.sum())} of {s.size})",
                fix="convert the model again: its calibration data gave this tensor no range",
            )
        out = (z < self.qmin) | (z > self.qmax)
        if out.any():
            raise ModelError(
                "QEB423",
                "a zero point is outside the range of its codes",
                found=f"{int(z[out][0])} not in [{self.qmin}, {self.qmax}]",
            )
        frozen(s)
        frozen(z)

    @property
    def per_channel(self) -> bool:
        return self.axis is not None

    @property
    def s(self) -> float:
        """The one scale of a per-tensor quantization."""
        return float(self.scale[0])

    @property
    def z(self) -> int:
        """The one zero point of a per-tensor quantization."""
        return int(self.zero_point[0])

    def along(self, ndim: int) -> tuple[F64, NDArray[np.int64]]:
        """Scale and zero point shaped so that they broadcast against a tensor of ``ndim`` axes."""
        if self.axis is None:
            return self.scale.reshape((1,) * ndim), self.zero_point.reshape((1,) * ndim)
        shape = [1] * ndim
        shape[self.axis] = self.scale.size
        return self.scale.reshape(shape), self.zero_point.reshape(shape)

    def dequantize(self, codes: Array) -> F64:
        """Exact real values of 8 and 16 bit codes (24 + 16 bits fit in a float64)."""
        s, z = self.along(codes.ndim)
        return (codes.astype(np.float64) - z) * s


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """How the file holds a float32 constant that the runtime makes of it first: float16, or integer codes."""

    dtype: DType
    quant: QuantParams | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One tensor; ``shape`` includes the batch axis of 1, ``const`` is its data when it has any.

    ``stored`` says how the file holds a constant that is dequantized before use.  ``variable`` is state that the
    runtime keeps between calls: every one here is the first, so it is the constant that a reset leaves.
    ``packed``: integers of 4 bits, two to a byte in the file, which not every kernel takes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    quant: QuantParams | None = None
    const: Array | None = None
    stored: Stored | None = None
    variable: bool = False
    packed: bool = False

    def __post_init__(self) -> None:
        if self.const is not None:
            if self.const.shape != self.shape:
                raise ModelError("QEB420", "a constant does not have its tensor's shape", where=printable(self.name))
            frozen(self.const)
        q = self.quant
        if q is None or q.axis is None:
            return
        if not 0 <= q.axis < len(self.shape) or q.scale.size != self.shape[q.axis]:
            raise ModelError(
                "QEB424",
                "per-channel scales do not fit the tensor's shape",
                where=f"tensor {printable(self.name)}",
                found=f"{q.scale.size} scales on axis {q.axis} of {self.shape}",
            )

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def is_const(self) -> bool:
        return self.const is not None

    @property
    def label(self) -> str:
        """The name, safe to print."""
        return printable(self.name, 80)

    @property
    def q(self) -> QuantParams:
        """The quantization of a tensor that must have one; ModelError where it has none."""
        if self.quant is None:
            raise ModelError("QEB425", "a tensor of integer codes has no scale", where=f"tensor {self.label}")
        return self.quant
