"""Nodes of a quantized model that compute in float32: the same maps on real numbers, without codes.

Their evaluation error is a rounding of the result, of the same bound as that of the float reference; twice that, for
weights that are rounded when they are dequantized, or multiplied by their scale only after the sum.  A hybrid
operator's codes on the fly are part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from qebgate.domains.gap import Gap, Interval, tighten
from qebgate.domains.layers import Affine, Layer, Noise, Opaque
from qebgate.ir.graph import Graph, Node
from qebgate.ir.pair import Step
from qebgate.numerics.rounding import F64
from qebgate.ops.base import Context, label
from qebgate.ops.curves import curve_bounds
from qebgate.ops.squashing import BOUNDS
from qebgate.semantics.base import Activation
from qebgate.semantics.float_error import Computed, float_error
from qebgate.semantics.hybrid import hybrid_error

TWICE = 2.0
Bounds = Callable[[Gap], tuple[Interval, Interval, Interval]]


def evaluation(node: Node, graph: Graph) -> Noise:
    """Bound of a quantized node's own float32 error, from the intervals of its live inputs as they are computed."""
    shapes = [graph.tensors[i].shape for i in graph.live_inputs_of(node)]

    def error(computed: Sequence[Interval]) -> F64:
        it = iter(Computed(x.lo, x.hi).reshape(*s) for x, s in zip(computed, shapes, strict=True))
        given = [None if i < 0 or graph.tensors[i].is_const else next(it) for i in node.inputs]
        e = TWICE * float_error(node, graph, given)
        if graph.is_hybrid(node):
            x = given[0]
            assert x is not None
            e = e + hybrid_error(node, graph, x.lo, x.hi)
        return e.ravel()

    return error


def affine_in_float(layers: Sequence[Layer], step: Step, ctx: Context) -> list[Layer]:
    """What an operator's own lowering gave, with the quantized side in float32."""
    node, graph = step.quantized_node, ctx.pair.quantized
    assert node is not None
    *before, last = layers
    if not isinstance(last, Affine):
        return [*before, last]
    activation = getattr(node.attrs, "activation", None)
    limits = activation.range if isinstance(activation, Activation) else last.quantized_range
    nothing = np.zeros(last.m)
    noise = evaluation(node, graph)
    out = replace(
        last,
        grid=None,
        below=nothing,
        above=nothing,
        codes_of_inputs=None,
        codes_of_accumulator=None,
        accumulator_unit=None,
        quantized_range=limits,
        quantized_noise=noise,
    )
    return [*before, out]


def opaque_in_float(step: Step, ctx: Context) -> list[Layer] | None:
    """SOFTMAX and functions of one entry in float32 on both sides; None for other operators."""
    fn, qn = step.float_node, step.quantized_node
    assert qn is not None
    if fn is None:
        return None
    known = BOUNDS.get(qn.op, curve_bounds)
    bounds: Bounds | None = known(step, ctx)
    if bounds is None:
        return None
    noise, own = ctx.noise(step), evaluation(qn, ctx.pair.quantized)

    def result(x: Gap, e: F64 | float, eq: F64) -> Gap:
        h, g, d = bounds(x)
        h, g, d = tighten(h.widened(e, e), g.widened(eq, eq), d.widened(e + eq, e + eq))
        return Gap(h, g, d)

    def transform(inputs: Sequence[Gap]) -> Gap:
        (x,) = inputs
        return result(x, 0.0 if noise is None else noise([x.float]), own([x.quantized]))

    def float_transform(inputs: Sequence[Gap]) -> Gap:
        (x,) = inputs
        zero = np.zeros(x.size)
        return result(x, zero, zero if noise is None else noise([x.quantized]))

    return [Opaque(label(step), step.inputs, step.output, transform, float_transform)]


def lowered(step: Step, ctx: Context, lower: Callable[[Step, Context], list[Layer]]) -> list[Layer]:
    """The layers of a step, however its quantized node computes; ``lower`` is its operator's own lowering."""
    node = step.quantized_node
    if node is None or not ctx.pair.quantized.computes_in_float(node):
        return lower(step, ctx)
    found = opaque_in_float(step, ctx)
    return affine_in_float(lower(step, ctx), step, ctx) if found is None else found
