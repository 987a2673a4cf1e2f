"""Evidence for passes: one bundle for each task whose bound the independent checker derives as well.

The gate has decided already.  Here the analysis of every certified pass is repeated, its slopes are handed to
:mod:`qebgate.certify`, and what that proves is what the bundle claims.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from qebgate._version import __version__
from qebgate.certify.box import Box
from qebgate.certify.bundle import MAX_LEAVES, arrays_of, rounded, write
from qebgate.certify.check import Hints, Question, Shape, bounds, hull, program_of, shape_of
from qebgate.certify.errors import EvidenceError
from qebgate.certify.forms import Splits, Targets
from qebgate.certify.recheck import claim_of
from qebgate.certify.rows import Program
from qebgate.engines.branch.certificate import branch_certificate
from qebgate.engines.dra.certificate import Certificate, certificate
from qebgate.engines.dra.program import direct
from qebgate.engines.dra.program import program as analysed
from qebgate.engines.guard import GuardedStop
from qebgate.engines.split.certificate import split_certificate
from qebgate.errors import printable
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64, passes
from qebgate.plan import Job, PlannedCheck, make_plan
from qebgate.policy import PolicyFile
from qebgate.regions.cell import Cell
from qebgate.result import CheckResult, Report, TaskResult
from qebgate.task import Budget, FloatSemantics, Task

ROOM = 1e-6
"""Trees are made for a limit smaller by this share: what the checker finds may differ from what the engine does."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of a region, with hints or (None) to be executed, and what the checker proves of it."""

    cell: Cell
    hints: Hints | None
    lower: F64
    upper: F64


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
    if job.prop.kind not in ("max_abs", "max_lsb"):
        return f"the checker does not know the property {job.prop.kind}"
    if len(job.runtime.members) > 1:
        return f"{job.runtime.value} is several runtimes: evidence is written for each of them when they are listed"
    if planned.spec.property.output is not None:
        return "the checker knows models with one output only"
    if not job.pair.quantized.every_engine:
        return "the checker knows networks of 8-bit integers only"
    if job.pair.quantized.parts:
        return "the checker knows models with one input only"
    task = Task(job.pair, job.cell, job.codec, job.prop, result.outputs, job.runtime, semantics)
    question = Question(task.pair, task.cell, task.codec, task.outputs, task.runtime, semantics == "float32")
    parts = [] if result.engine == "split" else [_whole(task, job.budget, question)]
    if not parts or not _within(task, parts):
        parts = split_parts(task, job.budget, question) or parts
    if not parts:
        return f"no tree of {MAX_LEAVES} parts or less is within the limit {job.prop.limit:.6g}"
    lower, upper = claim_of(*hull([(x.lower, x.upper) for x in parts]))
    proven = job.prop.of_box(lower, upper)
    if not passes(proven, job.prop.limit):
        return f"the checker's own bound is {proven:.6g}, beyond the limit {job.prop.limit:.6g}"
    slug = re.sub(r"[^A-Za-z0-9_.-]", "_", job.check).lstrip(".")
    target = folder / f"{slug}-row{job.cell.index}-{job.info.name}"
    arrays: dict[str, Array] = {}
    leaves: list[dict[str, Any]] = []
    for k, part in enumerate(parts):
        own, leaf = arrays_of(part.hints, k)
        arrays |= own
        leaves.append({"restrictions": _restrictions(task.cell, part.cell), **leaf})
    fields = _statement(source, planned, job, result, target) | {
        "claim": {"lower": lower.tolist(), "upper": upper.tolist(), "proven": proven},
        "leaves": leaves,
        "engine": "dra" if len(parts) == 1 else "split",
    }
    write(target, fields, arrays)
    return None


def _whole(task: Task, budget: Budget, question: Question) -> Part:
    """The region as one part: what the analysis used, and branch trees where that is not enough."""
    program = program_of(question)
    part = _part(question, task.cell, hints_of(certificate(task, budget), shape_of(program)), program)
    if part.hints is None or _within(task, [part]) or budget.branch <= 0:
        return part
    hints = with_trees(task, budget, part.hints, (part.lower, part.upper), shape_of(program))
    return _part(question, task.cell, hints, program)


def split_parts(task: Task, budget: Budget, question: Question) -> list[Part]:
    """Parts that cover the region, each within the limit for all that the search knows; none where it gave up."""
    leaves = split_certificate(task, budget, ROOM)
    if len(leaves) > MAX_LEAVES:
        return []
    parts: list[Part] = []
    for x in leaves:
        program = program_of(replace(question, cell=x.cell))
        if x.certificate is None:
            parts.append(_part(question, x.cell, None, program))
            continue
        hints = hints_of(x.certificate, shape_of(program))
        # without the gaps of hidden layers, checking takes two thirds of the time
        light = _part(question, x.cell, Hints(hints.slopes, dict.fromkeys(hints.refine, 1), hints.targets), program)
        parts.append(light if _within(task, [light]) else _part(question, x.cell, hints, program))
    return parts


def _part(question: Question, cell: Cell, hints: Hints | None, program: Program) -> Part:
    return Part(cell, hints, *bounds(replace(question, cell=cell), hints, program))


def _within(task: Task, parts: Sequence[Part]) -> bool:
    """Whether the claim of some parts would be within the limit."""
    claim = claim_of(*hull([(x.lower, x.upper) for x in parts]))
    return passes(task.prop.of_box(*claim), task.prop.limit)


def _restrictions(whole: Cell, part: Cell) -> list[dict[str, Any]]:
    """Where a part ends within the region."""
    (lower, upper), (lo, hi) = (c.codes or (c.lower, c.upper) for c in (whole, part))
    out: list[dict[str, Any]] = []
    for ends, outer, key in ((lo, lower, "at_least"), (hi, upper, "at_most")):
        moved = np.flatnonzero(ends.ravel() != outer.ravel()).tolist()
        out += [{"kind": "input", "input": i, key: ends.flat[i].item()} for i in moved]
    return out


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
            "tensor": spec.property.head,
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
        "seed": job.budget.seed,
        "limits": asdict(job.budget),
        "assumptions": [*planned.assumptions, *box],
    }


__all__ = ["Part", "Saved", "hints_of", "save_evidence", "split_parts", "with_trees"]
