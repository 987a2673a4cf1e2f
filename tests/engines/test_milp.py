"""The MILP engine against the enumerated truth, with real solvers and real runtimes, without tolerance."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qebgate.adapters import load_model
from qebgate.engines import portfolio
from qebgate.engines.concrete import Inputs, Session, gaps
from qebgate.engines.dra.analysis import Analysis
from qebgate.engines.dra.engine import Dra
from qebgate.engines.dra.program import program
from qebgate.engines.enumerate import all_codes
from qebgate.engines.milp import Milp, _contradict, agreed, real_bound
from qebgate.engines.milp_encoding import Encoded, Encoding, applies
from qebgate.errors import InternalError
from qebgate.evidence import Bound, Evidence, Stopped, Witness
from qebgate.ir.align import align
from qebgate.milp import mathopt
from qebgate.milp.mathopt import Ending, Limits, Raw
from qebgate.milp.model import Model
from qebgate.numerics.rounding import F64
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.task import Budget, Task
from qebgate.verdict import judge

MODELS = Path(__file__).resolve().parents[1] / "models"
PAIRS = {p["name"]: p for p in json.loads((MODELS / "manifest.json").read_text())["pairs"]}


def task_of(
    name: str,
    lo: int | Sequence[int],
    hi: int | Sequence[int],
    runtime: Runtime,
    limit: float = 0.0,
    *,
    real: bool = False,
) -> Task:
    """A box of input codes of a tiny network, or of the reals between its corners, at the logits."""
    pair = align(load_model(MODELS / PAIRS[name]["float"]), load_model(MODELS / PAIRS[name]["quantized"])).at("logits")
    codec = InputCodec.of(pair.quantized, "nearest" if real and PAIRS[name]["variant"] != "float_io" else None)
    shape = pair.quantized.input.shape
    codes = tuple(np.broadcast_to(np.asarray(c, np.int32), shape).copy() for c in (lo, hi))
    corners = [codec.grid(c).astype(np.float64) for c in codes]
    cell = Cell(corners[0], corners[1], None if real else (codes[0], codes[1]), 0, corners[0].copy())
    outputs = tuple(range(pair.quantized.output.size))
    return Task(pair, cell, codec, Property("max_abs", limit), outputs, runtime)


def truth_of(task: Task) -> tuple[F64, F64]:
    """Smallest and largest gap over all inputs of a grid cell."""
    gap = np.concatenate([gaps(task, Inputs.of_codes(task, c)) for c in all_codes(task.cell, 8192)])
    return gap.min(axis=0), gap.max(axis=0)


def limited(task: Task, limit: float) -> Task:
    return replace(task, prop=Property("max_abs", limit))


def bound_in(found: Sequence[Evidence]) -> Bound | None:
    return next((e for e in found if isinstance(e, Bound)), None)


def rare(*values: object) -> object:
    """A case of slow runs: others show the same."""
    return pytest.param(*values, marks=pytest.mark.slow)


def in_turn(names: Sequence[str]) -> list[object]:
    """Every name with one runtime in every run, with the others in slow ones; all runtimes have their turn."""
    return [(n, r) if DEPLOYED[k % len(DEPLOYED)] is r else rare(n, r) for k, n in enumerate(names) for r in DEPLOYED]


CASES = [
    ("linear-int8", -128, 127),
    ("linear-uint8", 0, 255),
    ("linear-float_io", -128, 127),
    ("dense_4-int8", -60, -20),
    ("dense_4-per_tensor", -128, 127),
    rare("dense_4-float_io", -10, 30),
    ("dense_8_8-int8", 5, 12),
    rare("dense_8_8-per_tensor", -90, -84),
    rare("dense_deep-int8", -3, 0),
    rare("dense_wide-int8", 50, 53),
    rare("dense_large-int8", -128, 127),
    rare("dense_small-int8", -128, 127),
    ("dense_relu6-int8", 90, 100),
    rare("dense_relu6-float_io", -128, -100),
    rare("dense_no_bias-per_tensor", -20, 20),
    ("dense_relu_out-int8", -128, 127),
    ("dense_saturating-int8", 100, 127),
    ("residual-int8", -5, 5),
    rare("residual_relu-int8", -5, 5),
    ("softmax-int8", -10, 10),
]


@pytest.mark.parametrize("name, lo, hi", CASES)
def test_bounds_hold_over_the_enumerated_truth(name: str, lo: int, hi: int) -> None:
    runtime = DEPLOYED[sum(name.encode()) % len(DEPLOYED)]
    task = task_of(name, lo, hi, runtime)
    low, high = truth_of(task)
    with Session() as session:
        known = Dra().run(task, [], Budget(), session)
        # nothing violates this limit, so every side that DRA leaves above it is optimised
        task = limited(task, float(np.maximum(-low, high).max()) * (1 + 1e-5))
        found = Milp().run(task, known, Budget(milp=16, seconds=1.5), session)
    assert not any(isinstance(e, Witness) for e in found)
    b = bound_in(found)
    if b is not None:
        assert b.trust == "solver"
        assert b.lower.shape == (len(task.outputs),)
        assert (b.lower <= low).all()
        assert (b.upper >= high).all()
    dra = bound_in(known)
    assert dra is not None
    open_sides = int((dra.upper > task.prop.limit).sum() + (-dra.lower > task.prop.limit).sum())
    assert (len(found) > 0) == (open_sides > 0)


# builtin rounds twice: its envelope is wider than half a quantum, so the optimum is further from the truth
@pytest.mark.parametrize(
    "name, runtime",
    [
        rare("dense_4-int8", Runtime.REFERENCE),
        ("dense_large-int8", Runtime.XNNPACK),
        ("dense_relu_out-int8", Runtime.REFERENCE),
    ],
)
def test_decides_just_above_and_just_below_the_truth(name: str, runtime: Runtime) -> None:
    task = task_of(name, -40, 60, runtime)
    low, high = truth_of(task)
    worst = float(np.maximum(-low, high).max())
    with Session() as session:
        known = Dra().run(task, [], Budget(), session)
        dra = bound_in(known)
        assert dra is not None
        above, below = limited(task, 1.02 * worst), limited(task, 0.98 * worst)
        assert above.prop.of_box(dra.lower, dra.upper) > above.prop.limit  # DRA leaves it open

        proven = bound_in(Milp().run(above, known, Budget(), session))
        assert proven is not None
        assert above.prop.of_box(proven.lower, proven.upper) <= above.prop.limit
        assert (proven.lower >= dra.lower).all()
        assert (proven.upper <= dra.upper).all()

        refuted = Milp().run(below, known, Budget(), session)
        witness = next(e for e in refuted if isinstance(e, Witness))
        assert witness.replayed
        assert below.prop.of_gap(witness.gap) > below.prop.limit
        assert not any(isinstance(e, Stopped) for e in refuted)
        b = bound_in(refuted)
        assert b is None or ((b.lower <= low).all() and (b.upper >= high).all())


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("name", "runtime"),
    in_turn(
        [
            "dense_4-int8",
            "dense_8_8-float_io",
            "dense_relu6-int8",
            "dense_saturating-int8",
            "dense_deep-int8",
            "residual-int8",
        ]
    ),
)
def test_every_execution_is_a_point_of_the_program(name: str, runtime: Runtime, exact: bool) -> None:
    """With the inputs fixed, the program's range of the gap contains the executed gap."""
    task = task_of(name, -128, 127, runtime)
    p = program(task)
    a = Analysis(p.layers, p.box).run()
    rng = np.random.default_rng(len(name))
    for codes in rng.integers(-128, 128, (2, *task.cell.lower.shape)):
        inputs = Inputs.of_codes(task, codes[None])
        gap, x = gaps(task, inputs)[0, 0], inputs.x[0].ravel().astype(np.float64)
        sign = int(rng.choice([-1, 1]))
        for floor in (-np.inf, sign * gap + float(rng.choice([-1e-3, 1e-3]))):
            e = Encoding(p, a, 0, exact, sign, floor=floor, at=x).run()
            assert (e.integers > 0) == exact
            # the start is a point of the program, up to the float32 error of the inputs' grid
            assert e.model.violation(e.hint) <= 1e-5
            r = mathopt.maximize(at(e, x), Limits(20))
            assert r.dual is not None, r.trouble
            assert max(sign * gap, floor) <= real_bound(e, e.model, r.dual)


def at(e: Encoded, x: F64) -> Model:
    """The program with its inputs fixed (as wide as the float32 grid's own error allows)."""
    m = e.model
    lo, hi = m.lo.copy(), m.hi.copy()
    fixed = (x - e.scaled.centre[e.x]) / e.scaled.scale[e.x]
    lo[e.x], hi[e.x] = np.maximum(lo[e.x], fixed - 1e-12), np.minimum(hi[e.x], fixed + 1e-12)
    return replace(m, lo=lo, hi=hi)


@pytest.mark.parametrize(
    ("name", "runtime"),
    in_turn(["dense_4-int8", "dense_8_8-float_io", "dense_saturating-float_io", "dense_relu6-int8"]),
)
def test_regions_of_reals(name: str, runtime: Runtime) -> None:
    task = task_of(name, -30, -26, runtime, real=True)
    rng = np.random.default_rng(1)
    where = rng.random((20_000, *task.cell.lower.shape))
    where[:2000] = where[:2000].round()
    x = (task.cell.lower + where * (task.cell.upper - task.cell.lower)).astype(np.float32)
    gap = gaps(task, Inputs.of_reals(task, np.clip(x, task.cell.lower, task.cell.upper)))
    seen_low, seen_high = gap.min(axis=0), gap.max(axis=0)
    task = limited(task, float(np.abs(gap).max()) * 1.001)
    with Session() as session:
        known = Dra().run(task, [], Budget(), session)
        found = Milp().run(task, known, Budget(milp=16, seconds=4.0), session)
    b = bound_in(found)
    if b is not None:
        assert (b.lower <= seen_low).all()
        assert (b.upper >= seen_high).all()
    for e in found:
        if isinstance(e, Witness):  # a better input than any of the samples
            assert e.replayed
            assert (task.cell.lower <= e.x).all()
            assert (e.x <= task.cell.upper).all()
            assert np.abs(e.gap).max() > task.prop.limit


def without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: the quantized side is taken to compute without rounding."""
    real = Encoding._quantized

    def mutant(self, layer, pre, *rest):
        exact = np.zeros(layer.m)
        return real(self, layer, replace(pre, below=exact, above=exact), *rest)

    monkeypatch.setattr(Encoding, "_quantized", mutant)


def test_without_the_rounding_the_bound_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparisons with the truth catch that mutant: its bound is below what was executed."""
    task = task_of("dense_4-int8", -40, 60, Runtime.REFERENCE)
    _, high = truth_of(task)
    p = program(task)
    a = Analysis(p.layers, p.box).run()

    def proven() -> float:
        e = Encoding(p, a, 0, exact=False).run()
        r = mathopt.maximize(e.model, Limits(20))
        assert r.dual is not None
        return real_bound(e, e.model, r.dual)

    assert proven() >= high[0]
    without_rounding(monkeypatch)
    assert proven() < high[0]


@pytest.mark.parametrize(
    "raw",
    [
        Raw(Ending.INFEASIBLE, "", None, None, -math.inf, 0.0),
        Raw(Ending.OTHER, "imprecise", None, None, -1.0, 0.0),
        Raw(Ending.OPTIMAL, "", None, None, math.nan, 0.0),
        Raw(Ending.OPTIMAL, "", None, None, -1.0, 0.0),
        Raw(Ending.LIMIT, "", None, None, math.inf, 0.0),
        Raw(Ending.LIMIT, "", None, None, -math.inf, 0.0),
        Raw(Ending.LIMIT, "", None, None, -1.0, 0.0),  # finite and plausible, but below what was executed
        Raw(Ending.OPTIMAL, "", None, None, 1e20, 0.0),
        Raw(Ending.LIMIT, "", None, None, 1e20, 0.0),
    ],
)
def test_a_failing_solver_gives_no_bound(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of("dense_4-int8", -40, 60, Runtime.BUILTIN)
    low, high = truth_of(task)
    task = limited(task, float(np.maximum(-low, high).max()) * 1.01)
    monkeypatch.setattr(mathopt, "run", lambda *args, **kwargs: raw)
    with Session() as session:
        found = Milp().run(task, Dra().run(task, [], Budget(), session), Budget(), session)
    assert [type(e) for e in found] == [Stopped]


def open_task() -> tuple[Task, F64, F64]:
    """A task that only the solvers close, and its truth."""
    task = task_of("dense_4-int8", -40, 60, Runtime.BUILTIN)
    low, high = truth_of(task)
    return limited(task, float(np.maximum(-low, high).max()) * 1.3), low, high


def solved(task: Task, change: Callable[[str, Raw], Raw], monkeypatch: pytest.MonkeyPatch) -> list[Evidence]:
    """What the engine makes of the real solvers' answers, changed on their way."""
    original = mathopt.run

    def run(model: Model, limits: Limits, *, solver: mathopt.Solver, hint: F64 | None) -> Raw:
        return change(solver, original(model, limits, solver=solver, hint=hint))

    monkeypatch.setattr(mathopt, "run", run)
    with Session() as session:
        return Milp().run(task, Dra().run(task, [], Budget(), session), Budget(), session)


def test_unchanged_answers_prove_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    task, low, high = open_task()
    b = bound_in(solved(task, lambda _, raw: raw, monkeypatch))
    assert b is not None
    assert b.trust == "solver"
    assert task.prop.of_box(b.lower, b.upper) <= task.prop.limit
    assert (b.lower <= low).all()
    assert (b.upper >= high).all()
    assert judge(task.prop, "proof_or_solver", [b]).verdict == "pass"
    assert judge(task.prop, "proof", [b]).verdict == "unknown"


CHANGES: list[dict[str, object]] = [
    {"ending": Ending.LIMIT, "dual": math.inf, "x": None, "primal": None},  # a time-out without a bound
    {"ending": Ending.INFEASIBLE},
    {"ending": Ending.OTHER},
    {"dual": math.nan},
    {"dual": -0.99, "x": None, "primal": None, "ending": Ending.LIMIT},  # on the wrong side
    {"primal": 5.0},
]


@pytest.mark.parametrize(
    ("alone", "change"),
    [(a, c) if k % 2 == n else rare(a, c) for k, c in enumerate(CHANGES) for n, a in enumerate(("gscip", "highs"))],
)
def test_what_only_one_solver_shows_is_no_bound(
    alone: str, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, low, high = open_task()
    found = solved(task, lambda s, raw: raw if s == alone else replace(raw, **change), monkeypatch)  # type: ignore[arg-type]
    b = bound_in(found)
    assert b is None or ((b.lower <= low).all() and (b.upper >= high).all())
    assert judge(task.prop, "proof_or_solver", found).verdict != "pass"
    assert any(isinstance(e, Stopped) for e in found)


def test_the_weaker_of_two_bounds_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """One solver that stops early with a weak bound decides what is reported."""
    task, _, _ = open_task()

    def weaker(solver: str, raw: Raw) -> Raw:
        return replace(raw, ending=Ending.LIMIT, dual=raw.dual + 0.05) if solver == "highs" else raw

    strong = bound_in(solved(task, lambda _, raw: raw, monkeypatch))
    monkeypatch.undo()
    weak = bound_in(solved(task, weaker, monkeypatch))
    assert strong is not None
    assert weak is None or (weak.upper - weak.lower > strong.upper - strong.lower).all()
    assert agreed({"gscip": 1.0}) is None
    assert agreed({"gscip": 1.0, "highs": 1.5}) == 1.5
    assert agreed({"gscip": 1.0, "highs": 1.5, "cpsat": 0.5}) == 1.0


def test_a_solution_beyond_the_other_solvers_bound_discredits_both() -> None:
    good = mathopt.Result(Ending.OPTIMAL, 1.0, None, 1.0, None, 0.0)
    assert not _contradict([good, replace(good, dual=1.5, primal=0.5)])
    assert _contradict([good, replace(good, dual=0.9, primal=0.9)])
    assert _contradict([replace(good, dual=0.9, primal=None), good])


def test_a_crash_of_a_solver_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from ortools.math_opt.python import mathopt as ortools

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the solver fell over")

    monkeypatch.setattr(ortools, "solve", broken)
    task, _, _ = open_task()
    with pytest.raises(InternalError, match="fell over"):
        portfolio.run(task, Budget(), engines=["dra", "milp"])


def test_the_analysis_of_the_task_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    task, _, _ = open_task()
    with Session() as session:
        known = Dra().run(task, [], Budget(), session)
        assert session.analysis_of(task) is not None
        assert session.analysis_of(limited(task, 1.0)) is None

        def never(self: Analysis) -> Analysis:
            raise AssertionError("analysed again")

        monkeypatch.setattr(Analysis, "run", never)
        assert bound_in(Milp().run(task, known, Budget(), session)) is not None


def test_an_ill_scaled_program_is_not_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of("dense_4-int8", -40, 60, Runtime.BUILTIN)
    low, high = truth_of(task)
    task = limited(task, float(np.maximum(-low, high).max()) * 1.01)
    monkeypatch.setattr(mathopt, "MAX_RANGE", 2.0)
    with Session() as session:
        found = Milp().run(task, Dra().run(task, [], Budget(), session), Budget(), session)
    assert [type(e) for e in found] == [Stopped]
    assert isinstance(found[0], Stopped)
    assert found[0].reason == "effort"
    assert "range" in found[0].detail


def test_applies_to_dense_networks_only() -> None:
    conv = task_of("conv-int8", -5, 5, Runtime.BUILTIN)
    assert not applies(program(conv).layers)
    with Session() as session:
        assert Milp().run(conv, [], Budget(), session) == []
        dense = task_of("dense_4-int8", -5, 5, Runtime.BUILTIN)
        assert Milp().run(dense, [], Budget(milp=0), session) == []
        assert Milp().run(limited(dense, 100.0), [], Budget(), session) == []


def test_too_many_undecided_clamps_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qebgate.engines.milp.MAX_BINARIES", 3)
    task = task_of("dense_4-int8", -128, 127, Runtime.BUILTIN)
    low, high = truth_of(task)
    task = limited(task, float(np.maximum(-low, high).max()) * 1.01)
    with Session() as session:
        found = Milp().run(task, Dra().run(task, [], Budget(), session), Budget(), session)
    assert [type(e) for e in found] == [Stopped]
    assert isinstance(found[0], Stopped)
    assert "clamps" in found[0].detail


def test_the_time_limit_is_kept() -> None:
    task = task_of("dense_deep-int8", -128, 127, Runtime.BUILTIN)
    low, high = truth_of(task)
    task = limited(task, float(np.maximum(-low, high).max()) * 1.01)
    with Session() as session:
        found = Milp().run(task, Dra().run(task, [], Budget(), session), Budget(seconds=2.0), session)
    assert any(isinstance(e, Stopped) for e in found)
    b = bound_in(found)
    assert b is None or b.seconds < 10.0
