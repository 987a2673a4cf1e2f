"""The dual and its branch and bound: against exhaustive truth, with garbage multipliers, and with planted mistakes."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from qebgate.domains.gap import Interval
from qebgate.domains.layers import Affine
from qebgate.engines.branch import hidden, tree
from qebgate.engines.branch.dual import Dual, Target
from qebgate.engines.branch.engine import Branch, Prepared, applies
from qebgate.engines.branch.neuron import Box, Shape, supremum
from qebgate.engines.branch.search import Steps, minimise
from qebgate.engines.branch.tree import Tree
from qebgate.engines.concrete import Session
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.program import direct, program
from qebgate.errors import InternalError
from qebgate.evidence import Bound, Witness
from qebgate.numerics.rounding import F64
from qebgate.task import Budget
from tests.fixed_point.slow import Net, random_net

QUICK = Steps(30, 0.1, 1e-3)


# -- one neuron ---------------------------------------------------------------------------------

STEP = 0.125
"""Everything is a multiple of it, so that sampled values and suprema are exact."""


def _case(rng: np.random.Generator, m: int = 40) -> tuple[Box, Shape, tuple[F64, ...]]:
    grid = lambda lo, hi, n=m: rng.integers(lo, hi + 1, (1, n)) * STEP  # noqa: E731
    unit = float(rng.choice([0.5, 1.0]))
    a, b = ((0.0, np.inf), (0.0, 1.5), (-np.inf, np.inf))[rng.integers(3)]
    z0, q0 = grid(-24, 16), grid(-24, 16)
    z1, q1 = z0 + grid(0, 24), q0 + grid(0, 24)
    d0 = np.maximum(grid(-16, 8), q0 - z1)
    d1 = np.minimum(d0 + grid(0, 16), q1 - z0)
    box = Box(z0, z1, q0, q1, d0, np.maximum(d0, d1), q0 * 0, q0 * 0)
    box.tighten((np.zeros(m, int), np.arange(m)))
    # tightening rounds outwards by an ulp; back on the multiples
    box = Box(*(np.round(v / STEP) * STEP for v in box.arrays))
    half = unit / 2
    codes = rng.integers(0, 3, (1, m)) * unit
    top = codes + rng.integers(0, 4, (1, m)) * unit
    box.s0 = np.clip(np.ceil((box.q0 - half) / unit) * unit, codes, top)
    box.s1 = np.clip(np.floor((box.q1 + half) / unit) * unit, codes, top)
    shape = Shape(a, b, np.full(m, half), np.full(m, half), unit, np.full(m, 64.0))
    return box, shape, tuple(grid(-16, 16) for _ in range(4))


def _sampled(box: Box, shape: Shape, c: tuple[F64, ...], j: int) -> float:
    """The largest value of neuron j over all multiples of STEP in its box."""
    nu, eta, lam, mu = (float(v[0, j]) for v in c)
    z = np.arange(box.z0[0, j], box.z1[0, j] + STEP / 2, STEP)[:, None]
    q = np.arange(box.q0[0, j], box.q1[0, j] + STEP / 2, STEP)[None]
    inside = (q - z >= box.d0[0, j]) & (q - z <= box.d1[0, j])
    if not inside.any():
        return -np.inf
    h = np.clip(z, shape.a, shape.b)
    best = -np.inf
    for s in (np.ceil((q - shape.below[j]) / shape.unit), np.floor((q + shape.above[j]) / shape.unit)):
        codes = np.clip(s * shape.unit, box.s0[0, j], box.s1[0, j])
        value = nu * h + eta * codes - lam * z - mu * q
        best = max(best, float(value[inside].max()))
    return best


def _neuron_violations(seed: int) -> int:
    box, shape, c = _case(np.random.default_rng(seed))
    s = supremum(*c, box, shape)
    top = (s.value + s.slack)[0]
    return sum(_sampled(box, shape, c, j) > top[j] for j in range(top.size))


@pytest.mark.parametrize("seed", range(30))
def test_no_point_is_above_the_supremum(seed: int) -> None:
    assert _neuron_violations(seed) == 0


def test_the_supremum_is_attained_where_nothing_is_rounded() -> None:
    """With s = q exactly (no grid, no envelope) the vertices are on the sampled grid: equality."""
    for seed in range(10):
        box, shape, c = _case(np.random.default_rng(seed))
        zero = np.zeros(box.z0.size)
        plain = Shape(shape.a, shape.b, zero, zero, 0.0, shape.size)
        exact = Box(*box.arrays[:6], box.q0, box.q1)
        got = supremum(*c, exact, plain).value[0]
        for j in range(got.size):
            nu, eta, lam, mu = (v[0, j] for v in c)
            z = np.arange(box.z0[0, j], box.z1[0, j] + STEP / 2, STEP)[:, None]
            q = np.arange(box.q0[0, j], box.q1[0, j] + STEP / 2, STEP)[None]
            inside = (q - z >= box.d0[0, j]) & (q - z <= box.d1[0, j])
            if inside.any():
                value = nu * np.clip(z, plain.a, plain.b) + (eta - mu) * q - lam * z
                assert got[j] == value[inside].max()


# -- whole networks -------------------------------------------------------------------------------


def _question(seed: int) -> tuple[Net, tuple[int, ...], tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    net = random_net(rng, int(rng.choice([4, 6, 8])), signed=bool(seed % 2), spread=float(rng.choice([0.8, 1.5])))
    least, top = net.pair.quantized.input.dtype.code_range
    lo = rng.integers(least, top - 12, 2)
    hi = lo + rng.integers(1, 12, 2)
    return net, tuple(lo.tolist()), tuple(hi.tolist())


def _violations(seed: int, nodes: int = 60) -> list[str]:
    """Bounds of the dual with garbage and searched multipliers, and of the tree, below the exact truth."""
    net, lo, hi = _question(seed)
    low, high = net.truth(lo, hi)
    task = net.task(lo, hi)
    p = direct(program(task))
    a = Analysis(p.layers, p.box, Settings()).run()
    dual, rng = Dual(p, a), np.random.default_rng(seed)
    lines = {r.output: r for r in a.backward.layers}
    found: list[str] = []
    size = a.states[p.output].size
    for k in range(size):
        for sign, truth in ((1.0, high[k]), (-1.0, -low[k])):
            target = Target.gap(p.output, size, k, sign)
            start = dual.start(target, lines)
            garbage = {i: (rng.normal(size=v[0].shape), rng.normal(size=v[1].shape)) for i, v in start.items()}
            searched = minimise(dual, target, start, dual.region, QUICK).multipliers
            for name, m in (("start", start), ("garbage", garbage), ("searched", searched)):
                if Fraction(float(dual.bound(target, m, dual.region)[0])) < truth:
                    found.append(f"{name} multipliers, output {k}")
            grown = Tree(dual, target, start, QUICK, Steps(8, 0.1, 1e-2))
            before = np.inf
            for most in (1, nodes // 2, nodes):
                bound = grown.run(-np.inf, most)
                if Fraction(bound if np.isfinite(bound) else -(10**30)) < truth:
                    found.append(f"tree of {grown.nodes} nodes, output {k}")
                if bound > before:
                    found.append("a bound rose")
                before = bound
            found += _uncovered(grown, rng)
    return found


def _uncovered(grown: Tree, rng: np.random.Generator, points: int = 300) -> list[str]:
    """Points of the root's boxes (z, q, and a code that rounding can give) that are in no leaf."""
    leaves = [node.splits for _, _, node in grown.open] + [node.splits for node in grown.stuck]
    region = grown._region(leaves)
    inside = np.ones((len(leaves), points), bool)
    for layer, root in grown.dual.region.boxes.items():
        shape, box = grown.dual.shapes[layer], region.boxes[layer]
        if shape.unit == 0.0:
            continue
        within = lambda lo, hi: lo + (hi - lo) * rng.random((points, lo.shape[-1]))  # noqa: E731
        z = within(root.z0, root.z1).clip(root.z0, root.z1)
        low, high = np.maximum(root.q0, z + root.d0), np.minimum(root.q1, z + root.d1)
        q = within(low, np.maximum(low, high))
        real = (low <= high) & (q - z >= root.d0) & (q - z <= root.d1)  # pairs of values that the root allows
        moved = q + np.where(rng.random(q.shape) < 0.5, -shape.below, shape.above) * rng.random(q.shape)
        s = (np.rint(moved / shape.unit) * shape.unit).clip(root.s0, root.s1)
        real &= (s <= q + shape.above) | (s == root.s0)
        real &= (s >= q - shape.below) | (s == root.s1)
        for lo, v, hi in ((box.z0, z, box.z1), (box.q0, q, box.q1), (box.s0, s, box.s1)):
            inside &= ((lo[:, None] <= v[None]) & (v[None] <= hi[:, None]) | ~real[None]).all(axis=2)
    return [] if not leaves or grown.closed > -np.inf or inside.any(axis=0).all() else ["a point is in no leaf"]


@pytest.mark.parametrize("seed", range(12))
def test_bounds_contain_the_exact_truth(seed: int) -> None:
    assert _violations(seed) == []


@pytest.mark.parametrize("seed", range(4))
def test_trees_that_are_grown_anew_contain_it_too(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "SCOUTED", 9)
    monkeypatch.setattr(tree, "ALIKE", 9)
    assert _violations(seed) == []


def test_a_tree_that_is_given_up_leaves_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the next one is interrupted, and before that has a root."""
    monkeypatch.setattr(tree, "SCOUTED", 9)
    monkeypatch.setattr(tree, "ALIKE", 9)
    given_up = 0
    for seed in range(6):
        net, lo, hi = _question(seed)
        p = direct(program(net.task(lo, hi)))
        a = Analysis(p.layers, p.box, Settings()).run()
        dual, size = Dual(p, a), a.states[p.output].size
        high = net.truth(lo, hi)[1]
        target = Target.gap(p.output, size, int(np.argmax([float(v) for v in high])), 1.0)
        for stop in (160, 200, 300):
            grown = Tree(dual, target, dual.start(target, {r.output: r for r in a.backward.layers}), QUICK)
            count = itertools.count()

            def pulse(count: itertools.count[int] = count, stop: int = stop) -> None:
                if next(count) > stop:
                    raise _Interruption

            with contextlib.suppress(_Interruption):
                grown.run(-np.inf, 10_000, pulse)
            assert Fraction(grown.bound) >= max(high)
            given_up += grown.scouted is not None
            before = grown.bound
            grown._again()
            assert grown.bound == before
    assert given_up


def test_the_dual_is_never_looser_than_the_lines_it_starts_from() -> None:
    better = 0
    for seed in range(8):
        net, lo, hi = _question(seed)
        p = direct(program(net.task(lo, hi)))
        a = Analysis(p.layers, p.box, Settings()).run()
        gap = a.gap(p.output, np.arange(a.states[p.output].size))
        dual = Dual(p, a)
        for k in range(gap.lo.size):
            target = Target.gap(p.output, gap.lo.size, k, 1.0)
            start = dual.start(target, {r.output: r for r in a.backward.layers})
            found = minimise(dual, target, start, dual.region, QUICK)
            bound = float(dual.bound(target, found.multipliers, dual.region)[0])
            better += bound < gap.hi[k]
    assert better > 0


def test_the_engine_decides_what_the_analysis_leaves_open() -> None:
    decided = 0
    with Session() as session:
        for seed in range(6):
            net, lo, hi = _question(seed)
            low, high = net.truth(lo, hi)
            worst = max(abs(v) for v in (*low, *high))
            task = net.task(lo, hi, limit=float(worst) * 1.15)
            for e in Branch().run(task, [], Budget(branch=400), session):
                if isinstance(e, Bound):
                    assert all(Fraction(x) <= v for x, v in zip(e.lower.tolist(), low, strict=True))
                    assert all(Fraction(x) >= v for x, v in zip(e.upper.tolist(), high, strict=True))
                    decided += task.prop.of_box(e.lower, e.upper) <= task.prop.limit
    assert decided >= 3


def _prepared(seed: int) -> tuple[Net, tuple[int, ...], tuple[int, ...], Prepared, int]:
    net, lo, hi = _question(seed)
    p = direct(program(net.task(lo, hi)))
    return net, lo, hi, Prepared.of(p, Budget(), lambda: None), p.output


def _sharpened_violations(seed: int) -> list[str]:
    net, lo, hi, prepared, output = _prepared(seed)
    low, high = net.truth(lo, hi)
    found: list[str] = []
    for k in range(len(low)):
        for sign, truth in ((1.0, high[k]), (-1.0, -low[k])):
            bound = prepared.tree(output, k, sign).run(-np.inf, 20)
            if Fraction(bound if np.isfinite(bound) else -(10**30)) < truth:
                found.append(f"output {k}: {bound}")
    return found


def test_hidden_bounds_of_their_own_are_sound_and_cut_something() -> None:
    used = 0
    for seed in range(6):
        assert _sharpened_violations(seed) == []
        used += len(_prepared(seed)[3].sharpened)
    assert used > 0


def test_a_hidden_bound_without_rounding_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = hidden._settle
    monkeypatch.setattr(
        hidden, "_settle", lambda box, layer: real(box, replace(layer, below=layer.below * 0, above=layer.above * 0))
    )
    assert any(_sharpened_violations(seed) for seed in range(8))


def test_the_search_sees_nearly_the_value_that_is_proven() -> None:
    """Float32, neurons left out, corners made for both signs: the same function, whatever the multipliers."""
    for seed in range(6):
        _, _, _, prepared, output = _prepared(seed)
        dual, rng = prepared.dual, np.random.default_rng(seed)
        target = Target.gap(output, prepared.analysis.states[output].size, 0, 1.0)
        run = dual.kernel.begin(target, dual.region)
        start = dual.start(target, prepared.lines)
        for scale in (0.0, 0.3, 3.0):
            m = {}
            for v, both in start.items():
                kept = np.zeros(dual.sizes[v])
                kept[dual.kernel.kept[v]] = 1.0
                m[v] = tuple(kept * (x + scale * rng.normal(size=x.shape)) for x in both)
            few = {v: np.stack(x)[:, :, dual.kernel.kept[v]].astype(np.float32) for v, x in m.items()}
            e = dual.evaluate(target, m, dual.region)
            size = 1.0 + sum(np.abs(s.value).sum() for s in e.points.values())
            assert abs(run.evaluate(few)[0] - e.value[0]) <= 1e-4 * size


def test_an_input_of_a_node_that_violates_the_property_ends_the_search() -> None:
    seen = 0
    with Session() as session:
        for seed in range(8):
            net, lo, hi = _question(seed)
            low, high = net.truth(lo, hi)
            worst = max(abs(v) for v in (*low, *high))
            task = net.task(lo, hi, limit=float(worst) * 0.3)
            for e in Branch().run(task, [], Budget(branch=200), session):
                if isinstance(e, Witness):
                    assert e.replayed
                    assert task.prop.of_gap(e.gap) > task.prop.limit
                    assert e.codes is not None
                    assert (e.codes.ravel() >= lo).all()
                    assert (e.codes.ravel() <= hi).all()
                    seen += 1
    assert seen >= 4


class _Interruption(Exception):  # noqa: N818
    pass


def test_an_interrupted_tree_still_has_a_bound() -> None:
    interrupted = 0
    for seed in range(6):
        net, lo, hi = _question(seed)
        high = [float(v) for v in net.truth(lo, hi)[1]]
        p = direct(program(net.task(lo, hi)))
        a = Analysis(p.layers, p.box, Settings()).run()
        dual, size = Dual(p, a), a.states[p.output].size
        target = Target.gap(p.output, size, int(np.argmax(high)), 1.0)
        grown = Tree(dual, target, dual.start(target, {r.output: r for r in a.backward.layers}), QUICK)
        count = itertools.count()

        def pulse(count: itertools.count[int] = count) -> None:
            if next(count) > 100:
                raise _Interruption

        try:
            grown.run(-np.inf, 10_000, pulse)
        except _Interruption:
            interrupted += 1
            assert grown.open
        assert grown.nodes > 0
        assert Fraction(grown.bound) >= max(net.truth(lo, hi)[1])
    assert interrupted


def test_the_staircase_begins_and_ends_at_codes() -> None:
    """Also where the analysis cut the value's interval between two codes: the envelope counts steps from its ends."""
    cut = 0
    for seed in range(12):
        net, lo, hi = _question(seed)
        p = direct(program(net.task(lo, hi)))
        a = Analysis(p.layers, p.box, Settings()).run()
        for layer in p.layers:
            state = a.states[layer.output]
            if isinstance(layer, Affine) and layer.grid is not None and state.codes is not None:
                inner = 0.4 * layer.grid.unit * (state.codes[0] < state.codes[1])
                narrow = Interval(state.quantized.lo + inner, state.quantized.hi - inner)
                a.states[layer.output] = replace(state, quantized=narrow)
                cut += int((inner > 0).sum())
        dual, (low, high), size = Dual(p, a), net.truth(lo, hi), a.states[p.output].size
        for k in range(size):
            for sign, truth in ((1.0, high[k]), (-1.0, -low[k])):
                target = Target.gap(p.output, size, k, sign)
                start = dual.start(target, {r.output: r for r in a.backward.layers})
                found = minimise(dual, target, start, dual.region, Steps(150, 0.1, 1e-3))
                assert Fraction(float(dual.bound(target, found.multipliers, dual.region)[0])) >= truth
        for output, box in dual.region.boxes.items():
            unit = dual.shapes[output].unit
            if unit:
                assert all((v / unit == np.rint(v / unit)).all() for v in (box.s0, box.s1))
    assert cut > 0


def test_it_applies_to_what_it_says() -> None:
    net, lo, hi = _question(0)
    assert applies(direct(program(net.task(lo, hi))))
    with Session() as session:
        assert Branch().run(net.task(lo, lo), [], Budget(branch=10), session) == []
        assert Branch().run(net.task(lo, hi), [], Budget(branch=0), session) == []


# -- mistakes on purpose --------------------------------------------------------------------------


def _no_limit_before_the_step(m: pytest.MonkeyPatch) -> None:
    m.setattr(Shape, "first", lambda self, edge, size: edge + 1e9)


def _gap_forgotten_outside(m: pytest.MonkeyPatch) -> None:
    real = Box.tighten

    def narrow(self: Box, at) -> None:
        real(self, at)
        self.d1[at] = 0.5 * (self.d0[at] + self.d1[at])

    m.setattr(Box, "tighten", narrow)


def _split_drops_a_code(m: pytest.MonkeyPatch) -> None:
    real = tree._apply

    def strict(box, at, splits, shape) -> None:
        code, upper, value = splits
        real(box, at, (code, upper, value + (code & upper)), shape)

    m.setattr(tree, "_apply", strict)


def _split_forgets_rounding(m: pytest.MonkeyPatch) -> None:
    real = tree._apply

    def strict(box, at, splits, shape) -> None:
        none = np.zeros_like(shape.above)
        real(box, at, splits, Shape(shape.a, shape.b, none, none, shape.unit, shape.size))

    m.setattr(tree, "_apply", strict)


def _split_keeps_one_half(m: pytest.MonkeyPatch) -> None:
    real = Tree._choices

    def one(self, *rest):
        choices, errors = real(self, *rest)
        return [None if c is None else (c[0], c[0]) for c in choices], errors

    m.setattr(Tree, "_choices", one)


def _noise_of_signs(m: pytest.MonkeyPatch) -> None:
    real = Dual.evaluate

    def less(self, target, multipliers, region):
        e = real(self, target, multipliers, region)
        return type(e)(e.value - np.abs(e.input).sum(axis=1) * 1e-3, e.slack, e.points, e.pulled, e.input, e.slope)

    m.setattr(Dual, "evaluate", less)


@pytest.mark.parametrize(
    "mutate",
    [
        _no_limit_before_the_step,
        _gap_forgotten_outside,
        _split_drops_a_code,
        _split_forgets_rounding,
        _split_keeps_one_half,
        _noise_of_signs,
    ],
)
def test_mistakes_are_noticed(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)

    def noticed(seed: int) -> bool:
        try:
            return bool(_neuron_violations(seed)) or bool(_violations(seed, 300))
        except InternalError:
            return True

    assert any(noticed(seed) for seed in range(12))
