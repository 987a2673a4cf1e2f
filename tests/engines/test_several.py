"""Models of several inputs of different scales: every engine against what really happens; zero tolerance."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from qebgate.adapters import load_model
from qebgate.engines import portfolio
from qebgate.engines.concrete import Inputs, Session, quantized_outputs
from qebgate.engines.dra.analysis import Settings
from qebgate.engines.dra.engine import Dra
from qebgate.engines.enumerate import Enumerate, all_codes
from qebgate.engines.milp import Milp
from qebgate.engines.segment import Segment
from qebgate.errors import UnsupportedError
from qebgate.evidence import Bound, Stopped, Witness
from qebgate.ir.align import align
from qebgate.ir.pair import Pair
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec, JoinedCodec
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.execute import run_float, run_int
from qebgate.task import Budget, FloatSemantics, Task, witnessed
from qebgate.verdict import judge
from tests.engines.test_real_inputs import _near
from tests.engines.tiny import outside
from tests.laws.contain import Seen, samples
from tests.laws.contain import check as contained
from tests.laws.pairs import float_twin, load
from tests.semantics.cases import Rng, codes, pick
from tests.semantics.networks import _Net

MODELS = Path(__file__).resolve().parents[1] / "models" / "several"
NAMES = ("sensors.int8", "sensors.float_io", "image.int8", "image.float_io")
USUAL = [pytest.param(n, marks=[pytest.mark.slow] if n in ("sensors.float_io", "image.int8") else []) for n in NAMES]
BUDGET = Budget(falsify=300, branch=24, split=24, cells=48, slopes=8, milp=8, seconds=20.0)


@pytest.fixture(scope="module")
def session():
    with Session() as s:
        yield s


@cache
def several(name: str, suffix: str = "float.tflite") -> Pair:
    return align(load_model(MODELS / f"{name.partition('.')[0]}.{suffix}"), load_model(MODELS / f"{name}.tflite"))


def random_pair(rng: Rng) -> Pair:
    """An image and a vector of codes of some kinds, or both of floats, that meet in an ADD."""
    net, floats = _Net(rng), rng.random() < 0.4
    ends: list[tuple[int, float]] = []
    sources: list[int] = []
    m = int(rng.integers(1, 5))
    for shape in (
        (1, int(rng.integers(2, 5)), int(rng.integers(2, 5)), int(rng.integers(1, 3))),
        (1, int(rng.integers(1, 5))),
    ):
        scale, zero = float(rng.uniform(0.002, 0.08)), int(pick(rng, -128, 0, 3, 127))
        kind = "float32" if floats else pick(rng, "int8", "uint8")
        if kind == "int8":
            sources.append(net.tensor(shape, scale, zero))
        else:
            about = {"scale": scale, "zero_point": zero + 128} if kind == "uint8" else {}
            sources.append(net.b.tensor(shape, kind, **about))
            net.b.op("QUANTIZE", [sources[-1]], [net.tensor(shape, scale, zero)], version=2)
        if len(shape) == 4:
            net.conv(int(rng.integers(1, 4)), 3, 1, same=True)
            net.flatten()
        if len(net.shape) == 4:
            target = net.b.tensor((2,), "int32", data=[1, net.shape[3]])
            x = net.at
            net.b.op("RESHAPE", [x, target], [net.tensor((1, net.shape[3]), net.scale, net.zero)])
        net.linear("FULLY_CONNECTED", np.maximum(codes(rng, (m, net.shape[1])), -127), 0, (1, m))
        ends.append((net.at, net.scale))
    net.tensor((1, m), 1.3 * max(s for _, s in ends), int(rng.integers(-128, 128)))
    net.b.op("ADD", [t for t, _ in ends], [net.at], version=2)
    net.linear("FULLY_CONNECTED", np.maximum(codes(rng, (2, m)), -127), 0, (1, 2))
    content = net.b.build(sources[:: int(pick(rng, 1, -1))], [net.at])
    try:
        return load(float_twin(content, rng), content).pair
    except UnsupportedError:  # an ADD whose sum could overflow the kernels' 16 bits
        return random_pair(rng)


def codec_of(pair: Pair, mode: str = "nearest") -> JoinedCodec:
    codec = InputCodec.of(pair.quantized, mode)  # type: ignore[arg-type]
    assert isinstance(codec, JoinedCodec)
    return codec


def grid_cell(pair: Pair, rng: Rng, radius: int, free: int) -> Cell:
    """Some free entries, of both inputs where there are two."""
    codec, n = codec_of(pair), pair.quantized.input.size
    centre = rng.integers(codec.least + 8, codec.most - 7)[None]
    parts = [p.start + rng.permutation(p.size) for p in codec.parts]
    order = [int(p[k]) for k in range(max(p.size for p in codec.parts)) for p in parts if k < p.size]
    r = np.zeros((1, n), np.int64)
    r[0, order[:free]] = radius
    lo, hi = (np.clip(c, codec.least, codec.most).astype(np.int32) for c in (centre - r, centre + r))
    ends = [codec.grid(c).astype(np.float64) for c in (lo, hi)]
    return Cell(ends[0], ends[1], (lo, hi), 0, codec.grid(centre).astype(np.float64))


def real_cell(pair: Pair, rng: Rng, quanta: float) -> Cell:
    codec, n = codec_of(pair), pair.quantized.input.size
    scale, zero = np.asarray(codec.scale), np.asarray(codec.zero_point)
    middle = (rng.uniform(codec.least - 4.0, codec.most + 5.0)[None] - zero) * scale
    r = quanta * scale * rng.uniform(0.2, 1.0, (1, n))
    lo, hi = ((middle + d).astype(np.float32).astype(np.float64) for d in (-r, r))
    return Cell(lo, hi, None, 0, middle)


def task_of(pair: Pair, cell: Cell, runtime: Runtime, floats: FloatSemantics = "float32", limit: float = 1.0) -> Task:
    outputs = tuple(range(pair.float.output.size))
    return Task(pair, cell, codec_of(pair), Property("max_abs", limit), outputs, runtime, floats)


def truth(task: Task, inputs: Inputs) -> np.ndarray:
    """Gaps ``[B, K]``; in 80 bits where the reference is real."""
    dtype = np.float32 if task.float_semantics == "float32" else np.longdouble
    h = run_float(task.pair.float, inputs.x, dtype=dtype)[task.pair.float.outputs[0]]  # type: ignore[arg-type]
    return quantized_outputs(task, inputs).astype(np.longdouble) - h.reshape(len(h), -1)


@pytest.mark.parametrize("name", NAMES)
def test_execution_is_that_of_the_runtimes(name: str, session: Session) -> None:
    """Each interpreter is given each input by itself; both sides, bit for bit on the quantized one."""
    pair, rng = several(name), np.random.default_rng(1)
    cell = grid_cell(pair, rng, 0, 0)
    for runtime in DEPLOYED:
        task = task_of(pair, cell, runtime)
        inputs = Inputs.of_codes(task, rng.integers(-128, 128, (300, 1, pair.quantized.input.size)))
        given = inputs.x if inputs.codes is None else inputs.codes
        assert (session.outputs(pair.quantized, given, runtime) == quantized_outputs(task, inputs)).all()
        h = run_float(pair.float, inputs.x)[pair.float.outputs[0]].reshape(len(inputs), -1)
        assert np.abs(session.outputs(pair.float, inputs.x, runtime) - h).max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_contained(name: str) -> None:
    pair, rng, seen = several(name), np.random.default_rng(2), Seen()
    for k in range(8):
        cell = (
            grid_cell(pair, rng, (0, 2, 20, 255)[k % 4], 18) if k % 2 else real_cell(pair, rng, (0.3, 2.0, 40.0)[k % 3])
        )
        task = task_of(pair, cell, DEPLOYED[k % 3], ("float32", "real")[k // 4])
        contained(task, samples(task, rng, 200), Settings(), seen)
    assert seen.values > 10_000 and not seen.violations, seen.violations[:5]


@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in range(1, 12))])
def test_random_pairs(seed: int, session: Session) -> None:
    """int8 and uint8 inputs of any scales, or floats; every value and the final bounds, and points of real inputs."""
    rng, seen, points = np.random.default_rng(seed), Seen(), 0
    for k in range(8):
        pair = random_pair(rng)
        mode = pick(rng, "nearest", "truncate")
        for cell in (
            grid_cell(pair, rng, int(pick(rng, 1, 9, 255)), 60),
            real_cell(pair, rng, float(pick(rng, 0.3, 5, 90))),
        ):
            task = replace(task_of(pair, cell, DEPLOYED[k % 3], ("float32", "real")[k % 2]), codec=codec_of(pair, mode))
            contained(task, samples(task, rng, 100), Settings(), seen)
            at = Cell(cell.lower, cell.lower, None, 0, cell.lower)
            (bound,) = Dra().run(replace(task, cell=at), [], BUDGET, session)
            assert isinstance(bound, Bound)
            x = cell.lower[None].astype(np.float32)
            gap = truth(task, Inputs.of_reals(task, x))
            assert outside(bound.lower, bound.upper, gap, 2.0**-40 if k % 2 else 0.0) == 0
            points += 1
    assert points == 16 and seen.values > 10_000 and not seen.violations, seen.violations[:5]


@pytest.mark.parametrize("name", USUAL)
def test_every_engine_on_the_grid(name: str, session: Session) -> None:
    """Small regions of both inputs, executed as a whole: every bound holds, every witness is one of the region."""
    pair, rng, bounds, left = several(name), np.random.default_rng(sum(name.encode())), set[str](), set[str]()
    for k, (radius, free) in enumerate(((0, 0), (2, 4), (9, 3), (40, 2))):
        runtime, floats = DEPLOYED[k % 3], ("float32", "real")[k % 2]
        task = task_of(pair, grid_cell(pair, rng, radius, free), runtime, floats)  # type: ignore[arg-type]
        all_of = np.concatenate(list(all_codes(task.cell, 4096)))
        gap = truth(task, Inputs.of_codes(task, all_of))
        task = replace(task, prop=replace(task.prop, limit=float(np.abs(gap).max()) * 1.05))
        for engine in portfolio.ORDER:
            # the others do not leave it to enumeration
            budget = BUDGET if engine is Enumerate else replace(BUDGET, enumerate=1)
            for e in portfolio.run(task, budget, [engine.name], session=session):
                if isinstance(e, Bound):
                    bounds.add(engine.name)
                    assert outside(e.lower, e.upper, gap, 2.0**-50 if floats == "real" else 0.0) == 0, engine.name
                elif isinstance(e, Witness):
                    assert _inside(e, task), engine.name
                    assert witnessed(task.prop, e) <= task.prop.limit
                elif isinstance(e, Stopped) and "several inputs" in e.detail:
                    left.add(engine.name)
    dense = {"branch"} if name.startswith("sensors") else set[str]()
    assert {"execute", "dra", "enumerate", "forms", "split"} | dense <= bounds
    assert left == {Segment.name, Milp.name}


@pytest.mark.parametrize("name", USUAL)
def test_every_engine_on_real_inputs(name: str, session: Session) -> None:
    pair, rng, bounds = several(name), np.random.default_rng(7), set[str]()
    for k, quanta in enumerate((0.0, 0.4, 1.5, 12.0)):
        runtime, floats = DEPLOYED[k % 3], ("float32", "real")[k % 2]
        task = task_of(pair, real_cell(pair, rng, quanta), runtime, floats, 50.0)  # type: ignore[arg-type]
        x = _near(task.codec, task.cell.lower, task.cell.upper, rng, 600)
        gap = truth(task, Inputs.of_reals(task, x))
        for engine in portfolio.ORDER:
            for e in portfolio.run(task, BUDGET, [engine.name], session=session):
                if isinstance(e, Bound):
                    bounds.add(engine.name)
                    assert outside(e.lower, e.upper, gap, 2.0**-50 if floats == "real" else 0.0) == 0, engine.name
                elif isinstance(e, Witness):
                    assert _inside(e, task), engine.name
    assert {"execute", "dra"} <= bounds


def _inside(w: Witness, task: Task) -> bool:
    """The witness is of the region, and its gap is what execution gives."""
    cell, codec = task.cell, task.codec
    x = w.x.astype(np.float64)
    within = bool(((x >= cell.lower) & (x <= cell.upper)).all())
    codes = codec.encode(w.x) if w.codes is None else w.codes
    if cell.codes is not None:
        within = within and bool(((codes >= cell.codes[0]) & (codes <= cell.codes[1])).all())
        within = within and bool((codec.grid(codes) == w.x).all())
    given = w.x[None] if codec.in_model else codes[None]
    graph = task.pair.quantized
    y = run_int(graph, given, task.runtime)[graph.outputs[0]]
    q = graph.output.q.dequantize(y) if graph.output.dtype.is_code else y
    assert w.values is not None
    return within and bool((q.ravel()[list(task.outputs)] == w.values[1]).all())


@pytest.mark.parametrize("name", ["sensors.int8", "sensors.float_io"])
def test_the_chain_answers_on_both_sides_of_the_truth(name: str, session: Session) -> None:
    pair, rng = several(name), np.random.default_rng(11)
    for runtime in (Runtime.XNNPACK, Runtime.ENVELOPE):
        task = task_of(pair, grid_cell(pair, rng, 3, 4), runtime)
        all_of = np.concatenate(list(all_codes(task.cell, 4096)))
        each = [truth(replace(task, runtime=r), Inputs.of_codes(task, all_of)) for r in runtime.members]
        gap = np.abs(np.concatenate(each))
        for factor, expected in ((1.01, "pass"), (0.99, "fail")):
            ask = replace(task, prop=replace(task.prop, limit=factor * float(gap.max())))
            assert judge(ask.prop, "proof", portfolio.run(ask, Budget(), session=session)).verdict == expected
