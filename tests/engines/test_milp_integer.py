"""The exact integer program of the quantized network against execution of every input; no tolerance on the maximum."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from qebgate.engines.concrete import Inputs, quantized_outputs
from qebgate.engines.milp_integer import Maximum, gap_bound, integer_maximum, simplest, straight
from qebgate.milp.cpsat import IntegerResult
from qebgate.runtimes.profiles import Runtime
from qebgate.task import Task
from tests.engines.tiny import RUNTIMES, tiny

CASES = ("dense_4-int8", "dense_relu6-int8", "dense_saturating-int8", "conv-int8", "max_pool-int8", "linear-uint8")
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


@pytest.mark.parametrize("name", ["average_pool-int8", "residual-int8", "softmax-int8"])
def test_what_has_no_integer_program_is_told(name: str) -> None:
    t = tiny(name)
    m = integer_maximum(t.task(t.whole, Runtime.BUILTIN), 0, work=1.0, seconds=5.0)
    if name != "softmax-int8":  # its logits are compared
        assert m.bound is None
        assert m.result.trouble is not None


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
    line = straight(first)
    assert line is not None
    a, c, d = line
    for k, t in enumerate(first.tolist()):
        assert a * t >= c * k + d > a * (t - 1)
    bent = first.copy()
    bent[bent.size // 2 :] += int(slope) // 2
    assert straight(bent) is None


@pytest.mark.parametrize("seed", range(50))
def test_simplest_fraction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = Fraction(int(rng.integers(0, 10**6)), int(rng.integers(1, 10**4)))
    high = low + Fraction(1, int(rng.integers(1, 10**5)))
    got = simplest(low, high)
    assert low < got < high
    for q in range(1, min(got.denominator, 200)):
        assert not low < Fraction(low * q // 1 + 1, q) < high
