"""Points: one exact quantized execution against an enclosure of the float reference."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.engines.concrete import Inputs, Session, quantized_outputs
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.figures import figures
from qebgate.engines.dra.program import program
from qebgate.engines.guard import Guard, GuardedStop
from qebgate.evidence import Bound, Evidence, Range, Stopped, Trust
from qebgate.semantics.execute import exact
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
        try:
            gap, exact, values = _enclose(task, inputs, budget, session)
        except GuardedStop as stop:
            return [session.witness(task, inputs, self.name), Stopped(self.name, stop.reason, stop.detail)]
        trust: Trust = "exhaustive" if exact else "certified"
        bound = Bound(gap.lo, gap.hi, trust, self.name, time.monotonic() - start, values)
        return [bound, session.witness(task, inputs, self.name)]


def _enclose(
    task: Task, inputs: Inputs, budget: Budget, session: Session
) -> tuple[Interval, bool, tuple[Range, Range] | None]:
    """The gap at the only input, whether the quantized side was known exactly, and both sides' outputs.

    An application's rounding that could go either way leaves the codes open, and so does a quantized model that
    computes in float32; then only the whole analysis is sound.
    """
    settings, guard = Settings(work=budget.dra), Guard(budget)
    if not exact(task.pair.quantized) or (not task.codec.in_model and task.cell.codes is None):
        p = program(task)
        a = Analysis(p.layers, p.box, settings, pulse=guard).run()
        index = np.asarray(task.outputs, dtype=np.intp)
        gap = a.gap(p.output, index)
        return gap, False, figures(task.prop, a, p.output, index, gap)[0]
    h, q = session.reference(task, inputs, settings, guard), quantized_outputs(task, inputs)[0]
    return Interval.point(q).minus(h), True, ((h.lo, h.hi), (q, q))
