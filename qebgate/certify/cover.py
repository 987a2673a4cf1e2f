"""Whether the leaves of a branch tree cover everything: exact, on real intervals.

Codes ``a <= k <= b`` are the interval from ``a - 1/2`` to ``b + 1/2``; real parts that are split at a number share it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from qebgate.certify.forms import Targets
from qebgate.numerics.rounding import F64

STEPS = 200_000
"""Most parts that are looked at: far more than any tree of so many leaves needs."""

Ends = Mapping[Hashable, tuple[float, float]]
"""Quantity -> where a leaf has it; quantities that are left out are not restricted."""


def covers(leaves: Sequence[tuple[F64, F64]], lower: F64, upper: F64, half: float = 0.5) -> bool:
    """Whether every vector of codes of a box is in a leaf; with ``half`` 0, every point of it."""
    ends: list[Ends] = []
    for lo, hi in leaves:
        moved = np.flatnonzero((lo > lower) | (hi < upper)).tolist()
        ends.append({i: (float(lo[i]) - half, float(hi[i]) + half) for i in moved})
    whole: Ends = {i: (float(a) - half, float(b) + half) for i, (a, b) in enumerate(zip(lower, upper, strict=True))}
    return complete(ends, whole)


def complete(leaves: Sequence[Ends], whole: Ends | None = None) -> bool:
    """Whether every point is in a leaf (of ``whole``, where it says so, else of all real numbers).

    A part that no leaf holds entirely is cut where a leaf that meets it ends, until none is left.
    """
    inf = float("inf")
    outer = whole or {}
    todo: list[tuple[dict[Hashable, tuple[float, float]], Sequence[Ends]]] = [({}, leaves)]
    for _ in range(STEPS):
        if not todo:
            return True
        part, known = todo.pop()
        of = lambda i: part.get(i, outer.get(i, (-inf, inf)))  # noqa: B023, E731
        meeting = [x for x in known if all(lo < of(i)[1] and of(i)[0] < hi for i, (lo, hi) in x.items())]
        cuts = [[(i, e) for i, ends in x.items() for e in ends if of(i)[0] < e < of(i)[1]] for x in meeting]
        if not cuts:
            return False
        if [] in cuts:
            continue
        # where most leaves end: in a tree, the split that made this part
        (i, at), _ = Counter(c for own in cuts for c in own).most_common(1)[0]
        todo.append((part | {i: (of(i)[0], at)}, meeting))
        todo.append((part | {i: (at, of(i)[1])}, meeting))
    return False


def is_tree(group: Targets) -> bool:
    """Whether split targets are one and the same, and their parts all of the region."""
    if (group.entries != group.entries[0]).any() or (group.signs != group.signs[0]).any():
        return False
    leaves: list[dict[Hashable, tuple[float, float]]] = [{} for _ in group.entries]
    for value, s in group.splits.items():
        for row, neuron, *ends in zip(
            s.row.tolist(), s.neuron.tolist(), *(b.tolist() for b in (*s.z, *s.code)), strict=True
        ):
            z, code = (value, neuron, "z"), (value, neuron, "code")
            if z in leaves[row]:
                return False
            leaves[row][z] = ends[0], ends[1]
            leaves[row][code] = ends[2] - 0.5, ends[3] + 0.5
    inf = float("inf")
    return complete([{k: e for k, e in x.items() if e != (-inf, inf)} for x in leaves])
