"""Every operator that only moves entries (``qebgate.semantics.moves``): exact gathers on both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qebgate.domains.gap import I64
from qebgate.domains.layers import Layer
from qebgate.domains.linear_map import LinearMap, Scale, gather
from qebgate.ir.graph import Graph, Node
from qebgate.ir.pair import Step
from qebgate.numerics.rounding import F64
from qebgate.ops.base import Context, moved
from qebgate.semantics.moves import Move
from qebgate.semantics.registry import ALL_SEMANTICS


class MoveLowering:
    """One instance an operator."""

    def __init__(self, op: str) -> None:
        self.op = op

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        sides = [
            Moves(node, graph)
            for node, graph in ((step.float_node, ctx.pair.float), (step.quantized_node, ctx.pair.quantized))
            if node is not None
        ]
        if len(sides) == 1:  # on one side only, where the order of entries stays
            one = Scale(1.0, ctx.pair.tensors(step.output)[1].size)
            index = sides[0].index
            ctx.same(step, np.array_equal(index, np.arange(index.size)), True, "orders of entries")
            return [replace(moved(step, ctx, one, one), moves_only=True)]
        f, q = sides
        ctx.same(step, f.sizes, q.sizes, "operands")
        if not np.array_equal(f.index, q.index):
            ctx.same(step, "one order", "another", "orders of entries")
        layer = moved(step, ctx, q.maps[0], q.maps[0])
        return [replace(layer, f=q.maps, q=q.maps, bf=f.constant, bq=q.constant)]


class Moves:
    """What a node moves: one map of every live operand, and the constant ones' entries."""

    def __init__(self, node: Node, graph: Graph) -> None:
        sem = ALL_SEMANTICS[node.op]
        assert isinstance(sem, Move)
        self.index: I64 = sem.index(node, graph).ravel()
        self.sizes: tuple[tuple[int, bool], ...] = ()
        """Entries of every operand, and whether it is constant."""
        self.constant: F64 = np.zeros(self.index.size)
        maps: list[LinearMap] = []
        start = 0
        for i in sem.operands(node, graph):
            t = graph.tensors[i]
            self.sizes = (*self.sizes, (t.size, t.is_const))
            local = self.index - start
            inside = (local >= 0) & (local < t.size)
            if t.const is None:
                maps.append(gather(np.where(inside, local, 0), t.size, keep=inside))
            else:
                value = t.q.dequantize(t.const) if t.dtype.is_code else t.const.astype(np.float64)
                self.constant[inside] = value.ravel()[local[inside]]
            start += t.size
        self.maps = tuple(maps)
