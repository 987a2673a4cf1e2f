"""Plans checks one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qebgate._version import __version__
from qebgate.adapters import load_dense, load_model
from qebgate.adapters.fixed_point import build
from qebgate.errors import DataError, ModelError, PolicyError, printable
from qebgate.ir.align import align
from qebgate.ir.graph import Graph
from qebgate.ir.pair import Pair
from qebgate.plan.assumptions import assumptions
from qebgate.plan.cells import Cells, digest
from qebgate.plan.model import EFFORT, Job, Plan, PlannedCheck
from qebgate.plan.settings import fixed_point_of, input_scale_of, preprocess_of
from qebgate.policy import PolicyFile
from qebgate.policy.demands import StatisticalSpec
from qebgate.policy.messages import did_you_mean
from qebgate.policy.model import (
    BallSpec,
    CheckSpec,
    ModelSpec,
    PointsSpec,
    RegionSpec,
    SegmentSpec,
    StatisticalRequire,
)
from qebgate.properties import Property
from qebgate.regions import InputCodec, Instance
from qebgate.result import CheckError, RuntimeInfo
from qebgate.runtimes.profiles import MICRO, Runtime
from qebgate.semantics.emulation import check_runtime
from qebgate.task import Sampling
from qebgate.verdict import NothingCheckedError


def make_plan(source: PolicyFile, only: Sequence[str] = ()) -> Plan:
    """Plan all checks of a policy, or those named.

    Model, data and policy errors of one check do not stop the others: they are part of the plan.
    Raises PolicyError for an unknown check and NothingCheckedError where there is no check at all.
    """
    specs = source.policy.checks
    known = [c.id for c in specs]
    for ident in only:
        if ident not in known:
            raise PolicyError(
                "QEB218",
                f"the policy has no check {printable(ident)!r}",
                where=source.document.name,
                fix=did_you_mean(ident, known),
            )
    if not specs:
        raise NothingCheckedError(
            "QEB500", "the policy has no check", where=source.where("checks"), fix="add one under `checks:`"
        )
    planner = _Planner(source)
    checks: list[PlannedCheck] = []
    errors: list[CheckError] = []
    for k, spec in enumerate(specs):
        if only and spec.id not in only:
            continue
        try:
            checks.append(planner.check(spec, k))
        except (PolicyError, ModelError, DataError) as e:
            errors.append(CheckError(spec.id, e))
    return Plan(tuple(checks), tuple(errors))


@dataclass(slots=True)
class _Planner:
    """Plans checks one by one; models, pairs and data that several use are read once."""

    source: PolicyFile
    graphs: dict[tuple[Path, bool], Graph] = field(default_factory=dict[tuple[Path, bool], Graph])
    pairs: dict[tuple[Path, object], Pair] = field(default_factory=dict[tuple[Path, object], Pair])
    cells: Cells = field(init=False)

    def __post_init__(self) -> None:
        self.cells = Cells(self.source)

    def check(self, spec: CheckSpec, position: int) -> PlannedCheck:
        from qebgate.runtimes.replay import cpu_features, runtime_version

        policy = self.source.policy
        model, region = policy.models[spec.model], policy.regions[spec.region]
        pair = self._pair(model, spec.property.output)
        codec = self._codec(spec, model, region, pair)
        at = ("checks", position, "property")
        head = pair.at(spec.property.head)
        prop = self._property(spec, head, at)
        outputs = self._outputs(spec, head, at)
        preprocess = preprocess_of(model)
        try:
            instances, note = self.cells.expand(region, codec, pair, preprocess)
        except (PolicyError, DataError) as e:
            e.where = f"{self.source.where('regions', spec.region)}" + (f": {e.where}" if e.where else "")
            raise
        guard = policy.guard
        budget = replace(EFFORT[spec.effort], seconds=guard.per_task_seconds, memory=guard.memory_bytes)
        engines = None if spec.engines == "auto" else tuple(spec.engines)
        if engines is None and spec.require != "proof_or_solver":
            budget = replace(budget, milp=0)  # what solvers show would not count
        version = runtime_version()
        own = None if model.fixed_point is None else f"(qebgate {__version__})"
        for name in model.runtimes:
            check_runtime(pair.quantized, Runtime(name))
        emulated = f"(emulated by qebgate {__version__})"
        alone = pair.quantized.source.unconverted
        infos = [
            RuntimeInfo(name, own or (emulated if alone or Runtime(name) in MICRO else version))
            for name in model.runtimes
        ]
        sampling = self._sampling(spec, region, instances, at)
        if spec.level == "statistical":
            engines = ("statistical",)
        cells = instances[:1] if spec.level == "statistical" else instances
        blocked = region.out_of_range == "fail" and any(i.excess > 0 for i in instances)
        jobs = tuple(
            Job(
                spec.id, head, i.cell, codec, prop, outputs, Runtime(info.name), info, model.float_semantics,
                preprocess, spec.level, engines, budget,
                blocked if spec.level == "statistical" else i.excess > 0 and region.out_of_range == "fail",
                sampling=s,
            )
            for info in infos
            for i, s in zip(cells, sampling, strict=True)
        )  # fmt: skip
        words = assumptions(spec, model, region, codec, infos, note, instances, " ".join(cpu_features()))
        words = (*words, *pair.float.notes, *pair.quantized.notes)
        if not pair.quantized.in_integers:
            about = "where it computes in float32, with any order of summation"
            words = (*words, f"the quantized model is {pair.quantized.scheme.value}: {about}")
        if model.fixed_point is None and pair.float.source.format != "tflite" and model.float_semantics == "float32":
            about = "no runtime evaluates the float reference's file here: what is witnessed holds for every float32 "
            words = (*words, about + "evaluation of it")
        if any(s is not None for s in sampling) and (
            pair.float.source.format != "tflite" or model.float_semantics == "real" or model.fixed_point is not None
        ):
            words = (*words, "statistics: the float side of the sample is evaluated in float64, rounding included")
        cells = tuple(i.cell for i in instances) if isinstance(region, PointsSpec | BallSpec | SegmentSpec) else ()
        prop_key = spec.property.model_dump(mode="json")
        prop_key.pop("limit", None)
        prop_key.pop("margin", None)
        question = [prop_key, model.float_semantics, model.input_quantization, spec.level, region.out_of_range]
        region_key = self.cells.key(region, codec, pair, preprocess)
        labels = self.cells.labels(region)
        return PlannedCheck(spec, model, pair, jobs, words, cells, labels, region_key, digest(question))

    def _graph(self, path: Path, *, quantized: bool = False) -> Graph:
        key = path, quantized
        if key not in self.graphs:
            self.graphs[key] = load_model(path, quantized=quantized)
        return self.graphs[key]

    def _pair(self, model: ModelSpec, output: str | int | None = None) -> Pair:
        path = self.source.resolve(model.float_file)
        if isinstance(model.quantized, str):
            quantized = self.source.resolve(model.quantized)
            key = path, (quantized, output)
            if key not in self.pairs:
                graphs = self._graph(path), self._graph(quantized, quantized=True)
                f, q = graphs if output is None else (g.only(output) for g in graphs)
                self.pairs[key] = align(f, q)
            return self.pairs[key]
        how, scale = fixed_point_of(model.quantized.fixed_point), input_scale_of(model)
        made = path, (how, scale)
        if made not in self.pairs:
            self.pairs[made] = align(*build(load_dense(path), how, scale))
        return self.pairs[made]

    def _codec(self, spec: CheckSpec, model: ModelSpec, region: RegionSpec, pair: Pair) -> InputCodec:
        if model.fixed_point is not None and region.domain == "real":
            raise PolicyError(
                "QEB249",
                "networks in fixed point read integers: a region of real inputs means nothing to them",
                where=self.source.where("regions", spec.region),
                found=f"check {printable(spec.id)} has `domain: real`, the default",
                fix="add `domain: grid` to the region",
            )
        codec = InputCodec.of(pair.quantized, model.input_quantization)
        if codec.in_model and model.input_quantization is not None:
            raise PolicyError(
                "QEB244",
                "`input_quantization` is not allowed: the quantized model takes floats and quantizes them itself",
                where=self.source.where("models", spec.model, "input_quantization"),
                found=model.input_quantization,
                fix="remove it",
            )
        if not codec.in_model and region.domain == "real" and model.input_quantization is None:
            raise PolicyError(
                "QEB245",
                "a region of real inputs needs `input_quantization` where the quantized model takes integers",
                where=self.source.where("models", spec.model),
                found=f"input of type {codec.dtype.value}; check {printable(spec.id)} has `domain: real`",
                fix="set `input_quantization: nearest` (or `truncate`), as the application does, or use `domain: grid`",
            )
        return codec

    def _property(self, spec: CheckSpec, pair: Pair, at: tuple[str | int, ...]) -> Property:
        p = spec.property
        if p.kind != "max_lsb":
            size = pair.float.output.size
            if p.kind == "same_top1" and size < 2:
                raise PolicyError(
                    "QEB228", "`same_top1` needs at least two outputs", where=self.source.where(*at), found=str(size)
                )
            outputs = len(set(p.outputs)) if isinstance(p.outputs, list) else 1 if p.outputs == "predicted" else size
            return Property.of_kind(p.kind, p.limit, outputs, floor=p.floor if p.kind == "max_rel" else 0.0)
        out = pair.quantized.output
        if not out.dtype.is_code:
            node = pair.quantized.producer.get(pair.quantized.outputs[0])
            out = pair.quantized.tensors[node.inputs[0]] if node is not None and node.op == "DEQUANTIZE" else out
        if out.quant is None or not out.dtype.is_code:
            raise PolicyError(
                "QEB246",
                "`max_lsb` needs a quantized output, and this model's has no scale",
                where=self.source.where(*at),
                found=f"tensor {out.label} of type {out.dtype.value}",
                fix="use `max_abs`",
            )
        return Property("max_lsb", p.limit, out.q.s)

    def _outputs(self, spec: CheckSpec, pair: Pair, at: tuple[str | int, ...]) -> tuple[int, ...] | None:
        wanted = spec.property.outputs
        size = pair.float.output.size
        if wanted == "predicted":
            return None
        if wanted == "all":
            return tuple(range(size))
        chosen = tuple(sorted(set(wanted)))
        if chosen[-1] >= size:
            raise PolicyError(
                "QEB247",
                "`outputs` names an output that the model does not have",
                where=self.source.where(*at, "outputs"),
                found=f"{chosen[-1]}; there are {size}",
                fix=f"use 0 to {size - 1}",
            )
        if spec.property.kind == "same_top1" and len(chosen) < size:
            raise PolicyError(
                "QEB228",
                "`same_top1` compares all outputs with each other",
                where=self.source.where(*at, "outputs"),
                found=f"{len(chosen)} of {size} outputs",
                fix="leave `outputs` out",
            )
        return chosen

    def _sampling(
        self, spec: CheckSpec, region: RegionSpec, instances: Sequence[Instance], at: tuple[str | int, ...]
    ) -> list[Sampling | None]:
        """What is drawn for each job: from the whole region where statistics are asked for, else from its own cell."""
        from qebgate.engines.statistical import needed

        if spec.level == "proof_or_statistical":
            usual = StatisticalSpec()
            n, sizes = needed(usual.confidence, usual.max_failure_rate), (usual.confidence, usual.max_failure_rate)
            return [
                None if i.cell.line is not None or i.cell.is_point else Sampling((i.cell,), n, *sizes, i.cell.index)
                for i in instances
            ]
        if not isinstance(spec.require, StatisticalRequire):
            return [None] * len(instances)
        s, where = spec.require.statistical, self.source.where(*at[:-1], "require")
        n, rows = needed(s.confidence, s.max_failure_rate), s.distribution == "rows"
        if isinstance(region, SegmentSpec) or (rows and not isinstance(region, PointsSpec)):
            raise PolicyError(
                "QEB229",
                "`distribution: rows` needs a region of kind points" if rows else "nothing is drawn from segments",
                where=where,
                found=f"a region of kind {region.kind}",
                fix="use `distribution: uniform`, or a region of kind points" if rows else "ask for a proof",
            )
        have = len(instances) if rows else s.samples
        if have is not None and have < n:
            raise PolicyError(
                "QEB229",
                "the sample is too small for the confidence and the rate asked for",
                where=where,
                found=f"{have}; even if none of them fails, {n} are needed",
                fix="use more rows, a higher `max_failure_rate` or a lower `confidence`" if rows else f"at least {n}",
            )
        cells = tuple(i.cell for i in instances)
        return [Sampling(cells, have or n, s.confidence, s.max_failure_rate, s.seed, rows)]
