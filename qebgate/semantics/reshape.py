"""RESHAPE: the same values in another shape (that of the output tensor)."""

from __future__ import annotations

from collections.abc import Sequence

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import Semantics, require


class Reshape(Semantics):
    name = "RESHAPE"
    max_version = 1

    def check(self, node: Node, graph: Graph) -> None:
        x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        require(x.size == y.size, "input and output have different sizes", node, graph, f"{x.shape}, {y.shape}")
        require(
            x.dtype is y.dtype,
            "input and output have different types",
            node,
            graph,
            f"{x.dtype.value}, {y.dtype.value}",
        )
        if x.dtype.is_code:
            same = x.q.s == y.q.s and x.q.z == y.q.z and not x.q.per_channel and not y.q.per_channel
            require(same, "RESHAPE between different scales", node, graph, f"{x.q.s}, {y.q.s}")

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        x = inputs[0]
        assert x is not None
        return x.reshape(x.shape[0], *graph.tensors[node.outputs[0]].shape)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        del runtime
        return self.run_float(node, graph, inputs)
