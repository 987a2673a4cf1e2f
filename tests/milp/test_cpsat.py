"""CP-SAT on integers only: right on small programs, refused beyond its limits, and never given anything continuous."""

from __future__ import annotations

import ast
import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import qebgate
from qebgate.milp import cpsat, mathopt
from qebgate.milp.cpsat import IntegerModel, IntegerRaw, checked, maximize

PACKAGE = Path(qebgate.__file__).parent


def small(seed: int) -> tuple[IntegerModel, tuple[np.ndarray, np.ndarray], int]:
    """Rows, a conditional row, a clamp and a maximum over four variables; the objective's maximum by trying all."""
    rng = np.random.default_rng(seed)
    m = IntegerModel()
    x = m.variables(np.full(4, -2), np.full(4, 2))
    a, b = rng.integers(-5, 6, (2, 4))
    m.row(x, a, -6, 7)
    flag = m.variable(0, 1)
    m.row(x, b, 1, 100, flag, value=True)
    m.row(x, b, -100, 0, flag, value=False)
    top = m.variable(-2, 2)
    m.extreme(top, x[:3].tolist())
    clamped = m.clamp(int(x[3]), -1, 1)
    c = rng.integers(-9, 10, 4)
    objective = np.append(x, [flag, top, clamped]), np.append(c, [3, 2, -4])
    best = -(10**9)
    for p in itertools.product(range(-2, 3), repeat=4):
        if -6 <= a @ p <= 7:
            best = max(best, int(c @ p) + 3 * int(b @ p >= 1) + 2 * max(p[:3]) - 4 * min(max(p[3], -1), 1))
    return m, objective, best


@pytest.mark.parametrize("seed", range(12))
def test_maximum_of_a_small_program(seed: int) -> None:
    m, objective, best = small(seed)
    r = maximize(m, objective, work=5, seconds=20)
    assert r.trouble is None
    assert (r.ending, r.best, r.bound) == ("optimal", best, best)
    assert r.x is not None
    assert cpsat.holds(m, r.x)


def test_a_point_beside_the_program_does_not_hold() -> None:
    m, objective, _ = small(0)
    r = maximize(m, objective, work=5, seconds=20)
    assert r.x is not None
    for k in range(r.x.size):
        moved = r.x.copy()
        moved[k] = m.hi[k] + 1
        assert not cpsat.holds(m, moved)
    moved = r.x.copy()
    moved[5] += 1 if moved[5] < 2 else -1  # the maximum of three variables
    assert not cpsat.holds(m, moved)


@pytest.mark.parametrize(
    ("coefficient", "reach", "said"),
    [((1 << 28) + 1, 1, "2**28"), (1 << 28, 1 << 23, "2**50"), (1, (1 << 50) + 1, "2**50")],
)
def test_large_numbers_are_refused(coefficient: int, reach: int, said: str) -> None:
    m = IntegerModel()
    x = m.variables(np.array([0]), np.array([reach]))
    m.row(x, np.array([coefficient]), 0, 1 << 40)
    r = maximize(m, (x, np.ones(1, np.int64)), work=1, seconds=1)
    assert (r.ending, r.bound, r.x) == ("refused", None, None)
    assert r.trouble is not None
    assert said in r.trouble


def test_numbers_at_the_limits_are_solved() -> None:
    m = IntegerModel()
    x = m.variables(np.array([0, 0]), np.array([1 << 21, 1 << 21]))
    a = np.array([1 << 28, (1 << 28) - 1])
    m.row(x, a, -(1 << 49), (1 << 49) - 1)
    r = maximize(m, (x, a), work=20, seconds=30)
    assert r.trouble is None
    assert r.bound is not None
    assert (1 << 49) - (1 << 28) <= r.bound <= (1 << 49) - 1


def test_an_empty_program_is_no_bound() -> None:
    m, objective, _ = small(0)
    m.row(objective[0][:1], np.ones(1, np.int64), 50, 60)
    r = maximize(m, objective, work=5, seconds=20)
    assert r.bound is None
    assert r.trouble is not None
    assert "infeasible" in r.trouble


@pytest.mark.parametrize(
    "change",
    [
        {"ending": "infeasible"},
        {"ending": "other"},
        {"bound": math.nan},
        {"bound": math.inf},
        {"bound": -math.inf},
        {"bound": 2.0**60},
        {"bound": -1e6},
        {"best": 10.0**6},
        {"best": None},
        {"x": np.full(7, 99)},
        {"x": np.zeros(3, np.int64)},
        {"x": None, "best": None},
        {"ending": "limit", "x": None, "best": None},
        {"ending": "limit", "x": None, "best": None, "bound": -1e6},
        {"ending": "optimal", "bound": 1e6},
    ],
)
def test_a_surprising_answer_is_no_bound(change: dict[str, object]) -> None:
    m, objective, best = small(1)
    right = maximize(m, objective, work=5, seconds=20)
    good = IntegerRaw("optimal", "", float(best), right.x, float(best), 0.0)
    assert checked(m, objective, good).bound == best
    assert checked(m, objective, replace(good, ending="limit", bound=best + 0.5)).bound == best + 1
    r = checked(m, objective, replace(good, **change))  # type: ignore[arg-type]
    assert r.bound is None
    assert r.trouble


def test_the_time_limit_gives_no_bound() -> None:
    """A real time-out: hardly any time for a subset-sum."""
    rng = np.random.default_rng(0)
    m = IntegerModel()
    x = m.variables(np.zeros(60, np.int64), np.ones(60, np.int64))
    for _ in range(10):
        a = rng.integers(1 << 20, 1 << 24, 60)
        m.row(x, a, 0, int(a.sum() // 2))
    r = maximize(m, (x, rng.integers(1 << 20, 1 << 24, 60)), work=1e-3, seconds=0.01)
    assert r.ending in ("limit", "other")
    assert (r.bound is None) == (r.trouble is not None)
    if r.bound is not None:
        assert r.best is not None
        assert r.best <= r.bound


def test_what_the_solver_raises_is_not_taken_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from ortools.sat.python import cp_model

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the solver fell over")

    monkeypatch.setattr(cp_model.CpSolver, "solve", broken)
    m, objective, _ = small(0)
    with pytest.raises(RuntimeError, match="fell over"):
        maximize(m, objective, work=1, seconds=1)


def imports(path: Path) -> set[str]:
    """Modules that a file imports, with the names it takes from them."""
    out: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            out |= {f"{node.module}.{a.name}" for a in node.names}
    return out


def test_no_path_gives_cp_sat_anything_continuous() -> None:
    """CP-SAT is reached from one module, whose variables are integers; the other solvers' module cannot name it."""
    users = {
        p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py") if any("ortools" in i for i in imports(p))
    }
    assert users == {"milp/cpsat.py", "milp/mathopt.py"}
    assert {i for i in imports(PACKAGE / "milp/cpsat.py") if "ortools" in i} == {"ortools.sat.python.cp_model"}
    assert {i for i in imports(PACKAGE / "milp/mathopt.py") if "ortools" in i} == {"ortools.math_opt.python.mathopt"}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert "CP_SAT" not in text, path
        assert "import_module(" not in text or "ortools" not in text, path
    assert set(get_args(mathopt.Solver)) == {"highs", "gscip"}


def test_every_variable_is_an_integer_when_it_reaches_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    from ortools.sat.python import cp_model

    seen: list[cp_model.CpModel] = []
    solve = cp_model.CpSolver.solve

    def spy(self: cp_model.CpSolver, model: cp_model.CpModel, *args: object) -> object:
        seen.append(model)
        return solve(self, model, *args)

    monkeypatch.setattr(cp_model.CpSolver, "solve", spy)
    m, objective, _ = small(3)
    maximize(m, objective, work=5, seconds=20)
    (model,) = seen
    assert len(model.proto.variables) == len(m.lo)
    assert not model.proto.HasField("floating_point_objective")
    assert all(row.coefficients.dtype == np.int64 for row in m.rows)


@pytest.mark.parametrize("where", ["bounds", "coefficients", "objective"])
def test_numbers_that_are_no_integers_are_an_error(where: str) -> None:
    m, (i, a), _ = small(0)
    half = np.array([0.5, 1.5])
    state: dict[str, Callable[[], object]] = {
        "bounds": lambda: m.variables(np.zeros(2), half),  # type: ignore[arg-type]
        "coefficients": lambda: m.row(i[:2], half, 0, 1),  # type: ignore[arg-type]
        "objective": lambda: maximize(m, (i, a * 0.5), work=1, seconds=1),
    }
    with pytest.raises(TypeError, match="integers"):
        state[where]()


def test_importing_loads_no_solver() -> None:
    code = "import sys, qebgate.engines.milp_integer; sys.exit('ortools' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
