"""Converted LSTMs: exact in every runtime, started anew for every input, and bounded around it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.domains import drift
from qebgate.domains.gap import Gap, Interval
from qebgate.domains.layers import Opaque
from qebgate.engines import portfolio
from qebgate.engines.concrete import Inputs, Session, gaps
from qebgate.engines.dra.analysis import Settings
from qebgate.engines.execute import Execute
from qebgate.errors import AlignmentError, UnsupportedError
from qebgate.evidence import Bound, Witness
from qebgate.gate import check
from qebgate.ir.align import align
from qebgate.ir.pair import Pair
from qebgate.numerics.gemmlowp import logistic, tanh
from qebgate.ops import lstm_steps
from qebgate.ops.registry import lower
from qebgate.policy import parse_policy
from qebgate.regions.cell import Cell
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.runtimes.replay import Replayer
from qebgate.semantics.execute import run_float, run_int
from qebgate.semantics.unidirectional_sequence_lstm import int16, sigmoid_table, tanh_table
from qebgate.task import Budget, Task
from tests.laws.contain import Seen, samples
from tests.laws.contain import check as contain
from tests.laws.pairs import codec_of, task_of
from tests.semantics.compare import interpret, load
from tests.semantics.lstm_cases import OP, lstm_parts
from tests.support.tflite_builder import Builder

FOLDER = Path(__file__).resolve().parents[1] / "models" / "recurrent"
NAMES = ("last", "steps")


def pair_of(name: str, kind: str = "int8") -> Pair:
    return align(*(read_tflite(FOLDER / f"{name}.{k}.tflite") for k in ("float", kind)))


def inputs_of(pair: Pair, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-128, 128, (count, *pair.quantized.input.shape)).astype(np.int8)


def task_around(pair: Pair, free: int, radius: int, seed: int = 0, floats: str = "float32") -> Task:
    """A few free inputs, each within so many quanta."""
    rng = np.random.default_rng(seed)
    base = rng.integers(-100, 101, pair.quantized.input.shape)
    lo, hi = base.copy(), base.copy()
    at = rng.choice(base.size, free, replace=False)
    lo.flat[at], hi.flat[at] = base.flat[at] - radius, base.flat[at] + radius
    codec = codec_of(pair, rng)
    lower, upper, centre = (codec.grid(c.astype(np.int32)).astype(np.float64) for c in (lo, hi, base))
    cell = Cell(lower, upper, (lo.astype(np.int32), hi.astype(np.int32)), 0, centre)
    return task_of(pair, cell, codec, Runtime.BUILTIN, floats)


# -- execution -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1000, pytest.param(30_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("runtime", DEPLOYED)
@pytest.mark.parametrize("name", NAMES)
def test_integers_are_those_of_every_runtime(name: str, runtime: Runtime, count: int) -> None:
    path = FOLDER / f"{name}.int8.tflite"
    graph = read_tflite(path)
    x = inputs_of(pair_of(name), count)
    theirs, _ = interpret(path.read_bytes(), x, runtime)
    np.testing.assert_array_equal(run_int(graph, x, runtime)[graph.outputs[0]], theirs)
    assert len(np.unique(theirs)) > 100


def test_no_invocation_sees_the_state_that_another_left() -> None:
    """In the runtime, a state that is not reset is the next call's beginning."""
    path = FOLDER / "last.int8.tflite"
    x = inputs_of(pair_of("last"), 6)
    with Replayer(path, Runtime.BUILTIN) as r:
        together = r.run(x)
        again = np.concatenate([r.run(x[k : k + 1]) for k in reversed(range(6))])[::-1]
        inner = np.concatenate([r.run(x[:1]), r.run(x[:1])])
    np.testing.assert_array_equal(together, again)
    np.testing.assert_array_equal(inner[0], inner[1])
    it = litert.Interpreter(model_path=str(path), num_threads=1)
    it.allocate_tensors()
    kept = []
    for row in x:
        it.set_tensor(it.get_input_details()[0]["index"], row)
        it.invoke()
        kept.append(it.get_tensor(it.get_output_details()[0]["index"]))
    assert (np.stack(kept)[0] == together[0]).all()
    assert (np.stack(kept)[1:] != together[1:]).any()


def one_step(bias: np.ndarray, places: tuple[int, ...]) -> bytes:
    """An LSTM of one step whose gates at ``places`` are ``bias``, the others open, and whose cell is a Q0.15 number."""
    b, n, unit = Builder(), bias.size, 2.0**-6
    x = b.tensor((1, 1, 1), "int8", scale=unit, zero_point=0)
    w = b.tensor((n, 1), "int8", data=np.zeros((n, 1)), scale=unit, zero_point=0)
    r = b.tensor((n, n), "int8", data=np.zeros((n, n)), scale=unit, zero_point=0)
    biases = [
        b.tensor((n,), "int32", data=bias if k in places else np.full(n, 1 << 20), scale=unit**2, zero_point=0)
        for k in range(4)
    ]
    state = b.tensor((1, n), "int8", scale=2.0**-7, zero_point=0, variable=True)
    cell = b.tensor((1, n), "int16", scale=2.0**-15, zero_point=0, variable=True)
    nothing = [b.tensor((0,)) for _ in range(4)]
    nothing.append(b.tensor((0,), "int8", scale=2.0**-7, zero_point=0))
    y = b.tensor((1, 1, n), "int8", scale=2.0**-7, zero_point=0)
    b.op(OP, [x, *[w] * 4, *[r] * 4, -1, -1, -1, *biases, -1, -1, state, cell, -1, -1, -1, -1], [y], fused_activation=4)
    b.graph.operators[-1].intermediates = np.asarray(nothing, np.int32)
    return b.build([x], [y])


@pytest.mark.parametrize("stride", [61, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("place", [0, 2])
def test_curves_of_the_gates_are_the_kernels(place: int, stride: int) -> None:
    """The cell after one step shows the input gate's sigmoid, or the cell gate's tanh, with all its bits."""
    every = np.arange(-32768, 32768, stride)
    for codes in np.array_split(every, max(1, every.size // 512)):
        it = litert.Interpreter(model_content=one_step(codes, (place,)), num_threads=1)
        it.allocate_tensors()
        it.set_tensor(it.get_input_details()[0]["index"], np.zeros((1, 1, 1), np.int8))
        it.invoke()
        details = it.get_tensor_details()
        cell = next(d["index"] for d in details if d["dtype"] is np.int16 and tuple(d["shape"]) == (1, codes.size))
        i, g = (codes if place == k else np.full_like(codes, 32767) for k in (0, 2))
        product = sigmoid_table()[i + 32768] * tanh_table(3)[g + 32768]
        np.testing.assert_array_equal(it.get_tensor(cell)[0], int16((product + (1 << 14) - (product < 0)) >> 15))


def test_curves_are_near_the_functions() -> None:
    codes = np.arange(-32768, 32768)
    assert np.abs(logistic(codes, 3, 16) - 32768 / (1 + np.exp(-codes / 4096))).max() < 7
    for bits in range(7):
        assert np.abs(tanh(codes, bits, 16) - 32768 * np.tanh(codes / 2.0 ** (15 - bits))).max() < 13


# -- points ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_points_are_decided_by_execution_and_a_narrow_enclosure(name: str) -> None:
    pair = pair_of(name)
    model = (FOLDER / f"{name}.float.tflite").read_bytes()
    with Session() as session:
        for seed in range(3):
            task = task_around(pair, 0, 0, seed)
            assert task.cell.codes is not None
            inputs = Inputs.of_codes(task, task.cell.codes[0][None])
            bound, witness = Execute().run(task, [], Budget(), session)
            assert isinstance(bound, Bound) and isinstance(witness, Witness)
            assert bound.trust == "exhaustive"
            assert (bound.upper - bound.lower < 1e-4).all()
            assert ((bound.lower <= witness.gap) & (witness.gap <= bound.upper)).all()
            h = session.reference(task, inputs, Settings())
            for runtime in DEPLOYED:
                y = interpret(model, inputs.x, runtime)[0].ravel().astype(np.float64)
                assert ((h.lo <= y) & (y <= h.hi)).all()
            real = replace(task, float_semantics="real")
            exact = session.reference(real, inputs, Settings())
            long = run_float(pair.float, inputs.x, dtype=np.longdouble)  # type: ignore[arg-type]
            y = long[pair.float.outputs[0]].ravel()
            assert ((exact.lo <= y) & (y <= exact.hi)).all()
            assert (exact.width < 1e-9).all()


def ask(region: dict[str, Any], limit: float, folder: Path, rows: int = 1) -> Any:
    name = "last"
    shape = (rows, *pair_of(name).float.input.shape[1:])
    x = np.random.default_rng(3).uniform(-0.8, 0.8, shape).astype(np.float32)
    np.savez(folder / "rows.npz", x=x)
    model = {"float": str(FOLDER / f"{name}.float.tflite"), "quantized": str(FOLDER / f"{name}.int8.tflite")}
    data = {
        "version": 1,
        "models": {"m": {**model, "input_quantization": "nearest"}},
        "regions": {"r": {"data": "rows.npz", "array": "x", **region}},
        "checks": [{"id": "c", "model": "m", "region": "r", "property": {"kind": "max_abs", "limit": limit}}],
    }
    report = check(parse_policy(data, "test", folder))
    assert not report.errors, str(report.errors[0].error)
    return report.checks[0]


def test_a_gate_decides_points_and_small_regions(tmp_path: Path) -> None:
    points = {"kind": "points"}
    passed = ask(points, 0.05, tmp_path, rows=3)
    assert passed.verdict == "pass"
    worst = max(t.witnessed for t in passed.tasks)
    failed = ask(points, worst / 2, tmp_path, rows=3)
    assert failed.verdict == "fail"
    around = ask({"kind": "ball", "radius": 1, "unit": "lsb", "domain": "grid"}, 0.1, tmp_path)
    assert around.verdict == "pass"
    assert all(t.proven is not None and t.witnessed <= t.proven for t in around.tasks)


@pytest.mark.slow
def test_a_gate_follows_segments(tmp_path: Path) -> None:
    moved = ask({"kind": "segment", "direction": "ones", "range": [-0.02, 0.02]}, 0.2, tmp_path)
    assert moved.verdict == "pass"
    assert {t.evidence for t in moved.tasks} == {"exhaustive"}


def test_micro_runtimes_name_the_operator(tmp_path: Path) -> None:
    pair = pair_of("last")
    with pytest.raises(UnsupportedError, match=OP):
        run_int(pair.quantized, inputs_of(pair, 1), Runtime.TFLM)


# -- regions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("floats", ["float32", pytest.param("real", marks=pytest.mark.slow)])
def test_every_engine_agrees_with_the_truth(floats: str) -> None:
    """What any engine proves contains what all inputs of a small region do, and what any of them finds."""
    pair = pair_of("last")
    task = task_around(pair, 2, 4, floats=floats)
    task = replace(task, prop=replace(task.prop, limit=1e-6))  # so that nothing is proven, and every engine works
    assert task.cell.codes is not None
    lo, hi = task.cell.codes
    free = np.flatnonzero(lo != hi)
    grid = np.stack(np.meshgrid(*(np.arange(lo.flat[k], hi.flat[k] + 1) for k in free)), axis=-1).reshape(-1, 2)
    every = np.repeat(lo[None], len(grid), axis=0)
    every.reshape(len(grid), -1)[:, free] = grid
    truth = gaps(task, Inputs.of_codes(task, every))
    slack = 1e-9 if floats == "real" else 0.0  # of the float64 execution here; float32 bounds have room for it
    engines: set[str] = set()
    with Session() as session:
        for engine in portfolio.ORDER:
            for e in portfolio.run(task, Budget(seconds=10, falsify=200), [engine.name], session=session):
                if isinstance(e, Bound):
                    engines.add(e.engine)
                    assert (truth >= e.lower - slack).all() and (truth <= e.upper + slack).all(), e.engine
                if isinstance(e, Witness):
                    engines.add(e.engine)
                    near = np.abs(truth - e.gap).max(axis=1).min()
                    assert near < 2e-5, e.engine
    assert {"dra", "enumerate", "falsify", "split"} <= engines


@pytest.mark.parametrize("kind", ["int8", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_bounds_contain_what_happens(name: str, kind: str) -> None:
    pair, rng, seen = pair_of(name, kind), np.random.default_rng(0), Seen()
    float_model = (FOLDER / f"{name}.float.tflite").read_bytes()
    codec, middle = codec_of(pair), rng.uniform(-0.8, 0.8, pair.float.input.shape)
    for radius, floats in ((0.0, "float32"), (0.01, "real"), (0.1, "float32"), (1.0, "float32")):
        lo, hi = ((middle + r).astype(np.float32).astype(np.float64) for r in (-radius, radius))
        task = task_of(pair, Cell(lo, hi, None, 0, middle), codec, Runtime.BUILTIN, floats)
        inputs = samples(task, rng, 40)
        a = contain(task, inputs, Settings(), seen, float_model)
        if kind == "float16":  # what LiteRT computes of it, too
            y, _ = interpret((FOLDER / f"{name}.{kind}.tflite").read_bytes(), inputs.x, Runtime.BUILTIN)
            seen.check("LiteRT", a.states[pair.output].quantized, y.astype(np.float64))
    assert not seen.violations, seen.violations[:5]
    assert seen.values > 1000


@pytest.mark.parametrize("few", [0, 1 << 22])
def test_rows_are_followed_one_by_one(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several inputs behind one another, with the sources of their errors kept or forgotten."""
    monkeypatch.setattr(lstm_steps, "FEW", few)
    monkeypatch.setattr(drift, "MOST", 16)
    pair, rng = pair_of("steps"), np.random.default_rng(4)
    layer = lower(pair, Runtime.BUILTIN, float32=True)[0]
    assert isinstance(layer, Opaque)
    middle = rng.uniform(-0.7, 0.7, (5, pair.float.input.size))
    x = Interval((middle - 0.02).ravel(), (middle + 0.02).ravel())
    found = layer.float_transform([Gap(x, x, Interval.point(np.zeros(x.lo.size)))]).float
    for _ in range(30):
        inputs = middle + rng.choice([-0.02, 0.02, 0.0], middle.shape)
        first = pair.float.nodes[0].outputs[0]
        y = run_float(pair.float, inputs.reshape(5, *pair.float.input.shape), keep=[first])[first].ravel()
        assert ((found.lo <= y) & (y <= found.hi)).all()
    assert found.width.max() < 1.0


def test_bounds_are_near_the_truth() -> None:
    """Followed step by step, errors of the gates do not pile up: within a few quanta of what is seen."""
    pair = pair_of("last")
    task = task_around(pair, 24, 2, seed=5)
    found = portfolio.run(task, Budget(falsify=300), ["falsify", "dra"])
    bound = next(e for e in found if isinstance(e, Bound))
    unit = pair.quantized.output.q.s
    assert np.abs(np.stack([bound.lower, bound.upper])).max() < 12 * unit


# -- alignment -------------------------------------------------------------------------------------


def test_weights_of_every_gate_are_compared() -> None:
    pair = pair_of("steps")
    assert len(pair.agreements) == 16
    assert all(a.worst <= 0.501 for a in pair.agreements)
    assert {a.bias is None for a in pair.agreements} == {True, False}
    for place, what in ((2, "forget gate"), (7, "cell gate, state")):
        graph = pair.quantized
        tensors = list(graph.tensors)
        i = graph.nodes[0].inputs[place]
        t = tensors[i]
        assert t.const is not None
        other = t.const.copy()
        other.flat[3] += -3 if other.flat[3] > 0 else 3
        tensors[i] = replace(t, const=other)
        with pytest.raises(AlignmentError, match=what):
            align(pair.float, replace(graph, tensors=tuple(tensors)))


def test_other_limits_of_the_cell_are_another_network() -> None:
    pair = pair_of("last")
    node = pair.float.nodes[0]
    clipped = replace(node, attrs=replace(node.attrs, cell_clip=0.5))  # type: ignore[type-var]
    other = replace(pair, float=replace(pair.float, nodes=(clipped, *pair.float.nodes[1:])))
    steps = (replace(pair.steps[0], float_node=clipped), *pair.steps[1:])
    task = task_around(replace(other, steps=steps), 0, 0)
    with Session() as session, pytest.raises(AlignmentError, match="limits of the cell"):
        Execute().run(task, [], Budget(), session)


def test_time_may_come_first() -> None:
    """Behind a TRANSPOSE the axis of time is the first, and the batch of one the second."""
    rng = np.random.default_rng(1)
    p = lstm_parts(rng, 5, 3, 4)
    b, g = p.b, p.b.graph
    x, y = g.tensors[p.inputs[0]], g.tensors[p.output]
    source = b.tensor((1, 5, 3), "int8", scale=x.quantization.scale, zero_point=x.quantization.zeroPoint)
    order = b.tensor((3,), "int32", data=[1, 0, 2])
    x.shape, y.shape = np.array([5, 1, 3], np.int32), np.array([5, 1, 4], np.int32)
    b.op("TRANSPOSE", [source, order], [p.inputs[0]])
    b.op(OP, p.inputs, [p.output], fused_activation=4, time_major=True)
    g.operators[-1].intermediates = np.asarray(p.intermediates, np.int32)
    model = b.build([source], [p.output])
    graph, codes = load(model), rng.integers(-128, 128, (50, 1, 5, 3)).astype(np.int8)
    for runtime in DEPLOYED:
        theirs, _ = interpret(model, codes, runtime)
        np.testing.assert_array_equal(run_int(graph, codes, runtime)[graph.outputs[0]], theirs)
