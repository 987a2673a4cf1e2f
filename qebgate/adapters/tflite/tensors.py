"""Tensors of a .tflite file: shapes, types, quantization and constant data, all checked."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np

from qebgate.adapters.tflite.flatbuffer import FlatBuffer, Table
from qebgate.adapters.tflite.opcodes import type_name
from qebgate.errors import ModelError, UnsupportedError, printable
from qebgate.ir.tensor import Array, DType, QuantParams, Tensor

MAX_RANK = 8
MAX_ELEMENTS = 2**27
"""Elements of one tensor: far beyond what can be analysed, small enough to be allocated."""

_DTYPES = {d.name: d for d in DType if d not in (DType.UINT16, DType.FLOAT64)}
_CHUNK = 1 << 20

E = TypeVar("E", bound=ModelError)


def located(error: E, where: str) -> E:
    """The same error, saying where as precisely as either knows."""
    known = error.where or ""
    if where.startswith(known):
        error.where = where
    elif not known.startswith(where):
        error.where = f"{where}: {known}"
    return error


class Buffers:
    """The constant data of a model, as read-only views of the file's bytes."""

    def __init__(self, fb: FlatBuffer, model: Table) -> None:
        self._fb = fb
        self._tables = list(model.tables(4))
        self._checked: set[tuple[int, DType]] = set()
        if self._tables and self.bytes_of(0).size:
            fb.damaged("data in buffer 0, which must be empty")

    @property
    def label(self) -> str:
        """The file's name, safe to print."""
        return self._fb.label

    def bytes_of(self, index: int) -> Array:
        """The bytes of a buffer; empty for a tensor without data."""
        if not 0 <= index < len(self._tables):
            self._fb.damaged(f"buffer {index} of {len(self._tables)}")
        table = self._tables[index]
        if table.integer(1, "Q") > 1 or table.integer(2, "Q") > 1:
            raise UnsupportedError(
                "QEB415",
                "constants stored outside of the model's tables are not supported",
                where=f"{self._fb.label}: buffer {index}",
                fix="models of more than 2 GB are written like this; convert a smaller model",
            )
        data = table.vector(0, "u1")
        return np.zeros(0, np.uint8) if data is None else data

    def constant(self, index: int, dtype: DType, shape: tuple[int, ...], *, packed: bool = False) -> Array | None:
        """The data of a tensor as an array; None where it has none.  ``packed``: of 4 bits, the lower ones first."""
        raw = self.bytes_of(index)
        if raw.size == 0:
            return None
        if packed:
            return _unpacked(raw, shape)
        kind = dtype.numpy.newbyteorder("<")
        expected = math.prod(shape) * kind.itemsize
        if raw.size != expected:
            raise ModelError(
                "QEB409",
                "a constant's data does not have the size of its tensor",
                found=f"{raw.size} bytes, {expected} for {shape} {dtype.value}",
            )
        values = raw.view(kind).reshape(shape)
        if (index, dtype) not in self._checked:
            _check_values(values, dtype)
            self._checked.add((index, dtype))
        return values


def _unpacked(raw: Array, shape: tuple[int, ...]) -> Array:
    size = math.prod(shape)
    if raw.size != (size + 1) // 2:
        raise ModelError(
            "QEB409",
            "a constant's data does not have the size of its tensor",
            found=f"{raw.size} bytes, {(size + 1) // 2} for {shape} int4",
        )
    halves = np.stack([raw << 4, raw & 0xF0], axis=-1).view(np.int8) >> 4
    return halves.reshape(-1)[:size].reshape(shape)


def _check_values(values: Array, dtype: DType) -> None:
    """Refuse numbers that arithmetic cannot be relied on: NaN, infinities and subnormals.

    Runtimes flush subnormals to zero or not, depending on the processor's state.
    """
    flat = values.reshape(-1)
    if dtype is DType.BOOL:
        if (flat.view(np.uint8) > 1).any():
            raise ModelError("QEB417", "a boolean constant is neither 0 nor 1")
        return
    if dtype not in (DType.FLOAT32, DType.FLOAT16):
        return
    tiny = np.finfo(dtype.numpy).tiny
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        bad = ~np.isfinite(part)
        if bad.any():
            raise ModelError(
                "QEB417", "a constant is not finite", found=f"{part[bad][0]} at element {start + int(bad.argmax())}"
            )
        bad = (part != 0) & (np.abs(part) < tiny)
        if dtype is DType.FLOAT32 and bad.any():
            raise ModelError(
                "QEB418",
                "a constant is a subnormal number: whether it counts as zero depends on the processor",
                found=f"{part[bad][0]} at element {start + int(bad.argmax())}",
                fix="set such weights to zero before converting the model",
            )


def read_tensor(table: Table, index: int, buffers: Buffers, *, empty: bool = False) -> Tensor | UnsupportedError:
    """One tensor, or why it cannot be analysed; raises ModelError for what is wrong.

    It may be ``empty`` (of shape [0]) where only its scale counts.
    """
    name = table.text(3) or f"#{index}"
    where = f"tensor #{index} {printable(name, 80)}"
    try:
        return _read(table, name, buffers, empty=empty)
    except UnsupportedError as e:
        return located(e, where)
    except ModelError as e:
        raise located(e, f"{buffers.label}: {where}") from None


def _read(table: Table, name: str, buffers: Buffers, *, empty: bool) -> Tensor:
    code = type_name(table.integer(1, "b"))
    packed = code == "INT4" and bool(buffers.bytes_of(table.integer(2, "I")).size)
    if code not in _DTYPES and not packed:
        raise UnsupportedError("QEB414", f"tensors of type {code} are not supported", fix=_TYPE_HINTS.get(code))
    dtype = DType.INT8 if packed else _DTYPES[code]
    for slot, what in ((6, "sparse tensors"), (9, "variant tensors")):
        if table.has(slot):
            raise UnsupportedError("QEB415", f"{what} are not supported")
    if table.integer(10, "I"):
        raise UnsupportedError("QEB415", "constants stored in another file are not supported")
    shape = (0,) if empty and table.integers(0) == (0,) else _shape(table)
    const = buffers.constant(table.integer(2, "I"), dtype, shape, packed=packed)
    quant = _quantization(table, dtype, shape, is_const=const is not None)
    if not table.flag(5):
        return Tensor(name, shape, dtype, quant, const, packed=packed)
    if const is not None:
        raise UnsupportedError("QEB415", "variable tensors with a value of their own are not supported")
    # what the interpreter's reset leaves; a view of one number, however large the tensor claims to be
    start = quant.z if quant is not None and dtype is DType.INT8 else 0
    return Tensor(name, shape, dtype, quant, np.broadcast_to(np.array(start, dtype.numpy), shape), variable=True)


_TYPE_HINTS = {
    "INT4": "convert the model with int8 weights",
    "INT2": "convert the model with int8 weights",
}


def _shape(table: Table) -> tuple[int, ...]:
    raw, signature = table.vector(0, "<i4"), table.vector(7, "<i4")
    rank = 0 if raw is None else raw.size
    if rank > MAX_RANK:
        raise UnsupportedError("QEB416", f"tensors of more than {MAX_RANK} axes are not supported", found=str(rank))
    shape = table.integers(0)
    if signature is not None and signature.size:
        if signature.size != rank:
            raise ModelError(
                "QEB416", "a tensor's shape and shape signature differ", found=f"{rank} and {signature.size} axes"
            )
        dynamic = table.integers(7)
        free = [k for k in range(rank) if dynamic[k] < 0]
        if any(k > 0 for k in free):
            raise UnsupportedError(
                "QEB416",
                "a tensor's size is known only when the model runs; only the batch may vary",
                found=str(dynamic),
                fix="fix the model's input shape before converting it",
            )
        if any(dynamic[k] not in (shape[k], -1) for k in range(rank)):
            raise ModelError("QEB416", "a tensor's shape and shape signature differ", found=f"{shape} and {dynamic}")
    if any(d <= 0 for d in shape):
        raise UnsupportedError("QEB416", "a tensor has no elements or an unknown size", found=str(shape))
    if math.prod(shape) > MAX_ELEMENTS:
        raise UnsupportedError(
            "QEB416", "a tensor is too large", found=f"{shape}: {math.prod(shape)} elements, at most {MAX_ELEMENTS}"
        )
    return shape


def _quantization(table: Table, dtype: DType, shape: tuple[int, ...], *, is_const: bool) -> QuantParams | None:
    """The affine parameters of an integer tensor.  Float tensors may carry leftovers, which nothing reads."""
    q = table.table(4)
    if q is None or dtype in (DType.FLOAT32, DType.FLOAT16, DType.BOOL):
        return None
    if q.integer(4, "B"):
        raise UnsupportedError("QEB415", "custom or blockwise quantization is not supported")
    scale, zero = q.vector(2, "<f4"), q.vector(3, "<i8")
    if scale is None or scale.size == 0:
        return None
    if zero is None or zero.size not in (1, scale.size):
        found = f"{scale.size} scales and {0 if zero is None else zero.size} zero points"
        raise ModelError("QEB421", "scales and zero points do not fit together", found=found)
    axis = q.integer(6, "i")
    # One scale has no axis; but XNNPACK leaves activations that name one to other kernels: refused.
    fits = is_const and 0 <= axis < len(shape) and shape[axis] == scale.size
    if not fits and (scale.size > 1 or axis != 0):
        raise ModelError(
            "QEB424",
            "scales do not fit their tensor" if is_const else "an activation has per-channel scales",
            found=f"{scale.size} on axis {axis} of {shape}",
        )
    lo, hi = dtype.code_range
    with np.errstate(invalid="ignore"):  # signalling NaN; QuantParams refuses it
        scales = scale.astype(np.float64)
    return QuantParams(
        scales,
        np.broadcast_to(zero, scale.shape).astype(np.int64),
        None if scale.size == 1 else axis,
        lo,
        hi,
    )
