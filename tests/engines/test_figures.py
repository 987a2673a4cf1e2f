"""The figures of the outputs on real models: no input beyond a proven one, no PASS below a seen one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qebgate.adapters import load_model
from qebgate.engines import portfolio
from qebgate.engines.concrete import Inputs, Session, float_outputs, quantized_outputs
from qebgate.evidence import Bound, Witness
from qebgate.ir.align import align
from qebgate.properties import Kind, Property
from qebgate.regions import InputCodec, Region, expand
from qebgate.runtimes.profiles import Runtime
from qebgate.task import Budget, Task, proven, witnessed
from qebgate.verdict import judge

NAMES = ("dense_8_8", "conv_stride", "softmax")
KINDS: tuple[Kind, ...] = ("max_rel", "same_top1", "max_l2")
BUDGET = Budget(enumerate=1 << 12, slopes=8, cells=64, split=16, falsify=1 << 9, branch=8, milp=0)
RADIUS = 0.06


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with Session() as s:
        yield s


def task(models: Path, name: str, kind: Kind, domain: str, runtime: Runtime = Runtime.XNNPACK) -> Task:
    """Around the input where the classes differ most, or come closest to it."""
    pair = align(load_model(models / f"{name}.float.tflite"), load_model(models / f"{name}.int8.tflite"))
    codec = InputCodec.of(pair.quantized, "nearest")
    size = pair.float.output.size
    lo, hi = codec.dtype.code_range
    rng = np.random.default_rng(7)
    codes = rng.integers(lo + 8, hi - 8, (4096, *pair.float.input.shape))
    (cell,) = expand(Region("box", domain="grid", lower=(-1e6,), upper=(1e6,)), codec, pair.float.input.shape)
    t = Task(pair, cell.cell, codec, Property("max_abs", 1.0), tuple(range(size)), runtime)
    some = Inputs.of_codes(t, codes)
    top1 = Property.of_kind("same_top1", 0.0, size)
    row = codec.grid(codes[np.argmax(top1.scores(quantized_outputs(t, some), float_outputs(t, some)))][None])
    (i,) = expand(Region("ball", RADIUS, "real", domain, "real"), codec, pair.float.input.shape, row, [0])  # type: ignore[arg-type]
    return replace(t, cell=i.cell, prop=Property.of_kind(kind, 1e6, size, floor=0.25))


def sample(t: Task, n: int = 20_000) -> Inputs:
    rng = np.random.default_rng(3)
    if t.cell.codes is not None:
        lo, hi = t.cell.codes
        codes = rng.integers(lo, hi + 1, (n, *lo.shape))
        codes[: n // 4] = np.where(rng.random((n // 4, *lo.shape)) < 0.5, lo, hi)
        return Inputs.of_codes(t, codes)
    x = rng.uniform(t.cell.lower, t.cell.upper, (n, *t.cell.lower.shape)).astype(np.float32)
    x[: n // 4] = np.where(rng.random((n // 4, *t.cell.lower.shape)) < 0.5, t.cell.lower, t.cell.upper)
    return Inputs.of_reals(t, x.clip(t.cell.lower.astype(np.float32), t.cell.upper.astype(np.float32)))


@pytest.mark.parametrize("domain", ["grid", "real"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_no_input_beyond_the_proven_figure(models: Path, session: Session, name: str, kind: Kind, domain: str) -> None:
    t = task(models, name, kind, domain)
    evidence = portfolio.run(t, BUDGET, ["probe", "dra", "enumerate"], session=session)
    bounds = [e for e in evidence if isinstance(e, Bound)]
    witnesses = [e for e in evidence if isinstance(e, Witness)]
    v = judge(t.prop, "proof", evidence)
    assert bounds and witnesses and v.proven is not None and v.witnessed is not None
    assert v.witnessed <= v.proven
    inputs = sample(t)
    q, f = quantized_outputs(t, inputs), float_outputs(t, inputs)
    seen = t.prop.scores(q, f)
    for b in bounds:
        assert (seen <= proven(t.prop, b)).all()
        if b.values is not None:
            (flo, fhi), (qlo, qhi) = b.values
            assert ((f >= flo) & (f <= fhi) & (q >= qlo) & (q <= qhi)).all()
    # the same in the runtime itself, at the inputs that look worst
    for row in np.argsort(-seen)[:3]:
        w = session.witness(t, inputs.take(slice(int(row), int(row) + 1)), "test")
        assert witnessed(t.prop, w) <= v.proven
        judge(t.prop, "proof", [*bounds, w])  # the judge finds no contradiction either
    # a limit below what was seen never passes, one at the proven figure always does
    for limit, verdict in ((np.nextafter(v.witnessed, -1.0), "fail"), (v.proven, "pass")):
        if limit >= 0:
            assert judge(replace(t.prop, limit=float(limit)), "proof", evidence).verdict == verdict


def test_classes_do_change_in_these_regions(models: Path, session: Session) -> None:
    """The tests above are about something: the search finds disagreements, and the bound is near them."""
    found = 0
    for name in NAMES:
        t = task(models, name, "same_top1", "grid")
        v = judge(t.prop, "proof", portfolio.run(t, BUDGET, ["probe", "dra", "enumerate"], session=session))
        assert v.witnessed is not None and v.proven is not None
        found += v.witnessed > 0
    assert found == 3


@pytest.mark.parametrize("semantics", ["float32", "real"])
@pytest.mark.parametrize("kind", KINDS)
def test_points(models: Path, session: Session, kind: Kind, semantics: str) -> None:
    """One input: what is proven is what is seen, up to the float side's evaluation error."""
    t = task(models, "dense_8_8", kind, "grid")
    inputs = sample(t, 12)
    for k in range(12):
        codes = t.codec.encode(inputs.x[k])
        x = inputs.x[k].astype(np.float64)
        point = replace(t, cell=replace(t.cell, lower=x, upper=x, codes=(codes, codes), centre=x))
        point = replace(point, float_semantics=semantics)  # type: ignore[arg-type]
        v = judge(point.prop, "proof", portfolio.run(point, BUDGET, ["execute"], session=session))
        assert v.proven is not None and v.witnessed is not None
        assert v.witnessed <= v.proven <= v.witnessed + 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_the_gates_engines_agree_on_small_regions(models: Path, session: Session, kind: Kind) -> None:
    """Bounds are never below the enumerated truth, whatever engine gives them."""
    t = task(models, "dense_8_8", kind, "grid")
    truth = judge(t.prop, "proof", portfolio.run(t, BUDGET, ["enumerate"], session=session))
    assert truth.witnessed is not None and truth.proven is not None
    assert truth.proven - truth.witnessed <= 1e-4
    for name in dict.fromkeys(e.name for e in portfolio.ORDER):
        found = portfolio.run(replace(t, prop=replace(t.prop, limit=0.0)), BUDGET, [name], session=session)
        for e in found:
            assert not isinstance(e, Bound) or proven(t.prop, e) >= truth.witnessed
            assert not isinstance(e, Witness) or witnessed(t.prop, e) <= truth.proven
