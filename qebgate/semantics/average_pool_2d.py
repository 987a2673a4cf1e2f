"""AVERAGE_POOL_2D: mean over the window, padding excluded (tensorflow/lite/kernels/pooling.cc)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import Rounding, apply_activation
from qebgate.semantics.delegation import owner
from qebgate.semantics.pool_2d import Pool2D, Pool2DAttrs
from qebgate.semantics.windows import chunks


class AveragePool2D(Pool2D):
    name = "AVERAGE_POOL_2D"

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        attrs, x = node.attrs, inputs[0]
        assert isinstance(attrs, Pool2DAttrs)
        assert x is not None
        y = self._sum(node, graph, x, x.dtype) / self.window(node, graph).counts().astype(x.dtype)
        return apply_activation(y, attrs.activation)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        """Integer mean of the raw codes, half away from zero (XNNPACK leaves it to builtin)."""
        attrs, x, out = node.attrs, inputs[0], graph.tensors[node.outputs[0]]
        assert isinstance(attrs, Pool2DAttrs)
        assert x is not None
        lo, hi = attrs.activation.code_range(out, owner(node, graph, runtime))
        total, n = self._sum(node, graph, x, np.dtype(np.int64)), self.window(node, graph).counts()
        mean = np.sign(total) * ((np.abs(total) + n // 2) // n)
        return np.clip(mean, lo, hi).astype(np.int32)

    def _sum(self, node: Node, graph: Graph, x: Array, dtype: np.dtype[np.generic]) -> Array:
        shape = graph.tensors[node.outputs[0]].shape
        window = self.window(node, graph)
        rows = x.reshape(-1, *x.shape[2:])
        y = np.empty((len(rows), *shape[1:]), dtype)
        for part in chunks(len(rows), 16 * rows[0].size):
            v = window.patches(rows[part].astype(dtype), 0)
            y[part] = sum(v[..., k, j] for k in range(v.shape[4]) for j in range(v.shape[5]))
        return y.reshape(x.shape[0], *shape)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        return Rounding.symmetric(0.5)
