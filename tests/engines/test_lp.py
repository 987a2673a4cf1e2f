"""The dual as a linear program: any multipliers give a bound, and solved ones the optimum."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from qebgate.domains.gap import Interval
from qebgate.engines.concrete import Session
from qebgate.engines.dra import lp
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.engine import Dra
from qebgate.engines.dra.program import program
from qebgate.engines.dra.relaxation import Relaxation
from qebgate.evidence import Bound
from qebgate.milp import mathopt
from qebgate.runtimes.profiles import Runtime
from qebgate.task import Budget
from tests.engines.exact import evaluate
from tests.engines.test_exact import analysis, inputs
from tests.engines.tiny import ENTRIES, RUNTIMES, outside, tiny
from tests.laws.test_containment import PARTS

DENSE = sorted(n for n in ENTRIES if n.startswith("dense"))
ITERATIONS, SECONDS = 300, 60.0


def solved(program: lp.LinearProgram, objective: np.ndarray) -> np.ndarray | None:
    found = mathopt.row_multipliers(program.scaled.model, [objective], iterations=ITERATIONS, seconds=SECONDS)
    return next(found, None)


def draws(y: np.ndarray | None, rng: np.random.Generator, rows: int) -> list[np.ndarray]:
    """Multipliers: the solver's, spoilt ones, of the wrong sign, at random over many sizes, and none at all."""
    wild = rng.normal(size=rows) * 10.0 ** rng.uniform(-6, 6, rows)
    found = [wild, np.where(rng.random(rows) < 0.8, 0.0, wild), np.zeros(rows)]
    if y is not None:
        found += [
            y,
            -y,
            y * rng.uniform(0.5, 1.5, rows),
            np.where(rng.random(rows) < 0.2, 0.0, y),
        ]
    return found


def excluded(seed: int, settings: Settings | None = None) -> str | None:
    """The first input of a random dense pair whose exact gap is above a bound, however the multipliers came about."""
    a, task, rng = analysis(seed, settings=settings)
    output = max(a.states)
    program = lp.LinearProgram(a)
    truths = [evaluate(task.pair, c, task)[-1] for c in inputs(task, rng, 8)]
    for entry in range(a.states[output].size):
        for sign in (1, -1):
            objective, unit = program.objective(output, entry, float(sign))
            y = solved(program, objective)
            for k, multipliers in enumerate(draws(y, rng, program.scaled.model.row_lo.size)):
                bound = lp.evaluate(
                    program,
                    program.multipliers(multipliers, unit),
                    (output, entry, float(sign)),
                )
                for t in truths:
                    if Fraction(bound) < sign * (t.hq[entry] - t.h[entry]):
                        return f"seed {seed}, output {entry}, side {sign}, multipliers {k}: {bound}"
    return None


@pytest.mark.parametrize("seed", range(30))
def test_any_multipliers_give_a_bound(seed: int) -> None:
    """In rational arithmetic, zero tolerance."""
    assert excluded(seed) is None


@pytest.mark.parametrize("parts", PARTS)
def test_any_multipliers_give_a_bound_without_a_part(parts: Relaxation) -> None:
    for seed in range(40, 44):
        assert excluded(seed, Settings(parts=parts)) is None


def test_solved_multipliers_reach_the_optimum() -> None:
    """The certificate is as good as the program, up to the room that its rows have."""
    compared = 0
    for seed in range(12):
        a, _, _ = analysis(seed)
        output, program = max(a.states), lp.LinearProgram(a)
        size = float(a.states[output].delta.magnitude.max() + 1e-6 * a.pre[output].z.magnitude.max())
        for entry in range(a.states[output].size):
            for sign in (1.0, -1.0):
                objective, unit = program.objective(output, entry, sign)
                best = mathopt.maximize(program.scaled.model.aiming(objective), mathopt.Limits(60))
                y = solved(program, objective)
                if best.dual is None or y is None:
                    continue
                compared += 1
                h, g = (v[entry] for v in program.values[output])
                centre = program.scaled.centre
                optimum = best.dual * unit + sign * float(centre[g] - centre[h])
                bound = lp.evaluate(program, program.multipliers(y, unit), (output, entry, sign))
                assert bound <= optimum + 1e-4 * size
    assert compared > 20


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", DENSE[:6])
def test_bounds_contain_the_truth_and_are_never_looser(name: str, runtime: Runtime) -> None:
    t = tiny(name)
    rng = np.random.default_rng(len(name))
    for _ in range(3):
        task = t.task(t.box(rng), runtime)
        p = program(task)
        index = np.asarray(task.outputs, dtype=np.intp)
        a = Analysis(p.layers, p.box).run()
        plain = a.gap(p.output, index)
        gap = lp.improved(a, (p.output, index), plain, -np.inf, ITERATIONS, SECONDS)
        rows = t.rows(task.cell)
        assert outside(gap.lo, gap.hi, t.quantized(runtime)[rows] - t.float32[rows]) == 0
        assert (gap.lo >= plain.lo).all() and (gap.hi <= plain.hi).all()


def deep_task():
    t = tiny("dense_deep-int8")
    return t, t.task(t.cell(np.full(t.side, -40), np.full(t.side, 40)), Runtime.XNNPACK, limit=1e-6)


def test_it_is_tighter_than_a_short_search() -> None:
    t, task = deep_task()
    with Session() as session:
        (short,), (both,) = (Dra().run(task, [], Budget(slopes=20, lp=n), session) for n in (0, ITERATIONS))
    assert isinstance(short, Bound) and isinstance(both, Bound)
    assert both.trust == "certified"
    width = lambda b: float((b.upper - b.lower).sum())  # noqa: E731
    assert width(both) < 0.99 * width(short)
    rows = t.rows(task.cell)
    assert outside(both.lower, both.upper, t.quantized(task.runtime)[rows] - t.float32[rows]) == 0


def test_no_search_is_better_than_the_optimum() -> None:
    """The search and the program are about the same dual."""
    _, task = deep_task()
    p = program(task)
    a = Analysis(p.layers, p.box).run()
    index = np.asarray(task.outputs, dtype=np.intp)
    plain = a.gap(p.output, index)
    long = a.improved(p.output, index, plain, -np.inf, 500)
    best = lp.improved(a, (p.output, index), plain, -np.inf, ITERATIONS, SECONDS)
    assert (best.lo >= long.lo - 1e-4 * plain.width).all() and (best.hi <= long.hi + 1e-4 * plain.width).all()


def test_a_solver_that_stops_early_or_fails_does_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, task = deep_task()
    p = program(task)
    a = Analysis(p.layers, p.box).run()
    index = np.asarray(task.outputs, dtype=np.intp)
    plain = a.gap(p.output, index)
    few = lp.improved(a, (p.output, index), plain, -np.inf, 1, SECONDS)
    assert (few.lo >= plain.lo).all() and (few.hi <= plain.hi).all()
    monkeypatch.setattr(mathopt, "unfit", lambda model: "no")
    none = lp.improved(a, (p.output, index), plain, -np.inf, ITERATIONS, SECONDS)
    assert (none.lo == plain.lo).all() and (none.hi == plain.hi).all()


def test_only_open_sides_are_solved_and_only_programs_that_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, task = deep_task()
    p = program(task)
    a = Analysis(p.layers, p.box).run()
    index = np.asarray(task.outputs, dtype=np.intp)
    plain = a.gap(p.output, index)
    target = p.output, index
    assert lp.improved(a, target, plain, float(plain.magnitude.max()), ITERATIONS, SECONDS) is plain
    half = Interval(np.minimum(plain.lo, 0.0), plain.hi)
    half = replace(half, lo=np.zeros_like(half.lo))
    upper = lp.improved(a, target, half, 0.0, ITERATIONS, SECONDS)
    assert (upper.lo == 0.0).all()
    monkeypatch.setattr(lp, "MAX_COEFFICIENTS", 3)
    assert lp.improved(a, target, plain, -np.inf, ITERATIONS, SECONDS) is plain


def test_convolutions_are_left_alone() -> None:
    name = next(n for n in sorted(ENTRIES) if "conv" in n)
    t = tiny(name)
    task = t.task(t.whole, Runtime.XNNPACK)
    p = program(task)
    a = Analysis(p.layers, p.box).run()
    index = np.asarray(task.outputs, dtype=np.intp)
    gap = a.gap(p.output, index)
    assert lp.improved(a, (p.output, index), gap, -np.inf, ITERATIONS, SECONDS) is gap
