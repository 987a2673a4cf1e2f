"""From a policy to jobs: models read and aligned, regions expanded, tasks built, nothing run yet."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from qebgate import several
from qebgate._version import __version__
from qebgate.adapters import load_dense, load_model
from qebgate.adapters.data import fit_rows, load_rows
from qebgate.adapters.fixed_point import FixedPoint, build
from qebgate.adapters.vnnlib import read_boxes
from qebgate.errors import DataError, ModelError, PolicyError, printable
from qebgate.ir.align import align
from qebgate.ir.graph import Graph
from qebgate.ir.pair import Pair
from qebgate.ir.tensor import Array
from qebgate.policy import PolicyFile
from qebgate.policy.demands import StatisticalSpec
from qebgate.policy.messages import did_you_mean
from qebgate.policy.model import (
    BallSpec,
    BoxSpec,
    CheckSpec,
    FixedPointSpec,
    ModelSpec,
    PointsSpec,
    RegionSpec,
    SegmentSpec,
    StatisticalRequire,
    VnnlibSpec,
)
from qebgate.properties import Property
from qebgate.regions import Cell, InputCodec, Instance, JoinedCodec, Preprocess, Region, expand
from qebgate.regions.segment import fit_directions
from qebgate.result import CheckError, RuntimeInfo
from qebgate.runtimes.host import measured
from qebgate.runtimes.profiles import MEMBERS, MICRO, Runtime
from qebgate.semantics.emulation import check_runtime
from qebgate.task import Budget, Sampling
from qebgate.verdict import NothingCheckedError, Require

EFFORT: dict[str, Budget] = {
    "quick": Budget(enumerate=1 << 14, dra=2e10, slopes=0, cells=256, split=64, falsify=1 << 12, branch=0, milp=0),
    "standard": Budget(),
    "deep": Budget(
        enumerate=1 << 24, dra=2e12, lp=300, cells=1 << 16, split=1 << 15, falsify=1 << 18, branch=1 << 15, milp=1 << 14
    ),
}
"""Deterministic work limits of the policy's `effort`."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One task, still without its compared outputs: ``outputs`` None means the class predicted at the centre.

    Holds everything a worker process needs.  ``blocked`` says that the region leaves the input's range
    and the policy forbids it: such a task fails without running.  ``keep``: the best witness is part of the
    result even where it does not break the limit.
    """

    check: str
    pair: Pair
    cell: Cell
    codec: InputCodec
    prop: Property
    outputs: tuple[int, ...] | None
    runtime: Runtime
    info: RuntimeInfo
    float_semantics: str
    preprocess: Preprocess
    require: Require
    engines: tuple[str, ...] | None
    budget: Budget
    blocked: bool
    keep: bool = False
    sampling: Sampling | None = None
    waived: float | None = None
    """The limit of a waiver, tried where the check's own is not met."""


@dataclass(frozen=True, slots=True, eq=False)
class PlannedCheck:
    """A check with its jobs, one per region instance and runtime."""

    spec: CheckSpec
    model: ModelSpec
    pair: Pair
    jobs: tuple[Job, ...]
    assumptions: tuple[str, ...]
    rows: tuple[Cell, ...] = ()
    """Of a region made from data rows."""
    labels: Array | None = None
    """The true class of each row."""
    region_key: str = ""
    question_key: str = ""
    """Digests of the region in real units, and of what is asked about it: bounds of the same two can be compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What would run, and the checks that cannot."""

    checks: tuple[PlannedCheck, ...]
    errors: tuple[CheckError, ...]

    @property
    def tasks(self) -> int:
        return sum(len(c.jobs) for c in self.checks)


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
    rows: dict[tuple[Path, str | None], Array] = field(default_factory=dict[tuple[Path, str | None], Array])

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
        preprocess = _preprocess(model)
        try:
            instances, note = self._expand(region, codec, pair, preprocess)
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
        words = _assumptions(spec, model, region, codec, infos, note, instances, " ".join(cpu_features()))
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
        region_key = self._region_key(region, codec, pair, preprocess)
        labels = self._labels(region)
        return PlannedCheck(spec, model, pair, jobs, words, cells, labels, region_key, _digest(question))

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
        how, scale = _fixed_point(model.quantized.fixed_point), _input_scale(model)
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

    def _expand(
        self, region: RegionSpec, codec: InputCodec, pair: Pair, preprocess: Preprocess
    ) -> tuple[list[Instance], str]:
        if isinstance(codec, JoinedCodec):
            return self._expand_several(region, codec, pair, preprocess)
        _one_input(region, pair)
        shape = pair.quantized.input.shape
        clip = None if region.clip is None else (region.clip[0], region.clip[1])
        if isinstance(region, BoxSpec):
            spec = Region(
                "box", domain=region.domain, clip=clip, lower=_tuple(region.lower), upper=_tuple(region.upper)
            )
            return expand(spec, codec, shape, preprocess=preprocess), "one box of inputs"
        if isinstance(region, VnnlibSpec):
            path = self.source.resolve(region.file)
            boxes = read_boxes(path, math.prod(shape))
            cells: list[Instance] = []
            for k, (lower, upper) in enumerate(boxes):
                spec = Region("box", domain=region.domain, clip=clip, lower=lower, upper=upper)
                (made,) = expand(spec, codec, shape, preprocess=preprocess)
                cells.append(Instance(replace(made.cell, index=k), made.excess))
            return cells, f"{len(boxes)} boxes of {printable(region.file)}"
        path = self.source.resolve(region.data)
        rows = fit_rows(self._array(path, _array_of(region)), shape, where=printable(path))
        indices = _choose(region, len(rows))
        note = f"{len(indices)} of {len(rows)} rows of {printable(region.data)}"
        chosen = np.asarray(indices)
        if isinstance(region, SegmentSpec):
            span = region.range[0], region.range[1]
            spec = Region("segment", 0.0, region.unit, region.domain, region.values, clip, span=span)
            along = None
            if region.direction != "ones":
                along = fit_directions(self._array(path, region.direction), shape, len(rows))[chosen]
            return expand(spec, codec, shape, rows[chosen], indices, preprocess, along), note
        if isinstance(region, BallSpec):
            spec = Region("ball", region.radius, region.unit, region.domain, region.values, clip)
        else:
            spec = Region("points", domain=region.domain, values=region.values, clip=clip)
        return expand(spec, codec, shape, rows[chosen], indices, preprocess), note

    def _expand_several(
        self, region: RegionSpec, codec: JoinedCodec, pair: Pair, preprocess: Preprocess
    ) -> tuple[list[Instance], str]:
        several.check_region(region, preprocess)
        assert isinstance(region, PointsSpec | BallSpec | BoxSpec)
        if isinstance(region, BoxSpec):
            return several.instances_of(region, codec, pair, None, ()), f"one box of {len(codec.parts)} inputs"
        rows = self._several_rows(region, pair)
        indices = _choose(region, len(rows[0]))
        note = f"{len(indices)} of {len(rows[0])} rows of {printable(region.data)}, {len(codec.parts)} inputs each"
        return several.instances_of(region, codec, pair, rows, indices), note

    def _several_rows(self, region: PointsSpec | BallSpec, pair: Pair) -> list[Array]:
        path = self.source.resolve(region.data)
        return several.rows_of(region, pair, lambda name: self._array(path, name), printable(path))

    def _labels(self, region: RegionSpec) -> Array | None:
        """The true classes of the region's rows."""
        if not isinstance(region, PointsSpec | BallSpec | SegmentSpec) or region.labels is None:
            return None
        path = self.source.resolve(region.data)
        y, n = self._array(path, region.labels), len(self._array(path, _array_of(region)))
        if y.size != n or not np.issubdtype(y.dtype, np.integer):
            raise DataError(
                "QEB496",
                "`labels` needs one whole number for each row of the data",
                where=f"{printable(path)}: array {printable(region.labels)}",
                found=f"shape {y.shape}, dtype {y.dtype}; {n} rows",
            )
        return y.ravel()[_choose(region, n)]

    def _region_key(self, region: RegionSpec, codec: InputCodec, pair: Pair, pre: Preprocess) -> str:
        """A digest of the region in real units, whatever the quantized input can represent of it."""
        about: list[object] = [region.kind, region.domain, region.clip, pre.scale, pre.mean, pre.std]
        if isinstance(codec, JoinedCodec):
            assert isinstance(region, PointsSpec | BallSpec | BoxSpec)
            rows = None if isinstance(region, BoxSpec) else self._several_rows(region, pair)
            indices = [] if rows is None or isinstance(region, BoxSpec) else _choose(region, len(rows[0]))
            return _digest([*about, several.key_of(region, codec, pair, rows, indices)])
        if isinstance(region, BoxSpec):
            return _digest([*about, _tuple(region.lower), _tuple(region.upper)])
        if isinstance(region, VnnlibSpec):
            size = math.prod(pair.quantized.input.shape)
            return _digest([*about, read_boxes(self.source.resolve(region.file), size)])
        path = self.source.resolve(region.data)
        rows = self._array(path, _array_of(region))
        codes = region.values == "codes"
        x = (codec.grid(rows) if codes else rows.astype(np.float32))[_choose(region, len(rows))]
        unit = codec.scale if not isinstance(region, PointsSpec) and region.unit == "lsb" else 1.0
        data = hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()
        about += [codes, list(x.shape), data]
        if isinstance(region, BallSpec):
            about.append(region.radius * unit)
        elif isinstance(region, SegmentSpec):
            along = region.direction
            if along != "ones":
                along = hashlib.sha256(self._array(path, along).astype(np.float64).tobytes()).hexdigest()
            about += [along, region.range[0] * unit, region.range[1] * unit]
        return _digest(about)

    def _array(self, path: Path, name: str | None) -> Array:
        """An array of a data file, read once."""
        key = path, name
        if key not in self.rows:
            self.rows[key] = load_rows(path, name)
        return self.rows[key]


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _choose(region: PointsSpec | BallSpec | SegmentSpec, n: int) -> list[int]:
    """Which rows of the data are used."""
    if region.sample is not None:
        if region.sample > n:
            raise PolicyError(
                "QEB248",
                "`sample` asks for more rows than there are",
                found=f"{region.sample} of {n}",
                fix=f"at most {n}",
            )
        chosen = np.random.default_rng(region.seed or 0).choice(n, region.sample, replace=False)
        return sorted(int(i) for i in chosen)
    return list(range(n if region.limit is None else min(region.limit, n)))


def _array_of(region: PointsSpec | BallSpec | SegmentSpec) -> str | None:
    """The array that has the rows; of several inputs' the first, which has as many as the others."""
    return region.array if region.arrays is None else next(iter(region.arrays.values()))


def _one_input(region: RegionSpec, pair: Pair) -> None:
    """PolicyError where a region names inputs that a model of one input does not have."""
    arrays = None if isinstance(region, BoxSpec | VnnlibSpec) else region.arrays
    own = region.inputs if isinstance(region, PointsSpec | BallSpec | BoxSpec) else None
    names = {*pair.quantized.input_names, *pair.float.input_names}
    if own is not None or (arrays is not None and (len(arrays) != 1 or not set(arrays) <= names)):
        raise PolicyError(
            "QEB253",
            f"`{'arrays' if own is None else 'inputs'}` is about several inputs, and the model has one",
            found=", ".join(printable(n, 60) for n in (own or arrays or {})),
            fix="use `array: NAME`" if own is None else "state it for the region itself",
        )


def _tuple(value: float | list[float]) -> tuple[float, ...]:
    return tuple(float(v) for v in value) if isinstance(value, list) else (float(value),)


def _fixed_point(s: FixedPointSpec) -> FixedPoint:
    i = s.input
    return FixedPoint(
        s.bits, s.weight_int_bits, s.bias_int_bits, s.activation_int_bits, i.bits, i.signed, i.int_bits
    )  # fmt: skip


def _input_scale(model: ModelSpec) -> Fraction | None:
    return None if isinstance(model.float_, str) else model.float_.scale


def _preprocess(model: ModelSpec) -> Preprocess:
    p = model.preprocess
    return Preprocess() if p is None else Preprocess(_tuple(p.scale), _tuple(p.mean), _tuple(p.std))


def _assumptions(
    spec: CheckSpec,
    model: ModelSpec,
    region: RegionSpec,
    codec: InputCodec,
    infos: Sequence[RuntimeInfo],
    rows: str,
    instances: Sequence[Instance],
    cpu: str,
) -> tuple[str, ...]:
    """What the verdict is about, in words."""
    how = model.fixed_point
    if how is not None:
        own = _fixed_point(how).input_scale
        scale = _input_scale(model) or own
        words = [
            "networks in fixed point have no deployed runtime: witnesses are replayed in qebgate's exact evaluator",
            f"both networks read the same integers: times {scale} (float), times {own} (quantized)",
        ]
    else:
        names = ", ".join(str(i) for i in infos)
        words = [f"covers {names} on {cpu}, and no other runtime or processor: their roundings differ"]
        if not measured():
            words = [f"covers the x86-64 kernels of {names}, not those of this machine ({cpu}): they were not measured"]
        if Runtime.ENVELOPE.value in model.runtimes:
            members = ", ".join(r.value for r in MEMBERS)
            words.append(f"envelope: holds in each of {members}; ARM kernels are not claimed")
        if {Runtime.ENVELOPE, *MICRO} & {Runtime(n) for n in model.runtimes}:
            about = "its kernels were read in its source (2024 and later), and none runs here"
            words.append(f"TensorFlow Lite Micro is emulated, not replayed: {about}")
    if model.float_semantics == "float32":
        words.append("the float reference is evaluated in float32, in any order of summation")
    else:
        words.append("the float reference is taken in exact real arithmetic")
    if not codec.has_grid:
        words.append("the quantized model computes on its float input")
    elif codec.in_model:
        words.append("the quantized model quantizes its float input itself")
    elif how is None and region.domain == "grid" and model.input_quantization is None:
        words.append("data rows are quantized to the nearest code")
    elif how is None:
        ties = ", ties either way" if codec.mode == "nearest" else ""
        by = "rounding to nearest" if codec.mode == "nearest" else "truncation"
        words.append(f"the application quantizes inputs by {by}{ties}, and saturates")
    domain = (
        "every point of the lines"
        if isinstance(region, SegmentSpec) and region.domain == "real"
        else "every code vector that the lines round to"
        if isinstance(region, SegmentSpec)
        else "every float32 input of the region"
        if region.domain == "real"
        else "every input that the quantized input represents"
    )
    words.append(f"domain {region.domain}: {domain}; {rows}")
    if isinstance(region, SegmentSpec) and region.domain == "real":
        words.append(
            "points of a line become the codes of exact division, ties either way for all entries at once; "
            "entries that change within 2^-12 quanta of each other change at once"
        )
    if model.preprocess is not None:
        words.append("raw inputs are preprocessed in float32 as the policy says")
    if spec.level == "tested":
        words.append("a pass without a proof means that a search found no counterexample")
    beyond = max((i.excess for i in instances), default=0.0)
    if beyond > 0 and region.out_of_range == "allow":
        words.append(f"inputs reach beyond the quantized input's range by up to {beyond:.6g}")
    return tuple(words)
