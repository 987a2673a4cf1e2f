"""Simulated annealing over the inputs of a region, and the descent that ends it.

A few chains at low temperatures find more than many short ones, or one at a high; the temperatures are shares
of the largest gap known, so that a rescaled network is searched in the same way.  All changes are
evaluated bit for bit on the quantized side; what is found is executed in full before it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.changes import Change, Changes
from qebgate.engines.search import Search
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64

TEMPERATURES = (0.001, 0.002, 0.004, 0.008)
"""Of the chains, at the start of a run: shares of the largest gap known."""
COOLED = 0.05
"""Share of its first temperature that a chain ends with."""
BLOCK = 128
"""Steps whose random numbers are drawn at once; guards and results are looked at in between."""
PAIRED = 4
"""Every so many steps change two inputs at once."""
PAIRS = 24
"""Inputs whose pairs are all tried at the end of a descent."""
DESCENTS = 32
"""Moves of a descent at most."""

Index = NDArray[np.intp]


@dataclass(eq=False)
class Chains:
    """C points on their way, each towards its own target: ``output [C]``, ``sign [C]``."""

    search: Search
    changes: Changes
    points: Array
    output: Index
    sign: F64

    def __post_init__(self) -> None:
        self.rows = np.arange(len(self.points))
        self.points = self.points.copy()
        self._restart()
        self.best, self.best_points = self.value.copy(), self.points.copy()

    def _restart(self) -> None:
        """State and values anew: what was summed up step by step in float32 has drifted."""
        self.state = self.changes.start(self.points)
        nothing: Sequence[Change] = ()
        self.value = self._signed(self.changes.after(self.state, self.points, nothing)[1])

    def _signed(self, found: F64) -> F64:
        return self.sign * found[self.rows, self.output]

    def run(self, steps: int) -> None:
        """One cooling; ends early once a witness violates the property."""
        s, c = self.search, len(self.points)
        base = max(s.top, 0.0) * np.resize(TEMPERATURES, c)
        done = 0
        while done < steps and s.left > 0:
            block = min(BLOCK, steps - done)
            at = s.box.free[s.rng.integers(0, s.box.free.size, (2, block, c))]
            wanted = s.box.proposals(at, s.rng)
            luck = np.log(s.rng.random((block, c)))
            for k in range(block):
                temperature = base * COOLED ** ((done + k) / steps)
                pair = (done + k) % PAIRED == PAIRED - 1
                self._step(at[: 2 if pair else 1, k], wanted[: 2 if pair else 1, k], temperature * luck[k])
            done += block
            s.spend(block * self.changes.units(c))
            self._report()
        self._restart()

    def _step(self, at: NDArray[np.intp], wanted: Array, slack: F64) -> None:
        box = self.search.box
        changes: list[Change] = []
        for i, (where, after) in enumerate(zip(at, wanted, strict=True)):
            before = self.points[self.rows, where]
            # a proposal that changes nothing goes to the other end
            other = np.where(before == box.lo[where], box.hi[where], box.lo[where])
            value = np.where(after == before, other, after)
            if i:
                value = np.where(where == at[0], changes[0].after, value)
                before = np.where(where == at[0], changes[0].after, before)
            changes.append(Change(where, before, value))
        state, found = self.changes.after(self.state, self.points, changes)
        value = self._signed(found)
        taken = np.flatnonzero(value >= self.value + slack)
        for c in changes:
            self.points[taken, c.at[taken]] = c.after[taken]
        self.changes.put(self.state, taken, state)
        self.value[taken] = value[taken]
        better = np.flatnonzero(self.value > self.best)
        if better.size:
            self.best[better] = self.value[better]
            self.best_points[better] = self.points[better]

    def _report(self) -> None:
        """Execute the best point in full where it is the best of all."""
        row = int(np.argmax(self.best))
        if self.best[row] > self.search.top:
            self.search.evaluate(self.best_points[row : row + 1])

    def finish(self) -> None:
        """Execute every chain's best point in full."""
        self.search.evaluate(self.best_points)


def descend(search: Search, changes: Changes, point: Array, output: int, sign: float) -> Array:
    """From a point, the best change of one input to an end of its range, as long as there is one; then of two."""
    free, box = search.box.free, search.box
    point = point.copy()
    best = -np.inf
    for _ in range(DESCENTS):
        if search.left < changes.units(2 * free.size):
            break
        at = np.tile(free, 2)
        after = np.concatenate([box.lo[free], box.hi[free]])
        singles = Change(at, point[at], after)
        value = _values(search, changes, point, [singles], output, sign)
        here = int(np.argmax(value))
        if value[here] > best:
            best = float(value[here])
            point[at[here]] = after[here]
            continue
        order = np.argsort(-value, kind="stable")[: 2 * PAIRS]
        order = order[after[order] != point[at[order]]][:PAIRS]
        a, b = np.triu_indices(len(order), 1)
        a, b = order[a], order[b]
        distinct = at[a] != at[b]
        a, b = a[distinct], b[distinct]
        if not a.size:
            break
        both = [Change(at[i], point[at[i]], after[i]) for i in (a, b)]
        value = _values(search, changes, point, both, output, sign)
        here = int(np.argmax(value))
        if value[here] <= best:
            break
        best = float(value[here])
        point[at[a[here]]], point[at[b[here]]] = after[a[here]], after[b[here]]
    search.evaluate(point[None])
    return point


def _values(search: Search, changes: Changes, point: Array, wanted: Sequence[Change], output: int, sign: float) -> F64:
    """Signed gaps of one point after each of many changes."""
    count = len(wanted[0].at)
    out, start = np.empty(count), changes.start(point[None])
    for i in range(0, count, search.rows):
        part = [
            Change(c.at[i : i + search.rows], c.before[i : i + search.rows], c.after[i : i + search.rows])
            for c in wanted
        ]
        points = np.repeat(point[None], len(part[0].at), axis=0)
        found = changes.after(changes.repeat(start, len(points)), points, part)[1]
        out[i : i + search.rows] = sign * found[:, output]
        search.spend(changes.units(len(points)))
    return out
