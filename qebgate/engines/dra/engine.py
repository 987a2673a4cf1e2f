"""The analysis as an engine."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from qebgate.engines.concrete import Session
from qebgate.engines.dra import lp
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.figures import figures
from qebgate.engines.dra.program import direct, program
from qebgate.engines.guard import Guard
from qebgate.evidence import Bound, Evidence
from qebgate.task import Budget, Task, proven


class Dra:
    """Applies to every region."""

    name = "dra"

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> list[Evidence]:
        del known
        start = time.monotonic()
        p = direct(program(task))
        tick = lambda done, total: session.progress(self.name, done, total)  # noqa: E731
        a = Analysis(p.layers, p.box, Settings(work=budget.dra), tick, Guard(budget)).run()
        index = np.asarray(task.outputs, dtype=np.intp)
        gap = a.gap(p.output, index)
        wanted = task.prop.limit * task.prop.unit
        values, figure = figures(task.prop, a, p.output, index, gap)
        first = Bound(gap.lo, gap.hi, "certified", self.name, time.monotonic() - start, values, figure)
        if values is not None and proven(task.prop, first) <= task.prop.limit:
            return [first]
        if budget.slopes and task.prop.of_box(gap.lo, gap.hi) > task.prop.limit:
            gap = a.tuned(p.output, index, gap, wanted, budget.slopes)
        if budget.lp and task.prop.of_box(gap.lo, gap.hi) > task.prop.limit:
            left = budget.seconds - (time.monotonic() - start)
            gap = lp.improved(a.sharpest or a, (p.output, index), gap, wanted, budget.lp, left)
        session.last = task, a.sharpest or a
        values, figure = figures(task.prop, a.sharpest or a, p.output, index, gap, budget.slopes)
        return [Bound(gap.lo, gap.hi, "certified", self.name, time.monotonic() - start, values, figure)]
