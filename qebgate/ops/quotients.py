"""DIV: by a constant a diagonal map, by what is computed a product with a reciprocal.

The reciprocal is a function of one entry with a line and a rest, and ``x r`` has McCormick's lines: the quotient is a
linear function of both operands and a rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import I64, Gap, Interval, tighten
from qebgate.domains.layers import Affine, Band, Layer, Noise, Opaque
from qebgate.domains.linear_map import diagonal
from qebgate.errors import UnsupportedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.pair import Step
from qebgate.numerics.rounding import F64, up
from qebgate.ops.base import Context, clamp_grid, label, rounding_of
from qebgate.ops.curves import both_sides, moved_by, saturated, within
from qebgate.ops.floating import evaluation
from qebgate.ops.products import bounded, by_constant, constant_count, operand_indices, picked, product_band, times
from qebgate.ops.roots import Reciprocal
from qebgate.ops.sums import constant_of
from qebgate.semantics.binary import BinaryAttrs, reach
from qebgate.semantics.div import Div

INVERSE = 2.0**-52
"""Relative error of ``1 / c`` in float64, and of the product with it."""
RECIPROCAL = Reciprocal()


class DivLowering:
    op: str = "DIV"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        f, q = ctx.pair.float, ctx.pair.quantized
        ctx.same(step, constant_count(fn, f), constant_count(qn, q), "constant operands")
        ctx.same(step, f.tensors[fn.inputs[0]].is_const, q.tensors[qn.inputs[0]].is_const, "constant operands")
        index = operand_indices(step, ctx)
        if q.tensors[qn.inputs[1]].is_const:
            return [_by_constant(step, ctx, fn, qn, index[0])]
        return [_by_computed(step, ctx, fn, qn, index)]


def _operand(node: Node, graph: Graph, k: int) -> F64:
    """A constant operand's entry for every output entry."""
    return np.broadcast_to(constant_of(graph, node.inputs[k]), graph.tensors[node.outputs[0]].shape).ravel()


def _by_constant(step: Step, ctx: Context, fn: Node, qn: Node, index: I64) -> Affine:
    f, q = 1.0 / _operand(fn, ctx.pair.float, 1), 1.0 / _operand(qn, ctx.pair.quantized, 1)
    layer = by_constant(step, ctx, index, f, q)
    noise: Noise = layer.noise or (lambda x: up(x[0].magnitude[index] * np.abs(f) * INVERSE))
    x = ctx.pair.quantized.tensors[qn.inputs[0]]
    if layer.grid is None or not x.dtype.is_code:
        return replace(layer, noise=noise)
    inexact = up(reach(x) * x.q.s * np.abs(q) * INVERSE)
    below, above = up(layer.below + inexact), up(layer.above + inexact)
    kernel = layer.codes_between if _monotone(qn, ctx.pair.quantized) else None
    return replace(layer, noise=noise, below=below, above=above, codes_between=kernel)


def _monotone(node: Node, graph: Graph) -> bool:
    """Whether the kernel's codes rise with the input's for all positive divisors, and fall for the negative ones."""
    table, divisors = Div().table(node, graph)
    return bool((np.diff(table, axis=0) * np.sign(divisors) >= 0).all())


def _by_computed(step: Step, ctx: Context, fn: Node, qn: Node, index: Sequence[I64]) -> Opaque:
    """The quantized side in float32, or rounded to codes."""
    fa, qa = fn.attrs, qn.attrs
    assert isinstance(fa, BinaryAttrs) and isinstance(qa, BinaryAttrs)
    ctx.same(step, fa.activation, qa.activation, "fused activations")
    grid, limits = clamp_grid(qn, ctx.pair.quantized, ctx.runtime, qa.activation), fa.activation.range
    free = not np.isfinite(limits).any()
    sizes = [ctx.pair.tensors(i)[1].size for i in step.inputs]
    constant = _constant(ctx, fn, qn) if len(index) == 1 else None
    if constant is not None and sizes[0] != constant.size:
        where = f"{ctx.pair.quantized.source.label}: {qn.origin}"
        raise UnsupportedError("QEB435", "no bounds are implemented for DIV by what is broadcast", where=where)
    noise = ctx.noise(step)
    own = evaluation(qn, ctx.pair.quantized) if grid is None else None
    rounding = rounding_of(qn, ctx.pair.quantized, ctx.runtime)

    def parts(given: Sequence[Gap]) -> tuple[Gap, Gap, Gap]:
        """Numerator, divisor, and its reciprocal, one entry for every output entry."""
        *x, y = (picked(g, i, n) for g, i, n in zip(given, index, sizes, strict=True))
        RECIPROCAL.require(label(step), both_sides(y))
        r = tighten(RECIPROCAL.image(y.float), RECIPROCAL.image(y.quantized), moved_by(RECIPROCAL, y))
        return (x[0] if constant is None else _repeated(constant, y.size)), y, Gap(*r)

    def quotient(given: Sequence[Gap], e: F64 | float, eq: tuple[F64 | float, F64 | float]) -> Gap:
        """Before clamps."""
        x, _, r = parts(given)
        z = bounded(x, r, square=False)
        return Gap(z.float.widened(e, e), z.quantized.widened(*eq), z.delta.widened(e + eq[0], e + eq[1]))

    def in_float(z: Gap) -> Gap:
        if free:
            return Gap(*tighten(z.float, z.quantized, z.delta))
        # a clamp does not move two values apart
        h, g, d = z.float.clamp(*limits), z.quantized.clamp(*limits), z.delta
        return Gap(*tighten(h, g, Interval(np.minimum(d.lo, 0.0), np.maximum(d.hi, 0.0))))

    def errors(given: Sequence[Gap]) -> tuple[F64 | float, tuple[F64 | float, F64 | float]]:
        e = 0.0 if noise is None else noise([x.float for x in given])
        if own is None:
            return e, rounding
        eq = own([x.quantized for x in given])
        return e, (eq, eq)

    def transform(given: Sequence[Gap]) -> Gap:
        z = quotient(given, *errors(given))
        if grid is None:
            return in_float(z)
        codes, h = within(z.quantized, grid), z.float.clamp(*limits)
        d = saturated(z.delta, h, z.quantized, grid.range) if free else grid.real(codes).minus(h)
        return Gap(*tighten(h, grid.real(codes), d), codes)

    def float_transform(given: Sequence[Gap]) -> Gap:
        e = 0.0 if noise is None else _each(noise, [x.quantized for x in given], sizes)
        return in_float(quotient(given, 0.0, (e, e)))

    def lines(given: Sequence[Gap], out: Gap) -> Band:
        (e, eq), (x, y, r) = errors(given), parts(given)
        band, slopes = _band(x, y, r, (e, eq), index, sizes)
        if grid is None:
            return band
        q = bounded(x, r, square=False).quantized.widened(*eq)
        return _clamped(band, slopes, (x, y), out, (q.lo < grid.range[0]) | (q.hi > grid.range[1]))

    return Opaque(label(step), step.inputs, step.output, transform, float_transform, lines if free else None)


def _constant(ctx: Context, fn: Node, qn: Node) -> Gap:
    """A constant numerator."""
    f, q = _operand(fn, ctx.pair.float, 0), _operand(qn, ctx.pair.quantized, 0)
    h, g = Interval.point(f), Interval.point(q)
    return Gap(h, g, g.minus(h))


def _each(noise: Noise, given: Sequence[Interval], sizes: Sequence[int]) -> F64:
    """The error of one input, or of several, one behind the other."""
    count = given[0].lo.size // sizes[0]
    rows = [[Interval(x.lo.reshape(count, -1)[k], x.hi.reshape(count, -1)[k]) for x in given] for k in range(count)]
    return np.concatenate([noise(row) for row in rows])


def _repeated(x: Gap, size: int) -> Gap:
    """The same for several inputs, one behind the other."""
    tile = lambda v: Interval(np.resize(v.lo, size), np.resize(v.hi, size))  # noqa: E731
    return Gap(tile(x.float), tile(x.quantized), tile(x.delta))


def _band(
    x: Gap,
    y: Gap,
    r: Gap,
    noise: tuple[F64 | float, tuple[F64 | float, F64 | float]],
    index: Sequence[I64],
    sizes: Sequence[int],
) -> tuple[Band, tuple[F64, F64]]:
    """``x r`` is a rest away from ``cr x + cx r``, and r a rest away from ``slope y``; also the slopes in x and y."""
    here, (e, eq) = [np.arange(y.size)] * 2, noise
    product = product_band([x, r], here)
    cr, cx = (m.forward(np.ones((1, y.size)))[0] for m in product.maps)
    all_y = both_sides(y)
    slope = -1.0 / (all_y.lo * all_y.hi)
    factor = cx * slope
    line, of_r = Interval(slope, slope), Interval(cx, cx)
    off = np.abs(factor) * INVERSE
    wrong = Interval(-off, off)  # the product of the two is rounded

    def rest(value: Interval, left: Interval, of_y: Interval, of_x: Interval) -> Interval:
        total = value.plus(times(of_r, left)).plus(times(wrong, of_y))
        return total.plus(times(Interval(cr, cr), of_x)) if len(sizes) == 1 else total

    steep = RECIPROCAL.steep(all_y)
    h = rest(product.float, RECIPROCAL.rest(y.float, slope), y.float, x.float).widened(e, e)
    g = rest(product.quantized, RECIPROCAL.rest(y.quantized, slope), y.quantized, x.quantized).widened(*eq)
    left = times(steep.minus(line), y.delta)
    d = rest(product.delta, left, y.delta, x.delta).widened(e + eq[0], e + eq[1])
    maps = [diagonal(factor, index[-1], sizes[-1])]
    if len(sizes) == 2:
        maps.insert(0, diagonal(cr, index[0], sizes[0]))
    return Band(tuple(maps), h, g, d), (cr if len(sizes) == 2 else np.zeros_like(cr), factor)


def _clamped(band: Band, slopes: tuple[F64, F64], given: tuple[Gap, Gap], out: Gap, where: NDArray[np.bool_]) -> Band:
    """What is left of the result itself where the quantized side may be clamped."""

    def left(value: Interval, x: Interval, y: Interval) -> Interval:
        one, two = (times(Interval(s, s), v) for s, v in zip(slopes, (x, y), strict=True))
        return value.minus(one.plus(two))

    x, y = given
    pick = lambda a, b: Interval(np.where(where, a.lo, b.lo), np.where(where, a.hi, b.hi))  # noqa: E731
    g = pick(left(out.quantized, x.quantized, y.quantized), band.quantized)
    return Band(band.maps, band.float, g, pick(left(out.delta, x.delta, y.delta), band.delta))
