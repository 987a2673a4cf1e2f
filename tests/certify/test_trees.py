"""Branch trees over neurons: whatever the splits and multipliers are, what the checker derives contains the truth."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from qebgate.certificates import with_trees
from qebgate.certify.box import Box
from qebgate.certify.check import Hints, bounds, program_of, shape_of
from qebgate.certify.cover import is_tree
from qebgate.certify.forms import Splits, Targets
from qebgate.certify.walk import Walk
from qebgate.engines.branch import tree
from qebgate.plan import EFFORT
from qebgate.properties import Property
from tests.certify.ask import engine_hints, garbage, question_of, walked
from tests.engines.tiny import RUNTIMES, outside, tiny
from tests.semantics.cases import Rng

RARE = [pytest.param(n, marks=pytest.mark.slow) for n in ("dense_8_8-int8", "dense_deep-int8", "dense_large-int8")]
NAMES = [*RARE[:2], "dense_4-float_io", "conv-int8", "dense_relu6-int8", "residual_relu-int8"]
EXACT = 2.0**-55

Leaf = dict[tuple[int, int], list[float]]
"""(Value, neuron) -> ends of z, ends of the centred code."""


def random_leaves(w: Walk, rng: Rng) -> list[Leaf]:
    """Parts that cover everything: neurons at random, split where their values are, at corners, or beside."""
    layers = [x for x in w.program.layers if not x.exact]
    leaves: list[Leaf] = [{}]
    for _ in range(int(rng.integers(1, 8))):
        leaf = leaves.pop(int(rng.integers(len(leaves))))
        layer = layers[int(rng.integers(len(layers)))]
        f, j = w.facts[layer.output], int(rng.integers(layer.m))
        low, high = ({k: list(v) for k, v in leaf.items()} for _ in range(2))
        for part in (low, high):
            part.setdefault((layer.output, j), [-np.inf, np.inf, -np.inf, np.inf])
        (z0, z1, k0, k1) = low[layer.output, j]
        if layer.grid is None or rng.random() < 0.5:
            at = float(rng.choice([0.0, f.z.lo[j], f.z.hi[j], rng.uniform(f.z.lo[j], f.z.hi[j] + 1e-9)]))
            if not z0 < at < z1:
                leaves.append(leaf)
                continue
            low[layer.output, j][1], high[layer.output, j][0] = at, at
        else:
            unit = layer.grid.unit
            at = float(np.rint(rng.uniform(f.g.lo[j], f.g.hi[j] + unit) / unit)) + float(rng.integers(-1, 2))
            if not k0 <= at < k1:
                leaves.append(leaf)
                continue
            low[layer.output, j][3], high[layer.output, j][2] = at, at + 1
        leaves += [low, high]
    return leaves


def group(w: Walk, leaves: list[Leaf], side: tuple[int, float], good: Hints, rng: Rng) -> Targets:
    """Leaves of one target, with the multipliers that a search found for it, noise, or both."""
    (entry, sign), count, columns = side, len(leaves), dict[int, list[list[float]]]()
    for row, leaf in enumerate(leaves):
        for (value, neuron), ends in leaf.items():
            columns.setdefault(value, []).append([row, neuron, *ends])
    splits = {}
    for v, c in columns.items():
        a = np.array(c)
        at = a[:, 0].astype(np.intp), a[:, 1].astype(np.intp)
        splits[v] = Splits(*at, Box(a[:, 2], a[:, 3]), Box(a[:, 4], a[:, 5]))
    noise = rng.choice([0.0, 0.0, 0.01, 1.0])
    multipliers = {x.output: noise * rng.normal(size=(2, count, x.m)) for x in w.program.layers}
    for t in good.targets:
        row = np.flatnonzero((t.entries == entry) & (t.signs == sign))
        if t.kind == "gap" and row.size:
            multipliers |= {v: multipliers[v] + m[:, row[:1]] for v, m in t.multipliers.items()}
    entries = np.full(count, entry, np.intp)
    return Targets(w.program.output, "gap", entries, np.full(count, sign), multipliers, splits)


@pytest.mark.parametrize("name", NAMES)
def test_random_trees(name: str) -> None:
    t, rng, better = tiny(name), np.random.default_rng(sum(name.encode())), 0
    for k in range(12):
        runtime = RUNTIMES[k % 3]
        floats = "real" if k % 2 else "float32"
        h, error = (t.real, EXACT) if k % 2 else (t.float32, 0.0)
        cell = t.box(rng)
        task = t.task(cell, runtime, floats, 1e-9)
        question = question_of(task)
        good = engine_hints(task)
        base = good if k % 3 else garbage(question, rng)
        w = walked(question, Hints(base.slopes, base.refine))
        plain = bounds(question, Hints(base.slopes, base.refine))
        rows = t.rows(cell)
        gap = t.quantized(runtime)[rows] - h[rows]
        for side in itertools.product(range(len(task.outputs)), (1.0, -1.0)):
            g = group(w, random_leaves(w, rng), side, good, rng)
            assert is_tree(g)
            found = w.gaps(g).max()
            assert found + error >= (side[1] * gap[:, side[0]]).max()
            better += bool(found < (plain[1][side[0]] if side[1] > 0 else -plain[0][side[0]]))
            lower, upper = bounds(question, Hints(base.slopes, base.refine, [g]))
            assert outside(lower, upper, gap, error) == 0
    assert better >= 5


@pytest.mark.parametrize("name", [RARE[0], "dense_deep-int8", RARE[2], "conv-int8"])
def test_trees_of_the_engine(name: str) -> None:
    """Limits below the analysis' bound: trees that the engine finds are confirmed, and never below the truth."""
    _confirmed(name)


def test_trees_that_were_grown_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "SCOUTED", 2)
    monkeypatch.setattr(tree, "ALIKE", 9)
    anew: list[float] = []
    plain = tree.Tree._again

    def again(self: tree.Tree) -> None:
        plain(self)
        anew.append(self.bound)

    monkeypatch.setattr(tree.Tree, "_again", again)
    _confirmed("conv-int8")
    assert anew


def _confirmed(name: str) -> None:
    t, rng, confirmed = tiny(name), np.random.default_rng(5), 0
    budget = replace(EFFORT["standard"], branch=150)
    for runtime in RUNTIMES:
        for _ in range(2):
            cell = t.box(rng)
            if cell.is_point:
                continue
            task = t.task(cell, runtime, "float32", 10.0)
            question = question_of(task)
            base = engine_hints(task)
            lower, upper = bounds(question, base)
            worst = float(np.maximum(-lower, upper).max())
            task = replace(task, prop=Property("max_abs", 0.9 * worst))
            program = program_of(question)
            hints = with_trees(task, budget, base, (lower, upper), shape_of(program))
            new = bounds(question, hints, program)
            rows = t.rows(cell)
            assert outside(*new, t.quantized(runtime)[rows] - t.float32[rows]) == 0
            confirmed += float(np.maximum(-new[0], new[1]).max()) <= 0.9 * worst
            trees = [g for g in hints.targets if g.splits]
            for g in trees:
                dropped = dropping(g, int(rng.integers(g.entries.size)))
                assert not is_tree(dropped)
    assert confirmed >= 1


def dropping(g: Targets, row: int) -> Targets:
    """The same tree without a leaf."""
    keep = np.flatnonzero(np.arange(g.entries.size) != row)
    splits = {}
    for v, s in g.splits.items():
        at = np.flatnonzero(s.row != row)
        renumbered = np.searchsorted(keep, s.row[at])
        splits[v] = Splits(renumbered, s.neuron[at], Box(*(b[at] for b in s.z)), Box(*(b[at] for b in s.code)))
    multipliers = {v: m[:, keep] for v, m in g.multipliers.items()}
    return Targets(g.value, g.kind, g.entries[keep], g.signs[keep], multipliers, splits)
