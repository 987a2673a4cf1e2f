"""Forms through a max pool: the likely winner, and by how much another entry can exceed it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Gap, Interval, tighten
from qebgate.engines.forms.form import Form, Values, choose, constant
from qebgate.engines.forms.matrices import Index
from qebgate.engines.forms.neurons import Chord
from qebgate.numerics.rounding import F64, down, up


def largest(x: Values, index: Index, flush: float) -> Values:
    """The largest entries of windows ``index [m, taps]`` (-1: nothing); ``flush``: what a runtime may lose of them."""
    pad = index < 0
    idx = np.maximum(index, 0)
    take = lambda v, fill: np.where(pad, fill, v[:, idx])  # noqa: E731  [B, m, taps]
    gap = x.gap
    least, most = take(gap.float.lo, -np.inf), take(gap.float.hi, -np.inf)
    q_least, q_most = take(gap.quantized.lo, -np.inf), take(gap.quantized.hi, -np.inf)
    h = Interval(least.max(2), most.max(2)).widened(flush, flush)
    g = Interval(q_least.max(2), q_most.max(2))
    codes = None
    if gap.codes is not None:
        codes = (take(gap.codes[0], -(2**31)).max(2), take(gap.codes[1], -(2**31)).max(2))
    else:
        g = g.widened(flush, flush)
    # the same entry stands for both sides
    likely = np.argmax(take(x.f.c + x.q.c, -np.inf), axis=2)
    at = np.take_along_axis(np.broadcast_to(idx, (len(x.f.c), *idx.shape)), likely[..., None], 2)[..., 0]
    f_form, q_form, d_form = (_picked(v, at) for v in (x.f, x.q, x.d))
    rise_f = _rise(x.f, f_form, gap.float, at, idx, pad)
    rise_q = _rise(x.q, q_form, gap.quantized, at, idx, pad)
    lost = 2 * flush
    rise = lambda v: Chord(np.ones_like(v), Interval(np.full_like(v, -lost), up(v + lost)))  # noqa: E731
    spreads = [v.spread for v in (f_form, q_form, d_form)]
    own = Interval(down(-rise_f - 2 * lost), up(rise_q + 2 * lost))
    hf = f_form.scaled(rise(rise_f).slope, rise(rise_f).offset, spreads[0])
    hq = q_form.scaled(rise(rise_q).slope, rise(rise_q).offset, spreads[1])
    hd = d_form.scaled(np.ones_like(rise_f), own, spreads[2])
    # hq_j - h_i for winners i, j is at least the gap of i (hq_j >= hq_i) and at most that of j (h_i >= h_j)
    low = np.where((most >= least.max(2)[..., None]) & ~pad, gap.delta.lo[:, idx], np.inf).min(2)
    high = np.where((q_most >= q_least.max(2)[..., None]) & ~pad, gap.delta.hi[:, idx], -np.inf).max(2)
    delta = Interval(low, high).widened(lost, lost)
    apart = hq.minus(hf, spreads[0] + spreads[1])
    for way in (apart.interval(), hd.interval()):
        delta = delta.meet(way)
    h, g, delta = tighten(h.meet(hf.interval()), g.meet(hq.interval()) if codes is None else g, delta)
    n = hf.symbols
    f_out = choose(np.argmin(np.stack([hf.r, 0.5 * h.width]), axis=0), [hf, constant(h, n)])
    q_out = choose(np.argmin(np.stack([hq.r, 0.5 * g.width]), axis=0), [hq, constant(g, n)])
    apart = q_out.minus(f_out, q_out.spread + f_out.spread)
    delta = delta.meet(apart.interval())
    costs = np.stack([apart.spread + apart.r, spreads[2] + hd.r, 0.5 * delta.width / 0.7])
    d_out = choose(np.argmin(costs, axis=0), [apart, hd, constant(delta, n)])
    return Values(Gap(h, g, delta, codes), f_out, q_out, d_out)


def _picked(f: Form, at: Index) -> Form:
    """The form of one entry per cell and window, ``at [B, m]``."""
    g = np.take_along_axis(f.g, np.broadcast_to(at[:, None], (len(at), f.symbols, at.shape[1])), axis=2)
    return Form(np.take_along_axis(f.c, at, 1), g, np.take_along_axis(f.r, at, 1))


def _rise(x: Form, chosen: Form, bounds: Interval, at: Index, idx: Index, pad: NDArray[np.bool_]) -> F64:
    """How far any entry of a window can exceed the chosen one, ``[B, m]``, at least 0."""
    most = np.zeros(at.shape)
    low = np.take_along_axis(bounds.lo, at, 1)
    for tap in range(idx.shape[1]):
        here = np.broadcast_to(idx[:, tap], at.shape)
        other = x.take(idx[:, tap])
        apart = other.minus(chosen, other.spread + chosen.spread).interval().hi
        apart = np.minimum(apart, up(bounds.hi[:, idx[:, tap]] - low))
        most = np.maximum(most, np.where((here == at) | pad[:, tap], 0.0, apart))
    return most
