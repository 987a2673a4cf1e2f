"""Relaxations of one neuron against its exact meaning, in rational arithmetic; zero tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from qebgate.domains.gap import Interval
from qebgate.domains.lines import Neurons, above, clamp_line, mismatch, staircase_line

F = Fraction
INF = math.inf


def exact(v: float) -> Fraction:
    return F(float(v))


def clamp(v: Fraction, a: float, b: float) -> Fraction:
    if a != -INF and v < exact(a):
        return exact(a)
    if b != INF and v > exact(b):
        return exact(b)
    return v


def between(rng: np.random.Generator, lo: Fraction, hi: Fraction) -> Fraction:
    """An end, the middle, something near an end, or anything."""
    kind = rng.integers(6)
    share = {0: F(0), 1: F(1), 2: F(1, 2), 3: F(1, 1 << 50), 4: 1 - F(1, 1 << 50)}.get(
        int(kind), F(float(rng.random()))
    )
    return lo + (hi - lo) * share


def interval(rng: np.random.Generator, size: float, edges: tuple[float, ...]) -> tuple[float, float]:
    """Zero width, tiny, ending at an edge of the clamps, huge, or ordinary."""
    finite = [e for e in edges if math.isfinite(e)] or [0.0]
    anchor = float(rng.choice(finite)) if rng.random() < 0.5 else float(rng.normal() * size)
    if rng.random() < 0.3:
        anchor = float(np.nextafter(anchor, rng.choice([-INF, INF])))
    w = (
        float(rng.choice([0.0, 0.0, 1e-18, 1e-9, 0.1, 0.5, 1.0, 3.0, 1e6]))
        * size
        * float(rng.choice([1.0, rng.random()]))
    )
    kind = rng.integers(3)
    lo, hi = (anchor, anchor + w) if kind == 0 else (anchor - w, anchor) if kind == 1 else (anchor - w, anchor + w)
    return lo, hi


def box(*pairs: tuple[float, float]) -> list[Interval]:
    return [Interval(np.array([lo]), np.array([hi])) for lo, hi in pairs]


@pytest.mark.parametrize("seed", range(300))
def test_clamp_line_is_above(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.integers(-12, 8)
    a, b = sorted(rng.choice([-INF, -size, 0.0, size / 3, 6.0, INF], 2, replace=False))
    lo, hi = interval(rng, size, (a, b))
    line = clamp_line(*box((lo, hi)), a, b)
    s, c = exact(line.slope[0]), exact(line.intercept[0])
    points = [exact(lo), exact(hi), *(exact(e) for e in (a, b) if lo <= e <= hi)]
    points += [between(rng, exact(lo), exact(hi)) for _ in range(20)]
    assert all(s * x + c >= clamp(x, a, b) for x in points)


@pytest.mark.parametrize("seed", range(400))
def test_staircase_line_is_above(seed: int) -> None:
    """Every step's both ends, exactly: ``unit * min(k.hi, max(k.lo, floor(x / unit + above)))``."""
    rng = np.random.default_rng(seed)
    unit = float(2.0 ** rng.integers(-20, 6)) if rng.random() < 0.4 else float(np.float32(10.0 ** rng.uniform(-9, 3)))
    dev = float(rng.choice([0.5, 0.5, 0.5 + 2.0**-4, 0.5 + 2.0**-13, 1.0, 0.0, 0.75 * rng.random()]))
    lo_code = int(rng.integers(-255, 250))
    lo = float((lo_code + rng.choice([0.0, 0.5, -0.5, rng.random()])) * unit)
    hi = lo + float(rng.choice([0.0, 1e-12, 0.4, 1.0, 2.0, 7.3, 100.0, 600.0])) * unit
    if rng.random() < 0.3:
        lo = min(hi, float(np.nextafter(lo, rng.choice([-INF, INF]))))
    k_lo = int(np.clip(math.floor(lo / unit + dev) - rng.integers(-1, 4), -255, 255))
    k_hi = int(np.clip(max(k_lo, math.floor(hi / unit + dev) + rng.integers(-2, 4)), k_lo, 255))
    x, k = box((lo, hi), (float(k_lo), float(k_hi)))
    line = staircase_line(x, k, unit, np.array([dev]))
    s, c = exact(line.slope[0]), exact(line.intercept[0])

    def stairs(v: Fraction) -> Fraction:
        return exact(unit) * min(k_hi, max(k_lo, math.floor(v / exact(unit) + exact(dev))))

    points = [exact(lo), exact(hi)]
    for code in range(max(k_lo, -255), k_hi + 1):
        left = (code - exact(dev)) * exact(unit)
        if exact(lo) <= left <= exact(hi):
            points.append(left)
    points += [between(rng, exact(lo), exact(hi)) for _ in range(10)]
    assert s >= 0
    assert all(s * v + c >= stairs(v) for v in points)


@dataclass(frozen=True)
class Concrete:
    """One neuron's exact values: z, zq, and a rounding error that gives a code."""

    z: Fraction
    zq: Fraction
    h: Fraction
    hq: Fraction


@dataclass(frozen=True)
class Random:
    """A neuron: what is known of it, and how to draw concrete values."""

    neurons: Neurons
    grid: bool
    codes: tuple[int, int]

    def draw(self, rng: np.random.Generator) -> Concrete | None:
        n = self.neurons
        z = between(rng, exact(n.z.lo[0]), exact(n.z.hi[0]))
        # D so that zq = z + D is in its own interval
        lo = max(exact(n.d.lo[0]), exact(n.q.lo[0]) - z)
        hi = min(exact(n.d.hi[0]), exact(n.q.hi[0]) - z)
        if lo > hi:
            return None
        zq = z + between(rng, lo, hi)
        below, above_ = exact(n.below[0]), exact(n.above[0])
        if not self.grid:
            hq = clamp(zq + between(rng, -below, above_), n.aq, n.bq)
        else:
            u = exact(n.unit)  # type: ignore[arg-type]
            first, last = math.ceil((zq - below) / u), math.floor((zq + above_) / u)
            if first > last:
                return None
            code = min(self.codes[1], max(self.codes[0], int(rng.integers(first, last + 1))))
            hq = code * u
            assert n.k is not None
            if not n.k.lo[0] <= code <= n.k.hi[0]:
                return None
        return Concrete(z, zq, clamp(z, n.a, n.b), hq)


def random_neuron(rng: np.random.Generator) -> Random:
    unit = float(2.0 ** rng.integers(-12, 4)) if rng.random() < 0.5 else float(np.float32(10.0 ** rng.uniform(-7, 2)))
    grid = bool(rng.random() < 0.7)
    zero = int(rng.choice([-128, 127, 0, *rng.integers(-128, 128, 2)]))
    codes = (-128 - zero, 127 - zero)
    a, b = [(-INF, INF), (0.0, INF), (0.0, 6.0), (-1.0, 1.0)][int(rng.integers(4))]
    if rng.random() < 0.3:
        a, b = a * unit * 40, b * unit * 40  # so that both limits matter
        a = 0.0 if math.isnan(a) else a
    if grid:
        lo, hi = codes
        if math.isfinite(a) and abs(a / unit) < 1e6:
            lo = max(lo, round(a / unit))
        if math.isfinite(b) and abs(b / unit) < 1e6:
            hi = min(hi, round(b / unit))
        codes = (min(lo, hi), hi)
        aq, bq = codes[0] * unit, codes[1] * unit
        dev = float(rng.choice([0.5, 0.5 + 2.0**-5, 1.0 + 2.0**-5]))
        below, above_ = dev * unit, (dev if rng.random() < 0.7 else 0.5 + 2.0**-9) * unit
        below, above_ = float(np.nextafter(below, INF)), float(np.nextafter(above_, INF))
    else:
        aq, bq = (a, b) if rng.random() < 0.6 else (-INF, INF)
        e = float(rng.choice([0.0, 1e-7, 0.3])) * unit
        below, above_ = e, e * float(rng.choice([1.0, 0.0]))
    z = interval(rng, unit * 20, (a, b, aq, bq))
    d = interval(rng, unit * float(rng.choice([0.01, 1.0, 20.0])), (0.0,))
    q = (z[0] + d[0], z[1] + d[1])
    q = (float(np.nextafter(q[0], -INF)), float(np.nextafter(q[1], INF)))
    if rng.random() < 0.4:  # zq is often known better than z + D
        mid = 0.5 * (q[0] + q[1])
        w = 0.5 * (q[1] - q[0]) * float(rng.random())
        q = (mid - w, mid + w)
    k = None
    if grid:
        k_lo = min(codes[1], max(codes[0], math.ceil((exact(q[0]) - exact(below)) / exact(unit))))
        k_hi = min(codes[1], max(codes[0], math.floor((exact(q[1]) + exact(above_)) / exact(unit))))
        if k_hi > k_lo and rng.random() < 0.3:  # and codes better still
            k_lo += int(rng.integers(0, k_hi - k_lo + 1))
        k = Interval(np.array([float(min(k_lo, k_hi))]), np.array([float(max(k_lo, k_hi))]))
    zi, qi, di = box(z, q, d)
    n = Neurons(zi, qi, di, a, b, aq, bq, np.array([below]), np.array([above_]), unit if grid else None, k)
    return Random(n, grid, codes)


@pytest.mark.parametrize("part", range(10))
def test_all_lines_of_a_neuron(part: int) -> None:
    """h, hq and delta, from above and (mirrored) from below, for every kind of neuron."""
    drawn = 0
    for seed in range(120 * part, 120 * part + 120):
        rng = np.random.default_rng(seed)
        r = random_neuron(rng)
        n = r.neurons
        for sign, up in ((1, above(n)), (-1, above(n.mirrored()))):
            h_line, g_line = (tuple(exact(v[0]) for v in (x.slope, x.intercept)) for x in (up.h, up.g))
            d, z, q, c = (exact(v[0]) for v in (up.d.d, up.d.z, up.d.q, up.d.intercept))
            top = exact(up.delta[0])
            for _ in range(25):
                v = r.draw(rng)
                if v is None:
                    continue
                drawn += 1
                assert h_line[0] * sign * v.z + h_line[1] >= sign * v.h, (seed, sign)
                assert g_line[0] * sign * v.zq + g_line[1] >= sign * v.hq, (seed, sign)
                delta = sign * (v.hq - v.h)
                assert d * sign * (v.zq - v.z) + z * sign * v.z + q * sign * v.zq + c >= delta, (seed, sign)
                assert top >= delta, (seed, sign)
    assert drawn > 1500


@pytest.mark.parametrize("part", range(4))
def test_every_gap_candidate_not_only_the_chosen_one(part: int) -> None:
    from qebgate.domains.lines import Line, _gap_candidates

    checked = 0
    for seed in range(90 * part, 90 * part + 90):
        rng = np.random.default_rng(10_000 + seed)
        r = random_neuron(rng)
        for sign, n in ((1, r.neurons), (-1, r.neurons.mirrored())):
            act = above(n)
            m = clamp_line(Interval(-n.z.hi, -n.z.lo), -n.b, -n.a)
            g_hi = n.k.hi * n.unit if n.k is not None and n.unit is not None else np.clip(n.rounded.hi, n.aq, n.bq)
            lines, ends = _gap_candidates(n, act.g, Line(m.slope, -m.intercept), g_hi)
            draws = [v for v in (r.draw(rng) for _ in range(12)) if v is not None]
            for v in draws:
                delta, dd, zz, qq = (sign * x for x in (v.hq - v.h, v.zq - v.z, v.z, v.zq))
                for line in lines:
                    d, z, q, c = (exact(x[0]) for x in (line.d, line.z, line.q, line.intercept))
                    assert d * dd + z * zz + q * qq + c >= delta, seed
                    checked += 1
                assert all(exact(e[0]) >= delta for e in ends), seed
    assert checked > 3000


@pytest.mark.parametrize("seed", range(60))
def test_mismatch_of_two_clamps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = random_neuron(rng).neurons
    lo, hi = interval(rng, 10.0, (n.a, n.b, n.aq, n.bq))
    (x,) = box((lo, hi))
    most = exact(mismatch(x, n)[0])
    points = [exact(lo), exact(hi), *(between(rng, exact(lo), exact(hi)) for _ in range(20))]
    points += [exact(e) for e in (n.a, n.b, n.aq, n.bq) if math.isfinite(e) and lo <= e <= hi]
    assert all(clamp(v, n.aq, n.bq) - clamp(v, n.a, n.b) <= most for v in points)


def test_stable_neurons_are_exact() -> None:
    """Active on both sides: delta is D plus the rounding and nothing else; dead on both sides: 0."""
    u = 0.125
    z, q, d, k = box((1.0, 2.0), (1.05, 2.05), (0.05, 0.05), (8.0, 16.0))
    n = Neurons(z, q, d, 0.0, INF, 0.0, 255 * u, np.array([u / 2]), np.array([u / 2]), u, k)
    up = above(n)
    assert up.delta[0] <= 0.05 + u / 2 + 1e-12
    z, q, d, k = box((-2.0, -1.0), (-2.0, -1.0), (0.0, 0.0), (0.0, 0.0))
    dead = Neurons(z, q, d, 0.0, INF, 0.0, 255 * u, np.array([u / 2]), np.array([u / 2]), u, k)
    assert above(dead).delta[0] == 0.0
    assert -above(dead.mirrored()).delta[0] == 0.0
