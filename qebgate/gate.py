"""The gate: run a policy's checks and collect their verdicts.  The one use case."""

from __future__ import annotations

import atexit
import datetime as dt
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Protocol, cast

import numpy as np

from qebgate._version import __version__
from qebgate.agreement import on_data
from qebgate.baseline import Baseline, compared, path_of, read_baseline
from qebgate.cache import Cache
from qebgate.errors import DataError, ModelError, PolicyError, QebgateError, WorkerError
from qebgate.evidence import Floor, Sampled, Witness, silent
from qebgate.plan import Job, Plan, PlannedCheck, make_plan
from qebgate.policy import PolicyFile
from qebgate.result import CheckError, CheckResult, Question, Report, Statistics, TaskResult, WitnessResult
from qebgate.semantics.execute import run_float
from qebgate.task import FloatSemantics, Task, witnessed
from qebgate.verdict import NothingCheckedError, TaskVerdict, check_verdict, judge
from qebgate.waivers import expired, waiver_of, with_waivers

if TYPE_CHECKING:
    from qebgate.engines.concrete import Session

CODED = (PolicyError, ModelError, DataError)
"""Errors of one check that leave the others' verdicts valid; everything else stops the run."""


SEARCHES = ("execute", "falsify", "probe")
"""The engines of a search."""
IN_FLIGHT = 4
"""Tasks handed to the pool per process: enough to keep it busy, few enough to stop at once."""
CLOSING = 5.0
"""Seconds that an interrupted run waits for its pool to close."""


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
        with _one_thread():
            for number, outcome in _outcomes(jobs, deadline, options, source.policy.evidence.inputs == "omit"):
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
    """What to do next about the baseline and about waivers."""
    notes: list[str] = []
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


Outcome = TaskResult | QebgateError
Working = Callable[[str, int, int | None], None]


def _outcomes(
    jobs: Sequence[Job], deadline: float, options: Options, private: bool = False
) -> Iterator[tuple[int, Outcome]]:
    """Every task's outcome by its number: first those that the cache holds, then the others as they are finished.

    ``private``: inputs are written nowhere, not into the cache either.
    """
    cache = options.cache
    left = list(range(len(jobs)))
    if cache is not None:
        left.clear()
        with _sessions() as session:
            for number, job in enumerate(jobs):
                known = cache.get(job)
                if known is not None and known.verdict == "fail":
                    known = _again(job, known, session)
                if known is None:
                    left.append(number)
                else:
                    yield number, known
    run = _in_process if options.jobs == 1 or len(left) < 2 else _in_pool
    for k, outcome in run([jobs[n] for n in left], deadline, options):
        if cache is not None and isinstance(outcome, TaskResult) and not (private and outcome.witness is not None):
            cache.put(jobs[left[k]], outcome)
        yield left[k], outcome


def _sessions() -> Session:
    from qebgate.engines.concrete import Session

    return Session()


def _again(job: Job, known: TaskResult, session: Session) -> TaskResult | None:
    """A stored failure with its counterexample replayed now; None where it is none (any more)."""
    from qebgate.engines.concrete import Inputs

    w = known.witness
    if w is None:
        return None
    given = Inputs(w.x[None].astype(np.float32), None if w.codes is None else w.codes[None].astype(np.int32))
    try:
        seen = session.witness(_task(job, known.outputs), given, w.engine)
    except CODED:
        return None  # the task itself will say so
    v = judge(job.prop, job.require, [seen])
    if v.verdict != "fail" or v.witnessed is None or (known.proven is not None and v.witnessed > known.proven):
        return None
    return replace(known, reason=v.reason, witnessed=v.witnessed, witness=_witness(job, v))


def _in_process(jobs: Sequence[Job], deadline: float, options: Options) -> Iterator[tuple[int, Outcome]]:
    broken: set[str] = set()
    with _sessions() as session:
        for number, job in enumerate(jobs):
            if job.check in broken:
                continue
            try:
                yield number, run_job(job, deadline, options.observer.working, session)
            except CODED as e:
                broken.add(job.check)
                yield number, e


def _in_pool(jobs: Sequence[Job], deadline: float, options: Options) -> Iterator[tuple[int, Outcome]]:
    """One task per process; fresh interpreters, so that no solver or runtime state is shared."""
    broken: set[str] = set()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(options.jobs, len(jobs)), mp_context=context, initializer=_Worker.start)
    try:
        waiting = iter(enumerate(jobs))
        with _uninterrupted():  # workers start here and inherit it: Ctrl-C is for this process only, which ends them
            pending = {pool.submit(_Worker.run, job, deadline): n for n, job in islice(waiting, options.jobs)}
        while pending:
            for n, job in islice(waiting, IN_FLIGHT * options.jobs - len(pending)):
                pending[pool.submit(_Worker.run, job, deadline)] = n
            finished, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in sorted(finished, key=lambda f: f.exception() is not None):  # what is known comes first
                number = pending.pop(future)
                outcome = future.result()
                if isinstance(outcome, _Coded):
                    error = outcome.error()
                    if jobs[number].check in broken:
                        continue
                    broken.add(jobs[number].check)
                    yield number, error
                else:
                    yield number, outcome
        pool.shutdown()
    except BrokenProcessPool:
        _abandon(pool)
        raise _killed(options.jobs) from None
    except BaseException:
        _abandon(pool)
        raise


def _killed(processes: int) -> WorkerError:
    return WorkerError(
        "QEB914",
        "a process that worked on a task was ended from outside: no verdict can be given",
        found="it died without an error of its own; the system ends processes when memory runs out",
        fix=f"run with fewer than {processes} jobs, or set a smaller `guard.memory`; stored results are not lost",
    )


def _abandon(pool: ProcessPoolExecutor) -> None:
    """End the workers at once, then the pool's own thread.

    In this order, and waited for: a thread that is still closing its pipes when Python exits makes the exit handler of
    ``concurrent.futures`` write to one of them and print a traceback.  The wait is bounded because that thread can
    hang on a full pipe in Python 3.10 (CPython issue 94777).
    """
    for child in multiprocessing.active_children():
        child.terminate()
    closing = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    closing.start()
    closing.join(CLOSING)


@dataclass(frozen=True, slots=True)
class _Coded:
    """A coded error on its way between processes (exceptions with several fields do not unpickle)."""

    kind: type[QebgateError]
    fields: tuple[str, str, str | None, str | None, str | None]

    def error(self) -> QebgateError:
        """The error; raised where it must stop the run."""
        error = self.kind(*self.fields)
        if not isinstance(error, CODED):
            raise error
        return error


@contextmanager
def _uninterrupted() -> Generator[None, None, None]:
    """SIGINT is ignored, also by processes that are started meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _one_thread() -> AbstractContextManager[object]:
    """BLAS on one thread: the matrices are small, and spinning threads cost several times what they win."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)


class _Worker:
    """A worker process: its interpreters live as long as it does."""

    session: ClassVar[Session | None] = None

    @classmethod
    def start(cls) -> None:
        _one_thread()
        cls.session = _sessions()
        atexit.register(cls.session.__exit__, None, None, None)

    @classmethod
    def run(cls, job: Job, deadline: float) -> TaskResult | _Coded:
        try:
            return run_job(job, deadline, session=cls.session)
        except QebgateError as e:
            return _Coded(type(e), (e.code, e.message, e.where, e.found, e.fix))


def run_job(
    job: Job, deadline: float = float("inf"), working: Working | None = None, session: Session | None = None
) -> TaskResult:
    """Run one task to its verdict.  ``deadline`` is on the monotonic clock; ``session`` keeps interpreters alive."""
    from qebgate.engines import portfolio

    start = time.monotonic()
    outputs = job.outputs if job.outputs is not None else _predicted(job)
    blank = TaskResult(
        job.check, job.cell.index, job.info, "unknown", "guard_time", None, None, outputs, None, None, None, None, 0.0
    )
    if job.blocked:
        return replace(blank, verdict="fail", reason="out_of_range")
    left = min(job.budget.seconds, deadline - start)
    if left <= 0:
        return blank
    task = _task(job, outputs)
    evidence = portfolio.run(task, replace(job.budget, seconds=left), job.engines, working or silent, session)
    rate = None if job.sampling is None else job.sampling.max_failure_rate
    v = judge(job.prop, job.require, evidence, rate)
    waived = False
    if job.waived is not None and v.verdict != "pass":
        wider = replace(job.prop, limit=job.waived)
        left = min(job.budget.seconds, deadline - time.monotonic())
        budget = replace(job.budget, seconds=max(left, 0.0))
        again = portfolio.run(replace(task, prop=wider), budget, job.engines, working or silent, session)
        second = judge(wider, job.require, [*(e for e in evidence if not isinstance(e, Sampled)), *again], rate)
        v, waived = (second, True) if second.verdict == "pass" else (v, False)
    return replace(
        blank,
        verdict=v.verdict,
        reason=v.reason,
        witnessed=v.witnessed,
        proven=v.proven,
        lower=v.lower,
        upper=v.upper,
        evidence=v.evidence,
        engine=v.engine,
        seconds=time.monotonic() - start,
        witness=_witness(job, v) if v.verdict == "fail" or job.keep else None,
        statistics=_statistics(job, v),
        waived=waived,
        noise_floor=next(((e.worst, e.span) for e in evidence if isinstance(e, Floor)), None),
    )


def _task(job: Job, outputs: tuple[int, ...]) -> Task:
    semantics = cast("FloatSemantics", job.float_semantics)
    return Task(job.pair, job.cell, job.codec, job.prop, outputs, job.runtime, semantics, job.sampling)


def _classes(job: Job, w: Witness) -> tuple[int, int] | None:
    if job.prop.kind != "same_top1" or w.values is None:
        return None
    (floats, _), quantized = w.values
    return int(np.argmax(floats)), int(np.argmax(quantized))


def _statistics(job: Job, v: TaskVerdict) -> Statistics | None:
    s, asked = v.sampled, job.sampling
    if s is None or asked is None:
        return None
    drawn = "rows" if asked.rows else "uniform"
    return Statistics(s.n, s.failures, asked.confidence, asked.max_failure_rate, s.upper, drawn, asked.seed)


def _predicted(job: Job) -> tuple[int, ...]:
    """The class that the float model predicts at the region's centre; the lowest index of equals."""
    out = run_float(job.pair.float, job.cell.centre[None])[job.pair.float.outputs[0]]
    return (int(np.argmax(out.ravel())),)


def _witness(job: Job, v: TaskVerdict) -> WitnessResult | None:
    w = v.witness
    if w is None:
        return None
    raw = None if job.preprocess.identity else job.preprocess.invert(w.x)
    outputs = job.outputs if job.outputs is not None else _predicted(job)
    reference = run_float(job.pair.float, w.x[None])[job.pair.float.outputs[0]].ravel()[list(outputs)]
    figure, chosen = witnessed(job.prop, w), _classes(job, w)
    return WitnessResult(
        w.x, w.codes, raw, w.gap, figure, w.engine, reference=reference.astype(np.float64), classes=chosen
    )


__all__ = ["NothingCheckedError", "Observer", "Options", "Silent", "check", "run_job"]
