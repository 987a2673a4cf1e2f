"""What the checker derives contains what really happens, whatever the hints are; zero tolerance."""

from __future__ import annotations

import numpy as np
import pytest

from qebgate.certify.check import bounds
from qebgate.certify.errors import EvidenceError
from qebgate.domains.gap import Interval
from qebgate.engines.concrete import Session
from qebgate.engines.dra.engine import Dra
from qebgate.semantics.execute import run_float, run_int
from qebgate.task import Budget
from tests.certify.ask import engine_hints, garbage, question_of, walked
from tests.engines.tiny import ENTRIES, RUNTIMES, VARIANTS, outside, tiny
from tests.laws.contain import LONG, OWN_ERROR, Seen, samples
from tests.laws.pairs import codec_of, grid_cell, random_pair, real_cell, task_of

EXACT = 2.0**-55
KNOWN = sorted(n for n in ENTRIES if not n.startswith(("logistic", "max_pool", "softmax", "tanh")))


def rare(name: str) -> bool:
    return name in VARIANTS or (name.endswith("per_tensor") and name != "dense_4-per_tensor")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if rare(n) else n for n in KNOWN])
def test_the_truth_of_tiny_models(name: str) -> None:
    """Every input of random boxes, in every runtime, with an engine's hints and with garbage."""
    t, rng, compared = tiny(name), np.random.default_rng(sum(name.encode())), 0
    for k, runtime in enumerate(RUNTIMES):
        q = t.quantized(runtime)
        for floats, h, error in (("float32", t.float32, 0.0), ("real", t.real, EXACT)):
            cell = t.box(rng)
            task = t.task(cell, runtime, floats, 0.01 if k else 10.0)
            try:
                question = question_of(task)
                hints = [engine_hints(task), garbage(question, rng), garbage(question, rng)]
            except EvidenceError as e:
                pytest.skip(e.message)
            for given in hints:
                lower, upper = bounds(question, given)
                rows = t.rows(cell)
                assert outside(lower, upper, q[rows] - h[rows], error) == 0
                compared += len(rows)
    assert compared >= 18


@pytest.mark.parametrize("name", ["dense_8_8-int8", "dense_deep-int8", "residual_relu-int8", "conv-int8"])
def test_with_an_engines_hints_it_is_about_as_tight(name: str) -> None:
    t, rng = tiny(name), np.random.default_rng(7)
    with Session() as session:
        for runtime in RUNTIMES:
            task = t.task(t.box(rng), runtime, "float32", 10.0)
            (bound,) = Dra().run(task, [], Budget(), session)
            lower, upper = bounds(question_of(task), engine_hints(task))
            slack = 1e-5 * np.maximum(np.abs(bound.lower), np.abs(bound.upper)) + 1e-12
            assert (lower >= bound.lower - slack).all()
            assert (upper <= bound.upper + slack).all()


@pytest.mark.parametrize("part", range(6))
def test_every_value_of_random_networks(part: int) -> None:
    """All intermediate values and codes, on the grid and over reals, and the final bounds."""
    seen, refused = Seen(), 0
    for seed in range(6 * part, 6 * part + 6):
        twins = random_pair(seed)
        for k, runtime in enumerate(RUNTIMES):
            rng = np.random.default_rng(100 * seed + k)
            codec = codec_of(twins.pair, rng)
            pair = twins.pair.at("logits")
            if not pair.steps:
                continue
            cell = (grid_cell if rng.random() < 0.6 else real_cell)(pair, codec, rng)
            task = task_of(pair, cell, codec, runtime, "real" if rng.random() < 0.4 else "float32")
            question = question_of(task)
            try:
                hints = engine_hints(task) if k % 2 else garbage(question, rng)
                w = walked(question, hints)
                lower, upper = bounds(question, hints)
            except EvidenceError as e:
                assert e.code == "QEB486", e
                refused += 1
                continue
            _compare(task, samples(task, rng, 60), w, Interval(lower, upper), seen)
    assert not seen.violations, seen.violations[:5]
    assert refused < 15
    assert seen.values > 5000


def _compare(task, inputs, w, final: Interval, seen: Seen) -> None:
    pair = task.pair
    given = inputs.x if inputs.codes is None else inputs.codes
    q = run_int(pair.quantized, given, task.runtime, keep={v.quantized_tensor for v in pair.values})
    keep = {v.float_tensor for v in pair.values}
    real = task.float_semantics == "real"
    f = run_float(pair.float, inputs.x, dtype=LONG if real else np.float32, keep=keep)  # type: ignore[arg-type]
    error = OWN_ERROR * max(float(np.abs(v).max(initial=0.0)) for v in f.values()) if real else 0.0
    f[pair.float.inputs[0]], q[pair.quantized.inputs[0]] = inputs.x, given
    for k, s in w.values.items():
        if k < 0:
            continue
        v = pair.values[k]
        t = pair.quantized.tensors[v.quantized_tensor]
        c = q[v.quantized_tensor].reshape(len(given), -1)
        g = (c.astype(np.float64) - t.q.z) * t.q.s if t.dtype.is_code else c.astype(np.float64)
        h = f[v.float_tensor].reshape(len(given), -1).astype(LONG)
        where = f"{task.runtime.value} value {k}"
        if t.dtype.is_code and s.codes is not None:
            seen.check(f"{where} code", Interval(*(x.astype(np.float64) for x in s.codes)), c)
        seen.check(f"{where} float", Interval(*s.h), h, error)
        seen.check(f"{where} quantized", Interval(*s.g), g)
        seen.check(f"{where} delta", Interval(*s.d), g.astype(LONG) - h, error)
        if k == w.program.output:
            seen.check(f"{where} gap", final, g.astype(LONG) - h, error)
