"""LOG_SOFTMAX: bounds of values and changes in extended precision, and what ends a network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qebgate.domains.gap import Interval
from qebgate.engines.dra.analysis import Settings
from qebgate.ops import squashing
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.execute import run_int
from tests.laws.contain import LONG, Seen, check, samples
from tests.laws.pairs import codec_of, grid_cell, load, one_operator, task_of
from tests.semantics.compare import interpret
from tests.semantics.compare import load as read
from tests.support.tflite_builder import Builder

Patch = pytest.MonkeyPatch


def log_softmax(x: np.ndarray) -> np.ndarray:
    d = x - x.max(axis=-1, keepdims=True)
    return d - np.log(np.exp(d).sum(axis=-1, keepdims=True))


def bounds_fail(tries: int = 60) -> str | None:
    """Logits far apart and close together, changes from nothing to larger than the logits."""
    for seed in range(tries):
        rng = np.random.default_rng(seed)
        n, size, move = int(rng.integers(1, 9)), 10.0 ** rng.uniform(-3, 3), 10.0 ** rng.uniform(-9, 2.5)
        lo = rng.normal(size=n) * size
        hi = lo + np.abs(rng.normal(size=n)) * size * rng.choice([0.0, 1e-6, 0.1], n)
        dlo = rng.normal(size=n) * move
        dhi = dlo + np.abs(rng.normal(size=n)) * move * rng.choice([0.0, 0.3], n)
        part = lambda: np.round(rng.random((80, n)) * rng.choice([1.0, 4.0])) / 4.0 % 1.25  # noqa: B023, E731
        x = np.clip(lo + (hi - lo) * part(), lo, hi).astype(LONG)
        d = np.clip(dlo + (dhi - dlo) * part(), dlo, dhi).astype(LONG)
        box = Interval(lo, hi)
        y, change = log_softmax(x), log_softmax(x + d) - log_softmax(x)
        own = 2.0**-58 * (np.abs(x).max() + np.abs(d).max())
        image = squashing._log_softmax(box, n)
        if ((y + own < image.lo) | (y - own > image.hi)).any():
            return "image"
        gap = squashing._log_softmax_gap(squashing._softmax(box, 1.0, n), Interval(dlo, dhi), n)
        if ((change + own < gap.lo) | (change - own > gap.hi)).any():
            return "gap"
    return None


def test_values_and_changes() -> None:
    assert bounds_fail() is None


def test_changes_of_a_probability_next_to_0_are_not_lost() -> None:
    """1 - p is rounded: the logarithm of what is left must not see it."""
    for p in (1e-300, 1e-20, 1e-13):
        x = np.array([[0.0, -np.log(p)]])
        d = np.array([0.0, -60.0])
        low = Interval(x[0], x[0])
        gap = squashing._log_softmax_gap(squashing._softmax(low, 1.0, 2), Interval(d, d), 2)
        true = (log_softmax(x.astype(LONG) + d) - log_softmax(x.astype(LONG)))[0]
        assert (gap.lo <= true).all() and (true <= gap.hi).all()
        assert gap.hi[0] - gap.lo[0] < 1e-6 and abs(gap.hi[0] - true[0]) < 1e-6  # p itself is known to 2**-40 only


def in_float(quantized: bool) -> bytes:
    b = Builder()
    x = at = b.tensor((1, 5))
    if quantized:
        at, q = b.tensor((1, 5)), b.tensor((1, 5), "int8", scale=0.05)
        b.op("QUANTIZE", [x], [q], version=2)
        b.op("DEQUANTIZE", [q], [at], version=2)
    y = b.tensor((1, 5))
    b.op("LOG_SOFTMAX", [at], [y])
    return b.build([x], [y])


def test_in_float_inside_a_quantized_model() -> None:
    twins, rng, seen = load(in_float(False), in_float(True)), np.random.default_rng(0), Seen()
    codec = codec_of(twins.pair)
    for k in range(9):
        floats = "real" if k % 2 else "float32"
        task = task_of(twins.pair, grid_cell(twins.pair, codec, rng), codec, DEPLOYED[k % 3], floats)  # type: ignore[arg-type]
        check(task, samples(task, rng, 60), Settings(), seen, twins.float)
    assert not seen.violations


def test_logits_are_what_comes_before() -> None:
    pair = one_operator("LOG_SOFTMAX", 3).pair
    assert pair.logits == pair.steps[-1].inputs[0] and pair.output == pair.steps[-1].output


@pytest.mark.parametrize("n", [2, 3, 700, 4095])
def test_long_and_short_rows(n: int) -> None:
    """Sums next to the kernels' limit, and ties of the largest entry."""
    b = Builder()
    x, y = b.tensor((1, n), "int8", scale=0.07, zero_point=3), b.tensor((1, n), "int8", scale=1 / 16, zero_point=127)
    b.op("LOG_SOFTMAX", [x], [y], version=2)
    model, rng = b.build([x], [y]), np.random.default_rng(n)
    data = np.concatenate([np.full((1, 1, n), 100), rng.integers(-128, 128, (6, 1, n))]).astype(np.int8)
    graph = read(model)
    for runtime in DEPLOYED:
        theirs, _ = interpret(model, data, runtime)
        np.testing.assert_array_equal(run_int(graph, data, runtime)[graph.outputs[0]], theirs)


def _no_others(m: Patch) -> None:
    m.setattr(squashing, "_others", lambda x, reduce: np.zeros_like(x))


def _cancelling(m: Patch) -> None:
    real = squashing._log_softmax_gap
    m.setattr(squashing, "_log_softmax_gap", lambda p, d, width: real(Interval(p.hi, p.hi), d, width))


def _no_clamp(m: Patch) -> None:
    m.setattr(squashing, "down", lambda x: x * 0.999)


def _hunt() -> str | None:
    for seed in range(20):
        twins, rng, seen = one_operator("LOG_SOFTMAX", seed), np.random.default_rng(seed), Seen()
        codec = codec_of(twins.pair)
        task = task_of(twins.pair, grid_cell(twins.pair, codec, rng), codec, Runtime.BUILTIN, "real")
        try:
            check(task, samples(task, rng, 60), Settings(), seen)
        except Exception as e:  # an empty interval is a contradiction that was found
            return str(e)
        if seen.violations:
            return seen.violations[0]
    return None


MUTANTS = (
    ("the others do not move", _no_others, bounds_fail),
    ("only the largest probability counts", _cancelling, bounds_fail),
    ("bounds are rounded inwards", _no_clamp, _hunt),
)


@pytest.mark.parametrize("name,mutate,found", MUTANTS, ids=[m[0] for m in MUTANTS])
def test_mutants_are_caught(name: str, mutate: Callable, found: Callable, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    assert found() is not None, name
