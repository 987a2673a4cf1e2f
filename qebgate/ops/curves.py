"""Functions of one entry: their shapes, and bounds of their values, gaps and codes.

With slopes of f in ``[s, S]`` between x and x', the gap ``f(x') - f(x)`` is a number of ``[s, S]`` times that of x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qebgate.domains.gap import I64, Gap, Interval, tighten
from qebgate.domains.layers import Band, CodeBox, CodeGrid, Layer, Opaque
from qebgate.domains.linear_map import diagonal
from qebgate.ir.graph import Graph, Node
from qebgate.ir.pair import Step
from qebgate.numerics.rounding import F64, down, up
from qebgate.ops.base import Context, label, needed_grid, rounding_of
from qebgate.ops.products import times
from qebgate.ops.roots import Rsqrt, Sqrt
from qebgate.ops.shapes import LOGISTIC, TANH, Bent, EluShape, FastGeluShape, GeluShape, HardSwishShape, Shape
from qebgate.semantics.registry import SEMANTICS
from qebgate.semantics.sigmoid import Table
from qebgate.semantics.tables import Function, GeluAttrs, LeakyReluAttrs, Prelu

_WIDE = 2.0**40
"""Lines are only drawn over intervals that are not wider."""


def _shape(node: Node, graph: Graph) -> Shape:
    attrs, sem = node.attrs, SEMANTICS[node.op]
    if isinstance(attrs, LeakyReluAttrs):
        return Bent(np.array([float(np.float32(attrs.alpha))]))
    if isinstance(sem, Prelu):
        return Bent(sem.alpha(node, graph))
    if isinstance(attrs, GeluAttrs):
        return FastGeluShape() if attrs.approximate else GeluShape()
    return _SHAPES[node.op]


_SHAPES = {
    "LOGISTIC": LOGISTIC,
    "TANH": TANH,
    "ELU": EluShape(),
    "HARD_SWISH": HardSwishShape(),
    "ABS": Bent(np.array([-1.0])),
    "RSQRT": Rsqrt(),
    "SQRT": Sqrt(),
}


class CurveLowering:
    """A function of one entry; one instance an operator."""

    def __init__(self, op: str) -> None:
        self.op = op

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        graph = ctx.pair.quantized
        grid, (f, q) = needed_grid(qn, graph), (_shape(fn, ctx.pair.float), _shape(qn, graph))
        if not isinstance(q, Bent):  # slopes may differ, whatever else says which function it is may not
            ctx.same(step, fn.attrs, qn.attrs, "options")
        kernel, noise = table_codes(qn, ctx), ctx.noise(step)
        below, above = rounding_of(qn, graph, ctx.runtime)
        apart = _apart(f, q)

        def transform(inputs: Sequence[Gap]) -> Gap:
            (x,) = inputs
            f.require(label(step), x.float)
            x, hidden = _shown(q, x), ~q.inside(x.quantized)
            e = 0.0 if noise is None else noise([x.float])
            h = f.image(x.float).widened(e, e)
            assert x.codes is not None
            codes = kernel(x.codes)
            g = grid.real(codes)
            # h = f(x) + float noise, hq = q(xq) + rounding; the clamp is respected by g and h
            d = moved_by(q, x).plus(apart(x.float)).widened(below + e, above + e)
            d = saturated(d, h, q.image(x.quantized).widened(below, above), grid.range)
            d = Interval(np.where(hidden, -np.inf, d.lo), np.where(hidden, np.inf, d.hi))
            return Gap(*tighten(h, g, d), codes)

        def float_transform(inputs: Sequence[Gap]) -> Gap:
            (x,) = inputs
            f.require(label(step), x.float, x.quantized)
            e = 0.0 if noise is None else noise([x.quantized])
            h, g = f.image(x.float), f.image(x.quantized).widened(e, e)
            return Gap(*tighten(h, g, moved_by(f, x).widened(e, e)))

        def lines(inputs: Sequence[Gap], out: Gap) -> Band:
            (x,) = inputs
            e = 0.0 if noise is None else noise([x.float])
            return curve_band((f, q), x, out, (below, above), e, apart(x.float), grid.range)

        return [Opaque(label(step), step.inputs, step.output, transform, float_transform, lines)]


def _shown(q: Shape, x: Gap) -> Gap:
    """The input, with the float side in place of a quantized one that the function is not defined for."""
    shown = q.inside(x.quantized)
    if shown.all():
        return x
    take = lambda a, b: Interval(np.where(shown, a.lo, b.lo), np.where(shown, a.hi, b.hi))  # noqa: E731
    zero = np.zeros(x.size)
    return Gap(x.float, take(x.quantized, x.float), take(x.delta, Interval(zero, zero)), x.codes)


def moved_by(f: Shape, x: Gap) -> Interval:
    """Bounds of ``f(h + delta) - f(h)``."""
    return times(f.steep(both_sides(x)), x.delta)


def both_sides(x: Gap) -> Interval:
    """All that either side can be."""
    return Interval(np.minimum(x.float.lo, x.quantized.lo), np.maximum(x.float.hi, x.quantized.hi))


def _apart(f: Shape, q: Shape) -> Callable[[Interval], Interval]:
    """Bounds of ``q(x) - f(x)``: the two models' parameters may differ (slopes of a PRELU are quantized)."""

    def run(x: Interval) -> Interval:
        zero = np.zeros_like(x.lo)
        if not (isinstance(f, Bent) and isinstance(q, Bent)) or np.array_equal(f.alpha, q.alpha):
            return Interval(zero, zero)
        below = Interval(np.minimum(x.lo, 0.0), np.minimum(x.hi, 0.0))
        slope = np.resize(q.alpha, x.lo.size) - np.resize(f.alpha, x.lo.size)
        return times(Interval(down(slope), up(slope)), below)

    return run


def saturated(d: Interval, h: Interval, q: Interval, limits: tuple[float, float]) -> Interval:
    """The gap after the quantized side's clamp: ``min(q, top) - h`` and ``max(q, bottom) - h``."""
    bottom, top = limits
    lo = np.where(q.hi > top, np.minimum(d.lo, down(top - h.hi)), d.lo)
    hi = np.where(q.lo < bottom, np.maximum(d.hi, up(bottom - h.lo)), d.hi)
    return Interval(lo, np.maximum(lo, hi))


def within(x: Interval, grid: CodeGrid) -> CodeBox:
    """All codes that a value in an interval may have, clamped."""
    lo, hi = np.ceil(down(x.lo / grid.unit)) + grid.zero, np.floor(up(x.hi / grid.unit)) + grid.zero
    return np.clip(lo, grid.lo, grid.hi).astype(np.int64), np.clip(hi, grid.lo, grid.hi).astype(np.int64)


def curve_band(
    shapes: tuple[Shape, Shape],
    x: Gap,
    out: Gap,
    rounding: tuple[F64, F64],
    noise: F64 | float,
    apart: Interval,
    limits: tuple[float, float],
) -> Band:
    """The chord over all that both sides can be, and what is left."""
    (f, q), (below, above) = shapes, rounding
    given, x, hidden = x, _shown(q, x), ~q.inside(x.quantized)
    both = both_sides(x)
    width = both.hi - both.lo
    narrow = (width > 0) & (both.magnitude < _WIDE)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where(narrow, (f.value(both.hi) - f.value(both.lo)) / np.where(width > 0, width, 1.0), 0.0)
    line = Interval(slope, slope)
    image_f, image_q = out.float.minus(times(line, x.float)), out.quantized.minus(times(line, given.quantized))
    h = f.rest(x.float, slope).widened(noise, noise)
    g = q.rest(x.quantized, slope).widened(below, above)
    exact = q.image(x.quantized).widened(below, above)
    bottom, top = limits
    clamped = (exact.lo < bottom) | (exact.hi > top) | hidden
    g = Interval(np.where(clamped, image_q.lo, g.lo), np.where(clamped, image_q.hi, g.hi))
    steep = q.steep(both)
    d = times(Interval(down(steep.lo - slope), up(steep.hi - slope)), x.delta).plus(apart)
    d = d.widened(below + noise, above + noise)
    plain = out.delta.minus(times(line, given.delta))
    d = Interval(np.where(clamped, plain.lo, d.lo), np.where(clamped, plain.hi, d.hi))
    usable = lambda a, b: Interval(np.maximum(a.lo, b.lo), np.minimum(a.hi, b.hi))  # noqa: E731
    return Band((diagonal(slope),), usable(h, image_f), usable(g, image_q), usable(d, plain))


def table_codes(node: Node, ctx: Context) -> Callable[[CodeBox], CodeBox]:
    """Least and largest output code for boxes of input codes, from the runtimes' own tables."""
    graph, sem = ctx.pair.quantized, SEMANTICS[node.op]
    assert isinstance(sem, Function | Table)
    x = graph.tensors[node.inputs[0]]
    tables = [sem.codes(node, graph, r) for r in ctx.runtime.members]
    least, most = (
        [_levels(t.reshape(len(t), -1).astype(np.int64), reduce) for t in tables] for reduce in (np.minimum, np.maximum)
    )
    first = x.dtype.code_range[0]

    def run(codes: CodeBox) -> CodeBox:
        lo, hi = codes[0] - first, codes[1] - first
        level = np.log2(hi - lo + 1).astype(np.int64)
        lows = [_range(t, lo, hi, level, np.minimum) for t in least]
        return np.minimum.reduce(lows), np.maximum.reduce([_range(t, lo, hi, level, np.maximum) for t in most])

    return run


def _levels(table: I64, reduce: np.ufunc) -> I64:
    """``[k, 256, C]``: the extreme of 2**k entries from each one on (those beyond the end repeat the last)."""
    levels = [table]
    step = 1
    while 2 * step <= len(table):
        ahead = np.concatenate([levels[-1][step:], np.repeat(levels[-1][-1:], step, axis=0)])
        levels.append(reduce(levels[-1], ahead))
        step *= 2
    return np.stack(levels)


def _range(levels: I64, lo: I64, hi: I64, level: I64, reduce: np.ufunc) -> I64:
    """The extreme of entries lo to hi, each entry of a tensor in its own channel."""
    channel = np.arange(lo.size) % levels.shape[2]
    return reduce(levels[level, lo, channel], levels[level, hi + 1 - (np.int64(1) << level), channel])


def curve_bounds(step: Step, ctx: Context) -> Callable[[Gap], tuple[Interval, Interval, Interval]] | None:
    """Bounds of h, hq and their gap from those of the input, in real arithmetic; None for other operators."""
    fn, qn = step.float_node, step.quantized_node
    assert fn is not None and qn is not None
    if not isinstance(SEMANTICS[qn.op], Table | Function | Prelu):
        return None
    f, q = _shape(fn, ctx.pair.float), _shape(qn, ctx.pair.quantized)
    if not isinstance(q, Bent):
        ctx.same(step, fn.attrs, qn.attrs, "options")
    apart = _apart(f, q)

    def bounds(x: Gap) -> tuple[Interval, Interval, Interval]:
        f.require(label(step), x.float, x.quantized)
        return f.image(x.float), q.image(x.quantized), moved_by(q, x).plus(apart(x.float))

    return bounds
