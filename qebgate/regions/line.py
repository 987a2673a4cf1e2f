"""Segments: inputs along a line ``clip(start + t * direction)``, and the codes that they become.

The points of a segment are real numbers.  Their codes are those of exact division by the quantized
input's scale, and change where an entry meets the middle between two codes (truncation: an integer).
There an entry is between two codes, and both count; entries that meet their middles at the same ``t``
change at once.

Switches of several entries within ``TOGETHER`` quanta (of the fastest entry) count as one: applications
evaluate a line in float32 and order such switches in ways of their own, and the few inputs in between,
where some entries have changed and others have not, are no part of the region.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qebgate.errors import PolicyError
from qebgate.ir.tensor import frozen
from qebgate.numerics.rounding import F64

if TYPE_CHECKING:
    from qebgate.regions.cell import InputCodec

Codes = NDArray[np.int32]
Index = NDArray[np.int64]

TOGETHER = 2.0**-12
"""Switches this close, in quanta of the fastest entry, are one on real-valued segments."""
EXACT = 2.0**-48
"""The same, relative to ``t``, on the grid: more than the rounding of the times."""
MIDDLE = 2.0**-13
"""An entry that stays this close (in quanta) to the middle of two codes may become either."""
MAX_SWITCHES = 1 << 23
_TIME = 2.0**-50
"""Relative error of computed times: a difference, a quotient and a product."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some code vectors ``[P, n]`` in order, and when each occurs: ``begin[p] <= t <= end[p]``."""

    codes: Codes
    begin: F64
    end: F64


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """The code vectors along a line: ``first`` [n], then a group of switches between each and the next.

    Switch i adds ``step[i]`` (1 or -1) to the code of the flattened entry ``entry[i]``; group g holds
    switches ``group[g]`` to ``group[g + 1]`` and takes place between ``begin[g]`` and ``end[g]``.
    ``kept`` leaves out vectors that another track has too (None: none is left out).
    """

    first: Codes
    entry: Codes
    step: NDArray[np.int8]
    group: Index
    begin: F64
    end: F64
    range: tuple[float, float]
    kept: NDArray[np.bool_] | None = None

    @property
    def vectors(self) -> int:
        """How many code vectors, those left out included."""
        return self.begin.size + 1

    @property
    def count(self) -> int:
        return self.vectors if self.kept is None else int(self.kept.sum())

    @property
    def box(self) -> tuple[Codes, Codes]:
        """Smallest and largest code of each entry (each moves one way only)."""
        last = self.first.astype(np.int64)
        np.add.at(last, self.entry, self.step)
        return np.minimum(self.first, last).astype(np.int32), np.maximum(self.first, last).astype(np.int32)

    def parts(self, size: int) -> Iterator[Part]:
        """All vectors, at most ``size`` at a time."""
        wanted = np.arange(self.vectors) if self.kept is None else np.flatnonzero(self.kept)
        return self._parts(wanted, size, settled=False)

    def some(self, most: int, size: int) -> Iterator[Part]:
        """At most so many vectors, evenly spread; each only while it is not about to change."""
        wanted = np.arange(self.vectors) if self.kept is None else np.flatnonzero(self.kept)
        return self._parts(wanted[:: -(-wanted.size // most)], size, settled=True)

    def _parts(self, wanted: Index, size: int, *, settled: bool) -> Iterator[Part]:
        """Vectors by number, in order; ``settled``: from the end of one switch to the beginning of the next."""
        codes, at = self.first.copy(), 0
        a, b = self.range
        before, after = (self.end, self.begin) if settled else (self.begin, self.end)
        begin, end = np.concatenate([[a], before]).clip(a, b), np.concatenate([after, [b]]).clip(a, b)
        for i in range(0, wanted.size, size):
            here = wanted[i : i + size]
            rows = np.empty((here.size, codes.size), np.int32)
            for k, p in enumerate(here.tolist()):
                s = slice(self.group[at], self.group[p])
                np.add.at(codes, self.entry[s], self.step[s])
                rows[k], at = codes, p
            yield Part(rows, begin[here], end[here])


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A line of inputs: ``clip(start + t * direction, low, high)`` for real ``range[0] <= t <= range[1]``.

    Arrays ``[*input shape]`` in real units of the model's input.  On the grid the region is the finite
    list of code vectors of ``tracks``; else it is the real points, and ``tracks`` say which codes each
    point becomes (several tracks: entries that may become either of two codes all along).
    """

    start: F64
    direction: F64
    low: F64
    high: F64
    range: tuple[float, float]
    grid: bool
    tracks: tuple[Track, ...]

    def __post_init__(self) -> None:
        for a in (self.start, self.direction, self.low, self.high):
            frozen(a)

    @property
    def count(self) -> int:
        """How many code vectors there are; on the grid, how many inputs."""
        return sum(t.count for t in self.tracks)

    @property
    def box(self) -> tuple[Codes, Codes]:
        """The bounding box of the codes, ``[*shape]``."""
        boxes = [t.box for t in self.tracks]
        shape = self.start.shape
        lo = np.minimum.reduce([b[0] for b in boxes]).reshape(shape)
        return lo, np.maximum.reduce([b[1] for b in boxes]).reshape(shape)

    def at(self, t: F64) -> F64:
        """Points ``[B, *shape]`` at ``t`` [B], rounded to float64."""
        across = t.reshape(-1, *[1] * self.start.ndim)
        return np.clip(self.start + across * self.direction, self.low, self.high)

    def some(self, codec: InputCodec, most: int) -> NDArray[np.int32] | NDArray[np.float32]:
        """About so many inputs ``[B, n]`` of the segment: codes on the grid, else float32 numbers.

        Real points are rounded to float32, and taken where that leaves their codes as they are.
        """
        share = max(1, most // len(self.tracks))
        if self.grid:
            return np.concatenate([p.codes for t in self.tracks for p in t.some(share, 1024)])
        found: list[NDArray[np.float32]] = []
        for part in (p for t in self.tracks for p in t.some(max(1, share // 3), 64)):
            for where in (0.01, 0.5, 0.99):
                t = part.begin + where * (part.end - part.begin)
                x = self.at(t).astype(np.float32)
                keep = (codec.encode(x).reshape(part.codes.shape) == part.codes).all(axis=1) & (part.end >= part.begin)
                found.append(x.reshape(part.codes.shape)[keep])
        return np.concatenate(found)

    def quantum(self, scale: float) -> float:
        """How far ``t`` moves the fastest entry by one quantum; infinite where nothing moves."""
        return quantum(self.direction, scale)


def quantum(direction: F64, scale: float) -> float:
    """How far ``t`` moves the fastest entry by one quantum; infinite where nothing moves."""
    fastest = float(np.abs(direction).max(initial=0.0))
    with np.errstate(over="ignore"):
        return float(np.float64(scale) / fastest) if fastest > 0 else float("inf")


def middles(codec: InputCodec) -> F64:
    """Where the code changes from k to the next one, for all k but the last: exact in float64."""
    lo, hi = codec.dtype.code_range
    k = np.arange(lo, hi)
    truncates = codec.mode == "truncate" and not codec.in_model
    at = np.where(k >= 0, k + 1.0, k) if truncates else k + 0.5
    return (at - codec.zero_point) * codec.scale


def real_tracks(
    start: F64, direction: F64, low: F64, high: F64, span: tuple[float, float], codec: InputCodec
) -> tuple[Track, ...]:
    """Codes along a line of real inputs (flattened arrays in real units)."""
    table, base = middles(codec), codec.dtype.code_range[0]
    together = TOGETHER * min(quantum(direction, codec.scale), abs(span[1] - span[0]) + 1.0)
    # entries that stay at a value: they do not move, or the clip holds them
    ends = np.stack([np.clip(start + t * direction, low, high) for t in span])
    still = (direction == 0) | (ends <= low) | (ends >= high)
    slack = MIDDLE * codec.scale
    if not (still & _near(table, ends, slack)).any():
        return (_track(start, direction, low, high, span, table, base, together),)
    moved = [(np.where(direction == 0, start + s, start), low + s, high + s) for s in (-slack, slack)]
    return tuple(_track(x, direction, a, b, span, table, base, together) for x, a, b in moved)


def grid_tracks(
    starts: list[Codes], rate: F64, least: F64, most: F64, span: tuple[float, float], codec: InputCodec
) -> tuple[Track, ...]:
    """Codes along lines of codes: ``clip(start + t * rate)`` rounded, each vector once (flattened arrays)."""
    base, last = codec.dtype.code_range
    table = np.arange(base, last) + 0.5
    together = EXACT * max(abs(span[0]), abs(span[1]))
    tracks = [_track(s.astype(np.float64), rate, least, most, span, table, base, together) for s in starts]
    return _distinct(tracks) if len(tracks) > 1 else tuple(tracks)


def _near(table: F64, x: F64, slack: float) -> NDArray[np.bool_]:
    place = np.searchsorted(table, x)
    below, above = table[np.maximum(place - 1, 0)], table[np.minimum(place, table.size - 1)]
    return np.minimum(np.abs(x - below), np.abs(above - x)) <= slack


def _track(
    start: F64,
    direction: F64,
    low: F64,
    high: F64,
    span: tuple[float, float],
    table: F64,
    base: int,
    together: float,
) -> Track:
    """Sort the switches of all entries; those within ``together`` of a group's first belong to it."""
    a, b = span[0] - together, span[1] + together
    # a switch at either end counts, also where rounding hides it
    rising = direction > 0
    with np.errstate(over="ignore"):
        slack = np.where(rising, _TIME, -_TIME) * (np.abs(start) + max(abs(a), abs(b)) * np.abs(direction))
        x = np.clip(start + a * direction - slack, low, high)
        y = np.clip(start + b * direction + slack, low, high)
    from_, to = np.searchsorted(table, np.minimum(x, y), "left"), np.searchsorted(table, np.maximum(x, y), "right")
    still = direction == 0
    # an entry that does not move: between two codes it is the next one (see the tracks of entries that stay)
    to = np.where(still, from_, to)
    number = to - from_
    total = int(number.sum())
    if total > MAX_SWITCHES:
        raise PolicyError(
            "QEB251",
            "a segment changes too many codes",
            found=f"{total} changes; at most {MAX_SWITCHES}",
            fix="make its `range` smaller",
        )
    first = base + np.where(rising | still, from_, to)
    entry = np.repeat(np.arange(start.size), number)
    k = np.arange(total) - np.repeat(np.cumsum(number) - number, number) + np.repeat(from_, number)
    time = (table[k] - start[entry]) / direction[entry]
    order = np.argsort(time, kind="stable")
    time, entry = time[order], entry[order]
    step = np.where(rising, 1, -1).astype(np.int8)[entry]
    group = _groups(time, together)
    error = _TIME * np.abs(time)
    begin = np.minimum.reduceat(time - error, group[:-1]) if total else np.empty(0)
    end = np.maximum.reduceat(time + error, group[:-1]) if total else np.empty(0)
    return Track(first.astype(np.int32), entry.astype(np.int32), step, group, begin, end, span)


def _groups(time: F64, together: float) -> Index:
    """Where groups of sorted times begin, and their total number at the end."""
    starts: list[int] = []
    i = 0
    if time.size and together > 0:
        # runs of equal times are found at once; the loop runs over groups
        while i < time.size:
            starts.append(i)
            i = int(np.searchsorted(time, time[i] + together, "right"))
    elif time.size:
        starts = [0, *(np.flatnonzero(np.diff(time) > 0) + 1).tolist()]
    return np.asarray([*starts, time.size], np.int64)


def _distinct(tracks: list[Track]) -> tuple[Track, ...]:
    """The same tracks, vectors that an earlier one has left out."""
    seen: set[bytes] = set()
    out: list[Track] = []
    if sum(t.vectors for t in tracks) > 1 << 16:
        raise PolicyError(
            "QEB251",
            "a segment changes too many codes",
            found="a data row lies between two codes, and there are many code vectors to compare",
            fix="make its `range` smaller, or quantize the data",
        )
    for t in tracks:
        kept = np.zeros(t.vectors, np.bool_)
        at = 0
        for part in t.parts(256):
            for row in part.codes:
                key = row.tobytes()
                kept[at] = key not in seen
                seen.add(key)
                at += 1
        out.append(Track(t.first, t.entry, t.step, t.group, t.begin, t.end, t.range, kept))
    return tuple(t for t in out if t.count)
