"""Forms contain what really happens: every operator, random networks, every runtime, any cell; zero tolerance."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from qebgate.engines.forms.steps import Cells
from qebgate.ops.registry import LOWERINGS
from qebgate.runtimes.profiles import DEPLOYED
from tests.engines.exact import dense_pair, evaluate
from tests.laws.contain import Seen
from tests.laws.forms import check, network
from tests.laws.pairs import codec_of, grid_cell, one_operator, random_pair, real_cell, task_of
from tests.semantics.compare import runtimes_of


def hunt(twins, seed: int, runtime, how: str, symbols: int) -> Seen:
    rng, seen = np.random.default_rng(seed), Seen()
    codec = codec_of(twins.pair, rng if how == "real" else None)
    make = real_cell if how == "real" else grid_cell
    cell = make(twins.pair, codec, rng)
    while not (cell.upper > cell.lower).any():
        cell = make(twins.pair, codec, rng)
    task = task_of(twins.pair, cell, codec, runtime, "real")
    check(task, network(task, symbols), symbols, rng, seen)
    return seen


TURNS = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
"""Every turn sees every operator and every runtime; together they see every network in every runtime."""


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("how", ["grid", "real"])
@pytest.mark.parametrize("op", sorted(LOWERINGS))
def test_one_operator(op: str, how: str, turn: int) -> None:
    values = 0
    for seed in range(3):
        twins = one_operator(op, seed)
        runtimes = runtimes_of(twins.pair.quantized)
        k = (seed + turn) % len(runtimes)
        seen = hunt(twins, 10 * seed + k, runtimes[k], how, (0, 3)[seed % 2])
        assert not seen.violations, seen.violations[:5]
        values += seen.values
    assert values > 500


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("how", ["grid", "real"])
@pytest.mark.parametrize("part", range(4))
def test_small_networks(part: int, how: str, turn: int) -> None:
    values = 0
    for seed in range(4 * part, 4 * part + 4):
        k = (seed + turn) % len(DEPLOYED)
        seen = hunt(random_pair(seed), 1000 + 10 * seed + k, DEPLOYED[k], how, (0, 4, 100)[(seed + k) % 3])
        assert not seen.violations, seen.violations[:5]
        values += seen.values
    assert values > 10_000


@pytest.mark.parametrize("big_bias", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_dense_networks_in_rational_arithmetic(seed: int, big_bias: bool) -> None:
    """Points show a lost unit in the last place; big biases that cancel show roundoff charged to the wrong number."""
    rng = np.random.default_rng(seed)
    pair = dense_pair(rng, big_bias=big_bias).pair
    codec = codec_of(pair)
    cell = grid_cell(pair, codec, rng)
    while (cell.codes[0] == cell.codes[1]).all():
        cell = grid_cell(pair, codec, rng)
    task = task_of(pair, cell, codec, DEPLOYED[seed % len(DEPLOYED)], "real")
    net = network(task, (0, 3)[seed % 2])
    lo, hi = cell.codes
    points = [lo, hi, *(rng.integers(lo, hi, endpoint=True) for _ in range(6))]
    bad: list[str] = []
    for point in points:
        codes = point.ravel()[net.free][None].astype(np.int64)
        x = codec.grid(codes).astype(np.float64)
        values = net.values(Cells(x, x, (codes, codes)), 0)
        for step, t in zip(pair.steps, evaluate(pair, point.astype(np.int32), task), strict=True):
            fact = net.facts[step.output]
            truths = (t.h, t.hq, [q - h for q, h in zip(t.hq, t.h, strict=True)])
            for interval, truth in zip((fact.gap.float, fact.gap.quantized, fact.gap.delta), truths, strict=True):
                bad += _outside(interval.lo, interval.hi, truth)
            if step.output in values:
                gap = values[step.output].gap
                for interval, truth in zip((gap.float, gap.quantized, gap.delta), truths, strict=True):
                    bad += _outside(interval.lo[0], interval.hi[0], [truth[i] for i in fact.live])
    assert not bad, bad[:3]


def _outside(lo: np.ndarray, hi: np.ndarray, truth: list[Fraction]) -> list[str]:
    return [
        f"{float(v)!r} not in [{a!r}, {b!r}]"
        for a, b, v in zip(lo, hi, truth, strict=True)
        if not Fraction(float(a)) <= v <= Fraction(float(b))
    ]
