"""MAX_POOL_2D: largest code of the window, padding excluded; equal in every runtime."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import apply_activation
from qebgate.semantics.delegation import owner
from qebgate.semantics.pool_2d import Pool2D, Pool2DAttrs


class MaxPool2D(Pool2D):
    name = "MAX_POOL_2D"

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        attrs, x = node.attrs, inputs[0]
        assert isinstance(attrs, Pool2DAttrs)
        assert x is not None
        return apply_activation(self._max(node, graph, x, -np.inf), attrs.activation)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        attrs, x, out = node.attrs, inputs[0], graph.tensors[node.outputs[0]]
        assert isinstance(attrs, Pool2DAttrs)
        assert x is not None
        lo, hi = attrs.activation.code_range(out, owner(node, graph, runtime))
        return np.clip(self._max(node, graph, x, -(1 << 30)), lo, hi).astype(np.int32)

    def _max(self, node: Node, graph: Graph, x: Array, least: float) -> Array:
        v = self.window(node, graph).patches(x.reshape(-1, *x.shape[2:]), least)
        y = reduce(np.maximum, (v[..., k, j] for k in range(v.shape[4]) for j in range(v.shape[5])))
        return y.reshape(x.shape[0], *graph.tensors[node.outputs[0]].shape)
