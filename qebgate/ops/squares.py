"""SQUARED_DIFFERENCE: the exact difference, and the square of it as a function of one entry; SQUARE, and NEG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qebgate.domains.gap import Gap, Interval, tighten
from qebgate.domains.layers import Affine, Band, Layer, Opaque
from qebgate.domains.linear_map import LinearMap, Scale
from qebgate.ir.pair import Step
from qebgate.numerics.rounding import F64
from qebgate.ops.base import Context, code_grid, label, moved, rounding_of
from qebgate.ops.curves import curve_band, moved_by, saturated, within
from qebgate.ops.floating import TWICE
from qebgate.ops.roots import Square
from qebgate.ops.sums import SubLowering
from qebgate.semantics.float_error import difference_error, product_error

SQUARE = Square()
_FREE = (-np.inf, np.inf)


class SquaredDifferenceLowering:
    op: str = "SQUARED_DIFFERENCE"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        qn, inner = step.quantized_node, ctx.fresh()
        assert qn is not None
        own = TWICE if ctx.pair.quantized.computes_in_float(qn) else 0.0
        return [_difference(step, ctx, inner, own), _square(step, ctx, inner, own)]


class SquareLowering:
    """In float32 on both sides."""

    op: str = "SQUARE"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        return [_square(step, ctx, step.inputs[0], TWICE)]


class NegLowering:
    """In float32 on both sides: exact, but for subnormal numbers that are flushed."""

    op: str = "NEG"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        minus = Scale(-1.0, ctx.pair.tensors(step.output)[1].size)
        return [replace(moved(step, ctx, minus, minus), codes_of_inputs=None, noise=ctx.noise(step))]


def _square(step: Step, ctx: Context, source: int, own: float) -> Opaque:
    """``own``: how many errors of a product the quantized side makes, 0 where it rounds to codes."""
    qn = step.quantized_node
    assert qn is not None
    graph = ctx.pair.quantized
    below, above = rounding_of(qn, graph, ctx.runtime)
    grid, float32 = code_grid(graph.tensors[qn.outputs[0]]), ctx.float32

    def errors(x: Gap) -> tuple[F64 | float, F64 | float]:
        """Of the product, on either side."""
        e = product_error(x.float.magnitude**2) if float32 else 0.0
        return e, own * product_error(x.quantized.magnitude**2) if own else 0.0

    def transform(inputs: Sequence[Gap]) -> Gap:
        (x,) = inputs
        e, eq = errors(x)
        h, q = SQUARE.image(x.float).widened(e, e), SQUARE.image(x.quantized).widened(below + eq, above + eq)
        h = h.clamp(0.0, np.inf)  # a product of two equal numbers, however it is rounded
        d = moved_by(SQUARE, x).widened(below + e + eq, above + e + eq)
        if grid is None:
            return Gap(*tighten(h, q.clamp(0.0, np.inf), d))
        codes = within(q, grid)
        return Gap(*tighten(h, grid.real(codes), saturated(d, h, q, grid.range)), codes)

    def float_transform(inputs: Sequence[Gap]) -> Gap:
        (x,) = inputs
        e = product_error(x.quantized.magnitude**2) if float32 else 0.0
        h, g = SQUARE.image(x.float), SQUARE.image(x.quantized).widened(e, e).clamp(0.0, np.inf)
        return Gap(*tighten(h, g, moved_by(SQUARE, x).widened(e, e)))

    def lines(inputs: Sequence[Gap], out: Gap) -> Band:
        (x,) = inputs
        e, eq = errors(x)
        zero = Interval(np.zeros(x.size), np.zeros(x.size))
        limits = _FREE if grid is None else grid.range
        return curve_band((SQUARE, SQUARE), x, out, (below + eq, above + eq), e, zero, limits)

    return Opaque(label(step), (source,), step.output, transform, float_transform, lines)


def _difference(step: Step, ctx: Context, inner: int, own: float) -> Affine:
    """Exact but for float32's own rounding."""
    (layer,) = SubLowering().lower(step, ctx)
    assert isinstance(layer, Affine)
    zero = np.zeros(layer.m)

    def error(maps: Sequence[LinearMap], bias: F64, computed: Sequence[Interval]) -> F64:
        centre, reach, size = bias.copy(), zero.copy(), np.abs(bias)
        for m, x in zip(maps, computed, strict=True):
            centre = centre + m.forward(x.centre[None])[0]
            reach = reach + m.absolute.forward(0.5 * x.width[None])[0]
            size = size + m.absolute.forward(x.magnitude[None])[0]
        return difference_error(np.abs(centre) + reach + 2.0**-48 * size)

    return replace(
        layer,
        output=inner,
        below=zero,
        above=zero,
        grid=None,
        codes_of_inputs=None,
        codes_between=None,
        noise=(lambda x: error(layer.f, layer.bf, x)) if ctx.float32 else None,
        quantized_noise=(lambda x: own * error(layer.q, layer.bq, x)) if own else None,
    )
