"""DEQUANTIZE: ``float32((code - zero_point) * scale)``, exactly rounded, equal in every runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import FLOAT32, INT8, UINT8, Rounding, Semantics, require


class Dequantize(Semantics):
    name = "DEQUANTIZE"
    max_version = 6

    def check(self, node: Node, graph: Graph) -> None:
        x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        require(not x.is_const, "DEQUANTIZE of a constant is not supported", node, graph)
        require(x.dtype in (INT8, UINT8), "DEQUANTIZE reads int8 or uint8 only", node, graph, x.dtype.value)
        require(y.dtype is FLOAT32, "DEQUANTIZE gives float32 only", node, graph, y.dtype.value)
        require(not x.q.per_channel, "activations have per-channel scales", node, graph)
        require(x.shape == y.shape, "input and output have different shapes", node, graph, f"{x.shape}, {y.shape}")

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        raise AssertionError("DEQUANTIZE has no place in a float graph")

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        del runtime
        x, q = inputs[0], graph.tensors[node.inputs[0]].q
        assert x is not None
        return (x - q.z).astype(np.float32) * np.float32(q.s)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        """In units of the input's scale: one float32 rounding of at most 255 quanta."""
        del node, graph, runtime
        return Rounding.symmetric(255 * 2.0**-24)
