"""Programs in integers only, maximised by CP-SAT.

Every variable is a bounded integer and every coefficient a small one, so that the solver's own arithmetic is exact.
There is no way to state a continuous variable: CP-SAT scales those to integers and was seen to return bounds below
the truth.  :func:`refusal` keeps coefficients and activities well within 64 bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]

MAX_COEFFICIENT = 1 << 28
MAX_ACTIVITY = 1 << 50
"""Largest sum of ``|a| |x|`` of a row; beyond it a presolve step of CP-SAT is known to overflow."""
MAX_SIZE = 2_000_000
"""Coefficients of a whole program."""

IntegerEnding = Literal["optimal", "limit", "refused", "infeasible", "other"]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """``lo <= sum a_i x_i <= hi``; where ``when`` names a 0-1 variable, only if it is ``value``."""

    variables: I64
    coefficients: I64
    lo: int
    hi: int
    when: int = -1
    value: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Extreme:
    """``target = max(sources)`` where ``sign`` is 1, else ``min``; ``floor`` is one more source."""

    target: int
    sources: I64
    floor: int | None
    sign: int


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The variables together take the values of one of ``rows [n, variables]``."""

    variables: I64
    rows: I64


@dataclass
class IntegerModel:
    """Collects bounded integer variables and the rows between them."""

    lo: list[int] = field(default_factory=list[int])
    hi: list[int] = field(default_factory=list[int])
    rows: list[Row] = field(default_factory=list[Row])
    extremes: list[Extreme] = field(default_factory=list[Extreme])
    tables: list[Table] = field(default_factory=list[Table])

    def variables(self, lo: I64, hi: I64) -> I64:
        """New variables in ``[lo, hi]``; returns their indices."""
        first = len(self.lo)
        self.lo += _whole(lo).ravel().tolist()
        self.hi += _whole(hi).ravel().tolist()
        return np.arange(first, len(self.lo), dtype=np.int64)

    def variable(self, lo: int, hi: int) -> int:
        self.lo.append(lo)
        self.hi.append(hi)
        return len(self.lo) - 1

    def range(self, variables: I64, coefficients: I64) -> tuple[int, int]:
        """Smallest and largest value of a sum over the variables' bounds."""
        lo = sum(int(a) * (self.lo[v] if a > 0 else self.hi[v]) for v, a in zip(variables, coefficients, strict=True))
        hi = sum(int(a) * (self.hi[v] if a > 0 else self.lo[v]) for v, a in zip(variables, coefficients, strict=True))
        return lo, hi

    def row(self, variables: I64, coefficients: I64, lo: int, hi: int, when: int = -1, *, value: bool = True) -> None:
        """A new row; terms with coefficient 0 are left out."""
        some = np.flatnonzero(_whole(coefficients))
        self.rows.append(Row(variables[some], coefficients[some], lo, hi, when, value))

    def extreme(self, target: int, sources: Sequence[int], floor: int | None = None, sign: int = 1) -> None:
        self.extremes.append(Extreme(target, np.asarray(sources, dtype=np.int64), floor, sign))

    def table(self, variables: Sequence[int], rows: I64) -> None:
        self.tables.append(Table(np.asarray(variables, dtype=np.int64), _whole(rows)))

    def clamp(self, v: int, lo: int, hi: int) -> int:
        """A variable that is another one clamped to ``[lo, hi]``."""
        for end, sign in ((lo, 1), (hi, -1)):
            if (self.lo[v] < end) if sign > 0 else (self.hi[v] > end):
                bounds = (self.lo[v], self.hi[v])
                low, high = (max(b, end) if sign > 0 else min(b, end) for b in bounds)
                out = self.variable(low, high)
                self.extreme(out, [v], end, sign)
                v = out
        return v


def _whole(a: I64) -> I64:
    """The array itself.  Raises TypeError where it is not one of integers."""
    if a.dtype.kind != "i":
        raise TypeError(f"a program in integers was given numbers of type {a.dtype}")
    return a


@dataclass(frozen=True, slots=True, eq=False)
class IntegerRaw:
    """What the solver said, not yet believed.  ``bound`` and ``best`` are of the objective."""

    ending: IntegerEnding
    detail: str
    best: float | None
    x: I64 | None
    bound: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class IntegerResult:
    """``bound``: no point of the program has a larger objective (None: nothing to believe, ``trouble`` says why).

    ``x`` is a point of the program, checked in exact integers, and ``best`` its objective.
    """

    ending: IntegerEnding
    best: int | None
    x: I64 | None
    bound: int | None
    trouble: str | None
    seconds: float


def refusal(m: IntegerModel, objective: tuple[I64, I64]) -> str | None:
    """Why a program must not be given to CP-SAT; None where it may."""
    size = sum(r.variables.size for r in m.rows) + sum(t.rows.size for t in m.tables)
    if size > MAX_SIZE:
        return f"{size} coefficients are more than {MAX_SIZE}"
    reach = np.maximum(np.abs(np.asarray(m.lo, dtype=object)), np.abs(np.asarray(m.hi, dtype=object)))
    if len(m.lo) and max(reach.tolist()) > MAX_ACTIVITY:
        return "a variable is beyond 2**50"
    rows = [(r.variables, r.coefficients, max(abs(r.lo), abs(r.hi))) for r in m.rows]
    for variables, coefficients, side in [*rows, (*objective, 0)]:
        if not variables.size:
            continue
        largest = int(np.abs(coefficients).max())
        if largest > MAX_COEFFICIENT:
            return f"a coefficient of {largest} is beyond 2**28"
        activity = sum(abs(int(a)) * int(r) for a, r in zip(coefficients, reach[variables], strict=True))
        if max(activity, side) > MAX_ACTIVITY:
            return f"an activity of {max(activity, side)} is beyond 2**50"
    return None


def maximize(
    m: IntegerModel, objective: tuple[I64, I64], *, work: float, seconds: float, seed: int = 0, hint: I64 | None = None
) -> IntegerResult:
    """Maximise ``sum a_i x_i``, ``objective = (i, a)``; never raises for what a time limit does.

    ``work`` is in the solver's deterministic seconds, ``seconds`` guards the wall clock.  ``hint`` holds values of the
    first variables.
    """
    _whole(objective[1])
    why = refusal(m, objective)
    if why is not None:
        return IntegerResult("refused", None, None, None, why, 0.0)
    return checked(m, objective, run(m, objective, work=work, seconds=seconds, seed=seed, hint=hint))


def checked(m: IntegerModel, objective: tuple[I64, I64], raw: IntegerRaw) -> IntegerResult:
    """Believe an answer only where nothing about it is surprising."""

    def refused(why: str) -> IntegerResult:
        text = f"{why} ({raw.detail})" if raw.detail else why
        return IntegerResult(raw.ending, None, None, None, text, raw.seconds)

    if raw.ending == "infeasible":
        return refused("CP-SAT calls the program infeasible")
    if raw.ending not in ("optimal", "limit"):
        return refused("CP-SAT failed")
    best: int | None = None
    if raw.x is not None:
        if raw.x.shape != (len(m.lo),) or not holds(m, raw.x):
            return refused("CP-SAT's solution violates the program")
        i, a = objective
        best = sum(int(c) * int(v) for c, v in zip(a, raw.x[i], strict=True))
        if raw.best is None or raw.best != best:
            return refused("CP-SAT's objective is not that of its solution")
    if not math.isfinite(raw.bound) or abs(raw.bound) > 2 * MAX_ACTIVITY:
        return refused("CP-SAT gave no finite bound")
    bound = math.ceil(raw.bound)
    if best is None:  # without a solution nothing shows that its bound means anything
        return refused("CP-SAT found no solution within its limits")
    if best > bound or (raw.ending == "optimal" and best != bound):
        return refused("CP-SAT's solution and its bound disagree")
    return IntegerResult(raw.ending, best, raw.x, bound, None, raw.seconds)


def holds(m: IntegerModel, x: I64) -> bool:
    """Whether a point satisfies bounds, rows, extremes and tables, in exact integers."""
    values = [int(v) for v in x]
    if any(not lo <= v <= hi for lo, v, hi in zip(m.lo, values, m.hi, strict=True)):
        return False
    for r in m.rows:
        if r.when >= 0 and bool(values[r.when]) != r.value:
            continue
        if not r.lo <= sum(int(a) * values[v] for v, a in zip(r.variables, r.coefficients, strict=True)) <= r.hi:
            return False
    for e in m.extremes:
        given = [values[v] for v in e.sources] + ([] if e.floor is None else [e.floor])
        if values[e.target] != (max(given) if e.sign > 0 else min(given)):
            return False
    return all((t.rows == [values[v] for v in t.variables]).all(axis=1).any() for t in m.tables)


def run(
    m: IntegerModel, objective: tuple[I64, I64], *, work: float, seconds: float, seed: int, hint: I64 | None
) -> IntegerRaw:
    """Call CP-SAT and translate its answer, unchecked.  What the solver raises is not caught: it is a crash."""
    from ortools.sat.python import cp_model

    start = time.monotonic()
    program = _program(m, objective, hint)
    solver: Any = cp_model.CpSolver()
    p = solver.parameters
    p.num_workers = 1
    p.random_seed = seed
    p.max_deterministic_time = max(work, 1e-3)
    p.max_time_in_seconds = max(seconds, 0.01)
    p.presolve_inclusion_work_limit = 0  # a known bug of that step shows with large coefficients
    status = solver.solve(program)
    endings: dict[Any, IntegerEnding] = {
        cp_model.OPTIMAL: "optimal",
        cp_model.FEASIBLE: "limit",
        cp_model.UNKNOWN: "limit",
        cp_model.INFEASIBLE: "infeasible",
    }
    ending = endings.get(status, "other")
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    x = np.asarray(solver.response_proto.solution, dtype=np.int64) if found else None
    best = float(solver.objective_value) if found else None
    bound = float(solver.best_objective_bound) if found else math.inf
    return IntegerRaw(ending, str(solver.status_name(status)), best, x, bound, time.monotonic() - start)


def _program(m: IntegerModel, objective: tuple[I64, I64], hint: I64 | None) -> Any:
    """The program in CP-SAT's terms; variables in order, so that their numbers are their positions."""
    from ortools.sat.python import cp_model

    program: Any = cp_model.CpModel()
    v = [program.new_int_var(lo, hi, "") for lo, hi in zip(m.lo, m.hi, strict=True)]

    def total(variables: I64, coefficients: I64) -> Any:
        return cp_model.LinearExpr.weighted_sum([v[i] for i in variables.tolist()], coefficients.tolist())

    for r in m.rows:
        row = program.add_linear_constraint(total(r.variables, r.coefficients), r.lo, r.hi)
        if r.when >= 0:
            assert (m.lo[r.when], m.hi[r.when]) == (0, 1), "a condition that is no 0-1 variable"
            literal = program.get_bool_var_from_proto_index(r.when)
            row.only_enforce_if(literal if r.value else literal.negated())
    for e in m.extremes:
        given = [v[i] for i in e.sources.tolist()] + ([] if e.floor is None else [e.floor])
        (program.add_max_equality if e.sign > 0 else program.add_min_equality)(v[e.target], given)
    for t in m.tables:
        program.add_allowed_assignments([v[i] for i in t.variables.tolist()], t.rows.tolist())
    program.maximize(total(*objective))
    for i, value in enumerate(() if hint is None else hint.tolist()):
        program.add_hint(v[i], value)
    return program
