"""The analysis as an engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from qebgate.engines.concrete import Session
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.program import program
from qebgate.evidence import Bound, Evidence, Stopped
from qebgate.task import Budget, Task


class OutOfTimeError(Exception):
    """Ends an analysis that its wall-clock guard has overtaken; never leaves this package."""


def watch(seconds: float) -> Callable[[], None]:
    """A pulse that raises OutOfTimeError after some seconds."""
    deadline = time.monotonic() + seconds

    def pulse() -> None:
        if time.monotonic() > deadline:
            raise OutOfTimeError

    return pulse


class Dra:
    """Applies to every region."""

    name = "dra"

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> list[Evidence]:
        del known
        start = time.monotonic()
        p = program(task)
        tick = lambda done, total: session.progress(self.name, done, total)  # noqa: E731
        try:
            a = Analysis(p.layers, p.box, Settings(work=budget.dra), tick, watch(budget.seconds)).run()
        except OutOfTimeError:
            return [Stopped(self.name, "guard_time", f"stopped after {budget.seconds:g} s")]
        gap = a.gap(p.output, np.asarray(task.outputs, dtype=np.intp))
        return [Bound(gap.lo, gap.hi, "certified", self.name, time.monotonic() - start)]
