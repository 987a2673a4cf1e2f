"""Protocol buffers as plain bytes: fields by number, every length checked.

Only what is asked for is looked at, so a file cannot make anything happen, and cannot claim more than it holds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from qebgate.errors import ModelError

Value = int | bytes
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Message:
    """A message's fields ``(number, value)``: integers, or bytes (fixed-width numbers are bytes too)."""

    fields: tuple[tuple[int, Value], ...]
    where: str

    @classmethod
    def parse(cls, data: bytes, where: str) -> Message:
        """Raises ModelError QEB493."""
        return cls(tuple(_fields(data, where)), where)

    def all(self, number: int) -> list[Value]:
        return [v for n, v in self.fields if n == number]

    def messages(self, number: int) -> list[Message]:
        return [Message.parse(b, self.where) for b in self.blobs(number)]

    def message(self, number: int) -> Message:
        """The last one; an empty one where there is none."""
        found = self.blobs(number)
        return Message.parse(found[-1], self.where) if found else Message((), self.where)

    def blobs(self, number: int) -> list[bytes]:
        found = self.all(number)
        return [v if isinstance(v, bytes) else damaged(self.where, f"field {number} is no bytes") for v in found]

    def blob(self, number: int) -> bytes:
        return (self.blobs(number) or [b""])[-1]

    def text(self, number: int) -> str:
        return self.blob(number).decode("utf-8", "backslashreplace")

    def texts(self, number: int) -> list[str]:
        return [b.decode("utf-8", "backslashreplace") for b in self.blobs(number)]

    def integer(self, number: int, default: int = 0) -> int:
        """A signed 64-bit integer."""
        found = self.all(number)
        if not found:
            return default
        v = found[-1]
        if not isinstance(v, int):
            damaged(self.where, f"field {number} is no integer")
        return v - (1 << 64) if v >= 1 << 63 else v

    def integers(self, number: int) -> list[int]:
        """A repeated integer, packed or not."""
        out: list[int] = []
        for v in self.all(number):
            out += [v] if isinstance(v, int) else _packed(v, self.where)
        return [v - (1 << 64) if v >= 1 << 63 else v for v in out]

    def floats(self, number: int) -> list[float]:
        """A repeated float32, packed or not."""
        data = b"".join(self.blobs(number))
        if len(data) % 4:
            damaged(self.where, f"field {number} is no list of floats")
        return list(struct.unpack(f"<{len(data) // 4}f", data))

    def mapping(self, number: int) -> dict[str, Message]:
        """A map from texts to messages."""
        return {m.text(1): m.message(2) for m in self.messages(number)}


def varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    """An integer, and where it ends."""
    out = 0
    for k in range(10):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        out |= (byte & 0x7F) << (7 * k)
        if byte < 0x80:
            return out & ((1 << 64) - 1), at
    return damaged(where, "an integer has no end")


def _packed(data: bytes, where: str) -> list[int]:
    out: list[int] = []
    at = 0
    while at < len(data):
        value, at = varint(data, at, where)
        out.append(value)
    return out


def _fields(data: bytes, where: str) -> Iterator[tuple[int, Value]]:
    at, size = 0, len(data)
    while at < size:
        key, at = varint(data, at, where)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = varint(data, at, where)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = varint(data, at, where)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            damaged(where, f"a field of type {kind}")
        if number == 0 or length > size - at:
            damaged(where, f"field {number} of {length} bytes, {size - at} are left")
        yield number, data[at : at + length]
        at += length


def damaged(where: str, found: str) -> NoReturn:
    """Raise ModelError QEB493."""
    raise ModelError("QEB493", "the SavedModel is damaged", where=where, found=found, fix="export the model again")
