"""ADD: two scaled inputs, or one and a constant."""

from __future__ import annotations

import numpy as np

from qebgate.domains.layers import Affine, Layer
from qebgate.domains.linear_map import LinearMap, Scale, gather
from qebgate.ir.graph import Graph, Node
from qebgate.ir.pair import Step
from qebgate.numerics.rounding import F64
from qebgate.ops.base import Context, code_grid, label, monotone_kernel, rounding_of
from qebgate.semantics.add import AddAttrs


class AddLowering:
    op = "ADD"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        fa, qa = fn.attrs, qn.attrs
        assert isinstance(fa, AddAttrs) and isinstance(qa, AddAttrs)
        out = ctx.pair.quantized.tensors[qn.outputs[0]]
        maps = tuple(_broadcast(ctx.pair.tensors(i)[1].shape, out.shape) for i in step.inputs)
        below, above = rounding_of(qn, ctx.pair.quantized, ctx.runtime)
        return [
            Affine(
                label=label(step),
                inputs=step.inputs,
                output=step.output,
                f=maps,
                q=maps,
                bf=_constant(fn, ctx.pair.float, out.shape),
                bq=_constant(qn, ctx.pair.quantized, out.shape),
                float_range=fa.activation.range,
                below=below,
                above=above,
                grid=code_grid(out, qa.activation.code_range(out, ctx.runtime)),
                codes_of_inputs=monotone_kernel(qn, ctx.pair.quantized, ctx.runtime),
                noise=ctx.noise(step),
            )
        ]


def _broadcast(shape: tuple[int, ...], out: tuple[int, ...]) -> LinearMap:
    size = int(np.prod(shape, dtype=np.int64))
    if shape == out:
        return Scale(1.0, size)
    return gather(np.broadcast_to(np.arange(size).reshape(shape), out).ravel(), size)


def _constant(node: Node, graph: Graph, out: tuple[int, ...]) -> F64:
    """The sum of the node's constant operands, in real units."""
    total = np.zeros(out)
    for i in node.inputs:
        t = graph.tensors[i]
        if t.const is not None:
            total = total + (t.q.dequantize(t.const) if t.dtype.is_code else t.const.astype(np.float64))
    return total.ravel()
