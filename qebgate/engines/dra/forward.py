"""One layer at a time: intervals, back-substituted bounds, codes, lines.

Every pre-activation is bounded three times (z, zq, D), each D twice (through the gap's own stream and
as the difference of the two separate ones); each is tightened from the other two, quantized bounds are
snapped inwards to the codes that the runtime's own arithmetic can reach, and everything is intersected
with plain intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from qebgate.domains.gap import I64, Gap, Interval, tighten
from qebgate.domains.layers import Affine, Band, CodeGrid, MaxPool, Opaque
from qebgate.domains.linear_map import LinearMap, Scale, Sparse, gather
from qebgate.domains.lines import Activation, GapLine, Line, Neurons, above
from qebgate.engines.dra.backward import Resolved
from qebgate.engines.dra.relaxation import ALL, Relaxation
from qebgate.errors import UnsupportedError
from qebgate.numerics.rounding import F64, SAFETY, TINY32, TINY64, U64, down, gamma, up


@dataclass(frozen=True, slots=True, eq=False)
class PreActivation:
    """Bounds of a layer's pre-activations, before the quantized side's rounding.

    ``noise`` is the float32 error of z, already in z and d; ``below`` and ``above`` the rounding's envelope.
    ``sizes`` are the magnitudes behind z, zq and D: ``|W| x + |b|`` for the inputs' magnitudes x.
    ``parts`` of the relaxation are used.
    """

    z: Interval
    q: Interval
    d: Interval
    noise: F64 | None
    below: F64
    above: F64
    sizes: tuple[F64, F64, F64]
    parts: Relaxation = ALL


def affine_intervals(layer: Affine, inputs: Sequence[Gap], parts: Relaxation = ALL) -> PreActivation:
    """Plain interval bounds of z, zq and D."""
    z, z_size = _image(layer.f, [g.float for g in inputs], layer.bf, layer.terms)
    q, q_size = _image(layer.q, [g.quantized for g in inputs], layer.bq, layer.terms)
    changes = [*(g.delta for g in inputs), *(g.float for g in inputs)]
    d, d_size = _image((*layer.q, *layer.d), changes, layer.bd, layer.terms, layer.bd_size)
    noise = None
    if layer.noise is not None:
        noise = _finite(layer, layer.noise([g.float for g in inputs]))
        z, d = z.widened(noise, noise), d.widened(noise, noise)
    if parts.tighten:
        z, q, d = tighten(z, q, d)
    below, above = layer.below, layer.above
    if layer.quantized_noise is not None:  # a rounding of the result, as that to codes is
        error = _finite(layer, layer.quantized_noise([g.quantized for g in inputs]))
        below, above = below + error, above + error
    return PreActivation(z, q, d, noise, below, above, (z_size, q_size, d_size), parts)


def _finite(layer: Affine, noise: F64) -> F64:
    """UnsupportedError where the float32 evaluation of a layer has no error bound."""
    if not np.isfinite(noise).all():
        raise UnsupportedError("QEB435", "a float32 computation may overflow: no bound holds", where=layer.label)
    return noise


def _image(
    maps: Sequence[LinearMap], xs: Sequence[Interval], bias: F64, terms: int, bias_size: F64 | None = None
) -> tuple[Interval, F64]:
    """Interval of ``sum maps x + bias``, by centre and radius, rounded outwards, and the magnitude of its terms.

    ``bias_size`` is the magnitude that the bias was computed from, where that is not its own.
    """
    centre, radius = bias.copy(), np.zeros_like(bias)
    weight = np.abs(bias) if bias_size is None else bias_size.copy()
    for m, x in zip(maps, xs, strict=True):
        if not (x.lo.any() or x.hi.any()):
            continue
        c = x.centre
        r = up(np.maximum(x.hi - c, c - x.lo))
        centre += m.forward(c[None])[0]
        spread, size = m.absolute.forward(np.stack([r, np.abs(c) + r]))
        radius += spread
        weight += size
    err = SAFETY * gamma(terms + 4) * (weight + radius) + terms * TINY64
    return Interval(down(centre - radius - err), up(centre + radius + err)), weight


def codes_of(
    layer: Affine, grid: CodeGrid, q: Interval, inputs: Sequence[Gap], *, kernel: bool = True
) -> tuple[I64, I64]:
    """Codes that the layer can output: from the envelope, the exact kernel, and what is fixed.

    Each source contains every code that occurs, so they are intersected (without ``kernel``, not the kernel's).
    """
    with np.errstate(over="ignore"):
        lo = np.ceil(_quanta(q.lo, grid.unit, layer.below, -1)) + grid.zero
        hi = np.floor(_quanta(q.hi, grid.unit, layer.above, +1)) + grid.zero
    k_lo = np.clip(lo, grid.lo, grid.hi).astype(np.int64)
    k_hi = np.clip(hi, grid.lo, grid.hi).astype(np.int64)
    if kernel and layer.codes_of_accumulator is not None and layer.accumulator_unit is not None:
        a_lo = np.ceil(_quanta(q.lo, layer.accumulator_unit, 0.0, -1)).clip(-(2.0**40), 2.0**40).astype(np.int64)
        a_hi = np.floor(_quanta(q.hi, layer.accumulator_unit, 0.0, +1)).clip(-(2.0**40), 2.0**40).astype(np.int64)
        k_lo = np.maximum(k_lo, layer.codes_of_accumulator(a_lo))
        k_hi = np.minimum(k_hi, layer.codes_of_accumulator(a_hi))
    if kernel and layer.codes_of_inputs is not None:
        known = [g.codes for g in inputs]
        if all(c is not None for c in known):
            k_lo = np.maximum(k_lo, layer.codes_of_inputs([c[0] for c in known if c is not None]))
            k_hi = np.minimum(k_hi, layer.codes_of_inputs([c[1] for c in known if c is not None]))
    if kernel and layer.codes_between is not None:
        boxes = [g.codes for g in inputs if g.codes is not None]
        if len(boxes) == len(inputs):
            least, most = layer.codes_between(boxes)
            k_lo, k_hi = np.maximum(k_lo, least), np.minimum(k_hi, most)
    if layer.fixed_codes is not None:
        k_lo = np.maximum(k_lo, layer.fixed_codes[0])
        k_hi = np.minimum(k_hi, layer.fixed_codes[1])
    return k_lo, k_hi


def _quanta(x: F64, unit: F64 | float, dev: F64 | float, sign: int) -> F64:
    """``x / unit`` moved outwards by the envelope ``dev`` (real units) and by its own rounding."""
    y = x / unit
    err = dev / unit * (1 + 4 * U64) + 4 * U64 * np.abs(y)
    return up(y + err) if sign > 0 else down(y - err)


def neurons(
    layer: Affine, pre: PreActivation, inputs: Sequence[Gap]
) -> tuple[Neurons, Interval, tuple[I64, I64] | None]:
    """What is known of the layer's neurons, the interval of their quantized outputs, and its codes."""
    a, b = layer.float_range
    grid, parts = layer.grid, pre.parts
    codes, k, unit = None, None, None
    aq, bq = layer.quantized_range if grid is None else grid.range
    g = pre.q.widened(pre.below, pre.above).clamp(aq, bq)
    if grid is not None:
        codes = codes_of(layer, grid, pre.q, inputs, kernel=parts.grid)
        if parts.grid or layer.fixed_codes is not None:
            g = grid.real(codes)
        if parts.staircase:
            k = Interval((codes[0] - grid.zero).astype(np.float64), (codes[1] - grid.zero).astype(np.float64))
            unit = grid.unit
    n = Neurons(pre.z, pre.q, pre.d, a, b, aq, bq, pre.below, pre.above, unit, k, parts.joint)
    return n, g, codes


def activate(layer: Affine, pre: PreActivation, inputs: Sequence[Gap]) -> tuple[Gap, Activation, Activation]:
    """The layer's output intervals, and its lines from above and (mirrored back) from below."""
    n, g, codes = neurons(layer, pre, inputs)
    h = pre.z.clamp(n.a, n.b)
    sides = above(n.both_ways)
    over, under = sides.row(0), sides.row(1)
    delta = Interval(-under.delta, over.delta)
    if pre.parts.tighten:
        h, g, delta = tighten(h, g, delta)
    return Gap(h, g, delta, codes), over, under


def outputs(layer: Affine, pre: PreActivation, inputs: Sequence[Gap]) -> tuple[Interval, Interval]:
    """Intervals of h and hq, without any lines."""
    n, g, _ = neurons(layer, pre, inputs)
    return pre.z.clamp(n.a, n.b), g


def bare(layer: Affine, pre: PreActivation) -> Resolved:
    """A layer whose pre-activations are bounded next: nothing is known of its activation yet."""
    zero = np.zeros(layer.m)
    none = (Line(zero, zero), Line(zero, zero), GapLine(zero, zero, zero, zero))
    return _resolved(layer, pre, none, none, (zero, zero, zero))


def resolve(layer: Affine, pre: PreActivation, out: Gap, over: Activation, under: Activation) -> Resolved:
    """Fix a layer for back-substitution."""
    mirror = lambda s: Line(s.slope, -s.intercept)  # noqa: E731
    lower = GapLine(under.d.d, under.d.z, under.d.q, -under.d.intercept)
    tops = (over.h, over.g, over.d)
    lows = (mirror(under.h), mirror(under.g), lower)
    zm, qm, dm = pre.z.magnitude, pre.q.magnitude, pre.d.magnitude
    sizes = (
        _line_size(tops[0], lows[0], zm) + out.float.magnitude,
        _line_size(tops[1], lows[1], qm) + out.quantized.magnitude,
        np.maximum(_gap_size(tops[2], zm, qm, dm), _gap_size(lows[2], zm, qm, dm)) + out.delta.magnitude,
    )
    return _resolved(layer, pre, tops, lows, sizes)


def resized(r: Resolved, pre: PreActivation) -> Resolved:
    """A layer whose lines were replaced, with magnitudes that cover them."""
    zm, qm, dm = pre.z.magnitude, pre.q.magnitude, pre.d.magnitude
    return replace(
        r,
        h_size=np.maximum(r.h_size, _line_size(r.over[0], r.under[0], zm)),
        g_size=np.maximum(r.g_size, _line_size(r.over[1], r.under[1], qm)),
        d_size=np.maximum(r.d_size, np.maximum(_gap_size(r.over[2], zm, qm, dm), _gap_size(r.under[2], zm, qm, dm))),
    )


def _resolved(
    layer: Affine,
    pre: PreActivation,
    tops: tuple[Line, Line, GapLine],
    lows: tuple[Line, Line, GapLine],
    sizes: tuple[F64, F64, F64],
) -> Resolved:
    return Resolved(
        layer.inputs, layer.output, layer.f, layer.q, layer.d, layer.bf, layer.bq, layer.bd,
        tops, lows, pre.noise, *pre.sizes, *sizes, terms=layer.terms, sizes=tuple(m.n for m in layer.f),
    )  # fmt: skip


def _line_size(over: Line, under: Line, x: F64) -> F64:
    return np.maximum(np.abs(over.slope), np.abs(under.slope)) * x + np.maximum(
        np.abs(over.intercept), np.abs(under.intercept)
    )


def _gap_size(line: GapLine, z: F64, q: F64, d: F64) -> F64:
    return np.abs(line.d) * d + np.abs(line.z) * z + np.abs(line.q) * q + np.abs(line.intercept)


def banded_layer(layer: Opaque, band: Band, inputs: Sequence[Gap], out: Gap) -> Resolved:
    """A layer whose outputs are a linear function of its inputs and a rest."""
    m = out.size
    zero, one = np.zeros(m), np.ones(m)
    nothing = tuple(Sparse(sp.csr_matrix((x.m, x.n))) for x in band.maps)
    size = lambda of: np.sum(  # noqa: E731
        [x.absolute.forward(of(g).magnitude[None])[0] for x, g in zip(band.maps, inputs, strict=True)], axis=0
    )
    z, q, d = size(lambda g: g.float), size(lambda g: g.quantized), size(lambda g: g.delta)
    line = lambda c: Line(one, c)  # noqa: E731
    gap = lambda c: GapLine(one, zero, zero, c)  # noqa: E731
    return Resolved(
        layer.inputs, layer.output, band.maps, band.maps, nothing, zero, zero, zero,
        (line(band.float.hi), line(band.quantized.hi), gap(band.delta.hi)),
        (line(band.float.lo), line(band.quantized.lo), gap(band.delta.lo)),
        None, z, q, d, z + band.float.magnitude, q + band.quantized.magnitude, d + band.delta.magnitude,
        16 + sum(x.terms for x in band.maps), tuple(x.n for x in band.maps),
    )  # fmt: skip


def constant_layer(layer: Opaque, out: Gap) -> Resolved:
    """A layer whose outputs are replaced by their intervals."""
    m = out.size
    zero = np.zeros(m)
    flat = lambda c: Line(zero, c)  # noqa: E731
    gap = lambda c: GapLine(zero, zero, zero, c)  # noqa: E731
    return Resolved(
        (), layer.output, (), (), (), zero, zero, zero,
        (flat(out.float.hi), flat(out.quantized.hi), gap(out.delta.hi)),
        (flat(out.float.lo), flat(out.quantized.lo), gap(out.delta.lo)),
        None, zero, zero, zero, out.float.magnitude, out.quantized.magnitude, out.delta.magnitude, 8,
    )  # fmt: skip


def max_pool(layer: MaxPool, x: Gap) -> tuple[Gap, Resolved]:
    """The largest entry of each window, on both sides, with the selected entry's gap where it is decided."""
    idx, pad = np.maximum(layer.index, 0), layer.index < 0
    take = lambda v, fill: np.where(pad, fill, v[idx])  # noqa: E731
    h_arg, h_win = _dominant(take(x.float.lo, -np.inf), take(x.float.hi, -np.inf))
    g_arg, g_win = _dominant(take(x.quantized.lo, -np.inf), take(x.quantized.hi, -np.inf))
    common = np.argmax(take(x.float.lo + x.quantized.lo, -np.inf), axis=1)
    h_arg, g_arg = np.where(h_win, h_arg, common), np.where(g_win, g_arg, common)
    rows = np.arange(len(idx))
    h_idx, g_idx = idx[rows, h_arg], idx[rows, g_arg]
    h = Interval(take(x.float.lo, -np.inf).max(1), take(x.float.hi, -np.inf).max(1))
    g = Interval(take(x.quantized.lo, -np.inf).max(1), take(x.quantized.hi, -np.inf).max(1))
    codes = None if x.codes is None else (take(x.codes[0], -(2**31)).max(1), take(x.codes[1], -(2**31)).max(1))
    # max hq - max h is at most the gap where the quantized side has its maximum, at least that where the float side has
    delta = Interval(
        np.where(_candidates(take(x.float.lo, -np.inf), take(x.float.hi, -np.inf)), x.delta.lo[idx], np.inf).min(1),
        np.where(
            _candidates(take(x.quantized.lo, -np.inf), take(x.quantized.hi, -np.inf)), x.delta.hi[idx], -np.inf
        ).max(1),
    )
    # a runtime may flush subnormal numbers to zero
    h, delta = h.widened(TINY32, TINY32), delta.widened(TINY32, TINY32)
    if codes is None:
        g = g.widened(TINY32, TINY32)
    h, g, delta = tighten(h, g, delta)
    z = Interval(x.float.lo[h_idx], x.float.hi[h_idx])
    q = Interval(x.quantized.lo[g_idx], x.quantized.hi[g_idx])
    d = q.minus(z).meet(Interval(x.delta.lo[h_idx], x.delta.hi[h_idx]) if (h_idx == g_idx).all() else q.minus(z))
    out = Gap(h, g, delta, codes)
    return out, _resolve_max(layer, x, out, (h_idx, h_win, g_idx, g_win), (z, q, d))


def _candidates(lo: F64, hi: F64) -> NDArray[np.bool_]:
    """Entries of each window that can be its maximum (padding is -inf throughout)."""
    return (hi >= lo.max(axis=1, keepdims=True)) & (hi > -np.inf)


def _dominant(lo: F64, hi: F64) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The entry with the largest lower bound, and whether it is at least every other entry's upper bound."""
    arg = np.argmax(lo, axis=1)
    rows = np.arange(len(lo))
    others = hi.copy()
    others[rows, arg] = -np.inf
    return arg, lo[rows, arg] >= others.max(axis=1)


def _resolve_max(
    layer: MaxPool,
    x: Gap,
    out: Gap,
    chosen: tuple[NDArray[np.intp], NDArray[np.bool_], NDArray[np.intp], NDArray[np.bool_]],
    pre: tuple[Interval, Interval, Interval],
) -> Resolved:
    h_idx, h_win, g_idx, g_win = chosen
    z, q, d = pre
    f_map, q_map = gather(h_idx, x.size), gather(g_idx, x.size)
    m = out.size
    zero, one = np.zeros(m), np.ones(m)

    def lines(win: NDArray[np.bool_], hi: F64) -> tuple[Line, Line]:
        return Line(np.where(win, 1.0, 0.0), np.where(win, TINY32, hi)), Line(one, zero - TINY32)

    h_up, h_lo = lines(h_win, out.float.hi)
    g_up, g_lo = lines(g_win, out.quantized.hi)
    # hq <= zq where the quantized winner is decided, h >= z always: then delta <= D; mirrored for the float winner
    over = _gap_choice(g_win, out.quantized.hi, out.delta.hi, z.centre, upper=True)
    under = _gap_choice(h_win, out.float.hi, out.delta.lo, q.centre, upper=False)
    return Resolved(
        layer.inputs, layer.output, (f_map,), (q_map,), (q_map.minus(f_map),), zero, zero, zero,
        (h_up, g_up, over), (h_lo, g_lo, under), None,
        z.magnitude, q.magnitude, x.delta.magnitude[g_idx] + x.float.magnitude[g_idx] + z.magnitude,
        2 * out.float.magnitude + z.magnitude, 2 * out.quantized.magnitude + q.magnitude,
        2 * out.delta.magnitude + d.magnitude + z.magnitude + q.magnitude + out.float.magnitude
        + out.quantized.magnitude,
        16, (x.size,),
    )  # fmt: skip


def _gap_choice(win: NDArray[np.bool_], bound: F64, constant: F64, other: F64, *, upper: bool) -> GapLine:
    """``D`` where the winner is decided; else a constant, or ``bound`` against the other side: the better one."""
    zero = np.zeros_like(bound)
    if upper:  # delta <= bound - z
        line = bound - other < constant
        z, q, c = np.where(line, -1.0, 0.0), zero, np.where(line, up(bound + 2 * TINY32), constant)
    else:  # delta >= zq - bound
        line = other - bound > constant
        z, q, c = zero, np.where(line, 1.0, 0.0), np.where(line, -up(bound + 2 * TINY32), constant)
    flush = 2 * TINY32 if upper else -2 * TINY32
    return GapLine(np.where(win, 1.0, 0.0), np.where(win, 0.0, z), np.where(win, 0.0, q), np.where(win, flush, c))


def identity(n: int) -> Scale:
    """The identity map."""
    return Scale(1.0, n)
