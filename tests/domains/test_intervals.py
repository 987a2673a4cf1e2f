"""Intervals, gaps, outward rounding: against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from qebgate.domains.gap import Gap, Interval, tighten
from qebgate.domains.layers import CodeGrid
from qebgate.errors import InternalError
from qebgate.numerics.rounding import SAFETY, TINY64, down, gamma, passes, up, widen


def sizes(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(size=n) * 10.0 ** rng.uniform(-20, 20, n)


def ordered(rng: np.random.Generator, n: int) -> Interval:
    a, b = sizes(rng, n), sizes(rng, n)
    b = np.where(rng.random(n) < 0.3, a, b)
    return Interval(np.minimum(a, b), np.maximum(a, b))


@pytest.mark.parametrize("seed", range(5))
def test_arithmetic_is_outward(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = ordered(rng, 60), ordered(rng, 60)
    for got, lo, hi in (
        (x.plus(y), lambda k: Fraction(x.lo[k]) + Fraction(y.lo[k]), lambda k: Fraction(x.hi[k]) + Fraction(y.hi[k])),
        (x.minus(y), lambda k: Fraction(x.lo[k]) - Fraction(y.hi[k]), lambda k: Fraction(x.hi[k]) - Fraction(y.lo[k])),
    ):
        assert all(Fraction(got.lo[k]) <= lo(k) and hi(k) <= Fraction(got.hi[k]) for k in range(60))
    e = np.abs(sizes(rng, 60))
    w = x.widened(e, 2 * e)
    assert all(
        Fraction(w.lo[k]) <= Fraction(x.lo[k]) - Fraction(e[k])
        and Fraction(x.hi[k]) + Fraction(2 * e[k]) <= Fraction(w.hi[k])
        for k in range(60)
    )
    lo, hi = widen(x.lo, x.hi, e)
    assert all(
        Fraction(lo[k]) <= Fraction(x.lo[k]) - Fraction(e[k]) and Fraction(x.hi[k]) + Fraction(e[k]) <= Fraction(hi[k])
        for k in range(60)
    )


def test_equal_values_differ_by_nothing() -> None:
    x = Interval.point(np.array([0.1, -7.0, 0.0]))
    d = x.minus(x)
    assert (d.lo == 0).all()
    assert (d.hi == 0).all()


@pytest.mark.parametrize("bad", [(1.0, 0.0), (np.nan, 1.0), (0.0, np.nan)])
def test_empty_intervals_and_nan_are_internal_errors(bad: tuple[float, float]) -> None:
    with pytest.raises(InternalError):
        Interval(np.array([bad[0]]), np.array([bad[1]]))


def test_meet_of_disjoint_intervals_is_an_internal_error() -> None:
    with pytest.raises(InternalError):
        Interval(np.zeros(1), np.ones(1)).meet(Interval(np.full(1, 2.0), np.full(1, 3.0)))


@pytest.mark.parametrize("seed", range(20))
def test_tightening_keeps_every_concrete_triple(seed: int) -> None:
    """For random true points (h, hq, hq - h) inside three intervals, tightening loses none."""
    rng = np.random.default_rng(seed)
    n = 40
    h = sizes(rng, n)
    q = h + rng.normal(size=n) * np.abs(h) * rng.choice([0.0, 1e-17, 1e-3, 1.0], n)
    # intervals around the truth, often with the truth at an end
    wide = lambda v: Interval(v - np.abs(v) * rng.choice([0.0, 0.5], n), v + np.abs(v) * rng.choice([0.0, 0.5], n))  # noqa: E731
    exact = [Fraction(float(a)) - Fraction(float(b)) for a, b in zip(q, h, strict=True)]
    d = np.array([float(v) for v in exact])
    di = wide(d)
    di = Interval(down(di.lo), up(di.hi))
    g = Gap(wide(h), wide(q), di).tightened()
    for k in range(n):
        assert Fraction(g.float.lo[k]) <= Fraction(float(h[k])) <= Fraction(g.float.hi[k])
        assert Fraction(g.quantized.lo[k]) <= Fraction(float(q[k])) <= Fraction(g.quantized.hi[k])
        assert Fraction(g.delta.lo[k]) <= exact[k] <= Fraction(g.delta.hi[k])
    f2, q2, d2 = tighten(g.float, g.quantized, g.delta)
    assert (d2.lo >= g.delta.lo).all() and (f2.hi <= g.float.hi).all() and (q2.lo >= g.quantized.lo).all()


@pytest.mark.parametrize("seed", range(10))
def test_the_roundoff_bound_of_a_sum_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 300))
    a, b = sizes(rng, n), sizes(rng, n)
    if seed % 2:  # sums that cancel
        a = np.concatenate([a, -a])
        b = np.concatenate([b, b * (1 + 2.0**-52)])
        n *= 2
    exact = sum((Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0))
    weight = sum((abs(Fraction(x) * Fraction(y)) for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0))
    allowed = Fraction(SAFETY) * Fraction(gamma(n)) * weight + n * Fraction(TINY64)
    for got in (float(a @ b), float(np.sum(a * b)), float(sum((a * b).tolist())), float(np.sum((a * b)[::-1]))):
        assert abs(Fraction(got) - exact) <= allowed


def test_gamma_refuses_sums_that_are_too_long() -> None:
    assert gamma(10) > 10 * 2.0**-53
    with pytest.raises(ValueError, match="too long"):
        gamma(2.0**52)


def test_nan_and_infinity_never_pass() -> None:
    assert passes(1.0, 1.0)
    assert not any(passes(b, m) for b, m in ((np.nan, 1.0), (np.inf, np.inf), (0.0, np.nan), (1.0 + 2**-52, 1.0)))


def test_codes_to_reals_are_exact() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        unit = float(np.float32(10.0 ** rng.uniform(-30, 20)))
        grid = CodeGrid(unit, int(rng.integers(-128, 128)), -128, 127)
        c = np.arange(-128, 128)
        real = grid.real((c, c))
        assert all(Fraction(real.lo[k]) == (int(c[k]) - grid.zero) * Fraction(unit) for k in range(256))
        assert [Fraction(v) for v in grid.range] == [(v - grid.zero) * Fraction(unit) for v in (-128, 127)]
