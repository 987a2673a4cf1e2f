"""BATCH_MATMUL by one constant matrix: FULLY_CONNECTED without a bias, with a kernel of its own.

The second operand may have a zero point; it has one scale.  Sources: tensorflow/lite/kernels/batch_matmul.cc,
internal/reference/batch_matmul.h (builtin uses it too), XNNPACK's qs8 fully connected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.numerics.fixed_point import I64, Multiplier, multiply_double_rounding, requantize_xnnpack
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.accumulate import exact_matmul
from qebgate.semantics.base import FLOAT32, INT8, Options, Rounding, Semantics, require
from qebgate.semantics.delegation import owner
from qebgate.semantics.linear import LinearNode


@dataclass(frozen=True, slots=True)
class BatchMatMulAttrs:
    """Whether either operand is transposed."""

    first: bool
    second: bool


class BatchMatMul(Semantics):
    name = "BATCH_MATMUL"
    max_version = 5

    def parse(self, options: Options) -> BatchMatMulAttrs:
        return BatchMatMulAttrs(options.bool(0), options.bool(1))

    def check(self, node: Node, graph: Graph) -> None:
        require(len(node.inputs) == 2, "unexpected number of inputs", node, graph, len(node.inputs))
        assert isinstance(node.attrs, BatchMatMulAttrs)
        x, w = (graph.tensors[i] for i in node.inputs)
        y = graph.tensors[node.outputs[0]]
        require(w.is_const and not x.is_const, "BATCH_MATMUL by what is computed", node, graph)
        require(not node.attrs.first, "BATCH_MATMUL of a transposed first operand", node, graph)
        both = len(x.shape) >= 2 and len(w.shape) >= 2
        require(both, "BATCH_MATMUL of what is no matrix", node, graph, f"{x.shape}, {w.shape}")
        single = w.size == math.prod(w.shape[-2:])
        require(single, "BATCH_MATMUL by several matrices", node, graph, w.shape)
        lin = LinearNode.of(node, graph)
        m, n = lin.weights.shape
        fits = x.shape[-1:] == (n,) and y.shape[-2:] == (*x.shape[-2:-1], m) and y.size * n == x.size * m
        require(fits, "the output does not fit the operands", node, graph, f"{x.shape}, {w.shape}, {y.shape}")
        same = x.dtype is w.dtype is y.dtype and x.dtype in (INT8, FLOAT32)
        types = f"{x.dtype.value}, {w.dtype.value}, {y.dtype.value}"
        require(same, "BATCH_MATMUL runs on int8 or on float32 only", node, graph, types)
        if x.dtype is FLOAT32:
            known = w.stored is None or w.stored.quant is None
            require(known, "BATCH_MATMUL by a matrix that is dequantized", node, graph)
            return
        one = not (x.q.per_channel or w.q.per_channel or y.q.per_channel)
        require(one, "BATCH_MATMUL with several scales", node, graph)
        ratio = multiplier(lin)
        require(2.0**-24 < ratio < 256.0, "BATCH_MATMUL between scales too far apart", node, graph, ratio)
        total = lin.accumulator_bound(reduce=(1,)) * 2.0 ** max(0, int(np.frexp(ratio)[1]))
        require(total < 2.0**31, "the accumulator may overflow 32 bits", node, graph, f"{total:.3g}")

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        lin, x = LinearNode.of(node, graph), inputs[0]
        assert x is not None
        w = lin.weights.astype(x.dtype)
        return (x.reshape(-1, w.shape[1]) @ w.T).reshape(x.shape[0], *lin.y.shape)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        lin, x = LinearNode.of(node, graph), inputs[0]
        assert x is not None
        rows = x.reshape(-1, lin.weights.shape[1]) - lin.x.q.z
        acc = exact_matmul(rows, lin.weights.T, lin.accumulator_bound(reduce=(1,))).astype(np.int64)
        return finish(node, graph, acc, runtime).reshape(x.shape[0], *lin.y.shape).astype(np.int32)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        if owner(node, graph, runtime) is Runtime.XNNPACK:
            return Rounding.symmetric(0.5 + Rounding.REACH * 2.0**-21)
        right = int(Multiplier.of(multiplier(LinearNode.of(node, graph))).right[0])
        # the product of the scales is a float32 number
        return Rounding.symmetric(0.5 + (2.0 ** -(right + 1) if right else 0.0) + Rounding.REACH * 2.0**-23)


def multiplier(lin: LinearNode) -> float:
    """As the portable kernel starts from it."""
    return float(np.float32(lin.x.q.s) * np.float32(lin.w.q.s)) / lin.y.q.s


def finish(node: Node, graph: Graph, acc: I64, runtime: Runtime) -> I64:
    """The codes that a runtime makes of exact accumulators."""
    lin = LinearNode.of(node, graph)
    lo, hi = lin.y.dtype.code_range
    if owner(node, graph, runtime) is Runtime.XNNPACK:
        scale = np.float32(lin.x.q.s) * np.float32(lin.w.q.s) / np.float32(lin.y.q.s)
        return requantize_xnnpack(acc, np.array(scale, np.float32), lin.y.q.z, lo, hi)
    return np.clip(multiply_double_rounding(acc, Multiplier.of(multiplier(lin))) + lin.y.q.z, lo, hi)
