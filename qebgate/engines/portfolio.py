"""The chain of engines: cheap first, until the question is answered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from qebgate.engines.base import Engine
from qebgate.engines.concrete import Session
from qebgate.engines.dra.engine import Dra
from qebgate.engines.enumerate import Enumerate
from qebgate.engines.execute import Execute
from qebgate.engines.falsify import Falsify
from qebgate.engines.guard import GuardedStop
from qebgate.engines.milp import Milp
from qebgate.evidence import Bound, Evidence, Progress, Stopped, Witness, silent
from qebgate.numerics.rounding import passes
from qebgate.properties import Property
from qebgate.task import Budget, Task

ORDER: tuple[type[Engine], ...] = (Execute, Falsify, Dra, Enumerate, Milp)


def run(
    task: Task,
    budget: Budget,
    engines: Sequence[str] | None = None,
    progress: Progress = silent,
    session: Session | None = None,
) -> list[Evidence]:
    """Evidence on a task from the named engines (all where None), in the order of :data:`ORDER`.

    Stops as soon as the property is refuted by a replayed witness, or proven and witnessed.
    """
    if session is None:
        with Session(progress) as own:
            return run(task, budget, engines, progress, own)
    session.progress = progress
    start = time.monotonic()
    found: list[Evidence] = []
    for engine in (cls() for cls in ORDER):
        if engines is not None and engine.name not in engines:
            continue
        left = budget.seconds - (time.monotonic() - start)
        if left <= 0:
            found.append(Stopped(engine.name, "guard_time", f"{budget.seconds:g} s were used before it started"))
            break
        try:
            found += engine.run(task, found, replace(budget, seconds=left), session)
        except GuardedStop as stop:
            found.append(Stopped(engine.name, stop.reason, stop.detail))
        except MemoryError:
            found.append(Stopped(engine.name, "guard_memory", "out of memory"))
        if answered(task.prop, found):
            break
    return found


def answered(prop: Property, found: Sequence[Evidence]) -> bool:
    """Whether more engines could not change the verdict: refuted, or proven."""
    for e in found:
        if isinstance(e, Witness) and e.replayed and prop.of_gap(e.gap) > prop.limit:
            return True
        if isinstance(e, Bound) and e.trust != "solver" and passes(prop.of_box(e.lower, e.upper), prop.limit):
            return True
    return False
