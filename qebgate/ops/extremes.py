"""MAXIMUM, MINIMUM, REDUCE_MAX, REDUCE_MIN: selections, as max pools over one value (negated for the least)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.domains.gap import I64
from qebgate.domains.layers import Affine, CodeGrid, Layer, MaxPool
from qebgate.domains.linear_map import LinearMap, Scale, gather
from qebgate.ir.graph import Graph, Node
from qebgate.ir.pair import Step
from qebgate.numerics.rounding import F64
from qebgate.ops.averages import reduced
from qebgate.ops.base import Context, code_grid, label, needed_grid
from qebgate.ops.sums import broadcast_index, constant_of

_FREE = (-np.inf, np.inf)


class ReduceLowering:
    """REDUCE_MAX and REDUCE_MIN."""

    def __init__(self, op: str) -> None:
        self.op = op

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        qn = step.quantized_node
        assert qn is not None
        needed_grid(qn, ctx.pair.quantized)
        index = reduced(step, ctx)
        if self.op == "REDUCE_MAX":
            grid = code_grid(ctx.pair.quantized.tensors[qn.inputs[0]])
            return [MaxPool(label(step), step.inputs, step.output, index, grid)]
        size = ctx.pair.tensors(step.inputs[0])[1].size
        zero, inner = np.zeros(size), ctx.fresh()
        return [_gathered(step, ctx, (Scale(-1.0, size),), zero, zero, inner, -1), *_pooled(step, ctx, index, inner)]


class SelectLowering:
    """MAXIMUM and MINIMUM: both operands one behind the other, and then pairs of entries."""

    def __init__(self, op: str) -> None:
        self.op = op

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        needed_grid(qn, ctx.pair.quantized)
        fy, qy = ctx.pair.tensors(step.output)
        n, sign = qy.size, 1 if self.op == "MAXIMUM" else -1
        maps: list[LinearMap] = []
        for k, i in enumerate(step.inputs):
            a, b = (t.shape for t in ctx.pair.tensors(i))
            index = broadcast_index(b, qy.shape)
            if not np.array_equal(broadcast_index(a, fy.shape), index):
                ctx.same(step, a, b, "shapes of an input")
            size = ctx.pair.tensors(i)[1].size
            # the live operands come first, then the constant one
            behind = np.concatenate([np.zeros(k * n, np.int64), index, np.zeros((1 - k) * n, np.int64)])
            keep = np.arange(2 * n) // n == k
            maps.append(gather(behind, size, keep=keep, factor=float(sign)))
        sides = (fn, ctx.pair.float, fy.shape), (qn, ctx.pair.quantized, qy.shape)
        f, q = (_behind(node, graph, shape) * sign for node, graph, shape in sides)
        ctx.same(step, len(f), len(q), "constant operands")
        bf, bq = (np.concatenate([np.zeros(2 * n - len(v)), v]) for v in (f, q))
        inner = ctx.fresh()
        index = np.stack([np.arange(n), np.arange(n) + n], axis=1)
        layer = _gathered(step, ctx, tuple(maps), bf, bq, inner, sign)
        if sign < 0:
            return [layer, *_pooled(step, ctx, index, inner)]
        return [layer, MaxPool(label(step), (inner,), step.output, index, layer.grid)]


def _behind(node: Node, graph: Graph, shape: tuple[int, ...]) -> F64:
    """The constant operand's entries; none where there is none."""
    found = [constant_of(graph, i) for i in node.inputs if graph.tensors[i].is_const]
    return np.broadcast_to(found[0], shape).ravel() if found else np.zeros(0)


def _gathered(step: Step, ctx: Context, maps: Sequence[LinearMap], bf: F64, bq: F64, output: int, sign: int) -> Affine:
    """Entries moved to other places, or negated: on codes without any rounding."""
    out = code_grid(ctx.pair.tensors(step.output)[1])
    assert out is not None
    grid = out if sign > 0 else CodeGrid(out.unit, -out.zero, -out.hi, -out.lo)
    zero = np.zeros(bf.size)
    return Affine(label(step), step.inputs, output, tuple(maps), tuple(maps), bf, bq, _FREE, zero, zero, grid)


def _pooled(step: Step, ctx: Context, index: I64, inner: int) -> list[Layer]:
    """The least entries, from negated ones."""
    grid = code_grid(ctx.pair.tensors(step.output)[1])
    assert grid is not None
    least, n = ctx.fresh(), len(index)
    zero, back = np.zeros(n), (Scale(-1.0, n),)
    return [
        MaxPool(label(step), (inner,), least, index, CodeGrid(grid.unit, -grid.zero, -grid.hi, -grid.lo)),
        Affine(label(step), (least,), step.output, back, back, zero, zero, _FREE, zero, zero, grid),
    ]
