"""The gate: run a policy's checks and collect their verdicts.  The one use case."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from qebgate._version import __version__
from qebgate.agreement import on_data
from qebgate.baseline import Baseline, compared, path_of, read_baseline
from qebgate.cache import Cache
from qebgate.errors import PolicyError
from qebgate.plan import Job, Plan, PlannedCheck, make_plan
from qebgate.policy import PolicyFile
from qebgate.result import CheckError, CheckResult, Question, Report, TaskResult
from qebgate.running import one_thread, outcomes
from qebgate.runtimes.host import shortcomings
from qebgate.verdict import TaskVerdict, check_verdict
from qebgate.waivers import expired, waiver_of, with_waivers

SEARCHES = ("execute", "falsify", "probe")
"""The engines of a search."""


class Observer(Protocol):
    """Hears how a run goes on."""

    def planned(self, plan: Plan) -> None: ...
    def working(self, what: str, done: int, total: int | None) -> None: ...
    def finished(self, result: TaskResult) -> None: ...


class Silent:
    """An observer that does nothing."""

    def planned(self, plan: Plan) -> None:
        """Ignore it."""

    def working(self, what: str, done: int, total: int | None) -> None:
        """Ignore it."""

    def finished(self, result: TaskResult) -> None:
        """Ignore it."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run: ``only`` these checks (all where empty), in ``jobs`` processes.  ``command`` repeats the run.

    ``search``: only run inputs (:data:`SEARCHES`), whatever the policy requires; every task's best witness is kept.
    ``cache``: results of earlier runs, and where those of this one go (none where None).
    """

    only: tuple[str, ...] = ()
    jobs: int = 1
    command: tuple[str, ...] = ("qebgate", "check")
    observer: Observer = field(default_factory=Silent)
    search: bool = False
    today: dt.date | None = None
    """What day it is, for waivers (today in UTC where None)."""
    ratchet: bool = True
    """Whether bounds are compared with the baseline."""
    cache: Cache | None = None


def check(source: PolicyFile, options: Options | None = None) -> Report:
    """Run the checks of a policy.

    A model, data or policy error of one check becomes part of the report; bugs, and runtimes that fail,
    are raised.  An interruption (Ctrl-C) ends the run and reports what is known so far.  Raises
    PolicyError for an unknown check and NothingCheckedError where nothing was to be checked.
    """
    options = options or Options()
    if options.jobs < 1:
        raise PolicyError("QEB219", "the number of jobs must be positive", found=str(options.jobs))
    start = time.monotonic()
    deadline = start + source.policy.guard.total_seconds
    today = options.today or dt.datetime.now(dt.timezone.utc).date()
    ratchet = source.policy.baseline if options.ratchet and not options.search else None
    baseline = None if ratchet is None else read_baseline(path_of(source))
    done: dict[int, TaskResult] = {}
    errors: list[CheckError] = []
    interrupted = False
    plan = Plan((), ())
    try:
        plan = make_plan(source, options.only)
        plan = _searching(plan) if options.search else _waived(plan, source, today)
        errors += plan.errors
        options.observer.planned(plan)
        jobs = [j for c in plan.checks for j in c.jobs]
        private = source.policy.evidence.inputs == "omit"
        with one_thread():
            for number, outcome in outcomes(
                jobs, deadline, options.jobs, options.observer.working, options.cache, private
            ):
                if isinstance(outcome, TaskResult):
                    done[number] = outcome
                    options.observer.finished(outcome)
                else:
                    errors.append(CheckError(jobs[number].check, outcome))
    except KeyboardInterrupt:
        interrupted = True
    failed = {e.check for e in errors}
    checks: list[CheckResult] = []
    number = 0
    for planned in plan.checks:
        numbers = range(number, number + len(planned.jobs))
        number += len(planned.jobs)
        results = [done[n] for n in numbers if n in done]
        if planned.spec.id not in failed and (results or not interrupted):
            result = with_waivers(_check_result(source, planned, results), source.policy.waivers, today)
            if ratchet is not None and baseline is not None:
                result = compared(result, planned, baseline, ratchet.percent)
            checks.append(result)
    if source.policy.evidence.inputs == "omit":
        checks = [replace(c, tasks=tuple(_without_input(t) for t in c.tasks)) for c in checks]
    if options.cache is not None and not errors:
        options.cache.remember(None if source.path is None else str(source.path), tuple(checks))
    return Report(
        version=__version__,
        policy=None if source.path is None else str(source.path),
        policy_sha256=source.sha256,
        checks=tuple(checks),
        errors=tuple(errors),
        command=options.command,
        seconds=time.monotonic() - start,
        interrupted=interrupted,
        notes=_notes(baseline, checks),
        places=source.places(),
    )


def _notes(baseline: Baseline | None, checks: Sequence[CheckResult]) -> tuple[str, ...]:
    """What is missing on this machine, and what to do next about the baseline and about waivers."""
    notes: list[str] = [*shortcomings()]
    if baseline is not None and not baseline.exists and any(c.proven is not None for c in checks):
        notes.append("there is no baseline yet: `qebgate baseline update` records these bounds, so that none may rise")
    for c in checks:
        if c.waiver is not None and c.waiver.state in ("unused", "other_model"):
            why = "is not needed" if c.waiver.state == "unused" else "is about another model"
            notes.append(f"the waiver of {c.id} {why}: remove it")
    return tuple(notes)


def _waived(plan: Plan, source: PolicyFile, today: dt.date) -> Plan:
    """The same plan with the limits of waivers that hold."""
    checks: list[PlannedCheck] = []
    for c in plan.checks:
        w = waiver_of(source.policy.waivers, c.spec.id, c.pair.quantized.source.sha256)
        limit = None if w is None or expired(w, today) else w.limit
        checks.append(c if limit is None else replace(c, jobs=tuple(replace(j, waived=limit) for j in c.jobs)))
    return replace(plan, checks=tuple(checks))


def _without_input(t: TaskResult) -> TaskResult:
    if t.witness is None:
        return t
    empty = np.zeros(0, np.float32)
    return replace(t, witness=replace(t.witness, x=empty, codes=None, raw=None, omitted=True))


def _searching(plan: Plan) -> Plan:
    """The same plan for a search only."""
    return replace(
        plan,
        checks=tuple(
            replace(c, jobs=tuple(replace(j, engines=SEARCHES, require="tested", keep=True) for j in jobs))
            for c, jobs in ((c, _each_cell(c.jobs)) for c in plan.checks)
        ),
    )


def _each_cell(jobs: Sequence[Job]) -> Iterator[Job]:
    """Jobs that a sample of several cells is drawn for, one for each cell instead."""
    for job in jobs:
        if job.require == "statistical" and job.sampling is not None:
            for cell in job.sampling.cells:
                yield replace(job, cell=cell, sampling=None)
        else:
            yield job


def _check_result(source: PolicyFile, planned: PlannedCheck, results: Sequence[TaskResult]) -> CheckResult:
    spec, pair = planned.spec, planned.pair
    v = check_verdict(
        [
            TaskVerdict(r.verdict, r.reason, r.witnessed, r.proven, r.lower, r.upper, r.evidence, r.engine, None)
            for r in results
        ]
    )
    complete = len(results) == len(planned.jobs)
    whole = complete or v.verdict == "fail"  # part of the tasks can fail a check, and never pass it
    return CheckResult(
        id=spec.id,
        verdict=v.verdict if whole else "unknown",
        reason=v.reason if whole else None,
        property=spec.property.kind,
        limit=spec.property.limit,
        require=planned.jobs[0].require if planned.jobs else spec.level,
        on_unknown=source.policy.on_unknown_of(spec),
        witnessed=v.witnessed,
        proven=v.proven if complete else None,
        evidence=v.evidence if complete else None,
        model=spec.model,
        region=spec.region,
        float_sha256=pair.float.source.sha256,
        quantized_sha256=pair.quantized.source.sha256,
        tasks=tuple(results),
        assumptions=planned.assumptions,
        complete=complete,
        question=_question(source, planned),
        data=on_data(planned),
    )


def _question(source: PolicyFile, planned: PlannedCheck) -> Question:
    """Inputs of a witness are the models' own, after any preprocessing."""
    model = planned.model.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"runtime", "preprocess"})
    prop = planned.spec.property.model_dump(mode="json", by_alias=True, exclude_unset=True)
    domain = "grid" if any(j.cell.codes is not None for j in planned.jobs) else "real"
    return Question(model, prop, domain, str(source.root))
