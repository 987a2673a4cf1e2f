"""The leaves of a tree over the inputs as plain data for :mod:`qebgate.certify`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.engines.bisection import How, Part, Points
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.certificate import Certificate, Recorded
from qebgate.engines.dra.program import Program
from qebgate.engines.guard import Guard
from qebgate.engines.split.engine import applies, tree_of
from qebgate.engines.split.tree import Index, Tree
from qebgate.regions.cell import Cell
from qebgate.task import Budget, Task


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A part of the region that is within the limit: as its analysis shows, or (None) once it is executed."""

    cell: Cell
    certificate: Certificate | None


@dataclass(slots=True, eq=False)
class _Kept(Part):
    """A part, and what its analysis used."""

    certificate: Certificate


class _Recorder(Tree):
    """A tree that keeps its leaves.  Parts are not given their parents' bounds: each has to stand for itself."""

    def __init__(
        self, task: Task, free: Index, points: Points, known: Interval, work: float, pulse: Callable[[], None]
    ) -> None:
        self.leaves: list[Leaf] = []
        self._nothing = Interval(np.full_like(known.lo, -np.inf), np.full_like(known.hi, np.inf))
        super().__init__(task, free, points, known, work, pulse)

    def analysis(self, p: Program, settings: Settings) -> Analysis:
        self._last = Recorded(p.layers, p.box, settings, pulse=self.pulse)
        return self._last.run()

    def _analysed(self, c: Part) -> Part:
        done = super()._analysed(replace(c, gap=self._nothing))
        return _Kept(done.lo, done.hi, done.gap, done.widest, self._last.certificate)

    def _file(self, closed: Sequence[tuple[Part, Interval, How]]) -> None:
        super()._file(closed)
        for c, _, how in closed:
            known = c.certificate if isinstance(c, _Kept) and how != "executed" else None
            self.leaves.append(Leaf(self.cell(c.lo, c.hi), known))


def split_certificate(task: Task, budget: Budget, room: float) -> list[Leaf]:
    """Parts that cover a region, each with a bound a share ``room`` below the limit; none where that is not reached."""
    if not applies(task) or budget.split <= 0:
        return []
    closer = replace(task, prop=replace(task.prop, limit=task.prop.limit * (1 - room)))
    guard = Guard(budget)
    tree = tree_of(_Recorder, closer, [], budget, guard)
    tree.run(budget.split, lambda _: guard())
    bound = tree.bound
    enough = not tree.open and closer.prop.of_box(bound.lo, bound.hi) <= closer.prop.limit
    return tree.leaves if enough else []
