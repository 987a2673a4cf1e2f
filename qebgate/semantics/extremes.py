"""MAXIMUM, MINIMUM of two tensors and REDUCE_MAX, REDUCE_MIN over axes: selections, exact in every runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import INT8, Activation, Options, Semantics, require
from qebgate.semantics.binary import Binary, BinaryAttrs, aligned, operands
from qebgate.semantics.mean import Mean


class Maximum(Binary):
    name = "MAXIMUM"
    max_version = 4

    def parse(self, options: Options) -> BinaryAttrs:
        del options
        return BinaryAttrs(Activation.NONE)

    def function(self, a: Array, b: Array) -> Array:
        return np.maximum(a, b)

    def check(self, node: Node, graph: Graph) -> None:
        super().check(node, graph)
        a, b, y = operands(node, graph)
        if y.dtype.is_code:
            same = all((t.q.s, t.q.z) == (y.q.s, y.q.z) for t in (a, b))
            require(same, f"{node.op} between different scales", node, graph, f"{a.q.s}, {b.q.s}, {y.q.s}")

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        del runtime
        a, b = aligned(node, graph, inputs)
        return self.function(a.astype(np.int32), b.astype(np.int32))


class Minimum(Maximum):
    name = "MINIMUM"

    def function(self, a: Array, b: Array) -> Array:
        return np.minimum(a, b)


class ReduceMax(Mean):
    """Axes and shapes are those of MEAN."""

    name = "REDUCE_MAX"
    max_version = 3

    def check(self, node: Node, graph: Graph) -> None:
        self.check_reduced(node, graph)
        x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        if x.dtype.is_code:
            require(x.dtype is INT8, f"{node.op} runs on int8 only", node, graph, x.dtype.value)
            same = (x.q.s, x.q.z) == (y.q.s, y.q.z) and not x.q.per_channel
            require(same, f"{node.op} between different scales", node, graph, f"{x.q.s}, {y.q.s}")

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        x = inputs[0]
        assert x is not None
        axes = tuple(a + 1 for a in self.axes(node, graph))
        return self.select(x, axes).reshape(x.shape[0], *graph.tensors[node.outputs[0]].shape)

    def select(self, x: Array, axes: tuple[int, ...]) -> Array:
        """Largest entry over some axes."""
        return x.max(axis=axes)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        del runtime
        return self.run_float(node, graph, inputs)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime):
        return Semantics.rounding(self, node, graph, runtime)


class ReduceMin(ReduceMax):
    name = "REDUCE_MIN"

    def select(self, x: Array, axes: tuple[int, ...]) -> Array:
        return x.min(axis=axes)
