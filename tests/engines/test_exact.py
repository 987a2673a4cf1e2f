"""The whole analysis of dense pairs against rational arithmetic: intervals, back-substitution, final bounds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from qebgate.domains.layers import Affine
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.backward import Form
from qebgate.engines.dra.program import program
from qebgate.engines.dra.relaxation import Relaxation
from qebgate.runtimes.profiles import DEPLOYED
from tests.engines.exact import dense_pair, evaluate, violations
from tests.laws.pairs import codec_of, grid_cell, task_of
from tests.laws.test_containment import PARTS

RUNTIMES = DEPLOYED


def analysis(seed: int, *, big_bias: bool = False, point: bool = False, settings: Settings | None = None):
    rng = np.random.default_rng(seed)
    twins = dense_pair(rng, big_bias=big_bias)
    codec = codec_of(twins.pair)
    cell = grid_cell(twins.pair, codec, rng)
    assert cell.codes is not None
    if point:
        from dataclasses import replace

        cell = replace(cell, upper=cell.lower, codes=(cell.codes[0], cell.codes[0]))
    task = task_of(twins.pair, cell, codec, RUNTIMES[seed % 3], "real")
    p = program(task)
    return Analysis(p.layers, p.box, settings or Settings()).run(), task, rng


def inputs(task, rng: np.random.Generator, count: int) -> list[np.ndarray]:
    lo, hi = task.cell.codes
    draws = [lo, hi] + [np.where(rng.random(lo.shape) < 0.5, lo, hi) for _ in range(count // 2)]
    return draws + [rng.integers(lo, hi, endpoint=True) for _ in range(count // 2)]


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("big_bias", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_excluded(seed: int, big_bias: bool, point: bool) -> None:
    """Points show a lost unit in the last place; big biases that cancel show roundoff charged to the wrong number."""
    a, task, rng = analysis(seed, big_bias=big_bias, point=point)
    for codes in inputs(task, rng, 1 if point else 8):
        assert violations(a, task.pair, evaluate(task.pair, codes, task)) == []


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_excluded_without_a_part(seed: int, parts: Relaxation) -> None:
    a, task, rng = analysis(seed, big_bias=seed % 2 == 1, point=seed % 5 == 4, settings=Settings(parts=parts))
    for codes in inputs(task, rng, 8):
        assert violations(a, task.pair, evaluate(task.pair, codes, task)) == []


@pytest.mark.parametrize("seed", range(20))
def test_any_form_over_any_layer(seed: int) -> None:
    """Random coefficients on h, hq and delta at once, of very different sizes: bounded from above, exactly."""
    a, task, rng = analysis(seed)
    truths = [evaluate(task.pair, c, task) for c in inputs(task, rng, 6)]
    for k, step in enumerate(task.pair.steps):
        n = a.states[step.output].size
        h, g, d = (rng.normal(size=(3, n)) * 10.0 ** rng.uniform(-8, 8, (3, n)) for _ in range(3))
        bound = a.backward.value(step.output, Form(h=h.copy(), g=g.copy(), d=d.copy()))
        for t in (t[k] for t in truths):
            for r in range(3):
                value = sum(
                    (
                        Fraction(h[r, j]) * t.h[j]
                        + Fraction(g[r, j]) * t.hq[j]
                        + Fraction(d[r, j]) * (t.hq[j] - t.h[j])
                        for j in range(n)
                    ),
                    Fraction(0),
                )
                assert Fraction(float(bound[r])) >= value


def test_the_difference_of_biases_is_charged_with_the_biases_own_roundoff() -> None:
    for seed in range(8):
        a, _, _ = analysis(seed, big_bias=True)
        layers = [x for x in a.layers if isinstance(x, Affine) and x.label != "input"]
        assert all((x.bd_size >= np.abs(x.bq)).all() and (x.bd_size >= np.abs(x.bf)).all() for x in layers)
        assert any((np.abs(x.bd) < 1e-3 * x.bd_size).any() for x in layers)
