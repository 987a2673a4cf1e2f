"""The variables of a SavedModel: a sorted table of names, and the bytes of the arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qebgate.adapters.files import read_file
from qebgate.adapters.saved_model.wire import Message, damaged, varint
from qebgate.errors import ModelError, printable
from qebgate.ir.tensor import Array

MAX_INDEX = 16 << 20
MAX_DATA = 512 << 20
MAX_ENTRIES = 100_000
_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
DTYPES = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    19: np.dtype("<f2"),
}
"""TensorFlow's numbers of the types that are read."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Entries by name; arrays are taken out of ``shards`` when they are asked for."""

    entries: dict[str, Message]
    shards: tuple[bytes, ...]
    index: bytes
    where: str

    def array(self, key: str) -> Array:
        """Raises ModelError QEB493 where there is no such array, or not all of it."""
        entry = self.entries.get(key)
        if entry is None:
            damaged(self.where, f"no variable {printable(key, 80)}")
        dtype = DTYPES.get(entry.integer(1))
        shape = shape_of(entry.message(2), self.where)
        shard, offset, size = entry.integer(3), entry.integer(4), entry.integer(5)
        fits = dtype is not None and entry.all(7) == [] and 0 <= shard < len(self.shards)
        if dtype is None or not fits or not 0 <= offset <= len(self.shards[shard]) - size:
            damaged(self.where, f"variable {printable(key, 80)} is not where the index says")
        if size != math.prod(shape) * dtype.itemsize:
            damaged(self.where, f"variable {printable(key, 80)} of shape {shape} has {size} bytes")
        return np.frombuffer(self.shards[shard][offset : offset + size], dtype).reshape(shape)


def read_checkpoint(folder: Path) -> Checkpoint:
    """``variables.index`` and its data files; raises ModelError."""
    path = folder / "variables.index"
    where = printable(path)
    data = read_file(path, MAX_INDEX, ModelError)
    entries = dict(_table(data, where))
    header = Message.parse(entries.pop(b"", b""), where)
    count = header.integer(1, 1)
    if not 1 <= count <= 64 or header.integer(2) != 0:
        damaged(where, f"{count} data files, or big-endian")
    names = [f"variables.data-{k:05d}-of-{count:05d}" for k in range(count)]
    shards = tuple(read_file(folder / n, MAX_DATA, ModelError) for n in names)
    parsed = {k.decode("utf-8", "backslashreplace"): Message.parse(v, where) for k, v in entries.items()}
    return Checkpoint(parsed, shards, data, where)


def shape_of(message: Message, where: str) -> tuple[int, ...]:
    """A TensorShapeProto without unknown dimensions."""
    dims = [d.integer(1) for d in message.messages(2)]
    if len(dims) > 8 or any(not 0 <= d < 1 << 31 for d in dims) or message.integer(3):
        damaged(where, f"a shape {dims[:10]}")
    return tuple(dims)


def _table(data: bytes, where: str) -> list[tuple[bytes, bytes]]:
    if len(data) < _FOOTER or int.from_bytes(data[-8:], "little") != _MAGIC:
        damaged(where, "no table of variables")
    footer = data[-_FOOTER:]
    _, at = varint(footer, 0, where)
    _, at = varint(footer, at, where)
    out: list[tuple[bytes, bytes]] = []
    for _, handle in _block(data, *_handle(footer, at, where), where):
        out += _block(data, *_handle(handle, 0, where), where)
        if len(out) > MAX_ENTRIES:
            damaged(where, f"more than {MAX_ENTRIES} variables")
    return out


def _handle(data: bytes, at: int, where: str) -> tuple[int, int]:
    offset, at = varint(data, at, where)
    size, _ = varint(data, at, where)
    return offset, size


def _block(data: bytes, offset: int, size: int, where: str) -> list[tuple[bytes, bytes]]:
    """Keys and values; keys share beginnings with the ones before them."""
    if offset + size + 5 > len(data) or size < 4 or data[offset + size] != 0:
        damaged(where, "a block is not in the file, or is compressed")
    block = data[offset : offset + size]
    restarts = int.from_bytes(block[-4:], "little")
    end = size - 4 - 4 * restarts
    at, key = 0, b""
    out: list[tuple[bytes, bytes]] = []
    while at < end:
        shared, at = varint(block, at, where)
        fresh, at = varint(block, at, where)
        length, at = varint(block, at, where)
        if shared > len(key) or at + fresh + length > end:
            damaged(where, "a block's entries do not fit it")
        key = key[:shared] + block[at : at + fresh]
        out.append((key, block[at + fresh : at + fresh + length]))
        at += fresh + length
    return out
