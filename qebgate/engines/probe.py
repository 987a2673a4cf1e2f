"""Search for inputs with a large figure, for properties that the largest gap of one output does not decide.

Points are executed on the exact executors, the best are changed in a few inputs, and the changes that help are kept.
The best one is replayed in the installed runtime; only that may refute a property.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.engines.concrete import Inputs, Session, float_outputs, quantized_outputs
from qebgate.engines.guard import GuardedStop
from qebgate.engines.search import CALL, MOST_TARGETS, REPLAYED, Search
from qebgate.evidence import Evidence, Stopped, Witness
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64
from qebgate.task import Budget, Task, witnessed

FIRST, LONG, BESIDE = 0.04, 0.4, 0.1
"""Shares of the search's effort: first, once bounds leave the question open, and where other searches go on too."""
KEPT = MOST_TARGETS
"""Points that are changed further."""
_BYTES = 1 << 27


class Probe:
    """Applies to ``max_rel``, ``max_l2`` and ``same_top1`` over any region of more than one input."""

    name = "probe"
    seed = 0

    def share(self, task: Task) -> float:
        """Part of the search's effort."""
        del task
        return FIRST

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> list[Evidence]:
        del known
        if task.cell.is_point or task.prop.kind in ("max_abs", "max_lsb"):
            return []
        search = Search(task, budget, session, self.name, self.share(task))
        search.rng = np.random.default_rng((budget.seed, 2, self.seed))
        hunt = _Hunt(search)
        try:
            hunt.run()
        except GuardedStop as stop:
            return [*hunt.witnesses(), Stopped(self.name, stop.reason, stop.detail)]
        return hunt.witnesses()


class ProbeLong(Probe):
    """The same at length, once bounds have left the question open; it starts anew, from other points."""

    seed = 1

    def share(self, task: Task) -> float:
        return LONG if task.prop.kind == "same_top1" else BESIDE


class _Hunt:
    """The best points so far, in falling order of their scores."""

    def __init__(self, search: Search) -> None:
        self.search, self.task = search, search.task
        self.points = np.zeros((0, search.box.size), search.box.lo.dtype)
        self.score: F64 = np.zeros(0)
        self.witness: Witness | None = None
        self.replays = 0
        self.failed = -np.inf
        self.violated = False

    def run(self) -> None:
        search, box, rng = self.search, self.search.box, self.search.rng
        line = self.task.cell.line
        if line is not None:
            # of a segment only its own inputs
            most = min(search.budget.falsify, _BYTES // (8 * box.size))
            points = line.some(self.task.codec, max(1, most))
            for k in range(0, len(points), search.rows):
                if not self._more():
                    return
                self._try(points[k : k + search.rows])
            return
        n = search.affordable(0.2, 2048)
        corners = np.where(rng.random((n // 2, box.size)) < 0.5, box.lo, box.hi)
        self._try(np.concatenate([np.stack([box.lo, box.hi]), corners, box.random(n - n // 2, rng)]))
        while self._more():
            parents = self.points[rng.integers(len(self.points), size=min(search.rows, 256))]
            count = np.minimum(1 + rng.geometric(0.4, len(parents)), max(1, box.free.size))
            changed = rng.random((len(parents), box.free.size)).argsort(axis=1) < count[:, None]
            index = np.broadcast_to(box.free, changed.shape)
            points = parents.copy()
            points[:, box.free] = np.where(changed, box.proposals(index, rng), parents[:, box.free])
            self._try(points)

    def _more(self) -> bool:
        return not self.violated and self.search.spent < self.search.allowance

    def _try(self, points: Array) -> None:
        for k in range(0, len(points), self.search.rows):
            part = points[k : k + self.search.rows]
            inputs = self.search.box.inputs(part)
            self._keep(part, self.task.prop.scores(*_outputs(self.task, inputs)))
            self.search.spend(CALL + self.search.cost * len(part))
            self._confirm()
            if self.violated:
                return

    def _keep(self, points: Array, score: F64) -> None:
        score, points = np.concatenate([self.score, score]), np.concatenate([self.points, points])
        order = np.argsort(-score, kind="stable")[: 4 * KEPT]
        _, first = np.unique(points[order], axis=0, return_index=True)
        order = order[np.sort(first)][:KEPT]
        self.score, self.points = score[order], points[order]

    def _confirm(self) -> None:
        limit = self.task.prop.limit
        if self.replays < REPLAYED and self.score[0] > max(limit, self.failed):
            self._replay()

    def _replay(self) -> None:
        found = self.search.session.witness(self.task, self.search.box.inputs(self.points[:1]), Probe.name)
        self.replays += 1
        self.failed = float(self.score[0])
        figure = witnessed(self.task.prop, found)
        if self.witness is None or figure > witnessed(self.task.prop, self.witness):
            self.witness = found
        self.violated = figure > self.task.prop.limit

    def witnesses(self) -> list[Evidence]:
        if not self.violated and len(self.points) and (self.witness is None or self.score[0] > self.failed):
            self._replay()
        return [] if self.witness is None else [self.witness]


def _outputs(task: Task, inputs: Inputs) -> tuple[F64, F64]:
    return quantized_outputs(task, inputs), float_outputs(task, inputs)


__all__ = ["Probe", "ProbeLong"]
