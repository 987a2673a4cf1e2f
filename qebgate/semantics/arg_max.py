"""ARG_MAX at the end of a network (tensorflow/lite/kernels/arg_min_max.cc): of several largest entries the first.

Executed, but not bounded: two indices have no gap.  What is compared is the tensor before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import Semantics, require


class ArgMax(Semantics):
    name = "ARG_MAX"
    max_version = 3

    def check(self, node: Node, graph: Graph) -> None:
        require(len(node.inputs) == 2, "unexpected number of inputs", node, graph, len(node.inputs))
        x, a = (graph.tensors[i] for i in node.inputs)
        y = graph.tensors[node.outputs[0]]
        require(not graph.consumers.get(node.outputs[0]), "ARG_MAX anywhere but at the end of a network", node, graph)
        require(not x.is_const, "ARG_MAX of a constant is not supported", node, graph)
        require(
            x.dtype in (DType.FLOAT32, DType.INT8), "ARG_MAX reads float32 or int8 only", node, graph, x.dtype.value
        )
        require(y.dtype in (DType.INT32, DType.INT64), "ARG_MAX gives int32 or int64 only", node, graph, y.dtype.value)
        constant = a.const is not None and a.dtype in (DType.INT32, DType.INT64) and a.size == 1
        require(constant, "the axis of ARG_MAX is not one constant", node, graph)
        rank, axis = len(x.shape), self._axis(node, graph)
        require(-rank <= axis < rank, "ARG_MAX over an axis that does not exist", node, graph, axis)
        expected = tuple(n for k, n in enumerate(x.shape) if k != axis % rank)
        require(y.shape == expected, "the output does not have the reduced shape", node, graph, y.shape)

    @staticmethod
    def _axis(node: Node, graph: Graph) -> int:
        a = graph.tensors[node.inputs[1]].const
        assert a is not None
        return int(a.reshape(-1)[0])

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        x = inputs[0]
        assert x is not None
        axis = self._axis(node, graph) % len(graph.tensors[node.inputs[0]].shape)
        return np.argmax(x, axis=axis + 1).astype(graph.tensors[node.outputs[0]].dtype.numpy)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        del runtime
        return self.run_float(node, graph, inputs)
