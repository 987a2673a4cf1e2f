"""Bounds-checked access to a flatbuffer, one field at a time.

Nothing is unpacked ahead of its use.  Offsets of subtables, vectors and strings are unsigned, hence
always lead forwards and cannot form cycles; many of them may lead to the *same* table though, so every
access is paid from a budget that is proportional to the size of the file.

The format: https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from qebgate.errors import ModelError

_FORMATS = {c: struct.Struct("<" + c) for c in "bBhHiIqQf"}
_TABLE_COST = 16


class FlatBuffer:
    """The bytes of one file and what may still be read of them.

    Raises ModelError QEB405 for every access outside of the bytes and QEB406 when the budget is spent.
    """

    __slots__ = ("budget", "data", "label")

    def __init__(self, data: bytes, label: str) -> None:
        self.data = data
        self.label = label
        self.budget = 3 * len(data) + 4096

    def damaged(self, what: str, where: str | None = None) -> NoReturn:
        """Raise the error for content that no writer of the format produces."""
        raise ModelError(
            "QEB405",
            "the file is damaged or not a TensorFlow Lite model",
            where=self.label if where is None else f"{self.label}: {where}",
            found=what,
            fix="copy or convert the model again",
        )

    def spend(self, cost: int) -> None:
        """Pay for work."""
        self.budget -= cost
        if self.budget < 0:
            raise ModelError(
                "QEB406",
                "the file refers to the same data too many times",
                where=self.label,
                fix="convert the model again",
            )

    def scalar(self, pos: int, fmt: str) -> Any:
        """One little-endian number; ``fmt`` is a format character of ``struct``."""
        s = _FORMATS[fmt]
        if pos < 0 or pos + s.size > len(self.data):
            self.damaged(f"an offset leads to byte {pos} of {len(self.data)}")
        return s.unpack_from(self.data, pos)[0]

    def follow(self, pos: int) -> int:
        """The absolute position that the offset stored at ``pos`` leads to."""
        offset: int = self.scalar(pos, "I")
        target = pos + offset
        if offset == 0 or target >= len(self.data):
            self.damaged(f"an offset leads to byte {target} of {len(self.data)}")
        return target

    def root(self) -> Table:
        return Table(self, self.follow(0))

    def span(self, pos: int, width: int) -> tuple[int, int]:
        """First byte and number of elements of the vector at ``pos``, whose elements have ``width`` bytes."""
        count: int = self.scalar(pos, "I")
        if count * width > len(self.data) - pos - 4:
            self.damaged(f"a list of {count} elements at byte {pos} of {len(self.data)}")
        return pos + 4, count


class Table:
    """One table; fields are looked up by their slot, the schema's order of declaration."""

    __slots__ = ("_end", "_fb", "_pos", "_vsize", "_vtable")

    def __init__(self, fb: FlatBuffer, pos: int) -> None:
        fb.spend(_TABLE_COST)
        vtable = pos - int(fb.scalar(pos, "i"))
        vsize = int(fb.scalar(vtable, "H"))
        size = int(fb.scalar(vtable + 2, "H"))
        if vsize < 4 or vsize % 2 or vtable + vsize > len(fb.data) or size < 4 or pos + size > len(fb.data):
            fb.damaged(f"a table at byte {pos} with a broken layout")
        self._fb, self._pos, self._vtable, self._vsize, self._end = fb, pos, vtable, vsize, size

    def _field(self, slot: int, width: int) -> int | None:
        """Absolute position of a field of ``width`` bytes; None where it is left out."""
        at = 4 + 2 * slot
        if at + 2 > self._vsize:
            return None
        offset = int(self._fb.scalar(self._vtable + at, "H"))
        if offset == 0:
            return None
        if offset < 4 or offset + width > self._end:
            self._fb.damaged(f"a field outside of its table at byte {self._pos}")
        return self._pos + offset

    def has(self, slot: int) -> bool:
        """Whether an offset field is present."""
        return self._field(slot, 4) is not None

    def integer(self, slot: int, fmt: str, default: int = 0) -> int:
        pos = self._field(slot, _FORMATS[fmt].size)
        return default if pos is None else int(self._fb.scalar(pos, fmt))

    def real(self, slot: int, default: float = 0.0) -> float:
        """A float32; ModelError where it is not finite."""
        pos = self._field(slot, 4)
        value = default if pos is None else float(self._fb.scalar(pos, "f"))
        if not math.isfinite(value):
            self._fb.damaged(f"the number {value} in a table at byte {self._pos}")
        return value

    def flag(self, slot: int, default: bool = False) -> bool:
        return self.integer(slot, "B", int(default)) != 0

    def table(self, slot: int) -> Table | None:
        pos = self._field(slot, 4)
        return None if pos is None else Table(self._fb, self._fb.follow(pos))

    def vector(self, slot: int, dtype: str) -> NDArray[Any] | None:
        """A read-only view of a vector of numbers (``dtype`` in numpy's notation); None where left out."""
        pos = self._field(slot, 4)
        if pos is None:
            return None
        kind = np.dtype(dtype)
        start, count = self._fb.span(self._fb.follow(pos), kind.itemsize)
        self._fb.spend(_TABLE_COST)
        return np.frombuffer(self._fb.data, kind, count, start)

    def integers(self, slot: int, dtype: str = "<i4") -> tuple[int, ...]:
        """A vector of integers as a tuple; empty where left out."""
        v = self.vector(slot, dtype)
        if v is None:
            return ()
        self._fb.spend(v.size)
        return tuple(int(x) for x in v)

    def text(self, slot: int) -> str | None:
        """A string; bytes that are not UTF-8 appear as escapes."""
        pos = self._field(slot, 4)
        if pos is None:
            return None
        start, count = self._fb.span(self._fb.follow(pos), 1)
        self._fb.spend(count)
        return self._fb.data[start : start + count].decode("utf-8", "backslashreplace")

    def count(self, slot: int) -> int:
        """Number of elements of a vector of tables."""
        pos = self._field(slot, 4)
        return 0 if pos is None else self._fb.span(self._fb.follow(pos), 4)[1]

    def tables(self, slot: int) -> Iterator[Table]:
        """The elements of a vector of tables."""
        pos = self._field(slot, 4)
        if pos is None:
            return
        start, count = self._fb.span(self._fb.follow(pos), 4)
        for k in range(count):
            yield Table(self._fb, self._fb.follow(start + 4 * k))


class TableOptions:
    """An operator's options (see ``qebgate.semantics.base.Options``); all defaults where left out."""

    __slots__ = ("_table",)

    def __init__(self, table: Table | None) -> None:
        self._table = table

    def int8(self, slot: int, default: int = 0) -> int:
        return default if self._table is None else self._table.integer(slot, "b", default)

    def int32(self, slot: int, default: int = 0) -> int:
        return default if self._table is None else self._table.integer(slot, "i", default)

    def float32(self, slot: int, default: float = 0.0) -> float:
        return default if self._table is None else self._table.real(slot, default)

    def bool(self, slot: int, default: bool = False) -> bool:
        return default if self._table is None else self._table.flag(slot, default)

    def integers(self, slot: int) -> tuple[int, ...]:
        """A vector of int32; empty where left out."""
        return () if self._table is None else self._table.integers(slot)
