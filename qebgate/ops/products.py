"""MUL: by a constant a diagonal map, of two tensors a product that is bounded and then requantized.

The gap of a product, ``x' y' - x y``, is ``dx y' + x dy`` and ``dx y + x' dy``; around the centres ``cx``, ``cy`` of
all that x, x' and y, y' can be, it is ``cy dx + cx dy`` and a rest of second order (McCormick's form of the gap).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import I64, Gap, Interval, tighten
from qebgate.domains.layers import Affine, Band, CodeBox, Layer, Opaque
from qebgate.domains.linear_map import Scale, diagonal
from qebgate.errors import UnsupportedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.pair import Step
from qebgate.numerics.rounding import F64, U64, down, up
from qebgate.ops.base import Context, clamp_grid, label, monotone_kernel, rounding_of
from qebgate.ops.sums import broadcast_index, constant_of
from qebgate.semantics.binary import BinaryAttrs, operands
from qebgate.semantics.float_error import product_error
from qebgate.semantics.mul import Mul


class MulLowering:
    op: str = "MUL"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        fa, qa = fn.attrs, qn.attrs
        assert isinstance(fa, BinaryAttrs) and isinstance(qa, BinaryAttrs)
        ctx.same(step, constant_count(fn, ctx.pair.float), constant_count(qn, ctx.pair.quantized), "constant operands")
        index = operand_indices(step, ctx)
        if len(index) > 1:
            return _product(step, ctx, qn, index)
        return [by_constant(step, ctx, index[0], _factors(fn, ctx.pair.float), _factors(qn, ctx.pair.quantized))]


def _factors(node: Node, graph: Graph) -> F64:
    """The constant operand's entry for every output entry."""
    constant = next(constant_of(graph, i) for i in node.inputs if graph.tensors[i].is_const)
    return np.broadcast_to(constant, graph.tensors[node.outputs[0]].shape).ravel()


def constant_count(node: Node, graph: Graph) -> int:
    """How many operands are constant."""
    return sum(graph.tensors[i].is_const for i in node.inputs)


def operand_indices(step: Step, ctx: Context) -> list[I64]:
    """Which entry of each live operand every output entry reads; the same in both graphs."""
    fy, qy = ctx.pair.tensors(step.output)
    found: list[I64] = []
    for i in step.inputs:
        a, b = (t.shape for t in ctx.pair.tensors(i))
        index = broadcast_index(b, qy.shape)
        if not np.array_equal(broadcast_index(a, fy.shape), index):
            ctx.same(step, a, b, "shapes of an input")
        found.append(index)
    return found


def by_constant(step: Step, ctx: Context, index: I64, f: F64, q: F64) -> Affine:
    """Every output entry is an input's entry times a factor, on either side, rounded to a code."""
    fn, qn = step.float_node, step.quantized_node
    assert fn is not None and qn is not None
    qy = ctx.pair.tensors(step.output)[1]
    size = ctx.pair.tensors(step.inputs[0])[1].size
    fa, qa = fn.attrs, qn.attrs
    assert isinstance(fa, BinaryAttrs) and isinstance(qa, BinaryAttrs)
    below, above = rounding_of(qn, ctx.pair.quantized, ctx.runtime)
    kernel = monotone_kernel(qn, ctx.pair.quantized, ctx.runtime)
    zero = np.zeros(qy.size)
    return Affine(
        label=label(step),
        inputs=step.inputs,
        output=step.output,
        f=(diagonal(f, index, size),),
        q=(diagonal(q, index, size),),
        bf=zero,
        bq=zero,
        float_range=fa.activation.range,
        below=below,
        above=above,
        grid=clamp_grid(qn, ctx.pair.quantized, ctx.runtime, qa.activation),
        codes_between=None if kernel is None else by_sign(kernel, q >= 0),
        noise=ctx.noise(step),
    )


def by_sign(
    kernel: Callable[[Sequence[I64]], I64], rising: NDArray[np.bool_]
) -> Callable[[Sequence[CodeBox]], CodeBox]:
    """The kernel falls where its constant is negative."""

    def run(codes: Sequence[CodeBox]) -> CodeBox:
        lo, hi = (kernel([c]) for c in codes[0])
        return np.where(rising, lo, hi), np.where(rising, hi, lo)

    return run


def _product(step: Step, ctx: Context, qn: Node, index: list[I64]) -> list[Layer]:
    """The exact product, and then its rounding and clamp."""
    graph = ctx.pair.quantized
    fa, qa = (n.attrs for n in (step.float_node, qn) if n is not None)
    assert isinstance(fa, BinaryAttrs) and isinstance(qa, BinaryAttrs)
    grid = clamp_grid(qn, graph, ctx.runtime, qa.activation)
    if grid is None or not all(graph.tensors[i].dtype.is_code for i in qn.inputs):
        raise UnsupportedError(
            "QEB435",
            "no bounds are implemented for MUL in float32 inside a quantized model",
            where=f"{graph.source.label}: {qn.origin}",
        )
    a, b, y = operands(qn, graph)
    inner, size = ctx.fresh(), y.size
    same = step.inputs[0] == step.inputs[1]

    sizes = [ctx.pair.tensors(i)[1].size for i in step.inputs]

    def transform(inputs: Sequence[Gap]) -> Gap:
        return bounded(*(picked(g, i, n) for g, i, n in zip(inputs, index, sizes, strict=True)), square=same)

    def lines(inputs: Sequence[Gap], out: Gap) -> Band:
        del out
        return product_band(inputs, index)

    below, above = rounding_of(qn, graph, ctx.runtime)
    zero = np.zeros(size)
    kernel = Mul()

    def codes(product: I64) -> I64:
        found = [kernel.of_products(qn, graph, np.clip(product, -(1 << 20), 1 << 20), r) for r in ctx.runtime.members]
        assert len(found) == 1
        return found[0]

    one = Scale(1.0, size)
    float32 = ctx.float32
    return [
        Opaque(label(step), step.inputs, inner, transform, transform, lines),
        Affine(
            label=label(step),
            inputs=(inner,),
            output=step.output,
            f=(one,),
            q=(one,),
            bf=zero,
            bq=zero,
            float_range=fa.activation.range,
            below=below,
            above=above,
            grid=grid,
            codes_of_accumulator=codes if len(ctx.runtime.members) == 1 else None,
            accumulator_unit=np.full(size, a.q.s * b.q.s),
            noise=(lambda computed: product_error(computed[0].magnitude)) if float32 else None,
        ),
    ]


def picked(g: Gap, index: I64, size: int) -> Gap:
    """The entries that the product reads, of one operand or of many one behind the other."""
    if g.size != size:
        index = (np.arange(g.size // size)[:, None] * size + index).ravel()
    take = lambda x: Interval(x.lo[index], x.hi[index])  # noqa: E731
    return Gap(take(g.float), take(g.quantized), take(g.delta))


def times(x: Interval, y: Interval) -> Interval:
    """All products, rounded outwards."""
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.stack([x.lo * y.lo, x.lo * y.hi, x.hi * y.lo, x.hi * y.hi])
    corners = np.where(np.isnan(corners), 0.0, corners)  # 0 times infinity
    lo, hi = corners.min(axis=0), corners.max(axis=0)
    return Interval(np.where(lo == 0, lo, down(lo)), np.where(hi == 0, hi, up(hi)))


def bounded(x: Gap, y: Gap, *, square: bool) -> Gap:
    """The exact product of two values; ``square`` where they are the same."""
    h, g = times(x.float, y.float), times(x.quantized, y.quantized)
    if square:
        h, g = (Interval(np.maximum(v.lo, 0.0), v.hi) for v in (h, g))
    d = times(x.delta, y.quantized).plus(times(x.float, y.delta))
    d = d.meet(times(x.delta, y.float).plus(times(x.quantized, y.delta)))
    return Gap(*tighten(h, g, d))


def product_band(inputs: Sequence[Gap], index: Sequence[I64]) -> Band:
    """``x y`` is within a rest of ``cy x + cx y``, and its gap of ``cy dx + cx dy``."""
    x, y = (picked(g, i, g.size) for g, i in zip(inputs, index, strict=True))
    (cx, rx), (cy, ry) = _middle(x), _middle(y)
    maps = tuple(diagonal(c, i, g.size) for c, i, g in zip((cy, cx), index, inputs, strict=True))
    corner = cx * cy
    spread = up(up(rx * ry) + 8 * U64 * (np.abs(corner) + (np.abs(cx) + rx) * (np.abs(cy) + ry)))
    value = Interval(down(-corner - spread), up(spread - corner))
    # x' y' - x y - cy dx - cx dy = dx (y' - cy) + (x - cx) dy, and the same with the sides exchanged
    centred = lambda v, c: v.minus(Interval(c, c))  # noqa: E731
    d = times(x.delta, centred(y.quantized, cy)).plus(times(centred(x.float, cx), y.delta))
    d = d.meet(times(x.delta, centred(y.float, cy)).plus(times(centred(x.quantized, cx), y.delta)))
    return Band(maps, value, value, d)


def _middle(x: Gap) -> tuple[F64, F64]:
    """Centre of all that both sides can be, and how far they are from it."""
    lo, hi = np.minimum(x.float.lo, x.quantized.lo), np.maximum(x.float.hi, x.quantized.hi)
    c = 0.5 * (lo + hi)
    return c, up(np.maximum(hi - c, c - lo))
