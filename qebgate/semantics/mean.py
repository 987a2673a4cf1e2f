"""MEAN over constant axes (tensorflow/lite/kernels/reduce.cc, optimized/integer_ops/mean.h, XNNPACK qs8 mean)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType, Tensor
from qebgate.numerics.fixed_point import I64, Multiplier, multiply_double_rounding, multiply_ruy
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.accumulate import multiply_quantized
from qebgate.semantics.base import INT8, Options, Rounding, Semantics, require
from qebgate.semantics.delegation import owner


@dataclass(frozen=True, slots=True)
class MeanAttrs:
    """Whether reduced axes stay as axes of length 1 (one of builtin's kernels depends on it)."""

    keep_dims: bool


class Mean(Semantics):
    name = "MEAN"
    max_version = 3

    def parse(self, options: Options) -> MeanAttrs:
        return MeanAttrs(options.bool(0))

    def axes(self, node: Node, graph: Graph) -> tuple[int, ...]:
        """Reduced axes of the tensor, ascending, each once; UnsupportedError where they are not constant."""
        x, a = graph.tensors[node.inputs[0]], graph.tensors[node.inputs[1]]
        require(a.const is not None and a.dtype is DType.INT32, f"the axes of {node.op} are not constant", node, graph)
        assert a.const is not None
        rank, given = len(x.shape), [int(v) for v in a.const.reshape(-1)]
        require(
            all(-rank <= v < rank for v in given), f"{node.op} over an axis that does not exist", node, graph, given
        )
        return tuple(sorted({v % rank for v in given}))

    def count(self, node: Node, graph: Graph) -> int:
        """Number of elements averaged."""
        x = graph.tensors[node.inputs[0]]
        return math.prod(x.shape[a] for a in self.axes(node, graph))

    def check_reduced(self, node: Node, graph: Graph) -> None:
        """Constant axes, and the output's shape and type: what all reductions require."""
        require(len(node.inputs) == 2, "unexpected number of inputs", node, graph, len(node.inputs))
        assert isinstance(node.attrs, MeanAttrs)
        x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        axes = self.axes(node, graph)
        require(len(axes) >= 1, f"{node.op} over no axis is not supported", node, graph)
        kept = node.attrs.keep_dims
        expected = tuple(1 if k in axes else n for k, n in enumerate(x.shape) if kept or k not in axes)
        require(
            y.shape == expected,
            "the output does not have the reduced shape",
            node,
            graph,
            f"{y.shape}, expected {expected}",
        )
        require(x.dtype is y.dtype, "input and output have different types", node, graph, y.dtype.value)

    def check(self, node: Node, graph: Graph) -> None:
        self.check_reduced(node, graph)
        x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        if x.dtype.is_code:
            require(x.dtype is INT8, "MEAN runs on int8 only", node, graph, x.dtype.value)
            require(not x.q.per_channel and not y.q.per_channel, "activations have per-channel scales", node, graph)
            n, ratio = self.count(node, graph), x.q.s / y.q.s
            require(n < 1 << 22, "the sum may overflow 32 bits", node, graph, n)
            require(2.0**-10 <= ratio < 2.0**8, "MEAN between scales too far apart", node, graph, ratio)

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        x = inputs[0]
        assert x is not None
        total = x.sum(axis=tuple(a + 1 for a in self.axes(node, graph)), dtype=x.dtype)
        y = total / x.dtype.type(self.count(node, graph))
        return y.reshape(x.shape[0], *graph.tensors[node.outputs[0]].shape)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        codes, x, y = inputs[0], graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        assert codes is not None
        n, kernel = self.count(node, graph), owner(node, graph, runtime)
        total = codes.sum(axis=tuple(a + 1 for a in self.axes(node, graph)), dtype=np.int64)
        if kernel is Runtime.XNNPACK:
            q = _xnnpack(total, n, x, y)
        elif kernel is Runtime.BUILTIN and self.spatial(node, graph):
            q = _builtin_spatial(total, n, x, y)
        else:
            q = _reference(total, n, x, y, kernel)
        return np.clip(q, *y.dtype.code_range).astype(np.int32).reshape(len(codes), *y.shape)

    def spatial(self, node: Node, graph: Graph) -> bool:
        """Whether builtin uses its kernel for the mean over height and width that keeps the axes."""
        assert isinstance(node.attrs, MeanAttrs)
        raw = graph.tensors[node.inputs[1]].const
        assert raw is not None
        rank4 = len(graph.tensors[node.inputs[0]].shape) == 4
        return node.attrs.keep_dims and rank4 and self.axes(node, graph) == (1, 2)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        n, kernel, ratio = self.count(node, graph), owner(node, graph, runtime), x.q.s / y.q.s
        if kernel is Runtime.XNNPACK:
            # sum times scale, and bias, are float32 numbers that can cancel: up to 6 roundings of each
            terms = 128.0 * ratio + abs(x.q.z) * ratio + abs(y.q.z) + Rounding.REACH
            return Rounding.symmetric(0.5 + terms * 6 * 2.0**-24)
        if kernel is Runtime.BUILTIN and self.spatial(node, graph):
            # a rounded bias (0.5) on top of the rounded sum; raw sums are up to 256 quanta away from the mean
            m = Multiplier.of(ratio / n)
            second = 2.0 ** -(int(m.right[0]) + 1) if int(m.right[0]) else 0.0
            return Rounding.symmetric(1.0 + second + (Rounding.REACH + 256 * ratio) * 2.0**-21)
        m, shift = _reference_multiplier(ratio, n)
        second = 2.0 ** -(-shift + 1) if shift < 0 else 0.0
        # the mantissa divided by n keeps at least 30 bits less those of n's remainder
        lost = 1.0 / max(1, m) + 2.0**-30
        return Rounding.symmetric(0.5 + second + Rounding.REACH * lost)


def _reference_multiplier(ratio: float, n: int) -> tuple[int, int]:
    """QuantizedMeanOrSum divides the multiplier's mantissa by n, after as much left shift as fits."""
    m = Multiplier.of(ratio)
    mantissa, exponent = int(m.mantissa[0]), int(m.shift[0])
    shift = min(n.bit_length() - 1, 32, 31 + exponent)
    return (mantissa << shift) // n, exponent - shift


def _reference(total: I64, n: int, x: Tensor, y: Tensor, runtime: Runtime) -> I64:
    mantissa, shift = _reference_multiplier(x.q.s / y.q.s, n)
    m = Multiplier(np.array([mantissa], np.int64), np.array([shift], np.int64))
    return multiply_quantized(runtime)(total - n * x.q.z, m) + y.q.z


def _builtin_spatial(total: I64, n: int, x: Tensor, y: Tensor) -> I64:
    """One thread: vectors of 16 channels round as ruy does, the rest as gemmlowp; zero point as a rounded bias."""
    si, so = np.float32(x.q.s), np.float32(y.q.s)
    shifted = np.float32(x.q.z) * si / so
    shifted = shifted + np.float32(0.5) if shifted > 0 else shifted - np.float32(0.5)
    bias = y.q.z - int(shifted)
    m = Multiplier.of(float(si / (np.float32(n) * so)))
    q = multiply_double_rounding(total, m)
    whole = q.shape[-1] // 16 * 16
    q[..., :whole] = multiply_ruy(total[..., :whole], m)
    return q + bias


def _xnnpack(total: I64, n: int, x: Tensor, y: Tensor) -> I64:
    """The raw sum in float32, the input's zero point as a float32 bias."""
    scale = np.float32(x.q.s) / np.float32(y.q.s) * (np.float32(1.0) / np.float32(n))
    bias = np.float32(y.q.z) - np.float32(x.q.z) * np.float32(n) * scale
    return np.rint(total.astype(np.float32) * scale + bias).astype(np.int64)
