"""Search for an input with a large gap: first a short one, and what bounds then leave open at full strength.

Everything is evaluated on the exact executors; the best input found is replayed in the installed
runtime, and only that may refute a property.  Decisions rest on the budget, its seed and the networks
alone: wall-clock and memory only ever end a search, and that is said.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.annealing import BLOCK, Chains, descend
from qebgate.engines.changes import Changes, Stepwise, changes_of
from qebgate.engines.concrete import Session
from qebgate.engines.dra.program import Program, program
from qebgate.engines.enumerate import all_codes
from qebgate.engines.gradient import gap_gradient
from qebgate.engines.guard import GuardedStop
from qebgate.engines.search import CALL, Search
from qebgate.engines.segment import Segment
from qebgate.evidence import Bound, Evidence, Stopped, Witness
from qebgate.ir.tensor import Array
from qebgate.regions.line import Line
from qebgate.task import Budget, Task

FIRST = 0.125
"""Share of the budget that the short search has; the long one has the rest."""
SAMPLED = 0.15
"""Share of the short search that goes to corners and random points."""
CLIMBED = 0.55
"""Share of it that the climb may take."""
DESCENDED = 8
"""Targets from whose best points it changes single inputs and pairs."""
BY_CHANCE = 0.02
"""Share of the long search that goes to random points: rounding makes gaps rough where the inputs are few."""
FEW = 16
"""Inputs that are few."""
SCANNED = 0.25
"""Share of a search that may go to all values of each input, where there are few."""
WHOLE = 0.5
"""Share of the long search that may go to executing every input of a finite region instead."""
ROWS = 24
"""Points that climb at once."""
CLIMBS = 60
"""Gradient steps of a climb."""
FLIPPED = 0.5
"""Share of the inputs that a gradient step sets to their better end, where it goes on from wherever it came to."""
CAREFUL = (0.5, 0.2, 0.05, 0.02, 0.01)
"""The same for points that always start again from the best that they were."""
SHAKEN = 0.01
"""Share of the inputs that it sets at random."""
GRADIENT = 3.0
"""A gradient step in executions: forward on both sides, and back."""
RIVAL = 0.6
"""A target is annealed beside the best one if its gap is at least so large a part of that one's."""
RIVALS = 4
RUNS = (0.3, 1.0)
"""Runs of the annealing: the shares of what is left at their beginning."""
MOST_BYTES = 1 << 28
"""Largest array of inputs of a segment."""

Index = NDArray[np.intp]


class Falsify:
    """The short search: corners, random points and a climb along the gradient.  Any region of more than one input."""

    name = "falsify"
    share = FIRST

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> list[Evidence]:
        if task.cell.is_point or self._walked(task, known):
            return []
        search = Search(task, budget, session, self.name, self.share)
        try:
            self._search(search, known)
        except GuardedStop as stop:
            return [*search.witnesses(), Stopped(self.name, stop.reason, stop.detail)]
        return search.witnesses()

    @staticmethod
    def _walked(task: Task, known: Sequence[Evidence]) -> bool:
        """A segment that was walked to its end: more was seen than a search would."""
        return task.cell.line is not None and any(isinstance(e, Bound) and e.engine == Segment.name for e in known)

    def _search(self, search: Search, known: Sequence[Evidence]) -> None:
        del known
        if search.task.cell.line is not None:
            _along(search, search.task.cell.line)
            return
        _sample(search, search.affordable(SAMPLED, 4096))
        order = np.argsort(-search.value, kind="stable")
        chosen = np.resize(order, min(ROWS, max(2, search.affordable(0.5, ROWS))))
        start = search.box.random(len(chosen), search.rng)
        start[: len(order)] = search.point[chosen][: len(order)]
        _climb(search, program(search.task), start, chosen, CLIMBED * search.allowance)
        changes = changes_of(search)
        if isinstance(changes, Stepwise):
            for t in np.argsort(-search.value, kind="stable")[:DESCENDED].tolist():
                _descend(search, changes, t)
        _scan(search, changes)


class Anneal(Falsify):
    """The long search, of the sides that no bound has closed: climbs, annealing, single changes and pairs."""

    share = 1.0 - FIRST

    def _search(self, search: Search, known: Sequence[Evidence]) -> None:
        if search.task.cell.line is not None:
            return
        search.rng = np.random.default_rng((search.budget.seed, 1))
        starts = [_point_of(search, w) for w in known if isinstance(w, Witness)]
        search.evaluate(np.stack([*starts, *search.box.random(64, search.rng)]))
        search.evaluate(search.box.random(search.affordable(BY_CHANCE, 1 << 15), search.rng))
        targets = search.open(known)
        if not targets.size or search.violated:
            return
        if _everything(search):
            return
        search.follow(targets)
        p, changes = program(search.task), changes_of(search)
        _scan(search, changes)
        for share in RUNS:
            chosen = _rivals(search, changes.chains)
            start = search.box.random(len(chosen), search.rng)
            start[::2] = search.point[chosen][::2]
            reached = _climb(search, p, start, chosen)
            steps = int(share * search.left / changes.units(changes.chains))
            if steps >= BLOCK:
                _anneal(search, changes, reached, chosen, steps)
        # where an execution takes too long for that: climbs from elsewhere
        spent = -1.0
        while search.left > 0 and search.spent > spent:
            spent = search.spent
            many = CLIMBS * _price(search, ROWS) <= search.left
            chosen = _rivals(search, ROWS if many else 2)
            _climb(search, p, search.box.random(len(chosen), search.rng), chosen)


def _along(search: Search, line: Line) -> None:
    """Inputs of a segment, evenly spread over its codes; there is nowhere else to go from them."""
    most = min(search.budget.falsify, MOST_BYTES // (8 * search.box.size))
    points = line.some(search.task.codec, max(1, most))
    for i in range(0, len(points), search.rows):
        if search.left <= 0:
            break
        search.evaluate(points[i : i + search.rows])


def _sample(search: Search, n: int) -> None:
    """The corners of all lower and all upper ends, random corners, random points."""
    box, rng = search.box, search.rng
    half = max(1, n // 2)
    corners = np.where(rng.random((half, box.size)) < 0.5, box.lo, box.hi)
    search.evaluate(np.concatenate([np.stack([box.lo, box.hi]), corners, box.random(half, rng)]))


def _everything(search: Search) -> bool:
    """Execute all inputs of a finite region where a part of the effort pays for that."""
    cell, rows = search.task.cell, search.rows
    count = cell.count
    # compared as integers: regions have more inputs than a float can count
    if count is None or count > int(WHOLE * search.allowance / (search.cost + CALL / rows)):
        return False
    for codes in all_codes(cell, rows):
        if search.violated:
            break
        search.evaluate(codes.reshape(len(codes), -1))
    return True


def _scan(search: Search, changes: Changes) -> None:
    """Along every axis from the best points, all codes or many numbers: for few inputs, or where changes are dear."""
    box = search.box
    if isinstance(changes, Stepwise) and box.free.size > FEW:
        return
    values = _axis_values(search)
    if not values:
        return
    count = sum(len(v) for v in values)
    price = CALL + count * search.cost
    spare = SCANNED * search.allowance
    while search.left > 0 and price < spare:
        before = search.value.copy()
        for t in np.argsort(-search.value, kind="stable")[:RIVALS].tolist():
            spare -= price
            if spare < 0 or search.violated:
                return
            points = np.repeat(search.point[t][None], count, axis=0)
            points[np.arange(count), np.repeat(box.free, [len(v) for v in values])] = np.concatenate(values)
            search.evaluate(points)
        if (search.value <= before).all():
            return


def _axis_values(search: Search) -> list[Array]:
    box = search.box
    if box.grid:
        return [
            np.arange(a, b + 1, dtype=box.lo.dtype) for a, b in zip(box.lo[box.free], box.hi[box.free], strict=True)
        ]
    return [box.at(np.full(128, i), search.rng) for i in box.free.tolist()] if box.free.size <= 64 else []


def _climb(search: Search, p: Program, points: Array, chosen: Index, most: float = np.inf) -> Array:
    """Gradient steps from points ``[C, n]``, each towards its target; the best point of each on the way.

    A step sets a part of the inputs to the end that the straight-through gradient of the gap points to.  Half of the
    points go on from there, the others only from the best that they were.  ``most`` units are spent.
    """
    box, rng, rows = search.box, search.rng, np.arange(len(points))
    output, sign = search.output[chosen], search.sign[chosen]
    weights = np.zeros((len(points), search.task.pair.float.output.size))
    weights[rows, np.asarray(search.task.outputs)[output]] = sign
    best, reached = np.full(len(points), -np.inf), points.copy()
    price = _price(search, len(points))
    stays = rows % 2 == 1
    for k in range(CLIMBS):
        if search.left < price or (k + 1) * price > most:
            break
        found = search.evaluate(points)
        if search.violated:
            break
        value = sign * found[rows, output]
        better = value > best
        best[better], reached[better] = value[better], points[better]
        points = np.where(stays[:, None], reached, points)
        g = gap_gradient(p, box.real(points), weights)
        search.spend(price - CALL - search.cost * len(points))
        target = np.where(g > 0, box.hi, np.where(g < 0, box.lo, points))
        share = np.where(stays, np.resize(np.roll(CAREFUL, k), len(points)), FLIPPED)[:, None]
        moved = rng.random(points.shape) < (share if k else 1.0)
        points = np.where(moved, target, points)
        points = np.where(rng.random(points.shape) < SHAKEN, box.random(len(points), rng), points)
    return reached


def _price(search: Search, rows: int) -> float:
    """Units of a gradient step from so many points, their execution included."""
    return GRADIENT * (CALL + search.cost * rows)


def _rivals(search: Search, chains: int) -> Index:
    """The targets of so many chains: the best one, and others that come close to it."""
    order = np.argsort(-search.value, kind="stable")[:RIVALS]
    close = order[search.value[order] >= RIVAL * search.value[order[0]]]
    return np.sort(np.resize(close if close.size else order[:1], chains))


def _anneal(search: Search, changes: Changes, points: Array, chosen: Index, steps: int) -> None:
    chains = Chains(search, changes, points, search.output[chosen], search.sign[chosen])
    chains.run(steps)
    if search.left > 0:
        chains.finish()
    _descend(search, changes, int(np.argmax(search.value)))


def _descend(search: Search, changes: Changes, t: int) -> None:
    """From the best point of a target."""
    if search.left > 0:
        descend(search, changes, search.point[t], int(search.output[t]), float(search.sign[t]))


def _point_of(search: Search, w: Witness) -> Array:
    """An earlier witness as a point of the search."""
    if not search.box.grid:
        return w.x.ravel()
    codes = w.codes if w.codes is not None else search.task.codec.encode(w.x)
    return codes.ravel().astype(search.box.lo.dtype).clip(search.box.lo, search.box.hi)
