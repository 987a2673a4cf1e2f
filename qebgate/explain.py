"""Why a check's bound is what it is: its worst task taken apart, and what would help most.

The check is run as the gate runs it; then the reachability analysis of its worst task is repeated and its
bound split by layer, channel and source (:mod:`qebgate.engines.dra.contributions`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from qebgate import gate
from qebgate.domains.gap import Interval
from qebgate.domains.layers import ROOT, Affine, Layer
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.contributions import (
    Contributions,
    LayerShare,
    Side,
    Source,
    behind_curve,
    contributions,
)
from qebgate.engines.dra.program import Program, program
from qebgate.engines.guard import Guard, GuardedStop
from qebgate.engines.noise_floor import NoiseFloor, noise_floor
from qebgate.ir.pair import Pair
from qebgate.ir.tensor import Tensor
from qebgate.plan import Job, PlannedCheck, make_plan
from qebgate.policy import PolicyFile
from qebgate.result import CheckResult, Report, TaskResult
from qebgate.task import FloatSemantics, Task
from qebgate.verdict import NothingCheckedError

__all__ = ["Advice", "Explanation", "LayerState", "Source", "explain", "explain_all"]

WORTH = 0.05
"""Share of the bound below which advice is not worth its words."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What would help, and by about how much of the bound (None where that cannot be said)."""

    text: str
    effect: float | None = None


@dataclass(frozen=True, slots=True)
class LayerState:
    """What the analysis knows of one layer over the region.

    ``gap`` is the largest proven gap of its ``neurons`` in real units, ``span`` the largest width of the float
    values.  ``unstable``: float neurons that may be on either side of a kink; ``quantized`` the same of the other
    network; ``saturated``: quantized neurons that may reach an end of their codes where the float one is free.
    """

    label: str
    neurons: int
    gap: float
    span: float
    unstable: int
    quantized: int
    saturated: int


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """The worst task of a check and where its bound comes from.

    ``parts`` is None where the analysis was ``stopped`` (and why).  ``curve`` says that the compared
    outputs are a softmax or sigmoid, which is bounded as a whole: then parts and noise floor are those of
    what goes into it.  ``limit`` is in real units and None then, because it is about something else.
    """

    report: Report
    check: CheckResult
    task: TaskResult
    parts: Contributions | None
    stopped: str | None
    curve: bool
    noise: NoiseFloor
    limit: float | None
    advice: tuple[Advice, ...] = field(default=())
    states: tuple[LayerState, ...] = field(default=())
    """From the input to the output; empty where the analysis was stopped."""


def explain(source: PolicyFile, check: str, options: gate.Options | None = None) -> Explanation:
    """Run one check and explain its worst task.

    Raises what :func:`qebgate.gate.check` raises, the check's own error where it cannot run, and
    NothingCheckedError where no task was finished before an interruption.
    """
    options = replace(options or gate.Options(), only=(check,))
    plan = make_plan(source, (check,))
    for e in plan.errors:
        raise e.error
    report = gate.check(source, options)
    for e in report.errors:
        raise e.error
    result = next(iter(report.checks), None)
    if result is None or not result.tasks:
        raise NothingCheckedError("QEB501", "no task of the check was finished", where=check)
    (planned,) = plan.checks
    return explain_result(report, planned, result)


def explain_all(source: PolicyFile, report: Report, seconds: float) -> dict[str, Explanation]:
    """Every check of a report that has been made, by id; each analysis is stopped after so many seconds."""
    plan = make_plan(source, tuple(c.id for c in report.checks))
    planned = {p.spec.id: p for p in plan.checks}
    return {
        c.id: explain_result(report, planned[c.id], c, seconds) for c in report.checks if c.tasks and c.id in planned
    }


def explain_result(report: Report, planned: PlannedCheck, result: CheckResult, seconds: float = 0.0) -> Explanation:
    """Explain the worst task of a check that has been run; in ``seconds`` instead of its own budget where positive."""
    worst = worst_task(result.tasks)
    job = _job_of(planned, result, worst)
    semantics = cast("FloatSemantics", job.float_semantics)
    task = Task(job.pair, job.cell, job.codec, job.prop, worst.outputs, job.runtime, semantics)
    p = program(task)
    noise = noise_floor(p, task.outputs)
    behind = behind_curve(p)
    limit = None if behind is not None else job.prop.limit * job.prop.unit
    found = Explanation(report, result, worst, None, None, behind is not None, noise, limit)
    if seconds:
        job = replace(job, budget=replace(job.budget, seconds=seconds))
    try:
        parts, states = _parts(task, p, behind, job, limit)
        found = replace(found, parts=parts, states=states)
    except GuardedStop as stop:
        found = replace(found, stopped=stop.detail)
    except MemoryError:
        found = replace(found, stopped="out of memory")
    return replace(found, advice=advise(found, task))


def worst_task(tasks: Sequence[TaskResult]) -> TaskResult:
    """The task to explain: a failure before an open one before a pass; then the largest proven figure."""
    order = {"fail": 0, "unknown": 1, "pass": 2}

    def key(t: TaskResult) -> tuple[int, float, float, int]:
        proven = np.inf if t.proven is None else t.proven
        return order[t.verdict], -proven, -(t.witnessed or 0.0), t.index

    return min(tasks, key=key)


def _job_of(planned: PlannedCheck, result: CheckResult, task: TaskResult) -> Job:
    if result.complete:
        return planned.jobs[result.tasks.index(task)]
    return next(j for j in planned.jobs if j.cell.index == task.index and j.info == task.runtime)


def _parts(
    task: Task, p: Program, behind: int | None, job: Job, limit: float | None
) -> tuple[Contributions, tuple[LayerState, ...]]:
    """The parts of the worst output's bound, or of the worst input of the final curve; and all layers' states."""
    guard = Guard(replace(job.budget, seconds=max(1.0, job.budget.seconds)))
    start = time.monotonic()
    a = Analysis(p.layers, p.box, Settings(work=job.budget.dra), pulse=guard).run()
    output = p.output if behind is None else behind
    index = np.arange(a.states[output].size) if behind is not None else np.asarray(task.outputs, np.intp)
    gap = a.gap(output, index)
    k = int(np.argmax(np.maximum(-gap.lo, gap.hi)))
    side: Side = "upper" if gap.hi[k] >= -gap.lo[k] else "lower"
    bound = float(max(gap.hi[k], -gap.lo[k]))
    spent = time.monotonic() - start
    # as the engine does: lines are optimised for bounds beyond the limit only
    slopes = job.budget.slopes if (limit is None or bound > limit) and 10 * spent < job.budget.seconds else 0
    parts = contributions(a, p, int(index[k]), side, channels=channels_of(task.pair), output=output, iterations=slopes)
    return parts, layer_states(a)


def layer_states(a: Analysis) -> tuple[LayerState, ...]:
    """The layers of an analysis that do something (those that only move codes are left out)."""
    return tuple(_layer_state(a, layer) for layer in a.layers if not (isinstance(layer, Affine) and layer.is_identity))


def _layer_state(a: Analysis, layer: Layer) -> LayerState:
    state = a.states[layer.output]
    unstable = quantized = saturated = 0
    if isinstance(layer, Affine):
        pre = a.pre[layer.output]
        free = _inside(pre.z, layer.float_range)
        unstable = int(_kinked(pre.z, layer.float_range).sum())
        if layer.grid is not None:
            lo, hi = layer.grid.range
            quantized = int(_kinked(pre.q, (lo, hi)).sum())
            saturated = int((free & ~_inside(pre.q, (lo, hi))).sum())
    gap = float(state.delta.magnitude.max(initial=0.0))
    return LayerState(
        layer.label, state.size, gap, float(state.float.width.max(initial=0.0)), unstable, quantized, saturated
    )


def _inside(z: Interval, ends: tuple[float, float]) -> NDArray[np.bool_]:
    return (z.lo >= ends[0]) & (z.hi <= ends[1])


def _kinked(z: Interval, ends: tuple[float, float]) -> NDArray[np.bool_]:
    """Whether an end of the clamp lies strictly between the bounds."""
    return np.logical_or(*((z.lo < end) & (end < z.hi) for end in ends))


def channels_of(pair: Pair) -> Mapping[int, int]:
    """The last axis of every value of a pair, and of the input itself."""
    last = lambda t: t.shape[-1] if t.shape else 1  # noqa: E731
    sizes = {k: last(pair.tensors(k)[1]) for k in range(len(pair.values))}
    return sizes | {ROOT: last(pair.quantized.input)}


def advise(e: Explanation, task: Task) -> tuple[Advice, ...]:
    """What would help, most first."""
    out = _noise_advice(e, task)
    if e.parts is not None and e.parts.bound > 0:
        found = [*_layer_advice(e.parts, task.pair), *_global_advice(e.parts, task)]
        scale = WORTH * e.parts.bound
        out += sorted((a for a in found if (a.effect or 0.0) >= scale), key=lambda a: -(a.effect or 0.0))
    if e.curve:
        out.append(Advice("compare `tensor: logits`: the final softmax or sigmoid is bounded by intervals only"))
    return tuple(out)


def _noise_advice(e: Explanation, task: Task) -> list[Advice]:
    if task.cell.is_point or e.task.verdict == "pass":
        return []
    floor, beyond = e.noise.worst, []
    if e.limit is not None and floor > e.limit:
        beyond.append(f"the limit ({e.limit:.4g})")
    if floor > e.noise.span:
        beyond.append(f"the range of the outputs ({e.noise.span:.4g})")
    if not beyond:
        return []
    return [
        Advice(
            f"rounding alone, as free noise, can move an output by {floor:.4g}, more than {' and '.join(beyond)}: a "
            "proof is out of reach once many codes are uncertain; ask about points, or a region with few free inputs"
        )
    ]


def _layer_advice(parts: Contributions, pair: Pair) -> list[Advice]:
    """For each source that belongs to a layer, its worst layer."""
    out: list[Advice] = []
    rounding = max(parts.layers, key=lambda s: s.of("rounding"), default=None)
    if rounding is not None:
        out.append(
            Advice(
                f"{rounding.label}: its outputs are rounded to {_quantum(pair, rounding)}; a narrower range (a smaller "
                "scale) shrinks this part in proportion, int16 activations or keeping the layer in float remove it",
                rounding.of("rounding"),
            )
        )
    saturation = max(parts.layers, key=lambda s: s.of("saturation"), default=None)
    if saturation is not None:
        out.append(
            Advice(
                f"{saturation.label}: its quantized outputs saturate where the float ones do not; give it a wider "
                "range (a larger scale)",
                saturation.of("saturation"),
            )
        )
    weights = max(parts.layers, key=lambda s: s.of("weights"), default=None)
    if weights is not None:
        per_tensor = one_scale(pair, weights.output)
        how = (
            "it has one scale for all of its weights: quantize them per channel"
            if per_tensor
            else "keep the layer in float or with wider weights, or train with quantization in the loop"
        )
        out.append(Advice(f"{weights.label}: its weights are rounded; {how}", weights.of("weights")))
    biases = max(parts.layers, key=lambda s: s.of("biases"), default=None)
    if biases is not None:
        out.append(Advice(f"{biases.label}: its bias is rounded coarsely or differs", biases.of("biases")))
    return out


def _global_advice(parts: Contributions, task: Task) -> list[Advice]:
    loose = parts.of("unstable") + parts.of("region")
    worst = max(parts.layers, key=lambda s: s.of("unstable"), default=None)
    where = f", most of them in {worst.label}" if worst is not None and worst.of("unstable") > 0 else ""
    out: list[Advice] = []
    if not task.cell.is_point:
        out.append(
            Advice(
                f"a smaller region: neurons that may be on either side of a kink{where}, and the inputs' freedom, cost "
                "this much (splitting the region, or a higher `effort`, wins part of it back)",
                loose,
            )
        )
    out.append(
        Advice(
            "inputs: `domain: grid` compares the networks on the codes themselves, without the rounding of real inputs",
            parts.of("input"),
        )
    )
    out.append(
        Advice(
            "`float_semantics: real` leaves out the float32 error of the reference's evaluation", parts.of("float32")
        )
    )
    out.append(
        Advice("sigmoids inside the network are bounded by intervals only; ReLUs are followed", parts.of("intervals"))
    )
    return out


def _quantum(pair: Pair, share: LayerShare) -> str:
    t = pair.tensors(share.output)[1] if 0 <= share.output < len(pair.values) else None
    return f"multiples of {t.q.s:.4g}" if t is not None and t.dtype.is_code else "codes"


def one_scale(pair: Pair, output: int) -> bool:
    """Whether the layer that makes a value has several channels of weights and one scale for all of them."""
    for s in pair.steps:
        node = s.quantized_node
        if s.output == output and node is not None and len(node.inputs) > 1 and node.inputs[1] >= 0:
            w: Tensor = pair.quantized.tensors[node.inputs[1]]
            return w.is_const and w.dtype.is_code and w.q.scale.size == 1 and max(w.shape, default=1) > 1
    return False
