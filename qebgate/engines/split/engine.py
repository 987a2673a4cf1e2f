"""Splitting the inputs as an engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.engines.bisection import whole_inputs
from qebgate.engines.concrete import Inputs, Session
from qebgate.engines.dra.analysis import Settings
from qebgate.engines.enumerate import reached
from qebgate.engines.executed import Executed
from qebgate.engines.guard import Guard, GuardedStop
from qebgate.engines.reference import reference_error
from qebgate.engines.split.tree import Tree
from qebgate.evidence import Bound, Evidence, Stopped
from qebgate.task import Budget, Task

T = TypeVar("T", bound=Tree)

MOST_FREE = 16
"""Free inputs beyond which halving them one by one leads nowhere."""


class Split:
    """Applies to boxes of few free inputs, on the grid or real-valued, that were not executed completely already."""

    name = "split"

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> list[Evidence]:
        start = time.monotonic()
        if (
            budget.split <= 0
            or not applies(task)
            or any(isinstance(b, Bound) and b.trust == "exhaustive" for b in known)
        ):
            return []
        guard = Guard(budget)
        tree = tree_of(Tree, task, known, budget, guard)
        stopped: list[Evidence] = []

        def pulse(done: int) -> None:
            session.progress(self.name, done, budget.split)
            guard()

        try:
            tree.run(budget.split, pulse)
            if not tree.finished and task.prop.of_box(tree.bound.lo, tree.bound.hi) > task.prop.limit:
                stopped.append(Stopped(self.name, "effort", f"{tree.done} parts are not enough"))
        except GuardedStop as stop:
            stopped.append(Stopped(self.name, stop.reason, stop.detail))
        inputs = Inputs.of_codes if task.cell.codes is not None else Inputs.of_reals
        worst = inputs(task, whole_inputs(task, tree.free, tree.best[None]))
        gap = tree.bound
        bound = Bound(gap.lo, gap.hi, "certified", self.name, time.monotonic() - start)
        return [bound, session.witness(task, worst, self.name), *stopped]


def applies(task: Task) -> bool:
    """Whether a task's region is a box of few free inputs."""
    cell = task.cell
    free = int((cell.upper > cell.lower).sum())
    return cell.line is None and not cell.is_point and free <= MOST_FREE


def tree_of(kind: type[T], task: Task, known: Sequence[Evidence], budget: Budget, guard: Guard) -> T:
    """The tree of the whole region, not split yet."""
    free = np.flatnonzero((task.cell.upper > task.cell.lower).ravel())
    k = len(task.outputs)
    gap = Interval(np.full(k, -np.inf), np.full(k, np.inf))
    for b in known:
        if isinstance(b, Bound) and b.trust != "solver":
            gap = gap.meet(Interval(b.lower, b.upper))
    error = reference_error(task, Settings(work=budget.dra), guard)
    small = reached(task) if task.cell.codes is not None else None
    return kind(task, free, Executed(task, free, error, small, None), gap, budget.dra, guard)
