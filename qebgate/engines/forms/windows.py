"""Forms through a max pool: the likely winner, and by how much another entry can exceed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Gap, Interval, tighten
from qebgate.engines.forms.form import Form, Values, choose, constant
from qebgate.engines.forms.matrices import Index
from qebgate.engines.forms.neurons import FLAT
from qebgate.numerics.rounding import F64, TINY64, U64, down, up

Number = TypeVar("Number", np.float64, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """What windows see: live entries ``[B, k]`` and constants behind them (which have no columns)."""

    x: Values
    rest: Gap

    def joined(self, live: NDArray[Number], rest: NDArray[Number]) -> NDArray[Number]:
        """Numbers of all entries, ``[B, k + n]``."""
        return np.concatenate([live, np.broadcast_to(rest, (len(live), rest.shape[1]))], axis=1)

    def bounds(self, live: Interval, rest: Interval) -> Interval:
        return Interval(self.joined(live.lo, rest.lo), self.joined(live.hi, rest.hi))

    def picked(self, f: Form, rest: Interval, at: Index) -> Form:
        """The form of one entry per cell and window, ``at [B, m]``."""
        k = f.c.shape[1]
        c, r = self.joined(f.c, rest.centre), self.joined(f.r, up(0.5 * rest.width) + 2 * U64 * rest.magnitude + TINY64)
        column = np.minimum(at, k - 1)
        g = f.g[np.arange(len(at))[:, None, None], np.arange(f.symbols)[None, :, None], column[:, None]]
        if (at >= k).any():
            g *= (at < k)[:, None]
        return Form(np.take_along_axis(c, at, 1), g, np.take_along_axis(r, at, 1))


def largest(e: Entries, index: Index, flush: float) -> Values:
    """The largest entries of windows ``index [m, taps]`` (-1: nothing); ``flush``: what a runtime may lose of them."""
    pad = index < 0
    idx = np.maximum(index, 0)
    take = lambda v, fill: np.where(pad, fill, v[:, idx])  # noqa: E731  [B, m, taps]
    x, rest, gap = e.x, e.rest, e.x.gap
    f_all, q_all = e.bounds(gap.float, rest.float), e.bounds(gap.quantized, rest.quantized)
    d_all = e.bounds(gap.delta, rest.delta)
    least, most = take(f_all.lo, -np.inf), take(f_all.hi, -np.inf)
    q_least, q_most = take(q_all.lo, -np.inf), take(q_all.hi, -np.inf)
    h = Interval(least.max(2), most.max(2)).widened(flush, flush)
    g = Interval(q_least.max(2), q_most.max(2))
    codes = None
    if gap.codes is not None and rest.codes is not None:
        ends = [take(e.joined(a, b), -(2**31)).max(2) for a, b in zip(gap.codes, rest.codes, strict=True)]
        codes = (ends[0], ends[1])
    else:
        g = g.widened(flush, flush)
    # the same entry stands for both sides
    likely = np.argmax(take(f_all.centre + q_all.centre, -np.inf), axis=2)
    at = np.take_along_axis(np.broadcast_to(idx, (len(likely), *idx.shape)), likely[..., None], 2)[..., 0]
    f_form, q_form = e.picked(x.f, rest.float, at), e.picked(x.q, rest.quantized, at)
    d_form = e.picked(x.d, rest.delta, at)
    rise_f, rise_q = _rise(x.f, f_form, f_all, at, idx, pad), _rise(x.q, q_form, q_all, at, idx, pad)
    lost, one = 2 * flush, np.ones_like(rise_f)
    rise = lambda v: Interval(np.full_like(v, -lost), up(v + lost))  # noqa: E731
    spreads = [v.spread for v in (f_form, q_form, d_form)]
    hf = f_form.scaled(one, rise(rise_f), spreads[0])
    hq = q_form.scaled(one, rise(rise_q), spreads[1])
    hd = d_form.scaled(one, Interval(down(-rise_f - 2 * lost), up(rise_q + 2 * lost)), spreads[2])
    # hq_j - h_i for winners i, j is at least the gap of i (hq_j >= hq_i) and at most that of j (h_i >= h_j)
    low = np.where((most >= least.max(2)[..., None]) & ~pad, d_all.lo[:, idx], np.inf).min(2)
    high = np.where((q_most >= q_least.max(2)[..., None]) & ~pad, d_all.hi[:, idx], -np.inf).max(2)
    delta = Interval(low, high).widened(lost, lost).meet(hd.interval(spreads[2]))
    h, g, delta = tighten(
        h.meet(hf.interval(spreads[0])), g.meet(hq.interval(spreads[1])) if codes is None else g, delta
    )  # fmt: skip
    n = hf.symbols
    flat_f, flat_q = 0.5 * h.width < hf.r, 0.5 * g.width < hq.r
    f_out, q_out = choose(flat_f, [hf, constant(h, n)]), choose(flat_q, [hq, constant(g, n)])
    left = spreads[0] * ~flat_f + spreads[1] * ~flat_q
    apart = q_out.minus(f_out, left)
    apart_spread = apart.spread
    delta = delta.meet(apart.interval(apart_spread))
    costs = np.stack([apart_spread + apart.r, spreads[2] + hd.r, 0.5 * delta.width / FLAT])
    d_out = choose(np.argmin(costs, axis=0), [apart, hd, constant(delta, n)])
    return Values(Gap(h, g, delta, codes), f_out, q_out, d_out)


def _rise(x: Form, chosen: Form, bounds: Interval, at: Index, idx: Index, pad: NDArray[np.bool_]) -> F64:
    """How far any entry of a window can exceed the chosen one, ``[B, m]``, at least 0."""
    most = np.zeros(at.shape)
    low, k = np.take_along_axis(bounds.lo, at, 1), x.c.shape[1]
    for tap in range(idx.shape[1]):
        column = idx[:, tap]
        apart = up(bounds.hi[:, column] - low)
        apart = np.where((column == at) | pad[:, tap], 0.0, apart)
        # the difference of two forms says more, where neither is a constant
        some = np.flatnonzero((apart > most).any(axis=0) & (column < k))
        if some.size:
            other, own = x.take(column[some]), chosen.take(some)
            closer = other.minus(own, other.spread + own.spread).interval().hi
            apart[:, some] = np.where(apart[:, some] > 0.0, np.minimum(apart[:, some], closer), apart[:, some])
        most = np.maximum(most, apart)
    return most
