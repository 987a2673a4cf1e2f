"""Drifts contain every value that the numbers they stand for can have; zero tolerance."""

from __future__ import annotations

import numpy as np
import pytest

from qebgate.domains import drift
from qebgate.domains.drift import Drift, stacked
from qebgate.domains.gap import Interval

LONG = np.longdouble
ROWS, ENTRIES, DRAWS = 2, 3, 200


class Sampled:
    """A drift beside draws of the numbers behind it, in 80 bits: values [D, B, n]."""

    def __init__(self, d: Drift, values: np.ndarray) -> None:
        self.d, self.values = d, values

    def holds(self) -> None:
        r = self.d.range
        assert (self.values >= r.lo).all()
        assert (self.values <= r.hi).all()


def interval(rng: np.random.Generator, shape: tuple[int, ...] = (ROWS, ENTRIES)) -> Interval:
    middle, half = rng.normal(size=shape) * 10.0 ** rng.integers(-8, 3), rng.random(shape) * 10.0 ** rng.integers(-9, 1)
    return Interval(middle - half, middle + half)


def inside(x: Interval, rng: np.random.Generator) -> np.ndarray:
    """Random numbers of an interval, many at its ends."""
    t = rng.choice([0.0, 1.0, 0.5], (DRAWS, *x.lo.shape)) + 0.0
    t = np.where(rng.random(t.shape) < 0.4, rng.random(t.shape), t).astype(LONG)
    return np.clip(x.lo.astype(LONG) + t * (x.hi.astype(LONG) - x.lo), x.lo, x.hi)


def fresh(rng: np.random.Generator) -> Sampled:
    x = interval(rng)
    return Sampled(Drift.of(x), inside(x, rng))


def step(a: Sampled, b: Sampled, rng: np.random.Generator) -> Sampled:
    kind = rng.integers(7)
    if kind == 0:
        w = rng.normal(size=(ENTRIES, ENTRIES))
        return Sampled(a.d.through(w), a.values @ w.T.astype(LONG))
    if kind == 1:
        s = rng.normal(size=(ROWS, ENTRIES))
        return Sampled(a.d.scaled(s), a.values * s.astype(LONG))
    if kind == 2:
        return Sampled(a.d.plus(b.d), a.values + b.values)
    if kind == 3:
        x = interval(rng)
        return Sampled(a.d.moved(x), a.values + inside(x, rng))
    if kind == 4:
        e = rng.random((ROWS, ENTRIES))
        return Sampled(a.d.widened(e), a.values + (2 * rng.random(a.values.shape) - 1) * e.astype(LONG))
    if kind == 5:
        width = max(a.d.generators.shape[2], b.d.generators.shape[2])
        return Sampled(a.d.named(width), a.values)
    low, top = a.values.min(axis=0).astype(np.float64), a.values.max(axis=0).astype(np.float64)
    return Sampled(a.d.within(Interval(np.nextafter(low, -np.inf), np.nextafter(top, np.inf))), a.values)


@pytest.mark.parametrize("seed", range(20))
def test_operations_contain_what_they_do_to_numbers(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "MOST", 12)
    rng = np.random.default_rng(seed)
    known = [fresh(rng), fresh(rng)]
    for _ in range(12):
        i, j = rng.integers(len(known), size=2)
        known.append(step(known[i], known[j], rng))
        known[-1].holds()
        joint = stacked([known[-1].d, known[i].d]).fewer()
        assert joint.generators.shape[2] <= 2 * 12
        Sampled(joint, np.concatenate([known[-1].values, known[i].values], axis=2)).holds()


def test_what_has_one_source_cancels() -> None:
    """The same numbers taken away from themselves leave roundoff, unless their source was forgotten."""
    x = Drift.of(Interval(np.full((1, 2), -1.0), np.full((1, 2), 1.0)))
    named, minus = x.named(0), np.full((1, 2), -1.0)
    assert named.plus(named.scaled(minus)).radius.max() < 1e-12
    assert x.plus(x.scaled(minus)).radius.min() >= 2.0
