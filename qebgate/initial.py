"""A starting policy from two models and some data: what was measured decides what it asks.

The gaps on the data give the limit of the points.  Then balls around some rows are doubled until the gate
can no longer prove a limit that is still useful (:data:`SHARE` of what the float outputs span on the data);
the largest that it can is proposed, with headroom.  Where none can be proven, regions that can always be
decided are offered instead: the rows, a segment through each, and a statistical check.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from pathlib import Path
from typing import Any

import numpy as np

from qebgate import gate
from qebgate.adapters import load_model
from qebgate.adapters.data import fit_rows, load_rows
from qebgate.errors import DataError, PolicyError, printable
from qebgate.ir.align import align
from qebgate.ir.pair import FINAL, Pair
from qebgate.ir.tensor import Array
from qebgate.policy import parse_policy
from qebgate.regions import InputCodec
from qebgate.result import CheckResult
from qebgate.semantics.execute import run_float

POINTS, TRIED, ROWS = 100, 3, 10
"""Rows that are executed; rows around which balls are tried; rows of the proposed check."""
SHARE = 0.1
"""A limit is useful where it is at most this share of what the outputs span."""
HEADROOM = 1.25
LARGEST = 32
"""Largest radius tried, in codes of the quantized input."""
STEP = 8
"""Codes either way of the segments offered instead."""
GUARD = {"per_task": "20s", "total": "120s", "memory": "8GiB"}
ANY = 1e30
"""A limit that nothing reaches: the question is only how large the gap is."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where models and data are, as the policy will name them, and how the data is to be read."""

    float_model: Path
    quantized_model: Path
    data: Path | None
    array: str | None = None
    values: str | None = None


@dataclass(frozen=True, slots=True)
class Ball:
    """The largest ball that was proven: ``radius`` codes, ``limit`` with headroom; ``proven`` and ``witnessed``."""

    radius: int
    limit: float
    proven: float
    witnessed: float


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured; figures in real units of the compared ``tensor``.

    ``points``: the gap on ``rows`` of the data, ``limit`` with headroom; ``span``: what the float outputs span there;
    ``ball`` is None where nothing useful could be proven, and ``why`` says what was tried.  ``seen``: the gap on the
    ``segment``, where that is offered.
    """

    sources: Sources
    tensor: str
    integer_input: bool
    rows: int
    points: float
    limit: float
    span: float
    ball: Ball | None
    why: str
    segment: float | None


def measure(sources: Sources, say: Say) -> Found:
    """Measure two models on some data; raises what reading and aligning them raises."""
    pair = align(load_model(sources.float_model), load_model(sources.quantized_model))
    if pair.quantized.parts:
        raise PolicyError(
            "QEB254",
            "a starting policy cannot be measured for a model of several inputs",
            where=pair.quantized.source.label,
            found=", ".join(p.label for p in pair.quantized.parts),
            fix="write one with `arrays: {INPUT: ARRAY}`, see docs/policy.md",
        )
    codec = InputCodec.of(pair.quantized)
    rows = _rows(sources, pair, codec)
    tensor = "logits" if pair.quantized.nodes[-1].op in FINAL or _curved(pair) else "output"
    span = _span(pair, rows, codec, tensor, sources)
    ask = _Asker(sources, tensor, not codec.in_model, say)
    ask.check_data(rows)
    n = min(len(rows), POINTS)
    say(f"running both models on {n} rows")
    points = ask({"kind": "points", "limit": n}, ANY)
    gap = _figure(points)
    limit = nice(HEADROOM * gap)
    say(f"the largest gap there is {gap:.4g}; the float outputs span {span:.4g}")
    useful = nice(max(2 * gap, SHARE * span))
    ball, why = _largest_ball(ask, useful, span, min(len(rows), ROWS), say)
    segment = None
    if ball is None:
        say("no ball can be proven usefully: measuring segments instead")
        found = ask({"kind": "segment", "limit": min(len(rows), ROWS), "direction": "ones", "range": [-STEP, STEP],
                     "unit": "lsb"}, ANY)  # fmt: skip
        segment = None if found.proven is None else nice(HEADROOM * found.proven)
    return Found(sources, tensor, not codec.in_model, n, gap, limit, span, ball, why, segment)


def _rows(sources: Sources, pair: Pair, codec: InputCodec) -> Array:
    if sources.data is None:
        raise PolicyError(
            "QEB235",
            "a starting policy needs inputs to measure",
            where="--data",
            fix="give --data X.npz, an array with one input per row; `qebgate data pack` makes one of images or arrays",
        )
    rows = fit_rows(load_rows(sources.data, sources.array), pair.float.input.shape, printable(sources.data))
    if np.issubdtype(rows.dtype, np.integer) and sources.values is None:
        raise DataError(
            "QEB241",
            "the data holds integers: say what they are",
            where=printable(sources.data),
            found=f"dtype {rows.dtype}",
            fix="--values codes (of the quantized input) or --values real",
        )
    del codec
    return rows


def _curved(pair: Pair) -> bool:
    return pair.float.nodes[-1].op in FINAL


def _span(pair: Pair, rows: Array, codec: InputCodec, tensor: str, sources: Sources) -> float:
    """Largest minus smallest float output on the first rows, of one row at a time (each output has its own offset)."""
    x = codec.grid(rows[:POINTS]) if sources.values == "codes" else rows[:POINTS]
    graph = pair.float
    which = graph.nodes[-1].inputs[0] if tensor == "logits" and _curved(pair) else graph.outputs[0]
    out = run_float(graph, x, keep=(which,))[which].reshape(len(x), -1)
    per_row = out.max(axis=1) - out.min(axis=1)
    across = out.max(axis=0) - out.min(axis=0)
    return float(max(per_row.max(initial=0.0), across.max(initial=0.0)))


@dataclass
class _Asker:
    """Asks the gate one question about a region."""

    sources: Sources
    tensor: str
    integer_input: bool
    say: Say

    def __call__(self, region: dict[str, Any], limit: float) -> CheckResult:
        source = parse_policy(self.policy(region, limit), "qebgate init", Path())
        report = gate.check(source)
        for e in report.errors:
            raise e.error
        return report.checks[0]

    def policy(self, region: dict[str, Any], limit: float) -> dict[str, Any]:
        s = self.sources
        data = {"data": str(s.data), "array": s.array, "values": s.values}
        region = {**region, **{k: v for k, v in data.items() if v is not None}, "domain": "grid"}
        region |= {"out_of_range": "allow"}
        model: dict[str, Any] = {"float": str(s.float_model), "quantized": str(s.quantized_model)}
        if self.integer_input:
            model["input_quantization"] = "nearest"
        asked = {"id": "init", "model": "m", "region": "r"}
        asked |= {"property": {"kind": "max_abs", "limit": limit, "tensor": self.tensor}}
        checks = [{**asked, "on_unknown": "warn"}]
        return {"version": 1, "models": {"m": model}, "regions": {"r": region}, "checks": checks, "guard": GUARD}

    def check_data(self, rows: Array) -> None:
        """Nothing to measure on nothing."""
        if len(rows) == 0:
            raise DataError("QEB442", "the data has no rows", where=printable(self.sources.data))


def _largest_ball(ask: _Asker, useful: float, span: float, rows: int, say: Say) -> tuple[Ball | None, str]:
    """Double the radius while the useful limit is proven around a few rows; then all rows of the proposal."""
    last = 0
    first: CheckResult | None = None
    radius = 1
    while radius <= LARGEST:
        say(f"balls of {radius} codes around {min(rows, TRIED)} rows, limit {useful:.4g}")
        found = _ball(ask, radius, useful, min(rows, TRIED))
        first = first or found
        if found.verdict != "pass":
            break
        last, radius = radius, 2 * radius
    while last > 0:
        say(f"balls of {last} codes around {rows} rows")
        found = _ball(ask, last, useful, rows)
        if found.verdict == "pass" and found.proven is not None:
            limit = min(useful, nice(HEADROOM * found.proven))
            return Ball(last, limit, found.proven, found.witnessed or 0.0), ""
        last //= 2
    assert first is not None
    return None, _why(first, span)


def _ball(ask: _Asker, radius: int, limit: float, rows: int) -> CheckResult:
    return ask({"kind": "ball", "radius": radius, "unit": "lsb", "limit": rows}, limit)


def _why(found: CheckResult, span: float) -> str:
    """Why not even the smallest ball is any good, in the figures that were measured."""
    proven = [t.proven for t in found.tasks if t.proven is not None and math.isfinite(t.proven)]
    if not proven:
        said = "no bound was proven"
    elif max(proven) >= span:
        said = "no useful bound was proven (it is beyond what the outputs span)"
    else:
        said = f"the proven bound was {max(proven):.4g}"
    return f"with every input 1 code off, {said}; the largest gap found was {found.witnessed or 0.0:.4g}"


def _figure(c: CheckResult) -> float:
    if c.proven is None or not math.isfinite(c.proven):
        raise DataError("QEB442", "the models' gap on the data could not be measured", found=c.reason)
    return c.proven


def nice(x: float) -> float:
    """``x`` in two digits, rounded up."""
    if x <= 0:
        return 1e-9
    return float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(Decimal(x)))


def write_policy(found: Found, folder: Path) -> str:
    """The commented policy; paths are relative to ``folder``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    env = Environment(
        loader=PackageLoader("qebgate", "templates"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=select_autoescape(),  # of HTML only: in YAML every name goes through `quote`
    )  # fmt: skip
    env.filters["quote"] = quote
    env.filters["figure"] = figure
    paths = {k: _relative(p, folder) for k, p in _paths(found.sources)}
    return env.get_template("policy.yaml.j2").render(f=found, s=found.sources, paths=paths, step=STEP, rows=ROWS)


def _paths(s: Sources) -> Sequence[tuple[str, Path]]:
    assert s.data is not None
    return (("float", s.float_model), ("quantized", s.quantized_model), ("data", s.data))


def figure(x: float) -> str:
    """A number as the policy language reads it: ``0.25``, ``1.0e-05``."""
    text = repr(float(x))
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent if exponent[0] in '+-' else '+' + exponent}"


def quote(text: object) -> str:
    """A string as YAML (JSON's strings are YAML's double-quoted ones)."""
    return json.dumps(str(text), ensure_ascii=True)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
