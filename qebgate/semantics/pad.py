"""PAD: constant paddings, filled with zero (its code is the zero point)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import INT8, Semantics, require


class Pad(Semantics):
    name = "PAD"
    max_version = 2

    def check(self, node: Node, graph: Graph) -> None:
        require(len(node.inputs) == 2, "unexpected number of inputs", node, graph, len(node.inputs))
        x, p, y = graph.tensors[node.inputs[0]], graph.tensors[node.inputs[1]], graph.tensors[node.outputs[0]]
        require(
            p.const is not None and p.dtype in (DType.INT32, DType.INT64),
            "paddings must be constant integers",
            node,
            graph,
        )
        assert p.const is not None
        require(
            p.shape == (len(x.shape), 2) and len(x.shape) <= 5, "paddings do not fit the input", node, graph, p.shape
        )
        amounts = p.const.astype(np.int64)
        require(bool((amounts >= 0).all()), "a padding is negative", node, graph, int(amounts.min()))
        expected = tuple(int(n + a + b) for n, (a, b) in zip(x.shape, amounts, strict=True))
        require(
            y.shape == expected,
            "the output does not have the padded shape",
            node,
            graph,
            f"{y.shape}, expected {expected}",
        )
        require(x.dtype is y.dtype, "input and output have different types", node, graph, y.dtype.value)
        if x.dtype.is_code:
            require(x.dtype is INT8, "PAD runs on int8 only", node, graph, x.dtype.value)
            require((x.q.s, x.q.z) == (y.q.s, y.q.z), "PAD between different scales", node, graph, f"{x.q.s}, {y.q.s}")

    def amounts(self, node: Node, graph: Graph) -> tuple[tuple[int, int], ...]:
        """Padding before and after each axis of a checked node."""
        p = graph.tensors[node.inputs[1]].const
        assert p is not None
        return tuple((int(a), int(b)) for a, b in p)

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        x = inputs[0]
        assert x is not None
        return np.pad(x, ((0, 0), *self.amounts(node, graph)))

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        del runtime
        x = inputs[0]
        assert x is not None
        zero = graph.tensors[node.outputs[0]].q.z
        return np.pad(x, ((0, 0), *self.amounts(node, graph)), constant_values=zero)
