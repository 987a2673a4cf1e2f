"""Requantization of single codes, shared by QUANTIZE, RELU and RELU6."""

from __future__ import annotations

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, Tensor
from qebgate.numerics.fixed_point import Multiplier
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.accumulate import multiply_quantized
from qebgate.semantics.base import INT8, require


def check_codes(node: Node, graph: Graph) -> tuple[Tensor, Tensor]:
    """Input and output of an elementwise node on int8 or float; UnsupportedError otherwise."""
    x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
    require(not x.is_const, f"{node.op} of a constant is not supported", node, graph)
    require(x.shape == y.shape, "input and output have different shapes", node, graph, f"{x.shape}, {y.shape}")
    require(
        x.dtype is y.dtype, "input and output have different types", node, graph, f"{x.dtype.value}, {y.dtype.value}"
    )
    if x.dtype.is_code:
        require(x.dtype is INT8, f"{node.op} runs on int8 only", node, graph, x.dtype.value)
        require(not x.q.per_channel and not y.q.per_channel, "activations have per-channel scales", node, graph)
    return x, y


def codes_table(x: Tensor) -> Array:
    """All codes of a tensor's type in ascending order, int64 [256]."""
    lo, hi = x.dtype.code_range
    return np.arange(lo, hi + 1, dtype=np.int64)


def look_up(table: Array, codes: Array, x: Tensor) -> Array:
    """``table[code - lowest]`` as int32."""
    return table[codes - x.dtype.code_range[0]].astype(np.int32)


def rescale_table(x: Tensor, y: Tensor, real: float, runtime: Runtime = Runtime.REFERENCE) -> Array:
    """Unclamped codes of all input codes times a multiplier, the portable kernels' rounding, int64 [256]."""
    return multiply_quantized(runtime)(codes_table(x) - x.q.z, Multiplier.of(real)) + y.q.z


def rescale_deviation(real: float, reach: float) -> float:
    """Largest deviation of gemmlowp's or ruy's double rounding by one multiplier (see accumulate.linear_deviation)."""
    m = Multiplier.of(real)
    if int(m.mantissa[0]) == 0:
        return 0.5 + reach
    right = int(m.right[0])
    return 0.5 + (2.0 ** -(right + 1) if right else 0.0) + reach * 2.0**-23
