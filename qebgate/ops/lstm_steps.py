"""Two evaluations of an LSTM side by side, step by step: what the second one's values can be, and its distance.

The first is known by a *trace*, the intervals of all that it computes; the second one starts from other inputs, may
have other weights and another arithmetic.  Twice the same: an exact network around one float64 execution of itself
(which gives a sharp trace, where intervals alone would grow from step to step), then the other network around it.

Letters: B rows, T steps, C inputs, H cells; gates [B, 4 H] in the order of ``GATES``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qebgate.domains.drift import Drift, stacked
from qebgate.domains.gap import Interval
from qebgate.errors import UnsupportedError
from qebgate.numerics.rounding import F64, SAFETY, U64, gamma
from qebgate.ops.products import times
from qebgate.ops.shapes import LIBM, LOGISTIC, TANH, Shape, sigmoid
from qebgate.semantics.lstm_arithmetic import OVERFLOW, Arithmetic, Floating, Integers, floating, real_constants
from qebgate.semantics.unidirectional_sequence_lstm import F, G, I, LstmNode, O

FEW = 1 << 22
"""Numbers in the generators of one step, at most; with more rows the distance is an interval at every step."""


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One network: ``w [4 H, C]``, ``r [4 H, H]``, ``b [4 H]`` in real units, and how it computes."""

    w: F64
    r: F64
    b: F64
    arithmetic: Arithmetic

    @classmethod
    def of(cls, n: LstmNode, arithmetic: Arithmetic) -> Side:
        return cls(*real_constants(n), arithmetic)

    @property
    def cells(self) -> int:
        return self.r.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """All that one step computes; ``raw`` is the cell before its clamp."""

    z: Interval
    gates: Interval
    raw: Interval
    c: Interval
    curve: Interval
    h: Interval


Trace = Sequence[Moment]


def execution(side: Side, x: F64) -> Trace:
    """The trace of a float64 execution on ``x [B, T, C]``: points, with the arithmetic of :func:`double`."""
    h = c = np.zeros((len(x), side.cells))
    out: list[Moment] = []
    point = Interval.point
    for t in range(x.shape[1]):
        z = x[:, t] @ side.w.T + h @ side.r.T + side.b
        parts = np.split(z, 4, axis=1)
        i, f, o = (sigmoid(parts[k]) for k in (I, F, O))
        g = np.tanh(parts[G])
        raw = f * c + i * g
        c = np.clip(raw, *side.arithmetic.cell_limits)
        curve = np.tanh(c)
        h = o * curve
        gates = np.concatenate([{I: i, F: f, G: g, O: o}[k] for k in range(4)], axis=1)
        out.append(Moment(point(z), point(gates), point(raw), point(c), point(curve), point(h)))
    return out


def double(n: LstmNode) -> Floating:
    """The arithmetic of a float64 execution here."""
    return floating(n, U64, LIBM / U64, LIBM / U64)


def follow(first: Side, trace: Trace, second: Side, x: tuple[Interval, Interval, Interval]) -> tuple[Trace, Interval]:
    """The trace of the second evaluation, and its distance ``[B, T, H]`` from the first.

    ``x`` are the first one's inputs, the second one's, and their distance, [B, T, C] each.
    """
    b, steps, channels = x[0].lo.shape
    cells = first.cells
    named = b * 4 * cells * steps * (channels + 2 * cells) <= FEW or b == 1
    zero = np.zeros((b, cells))
    nothing = Interval.point(zero)
    h1 = h2 = c1 = c2 = nothing
    dh = dc = Drift.of(nothing)
    out: list[Moment] = []
    found: list[Interval] = []
    for t in range(steps):
        x1, x2, dx = (Interval(v.lo[:, t], v.hi[:, t]) for v in x)
        m1 = trace[t]
        width = max(dh.generators.shape[2], dc.generators.shape[2])
        gx = Drift.of(dx)
        if named and dx.width.any():
            gx = gx.named(width)
        z2, dz = _sums(first, second, (x1, h1), (x2, h2), (gx, dh), m1.z)
        gates2, dg = _curves(first, second, m1, z2, dz)
        raw2, dr = _cell(first, second, (m1, c1), (gates2, c2), (dg, dc))
        c2, dc = _clamped(raw2, m1, dr, first.arithmetic.cell_limits, second.arithmetic.cell_limits)
        if named:
            dc = dc.named(dg.generators.shape[2])
        curve2, dk = _curve(TANH, m1.c, c2, dc, _errors(first, second, "of_cell", m1.c, c2))
        curve2, dk = _met(m1.curve, curve2, dk)
        h2, dh = _hidden(first, second, m1, (gates2, curve2), (dg, dk))
        if named:
            dh = dh.named(dc.generators.shape[2])
            joint = stacked([dh, dc]).fewer()
            dh, dc = joint.part(slice(0, cells)), joint.part(slice(cells, None))
        h1, c1 = m1.h, m1.c
        out.append(Moment(z2, gates2, raw2, c2, curve2, h2))
        found.append(_both(dh.range, h2.minus(h1)))
    return out, Interval(np.stack([d.lo for d in found], axis=1), np.stack([d.hi for d in found], axis=1))


def _sums(
    first: Side,
    second: Side,
    one: tuple[Interval, Interval],
    two: tuple[Interval, Interval],
    drift: tuple[Drift, Drift],
    z1: Interval,
) -> tuple[Interval, Drift]:
    """The gates' sums, in two parts: the integer kernel rounds and clamps after each."""
    (x1, h1), (x2, h2), (dx, dh) = one, two, drift
    a1, a2 = first.arithmetic, second.arithmetic
    wx1, rh1 = (v.magnitude @ np.abs(m).T for v, m in ((x1, first.w), (h1, first.r)))
    wx2, rh2 = (v.magnitude @ np.abs(m).T for v, m in ((x2, second.w), (h2, second.r)))
    for a, total in ((a1, wx1 + rh1 + np.abs(first.b)), (a2, wx2 + rh2 + np.abs(second.b))):
        if isinstance(a, Floating) and not (total < OVERFLOW).all():
            raise UnsupportedError("QEB435", "a float32 computation may overflow: no bound holds", where="LSTM")
    limits = a2.gate_limits
    p = _linear(second.w, x2, second.b)
    e = a2.first(p.magnitude)
    apart = _linear(second.w - first.w, x1, second.b - first.b)
    e_bias = e + 2 * U64 * (np.abs(first.b) + np.abs(second.b))  # each is a rounded product
    p, d = p.widened(e, e), dx.through(second.w).moved(apart).widened(e_bias)
    p, d = _saturated(p, d, limits)
    e1, e2 = a1.gate(wx1, rh1, first.b), a2.gate(wx2, rh2, second.b)
    nothing = np.zeros_like(second.b)
    z = p.plus(_linear(second.r, h2, nothing)).widened(e2, e2)
    d = d.plus(dh.through(second.r)).moved(_linear(second.r - first.r, h1, nothing)).widened(e1).widened(e2)
    z, d = _saturated(z, d, limits)
    return _met(z1, z, d)


def _curves(first: Side, second: Side, m1: Moment, z2: Interval, dz: Drift) -> tuple[Interval, Drift]:
    n = second.cells
    values: list[Interval] = []
    drifts: list[Drift] = []
    for k in range(4):
        at = slice(k * n, (k + 1) * n)
        shape, name = (TANH, "tanh") if k == G else (LOGISTIC, "sigmoid")
        one, two = _part(m1.z, at), _part(z2, at)
        value, d = _curve(shape, one, two, dz.part(at), _errors(first, second, name, one, two))
        value, d = _met(_part(m1.gates, at), value, d)
        values.append(value)
        drifts.append(d)
    joined = Interval(*(np.concatenate([getattr(v, end) for v in values], axis=1) for end in ("lo", "hi")))
    return joined, stacked(drifts)


def _cell(
    first: Side,
    second: Side,
    one: tuple[Moment, Interval],
    two: tuple[Interval, Interval],
    drift: tuple[Drift, Drift],
) -> tuple[Interval, Drift]:
    (m1, c1), (gates2, c2), (dg, dc), n = one, two, drift, second.cells
    at = [slice(k * n, (k + 1) * n) for k in range(4)]
    each1, each2 = ([_part(v, s) for s in at] for v in (m1.gates, gates2))
    kept, new = times(each2[F], c2), times(each2[I], each2[G])
    e2 = second.arithmetic.cell(kept.magnitude, new.magnitude, c2.magnitude)
    before = times(each1[F], c1), times(each1[I], each1[G])
    e1 = first.arithmetic.cell(before[0].magnitude, before[1].magnitude, c1.magnitude)
    raw = kept.plus(new).widened(e2, e2)
    d = _product(dg.part(at[F]), dc, each2[F], c1)
    d = d.plus(_product(dg.part(at[I]), dg.part(at[G]), each2[I], each1[G])).widened(e1).widened(e2)
    return _met(m1.raw, raw, d)


def _hidden(
    first: Side, second: Side, m1: Moment, two: tuple[Interval, Interval], drift: tuple[Drift, Drift]
) -> tuple[Interval, Drift]:
    (gates2, curve2), (dg, dk), n = two, drift, second.cells
    at = slice(O * n, (O + 1) * n)
    open2 = _part(gates2, at)
    h = times(open2, curve2)
    e1, e2 = first.arithmetic.hidden(m1.h.magnitude), second.arithmetic.hidden(h.magnitude)
    d = _product(dg.part(at), dk, open2, m1.curve).widened(e1).widened(e2)
    h, d = _saturated(h.widened(e2, e2), d, second.arithmetic.hidden_limits)
    return _met(m1.h, h, d)


def _product(da: Drift, db: Drift, a2: Interval, b1: Interval) -> Drift:
    """``a2 b2 - a1 b1 = a2 db + b1 da``, around the centres of a2 and b1."""
    ca, cb = a2.centre, b1.centre
    ra, rb = (np.maximum(v.hi - c, c - v.lo) * (1 + 2.0**-40) for v, c in ((a2, ca), (b1, cb)))
    rest = (ra * db.range.magnitude + rb * da.range.magnitude) * (1 + 2.0**-40)
    return db.scaled(ca).plus(da.scaled(cb)).widened(rest)


def _curve(shape: Shape, x1: Interval, x2: Interval, d: Drift, e: tuple[F64, F64]) -> tuple[Interval, Drift]:
    """A function of each entry: its drift is the argument's times a slope between the two."""
    steep = shape.steep(Interval(np.minimum(x1.lo, x2.lo), np.maximum(x1.hi, x2.hi)))
    c = steep.centre
    half = np.maximum(steep.hi - c, c - steep.lo) * (1 + 2.0**-40)
    out = d.scaled(c).widened(half * d.range.magnitude * (1 + 2.0**-40)).widened(e[0]).widened(e[1])
    return shape.image(x2).widened(e[1], e[1]), out


def _errors(first: Side, second: Side, name: str, x1: Interval, x2: Interval) -> tuple[F64, F64]:
    at: Callable[[Side, Interval], F64] = lambda s, x: getattr(s.arithmetic, name)(x.magnitude)  # noqa: E731
    return at(first, x1), at(second, x2)


def _excess(x: Interval, limits: tuple[F64 | float, F64 | float]) -> Interval:
    """What a clamp takes off."""
    a, b = limits
    zero = np.zeros_like(x.lo)
    lo, hi = np.minimum(zero, x.lo - a), np.maximum(zero, x.hi - b)
    return Interval(np.where(lo < 0, np.nextafter(lo, -np.inf), 0.0), np.where(hi > 0, np.nextafter(hi, np.inf), 0.0))


def _saturated(x: Interval, d: Drift, limits: tuple[F64 | float, F64 | float]) -> tuple[Interval, Drift]:
    """The second evaluation's value, clamped."""
    off = _excess(x, limits)
    if not off.width.any():
        return x, d
    a, b = limits
    return Interval(np.clip(x.lo, a, b), np.clip(x.hi, a, b)), d.moved(Interval(-off.hi, -off.lo))


def _clamped(
    raw2: Interval,
    m1: Moment,
    d: Drift,
    limits1: tuple[F64 | float, F64 | float],
    limits2: tuple[F64 | float, F64 | float],
) -> tuple[Interval, Drift]:
    """The cells, each clamped by its own limits."""
    c2, d = _saturated(raw2, d, limits2)
    off = _excess(m1.raw, limits1)
    return _met(m1.c, c2, d.moved(off) if off.width.any() else d)


def _met(v1: Interval, v2: Interval, d: Drift) -> tuple[Interval, Drift]:
    """The second value and the drift, each cut down by the other."""
    d = d.within(v2.minus(v1))
    return v2.meet(v1.plus(d.range)), d


def _both(a: Interval, b: Interval) -> Interval:
    return a.meet(b)


def _part(x: Interval, at: slice) -> Interval:
    return Interval(x.lo[:, at], x.hi[:, at])


def _linear(w: F64, x: Interval, b: F64) -> Interval:
    """``w x + b``, outwards."""
    c = x.centre
    r = np.maximum(x.hi - c, c - x.lo) * (1 + 2.0**-40)
    value, spread = c @ w.T + b, r @ np.abs(w).T
    size = (np.abs(c) + r) @ np.abs(w).T + np.abs(b)
    # a bias is a product that was rounded, and a difference of weights is rounded too
    e = spread + SAFETY * gamma(w.shape[1] + 16) * (size + spread) + 1e-290
    return Interval.point(value).widened(e, e)


__all__ = ["Integers", "Side", "Trace", "double", "execution", "follow"]
