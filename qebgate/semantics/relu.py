"""RELU and RELU6 standing alone (tensorflow/lite/kernels/activations.cc)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import Activation, Rounding, Semantics, apply_activation, check_limits, require
from qebgate.semantics.delegation import owner
from qebgate.semantics.elementwise import check_codes, look_up, rescale_deviation, rescale_table


class Relu(Semantics):
    name = "RELU"
    max_version = 3
    activation = Activation.RELU

    def check(self, node: Node, graph: Graph) -> None:
        x, y = check_codes(node, graph)
        if x.dtype.is_code:
            check_limits(self.activation, node, graph)
            require(2.0**-20 <= x.q.s / y.q.s < 2.0**20, "scales are too far apart", node, graph, x.q.s / y.q.s)

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        x = inputs[0]
        assert x is not None
        return apply_activation(x, self.activation)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        codes, x, y = inputs[0], graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        assert codes is not None
        kernel = owner(node, graph, runtime)
        table = rescale_table(x, y, float(np.float32(x.q.s) / np.float32(y.q.s)), kernel)
        return look_up(np.clip(table, *self.activation.code_range(y, kernel)), codes, x)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        return Rounding.symmetric(rescale_deviation(x.q.s / y.q.s, Rounding.REACH))


class Relu6(Relu):
    name = "RELU6"
    activation = Activation.RELU6
