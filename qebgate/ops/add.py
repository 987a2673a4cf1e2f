"""ADD: two scaled inputs, or one and a constant."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from qebgate.domains.gap import I64
from qebgate.domains.layers import Affine, Layer
from qebgate.domains.linear_map import LinearMap, Scale, gather
from qebgate.ir.graph import Graph, Node
from qebgate.ir.pair import Step
from qebgate.numerics.rounding import F64
from qebgate.ops.base import Context, clamp_grid, label, monotone_kernel, rounding_of
from qebgate.semantics.add import AddAttrs


class AddLowering:
    op: ClassVar[str] = "ADD"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        fa, qa = fn.attrs, qn.attrs
        assert isinstance(fa, AddAttrs) and isinstance(qa, AddAttrs)
        fy, qy = ctx.pair.tensors(step.output)
        shapes = [tuple(t.shape for t in ctx.pair.tensors(i)) for i in step.inputs]
        for a, b in shapes:  # one of the two graphs may have reshaped an input
            if not np.array_equal(_index(a, fy.shape), _index(b, qy.shape)):
                ctx.same(step, a, b, "shapes of an input")
        maps = tuple(_broadcast(s, qy.shape) for _, s in shapes)
        below, above = rounding_of(qn, ctx.pair.quantized, ctx.runtime)
        return [
            Affine(
                label=label(step),
                inputs=step.inputs,
                output=step.output,
                f=maps,
                q=maps,
                bf=_constant(fn, ctx.pair.float, fy.shape),
                bq=_constant(qn, ctx.pair.quantized, qy.shape),
                float_range=fa.activation.range,
                below=below,
                above=above,
                grid=clamp_grid(qn, ctx.pair.quantized, ctx.runtime, qa.activation),
                codes_of_inputs=monotone_kernel(qn, ctx.pair.quantized, ctx.runtime),
                noise=ctx.noise(step),
            )
        ]


def _broadcast(shape: tuple[int, ...], out: tuple[int, ...]) -> LinearMap:
    size = int(np.prod(shape, dtype=np.int64))
    if shape == out:
        return Scale(1.0, size)
    return gather(_index(shape, out), size)


def _index(shape: tuple[int, ...], out: tuple[int, ...]) -> I64:
    """Which entry of an operand every output entry reads."""
    size = int(np.prod(shape, dtype=np.int64))
    return np.broadcast_to(np.arange(size, dtype=np.int64).reshape(shape), out).ravel()


def _constant(node: Node, graph: Graph, out: tuple[int, ...]) -> F64:
    """The sum of the node's constant operands, in real units."""
    total = np.zeros(out)
    for i in node.inputs:
        t = graph.tensors[i]
        if t.const is not None:
            total = total + (t.q.dequantize(t.const) if t.dtype.is_code else t.const.astype(np.float64))
    return total.ravel()
