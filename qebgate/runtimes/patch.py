"""Redirecting the output of a .tflite file to an inner tensor, by overwriting one integer.

A vector of outputs ``[y, ...]`` becomes ``[t, ...]``: same length, so nothing else in the file moves.  Only the
path root -> subgraphs[0] -> outputs is walked, every offset checked.
"""

from __future__ import annotations

import struct

from qebgate.errors import ModelError

_SUBGRAPHS, _TENSORS, _INPUTS, _OUTPUTS = 2, 0, 1, 2  # fields of Model and SubGraph in the schema


def redirect_output(model: bytes, tensor: int) -> bytes:
    """The same model returning tensor ``tensor`` as its first output; an output that it was stays one.

    Raises ModelError for a file that is not a well-formed model with outputs.
    """
    subgraph = _vector_table(model, _field(model, _u32(model, 0), _SUBGRAPHS), 0)
    outputs = _vector(model, _field(model, subgraph, _OUTPUTS))
    inputs = _vector(model, _field(model, subgraph, _INPUTS))
    tensors = _vector(model, _field(model, subgraph, _TENSORS))
    if outputs[1] < 1:
        raise ModelError("QEB413", "the model has no output")
    if not 0 <= tensor < tensors[1]:
        raise ModelError("QEB414", "the tensor to observe does not exist", found=f"{tensor} of {tensors[1]}")
    if outputs[0] == inputs[0]:
        raise _broken("inputs and outputs share one vector")
    at = outputs[0]
    given = list(struct.unpack_from(f"<{outputs[1]}i", model, at))
    if tensor in given:
        given[given.index(tensor)] = given[0]
    given[0] = tensor
    return model[:at] + struct.pack(f"<{len(given)}i", *given) + model[at + 4 * len(given) :]


def _broken(found: str) -> ModelError:
    return ModelError("QEB401", "the file is not a well-formed .tflite model", found=found)


def _u32(buf: bytes, at: int) -> int:
    if not 0 <= at <= len(buf) - 4:
        raise _broken(f"offset {at} outside of {len(buf)} bytes")
    return int.from_bytes(buf[at : at + 4], "little")


def _u16(buf: bytes, at: int) -> int:
    if not 0 <= at <= len(buf) - 2:
        raise _broken(f"offset {at} outside of {len(buf)} bytes")
    return int.from_bytes(buf[at : at + 2], "little")


def _field(buf: bytes, table: int, slot: int) -> int:
    """Position that an offset field of a table points to."""
    soffset = _u32(buf, table)
    vtable = table - (soffset - (1 << 32) if soffset >= 1 << 31 else soffset)
    if _u16(buf, vtable) < 4 + 2 * (slot + 1):
        raise _broken(f"field {slot} is missing")
    entry = _u16(buf, vtable + 4 + 2 * slot)
    if entry == 0:
        raise _broken(f"field {slot} is missing")
    return table + entry + _u32(buf, table + entry)


def _vector(buf: bytes, at: int) -> tuple[int, int]:
    """Position of the first element and number of elements of a vector of 4-byte entries."""
    n = _u32(buf, at)
    if at + 4 + 4 * n > len(buf):
        raise _broken(f"a vector of {n} entries at {at}")
    return at + 4, n


def _vector_table(buf: bytes, at: int, index: int) -> int:
    start, n = _vector(buf, at)
    if index >= n:
        raise _broken("the model has no subgraph")
    return start + 4 * index + _u32(buf, start + 4 * index)
