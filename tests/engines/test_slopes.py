"""Optimised lines: sound whatever the search does, never looser, and worth it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from qebgate.domains.lines import above
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.backward import Form
from qebgate.engines.dra.program import program
from qebgate.engines.dra.relaxation import Relaxation
from qebgate.engines.dra.slopes import Side, _descend, tune
from qebgate.runtimes.profiles import Runtime
from tests.domains.test_lines import exact, random_neuron
from tests.engines.tiny import ENTRIES, RUNTIMES, outside, tiny
from tests.laws.test_containment import PARTS

DENSE = sorted(n for n in ENTRIES if n.startswith("dense"))


@pytest.mark.parametrize("part", range(6))
def test_any_slopes_and_mixtures_give_lines_above(part: int) -> None:
    """Slopes and logits at random, not optimised: in rational arithmetic, zero tolerance."""
    drawn = 0
    for seed in range(80 * part, 80 * part + 80):
        rng = np.random.default_rng(seed)
        r = random_neuron(rng)
        n = r.neurons
        sides: list[tuple[int, Side]] = []
        for sign, m in ((1, n), (-1, n.mirrored())):
            up = above(m)
            side = Side.of(m, (up.h, up.g, up.d))
            side.h.slope[:] = rng.choice([0.0, 1.0, rng.random()])
            if hasattr(side.g, "slope") and hasattr(side.g, "points"):
                side.g.slope[:] = rng.choice([0.0, 1.0, rng.random()])
            side.d.logits[:] = rng.normal(size=side.d.logits.shape) * rng.choice([0.1, 3.0, 30.0])
            sides.append((sign, side))
        for _ in range(10):
            v = r.draw(rng)
            if v is None:
                continue
            drawn += 1
            for sign, side in sides:
                h, g, d = side.lines()
                at: list[Fraction] = [sign * x for x in (v.zq - v.z, v.z, v.zq)]
                assert exact(h.slope[0]) * at[1] + exact(h.intercept[0]) >= sign * v.h
                assert exact(g.slope[0]) * at[2] + exact(g.intercept[0]) >= sign * v.hq
                line = [exact(x[0]) for x in (d.d, d.z, d.q, d.intercept)]
                assert sum(a * b for a, b in zip(line, at, strict=False)) + line[3] >= sign * (v.hq - v.h)
    assert drawn > 100


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", DENSE[:6])
def test_tuned_bounds_contain_the_truth_and_are_never_looser(name: str, runtime: Runtime) -> None:
    t = tiny(name)
    rng = np.random.default_rng(len(name))
    for _ in range(3):
        task = t.task(t.box(rng), runtime)
        p = program(task)
        index = np.asarray(task.outputs, dtype=np.intp)
        a = Analysis(p.layers, p.box).run()
        plain = a.gap(p.output, index)
        gap = a.tuned(p.output, index, plain, -np.inf, 20)
        rows = t.rows(task.cell)
        assert outside(gap.lo, gap.hi, t.quantized(runtime)[rows] - t.float32[rows]) == 0
        assert (gap.lo >= plain.lo).all() and (gap.hi <= plain.hi).all()


@pytest.mark.parametrize("parts", PARTS)
def test_tuned_bounds_without_a_part_contain_the_truth(parts: Relaxation) -> None:
    for k, name in enumerate(DENSE[:4]):
        t = tiny(name)
        runtime = RUNTIMES[k % len(RUNTIMES)]
        task = t.task(t.box(np.random.default_rng(k)), runtime)
        p = program(task)
        index = np.asarray(task.outputs, dtype=np.intp)
        a = Analysis(p.layers, p.box, Settings(parts=parts)).run()
        gap = a.tuned(p.output, index, a.gap(p.output, index), -np.inf, 20)
        rows = t.rows(task.cell)
        assert outside(gap.lo, gap.hi, t.quantized(runtime)[rows] - t.float32[rows]) == 0


@pytest.mark.parametrize("name", DENSE[:6])
def test_roundoff_is_charged_for_the_lines_that_are_used(name: str) -> None:
    """The magnitudes behind a layer cover its optimised lines, not only those that the search started from."""
    t = tiny(name)
    task = t.task(t.cell(np.full(t.side, -40), np.full(t.side, 40)), Runtime.XNNPACK)
    p = program(task)
    a = Analysis(p.layers, p.box).run()
    facts = {o: (layer, a.pre[o], [a.states[i] for i in layer.inputs]) for o, layer in a._affines.items()}
    moved = 0
    for k in range(len(task.outputs)):
        one = np.zeros((1, a.states[p.output].size))
        one[0, k] = 1.0
        for before, r in zip(
            a.backward.layers, tune(a.backward.layers, facts, a.root, (p.output, Form(d=one)), 20), strict=True
        ):
            pre = a.pre[r.output]
            z, q, d = (v.magnitude for v in (pre.z, pre.q, pre.d))
            moved += not np.array_equal(before.over[0].slope, r.over[0].slope)
            for side in (r.over, r.under):
                h, g, gap = side
                assert (np.abs(h.slope) * z + np.abs(h.intercept) <= r.h_size).all()
                assert (np.abs(g.slope) * q + np.abs(g.intercept) <= r.g_size).all()
                size = np.abs(gap.d) * d + np.abs(gap.z) * z + np.abs(gap.q) * q + np.abs(gap.intercept)
                assert (size <= r.d_size).all()
    assert moved


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", DENSE[:6])
def test_bounds_with_lines_contain_the_truth_and_are_never_looser(name: str, runtime: Runtime) -> None:
    """What networks with max pools use; others take multipliers."""
    t = tiny(name)
    rng = np.random.default_rng(len(name))
    for _ in range(3):
        task = t.task(t.box(rng), runtime)
        p = program(task)
        index = np.asarray(task.outputs, dtype=np.intp)
        a = Analysis(p.layers, p.box).run()
        plain = a.gap(p.output, index)
        gap = a.with_lines(p.output, index, plain, -np.inf, 20)
        rows = t.rows(task.cell)
        assert outside(gap.lo, gap.hi, t.quantized(runtime)[rows] - t.float32[rows]) == 0
        assert (gap.lo >= plain.lo).all() and (gap.hi <= plain.hi).all()


def test_tuning_pays() -> None:
    """On a deep network over a large box, the interval becomes clearly smaller."""
    t = tiny("dense_deep-int8" if "dense_deep-int8" in ENTRIES else DENSE[0])
    task = t.task(t.cell(np.full(t.side, -40), np.full(t.side, 40)), Runtime.XNNPACK)
    p = program(task)
    index = np.asarray(task.outputs, dtype=np.intp)
    a = Analysis(p.layers, p.box).run()
    plain = a.gap(p.output, index)
    gap = a.tuned(p.output, index, plain, -np.inf, 60)
    assert float(gap.width.sum()) < 0.98 * float(plain.width.sum())


def test_the_search_evaluates_the_bound_itself() -> None:
    """What is minimised is the rigorous bound up to roundoff."""
    t = tiny(DENSE[0])
    task = t.task(t.cell(np.full(t.side, -20), np.full(t.side, 30)), Runtime.REFERENCE)
    p = program(task)
    a = Analysis(p.layers, p.box).run()
    for k in range(len(task.outputs)):
        one = np.zeros((1, a.states[p.output].size))
        one[0, k] = 1.0
        rigorous = float(a.backward.value(p.output, Form(d=one))[0])
        value, _ = _descend(a.backward.layers, p.box, (p.output, Form(d=one)))
        assert value <= rigorous <= value + 1e-6 * (1 + abs(value))
