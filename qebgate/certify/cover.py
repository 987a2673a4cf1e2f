"""Whether the leaves of a branch tree cover the region: exact on integer codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.certify.box import I64
from qebgate.certify.bundle import LeafPart
from qebgate.certify.errors import EvidenceError

STEPS = 200_000
"""Most parts that are looked at: far more than any tree of so many leaves needs."""

Ends = dict[int, tuple[int, int]]
"""Input -> smallest and largest code, where a leaf restricts it."""


def restricted(leaf: LeafPart, lower: I64, upper: I64) -> tuple[I64, I64]:
    """The codes of a leaf; EvidenceError where there are none, or an input does not exist."""
    lo, hi = lower.copy(), upper.copy()
    for r in leaf.restrictions:
        if r.input >= lo.size:
            raise EvidenceError("QEB481", "the evidence is damaged: a leaf restricts an input that does not exist")
        if r.at_least is not None:
            lo[r.input] = max(lo[r.input], r.at_least)
        if r.at_most is not None:
            hi[r.input] = min(hi[r.input], r.at_most)
    if (lo > hi).any():
        raise EvidenceError("QEB481", "the evidence is damaged: a leaf is empty")
    return lo, hi


def covers(leaves: Sequence[tuple[I64, I64]], lower: I64, upper: I64) -> bool:
    """Whether every code vector of the box is in a leaf.

    A part of the box that no leaf holds entirely is cut where a leaf that meets it ends, until none is left.
    """
    moved = np.flatnonzero(np.any([(a != lower) | (b != upper) for a, b in leaves], axis=0)).tolist()
    ends: list[Ends] = [{i: (int(a[i]), int(b[i])) for i in moved} for a, b in leaves]
    todo = [({i: (int(lower[i]), int(upper[i])) for i in moved}, ends)]
    for _ in range(STEPS):
        if not todo:
            return True
        part, known = todo.pop()
        meeting = [x for x in known if all(x[i][0] <= part[i][1] and part[i][0] <= x[i][1] for i in moved)]
        if not meeting:
            return False
        cut = min((_cut(x, part) for x in meeting), key=lambda c: c is not None)
        if cut is None:
            continue
        i, last = cut
        todo.append((part | {i: (part[i][0], last)}, meeting))
        todo.append((part | {i: (last + 1, part[i][1])}, meeting))
    return False


def _cut(leaf: Ends, part: Ends) -> tuple[int, int] | None:
    """An input and the last code before the cut; None where the leaf holds the part."""
    for i, (lo, hi) in leaf.items():
        if part[i][0] < lo:
            return i, lo - 1
        if hi < part[i][1]:
            return i, hi
    return None
