"""Values of the float network along a line: known at breakpoints, straight in between, up to an error.

With breakpoints ``t_0 <= ... <= t_{B-1}`` the *form* of an entry on the piece between two of them is the
straight line between its values there, in a parameter of the piece that runs from 0 to 1; the exact value
differs from the form by at most the error of the piece's *block* (some neighbouring pieces share a row
of errors, which costs less than one each).  Soundness does not depend on where the breakpoints are: a
function that is not straight on a piece has the difference charged to its error.

Letters: B breakpoints, G blocks, n entries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Interval
from qebgate.numerics.rounding import F64, TINY64, U64

Index = NDArray[np.intp]

BLOCK = 32
"""Pieces of a new block; it is divided once it has twice as many."""
_INSERTION = 4 * U64
"""Relative error of a value between two: three roundings of a convex combination."""
_LOCATED = 2.0**-48
"""Breakpoints of one piece this close (as a part of it) are one."""


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """A tensor along the line: ``at [B, n]``, ``error [G, n]``, and ``most [G, n] >= |at|`` in each block.

    ``images``: bounds of the exact values at breakpoints ``[B, n]``, and on pieces ``[B - 1, n]``, where
    something better is known than forms and errors; lost when pieces are divided.
    """

    at: F64
    error: F64
    most: F64
    images: tuple[Interval, Interval] | None = None

    def take(self, points: slice, blocks: slice) -> Values:
        return Values(self.at[points], self.error[blocks], self.most[blocks])


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Breakpoints ``t [B]``, the first breakpoint of each block ``first [G]``, and the tensors in use.

    Block g ends where the next one begins (they share that breakpoint).  ``points``: the breakpoints are
    inputs of their own, with nothing in between; then blocks share no breakpoint.
    """

    t: F64
    first: Index
    values: dict[int, Values]
    points: bool

    @property
    def pieces(self) -> int:
        return len(self.t) - 1

    @property
    def owner(self) -> Index:
        """The block of each piece (of each breakpoint, where they are points)."""
        n = len(self.t) if self.points else self.pieces
        return np.repeat(np.arange(self.first.size), np.diff(np.append(self.first, n)))

    def block(self, g: int) -> slice:
        """The breakpoints of a block."""
        last = len(self.t) if g + 1 == self.first.size else int(self.first[g + 1]) + (not self.points)
        return slice(int(self.first[g]), last)

    def extremes(self, z: F64) -> tuple[F64, F64]:
        """Least and largest value ``[G, n]`` of each block."""
        lo, hi = np.empty((self.first.size, z.shape[1])), np.empty((self.first.size, z.shape[1]))
        for g in range(self.first.size):
            rows = z[self.block(g)]
            rows.min(axis=0, out=lo[g])
            rows.max(axis=0, out=hi[g])
        return lo, hi

    def halves(self) -> tuple[State, State]:
        """The part before a breakpoint in the middle, and the part from there on."""
        if self.first.size == 1:
            return self._divided().halves()
        g = self.first.size // 2
        cut = int(self.first[g])
        left, right = slice(0, cut + (not self.points)), slice(cut, None)
        return (
            State(self.t[left], self.first[:g], self._each(left, slice(0, g)), self.points),
            State(self.t[right], self.first[g:] - cut, self._each(right, slice(g, None)), self.points),
        )

    def _each(self, points: slice, blocks: slice) -> dict[int, Values]:
        return {k: v.take(points, blocks) for k, v in self.values.items()}

    def _divided(self) -> State:
        """The only block as two."""
        first = np.array([0, max(1, len(self.t) // 2)])
        return replace(self, first=first, values={k: _regrouped(v, np.zeros(2, int)) for k, v in self.values.items()})

    def refined(self, piece: Index, part: F64) -> State:
        """With new breakpoints inside pieces, at ``part`` of their length; sorted by piece, then by part."""
        before = np.searchsorted(piece, np.arange(len(self.t)), "left")
        old = np.arange(len(self.t)) + before
        new = piece + 1 + np.arange(piece.size)
        t = np.empty(len(self.t) + piece.size)
        t[old] = self.t
        a, b = self.t[piece], self.t[piece + 1]
        t[new] = np.clip(a + part * (b - a), a, b)
        first, source = _blocks(old[self.first], t.size)
        values: dict[int, Values] = {}
        for k, v in self.values.items():
            at = np.empty((t.size, v.at.shape[1]))
            at[old] = v.at
            at[new] = (1.0 - part[:, None]) * v.at[piece] + part[:, None] * v.at[piece + 1]
            error = (v.error + _INSERTION * v.most + TINY64) * (1 + 4 * U64)
            most = v.most * (1 + 8 * U64)
            values[k] = _regrouped(Values(at, error, most), source)
        return State(t, first, values, False)


def _regrouped(v: Values, source: Index) -> Values:
    return v if np.array_equal(source, np.arange(len(v.error))) else Values(v.at, v.error[source], v.most[source])


def _blocks(first: Index, size: int) -> tuple[Index, Index]:
    """Blocks, those divided that have become large; and which block each comes from."""
    length = np.diff(np.append(first, size - 1))
    number = np.maximum(1, length // (2 * BLOCK))
    source = np.repeat(np.arange(first.size), number)
    rank = np.arange(source.size) - np.repeat(np.cumsum(number) - number, number)
    return first[source] + rank * (length // number)[source], source


def started(t: F64, values: dict[int, F64], errors: dict[int, F64], points: bool) -> State:
    """Breakpoints with the values ``[B, n]`` there, and their errors ``[B, n]``."""
    first = np.arange(0, max(1, len(t) - (not points)), 1 if points else BLOCK)
    state = State(t, first, {}, points)
    for k, v in values.items():
        lo, hi = state.extremes(v)
        state.values[k] = Values(v, state.extremes(errors[k])[1], np.maximum(np.abs(lo), np.abs(hi)))
    return state


def crossings(z: Values, level: F64, columns: Index) -> tuple[Index, Index, F64]:
    """Where forms of some entries change sides of their level ``[n]``: pieces, entries, and what that is worth.

    The worth is the distance of the clamped form from its chord, at most.
    """
    side = z.at[:, columns] > level[columns]
    piece, column = np.nonzero(side[1:] != side[:-1])
    entry = columns[column]
    a, b = np.abs(z.at[piece, entry] - level[entry]), np.abs(z.at[piece + 1, entry] - level[entry])
    total = a + b
    with np.errstate(invalid="ignore", divide="ignore"):
        worth = np.where(total > 0, a * (b / total), 0.0) * (1 + 16 * U64) + TINY64
    return piece, entry, np.where(np.isfinite(worth), worth, np.inf)


def cuts(state: State, z: Values, level: F64, columns: Index) -> tuple[Index, F64]:
    """Where pieces are to be divided because an entry meets a level there: sorted pieces and parts."""
    piece, entry, worth = crossings(z, level, columns)
    noise = z.error[state.owner[piece], entry] + 8 * U64 * z.most[state.owner[piece], entry]
    keep = (worth > noise) & np.isfinite(worth)
    piece, entry, noise = piece[keep], entry[keep], noise[keep]
    a, b = z.at[piece, entry], z.at[piece + 1, entry]
    return _merged(piece, (level[entry] - a) / (b - a), np.abs(noise / (b - a)))


def _merged(piece: Index, part: F64, blur: F64) -> tuple[Index, F64]:
    """Sorted; of those that cannot be told apart, the first."""
    order = np.lexsort((part, piece))
    piece, part, blur = piece[order], part[order], blur[order]
    keep = (part > _LOCATED) & (part < 1.0 - _LOCATED)
    piece, part, blur = piece[keep], part[keep], blur[keep]
    if not piece.size:
        return piece, part
    close = (piece[1:] == piece[:-1]) & (np.diff(part) <= np.maximum(_LOCATED, np.minimum(blur[1:], blur[:-1])))
    apart = np.concatenate([[True], ~close])
    return piece[apart], part[apart]


def merged(piece: Index, part: F64) -> tuple[Index, F64]:
    """Sorted new breakpoints; of those that cannot be told apart, the first."""
    return _merged(piece, part, np.zeros_like(part))
