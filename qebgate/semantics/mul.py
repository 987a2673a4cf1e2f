"""MUL of two tensors (tensorflow/lite/kernels/mul.cc, XNNPACK qs8-vmul)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, Tensor
from qebgate.numerics.fixed_point import I64, Multiplier, multiply_double_rounding, requantize_xnnpack
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import Rounding, require
from qebgate.semantics.binary import Binary, BinaryAttrs, aligned, operands, reach
from qebgate.semantics.delegation import owner

MulAttrs = BinaryAttrs
"""The fused activation."""


class Mul(Binary):
    name = "MUL"
    max_version = 4

    def function(self, a: Array, b: Array) -> Array:
        return a * b

    def check(self, node: Node, graph: Graph) -> None:
        super().check(node, graph)
        a, b, y = operands(node, graph)
        if y.dtype.is_code:
            m = multiplier(a, b, y)
            # products reach 2**16: with a left shift of 8 they fit in 24 bits
            require(2.0**-24 < m < 2.0**8, "MUL of scales too far apart", node, graph, m)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        ta, tb, _ = operands(node, graph)
        a, b = aligned(node, graph, inputs)
        product = (a.astype(np.int64) - ta.q.z) * (b.astype(np.int64) - tb.q.z)
        return self.of_products(node, graph, product, runtime).astype(np.int32)

    def of_products(self, node: Node, graph: Graph, product: I64, runtime: Runtime) -> I64:
        """Codes of integer products ``(a - z_a) (b - z_b)``; does not decrease."""
        assert isinstance(node.attrs, BinaryAttrs)
        a, b, y = operands(node, graph)
        kernel = _kernel(node, graph, runtime)
        lo, hi = node.attrs.activation.code_range(y, kernel)
        m = multiplier(a, b, y)
        if kernel is Runtime.XNNPACK:
            return requantize_xnnpack(product, np.array(m, np.float32), y.q.z, lo, hi)
        return np.clip(multiply_double_rounding(product, Multiplier.of(m)) + y.q.z, lo, hi)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        a, b, y = operands(node, graph)
        if _kernel(node, graph, runtime) is Runtime.XNNPACK:
            return Rounding.symmetric(0.5 + Rounding.REACH * 2.0**-21)
        m = Multiplier.of(multiplier(a, b, y))
        right = int(m.right[0])
        # the multiplier is a float32 quotient of a float32 product: two roundings, and those of the kernel
        return Rounding.symmetric(0.5 + (2.0 ** -(right + 1) if right else 0.0) + Rounding.REACH * 2.0**-22)


def _kernel(node: Node, graph: Graph, runtime: Runtime) -> Runtime:
    """Whose kernel computes it; UnsupportedError where that may wrap.

    The builtin one narrows the requantized product to 16 bits before it adds the zero point and clamps
    (optimized_integer_ops::MulElementwise), all but the last few entries of a row: measured.
    """
    kernel = owner(node, graph, runtime)
    if kernel is Runtime.BUILTIN:
        a, b, y = operands(node, graph)
        largest = math.prod(_reach(t) for t in (a, b)) * multiplier(a, b, y) + abs(y.q.z) + 2.0
        require(largest < 2.0**15, "MUL may overflow 16 bits in the builtin kernel", node, graph, largest)
    return kernel


def _reach(t: Tensor) -> int:
    """Largest ``|code - zero point|``, of a constant the largest that it has."""
    return reach(t) if t.const is None else int(np.abs(t.const.astype(np.int64) - t.q.z).max(initial=0))


def multiplier(a: Tensor, b: Tensor, y: Tensor) -> float:
    """``s_a s_b / s_y`` as the kernels compute it, in float32."""
    return float(np.float32(a.q.s) * np.float32(b.q.s) / np.float32(y.q.s))
