"""What the operators with weights share: real-valued maps, biases and exact requantization."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import I64
from qebgate.domains.layers import Affine
from qebgate.domains.linear_map import LinearMap
from qebgate.ir.graph import Node
from qebgate.ir.pair import Step
from qebgate.numerics.rounding import F64
from qebgate.ops.base import Context, code_grid, label, rounding_of, spread
from qebgate.semantics.accumulate import requantize
from qebgate.semantics.base import Activation
from qebgate.semantics.linear import LinearNode

MakeMap = Callable[[F64], LinearMap]
"""Builds the operator's map from real weights in the file's layout."""


def lower_linear(
    step: Step,
    ctx: Context,
    make: MakeMap,
    activation: tuple[Activation, Activation],
    *,
    axis: int,
    dense: bool,
    tail: NDArray[np.bool_] | None = None,
) -> Affine:
    """A layer with weights.  ``activation`` is (float, quantized); ``axis`` the weights' channel axis.

    The float products ``code * scale`` of weights are exact in float64 (8 + 24 bits), those of the bias
    are rounded once, which the layer's roundoff term covers.
    """
    fn, qn = step.float_node, step.quantized_node
    assert fn is not None and qn is not None
    f, q = LinearNode.of(fn, ctx.pair.float), LinearNode.of(qn, ctx.pair.quantized)
    size = q.y.size
    channels = q.weights.shape[axis]
    bf = np.zeros(channels) if f.bias is None else f.bias.astype(np.float64)
    below, above = rounding_of(qn, ctx.pair.quantized, ctx.runtime)
    if not q.x.dtype.is_code:
        return Affine(
            label=label(step),
            inputs=step.inputs,
            output=step.output,
            f=(make(f.weights.astype(np.float64)),),
            q=(make(_exact_weights(q)),),
            bf=spread(bf, size),
            bq=spread(np.zeros(channels) if q.bias is None else q.bias.astype(np.float64), size),
            float_range=activation[0].range,
            below=below,
            above=above,
            grid=None,
            noise=ctx.noise(step),
        )
    scale, _ = q.w.q.along(q.weights.ndim)
    kernel = q.kernel(ctx.runtime)
    unit = np.broadcast_to(q.x.q.s * q.w.q.scale, (channels,))
    bq = np.zeros(channels) if q.bias is None else q.bias.astype(np.float64) * unit
    codes = activation[1].code_range(q.y, kernel)
    return Affine(
        label=label(step),
        inputs=step.inputs,
        output=step.output,
        f=(make(f.weights.astype(np.float64)),),
        q=(make(q.weights.astype(np.float64) * scale),),
        bf=spread(bf, size),
        bq=spread(bq, size),
        float_range=activation[0].range,
        below=below,
        above=above,
        grid=code_grid(q.y, codes),
        codes_of_accumulator=None
        if len(ctx.runtime.members) > 1
        else _requantizer(q, qn, ctx, codes, dense=dense, tail=tail),
        accumulator_unit=spread(unit, size),
        noise=ctx.noise(step),
    )


def _exact_weights(q: LinearNode) -> F64:
    """Real weights of a node in float32: the exact products of codes and scales where those are stored."""
    stored = q.w.stored
    if stored is None or stored.quant is None:
        return q.weights.astype(np.float64)
    scale, _ = stored.quant.along(q.weights.ndim)
    codes = np.rint(q.weights.astype(np.float64) / scale)
    return codes * scale


def _requantizer(
    q: LinearNode, node: Node, ctx: Context, codes: tuple[int, int], *, dense: bool, tail: NDArray[np.bool_] | None
) -> Callable[[I64], I64]:
    out, kernel = ctx.pair.quantized.tensors[node.outputs[0]], q.kernel(ctx.runtime)

    def run(acc: I64) -> I64:
        most = 2**46 if q.wide else 2**31 - 1
        shaped = np.clip(acc, -most, most).reshape(1, *out.shape)
        scales = q.x.q.s, q.w.q.scale, out.q.s, out.q.z
        got = requantize(shaped, *scales, codes, kernel, dense=dense, wide=q.wide, tail=tail)
        return got.ravel().astype(np.int64)

    return run
