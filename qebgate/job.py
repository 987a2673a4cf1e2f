"""One task from the plan to its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from qebgate.errors import DataError, ModelError, PolicyError
from qebgate.evidence import Floor, Sampled, Witness, silent
from qebgate.plan import Job
from qebgate.result import Statistics, TaskResult, WitnessResult
from qebgate.semantics.execute import run_float
from qebgate.task import FloatSemantics, Task, witnessed
from qebgate.verdict import TaskVerdict, judge

if TYPE_CHECKING:
    from qebgate.engines.concrete import Session

CODED = (PolicyError, ModelError, DataError)
"""Errors of one check that leave the others' verdicts valid; everything else stops the run."""
Working = Callable[[str, int, int | None], None]


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
        w.x, w.codes, raw, w.gap, figure, w.engine, reference=reference.astype(np.float64), classes=chosen,
        parts=job.pair.quantized.parts,
    )  # fmt: skip


def replayed(job: Job, known: TaskResult, session: Session) -> TaskResult | None:
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
