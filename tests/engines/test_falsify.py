"""The search against enumerated truth: never beyond it, nearly all of it, inside the region, the same every time."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from qebgate.engines import search as search_module
from qebgate.engines.changes import Change, Changes, Stepwise, Whole, changes_of
from qebgate.engines.concrete import Inputs, Session, gaps, quantized_outputs
from qebgate.engines.falsify import Anneal, Falsify
from qebgate.engines.incremental import incremental
from qebgate.engines.search import Box, Search
from qebgate.evidence import Bound, Evidence, Stopped, Witness
from qebgate.ir.align import align
from qebgate.regions import Region, expand
from qebgate.regions.cell import InputCodec
from qebgate.runtimes.profiles import Runtime
from qebgate.task import Budget, Task
from tests.engines.tiny import ENTRIES, RUNTIMES, tiny

NAMES = sorted(n for n in ENTRIES if not n.endswith("per_tensor"))
SMALL = Budget(falsify=1 << 12)


@pytest.fixture(scope="module")
def session():
    with Session() as s:
        yield s


def both(task: Task, budget: Budget, session: Session) -> Witness:
    """The short and the long search; the witness with the larger gap."""
    first: list[Evidence] = Falsify().run(task, [], budget, session)
    found = [*first, *Anneal().run(task, first, budget, session)]
    assert found and all(isinstance(w, Witness) and w.replayed for w in found)
    return max((w for w in found if isinstance(w, Witness)), key=lambda w: float(np.abs(w.gap).max()))


@pytest.mark.parametrize("part", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2, 3))])
def test_nearly_the_whole_truth_and_never_more(part: int, session: Session) -> None:
    """Boxes and whole grids of every tiny model; the truth is every input executed."""
    shares = []
    names = [(n, name) for n, name in enumerate(NAMES) if n % 4 == part]
    for n, name in names:
        t = tiny(name)
        rng = np.random.default_rng(n)
        runtime = RUNTIMES[n % 3]
        q = t.quantized(runtime)
        for cell in (t.box(rng), t.whole):
            if cell.is_point:
                continue
            rows = t.rows(cell)
            truth = np.abs(q[rows].astype(np.longdouble) - t.float32[rows]).max()
            w = both(t.task(cell, runtime, limit=1e9), SMALL, session)
            figure = float(np.abs(w.gap).max())
            assert figure <= truth * (1 + 1e-5) + 1e-6, name  # the runtime sums in another order than numpy
            shares.append(figure / float(truth))
    assert len(shares) > 1.3 * len(names)
    assert np.median(shares) >= 0.95
    assert min(shares) >= 0.5


@pytest.mark.parametrize("name", ["dense_8_8-int8", "conv-int8", "dense_4-float_io"])
def test_every_output_and_both_signs_are_attacked(name: str, session: Session) -> None:
    t = tiny(name)
    task = t.task(t.whole, Runtime.REFERENCE, limit=1e9)
    truth = t.quantized(Runtime.REFERENCE) - t.float32.astype(np.float64)
    seen: dict[tuple[int, float], float] = {}
    s = Search(task, SMALL, session, "falsify", 1.0)
    Falsify()._search(s, [])
    for k, sign, v in zip(s.output.tolist(), s.sign.tolist(), s.value.tolist(), strict=True):
        seen[k, sign] = v
    assert len(seen) == 2 * truth.shape[1]
    for (k, sign), v in seen.items():
        best = float((sign * truth[:, k]).max())
        assert best - 0.2 * np.ptp(truth[:, k]) <= v <= best + 1e-6, (k, sign)


def test_only_one_sign_breaks_the_limit(session: Session) -> None:
    """A limit between the two extremes, whichever is larger: found on its side (so few inputs are all executed)."""
    for name in ("dense_relu6-int8", "linear-int8", "tanh-int8"):
        t = tiny(name)
        truth = t.quantized(Runtime.XNNPACK) - t.float32.astype(np.float64)
        for k in range(truth.shape[1]):
            low, high = -truth[:, k].min(), truth[:, k].max()
            limit = min(low, high) + 0.25 * abs(high - low)
            task = replace(t.task(t.whole, Runtime.XNNPACK, limit=limit), outputs=(k,))
            w = both(task, Budget(), session)
            if abs(high - low) > 0.02 * limit:
                assert np.sign(w.gap[0]) == np.sign(high - low)
                assert abs(w.gap[0]) > limit


def test_it_stops_at_a_violation(session: Session) -> None:
    t = tiny("dense_8_8-int8")
    task = t.task(t.whole, Runtime.XNNPACK, limit=0.0)
    s = Search(task, Budget(), session, "falsify", 1.0)
    Falsify()._search(s, [])
    assert s.violated and s.replays == 1
    assert s.executed <= s.rows


def executed(monkeypatch: pytest.MonkeyPatch) -> list[Inputs]:
    """Everything that is executed from now on, by the real executors."""
    seen: list[Inputs] = []

    def watched(task: Task, inputs: Inputs) -> np.ndarray:
        seen.append(inputs)
        return gaps(task, inputs)

    monkeypatch.setattr("qebgate.engines.search.gaps", watched)
    monkeypatch.setattr("qebgate.engines.changes.gaps", watched)
    return seen


def test_codes_stay_inside(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = executed(monkeypatch)
    for name in ("dense_8_8-int8", "conv-int8", "dense_4-uint8"):
        t = tiny(name)
        rng = np.random.default_rng(5)
        for _ in range(3):
            cell = t.box(rng)
            if cell.is_point:
                continue
            seen.clear()
            w = both(t.task(cell, Runtime.BUILTIN, limit=1e9), Budget(falsify=512), session)
            assert cell.codes is not None and seen
            for inputs in (*seen, w):
                assert inputs.codes is not None
                codes = inputs.codes.reshape(-1, *cell.codes[0].shape)
                assert (codes >= cell.codes[0]).all() and (codes <= cell.codes[1]).all()
                assert (inputs.x == t.codec.grid(inputs.codes)).all()


@pytest.mark.parametrize("name", ["dense_8_8-int8", "conv-int8", "dense_4-float_io", "max_pool-int8"])
def test_real_inputs_stay_inside(name: str, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero tolerance, also where the ends of the region are no codes and where numbers beside switches are tried."""
    seen = executed(monkeypatch)
    t = tiny(name)
    rng = np.random.default_rng(7)
    codec = t.codec
    lo, hi = (float(v) for v in codec.grid(np.array(codec.dtype.code_range)))
    shape = t.pair.quantized.input.shape
    for radius in (1e-7, 0.3, 3.0):
        centre = rng.uniform(lo, hi, (1, *shape)).astype(np.float32)
        (i,) = expand(Region("ball", radius * codec.scale), codec, shape, centre, [0])
        if i.cell.is_point:
            continue
        seen.clear()
        w = both(t.task(i.cell, Runtime.XNNPACK, limit=1e9), Budget(falsify=512), session)
        assert seen and i.cell.codes is None
        for x in (*(s.x for s in seen), w.x[None]):
            assert x.dtype == np.float32
            assert (x >= i.cell.lower).all() and (x <= i.cell.upper).all()


def test_points_of_a_box(session: Session) -> None:
    t = tiny("dense_8_8-int8")
    cell = t.cell(np.array([-3, 5]), np.array([4, 5]))
    box = Box(t.task(cell, Runtime.XNNPACK))
    assert box.free.tolist() == [0]
    rng = np.random.default_rng(0)
    for made in (box.random(500, rng), np.stack([box.proposals(np.array([0, 1]), rng) for _ in range(500)])):
        assert sorted(set(made[:, 0].tolist())) == list(range(-3, 5))
        assert set(made[:, 1].tolist()) == {5}


@pytest.mark.parametrize(
    "name", ["dense_8_8-int8", "conv-int8", pytest.param("dense_4-float_io", marks=pytest.mark.slow)]
)
def test_the_same_every_time(name: str, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same witness in another session, with another batch size, and after other work."""
    t = tiny(name)
    cell = t.box(np.random.default_rng(3))
    task = t.task(cell, Runtime.XNNPACK, limit=1e9)
    first = both(task, SMALL, session)
    for rows in (None, 7, 64):
        if rows is not None:
            monkeypatch.setattr(search_module, "batch", lambda task, rows=rows: rows)
        with Session() as other:
            again = both(task, SMALL, other)
        assert (again.x == first.x).all() and (again.gap == first.gap).all()
    seeds = {both(task, replace(SMALL, seed=k, falsify=64), session).x.tobytes() for k in range(4)}
    assert len(seeds) >= 1


def test_effort_is_counted_not_timed(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the budget, about four times the executions; and no clock is asked but the guard's."""
    t = tiny("conv-int8")
    task = t.task(t.whole, Runtime.XNNPACK, limit=1e9)
    counts = []
    for budget in (Budget(falsify=256), Budget(falsify=1024), Budget(falsify=1024)):
        s = Search(task, budget, session, "falsify", 1.0)
        Falsify()._search(s, [])
        assert s.spent <= 1.5 * s.allowance + 100 * s.cost
        counts.append(s.executed)
    assert counts[1] == counts[2] > counts[0]
    s = Search(task, Budget(falsify=1 << 14, seconds=0.0), session, "falsify", 1.0)
    (stopped,) = [e for e in Falsify().run(task, [], Budget(seconds=0.0), session) if isinstance(e, Stopped)]
    assert (stopped.engine, stopped.reason) == ("falsify", "guard_time")


def test_sides_that_a_bound_has_closed_are_left_alone(session: Session) -> None:
    t = tiny("dense_8_8-int8")
    k = t.pair.float.output.size
    task = t.task(t.whole, Runtime.XNNPACK, limit=1.0)
    s = Search(task, SMALL, session, "falsify", 1.0)
    s.evaluate(s.box.random(64, s.rng))
    lower, upper = np.full(k, -9.0), np.full(k, 9.0)
    lower[0], upper[1] = -0.5, 1.0
    kept = s.open([Bound(lower, upper, "certified", "dra", 0.0)])
    got = {(int(s.output[i]), float(s.sign[i])) for i in kept}
    assert got == {(i, g) for i in range(k) for g in (1.0, -1.0)} - {(0, -1.0), (1, 1.0)}
    within = Bound(np.full(k, -1.0), np.full(k, 1.0), "certified", "dra", 0.0)
    assert s.open([within]).size == 0
    assert s.open([replace(within, trust="solver")]).size == 2 * k


DENSE = [
    "dense_8_8-int8",
    "dense_deep-int8",
    "dense_relu6-int8",
    "dense_4-float_io",
    "linear-int8",
    "dense_no_bias-int8",
]


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_changes_are_bit_for_bit(name: str, runtime: Runtime) -> None:
    """After many single changes, the incremental quantized outputs are those of full execution, exactly."""
    t = tiny(name)
    task = t.task(t.whole, runtime)
    net = incremental(task)
    assert net is not None
    check_changes(task, np.random.default_rng(len(name)))


def check_changes(task: Task, rng: np.random.Generator, points: int = 64, steps: int = 40) -> None:
    net = incremental(task)
    assert net is not None and task.cell.codes is not None
    lo, hi = (c.ravel() for c in task.cell.codes)
    x = rng.integers(lo, hi + 1, (points, lo.size)).astype(np.int32)
    rows = np.arange(points)
    s = net.sums(x)
    for _ in range(steps):
        at = rng.integers(0, lo.size, points)
        after = rng.integers(lo[at], hi[at] + 1).astype(np.int32)
        s = net.changed(s, at, x[rows, at], after)
        x[rows, at] = after
    inputs = Inputs.of_codes(task, x.reshape(-1, *task.cell.codes[0].shape))
    graph = task.pair.quantized
    from qebgate.engines.concrete import real_values

    exact = real_values(graph, net._q.run(s.q))[:, list(task.outputs)]
    assert (exact == quantized_outputs(task, inputs)).all()
    assert np.abs(net.gaps(s) - gaps(task, inputs)).max() <= 1e-4 * max(1.0, float(np.abs(exact).max()))


@pytest.mark.parametrize("bits", [4, 6, 8, 10, 16])
def test_changes_of_networks_in_fixed_point(bits: int) -> None:
    task = fixed_point_task(bits, (12, 9, 7, 3))
    check_changes(task, np.random.default_rng(bits))


def fixed_point_task(bits: int, widths: tuple[int, ...], radius: int = 4, limit: float = 1e9) -> Task:
    from fractions import Fraction

    from qebgate.adapters.fixed_point import FixedPoint, build
    from qebgate.adapters.npz import DenseNetwork

    rng = np.random.default_rng(bits)
    layers = tuple(
        (rng.normal(0, 0.8 / np.sqrt(n), (m, n)).astype(np.float32), rng.normal(0, 0.1, m).astype(np.float32))
        for n, m in itertools.pairwise(widths)
    )
    net = DenseNetwork(layers, "net.npz", "00")
    pair = align(*build(net, FixedPoint(bits, 1, 2, 2, 8, False, 0), Fraction(1, 255)))
    codec = InputCodec.of(pair.quantized)
    row = rng.integers(20, 230, (1, 1, widths[0])).astype(np.uint8)
    (i,) = expand(Region("ball", float(radius), "lsb", "grid", "codes"), codec, (1, widths[0]), row, [0])
    from qebgate.properties import Property

    outputs = tuple(range(widths[-1]))
    return Task(pair, i.cell, codec, Property("max_abs", limit), outputs, Runtime.FIXED_POINT, "real")


@pytest.mark.parametrize("bits", [4, 8])
def test_annealing_finds_more_than_random_inputs(bits: int, session: Session) -> None:
    """300 free inputs: at least what the short search finds, and beyond twenty thousand random inputs."""
    task = fixed_point_task(bits, (300, 30, 20, 2))
    s = Search(task, Budget(), session, "falsify", 1.0)
    by_chance = 0.0
    for _ in range(20):
        by_chance = max(by_chance, float(np.abs(gaps(task, s.box.inputs(s.box.random(1000, s.rng)))).max()))
    (first,) = Falsify().run(task, [], Budget(), session)
    (second,) = Anneal().run(task, [first], Budget(), session)
    assert isinstance(first, Witness) and isinstance(second, Witness)
    assert float(np.abs(second.gap).max()) >= max(1.1 * by_chance, float(np.abs(first.gap).max()))


def test_whole_and_incremental_agree_on_changes(session: Session) -> None:
    task = fixed_point_task(6, (10, 8, 2))
    s = Search(task, SMALL, session, "falsify", 1.0)
    ways: list[Changes] = [changes_of(s), Whole(s)]
    assert isinstance(ways[0], Stepwise)
    points = s.box.random(20, s.rng)
    rows = np.arange(20)
    one, two = np.full(20, 3), np.full(20, 7)
    changes = [Change(a, points[rows, a], s.box.at(a, s.rng)) for a in (one, two)]
    found = [w.after(w.start(points), points, changes)[1] for w in ways]
    assert np.abs(found[0] - found[1]).max() < 1e-4


def test_points_and_walked_segments_are_not_searched(session: Session) -> None:
    t = tiny("dense_8_8-int8")
    point = t.cell(np.array([1, 2]), np.array([1, 2]))
    for engine in (Falsify(), Anneal()):
        assert engine.run(t.task(point, Runtime.XNNPACK), [], Budget(), session) == []


def test_a_planted_exception_is_no_verdict(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in an executor, a proposal or a gradient reaches the caller: never an empty answer."""
    t = tiny("dense_8_8-int8")
    task = t.task(t.whole, Runtime.XNNPACK, limit=1e9)
    for place in ("qebgate.engines.search.gaps", "qebgate.engines.falsify.gap_gradient"):
        with monkeypatch.context() as m:
            m.setattr(place, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                Falsify().run(task, [], Budget(), session)
