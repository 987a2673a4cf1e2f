"""Law 2 and 3: every abstract value contains what really happens, for every operator and runtime; zero tolerance."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from qebgate.engines.dra.analysis import Settings
from qebgate.engines.dra.backward import Form
from qebgate.engines.dra.relaxation import ALL, Relaxation
from qebgate.errors import UnsupportedError
from qebgate.numerics.rounding import down, up
from qebgate.ops.registry import LOWERINGS
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from tests.laws.contain import Seen, analysed, check, samples
from tests.laws.pairs import Twins, codec_of, grid_cell, one_operator, random_pair, real_cell, task_of
from tests.semantics.compare import ABSENT

RUNTIMES = DEPLOYED
PARTS = tuple(replace(ALL, **{f.name: False}) for f in fields(Relaxation))
"""Each part of the relaxation left out, and all of them."""
PARTS += (Relaxation(**{f.name: False for f in fields(Relaxation)}),)
SETTINGS = (
    Settings(),
    Settings(refine=False),
    Settings(work=3e3),
    Settings(work=3e4),
    Settings(chunk=1 << 10),
    Settings(crops=False),
    *(Settings(parts=p) for p in PARTS),
)


def random_task(twins: Twins, seed: int, runtime: Runtime, floats: str | None = None, grid: bool | None = None):
    rng = np.random.default_rng(seed)
    codec = codec_of(twins.pair, rng)
    on_grid = rng.random() < 0.6 if grid is None else grid
    cell = (grid_cell if on_grid else real_cell)(twins.pair, codec, rng)
    floats = floats or ("real" if rng.random() < 0.4 else "float32")
    return task_of(twins.pair, cell, codec, runtime, floats), rng


TURNS = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
"""Every turn sees every operator and every runtime; together they see every network in every runtime."""


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("op", sorted(LOWERINGS))
def test_one_operator(op: str, turn: int) -> None:
    seen = Seen()
    for seed in range(4):
        twins = one_operator(op, seed)
        assert op in {s.op for s in twins.pair.steps}
        for k, runtime in enumerate(RUNTIMES):
            if (op, runtime) in ABSENT or (seed + turn) % len(RUNTIMES) != k:
                continue
            task, rng = random_task(twins, 10 * seed + k, runtime)
            check(task, samples(task, rng, 40), SETTINGS[(3 * seed + k) % len(SETTINGS)], seen, twins.float)
    assert not seen.violations, seen.violations[:5]
    assert seen.values > 500


@pytest.mark.parametrize("part", range(4))
def test_small_networks(part: int) -> None:
    seen = Seen()
    for seed in range(4 * part, 4 * part + 4):
        twins = random_pair(seed)
        for k, runtime in enumerate(RUNTIMES):
            task, rng = random_task(twins, 1000 + 10 * seed + k, runtime)
            check(task, samples(task, rng, 100), Settings(), seen, twins.float)
    assert not seen.violations, seen.violations[:5]
    assert seen.values > 10_000


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_switch_is_sound(settings: Settings) -> None:
    seen = Seen()
    for seed in (2, 7, 11, 14):
        for floats in ("float32", "real"):
            task, rng = random_task(random_pair(seed), seed, RUNTIMES[seed % 3], floats)
            check(task, samples(task, rng, 60), settings, seen)
    assert not seen.violations, seen.violations[:5]


def test_refining_and_more_work_never_loosen_the_bounds_of_a_layer() -> None:
    """Refined pre-activations are intersections, so every output interval is inside the plain one."""
    for seed in range(6):
        task, _ = random_task(random_pair(seed), seed, RUNTIMES[seed % 3], "real")
        plain, fine = analysed(task, Settings(refine=False)), analysed(task, Settings())
        for k, s in plain.pre.items():
            slack = 1e-9 * s.q.magnitude  # the rounding of the bounds themselves
            assert (fine.pre[k].q.lo >= s.q.lo - slack).all() and (fine.pre[k].q.hi <= s.q.hi + slack).all()


@pytest.mark.parametrize("seed", range(8))
def test_the_gap_is_never_looser_than_two_separate_bounds(seed: int) -> None:
    task, _ = random_task(random_pair(seed), seed, RUNTIMES[seed % 3])
    a = analysed(task, Settings())
    for s in a.states.values():
        apart = s.quantized.minus(s.float)
        slack = 4 * np.spacing(s.float.magnitude + s.quantized.magnitude)
        assert (s.delta.lo >= apart.lo - slack).all() and (s.delta.hi <= apart.hi + slack).all()
    out = task.pair.output if task.pair.output in a.states else max(k for k in a.states if k < len(task.pair.values))
    top = np.arange(a.states[out].size)
    gap, h = a.gap(out, top), a.float_value(out, top)
    q = a._final(out, top, a.states[out].quantized, lambda one: Form(g=one))
    apart = q.minus(h)
    slack = 1e-9 * (1e-30 + h.magnitude + q.magnitude)
    assert (gap.lo >= apart.lo - slack).all() and (gap.hi <= apart.hi + slack).all()


def test_a_point_on_the_grid_has_exact_codes_and_a_tight_gap() -> None:
    """Near a point everything is decided by the runtime's own arithmetic, not by free rounding noise."""
    decided = 0
    for seed in range(12):
        twins = random_pair(seed)
        rng = np.random.default_rng(seed)
        codec = codec_of(twins.pair)
        cell = grid_cell(twins.pair, codec, rng)
        assert cell.codes is not None
        point = replace(cell, upper=cell.lower, codes=(cell.codes[0], cell.codes[0]))
        if twins.pair.quantized.input.dtype.is_code:
            a = analysed(task_of(twins.pair, point, codec, RUNTIMES[seed % 3]), Settings())
            codes = [s.codes for s in a.states.values() if s.codes is not None]
            decided += sum(bool((lo == hi).all()) for lo, hi in codes)
            assert all((lo == hi).all() for lo, hi in codes)
    assert decided > 20


def test_the_reference_of_an_overflowing_model_is_refused() -> None:
    from tests.laws.pairs import float_twin, load
    from tests.support.tflite_builder import Builder

    rng, b = np.random.default_rng(0), Builder()
    x = b.tensor((1, 4), "int8", scale=1e5)
    w = b.tensor((4, 4), "int8", data=np.full((4, 4), 127), scale=1e30)
    y = b.tensor((1, 4), "int8", scale=1e36)
    b.op("FULLY_CONNECTED", [x, w, -1], [y], version=4)
    model = b.build([x], [y])
    twins = load(float_twin(model, rng), model)
    codec = codec_of(twins.pair)
    cell = grid_cell(twins.pair, codec, rng)
    with pytest.raises(UnsupportedError, match="overflow"):
        analysed(task_of(twins.pair, cell, codec, Runtime.BUILTIN), Settings())
    # in real arithmetic nothing overflows
    task = task_of(twins.pair, cell, codec, Runtime.BUILTIN, "real")
    seen = Seen()
    check(task, samples(task, rng, 50), Settings(), seen)
    assert not seen.violations


def test_outward_rounding_is_not_idle() -> None:
    """The checks can see a unit in the last place: bounds moved inwards by 4 ulp at a point are caught."""
    caught = 0
    for seed in range(10):
        twins = random_pair(seed)
        rng = np.random.default_rng(seed)
        codec = codec_of(twins.pair)
        task = task_of(twins.pair, grid_cell(twins.pair, codec, rng), codec, Runtime.REFERENCE, "real")
        inputs = samples(task, rng, 20)
        seen = Seen()
        check(task, inputs, Settings(), seen)
        assert not seen.violations
        a = analysed(task, Settings())
        s = a.states[0]
        h = inputs.x.reshape(len(inputs), -1).astype(np.longdouble)
        own = Seen()
        from qebgate.domains.gap import Interval

        fits = Interval(np.asarray(h.min(0), np.float64), np.asarray(h.max(0), np.float64))
        own.check("exact", fits, h)
        assert not own.violations
        own.check("moved", Interval(np.minimum(up(fits.lo), fits.hi), fits.hi), h)
        own.check("moved", Interval(fits.lo, np.maximum(down(fits.hi), fits.lo)), h)
        caught += bool(own.violations)
        assert (s.float.lo <= fits.lo).all()
    assert caught >= 5


def test_the_pair_that_ends_at_the_logits() -> None:
    """Cut before the final softmax or sigmoid: the same values, and final bounds of the logits."""
    seen, cut = Seen(), 0
    for seed in range(40):
        pair = random_pair(seed).pair
        logits = pair.at("logits")
        if logits.output == pair.output:
            continue
        cut += 1
        rng = np.random.default_rng(seed)
        codec = codec_of(pair, rng)
        for runtime in RUNTIMES:
            task = task_of(logits, grid_cell(pair, codec, rng), codec, runtime, "float32" if seed % 2 else "real")
            a = check(task, samples(task, rng, 40), Settings(), seen)
            assert max(k for k in a.states if k < len(pair.values)) <= logits.output
    assert not seen.violations, seen.violations[:5]
    assert cut > 10
