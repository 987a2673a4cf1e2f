"""The envelope of the float reference holds for every float32 evaluation, with zero tolerance; mutants are caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.domains.gap import Interval
from qebgate.domains.layers import Affine
from qebgate.engines import concrete, deviation
from qebgate.engines.concrete import Inputs, Session
from qebgate.engines.deviation import Deviation, Link
from qebgate.engines.dra.analysis import Settings
from qebgate.engines.dra.program import program
from qebgate.engines.enumerate import all_codes
from qebgate.engines.float_ranges import FloatExecution
from qebgate.engines.guard import GuardedStop
from qebgate.engines.reference import enclosure, reference_error
from qebgate.ir.align import align
from qebgate.ir.pair import Pair
from qebgate.numerics.rounding import F64, U32
from qebgate.regions.cell import Cell
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.runtimes.replay import Replayer
from qebgate.semantics import float_error as envelope
from qebgate.semantics.execute import run_float
from qebgate.task import Task
from tests.engines.float32 import ORDERS, evaluate, worst
from tests.laws.pairs import codec_of, random_pair, task_of
from tests.semantics.cases import Rng
from tests.semantics.compare import load
from tests.support.tflite_builder import Builder

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits" / "models"
SETTINGS = Settings()


def digits(name: str) -> Pair:
    return align(*(read_tflite(DIGITS / f"{name}_{n}.tflite") for n in ("float", "int8"))).at("logits")


def box(pair: Pair, rng: Rng, free: int, radius: int) -> Task:
    """A few inputs free by a few codes, around a random point."""
    codec, shape = codec_of(pair), pair.quantized.input.shape
    least, most = codec.dtype.code_range
    centre = rng.integers(least, most + 1, shape)
    reach = np.zeros(centre.size, np.int64)
    reach[rng.choice(centre.size, min(free, centre.size), replace=False)] = radius
    lo, hi = (np.clip(centre + s * reach.reshape(shape), least, most).astype(np.int32) for s in (-1, 1))
    real = lambda c: codec.grid(c).astype(np.float64)  # noqa: E731
    return task_of(pair, Cell(real(lo), real(hi), (lo, hi), 0, real(lo)), codec, Runtime.BUILTIN)


def executed(task: Task) -> tuple[np.ndarray, F64, dict[int, Interval]]:
    """All inputs of a region, their float64 outputs and the ranges over them."""
    run = FloatExecution(task.pair)
    x = np.concatenate([Inputs.of_codes(task, c).x for c in all_codes(task.cell, 1 << 12)])
    return x, run.run(x)[:, list(task.outputs)], run.ranges


def pairs() -> list[Callable[[], Pair]]:
    return [*(lambda s=s: random_pair(s).pair for s in range(20)), lambda: digits("mlp"), lambda: digits("cnn")]


@pytest.mark.parametrize("make", pairs())
@pytest.mark.parametrize("free", [0, 2])
def test_every_order_of_summation_is_inside(make: Callable[[], Pair], free: int) -> None:
    pair, rng = make(), np.random.default_rng(free)
    task = box(pair, rng, free, 2)
    x, h, ranges = executed(task)
    np.testing.assert_array_equal(h, run_float(pair.float, x)[pair.float.outputs[0]].reshape(len(x), -1))
    error = reference_error(task, SETTINGS, ranges=ranges)
    assert np.isfinite(error).all()
    for row in rng.choice(len(x), min(len(x), 3), replace=False):
        for order in ORDERS:
            off = np.abs(evaluate(pair.float, x[row], order) - h[row])
            assert (off <= error).all(), f"{order}: {float((off / error).max())} of the bound"


@pytest.mark.parametrize("runtime", DEPLOYED)
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_installed_runtimes_are_inside(name: str, runtime: Runtime) -> None:
    pair, rng = digits(name), np.random.default_rng(3)
    for _ in range(3):
        task = box(pair, rng, 3, 2)
        x, h, ranges = executed(task)
        error = reference_error(task, SETTINGS, ranges=ranges)
        content = Path(pair.float.source.path).read_bytes()
        with Replayer(content, runtime, output=pair.float.outputs[0]) as replayer:
            y = replayer.run(x).reshape(len(x), -1).astype(np.float64)
        assert (np.abs(y - h) <= error).all()
        assert error.max() < 1e-3 * np.abs(h).max()


def test_what_is_known_makes_it_tighter_and_never_looser_than_the_point() -> None:
    pair, rng = digits("cnn"), np.random.default_rng(5)
    task = box(pair, rng, 3, 3)
    _, _, ranges = executed(task)
    known, unknown = reference_error(task, SETTINGS, ranges=ranges), reference_error(task, SETTINGS)
    assert (known <= unknown).all()
    codes = task.cell.codes
    assert codes is not None
    real = task.codec.grid(codes[0]).astype(np.float64)
    point = replace(task, cell=Cell(real, real, (codes[0], codes[0]), 0, real))
    h = enclosure(point, Inputs.of_codes(point, codes[0][None]).x[0], SETTINGS)
    assert (h.width / 2 <= known * (1 + 1e-9)).all()


def test_real_arithmetic_leaves_our_own_roundoff() -> None:
    pair, rng = digits("mlp"), np.random.default_rng(6)
    task = box(pair, rng, 2, 2)
    x, h, ranges = executed(task)
    real = reference_error(replace(task, float_semantics="real"), SETTINGS, ranges=ranges)
    exact = run_float(pair.float, x, dtype=np.longdouble)[pair.float.outputs[0]].reshape(len(x), -1)  # type: ignore[arg-type]
    assert (np.abs(exact - h) <= real + 2.0**-58 * np.abs(exact).max()).all()
    assert real.max() < 1e-8 * reference_error(task, SETTINGS, ranges=ranges).max() * 2


def loud(layer: Affine, factor: float) -> Affine:
    """A layer whose evaluation errors are larger, so that they move neurons over their limits."""
    noise = layer.noise
    return layer if noise is None else replace(layer, noise=lambda x: noise(x) * factor)


def _violation(seed: int, factor: float, free: int) -> tuple[str | None, float]:
    """The worst evaluations of some points of a region against the bounds; and the largest share that was used."""
    rng = np.random.default_rng(seed)
    pair = (digits("mlp"), digits("cnn"))[seed // 4] if seed < 8 else random_pair(seed).pair
    task = box(pair, rng, free, 2)
    x, _, ranges = executed(task)
    p = program(task)
    layers = tuple(loud(layer, factor) if isinstance(layer, Affine) else layer for layer in p.layers)
    error = Deviation(layers, p.box, ranges, 1e12).run().final(p.output, np.asarray(task.outputs))
    used = 0.0
    for row in rng.choice(len(x), min(len(x), 6), replace=False):
        for k in rng.choice(error.size, min(error.size, 3), replace=False):
            for sign in (-1.0, 1.0):
                v = worst(layers, x[row].ravel().astype(np.float64), p.output, task.outputs[k], sign)
                if v is None:
                    return None, used
                off = abs(v[1] - v[0])
                used = max(used, off / error[k] if error[k] else 0.0)
                if off > error[k]:
                    return f"seed {seed}: {off} beyond {error[k]}", used
    return None, used


FACTORS = (1.0, 1e3, 3e4)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("free", [0, 2])
def test_the_worst_evaluations_are_inside(factor: float, free: int) -> None:
    used = []
    for seed in range(24):
        found, share = _violation(seed, factor, free)
        assert found is None, found
        used.append(share)
    assert max(used) > 0.9  # and some come close


def test_what_ends_halfway_for_lack_of_work_holds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if everything beyond two links were too expensive."""
    whole = deviation.prices_of
    cut = 0

    def prices(*given: object) -> F64:
        nonlocal cut
        found = whole(*given)  # type: ignore[arg-type]
        cut += len(found) > 2
        return np.where(np.arange(len(found)) < 2, found, np.inf)

    monkeypatch.setattr(deviation, "prices_of", prices)
    for seed in range(24):
        found, _ = _violation(seed, 3e4, 2)
        assert found is None, found
    assert cut > 5


def test_a_session_does_not_try_again_what_no_effort_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, tried = digits("mlp"), []
    task = box(pair, np.random.default_rng(7), 0, 0)
    assert task.cell.codes is not None
    inputs = Inputs.of_codes(task, task.cell.codes[0][None])

    def stopped(reason: str) -> None:
        def enclosure(*_: object) -> Interval:
            tried.append(reason)
            raise GuardedStop(reason, "not bounded")  # type: ignore[arg-type]

        monkeypatch.setattr(concrete, "enclosure", enclosure)

    with Session() as session:
        for reason, settings in (
            ("guard_time", SETTINGS), ("effort", SETTINGS), ("never", SETTINGS), ("effort", Settings(work=1.0)),
        ):  # fmt: skip
            stopped(reason)
            with pytest.raises(GuardedStop, match="not bounded"):
                session.reference(task, inputs, settings)
        assert tried == ["guard_time", "effort", "effort"]
        with pytest.raises(GuardedStop) as e:
            session.reference(task, inputs, SETTINGS)
        assert e.value.reason == "effort"


def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = FloatExecution.ranges.fget
    assert ranges is not None
    narrower = lambda v: Interval(0.75 * v.lo + 0.25 * v.hi, 0.25 * v.lo + 0.75 * v.hi)  # noqa: E731
    monkeypatch.setattr(FloatExecution, "ranges", property(lambda s: {k: narrower(v) for k, v in ranges(s).items()}))


def _patch_lines(change: Callable[[F64, F64], tuple[F64, F64]]) -> Callable[[pytest.MonkeyPatch], None]:
    original = deviation._lines
    return lambda m: m.setattr(deviation, "_lines", lambda *a: change(*original(*a)))


def _patch_link(change: Callable[[Link], Link]) -> Callable[[pytest.MonkeyPatch], None]:
    original = Deviation._link
    return lambda m: m.setattr(Deviation, "_link", lambda *a: change(original(*a)))


def _deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neurons are taken for stable by the anchor alone."""
    original = deviation._distance
    monkeypatch.setattr(deviation, "_distance", lambda *a: np.where(original(*a) > 0, np.inf, 0.0))


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "open neurons have no rest": _patch_lines(lambda slope, rest: (slope, rest * 0.0)),
    "half of the rest": _patch_lines(lambda slope, rest: (slope, rest * 0.5)),
    "open neurons are dead": _patch_lines(lambda slope, rest: (np.where(rest > 0, 0.0, slope), rest)),
    "noise of one layer in two is lost": _patch_link(lambda link: replace(link, noise=link.noise * (link.output % 2))),
    "an input's deviation is lost": _patch_link(
        lambda link: replace(link, inputs=link.inputs[:-1], maps=link.maps[:-1]) if link.output % 2 else link
    ),
    "stable by the anchor alone": _deaf,
    "ranges too narrow": _narrow,
    "noise a tenth smaller": lambda m: m.setattr(
        Deviation,
        "_link",
        lambda s, layer, slope, noise, size, _o=Deviation._link: _o(s, layer, slope, noise * 0.9, size),
    ),
}


@pytest.mark.parametrize("name", list(MUTANTS))
def test_mutants_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    for factor in reversed(FACTORS):
        for seed in range(24):
            for free in (0, 2):
                try:
                    found, _ = _violation(seed, factor, free)
                except AssertionError:
                    return
                if found:
                    return
    pytest.fail("not caught")


def _bad_sum(n: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and weights whose sum in the given order loses half a unit in the last place in every addition."""
    tail = np.full(n - 2, 2.0**-24)
    w = np.concatenate([[1.0], tail, [-1.0 if kind == "cancelling" else 2.0**-24]])
    return np.ones(n, np.float32), w.astype(np.float32)


@pytest.mark.parametrize("kind", ["growing", "cancelling"])
@pytest.mark.parametrize("live", [40, 200])
def test_sums_that_lose_as_much_as_they_can(kind: str, live: int) -> None:
    """The bound of a sum is nearly reached, whatever number of dead inputs there is beside it."""
    lost = _sum_error(kind, live)
    assert lost[0] <= lost[1]
    assert lost[0] > 0.85 * lost[1]


def _sum_error(kind: str, live: int) -> tuple[float, float]:
    x, w = _bad_sum(live, kind)
    x = np.concatenate([x, np.zeros(300, np.float32)])
    w = np.concatenate([w, np.full(300, 7.0, np.float32)])
    b = Builder()
    source, out = b.tensor((1, x.size)), b.tensor((1, 1))
    b.op("FULLY_CONNECTED", [source, b.tensor((1, x.size), data=w[None]), -1], [out])
    graph = load(b.build([source], [out]))
    point = envelope.Computed(*(x[None].astype(np.float64),) * 2)
    bound = float(envelope.float_error(graph.nodes[0], graph, [point, None, None]).item())
    y = np.cumsum(x * w, dtype=np.float32)[-1]
    return abs(float(y) - float((x.astype(np.float64) * w).sum())), bound


def test_mutants_of_the_sum_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original, added = envelope._linear, envelope._added
    fewer: list[Callable[[pytest.MonkeyPatch], None]] = [
        # additions of half of the summands
        lambda m: m.setattr(envelope, "_linear", lambda n, s, *a: original(
            n, replace(s, count=s.count / 2, operands=None), *a)),
        # the final sum instead of partial ones
        lambda m: m.setattr(envelope, "_linear", lambda n, s, *a: original(
            n, replace(s, operands=(s.count - 1) * np.abs(s.positive - s.negative)), *a)),
        lambda m: m.setattr(envelope, "_added", lambda *a: added(*a) / 2),
        lambda m: m.setattr(envelope, "U32", U32 / 2),
    ]  # fmt: skip
    for change in fewer:
        with monkeypatch.context() as m:
            change(m)
            assert any(lost > bound for lost, bound in (_sum_error(k, 200) for k in ("growing", "cancelling")))
