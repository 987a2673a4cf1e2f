"""The scaled program contains every point of the stated one, and does not depend on the scale of the statement."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

from qebgate.milp import mathopt
from qebgate.milp.model import MAX_RANGE, Builder, Model, Scaled


def random_statement(rng: np.random.Generator) -> tuple[Builder, np.ndarray, np.ndarray]:
    """Rows through a known point, with magnitudes spread over many orders; returns the point and the matrix."""
    n, m = 12, 8
    spread = 10.0 ** rng.uniform(-6, 6, n)
    centre = rng.normal(size=n) * 10.0 ** rng.uniform(-6, 6, n)
    lo, hi = centre - spread * rng.random(n), centre + spread * rng.random(n)
    point = lo + rng.random(n) * (hi - lo)
    point = np.clip(point, lo, hi)
    b = Builder()
    first = b.variables(lo[:7], hi[:7])
    second = b.variables(lo[7:], hi[7:])
    k = b.variables(np.array([-3.0]), np.array([9.0]), integer=True)
    point = np.append(point, 4.0)
    a = rng.normal(size=(m, n + 1)) * 10.0 ** rng.uniform(-8, 8, (m, n + 1)) * (rng.random((m, n + 1)) < 0.7)
    exact = [sum((Fraction(c) * Fraction(v) for c, v in zip(row, point, strict=True)), Fraction(0)) for row in a]
    below = np.nextafter(np.array([float(e) for e in exact]), -np.inf)
    above = np.nextafter(np.array([float(e) for e in exact]), np.inf)
    rows = slice(0, 5), slice(5, m)

    def terms(r: slice) -> list[tuple[object, np.ndarray]]:
        columns = sp.csr_matrix(a[r, :7]), sp.csr_matrix(a[r, 7:12])
        return [(columns[0], first), (columns[1], second), (a[r, 12], np.repeat(k, len(a[r])))]

    b.rows(terms(rows[0]), below[rows[0]], above[rows[0]])
    b.rows(terms(rows[1]), -np.inf, above[rows[1]])
    return b, point, a


def holds_exactly(s: Scaled, real: np.ndarray) -> bool:
    """Whether a real point satisfies the scaled model, in rational arithmetic."""
    m = s.model
    triples = zip(real, s.centre, s.scale, strict=True)
    x = [(Fraction(v) - Fraction(c)) / Fraction(w) for v, c, w in triples]
    if not all(Fraction(lo) <= v <= Fraction(hi) for lo, v, hi in zip(m.lo, x, m.hi, strict=True)):
        return False
    dense = m.matrix.toarray()
    for row, lo, hi in zip(dense, m.row_lo, m.row_hi, strict=True):
        y = sum((Fraction(c) * v for c, v in zip(row, x, strict=True) if c), Fraction(0))
        if (np.isfinite(lo) and y < Fraction(lo)) or (np.isfinite(hi) and y > Fraction(hi)):
            return False
    return True


@pytest.mark.parametrize("seed", range(40))
def test_every_stated_point_stays_feasible(seed: int) -> None:
    b, point, _ = random_statement(np.random.default_rng(seed))
    s = b.build()
    assert s.model.is_finite
    assert s.model.matrix.nnz > 0
    assert holds_exactly(s, point)


def test_points_outside_are_cut_off() -> None:
    cut = 0
    for seed in range(20):
        b, point, a = random_statement(np.random.default_rng(seed))
        s = b.build()
        lo, hi = b.bounds()
        step = np.where(a[0] > 0, hi - point, lo - point)
        step[-1] = 0
        if np.abs(a[0] @ step) > 1e-4 * (np.abs(a[0]) @ np.maximum(np.abs(lo), np.abs(hi))):
            cut += not holds_exactly(s, np.clip(point + step, lo, hi))
    assert cut >= 5


def test_the_program_of_a_rescaled_statement_is_the_same() -> None:
    rng = np.random.default_rng(0)
    lo, hi = rng.uniform(-2, -1, 6), rng.uniform(1, 2, 6)
    a = rng.normal(size=(4, 6))
    right = rng.normal(size=4)

    def build(columns: np.ndarray, rows: np.ndarray) -> Model:
        b = Builder()
        x = b.variables(lo / columns, hi / columns)
        b.rows([(sp.csr_matrix(a * columns * rows[:, None]), x)], -np.inf, right * rows)
        return b.build().model

    plain = build(np.ones(6), np.ones(4))
    odd = build(2.0 ** rng.integers(-40, 40, 6), 2.0 ** rng.integers(-40, 40, 4))
    assert (plain.lo == odd.lo).all()
    assert (plain.hi == odd.hi).all()
    assert (plain.matrix.toarray() == odd.matrix.toarray()).all()
    np.testing.assert_allclose(plain.row_hi, odd.row_hi, rtol=1e-13)
    assert odd.coefficient_range <= MAX_RANGE


def test_a_few_negligible_coefficients_become_slack_and_many_do_not() -> None:
    def build(n: int) -> Model:
        b = Builder()
        big, tiny = b.variables(np.full(1, -1.0), np.ones(1)), b.variables(np.full(n, -1.0), np.ones(n))
        b.rows([(sp.csr_matrix([[1.0]]), big), (sp.csr_matrix(np.full((1, n), 2.0**-24)), tiny)], -np.inf, 0.0)
        return b.build().model

    few, many = build(4), build(4096)
    assert few.matrix.nnz == 1
    assert few.row_hi[0] * 2.0 >= 4 * 2.0**-24  # the row was halved: variables scale by 2 to be inside [-1, 1]
    assert many.coefficient_range > MAX_RANGE


def test_fixed_variables_and_rows_that_never_bind_disappear() -> None:
    b = Builder()
    x, c = b.variables(np.zeros(2), np.ones(2)), b.variables(np.full(1, 3.0), np.full(1, 3.0))
    b.rows([(np.ones(1), x[:1]), (np.ones(1), c)], -np.inf, 3.5)
    b.rows([(np.ones(1), x[1:]), (np.ones(1), c)], -np.inf, 9.0)
    s = b.build()
    assert s.model.matrix.shape == (1, 3)
    assert s.model.matrix.nnz == 1
    assert holds_exactly(s, np.array([0.5, 1.0, 3.0]))
    assert not holds_exactly(s, np.array([0.6, 1.0, 3.0]))


def test_multipliers_of_stated_rows() -> None:
    """Of rows that were scaled, moved and partly dropped: weak duality in real units, to the solver's tolerance."""
    rng = np.random.default_rng(5)
    b = Builder()
    x = b.variables(np.array([-3.0, 1e4, 0.0]), np.array([5.0, 1.3e4, 2e-3]))
    a = sp.csr_matrix(rng.normal(size=(4, 3)) * [1.0, 1e-3, 1e3])
    limits = a @ np.array([1.0, 1.1e4, 1e-3]) + np.array([0.1, 0.2, 1e9, 0.3])  # the third never binds
    first = b.rows([(a, x)], -np.inf, limits)
    last = b.rows([(np.ones(2), x[:2]), (np.ones(2), x[1:])], -np.inf, np.array([1.2e4, 1.25e4]))
    assert first.tolist() == [0, 1, 2, 3]
    assert last.tolist() == [4, 5]
    s = b.build()
    cost = np.array([1.0, 1e-3, 1e3])
    (y,) = mathopt.row_multipliers(s.model, [cost * s.scale], iterations=1000, seconds=10)
    assert y is not None
    real = s.multipliers(y)
    assert real.shape == (6,)
    assert real[2] == 0.0
    assert (real >= -1e-9).all()
    rows = sp.vstack([a, sp.csr_matrix([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])])
    limits = np.append(limits, [1.2e4, 1.25e4])
    rest = cost - rows.T @ real
    lo, hi = b.bounds()
    dual = float(real @ limits + np.maximum(rest * lo, rest * hi).sum())
    best = mathopt.maximize(s.model.aiming(cost * s.scale), mathopt.Limits(10))
    assert best.dual is not None
    assert dual == pytest.approx(best.dual + float(cost @ s.centre), rel=1e-3)
