"""Evidence for passes: one bundle for each task whose bound the independent checker derives as well.

The gate has decided already.  Here the analysis of every certified pass is repeated, its slopes are handed to
:mod:`qebgate.certify`, and what that proves is what the bundle claims.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from qebgate._version import __version__
from qebgate.certify.box import Box
from qebgate.certify.bundle import arrays_of, rounded, write
from qebgate.certify.check import Hints, Question, Shape, bounds, program_of, shape_of
from qebgate.certify.errors import EvidenceError
from qebgate.certify.recheck import claim_of
from qebgate.certify.walk import Splits, Targets
from qebgate.engines.branch.certificate import branch_certificate
from qebgate.engines.dra.certificate import Certificate, certificate
from qebgate.engines.dra.program import direct
from qebgate.engines.dra.program import program as analysed
from qebgate.engines.guard import GuardedStop
from qebgate.errors import printable
from qebgate.numerics.rounding import F64, passes
from qebgate.plan import Job, PlannedCheck, make_plan
from qebgate.policy import PolicyFile
from qebgate.result import CheckResult, Report, TaskResult
from qebgate.task import Budget, FloatSemantics, Task

ROOM = 1e-6
"""Trees are made for a limit smaller by this share: what the checker finds may differ from what the engine does."""


@dataclass(frozen=True, slots=True)
class Saved:
    """How many bundles were written, and for which passes none could be made, and why."""

    written: int
    warnings: tuple[str, ...]


def save_evidence(source: PolicyFile, report: Report, only: Sequence[str], folder: Path) -> Saved:
    """Write ``folder/CHECK-rowN-RUNTIME/`` for every certified pass of a report."""
    results = {c.id: c for c in report.checks}
    written, warnings = 0, list[str]()
    for planned in make_plan(source, only).checks:
        check = results.get(planned.spec.id)
        for job in planned.jobs:
            task = None if check is None else _result(check, job)
            if task is None or task.verdict != "pass" or task.evidence != "certified":
                continue
            try:
                why = _save(source, planned, job, task, folder)
            except GuardedStop as e:
                why = e.detail
            except EvidenceError as e:
                why = e.message + (f" ({e.where})" if e.where else "")
            except OSError as e:
                why = f"it cannot be written: {e.strerror}"
            if why is None:
                written += 1
            else:
                warnings.append(f"no evidence for {printable(job.check)}, row {job.cell.index}, {job.info.name}: {why}")
    return Saved(written, tuple(warnings))


def _result(check: CheckResult, job: Job) -> TaskResult | None:
    return next((t for t in check.tasks if t.index == job.cell.index and t.runtime.name == job.info.name), None)


def _save(source: PolicyFile, planned: PlannedCheck, job: Job, result: TaskResult, folder: Path) -> str | None:
    """Why no bundle was written; None where one was."""
    if job.prop.kind not in ("max_abs", "max_lsb"):
        return f"the checker does not know {job.prop.kind}"
    semantics = cast("FloatSemantics", job.float_semantics)
    if len(job.runtime.members) > 1:
        return f"{job.runtime.value} is several runtimes: evidence is written for each of them when they are listed"
    if not job.pair.quantized.every_engine:
        return "the checker knows networks of 8-bit integers only"
    task = Task(job.pair, job.cell, job.codec, job.prop, result.outputs, job.runtime, semantics)
    question = Question(task.pair, task.cell, task.codec, task.outputs, task.runtime, semantics == "float32")
    program = program_of(question)
    hints = hints_of(certificate(task, job.budget), shape_of(program))
    lower, upper = bounds(question, hints, program)
    if not passes(job.prop.of_box(*claim_of(lower, upper)), job.prop.limit) and job.budget.branch > 0:
        hints = with_trees(task, job.budget, hints, (lower, upper), shape_of(program))
        lower, upper = bounds(question, hints, program)
    lower, upper = claim_of(lower, upper)
    proven = job.prop.of_box(lower, upper)
    if not passes(proven, job.prop.limit):
        return f"the checker's own bound is {proven:.6g}, beyond the limit {job.prop.limit:.6g}"
    slug = re.sub(r"[^A-Za-z0-9_.-]", "_", job.check).lstrip(".")
    target = folder / f"{slug}-row{job.cell.index}-{job.info.name}"
    arrays, leaf = arrays_of(hints, 0)
    fields = _statement(source, planned, job, result, target) | {
        "claim": {"lower": lower.tolist(), "upper": upper.tolist(), "proven": proven},
        "leaves": [{"restrictions": [], **leaf}],
    }
    write(target, fields, arrays)
    return None


def hints_of(c: Certificate, shape: Shape) -> Hints:
    """An analysis' slopes as the checker's hints; where it has none for a layer, those of the identity."""
    plain = np.array([1.0, 1, 1, 1, 1, 0, 0, 1, 0, 0])[:, None]
    slopes = {v: c.slopes[v] if v in c.slopes else np.repeat(plain, m, axis=1) for v, m in shape.lines.items()}
    refine = {v: level for v, level in c.refine.items() if v in shape.layers}
    targets = [
        Targets(t.value, t.kind, t.entries, t.signs, {v: m for v, m in t.multipliers.items() if v in shape.layers})
        for t in c.targets
        if t.value in shape.layers
    ]
    return rounded(Hints(slopes, refine, targets))


def with_trees(task: Task, budget: Budget, hints: Hints, known: tuple[F64, F64], shape: Shape) -> Hints:
    """The hints, and branch trees for the sides that they leave open."""
    limit = task.prop.limit * task.prop.unit
    p = direct(analysed(task))
    sides = [
        (k, s)
        for s, v in ((1.0, known[1]), (-1.0, -known[0]))
        for k, x in zip(task.outputs, v, strict=True)
        if not x < limit
    ]
    trees = branch_certificate(p, sides, limit * (1 - ROOM), budget)
    targets = list(hints.targets)
    for t in trees:
        s = t.searched
        splits = {
            v: Splits(a[:, 0].astype(np.intp), a[:, 1].astype(np.intp), Box(a[:, 2], a[:, 3]), Box(a[:, 4], a[:, 5]))
            for v, a in t.splits.items()
        }
        multipliers = {v: m for v, m in s.multipliers.items() if v in shape.layers}
        targets.append(Targets(s.value, s.kind, s.entries, s.signs, multipliers, splits))
    return rounded(Hints(hints.slopes, hints.refine, targets))


def _statement(source: PolicyFile, planned: PlannedCheck, job: Job, result: TaskResult, target: Path) -> dict[str, Any]:
    spec, model, pair = planned.spec, planned.model, planned.pair
    how = model.fixed_point
    scale = None if isinstance(model.float_, str) else model.float_.scale
    quantized = fixed = None
    if how is None:
        assert isinstance(model.quantized, str)
        quantized = {"path": model.quantized, "sha256": pair.quantized.source.sha256}
    else:
        fixed = {
            "bits": how.bits,
            "weight_int_bits": how.weight_int_bits,
            "bias_int_bits": how.bias_int_bits,
            "activation_int_bits": how.activation_int_bits,
            "input_bits": how.input.bits,
            "input_signed": how.input.signed,
            "input_int_bits": how.input.int_bits,
            "float_scale": None if scale is None else [scale.numerator, scale.denominator],
        }
    cell, codes = job.cell, job.cell.codes
    ends = (cell.lower, cell.upper) if codes is None else codes
    root = os.path.relpath(source.root.resolve(), target.resolve())
    policy = None
    if source.path is not None:
        path = os.path.relpath(source.path.resolve(), source.root.resolve())
        policy = {"path": path, "sha256": source.sha256}
    box = () if cell.line is None else ("the evidence is about the box around the segment",)
    return {
        "schema": 1,
        "kind": "qebgate evidence",
        "tool": f"qebgate {__version__}",
        "check": job.check,
        "row": cell.index,
        "models": {
            "root": root,
            "float_file": {"path": model.float_file, "sha256": pair.float.source.sha256},
            "quantized_file": quantized,
            "fixed_point": fixed,
        },
        "policy": policy,
        "question": {
            "tensor": spec.property.tensor,
            "outputs": list(result.outputs),
            "runtime": job.info.name,
            "runtime_version": job.info.version,
            "float_semantics": job.float_semantics,
            "input_quantization": job.codec.mode,
            "property": job.prop.kind,
            "limit": job.prop.limit,
            "region": {
                "domain": "real" if codes is None else "grid",
                "lower": ends[0].ravel().tolist(),
                "upper": ends[1].ravel().tolist(),
            },
        },
        "engine": "dra",
        "seed": job.budget.seed,
        "limits": asdict(job.budget),
        "assumptions": [*planned.assumptions, *box],
    }


__all__ = ["Saved", "hints_of", "save_evidence", "with_trees"]
