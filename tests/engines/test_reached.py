"""The restricted networks against the whole ones: codes bit for bit, floats within their own roundoff."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.engines import enumerate as enumeration
from qebgate.engines import memo, restricted, subnetwork
from qebgate.engines.concrete import Inputs, Session, float_outputs, gaps, quantized_outputs
from qebgate.engines.dra.analysis import Settings
from qebgate.engines.enumerate import Enumerate, all_codes, box_codes
from qebgate.engines.reached import Reached
from qebgate.engines.reference import reference_error
from qebgate.engines.staircase import Staircase
from qebgate.evidence import Bound, Witness
from qebgate.ir.align import align
from qebgate.ir.pair import Pair
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.accumulate import requantize
from qebgate.semantics.execute import run_float
from qebgate.task import Budget, Task
from tests.engines.tiny import ENTRIES, tiny
from tests.laws.pairs import codec_of, one_operator, random_pair, task_of
from tests.semantics.cases import Rng

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits" / "models"
OPERATORS = (
    "ADD", "AVERAGE_POOL_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "LOGISTIC", "MAX_POOL_2D", "MEAN",
    "PAD", "QUANTIZE", "DEQUANTIZE", "RELU", "RELU6", "RESHAPE", "SOFTMAX", "TANH",
)  # fmt: skip


def few_free(pair: Pair, rng: Rng, most: int = 8) -> Cell:
    """A box of codes with a few free inputs, by little or by much."""
    codec = codec_of(pair)
    least, top = codec.dtype.code_range
    shape = pair.quantized.input.shape
    lo = rng.integers(least, top + 1, shape)
    hi = lo.copy()
    for i in rng.choice(lo.size, min(most, lo.size), replace=False):
        r = int(rng.choice([1, 3, 10, 300]))
        lo.reshape(-1)[i] = max(least, int(lo.reshape(-1)[i]) - r)
        hi.reshape(-1)[i] = min(top, int(hi.reshape(-1)[i]) + r)
    lo, hi = lo.astype(np.int32), hi.astype(np.int32)
    real = lambda c: codec.grid(c).astype(np.float64)  # noqa: E731
    return Cell(real(lo), real(hi), (lo, hi), 0, real(lo))


def sample(cell: Cell, rng: Rng, count: int) -> np.ndarray:
    """Corners first, then anything."""
    assert cell.codes is not None
    lo, hi = cell.codes
    codes = rng.integers(lo, hi + 1, (count, *lo.shape))
    codes[: count // 2] = np.where(rng.random((count // 2, *lo.shape)) < 0.5, lo, hi)
    return codes


def compare(task: Task, rng: Rng, count: int = 60) -> None:
    """Quantized outputs equal, float outputs within both executions' roundoff of another order of summation."""
    small = Reached(task)
    codes = sample(task.cell, rng, count)
    free = codes.reshape(count, -1)[:, small.free]
    inputs = Inputs.of_codes(task, codes)
    np.testing.assert_array_equal(small.whole(free), codes)
    np.testing.assert_array_equal(small.quantized(free), quantized_outputs(task, inputs))
    f, g = small.floats(free), float_outputs(task, inputs)
    assert np.abs(f - g).max() <= 2.0**-40 * max(1.0, float(np.abs(g).max()))
    np.testing.assert_array_equal(small.gaps(free), small.quantized(free) - f)


@pytest.mark.parametrize("runtime", DEPLOYED)
@pytest.mark.parametrize("seed", range(25))
def test_random_networks(seed: int, runtime: Runtime) -> None:
    pair, rng = random_pair(seed).pair, np.random.default_rng(seed)
    compare(task_of(pair, few_free(pair, rng), codec_of(pair), runtime), rng)


@pytest.mark.parametrize("runtime", DEPLOYED)
@pytest.mark.parametrize("op", OPERATORS)
def test_every_operator(op: str, runtime: Runtime) -> None:
    for seed in range(4):
        pair, rng = one_operator(op, seed).pair, np.random.default_rng(seed)
        compare(task_of(pair, few_free(pair, rng), codec_of(pair), runtime), rng)


@pytest.mark.parametrize("seed", range(8))
def test_operators_executed_as_a_whole(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the dense matrix would be too large."""
    monkeypatch.setattr(restricted, "_MAX_ENTRIES", 0)
    monkeypatch.setattr(subnetwork, "_MOST_WHOLE", 1.0)
    pair, rng = random_pair(seed).pair, np.random.default_rng(seed)
    compare(task_of(pair, few_free(pair, rng), codec_of(pair), Runtime.BUILTIN), rng)


@pytest.mark.parametrize("runtime", DEPLOYED)
@pytest.mark.parametrize("name", list(ENTRIES)[::4])
def test_converted_models(name: str, runtime: Runtime) -> None:
    t, rng = tiny(name), np.random.default_rng(5)
    compare(t.task(t.whole, runtime), rng, 500)
    compare(t.task(few_free(t.pair, rng, 2), runtime), rng)


@pytest.mark.parametrize("runtime", DEPLOYED)
@pytest.mark.parametrize("names", [("mlp_float", "mlp_int8"), ("mlp_float", "mlp_int8_float_io"),
                                   ("mlp_qat_float", "mlp_qat_int8"), ("cnn_float", "cnn_int8")])  # fmt: skip
@pytest.mark.parametrize("head", ["output", "logits"])
def test_digits(names: tuple[str, str], head: str, runtime: Runtime) -> None:
    pair = align(*(read_tflite(DIGITS / f"{n}.tflite") for n in names)).at(head)  # type: ignore[arg-type]
    rng = np.random.default_rng(7)
    for free in (1, 5, 12, 64):
        compare(task_of(pair, few_free(pair, rng, free), InputCodec.of(pair.quantized, "nearest"), runtime), rng)


@pytest.mark.parametrize("runtime", DEPLOYED)
def test_enumeration_of_a_cnn_is_that_of_the_whole_network(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = align(*(read_tflite(DIGITS / f"{n}.tflite") for n in ("cnn_float", "cnn_int8"))).at("logits")
    codec = InputCodec.of(pair.quantized, "nearest")
    lo = np.random.default_rng(2).integers(-100, 100, pair.quantized.input.shape).astype(np.int32)
    hi = lo.copy()
    hi.reshape(-1)[[3, 20, 21, 40, 60]] += 5
    real = lambda c: codec.grid(c).astype(np.float64)  # noqa: E731
    # in real arithmetic: what float32 may add depends on what each execution knows of the float network's values
    task = task_of(pair, Cell(real(lo), real(hi), (lo, hi), 0, real(lo)), codec, runtime, "real")
    with Session() as session:
        bound, witness = Enumerate().run(task, [], Budget(), session)
        monkeypatch.setattr(enumeration, "LEAST_REACHED", 1 << 60)
        other, _ = Enumerate().run(task, [], Budget(), session)
    assert isinstance(bound, Bound)
    assert isinstance(other, Bound)
    assert isinstance(witness, Witness)
    # sound: every input's gap, executed on the whole network, is inside
    gap = np.concatenate([gaps(task, Inputs.of_codes(task, c)) for c in all_codes(task.cell, 1024)])
    assert len(gap) == 6**5
    assert (bound.lower <= gap).all()
    assert (gap <= bound.upper).all()
    # and no wider than the roundoff of the float side
    assert np.abs(bound.upper - other.upper).max() < 1e-12
    assert np.abs(bound.lower - other.lower).max() < 1e-12
    assert np.abs(witness.gap).max() == pytest.approx(np.abs(gap).max(), abs=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_float_side_is_within_the_bound_of_any_evaluation(seed: int) -> None:
    """Folded constants and another order: still within what is proven of float64 evaluation, without tolerance."""
    if seed < 8:
        pair = random_pair(100 + seed).pair
    else:
        names = (("mlp_float", "mlp_int8"), ("cnn_float", "cnn_int8"))[seed % 2]
        pair = align(*(read_tflite(DIGITS / f"{n}.tflite") for n in names))
    rng = np.random.default_rng(seed)
    task = task_of(pair, few_free(pair, rng), InputCodec.of(pair.quantized, "nearest"), Runtime.BUILTIN, "real")
    small = Reached(task)
    codes = sample(task.cell, rng, 200)
    error = reference_error(task, Settings())
    exact = run_float(pair.float, Inputs.of_codes(task, codes).x, dtype=np.longdouble)[pair.float.outputs[0]]  # type: ignore[arg-type]
    exact = exact.reshape(len(codes), -1)
    off = np.abs(small.floats(codes.reshape(len(codes), -1)[:, small.free]).astype(np.longdouble) - exact)
    own = 2.0**-58 * np.abs(exact).max()  # of the 80-bit execution
    assert (off <= error + own).all()


def test_outputs_looked_up_are_those_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two input codes matter little: the hidden codes repeat, and the table serves them."""
    used = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        pair = random_pair(seed).pair
        monkeypatch.setattr(memo, "_WORTH", np.inf)
        task = task_of(pair, few_free(pair, rng, 3), codec_of(pair), Runtime.XNNPACK)
        small = Reached(task)
        if small.table is None:
            continue
        used += 1
        for _ in range(3):
            codes = sample(task.cell, rng, 100)
            want = quantized_outputs(task, Inputs.of_codes(task, codes))
            np.testing.assert_array_equal(small.quantized(codes.reshape(100, -1)[:, small.free]), want)
        assert small.table is not None
        assert 0 < len(small.table.keys) <= 300
        monkeypatch.setattr(memo, "_TABLE_BYTES", 0)
        small = Reached(task)
        np.testing.assert_array_equal(small.quantized(codes.reshape(100, -1)[:, small.free]), want)
        assert small.table is None
        monkeypatch.undo()
    assert used >= 5


def test_box_codes_once_each() -> None:
    lo, hi = np.array([-3, 5, 0]), np.array([1, 5, 6])
    got = np.concatenate(list(box_codes(lo, hi, 4)))
    assert Counter(map(tuple, got.tolist())).most_common(1)[0][1] == 1
    assert len(got) == 35
    assert (got >= lo).all()
    assert (got <= hi).all()


@pytest.mark.parametrize("runtime", DEPLOYED)
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("single", [True, False])
def test_staircases_at_every_accumulator(runtime: Runtime, dense: bool, single: bool) -> None:
    """All integers of a range, multipliers from tiny to above one, saturation at both ends."""
    rng = np.random.default_rng(11)
    seen = 0
    for trial in range(30):
        columns = 7
        s_w = (10.0 ** rng.uniform(-4, 0.3, columns)).astype(np.float32).astype(np.float64)
        centre = np.round(rng.uniform(-300, 300, columns) / s_w).astype(np.int64)
        radius = int(rng.choice([3, 50, 2000, 40_000]))
        tail = None if dense else rng.random(columns) < 0.5

        def exact(g: np.ndarray, c: np.ndarray, s_w=s_w, centre=centre, tail=tail) -> np.ndarray:
            pick = tail[c] if tail is not None else None
            codes = requantize(
                centre[c] + g, 1.0, s_w[c], 1.0, 3, (-128, 127), runtime, dense=dense, wide=False, tail=pick
            )  # fmt: skip
            return codes.astype(np.int64) - 5

        lo, hi = np.full(columns, -radius), np.full(columns, radius - 1)
        moving = np.flatnonzero(exact(hi, np.arange(columns)) > exact(lo, np.arange(columns)))
        if moving.size < 2:  # a single scale has a form of its own
            continue
        stairs = Staircase(
            lambda g, c, e=exact, m=moving: e(g, m[c]), lo[moving], hi[moving], s_w[moving],
            np.float32 if single else np.float64,
        )  # fmt: skip
        g = np.broadcast_to(np.arange(-radius, radius)[:, None], (2 * radius, moving.size))
        got = g.astype(np.float32 if single else np.float64)
        stairs.apply(got)

        np.testing.assert_array_equal(got, exact(g, moving), err_msg=f"trial {trial}")
        seen += 1
    assert seen > 10
