"""What each stage of the integer LSTM can add, against the stage's own integers; zero tolerance, and not far off."""

from __future__ import annotations

import numpy as np
import pytest

from qebgate.numerics.fixed_point import Multiplier, divide_by_pot, multiply_double_rounding
from qebgate.semantics.lstm_arithmetic import Integers, floating, real_constants, table_error
from qebgate.semantics.unidirectional_sequence_lstm import GATE_BITS, LstmNode
from tests.semantics.compare import load
from tests.semantics.lstm_cases import lstm_parts

UNIT = 2.0**-GATE_BITS
SEEDS = range(30)


def arithmetic(seed: int) -> tuple[Integers, LstmNode]:
    graph = load(lstm_parts(np.random.default_rng(seed), 2, 3, 4).build())
    return Integers.of(graph.nodes[0], graph), LstmNode.of(graph.nodes[0], graph)


def sums(m: Multiplier, unit: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Accumulators of gates within their 16 bits, requantized and exact (real units)."""
    top = np.minimum(8.0 / unit, (2**31 - 1) / 2.0**m.left)
    acc = (rng.uniform(-1, 1, (400, unit.size)) * top).astype(np.int64)
    return multiply_double_rounding(acc, m) * UNIT, acc * unit


@pytest.mark.parametrize("seed", SEEDS)
def test_requantizations_stay_within_what_is_stated(seed: int) -> None:
    a, n = arithmetic(seed)
    rng, used = np.random.default_rng(seed), 0.0
    x, h = (np.repeat([w.q.s * t.q.s for w in ws], n.cells) for ws, t in ((n.weights, n.x), (n.recurrent, n.state)))
    got, real = sums(a.lstm.of_input, x, rng)
    e = a.first(np.abs(real))
    assert (np.abs(got - real) <= e).all()
    used = max(used, float((np.abs(got - real) / e).max()))
    got, real = sums(a.lstm.of_state, h, rng)
    e = a.gate(np.abs(real), np.abs(real), np.zeros(x.size))
    assert (np.abs(got - real) <= e).all()
    product = rng.integers(-(1 << 30), 1 << 30, (400, n.cells))
    real = product * 2.0**-30
    got = multiply_double_rounding(product, a.lstm.of_hidden) * n.y.q.s
    e = a.hidden(np.abs(real))
    assert (np.abs(got - real) <= e).all()
    used = max(used, float((np.abs(got - real) / e).max()))
    assert used > 0.5


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_cells_are_rounded_twice(seed: int) -> None:
    a, _ = arithmetic(seed)
    rng, bits = np.random.default_rng(seed), a.lstm.cell_bits
    f, i, g = (rng.integers(-(1 << 15), 1 << 15, 5000) for _ in range(3))
    c = rng.integers(-(1 << 15), 1 << 15, 5000)
    got = (divide_by_pot(f * c, 15) + divide_by_pot(i * g, 30 - bits)) * 2.0**-bits
    real = f * 2.0**-15 * c * 2.0**-bits + i * g * 2.0**-30
    zero = np.zeros(5000)
    assert (np.abs(got - real) <= a.cell(zero, zero, zero)).all()
    assert np.abs(got - real).max() > 0.7 * 2.0**-bits


def test_curves_are_known_to_some_units() -> None:
    assert 6.0 < table_error(None) * 2**15 < 7.0
    assert all(11.0 < table_error(k) * 2**15 < 12.5 for k in range(7))


def test_float32_is_what_the_float_model_would_use() -> None:
    _, n = arithmetic(0)
    w, r, b = real_constants(n)
    assert (w.shape, r.shape, b.shape) == ((16, 3), (16, 4), (16,))
    f = floating(n, 2.0**-24, 16.0, 24.0)
    z = f.gate(np.ones(16), np.ones(16), np.ones(16))
    assert (z > 3 * 9 * 2.0**-24).all()
    assert (z < 3 * 10 * 2.0**-24).all()
