"""Points: one exact quantized execution against an enclosure of the float reference."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.engines.concrete import Inputs, Session, quantized_outputs
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.program import program
from qebgate.engines.guard import Guard, GuardedStop
from qebgate.engines.reference import enclosure
from qebgate.evidence import Bound, Evidence, Stopped
from qebgate.task import Budget, Task


class Execute:
    """Applies to a region of one input."""

    name = "execute"

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> list[Evidence]:
        del known
        cell = task.cell
        if not cell.is_point:
            return []
        start = time.monotonic()
        inputs = (
            Inputs.of_codes(task, cell.codes[0][None])
            if cell.codes is not None
            else Inputs.of_reals(task, cell.lower[None])
        )
        witness = session.witness(task, inputs, self.name)
        try:
            gap, exact = _enclose(task, inputs, budget, session)
        except GuardedStop as stop:
            return [witness, Stopped(self.name, stop.reason, stop.detail)]
        bound = Bound(gap.lo, gap.hi, "exhaustive" if exact else "certified", self.name, time.monotonic() - start)
        return [bound, witness]


def _enclose(task: Task, inputs: Inputs, budget: Budget, session: Session) -> tuple[Interval, bool]:
    """The gap at the only input, and whether the quantized side was known exactly.

    The float side does not depend on the runtime, so its enclosure is shared between runtimes.  An
    application's rounding that could go either way leaves the codes open; then only the whole
    analysis is sound.
    """
    index = np.asarray(task.outputs, dtype=np.intp)
    graph = task.pair.float
    read = tuple((n.op, n.attrs) for n in graph.nodes)  # one file may be read with several input scales
    key = (graph.source.sha256, read, graph.outputs, task.float_semantics, task.outputs, inputs.x.tobytes())
    settled = task.codec.in_model or task.cell.codes is not None
    h = session.enclosures.get(key) if settled else None
    if h is None:
        settings, guard = Settings(work=budget.dra), Guard(budget)
        if not settled:
            p = program(task)
            return Analysis(p.layers, p.box, settings, pulse=guard).run().gap(p.output, index), False
        h = enclosure(task, inputs.x[0], settings, guard)
        session.enclosures[key] = h
    q = quantized_outputs(task, inputs)[0]
    return Interval.point(q).minus(h), True
