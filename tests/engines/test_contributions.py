"""The parts of a bound add up to it, and each is what it is called."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qebgate.domains.gap import Interval
from qebgate.domains.layers import ROOT, Affine, CodeGrid
from qebgate.domains.linear_map import Dense, Scale
from qebgate.engines.dra.analysis import Analysis
from qebgate.engines.dra.contributions import SOURCES, Contributions, Side, contributions
from qebgate.engines.dra.program import Program, program
from qebgate.runtimes.profiles import Runtime
from qebgate.task import Task
from tests.engines.tiny import ENTRIES, tiny
from tests.laws.pairs import codec_of, grid_cell, random_pair, real_cell, task_of

SIDES: tuple[Side, ...] = ("upper", "lower")


def explained(task: Task, entry: int, side: Side) -> tuple[Contributions, Analysis]:
    p = program(task)
    a = Analysis(p.layers, p.box).run()
    channels = {k: task.pair.tensors(k)[1].shape[-1] for k in range(len(task.pair.values))}
    return contributions(a, p, entry, side, channels=channels), a


def adds_up(c: Contributions) -> bool:
    return abs(c.total - c.bound) <= 1e-9 * abs(c.bound)


@pytest.mark.parametrize("name", ENTRIES)
def test_parts_add_up_on_converted_models(name: str) -> None:
    t = tiny(name)
    rng = np.random.default_rng(5)
    for floats in ("float32", "real"):
        task = t.task(t.box(rng), Runtime.REFERENCE, floats)
        for side in SIDES:
            for entry in range(min(3, task.pair.float.output.size)):
                c, a = explained(task, entry, side)
                gap = a.gap(program(task).output, np.array([entry]))
                assert c.bound == (gap.hi[0] if side == "upper" else -gap.lo[0])
                assert adds_up(c), (name, c.bound, c.total)
                assert c.of("roundoff") >= 0 and c.of("float32") >= 0 and c.of("tightening") <= 0
                assert c.of("region") >= 0
                if floats == "real":
                    assert c.of("float32") == 0


def random_task(seed: int) -> Task:
    rng = np.random.default_rng(seed)
    pair = random_pair(seed).pair
    codec = codec_of(pair, rng)
    cell = grid_cell(pair, codec, rng) if seed % 2 or codec.mode is None else real_cell(pair, codec, rng)
    return task_of(pair, cell, codec, Runtime.XNNPACK)


@pytest.mark.parametrize("seed", range(25))
def test_parts_add_up_on_random_networks(seed: int) -> None:
    task = random_task(seed)
    for side in SIDES:
        c, _ = explained(task, 0, side)
        assert adds_up(c), (c.bound, c.total)
        for s in c.shares:
            assert s.total == pytest.approx(s.channels.sum(), rel=1e-9, abs=1e-12 * abs(c.bound))
            assert set(s.parts) <= set(SOURCES)


@pytest.mark.parametrize("name", ["dense_8_8-int8", "dense_large-int8", "conv-int8", "residual-int8"])
def test_parts_add_up_with_optimised_slopes(name: str) -> None:
    t = tiny(name)
    task = t.task(t.cell(np.full(t.side, -20), np.full(t.side, 30)), Runtime.REFERENCE)
    p = program(task)
    a = Analysis(p.layers, p.box).run()
    for side in SIDES:
        plain = contributions(a, p, 0, side, channels={})
        tuned = contributions(a, p, 0, side, channels={}, iterations=20)
        assert adds_up(tuned) and tuned.bound <= plain.bound
        assert tuned.bound - tuned.of("tightening") <= plain.bound - plain.of("tightening")


def test_no_weight_rounding_without_weight_rounding() -> None:
    t = tiny("dense_4-int8")
    task = t.task(t.cell(np.array([3, -5]), np.array([9, 2])), Runtime.REFERENCE)
    p = program(task)
    same = tuple(replace(x, f=x.q, bf=x.bq) if isinstance(x, Affine) else x for x in p.layers)
    a = Analysis(same, p.box).run()
    c = contributions(a, replace(p, layers=same), 0, "upper", channels={})
    assert c.of("weights") == c.of("biases") == 0
    assert c.of("rounding") > 0 and adds_up(c)


def test_one_neuron_by_hand() -> None:
    """``hq = round(1.1 x + 0.05)`` to 0.1 against ``h = x`` for x in [1.5, 2.5]."""
    n = np.zeros(1)
    identity = Affine("input", (ROOT,), 0, (Scale(1.0, 1),), (Scale(1.0, 1),), n, n, (-np.inf, np.inf), n, n, None)
    neuron = Affine(
        "neuron", (0,), 1, (Dense(np.eye(1)),), (Dense(np.array([[1.1]])),), n, n + 0.05, (-np.inf, np.inf),
        n + 0.05, n + 0.05, CodeGrid(0.1, 0, -100, 100),
    )  # fmt: skip
    p = Program((identity, neuron), Interval(n + 1.5, n + 2.5), 1)
    c = contributions(Analysis(p.layers, p.box).run(), p, 0, "upper", channels={})
    want = {"weights": 0.2, "biases": 0.05, "rounding": 0.05, "region": 0.05}
    for s in SOURCES:
        assert c.of(s) == pytest.approx(want.get(s, 0.0), abs=1e-12), s
    assert c.bound == pytest.approx(0.35, abs=1e-12)
    assert c.layers[-1].label == "neuron" and c.layers[-1].total == pytest.approx(0.3, abs=1e-12)


def test_saturation_by_hand() -> None:
    """A linear output that the quantized model clamps at 2: all of the gap is saturation."""
    n = np.zeros(1)
    one = (Scale(1.0, 1),)
    p = Program(
        (Affine("neuron", (ROOT,), 0, one, one, n, n, (-np.inf, np.inf), n, n, CodeGrid(0.5, 0, -4, 4)),),
        Interval(n + 3.0, n + 3.5),
        0,
    )
    c = contributions(Analysis(p.layers, p.box).run(), p, 0, "lower", channels={})
    assert c.bound == pytest.approx(1.5) and adds_up(c)
    assert c.of("region") == pytest.approx(0.25)
    assert c.of("input") == pytest.approx(1.25)  # this layer reads the input itself


def test_a_point_has_no_region() -> None:
    t = tiny("dense_8_8-int8")
    c, _ = explained(t.task(t.cell(np.array([3] * t.side), np.array([3] * t.side)), Runtime.REFERENCE), 0, "upper")
    assert c.of("region") == 0
