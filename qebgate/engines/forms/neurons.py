"""Forms through one layer of neurons: clamp, rounding to codes, and their gap.

Each function of a pre-activation is replaced by ``slope * x + o`` with o in an interval that holds for
every x of its bounds: the extremes of ``f(x) - slope * x`` are at the ends and at the clamp's corners,
whatever the slope.  Arrays are ``[B, m]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import I64, Gap, Interval, tighten
from qebgate.domains.lines import Neurons, mismatch
from qebgate.engines.forms.form import Form, Values, choose, constant
from qebgate.numerics.rounding import F64, TINY64, U64, down, up

FLAT = 0.7
"""A form is given up for its interval where that is narrower than this share of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Clamps:
    """What a layer does after its sums: float clamp ``[a, b]``, quantized ``[aq, bq]``, rounding envelope [m]."""

    a: float
    b: float
    aq: float
    bq: float
    below: F64
    above: F64


@dataclass(frozen=True, slots=True, eq=False)
class Pre:
    """Forms and bounds of z, zq and D before the rounding, and the quantized output's interval and codes."""

    forms: tuple[Form, Form, Form]
    z: Interval
    q: Interval
    d: Interval
    out: Interval
    codes: tuple[I64, I64] | None


@dataclass(frozen=True, slots=True, eq=False)
class Chord:
    """``f(x)`` in ``slope * x + offset``."""

    slope: F64
    offset: Interval

    @property
    def half(self) -> F64:
        return 0.5 * self.offset.width


def _extremes(tops: Sequence[tuple[F64, F64]], bottoms: Sequence[tuple[F64, F64]], slope: F64) -> Interval:
    """Interval of ``y - slope * x``: its top over some points, its bottom over others."""

    def ends(points: Sequence[tuple[F64, F64]]) -> tuple[F64, F64]:
        v = np.stack([y - slope * x for x, y in points])
        return v, np.stack([4 * U64 * (np.abs(y) + np.abs(slope * x)) for x, y in points])

    (t, te), (b, be) = ends(tops), ends(bottoms)
    return Interval(down((b - be).min(axis=0)), up((t + te).max(axis=0)))


def _slope(dy: F64, dx: F64) -> F64:
    ok = dx > 0
    with np.errstate(over="ignore", invalid="ignore"):
        s = np.where(ok, dy, 0.0) / np.where(ok, dx, 1.0)
    return np.clip(np.where(np.isfinite(s), s, 0.0), 0.0, 1.0)


def float_chords(z: Interval, a: float, b: float) -> tuple[Chord, Chord]:
    """``clamp(z, a, b)``: the chord, and slope 1."""
    points = [(x, np.clip(x, a, b)) for x in (z.lo, z.hi, *(np.clip(v, z.lo, z.hi) for v in (a, b) if np.isfinite(v)))]
    chord = _slope(np.clip(z.hi, a, b) - np.clip(z.lo, a, b), z.width)
    inside = (z.lo >= a) & (z.hi <= b)
    chord = np.where(inside, 1.0, chord)
    flat = (z.hi <= a) | (z.lo >= b)
    chord = np.where(flat, 0.0, chord)

    def of(slope: F64) -> Chord:
        e = _extremes(points, points, slope)
        exact = inside & (slope == 1.0)
        lo, hi = np.where(exact, 0.0, e.lo), np.where(exact, 0.0, e.hi)
        level = np.where(z.hi <= a, a, b)
        still = flat & (slope == 0.0)
        return Chord(slope, Interval(np.where(still, level, lo), np.where(still, level, hi)))

    return of(chord), of(np.ones_like(chord))


def code_chords(q: Interval, out: Interval, n: Clamps) -> tuple[Chord, Chord]:
    """The rounded and clamped zq, whose values lie in ``out``: the chord, and slope 1.

    It lies between ``clamp(zq - below)`` and ``clamp(zq + above)``, each clamped to ``out``.
    """

    def points(shift: F64, sign: float) -> list[tuple[F64, F64]]:
        move = up if sign > 0 else down
        edges = [np.clip(v - sign * shift, q.lo, q.hi) for v in (out.lo, out.hi)]
        # an edge is where the shifted value meets the clamp; one that rounds to a side of it loses an ulp of height
        slack = 4 * U64 * (q.magnitude + shift)
        return [(x, np.clip(move(x + sign * (shift + slack)), out.lo, out.hi)) for x in (q.lo, q.hi, *edges)]

    tops, bottoms = points(n.above, 1.0), points(n.below, -1.0)
    chord = _slope(np.clip(q.hi, out.lo, out.hi) - np.clip(q.lo, out.lo, out.hi), q.width)

    def of(slope: F64) -> Chord:
        return Chord(slope, _extremes(tops, bottoms, slope))

    return of(chord), of(np.ones_like(chord))


def _apart(pre: Pre, n: Clamps) -> Interval:
    """Delta between ``min(0, D')`` and ``max(0, D')``, up to the mismatch of the two clamps."""
    dp = pre.d.widened(n.below, n.above)
    rounded = pre.q.widened(n.below, n.above)
    zero = np.zeros_like(dp.lo)
    few = Neurons(pre.z, rounded, dp, n.a, n.b, n.aq, n.bq, n.below, n.above, None, None)
    over: F64 = np.minimum(mismatch(rounded, few), mismatch(pre.z, few))
    flip = few.mirrored()
    neg = lambda x: Interval(-x.hi, -x.lo)  # noqa: E731
    under: F64 = np.minimum(mismatch(neg(rounded), flip), mismatch(neg(pre.z), flip))
    lo: F64 = np.minimum(zero, dp.lo)
    hi: F64 = np.maximum(zero, dp.hi)
    return Interval(np.where(under == 0.0, lo, down(lo - under)), np.where(over == 0.0, hi, up(hi + over)))


def activate(pre: Pre, n: Clamps, symbols: int = 0, total: int = 0) -> tuple[Values, int]:
    """Values after the layer; ``symbols`` errors per stream and cell become symbols of their own.

    ``total`` symbols exist already; returns how many exist now.
    """
    zf, qf, df = pre.forms
    zs, qs, ds = (x.spread for x in pre.forms)
    fc, f1 = float_chords(pre.z, n.a, n.b)
    qc, q1 = code_chords(pre.q, pre.out, n)
    # the quantized side: the best of chord, slope 1 and constant
    zero = np.zeros_like(qc.slope)
    flat = Chord(zero, pre.out)
    costs = np.stack([c.half + c.slope * qf.r for c in (flat, qc, q1)])
    pick = np.argmin(costs, axis=0)[None]
    chosen = lambda field: np.take_along_axis(np.stack([field(c) for c in (flat, qc, q1)]), pick, 0)[0]  # noqa: E731
    qb = Chord(chosen(lambda c: c.slope), Interval(chosen(lambda c: c.offset.lo), chosen(lambda c: c.offset.hi)))
    f_form, q_form = zf.scaled(fc.slope, fc.offset, zs), qf.scaled(qb.slope, qb.offset, qs)
    # the gap: difference of the two, or D itself
    spreads: F64 = fc.slope * zs + qb.slope * qs
    apart = q_form.minus(f_form, spreads)
    own = Chord(zero + 1.0, Interval(down(q1.offset.lo - f1.offset.hi), up(q1.offset.hi - f1.offset.lo)))
    d_form = df.scaled(own.slope, own.offset, ds)
    apart_spread = apart.spread
    ways = (apart.interval(apart_spread), d_form.interval(ds), pre.d.widened(-own.offset.lo, own.offset.hi))
    h = pre.z.clamp(n.a, n.b)
    h, g, delta = tighten(h, pre.out, pre.out.minus(h).meet(_apart(pre, n)))
    for x in ways:
        delta = delta.meet(x)
    h, g, delta = tighten(h, g, delta)
    costs = np.stack([apart_spread + apart.r, ds + d_form.r, 0.5 * delta.width / FLAT])
    which = np.argmin(costs, axis=0)
    new = _Symbols(total, symbols)
    half_f, half_q, half_d = fc.half, qb.half, own.half
    f_form, q_form, d_form, apart = new.split(f_form, q_form, d_form, apart, (half_f, half_q, half_d), which)
    forms = choose(which, [apart, d_form, constant(delta, new.total)])
    return Values(Gap(h, g, delta, pre.codes), f_form, q_form, forms), new.total


class _Symbols:
    """Errors of some neurons as symbols: the largest ones of each cell."""

    def __init__(self, total: int, count: int) -> None:
        self.total = total
        self._count = count

    def split(
        self, f: Form, q: Form, d: Form, apart: Form, halves: tuple[F64, F64, F64], which: NDArray[np.intp]
    ) -> tuple[Form, Form, Form, Form]:
        """Float errors are shared by f and the difference, rounding errors by q and the difference."""
        half_d = np.where(which == 1, halves[2], 0.0)
        counts = [min(self._count, int((x > TINY64).sum(axis=1).max(initial=0))) for x in (*halves[:2], half_d)]
        if not any(counts):
            return f, q, d, apart
        first = self.total
        self.total += sum(counts)
        # copies, which are written to
        f, q, d, apart = (Form(x.c, x.padded(self.total).g, x.r.copy()) for x in (f, q, d, apart))
        _move(halves[0], counts[0], first, [(f, 1.0), (apart, -1.0)])
        _move(halves[1], counts[1], first + counts[0], [(q, 1.0), (apart, 1.0)])
        _move(half_d, counts[2], first + counts[0] + counts[1], [(d, 1.0)])
        return f, q, d, apart


def _move(half: F64, count: int, first: int, forms: list[tuple[Form, float]]) -> None:
    """Take the largest errors out of remainders that contain them, into symbols of their own."""
    if not count:
        return
    index = np.argpartition(-half, count - 1, axis=1)[:, :count]
    # never more than what is in the remainder: rounded down, and taken out of it rounded up
    size = np.take_along_axis(half, index, axis=1) * (1.0 - 2.0**-40)
    row, symbol = np.ogrid[: len(half), :count]
    for form, sign in forms:
        form.g[row, first + symbol, index] = sign * size
        left = up(np.take_along_axis(form.r, index, axis=1) - size)
        np.put_along_axis(form.r, index, np.maximum(left, 0.0), axis=1)
