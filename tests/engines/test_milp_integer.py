"""The exact integer program of the quantized network against execution of every input; no tolerance on the maximum."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from qebgate.engines.concrete import Inputs, quantized_outputs
from qebgate.engines.enumerate import all_codes
from qebgate.engines.milp_integer import Maximum, gap_bound, integer_maximum
from qebgate.engines.milp_stairs import Steps, simplest, straight
from qebgate.milp.cpsat import IntegerResult
from qebgate.runtimes.profiles import Runtime
from qebgate.task import Task
from tests.engines.test_reached import few_free
from tests.engines.tiny import RUNTIMES, tiny
from tests.laws.pairs import codec_of, load, one_operator, random_pair, task_of
from tests.support.tflite_builder import Builder

CASES = (
    "dense_4-int8",
    "dense_relu6-int8",
    "dense_saturating-int8",
    "conv-int8",
    "max_pool-int8",
    "linear-uint8",
    "average_pool-int8",
    "residual-int8",
)
WHOLE = ("dense_4-int8", "linear-uint8")


def value_at(task: Task, codes: np.ndarray, output: int) -> float:
    inputs = Inputs.of_codes(task, codes.reshape(1, *task.cell.lower.shape))
    return float(quantized_outputs(task, inputs)[0, output])


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        pytest.param(n, r, marks=[pytest.mark.slow] if (k + i) % 3 else [])
        for k, n in enumerate(CASES)
        for i, r in enumerate(RUNTIMES)
    ],
)
def test_the_maximum_is_that_of_all_inputs(name: str, runtime: Runtime) -> None:
    t = tiny(name)
    rng = np.random.default_rng(sum(name.encode()))
    q = t.quantized(runtime)
    least, most = t.codec.dtype.code_range
    corner = rng.integers(least, most - 12, t.side)
    for cell in (t.cell(corner, corner + 12), t.whole if name in WHOLE else t.cell(corner, corner)):
        task, rows = t.task(cell, runtime), t.rows(cell)
        output, sign = int(rng.integers(q.shape[1])), int(rng.choice([-1, 1]))
        truth = float((sign * q[rows, output]).max())
        m = integer_maximum(task, output, sign, work=20.0, seconds=30.0)
        assert m.result.trouble is None
        assert m.exact
        assert m.best == truth
        assert m.bound is not None
        assert truth <= m.bound <= truth + 1e-12
        assert m.codes is not None
        assert sign * value_at(task, m.codes, output) == truth


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_outputs_in_float_are_bounded(runtime: Runtime) -> None:
    """The last step is computed in float32: its rounding is in the bound."""
    t = tiny("dense_4-float_io")
    task = t.task(t.whole, runtime)
    truth = float(t.quantized(runtime)[:, 0].max())
    m = integer_maximum(task, 0, work=20.0, seconds=30.0)
    assert m.bound is not None
    assert truth <= m.bound <= truth + 1e-5
    assert m.codes is not None
    assert value_at(task, m.codes, 0) == truth


def test_a_stopped_search_bounds_the_maximum() -> None:
    t = tiny("dense_deep-int8")
    task = t.task(t.whole, Runtime.BUILTIN)
    truth = float(t.quantized(Runtime.BUILTIN)[:, 0].max())
    m = integer_maximum(task, 0, work=0.2, seconds=20.0)
    assert m.bound is None or m.bound >= truth
    assert m.best is None or m.best <= truth


OPERATORS = (
    *("ABS", "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MEAN"),
    *("MUL", "PAD", "PRELU", "QUANTIZE", "RELU", "RELU6", "SUB", "TANH", "TRANSPOSE"),
)


@pytest.mark.parametrize(
    ("op", "runtime"),
    [
        pytest.param(op, r, marks=[pytest.mark.slow] if (k + i) % 3 else [])
        for k, op in enumerate(OPERATORS)
        for i, r in enumerate(RUNTIMES)
    ],
)
def test_operators_without_weights(op: str, runtime: Runtime) -> None:
    """Both ends of some outputs, over the codes of a few inputs."""
    rng, told = np.random.default_rng(sum(op.encode())), 0
    for seed in range(4):
        pair = one_operator(op, seed).pair
        cell = few_free(pair, rng, 2)
        if cell.count is None or cell.count > 1 << 16:
            continue
        task = task_of(pair, cell, codec_of(pair), runtime)
        parts = [quantized_outputs(task, Inputs.of_codes(task, c)) for c in all_codes(cell, 4096)]
        moving = np.flatnonzero(np.ptp(np.concatenate(parts), axis=0))
        for output in rng.permutation(moving)[:2].tolist():
            for sign in (-1, 1):
                m = integer_maximum(task, output, sign, work=5.0, seconds=30.0)
                if m.result.trouble is not None:
                    assert m.bound is None
                    told += 1
                    continue
                assert m.exact
                assert m.best == max((sign * p[:, output]).max() for p in parts)
    assert told == 0 or op == "MUL"


@pytest.mark.parametrize(
    "seed", [pytest.param(k, marks=[] if k in (1, 3, 5, 6, 14, 38, 39, 51) else pytest.mark.slow) for k in range(100)]
)
def test_random_networks(seed: int) -> None:
    pair, rng = random_pair(seed).pair.at("logits"), np.random.default_rng(seed)
    cell = few_free(pair, rng, 2)
    task = task_of(pair, cell, codec_of(pair), RUNTIMES[seed % 3])
    assert cell.count is not None
    if cell.count > 1 << 16:
        return
    truth = max(quantized_outputs(task, Inputs.of_codes(task, c))[:, 0].max() for c in all_codes(cell, 4096))
    m = integer_maximum(task, 0, work=20.0, seconds=60.0)
    assert m.exact
    assert m.best == truth


def test_what_has_no_integer_program_is_told() -> None:
    t = tiny("softmax-int8")
    m = integer_maximum(t.task(t.whole, Runtime.BUILTIN), 0, work=1.0, seconds=5.0)
    assert m.bound is None
    assert m.result.trouble == "operator #2 SOFTMAX is not linear"


def test_a_last_step_in_float32_has_no_integer_program() -> None:
    """Its rounding is no part of the network's function on integers."""
    weights = np.array([[0.5, 1.0, -2.0, 0.25]], np.float32)
    b = Builder()
    codes = b.tensor((1, 4), "int8", scale=0.03125, zero_point=5)
    read, y, w = b.tensor((1, 4)), b.tensor((1, 1)), b.tensor((1, 4), data=weights)
    b.op("DEQUANTIZE", [codes], [read], version=2)
    b.op("FULLY_CONNECTED", [read, w, -1], [y])
    quantized = b.build([codes], [y])
    b = Builder()
    x, y, w = b.tensor((1, 4)), b.tensor((1, 1)), b.tensor((1, 4), data=weights)
    b.op("FULLY_CONNECTED", [x, w, -1], [y])
    pair = load(b.build([x], [y]), quantized).pair
    codec = codec_of(pair)
    cell = few_free(pair, np.random.default_rng(0), 2)
    task = task_of(pair, cell, codec, Runtime.BUILTIN)
    m = integer_maximum(task, 0, work=1.0, seconds=5.0)
    assert m.bound is None
    assert m.result.trouble is not None
    assert "computed in real numbers" in m.result.trouble


def test_bound_of_the_gap() -> None:
    m = Maximum(1.5, 1.5, None, True, IntegerResult("optimal", 3, None, 3, None, 0.0))
    got = gap_bound(m, 1.25)
    assert got is not None
    assert 0.25 <= got < 0.2500001
    assert gap_bound(Maximum(None, None, None, False, m.result), 0.0) is None


@pytest.mark.parametrize("seed", range(20))
def test_straight_staircases_are_found_and_others_are_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    slope, shift = Fraction(int(rng.integers(600, 90_000)), int(rng.integers(1, 200))), int(rng.integers(-9999, 9999))
    first = np.asarray([-((-(slope * k + shift)) // 1) for k in range(int(rng.integers(4, 250)))], np.int64)
    line = straight(Steps.of_firsts(0, first))
    assert line is not None
    a, c, d = line
    for k, t in enumerate(first.tolist()):
        assert a * t >= c * k + d > a * (t - 1)
    bent = first.copy()
    bent[bent.size // 2 :] += int(slope) // 2
    assert straight(Steps.of_firsts(0, bent)) is None


@pytest.mark.parametrize("seed", range(50))
def test_simplest_fraction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = Fraction(int(rng.integers(0, 10**6)), int(rng.integers(1, 10**4)))
    high = low + Fraction(1, int(rng.integers(1, 10**5)))
    got = simplest(low, high)
    assert low < got < high
    for q in range(1, min(got.denominator, 200)):
        assert not low < Fraction(low * q // 1 + 1, q) < high
