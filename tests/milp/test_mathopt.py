"""Solvers are right on small programs; a surprising answer is never a bound."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from qebgate.errors import InternalError
from qebgate.milp import mathopt
from qebgate.milp.mathopt import Ending, Limits, Raw, checked, maximize
from qebgate.milp.model import Model


def knapsack(seed: int, n: int = 8) -> tuple[Model, float]:
    """Binaries under two rows, and the largest objective by trying all."""
    rng = np.random.default_rng(seed)
    a, c = rng.uniform(0.1, 1, (2, n)), rng.uniform(0.1, 1, n)
    most = a.sum(axis=1) / 2
    m = Model(np.zeros(n), np.ones(n), np.ones(n, bool), sp.csr_matrix(a), np.full(2, -np.inf), most, c)
    points = np.array(list(itertools.product((0.0, 1.0), repeat=n)))
    ok = (points @ a.T <= most).all(axis=1)
    return m, float((points[ok] @ c).max())


@pytest.mark.parametrize("solver", ["highs", "gscip"])
@pytest.mark.parametrize("seed", range(4))
def test_optimum_of_a_small_program(solver: mathopt.Solver, seed: int) -> None:
    m, best = knapsack(seed)
    r = maximize(m, Limits(10), solver=solver)
    assert r.ending is Ending.OPTIMAL
    assert r.trouble is None
    assert r.x is not None
    assert r.dual == pytest.approx(best, abs=1e-6)
    assert r.primal == pytest.approx(best, abs=1e-6)
    relaxed = maximize(m.relaxed(), Limits(10))
    assert relaxed.dual is not None
    assert relaxed.dual >= best - 1e-9


def test_a_wide_range_of_coefficients_is_refused() -> None:
    m, _ = knapsack(0)
    data = m.matrix.copy()
    data.data[0] *= 2.0**-25
    r = maximize(replace(m, matrix=data), Limits(10))
    assert r.dual is None
    assert r.trouble is not None
    assert "2**20" in r.trouble


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_unbounded_variables_are_refused(value: float) -> None:
    m, _ = knapsack(0)
    hi = m.hi.copy()
    hi[0] = value
    r = maximize(replace(m, hi=hi), Limits(10))
    assert r.dual is None
    assert r.trouble is not None


def test_an_empty_program_is_no_bound() -> None:
    m, _ = knapsack(0)
    r = maximize(replace(m, row_lo=m.row_hi + 100, row_hi=m.row_hi + 200), Limits(10))
    assert r.ending is not Ending.OPTIMAL
    assert r.dual is None


def good(m: Model) -> Raw:
    x = np.zeros(m.lo.size)
    return Raw(Ending.OPTIMAL, "", 0.0, x, 0.5, 0.1)


def test_the_unsurprising_answer_is_believed() -> None:
    m, _ = knapsack(0)
    assert checked(m, good(m)).dual == 0.5
    assert checked(m, replace(good(m), ending=Ending.LIMIT, x=None, primal=None)).dual == 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"ending": Ending.INFEASIBLE},
        {"ending": Ending.OTHER},
        {"dual": math.nan},
        {"dual": math.inf},
        {"dual": -math.inf},
        {"ending": Ending.LIMIT, "dual": math.inf},
        {"ending": Ending.LIMIT, "dual": math.nan},
        {"dual": -1.0},
        {"dual": 1e20},
        {"ending": Ending.LIMIT, "dual": 1e20},
        {"ending": Ending.LIMIT, "x": None, "primal": None, "dual": -1.0},
        {"primal": 0.4},
        {"primal": math.nan},
        {"primal": None},
        {"x": np.ones(8), "primal": 99.0},
        {"x": np.full(8, 2.0)},
        {"x": np.full(8, np.nan)},
        {"x": np.zeros(7)},
        {"x": None, "primal": None},
    ],
)
def test_a_surprising_answer_is_no_bound(change: dict[str, object]) -> None:
    m, _ = knapsack(0)
    r = checked(m, replace(good(m), **change))
    assert r.dual is None
    assert r.trouble


def test_an_exception_of_the_solver_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    m, _ = knapsack(0)
    from ortools.math_opt.python import mathopt as ortools

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("INTERNAL: the solver fell over")

    monkeypatch.setattr(ortools, "solve", broken)
    with pytest.raises(InternalError, match="fell over") as caught:
        maximize(m, Limits(1))
    assert caught.value.code == "QEB916"


def test_importing_loads_no_solver() -> None:
    code = "import sys, qebgate.engines.milp; sys.exit('ortools' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_row_multipliers_prove_the_optimum_of_a_linear_program() -> None:
    m = knapsack(3)[0].relaxed()
    found = list(mathopt.row_multipliers(m, [m.objective, -m.objective], iterations=1000, seconds=10))
    assert len(found) == 2
    for y, c in zip(found, (m.objective, -m.objective), strict=True):
        assert y is not None
        assert (y >= 0).all()  # rows hold from above
        rest = c - m.matrix.T @ y
        best = maximize(m.aiming(c), Limits(10))
        assert best.dual == pytest.approx(float(y @ m.row_hi + np.maximum(rest, 0.0).sum()), abs=1e-6)


def test_row_multipliers_of_unfit_or_integer_programs_are_none() -> None:
    m, _ = knapsack(0)
    assert list(mathopt.row_multipliers(m, [m.objective], iterations=10, seconds=1)) == []
    wide = replace(m.relaxed(), hi=np.full(8, math.inf))
    assert list(mathopt.row_multipliers(wide, [m.objective], iterations=10, seconds=1)) == []


def hard(seed: int, n: int = 60) -> Model:
    """A program that takes a second or so."""
    rng = np.random.default_rng(seed)
    a, c = rng.uniform(1, 100, (15, n)).round(2), rng.uniform(1, 100, n)
    return Model(
        np.zeros(n), np.ones(n), np.ones(n, bool), sp.csr_matrix(a), np.full(15, -np.inf), a.sum(axis=1) / 2, c
    )


@pytest.mark.parametrize("solver", ["highs", "gscip"])
def test_a_time_out_gives_a_valid_bound_or_none(solver: mathopt.Solver) -> None:
    best = maximize(hard(1), Limits(60), solver="gscip").primal
    assert best is not None
    r = maximize(hard(1), Limits(0.05), solver=solver)
    assert (r.dual is None) == (r.trouble is not None)
    if r.dual is not None:
        assert r.dual >= best * (1 - 1e-9)
        assert r.ending in (Ending.LIMIT, Ending.OPTIMAL)


def test_nodes_stop_scip_at_the_same_place() -> None:
    first, again = (maximize(hard(1), Limits(60, nodes=5), solver="gscip") for _ in range(2))
    assert first.ending is Ending.LIMIT
    assert first.dual == again.dual
    full = maximize(hard(1), Limits(60), solver="gscip")
    assert full.ending is Ending.OPTIMAL
    assert full.dual is not None
    assert first.dual is not None
    assert first.dual > full.dual


@pytest.mark.parametrize("solver", ["highs", "gscip"])
def test_a_hint_changes_no_optimum(solver: mathopt.Solver) -> None:
    m, best = knapsack(2)
    for hint in (np.zeros(8), np.ones(8)):  # the second is not feasible
        r = maximize(m, Limits(10), solver=solver, hint=hint)
        assert r.dual == pytest.approx(best, abs=1e-6)
