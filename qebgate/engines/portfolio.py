"""The chain of engines: cheap first, until the question is answered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from qebgate.engines.base import Engine
from qebgate.engines.branch.engine import Branch
from qebgate.engines.concrete import Session
from qebgate.engines.dra.engine import Dra
from qebgate.engines.enumerate import Enumerate
from qebgate.engines.execute import Execute
from qebgate.engines.falsify import Anneal, Falsify
from qebgate.engines.forms.engine import Forms
from qebgate.engines.guard import Guard, GuardedStop
from qebgate.engines.milp import Milp
from qebgate.engines.noise_floor import steer
from qebgate.engines.probe import Probe, ProbeLong
from qebgate.engines.segment import Segment
from qebgate.engines.split.engine import Split
from qebgate.engines.statistical import Statistical
from qebgate.errors import UnboundedError
from qebgate.evidence import Bound, Evidence, Progress, Range, Stopped, Witness, silent
from qebgate.numerics.rounding import passes
from qebgate.properties import Property
from qebgate.task import Budget, Task, proven, witnessed

ORDER: tuple[type[Engine], ...] = (
    Execute, Segment, Falsify, Probe, Dra, Forms, Enumerate, Anneal, ProbeLong, Split, Branch, Milp, Statistical
)  # fmt: skip
UNSUITED: dict[str, tuple[type[Engine], ...]] = {
    "max_l2": (Milp,),
    "max_rel": (Milp,),
    "same_top1": (Segment, Falsify, Forms, Anneal, Split, Branch, Milp),
}
"""Engines that aim at the gap of one output, where that says little about the property."""
HOPELESS: tuple[type[Engine], ...] = (Dra, Split, Branch, Milp)
"""Engines that treat rounding as free noise: not tried where the noise floor says that nothing can come of it."""
EXECUTING: tuple[type[Engine], ...] = (Execute, Segment, Forms, Enumerate, Falsify, Probe, Anneal, Split)
"""Engines that run the quantized network itself: in one runtime at a time."""
IN_FLOAT: tuple[type[Engine], ...] = (Execute, Falsify, Probe, Dra, Anneal, Statistical)
"""Engines that know quantized networks which compute in float32 in part, or on int16."""
ONE_INPUT: tuple[type[Engine], ...] = (Segment, Milp)
"""Engines that do not know models of several inputs."""
FEW = 1 << 12
"""Regions of so few inputs are executed before anything is searched or bounded: that answers everything."""
SHARE = 8
"""Part of its effort that the search still gets where no bound can follow."""


def run(
    task: Task,
    budget: Budget,
    engines: Sequence[str] | None = None,
    progress: Progress = silent,
    session: Session | None = None,
) -> list[Evidence]:
    """Evidence on a task from the named engines (all where None), in the order of :data:`ORDER`.

    Stops as soon as the property is refuted by a replayed witness, or proven and witnessed.  Where the
    engines are not named, the task's noise floor (:func:`qebgate.engines.noise_floor.steer`) says whether
    bounds are worth trying; it is part of the evidence.
    """
    if session is None:
        with Session(progress) as own:
            return run(task, budget, engines, progress, own)
    session.progress = progress
    start = time.monotonic()
    found: list[Evidence] = []
    hopeless = False
    if engines is None and not (task.cell.is_point or _enumerable(task, budget)):
        with suppress(GuardedStop, UnboundedError):  # the engines will say so themselves
            floor, hopeless = steer(task, Guard(budget))
            found.append(floor)
    if hopeless:
        budget = replace(budget, falsify=budget.falsify // SHARE)
    for engine in (cls() for cls in order(task)):
        if not (task.pair.quantized.every_engine or isinstance(engine, IN_FLOAT)):
            continue
        if engines is not None and engine.name not in engines:
            continue
        if isinstance(engine, UNSUITED.get(task.prop.kind, ())):
            continue
        if task.pair.quantized.parts and isinstance(engine, ONE_INPUT):
            found.append(Stopped(engine.name, "effort", "not tried: it does not know models of several inputs"))
            continue
        if hopeless and isinstance(engine, HOPELESS):
            found.append(Stopped(engine.name, "effort", "not tried: the noise floor is beyond any useful bound"))
            continue
        left = budget.seconds - (time.monotonic() - start)
        if left <= 0:
            found.append(Stopped(engine.name, "guard_time", f"{budget.seconds:g} s were used before it started"))
            break
        try:
            found += _run(engine, task, found, replace(budget, seconds=left), session)
        except (GuardedStop, UnboundedError) as stop:
            found.append(_stopped(engine.name, stop))
        except MemoryError:
            found.append(Stopped(engine.name, "guard_memory", "out of memory"))
        if answered(task.prop, found) or (task.cell.is_point and any(_no_more(e) for e in found)):
            break
    return found


def _no_more(e: Evidence) -> bool:
    """Whether no other engine can add to what is known of the only input.

    The quantized network was executed and replayed, and the float one is enclosed, or cannot be.
    """
    if isinstance(e, Bound):
        return e.engine == Execute.name and e.trust == "exhaustive"
    return isinstance(e, Stopped) and e.engine == Execute.name and e.reason == "effort"


def _stopped(engine: str, stop: GuardedStop | UnboundedError) -> Stopped:
    if isinstance(stop, GuardedStop):
        return Stopped(engine, stop.reason, stop.detail)
    return Stopped(engine, "effort", f"{stop.message} ({stop.where})")


def _run(engine: Engine, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> Sequence[Evidence]:
    """What an engine finds; one that executes runs in each runtime of the envelope, and all of it is united."""
    members = task.runtime.members
    if len(members) == 1 or not isinstance(engine, EXECUTING):
        return engine.run(task, known, budget, session)
    start = time.monotonic()
    share = replace(budget, falsify=budget.falsify // len(members), enumerate=budget.enumerate // len(members))
    bounds: list[Bound | None] = []
    others: list[Evidence] = []
    for runtime in members:
        left = budget.seconds - (time.monotonic() - start)
        # bounds of the envelope hold in each of its runtimes
        found = engine.run(replace(task, runtime=runtime), known, replace(share, seconds=max(left, 0.0)), session)
        bounds.append(next((e for e in found if isinstance(e, Bound)), None))
        others += [e for e in found if not isinstance(e, Bound)]
        if answered(task.prop, others):
            return others
    witnesses = [e for e in others if isinstance(e, Witness)]
    worst = max(witnesses, key=lambda w: witnessed(task.prop, w), default=None)
    stopped = [e for e in others if isinstance(e, Stopped)][:1]
    return [*_united(bounds, engine.name, time.monotonic() - start), *([worst] if worst else []), *stopped]


def _united(bounds: Sequence[Bound | None], engine: str, seconds: float) -> Sequence[Evidence]:
    """One bound that holds wherever each of them holds; none where one is missing."""
    known = [b for b in bounds if b is not None]
    if len(known) < len(bounds):
        return []
    weakest: Bound = max(known, key=lambda b: ("exhaustive", "certified", "solver").index(b.trust))
    lower, upper = np.min([b.lower for b in known], axis=0), np.max([b.upper for b in known], axis=0)
    return [Bound(lower, upper, weakest.trust, engine, seconds, _hull(known), _largest(known))]


def _hull(bounds: Sequence[Bound]) -> tuple[Range, Range] | None:
    values = [b.values for b in bounds if b.values is not None]
    if len(values) < len(bounds):
        return None
    f, q = (
        (np.min([v[side][0] for v in values], axis=0), np.max([v[side][1] for v in values], axis=0)) for side in (0, 1)
    )
    return f, q


def _largest(bounds: Sequence[Bound]) -> float | None:
    figures = [b.figure for b in bounds if b.figure is not None]
    return max(figures) if len(figures) == len(bounds) else None


def order(task: Task) -> Sequence[type[Engine]]:
    """The engines for one task, cheap to dear."""
    if task.cell.codes is None or task.cell.count is None or task.cell.count > FEW:
        return ORDER
    return (Execute, Enumerate, *(e for e in ORDER if e not in (Execute, Enumerate)))


def _enumerable(task: Task, budget: Budget) -> bool:
    return task.cell.codes is not None and task.cell.count is not None and task.cell.count <= budget.enumerate


def answered(prop: Property, found: Sequence[Evidence]) -> bool:
    """Whether more engines could not change the verdict: refuted, or proven."""
    for e in found:
        if isinstance(e, Witness) and e.replayed and witnessed(prop, e) > prop.limit:
            return True
        if isinstance(e, Bound) and e.trust != "solver" and passes(proven(prop, e), prop.limit):
            return True
    return False
