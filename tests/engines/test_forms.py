"""Forms and bisection as an engine, the composed float network, and sweeps: against everything executed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qebgate.engines import enumerate as enumeration
from qebgate.engines import portfolio, sweep
from qebgate.engines.bisection import Cut
from qebgate.engines.concrete import Inputs, Session, gaps, quantized_outputs
from qebgate.engines.enumerate import Enumerate, all_codes
from qebgate.engines.forms import bisect, collapse
from qebgate.engines.forms.engine import Forms
from qebgate.engines.forms.network import Network
from qebgate.engines.guard import GuardedStop
from qebgate.errors import UnsupportedError
from qebgate.evidence import Bound, Stopped, Witness
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.execute import run_float, run_int
from qebgate.task import Budget, Task
from qebgate.verdict import judge
from tests.engines.test_reached import few_free
from tests.engines.test_real_inputs import _codes, _near
from tests.engines.tiny import ENTRIES, outside, tiny
from tests.laws.forms import network
from tests.laws.pairs import codec_of, random_pair, task_of

EXACT = 2.0**-55
FEW = Budget(enumerate=1, cells=60)


@pytest.fixture(scope="module")
def session():
    with Session() as s:
        yield s


def run(task: Task, budget: Budget, session: Session) -> tuple[Bound, list[Witness]]:
    found = Forms().run(task, [], budget, session)
    (bound,) = (e for e in found if isinstance(e, Bound))
    return bound, [e for e in found if isinstance(e, Witness)]


USUAL = ("dense_4-float_io", "linear-int8", "max_pool-int8")
NAMES = sorted(n for n in ENTRIES if not n.endswith("per_tensor"))[::4]


@pytest.mark.parametrize("name", [n if n in USUAL else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_whole_grids_and_boxes(name: str, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every input of the tiny models, before and after bisection, with and without executed leaves."""
    t = tiny(name)
    rng = np.random.default_rng(sum(name.encode()))
    for k, runtime in enumerate(DEPLOYED):
        monkeypatch.setattr(bisect, "LEAF", (1, 300)[k % 2])
        q = t.quantized(runtime).astype(np.longdouble)
        cell = t.whole if k == 0 else t.box(rng)
        if cell.is_point:
            continue
        rows = t.rows(cell)
        floats, h, error = (("float32", t.float32, 0.0), ("real", t.real, EXACT))[k % 2]
        gap = q[rows] - h[rows]
        task = t.task(cell, runtime, floats, limit=1e-9)  # type: ignore[arg-type]
        task = replace(task, prop=replace(task.prop, limit=1.0001 * float(np.abs(gap).max())))
        widths = []
        for cells in (0, 15, 80):
            bound, witnesses = run(task, replace(FEW, cells=cells), session)
            assert bound.trust == "certified"
            assert outside(bound.lower, bound.upper, gap, error) == 0
            slack = 1e-5 if floats == "float32" else EXACT
            assert all((bound.lower - slack <= w.gap).all() and (w.gap <= bound.upper + slack).all() for w in witnesses)
            widths.append((bound.upper - bound.lower).max())
        assert widths[0] >= widths[1] >= widths[2]


@pytest.mark.parametrize("mode", ["nearest", "truncate"])
@pytest.mark.parametrize("name", ["linear-int8", "linear-uint8", "dense_large-int8", "conv-int8"])
def test_real_inputs_rounded_in_any_way(name: str, mode: str, session: Session) -> None:
    t = tiny(name)
    codec = InputCodec.of(t.pair.quantized, mode)  # type: ignore[arg-type]
    rng = np.random.default_rng(7)
    least, most = codec.dtype.code_range
    shape = t.pair.quantized.input.shape
    for k in range(6):
        middle = (rng.uniform(least - 3, most + 3, shape) - codec.zero_point) * codec.scale
        r = codec.scale * float(rng.choice([0.2, 0.6, 2.0, 30.0]))
        lo, hi = ((middle + d).astype(np.float32).astype(np.float64) for d in (-r, r))
        runtime, floats = DEPLOYED[k % 3], ("float32", "real")[k % 2]
        task = task_of(t.pair, Cell(lo, hi, None, 0, middle), codec, runtime, floats, limit=1e-3)  # type: ignore[arg-type]
        bound, _ = run(task, FEW, session)
        x = _near(codec, lo, hi, rng, 400)
        dtype, error = (np.float32, 0.0) if floats == "float32" else (np.longdouble, EXACT)
        h = run_float(t.pair.float, x, dtype=dtype)[t.pair.float.outputs[0]]  # type: ignore[arg-type]
        for way in ("divide", "reciprocal", "double", "late"):
            y = run_int(t.pair.quantized, _codes(codec, x, way), runtime)[t.pair.quantized.outputs[0]]
            gap = t.pair.quantized.output.q.dequantize(y).astype(np.longdouble) - h
            assert outside(bound.lower, bound.upper, gap.reshape(len(x), -1), error) == 0, (way, lo, hi)


@pytest.mark.parametrize("name", ["linear-float_io", "dense_8_8-float_io", "max_pool-float_io"])
def test_real_inputs_of_models_that_quantize_themselves(name: str, session: Session) -> None:
    t = tiny(name)
    rng = np.random.default_rng(8)
    shape = t.pair.quantized.input.shape
    for k in range(6):
        middle = (rng.uniform(-140, 140, shape) - t.codec.zero_point) * t.codec.scale
        r = t.codec.scale * float(rng.choice([0.2, 0.6, 2.0, 30.0]))
        lo, hi = ((middle + d).astype(np.float32).astype(np.float64) for d in (-r, r))
        task = task_of(t.pair, Cell(lo, hi, None, 0, middle), t.codec, DEPLOYED[k % 3], "float32", limit=1e-3)
        bound, _ = run(task, FEW, session)
        x = _near(t.codec, lo, hi, rng, 400)
        y = run_int(t.pair.quantized, x, DEPLOYED[k % 3])[t.pair.quantized.outputs[0]].astype(np.longdouble)
        h = run_float(t.pair.float, x, dtype=np.float32)[t.pair.float.outputs[0]]
        assert outside(bound.lower, bound.upper, (y - h).reshape(len(x), -1)) == 0


def test_real_boxes_are_split_beside_ties(session: Session) -> None:
    """A split next to a tie leaves one code on one side of it: more cells, a tighter bound."""
    t = tiny("dense_large-int8")
    s = t.codec.scale
    centre = (np.array([[5.0, -20.0]]) - t.codec.zero_point) * s
    lo, hi = (np.float32(centre + v * s).astype(np.float64) for v in (-2.3, 2.3))
    task = task_of(t.pair, Cell(lo, hi, None, 0, centre), t.codec, Runtime.BUILTIN, "real", limit=1e-6)
    task = replace(task, prop=replace(task.prop, limit=1e3))
    first, _ = run(task, replace(FEW, cells=0), session)
    wanted = 0.99 * max(-first.lower.min(), first.upper.max())
    last, _ = run(replace(task, prop=replace(task.prop, limit=wanted)), replace(FEW, cells=300), session)
    assert max(-last.lower.min(), last.upper.max()) <= max(-first.lower.min(), first.upper.max())
    cut = Cut(t.codec)
    at = cut(0, float(lo[0, 0]), float(hi[0, 0]))
    assert lo[0, 0] < at < hi[0, 0]
    assert 1e-5 < abs((at / s - 0.5) - np.round(at / s - 0.5)) < 1e-3


@pytest.mark.parametrize("name", ["dense_8_8-int8", "max_pool-int8"])
def test_verdicts_on_both_sides_of_the_truth(name: str, session: Session) -> None:
    t = tiny(name)
    for runtime in DEPLOYED[:1]:
        truth = float(np.abs(t.quantized(runtime).astype(np.longdouble) - t.float32).max())
        for factor, expected in ((1.02, "pass"), (0.98, "fail")):
            task = t.task(t.whole, runtime, limit=factor * truth)
            found = portfolio.run(task, replace(FEW, cells=4000), engines=("forms",), session=session)
            assert judge(task.prop, "proof", found).verdict == expected


def test_where_it_does_not_apply(session: Session) -> None:
    t = tiny("linear-int8")
    task = t.task(t.whole, Runtime.BUILTIN)
    assert Forms().run(task, [], Budget(enumerate=65_536), session) == []
    assert Forms().run(t.task(t.cell(np.zeros(2), np.zeros(2)), Runtime.BUILTIN), [], FEW, session) == []


def test_a_guard_loses_no_cell(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at any moment, what is proven so far still holds."""
    t = tiny("dense_8_8-int8")
    gap = t.quantized(Runtime.BUILTIN).astype(np.longdouble) - t.real
    task = t.task(t.whole, Runtime.BUILTIN, "real", limit=1.1 * float(np.abs(gap).max()))
    monkeypatch.setattr(bisect, "LEAF", 50)
    monkeypatch.setattr(bisect, "BATCH", 3)
    real = Network.values
    for after in (1, 3, 8):
        calls = 0

        def values(self, cells, symbols=0, after=after):
            nonlocal calls
            calls += 1
            if calls > after:
                raise GuardedStop("guard_time", "stopped")
            return real(self, cells, symbols)

        monkeypatch.setattr(Network, "values", values)
        found = Forms().run(task, [], FEW, session)
        assert any(isinstance(e, Stopped) and e.reason == "guard_time" for e in found)
        (bound,) = (e for e in found if isinstance(e, Bound))
        assert outside(bound.lower, bound.upper, gap, EXACT) == 0


def test_an_overflowing_reference_is_refused(session: Session) -> None:
    from tests.laws.pairs import float_twin, load
    from tests.support.tflite_builder import Builder

    b = Builder()
    x = b.tensor((1, 4), "int8", scale=1e5)
    w = b.tensor((4, 4), "int8", data=np.full((4, 4), 127), scale=1e30)
    y = b.tensor((1, 4), "int8", scale=1e36)
    b.op("FULLY_CONNECTED", [x, w, -1], [y], version=4)
    model = b.build([x], [y])
    pair = load(float_twin(model, np.random.default_rng(0)), model).pair
    cell = few_free(pair, np.random.default_rng(1), 3)
    with pytest.raises(UnsupportedError, match="overflow"):
        Forms().run(task_of(pair, cell, codec_of(pair), Runtime.BUILTIN), [], FEW, session)


@pytest.mark.parametrize("seed", range(16))
def test_the_composed_float_network(seed: int) -> None:
    """Within its own error of an execution in 80-bit arithmetic, without tolerance."""
    pair, rng = random_pair(200 + seed).pair, np.random.default_rng(seed)
    pair = pair.at("logits")
    task = task_of(pair, few_free(pair, rng, 5), codec_of(pair), Runtime.BUILTIN, "real")
    net = network(task, 8)
    floats = collapse.collapsed(net, task.outputs)
    if floats is None:
        pytest.skip("an operator that does not compose")
    assert task.cell.codes is not None
    lo, hi = task.cell.codes
    codes = np.concatenate(
        [np.where(rng.random((40, *lo.shape)) < 0.5, lo, hi), rng.integers(lo, hi + 1, (100, *lo.shape))]
    )
    x = task.codec.grid(codes)
    exact = run_float(pair.float, x, dtype=np.longdouble)[pair.float.outputs[0]].reshape(len(x), -1)  # type: ignore[arg-type]
    got = floats.run(x.reshape(len(x), -1)[:, net.free].astype(np.float64))
    own = 2.0**-58 * np.abs(exact).max()
    assert (np.abs(got - exact) <= floats.error + own).all()
    assert (floats.error <= 1e-9 * (1.0 + np.abs(exact).max())).all()
    assert floats.variables >= net.free.size


def swept(task: Task, session: Session, monkeypatch: pytest.MonkeyPatch, many: int) -> tuple[Bound, Witness] | None:
    """Enumeration that sweeps whatever its size, leaving out outputs from ``many`` on; None where it does not apply."""
    monkeypatch.setattr(enumeration, "LEAST_SWEPT", 1)
    monkeypatch.setattr(sweep, "_MANY", many)
    monkeypatch.setattr(sweep, "_WORTH", np.inf)
    small = enumeration.reached(task)
    if small is None or sweep.prepared(task, small) is None:
        return None
    bound, witness = Enumerate().run(task, [], Budget(), session)
    assert isinstance(bound, Bound) and isinstance(witness, Witness)
    return bound, witness


@pytest.mark.parametrize("many", [1, 100])
@pytest.mark.parametrize("name", sorted(n for n in ENTRIES if n.endswith("-int8"))[::2])
def test_sweeps_of_tiny_models(name: str, many: int, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    t = tiny(name)
    rng = np.random.default_rng(3)
    for k, runtime in enumerate(DEPLOYED):
        cell = t.box(rng)
        if cell.is_point:
            continue
        floats, h, error = (("float32", t.float32, 0.0), ("real", t.real, EXACT))[k % 2]
        found = swept(t.task(cell, runtime, floats), session, monkeypatch, many)  # type: ignore[arg-type]
        if found is None:
            continue
        gap = t.quantized(runtime)[t.rows(cell)].astype(np.longdouble) - h[t.rows(cell)]
        assert outside(found[0].lower, found[0].upper, gap, error) == 0
        worst = max(-found[0].lower.min(), found[0].upper.max())
        assert worst <= float(np.abs(gap).max()) + (1e-3 if floats == "float32" else 1e-9)
        assert np.abs(found[1].gap).max() >= float(np.abs(gap).max()) - 1e-3


@pytest.mark.parametrize("many", [1, 100])
def test_sweeps_of_random_networks(many: int, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    from qebgate.engines import memo

    used = tables = left = 0
    for seed in range(24):
        pair, rng = random_pair(seed).pair.at("logits"), np.random.default_rng(seed)
        cell = few_free(pair, rng, 2)
        task = task_of(pair, cell, codec_of(pair), DEPLOYED[seed % 3], "real")
        assert cell.count is not None
        if cell.count > 5000 or cell.is_point:
            continue
        monkeypatch.setattr(memo, "_WORTH", np.inf)
        small = enumeration.reached(task)
        tables += small is not None and small.table is not None
        truth = np.concatenate([gaps(task, Inputs.of_codes(task, c)) for c in all_codes(cell, 4096)])
        # the witness needs files: the bounds only
        monkeypatch.setattr(sweep, "_MANY", many)
        monkeypatch.setattr(sweep, "_WORTH", np.inf)
        ready = None if small is None else sweep.prepared(task, small)
        if ready is None:
            continue
        lo, hi, codes, trust = ready.extremes(lambda _: None)
        used += 1
        left += trust == "certified"
        size = 1e-12 * (1.0 + np.abs(truth).max())
        assert (lo - size <= truth).all() and (truth <= hi + size).all()
        assert abs(max(-lo.min(), hi.max()) - np.abs(truth).max()) <= 1e-9 * (1.0 + np.abs(truth).max())
        x = Inputs.of_codes(task, ready.small.whole(codes))
        assert abs(np.abs(gaps(task, x)).max() - np.abs(truth).max()) <= 1e-9 * (1.0 + np.abs(truth).max())
        assert quantized_outputs(task, x).shape == (1, lo.size)
    assert used >= 6 and tables >= 1
    assert (left > 0) == (many == 1)
