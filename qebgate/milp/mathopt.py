"""Solve a model through OR-Tools MathOpt, by HiGHS or by SCIP.

OR-Tools is imported only when a model is solved.  CP-SAT is not offered: on models with continuous variables it
returned bounds below the truth.  HiGHS accepts no number of threads, nodes or cuts here, and SCIP aborts the whole
process where its own limit of the dual bound is set: only what is listed in :class:`Limits` is used.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import numpy as np

from qebgate.errors import InternalError, printable
from qebgate.milp.model import MAX_RANGE, Model
from qebgate.numerics.rounding import F64

Solver = Literal["highs", "gscip"]

TOLERANCE = 1e-6
"""Relative size of what solvers call feasible; larger disagreements are surprises."""


class Ending(str, Enum):
    """Why a solver stopped."""

    OPTIMAL = "optimal"
    LIMIT = "limit"
    """A limit was reached, with or without a solution; the dual bound may still be good."""
    INFEASIBLE = "infeasible"
    OTHER = "other"
    """Unbounded, imprecise, an error, a status not known here."""


@dataclass(frozen=True, slots=True)
class Limits:
    """``seconds`` guard the wall clock.  ``nodes`` of branch and bound are deterministic; only SCIP can count them."""

    seconds: float
    nodes: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """What a solver said, as it said it: nothing in it has been believed yet."""

    ending: Ending
    detail: str
    primal: float | None
    x: F64 | None
    dual: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Answers that passed every check.

    ``dual`` is an upper bound of the objective, or None where there is none to believe; ``trouble``
    says why.  ``x`` is a point that satisfies the rows up to the solver's tolerance, ``primal`` its
    objective.
    """

    ending: Ending
    primal: float | None
    x: F64 | None
    dual: float | None
    trouble: str | None
    seconds: float


def maximize(model: Model, limits: Limits, *, solver: Solver = "highs", hint: F64 | None = None) -> Result:
    """Solve, from ``hint`` where there is one (a value for every variable; it need not be feasible).

    Raises InternalError where the solver itself fails; whatever it says about a program is a result.
    """
    refusal = unfit(model)
    if refusal is not None:
        return Result(Ending.OTHER, None, None, None, refusal, 0.0)
    return checked(model, run(model, limits, solver=solver, hint=hint))


def unfit(model: Model) -> str | None:
    """Why a model must not be given to a floating-point solver; None where it may."""
    if not model.is_finite:
        return "the program has infinite bounds"
    if model.coefficient_range > MAX_RANGE:
        return f"coefficients of the program range over a factor of {model.coefficient_range:.2g}, more than 2**20"
    return None


def checked(model: Model, raw: Raw) -> Result:
    """Believe an answer only where nothing about it is surprising."""
    why = _about_solution(model, raw) or _about_bound(model, raw)
    if why is not None:
        return Result(raw.ending, None, None, None, f"{why} ({raw.detail})" if raw.detail else why, raw.seconds)
    if raw.dual > _highest(model):  # infinite, or SCIP's number for it
        return Result(raw.ending, raw.primal, raw.x, None, "the solver stopped before it had a bound", raw.seconds)
    return Result(raw.ending, raw.primal, raw.x, raw.dual, None, raw.seconds)


def _about_solution(model: Model, raw: Raw) -> str | None:
    """What is wrong with how a solver ended, and with its solution."""
    if raw.ending is Ending.INFEASIBLE:  # regions are not empty: every executed input is feasible
        return "the solver calls the program infeasible"
    if raw.ending is Ending.OTHER:
        return "the solver failed"
    if raw.x is None:
        return "the solver calls the program solved without a solution" if raw.ending is Ending.OPTIMAL else None
    if raw.x.shape != model.lo.shape or not np.isfinite(raw.x).all():
        return "the solver's solution is not a point of the program"
    if model.violation(raw.x) > 100 * TOLERANCE * (1.0 + model.activity):
        return "the solver's solution violates the program"
    own = float(model.objective @ raw.x)
    if raw.primal is None or not abs(raw.primal - own) <= TOLERANCE * (1.0 + abs(own)):
        return "the solver's objective is not that of its solution"
    return None


def _highest(model: Model) -> float:
    """What no objective exceeds: a bound above says nothing."""
    highest = model.reach[1]
    return highest + TOLERANCE * (1.0 + abs(highest))


def _about_bound(model: Model, raw: Raw) -> str | None:
    """What is wrong with a solver's bound; after a limit there may be none."""
    lowest, highest = model.reach[0], _highest(model)
    nothing_yet = raw.ending is Ending.LIMIT and raw.dual > highest
    if not math.isfinite(raw.dual) and not nothing_yet:
        return "the solver's bound is not finite"
    if raw.dual > highest and not nothing_yet:
        return "the solver's optimum is above everything that the variables allow"
    if raw.dual < lowest - TOLERANCE * (1.0 + abs(lowest)):
        return "the solver's bound is below everything that the variables allow"
    if raw.primal is not None and not raw.primal <= raw.dual + TOLERANCE * (1.0 + abs(raw.dual)):
        return "the solver's solution exceeds its bound"
    return None


def row_multipliers(
    model: Model, objectives: Iterable[F64], *, iterations: int, seconds: float
) -> Iterator[F64 | None]:
    """Multipliers of a linear program's rows, one array per objective to maximise; None where there are none.

    HiGHS' interior point method (of the solvers in OR-Tools the fastest on these programs, by far), for so many
    iterations at most; ``seconds`` is a guard of the wall clock.
    Positive on rows that hold from above.  Nothing is checked: whatever is built on them must be.
    """
    import numpy.typing  # noqa: F401, ICN001  # pyright: ignore[reportUnusedImport]
    from ortools.math_opt.python import mathopt

    if model.integer.any() or unfit(model) is not None:
        return
    program = _program(model)
    variables = list(program.variables())
    params = mathopt.SolveParameters(
        time_limit=dt.timedelta(seconds=max(seconds, 0.01)),
        iteration_limit=iterations,
        lp_algorithm=mathopt.LPAlgorithm.BARRIER,
    )
    for objective in objectives:
        terms = ((variables[c], float(objective[c])) for c in np.flatnonzero(objective).tolist())
        program.maximize_linear_objective(mathopt.LinearSum(v * c for v, c in terms))
        try:
            answer = mathopt.solve(program, mathopt.SolverType.HIGHS, params=params)
        except Exception:  # noqa: BLE001  (nothing rests on these multipliers: without them there is no bound)
            yield None
            continue
        yield _multipliers(answer, model.row_lo.size)


def _multipliers(answer: Any, rows: int) -> F64 | None:
    if not answer.solutions or answer.solutions[0].dual_solution is None:
        return None
    y = np.zeros(rows)
    for row, value in answer.solutions[0].dual_solution.dual_values.items():
        y[row.id] = value
    return y if np.isfinite(y).all() else None


def run(model: Model, limits: Limits, *, solver: Solver, hint: F64 | None) -> Raw:
    """Call the solver and translate its answer, unchecked.  Raises InternalError for whatever the call raises."""
    # MathOpt 9.14 uses numpy.typing without importing it
    import numpy.typing  # noqa: F401, ICN001  # pyright: ignore[reportUnusedImport]
    from ortools.math_opt.python import mathopt

    start = time.monotonic()
    program = _program(model)
    params = mathopt.SolveParameters(
        time_limit=dt.timedelta(seconds=max(limits.seconds, 0.01)),
        random_seed=limits.seed,
        relative_gap_tolerance=TOLERANCE,
        node_limit=limits.nodes if solver == "gscip" else None,
        # SCIP's heuristics and presolve take more time than its nodes, and win little; HiGHS needs its own
        heuristics=mathopt.Emphasis.OFF if solver == "gscip" else None,
        presolve=mathopt.Emphasis.LOW if solver == "gscip" else None,
    )
    more = mathopt.ModelSolveParameters()
    if hint is not None:
        variables: list[Any] = list(program.variables())
        more.solution_hints.append(mathopt.SolutionHint(dict(zip(variables, hint.tolist(), strict=True))))
    kind = {"highs": mathopt.SolverType.HIGHS, "gscip": mathopt.SolverType.GSCIP}[solver]
    try:
        answer = mathopt.solve(program, kind, params=params, model_params=more)
    except Exception as error:  # whatever the solver's wrapper raises is a failed solve
        raise InternalError(
            "QEB916",
            f"the solver {solver} failed on a program",
            found=f"{type(error).__name__}: {printable(error)}",
            fix="leave the engine out (`engines` of the check), and report the models",
        ) from error
    return _translated(answer, model, time.monotonic() - start)


def _translated(answer: Any, model: Model, seconds: float) -> Raw:
    from ortools.math_opt.python import mathopt

    reasons = mathopt.TerminationReason
    t = answer.termination
    ending = {
        reasons.OPTIMAL: Ending.OPTIMAL,
        reasons.FEASIBLE: Ending.LIMIT,
        reasons.NO_SOLUTION_FOUND: Ending.LIMIT,
        reasons.INFEASIBLE: Ending.INFEASIBLE,
    }.get(t.reason, Ending.OTHER)
    primal, x = None, None
    if answer.solutions and answer.solutions[0].primal_solution is not None:
        solution = answer.solutions[0].primal_solution
        if solution.feasibility_status == mathopt.SolutionStatus.FEASIBLE:
            x = np.full(model.lo.size, np.nan)
            for variable, value in solution.variable_values.items():
                x[variable.id] = value
            primal = float(solution.objective_value)
    detail = f"{t.reason.value}: {t.detail}"[:300]
    return Raw(ending, detail, primal, x, float(t.objective_bounds.dual_bound), seconds)


def _program(model: Model) -> Any:
    """The model in MathOpt's terms; variables are added in order, so that their ids are their positions."""
    from ortools.math_opt.python import mathopt

    program = mathopt.Model(name="gap")
    columns = zip(model.lo.tolist(), model.hi.tolist(), model.integer.tolist(), strict=True)
    variables = [program.add_variable(lb=lo, ub=hi, is_integer=integer) for lo, hi, integer in columns]
    bounds = zip(model.row_lo.tolist(), model.row_hi.tolist(), strict=True)
    rows = [program.add_linear_constraint(lb=lo, ub=hi) for lo, hi in bounds]
    coo = model.matrix.tocoo()
    for r, c, a in zip(coo.row.tolist(), coo.col.tolist(), coo.data.tolist(), strict=True):
        rows[r].set_coefficient(variables[c], a)
    program.objective.is_maximize = True
    for c in np.flatnonzero(model.objective).tolist():
        program.objective.set_linear_coefficient(variables[c], float(model.objective[c]))
    return program
