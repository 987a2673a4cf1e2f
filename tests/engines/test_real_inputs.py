"""Real-valued regions: float32 inputs, with every way an application may round a tie; zero tolerance."""

from __future__ import annotations

import numpy as np
import pytest

from qebgate.engines.concrete import Session
from qebgate.engines.dra.engine import Dra
from qebgate.engines.enumerate import Enumerate
from qebgate.engines.execute import Execute
from qebgate.engines.falsify import Falsify
from qebgate.errors import UnsupportedError
from qebgate.evidence import Bound, Witness
from qebgate.numerics.fixed_point import round_half_away
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.execute import run_float, run_int
from qebgate.task import Budget
from tests.engines.tiny import RUNTIMES, outside, tiny
from tests.laws.pairs import task_of


@pytest.fixture(scope="module")
def session():
    with Session() as s:
        yield s


def _near(codec: InputCodec, lo: np.ndarray, hi: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Float32 numbers of a box: ends, ties and whole quanta, their neighbours, and anything."""
    inside = lo + (hi - lo) * rng.random((count, *lo.shape))
    half = np.where(rng.random(inside.shape) < 0.5, 0.5, 0.0)
    x = (np.floor(inside / codec.scale) + half) * codec.scale
    x = np.where(rng.random(inside.shape) < 0.3, inside, x).astype(np.float32)
    for _ in range(2):
        step = rng.integers(-1, 2, x.shape)
        toward = np.where(step < 0, np.float32(-np.inf), np.float32(np.inf))
        x = np.where(step == 0, x, np.nextafter(x, toward))
    x[0], x[1] = lo, hi
    return np.clip(x, lo.astype(np.float32), hi.astype(np.float32))


def _codes(codec: InputCodec, x: np.ndarray, way: str) -> np.ndarray:
    """What applications do."""
    lo, hi = codec.dtype.code_range
    s32, z = np.float32(codec.scale), codec.zero_point
    v = {
        "divide": lambda: x / s32 + np.float32(z),
        "reciprocal": lambda: x * (np.float32(1) / s32) + np.float32(z),
        "double": lambda: x.astype(np.float64) / codec.scale + z,
        "late": lambda: x / s32,
    }[way]()
    if codec.mode == "truncate":
        q = np.trunc(v + z) if way == "late" else np.trunc(v)
    elif way == "late":
        q = round_half_away(v.astype(np.float64)) + z
    else:
        q = np.rint(v)
    return np.clip(q, lo, hi).astype(np.int32)


@pytest.mark.parametrize("mode", ["nearest", "truncate"])
@pytest.mark.parametrize("name", ["linear-int8", "linear-uint8", "dense_large-int8", "residual_relu-int8", "conv-int8"])
def test_dra_contains_every_way_to_round(name: str, mode: str, session: Session) -> None:
    t = tiny(name)
    codec = InputCodec.of(t.pair.quantized, mode)  # type: ignore[arg-type]
    rng = np.random.default_rng(5)
    least, most = codec.dtype.code_range
    shape = t.pair.quantized.input.shape
    for k in range(12):
        middle = (rng.uniform(least - 3, most + 3, shape) - codec.zero_point) * codec.scale
        r = codec.scale * float(rng.choice([0.0, 0.2, 0.6, 2.0, 30.0]))
        lo, hi = ((middle + d).astype(np.float32).astype(np.float64) for d in (-r, r))
        cell = Cell(lo, hi, None, 0, middle)
        runtime, floats = RUNTIMES[k % 3], ("float32", "real")[k % 2]
        task = task_of(t.pair, cell, codec, runtime, floats)  # type: ignore[arg-type]
        (b,) = Dra().run(task, [], Budget(), session)
        assert isinstance(b, Bound)
        x = _near(codec, lo, hi, rng, 400)
        dtype, error = (np.float32, 0.0) if floats == "float32" else (np.longdouble, 2.0**-55)
        h = run_float(t.pair.float, x, dtype=dtype)[t.pair.float.outputs[0]]  # type: ignore[arg-type]
        for way in ("divide", "reciprocal", "double", "late"):
            y = run_int(t.pair.quantized, _codes(codec, x, way), runtime)[t.pair.quantized.outputs[0]]
            gap = t.pair.quantized.output.q.dequantize(y).astype(np.longdouble) - h
            assert outside(b.lower, b.upper, gap.reshape(len(x), -1), error) == 0, (way, lo, hi)


@pytest.mark.parametrize("name", ["linear-float_io", "dense_8_8-float_io", "softmax-float_io", "max_pool-float_io"])
def test_models_that_quantize_themselves(name: str, session: Session) -> None:
    t = tiny(name)
    codec = t.codec
    assert codec.in_model
    rng = np.random.default_rng(6)
    shape = t.pair.quantized.input.shape
    for k in range(9):
        middle = (rng.uniform(-140, 140, shape) - codec.zero_point) * codec.scale
        r = codec.scale * float(rng.choice([0.0, 0.2, 0.6, 2.0, 30.0]))
        lo, hi = ((middle + d).astype(np.float32).astype(np.float64) for d in (-r, r))
        runtime = RUNTIMES[k % 3]
        task = task_of(t.pair, Cell(lo, hi, None, 0, middle), codec, runtime)
        (b,) = Dra().run(task, [], Budget(), session)
        assert isinstance(b, Bound)
        x = _near(codec, lo, hi, rng, 400)
        y = run_int(t.pair.quantized, x, runtime)[t.pair.quantized.outputs[0]].astype(np.longdouble)
        h = run_float(t.pair.float, x, dtype=np.float32)[t.pair.float.outputs[0]]
        assert outside(b.lower, b.upper, (y - h).reshape(len(x), -1)) == 0


@pytest.mark.parametrize("floats", ["float32", "real"])
def test_witnesses_of_real_regions_are_inside_the_bound(floats: str, session: Session) -> None:
    """Off the grid the float side is enclosed where it is; this once looked for the input on the grid."""
    t = tiny("linear-int8")
    cell = Cell(np.full((1, 2), 0.101), np.full((1, 2), 0.1234), None, 0, np.full((1, 2), 0.11))
    cell = Cell(*(v.astype(np.float32).astype(np.float64) for v in (cell.lower, cell.upper)), None, 0, cell.centre)
    task = task_of(t.pair, cell, t.codec, Runtime.BUILTIN, floats)  # type: ignore[arg-type]
    (b,) = Dra().run(task, [], Budget(), session)
    found = [w for w in Falsify().run(task, [], Budget(falsify=200), session) if isinstance(w, Witness)]
    assert isinstance(b, Bound)
    assert found
    assert all((b.lower <= w.gap).all() and (w.gap <= b.upper).all() for w in found)
    assert Enumerate().run(task, [], Budget(), session) == []


def test_a_real_point_that_an_application_rounds(session: Session) -> None:
    """Next to a tie the code is not settled, and both codes are covered."""
    t = tiny("linear-int8")
    codec = t.codec
    tie = np.full((1, 2), np.float32(2.5 * codec.scale), np.float32).astype(np.float64)
    for runtime in RUNTIMES:
        task = task_of(t.pair, Cell(tie, tie, None, 0, tie), codec, runtime)
        bound, witness = Execute().run(task, [], Budget(), session)
        assert isinstance(bound, Bound)
        assert isinstance(witness, Witness)
        assert bound.trust == "certified"
        h = run_float(t.pair.float, tie[None], dtype=np.float32)[t.pair.float.outputs[0]]
        for a in (2, 3):
            codes = np.full((1, 1, 2), a + codec.zero_point, np.int32)
            y = run_int(t.pair.quantized, codes, runtime)[t.pair.quantized.outputs[0]]
            assert outside(bound.lower, bound.upper, (t.pair.quantized.output.q.dequantize(y) - h).reshape(1, -1)) == 0


def test_real_inputs_of_an_integer_model_need_a_rounding(session: Session) -> None:
    t = tiny("linear-int8")
    codec = InputCodec.of(t.pair.quantized, None)
    lo, hi = np.zeros((1, 2)), np.ones((1, 2))
    with pytest.raises(UnsupportedError) as e:
        Dra().run(task_of(t.pair, Cell(lo, hi, None, 0, lo), codec, Runtime.BUILTIN), [], Budget(), session)
    assert e.value.code == "QEB454"
