"""Networks of the further operators: executed bit for bit, bounded by every engine, nothing outside; zero tolerance."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qebgate.engines import portfolio
from qebgate.engines.concrete import Session
from qebgate.engines.dra.analysis import Settings
from qebgate.evidence import Bound, Witness
from qebgate.regions.cell import Cell
from qebgate.semantics.execute import run_float, run_int
from qebgate.task import Budget, Task
from tests.laws import forms
from tests.laws.contain import LONG, OWN_ERROR, Seen, check, samples
from tests.laws.mixed import mixed_model, mixed_pair
from tests.laws.pairs import codec_of, grid_cell, real_cell, task_of
from tests.semantics.compare import interpret, load, runtimes_of

FURTHER = {
    *("ABS", "CONCATENATION", "ELU", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MAXIMUM", "MINIMUM", "MUL"),
    *("PRELU", "REDUCE_MAX", "REDUCE_MIN", "SPLIT", "SUB", "TANH", "TRANSPOSE"),
}
SMALL = Budget(slopes=2, lp=0, falsify=40, branch=20, milp=0.2, split=40, cells=20)


def test_networks_are_executed_bit_for_bit() -> None:
    used: set[str] = set()
    for seed in range(36):
        rng = np.random.default_rng(seed)
        model, ops = mixed_model(rng)
        graph = load(model)
        used |= ops
        x = rng.integers(-128, 128, (40, 1, 4)).astype(np.int8)
        for runtime in runtimes_of(graph):
            theirs, _ = interpret(model, x, runtime)
            np.testing.assert_array_equal(run_int(graph, x, runtime)[graph.outputs[0]], theirs)
    assert used >= FURTHER


@pytest.mark.parametrize("part", range(2))
def test_bounds_and_forms_contain_what_happens(part: int) -> None:
    seen = Seen()
    for seed in range(5 * part, 5 * part + 5):
        twins = mixed_pair(seed)
        rng = np.random.default_rng(1000 + seed)
        codec = codec_of(twins.pair, rng)
        for runtime in runtimes_of(twins.pair.quantized):
            cell = (grid_cell if rng.random() < 0.6 else real_cell)(twins.pair, codec, rng)
            task = task_of(twins.pair, cell, codec, runtime, "real" if rng.random() < 0.5 else "float32")
            check(task, samples(task, rng, 60), Settings(), seen, twins.float)
            if (task.cell.upper > task.cell.lower).any():
                forms.check(task, forms.network(task), 0, rng, seen, cells=2, count=16)
    assert not seen.violations, seen.violations[:5]
    assert seen.values > 10_000


def small_box(pair, codec, rng) -> Cell:
    """Two free inputs, a few codes each."""
    shape = pair.quantized.input.shape
    centre = rng.integers(-100, 100, shape)
    r = np.zeros(shape, np.int64)
    r.reshape(-1)[rng.choice(4, 2, replace=False)] = rng.integers(1, 5, 2)
    lo, hi = ((centre + d).astype(np.int32) for d in (-r, r))
    ends = [codec.grid(c).astype(np.float64) for c in (lo, hi)]
    return Cell(ends[0], ends[1], (lo, hi), 0, codec.grid(centre).astype(np.float64))


def truth(task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least and largest gap of every output over all inputs of a box, and this arithmetic's own error."""
    assert task.cell.codes is not None
    axes = [range(int(a), int(b) + 1) for a, b in zip(*(c.ravel() for c in task.cell.codes), strict=True)]
    x = np.array(list(itertools.product(*axes)), np.int32).reshape(-1, *task.cell.lower.shape)
    pair = task.pair
    q = run_int(pair.quantized, x, task.runtime)[pair.quantized.outputs[0]].reshape(len(x), -1)
    real = task.codec.grid(x)
    h = run_float(pair.float, real, dtype=LONG)[pair.float.outputs[0]].reshape(len(x), -1)  # type: ignore[arg-type]
    gap = pair.quantized.output.q.dequantize(q).astype(LONG) - h
    return gap.min(axis=0), gap.max(axis=0), OWN_ERROR * (1 + np.abs(h).max())


@pytest.mark.parametrize("part", range(2))
def test_no_engine_is_wrong(part: int, tmp_path: Path) -> None:
    """Every engine's bounds contain every gap of a small box, and every witness is one of its gaps."""
    answered: set[str] = set()
    with Session() as session:
        for seed in range(2 * part, 2 * part + 2):
            twins = mixed_pair(seed, tmp_path)
            rng = np.random.default_rng(seed)
            codec = codec_of(twins.pair)
            rts = runtimes_of(twins.pair.quantized)
            task = task_of(twins.pair, small_box(twins.pair, codec, rng), codec, rts[seed % len(rts)], "real", 1e-3)
            lo, hi, own = truth(task)
            point = replace(task.cell, upper=task.cell.lower, codes=(task.cell.codes[0],) * 2)
            for engine in portfolio.ORDER:
                for t in (task, replace(task, cell=point)):
                    for e in engine().run(t, [], SMALL, session):
                        if isinstance(e, Bound):
                            answered.add(e.engine)
                            low, high, _ = (lo, hi, own) if t is task else truth(t)
                            assert (e.lower <= low + own).all() and (e.upper >= high - own).all(), (seed, e.engine)
                        if isinstance(e, Witness):
                            assert (e.gap >= lo - 1e-6).all() and (e.gap <= hi + 1e-6).all(), (seed, e.engine)
    assert {"execute", "dra", "enumerate"} <= answered
