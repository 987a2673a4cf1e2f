"""DEQUANTIZE: codes to float32 (tensorflow/lite/kernels/dequantize.cc).

``float32((code - zero_point) * scale)``, rounded once; builtin's vectors of 8 compute
``code * scale + (-zero_point * scale)`` with three float32 roundings instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.errors import UnsupportedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import FLOAT32, INT8, UINT8, Rounding, Semantics, require
from qebgate.semantics.delegation import owner


class Dequantize(Semantics):
    name = "DEQUANTIZE"
    max_version = 6

    def check(self, node: Node, graph: Graph) -> None:
        x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        require(not x.is_const, "DEQUANTIZE of a constant is not supported", node, graph)
        known = x.dtype in (INT8, UINT8, DType.INT16)
        require(known, "DEQUANTIZE reads int8, uint8 or int16 only", node, graph, x.dtype.value)
        require(y.dtype is FLOAT32, "DEQUANTIZE gives float32 only", node, graph, y.dtype.value)
        require(not x.q.per_channel, "activations have per-channel scales", node, graph)
        require(x.shape == y.shape, "input and output have different shapes", node, graph, f"{x.shape}, {y.shape}")

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        raise UnsupportedError(
            "QEB438",
            "DEQUANTIZE in a float model",
            where=f"{graph.source.label}: {node.origin}",
            fix="convert it without quantization",
        )

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        x, q = inputs[0], graph.tensors[node.inputs[0]].q
        assert x is not None
        scale = np.float32(q.s)
        y = ((x - q.z).astype(np.float32) * scale).reshape(len(x), -1)
        if owner(node, graph, runtime) is Runtime.BUILTIN and graph.tensors[node.inputs[0]].dtype is not DType.INT16:
            whole = y.shape[1] // 8 * 8
            codes = x.reshape(len(x), -1)[:, :whole].astype(np.float32)
            y[:, :whole] = codes * scale + np.float32(-q.z) * scale
        return y.reshape(x.shape)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        """In units of the input's scale: at most three float32 roundings of 255 quanta, or one of 32768."""
        del runtime
        wide = graph.tensors[node.inputs[0]].dtype is DType.INT16
        return Rounding.symmetric(2.0**15 * 2.0**-24 if wide else 3 * 255 * 2.0**-24)
