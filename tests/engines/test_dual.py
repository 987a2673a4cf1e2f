"""Multipliers: any of them give a sound bound, corners decide every supremum, and the search pays."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from qebgate.domains import corners as corners_module
from qebgate.domains.corners import Corners, Points
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.backward import Form
from qebgate.engines.dra.dual import Certified, merged
from qebgate.engines.dra.program import program
from qebgate.numerics.rounding import U64
from qebgate.runtimes.profiles import Runtime
from tests.domains.test_lines import exact, random_neuron
from tests.engines.exact import evaluate, violations
from tests.engines.test_exact import analysis, inputs
from tests.engines.tiny import ENTRIES, tiny


def _above_every_neuron(seeds: range) -> tuple[int, str | None]:
    """Suprema against exact values of random neurons, up to the roundoff that :class:`Certified` charges."""
    drawn = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        r = random_neuron(rng)
        for sign, n in ((1, r.neurons), (-1, r.neurons.mirrored())):
            c = Corners.of(n)
            draws = [v for v in (r.draw(rng) for _ in range(10)) if v is not None]
            for _ in range(6):
                h, g, lam, mu = (np.array([[x]]) for x in rng.normal(size=4) * rng.choice([0.0, 1.0, 1e3], 4))
                if rng.random() < 0.5:
                    lam, mu = rng.choice([0.0, 1.0]) * h, rng.choice([0.0, 1.0]) * g
                if c.fixed[0]:
                    lam, mu = 0 * lam, 0 * mu
                best = exact(c.best((h, g), (lam, mu)).value[0, 0])
                slack = 136 * exact(U64) * sum(abs(exact(x[0, 0])) for x in (h, g, lam, mu)) * exact(c.size[0])
                for v in draws:
                    drawn += 1
                    at = [sign * x for x in (v.h, v.hq, v.z, v.zq)]
                    real = [exact(x[0, 0]) for x in (h, g, -lam, -mu)]
                    if sum((a * x for a, x in zip(real, at, strict=True)), Fraction(0)) > best + slack:
                        return drawn, f"{seed}: {at}"
    return drawn, None


@pytest.mark.parametrize("part", range(6))
def test_corners_decide_every_supremum(part: int) -> None:
    drawn, wrong = _above_every_neuron(range(80 * part, 80 * part + 80))
    assert wrong is None
    assert drawn > 4000


def _no_first_step(m: pytest.MonkeyPatch) -> None:
    real = corners_module._Steps.value
    m.setattr(corners_module._Steps, "value", lambda s, q: np.where(q < s.first + 0.1 * s.above, s.low, real(s, q)))


def _no_rounding(m: pytest.MonkeyPatch) -> None:
    real = corners_module._Steps.value
    m.setattr(corners_module._Steps, "value", lambda s, q: np.maximum(real(s, q) - 0.9 * s.above, s.low))


def _corners_dropped(m: pytest.MonkeyPatch) -> None:
    real = corners_module._distinct
    keep = slice(None, None, 2)

    def some(points: Points, columns: np.ndarray) -> Points:
        p = points
        half = Points(p.columns, p.z[keep], p.q[keep], p.h[keep], p.above[keep], p.below[keep])
        return real(half, columns)

    m.setattr(corners_module, "_distinct", some)


def _wrong_side(m: pytest.MonkeyPatch) -> None:
    real = Points.take

    def swapped(self: Points, *a: np.ndarray) -> Points:
        p = real(self, *a)
        return Points(p.columns, p.z, p.q, p.h, p.below, p.above)

    m.setattr(Points, "take", swapped)


@pytest.mark.parametrize("mutate", [_no_first_step, _no_rounding, _corners_dropped, _wrong_side])
def test_wrong_corners_are_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    assert _above_every_neuron(range(200))[1] is not None


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("seed", range(16))
def test_any_multipliers_over_any_layer(seed: int, point: bool) -> None:
    """Random multipliers, close to good ones or not: bounded from above, exactly."""
    a, task, rng = analysis(seed, point=point)
    truths = [evaluate(task.pair, c, task) for c in inputs(task, rng, 1 if point else 6)]
    for k, step in enumerate(task.pair.steps):
        n = a.states[step.output].size
        form = Form(d=rng.normal(size=(4, n)) * 10.0 ** rng.uniform(-4, 4, (4, n)))
        dual = a.multipliers()
        at = dual.start({step.output: form})
        for o, (lam, mu) in at.items():
            noise = rng.choice([0.0, 1e-9, 0.1, 3.0], (4, 1))
            at[o] = lam * (1 + noise * rng.normal(size=lam.shape)), mu * (1 + noise * rng.normal(size=mu.shape))
        run = Certified(a.root, 4, dual.corners, at)
        run.live[step.output] = Form(*merged(form))
        bound = a.backward.finish(run)
        for t in (t[k] for t in truths):
            for r in range(4):
                value = sum(
                    (Fraction(form.d[r, j]) * (t.hq[j] - t.h[j]) for j in range(n)),  # type: ignore[index]
                    Fraction(0),
                )
                assert Fraction(float(bound[r])) >= value


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_excluded_by_hidden_multipliers(seed: int, point: bool) -> None:
    a, task, rng = analysis(seed, point=point, settings=Settings(hidden=8))
    for codes in inputs(task, rng, 1 if point else 6):
        assert violations(a, task.pair, evaluate(task.pair, codes, task)) == []


WIDE = sorted(n for n in ENTRIES if n.startswith("dense") and n.endswith("-int8"))


def _wide(name: str) -> tuple[Analysis, int, NDArray[np.intp]]:
    """A small dense network over a large box."""
    t = tiny(name)
    task = t.task(t.cell(np.full(t.side, -40), np.full(t.side, 40)), Runtime.XNNPACK)
    p = program(task)
    return Analysis(p.layers, p.box).run(), p.output, np.asarray(task.outputs, dtype=np.intp)


def test_the_search_lowers_the_bound() -> None:
    better = 0
    for name in WIDE:
        a, output, _ = _wide(name)
        n = a.states[output].size
        forms = {output: Form(d=np.concatenate([np.eye(n), -np.eye(n)]))}
        dual, target = a.multipliers(), {output: merged(forms[output])}
        first, _ = dual.evaluate(target, dual.start(forms))
        found, _ = dual.evaluate(target, dual.search(forms, 60))
        assert (found <= first + 1e-9 * (1 + np.abs(first))).all()
        better += int((found < first - 1e-3 * np.abs(first)).any())
    assert better >= 2


def test_a_search_without_fixed_neurons_is_the_same() -> None:
    """Up to a constant, which the reduced problem leaves out."""
    rng, left_out = np.random.default_rng(0), 0
    for name in WIDE:
        a, output, _ = _wide(name)
        forms = {output: Form(d=np.eye(a.states[output].size))}
        dual = a.multipliers()
        slim, live = dual.reduced()
        at, target = dual.start(forms), {output: merged(forms[output])}
        part = lambda at: {k: tuple(x[:, live[k]] if k in live else x for x in v) for k, v in at.items()}  # noqa: B023, E731
        offsets: list[np.ndarray] = []
        for _ in range(3):
            whole, few = dual.evaluate(target, at)[0], slim.evaluate(part(target), part(at))[0]
            offsets.append(whole - few)
            at = {k: tuple(x * (1 + rng.normal(size=x.shape)) for x in v) for k, v in at.items()}  # type: ignore[misc]
        assert np.allclose(offsets[0], offsets[1:], rtol=0, atol=1e-9)
        left_out += sum(int((~v).sum()) for v in live.values())
    assert left_out > 0


def test_hidden_multipliers_pay() -> None:
    ratios: list[float] = []
    for name in WIDE:
        a, output, index = _wide(name)
        plain = a.gap(output, index)
        one = Analysis(a.layers, a.root, Settings(deep=False)).run().tuned(output, index, plain, -np.inf, 30)
        two = a.tuned(output, index, plain, -np.inf, 30)
        assert (one.lo >= plain.lo).all() and (one.hi <= plain.hi).all()
        assert (two.lo >= plain.lo).all() and (two.hi <= plain.hi).all()
        ratios.append(float(two.width.sum() / one.width.sum()))
    assert min(ratios) < 0.999 and np.mean(ratios) <= 1.0


def test_nothing_to_improve() -> None:
    """The repeated analysis may be enough already: then there is no side left to search."""
    task = tiny("dense_deep-int8").task(tiny("dense_deep-int8").whole, Runtime.REFERENCE)
    p = program(task)
    a = Analysis(p.layers, p.box).run()
    index = np.arange(len(task.outputs))
    gap = a.gap(p.output, index)
    wanted = 2 * float(gap.magnitude.max())
    assert a.improved(p.output, index, gap, wanted, 10) is gap
