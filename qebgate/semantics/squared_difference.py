"""SQUARED_DIFFERENCE of two tensors (tensorflow/lite/kernels/squared_difference.cc); XNNPACK leaves int8 to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, Tensor
from qebgate.numerics.fixed_point import I64, Multiplier, multiply_double_rounding
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import Activation, Options, Rounding, require
from qebgate.semantics.binary import Binary, BinaryAttrs, aligned, operands
from qebgate.semantics.elementwise import codes_table

_LEFT_SHIFT = 7


class SquaredDifference(Binary):
    name = "SQUARED_DIFFERENCE"
    max_version = 2

    def parse(self, options: Options) -> BinaryAttrs:
        del options
        return BinaryAttrs(Activation.NONE)

    def function(self, a: Array, b: Array) -> Array:
        return (a - b) * (a - b)

    def check(self, node: Node, graph: Graph) -> None:
        super().check(node, graph)
        a, b, y = operands(node, graph)
        if y.dtype.is_code:
            ratio = a.q.s / b.q.s
            require(2.0**-16 < ratio < 2.0**16, f"{node.op} of scales too far apart", node, graph, ratio)
            m = _output_multiplier(a, b, y)
            found = f"LiteRT aborts on a {node.op} to so small a scale"
            require(m < 1.0 - 2.0**-30, found, node, graph, m)
            require(m > 2.0**-31, f"{node.op} to a scale that leaves nothing", node, graph, m)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        ta, tb, y = operands(node, graph)
        a, b = aligned(node, graph, inputs)
        q = _squared(a.astype(np.int64) - ta.q.z, b.astype(np.int64) - tb.q.z, ta, tb, y)
        return np.clip(q + y.q.z, *y.dtype.code_range).astype(np.int32)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        """Measured on all pairs of codes; beyond the reach both saturate."""
        ta, tb, y = operands(node, graph)
        a, b = (np.unique(t.const).astype(np.int64) if t.const is not None else codes_table(t) for t in (ta, tb))
        a, b = a[:, None] - ta.q.z, b - tb.q.z
        exact = (a * ta.q.s - b * tb.q.s) ** 2 / y.q.s
        off = np.abs(_squared(a, b, ta, tb, y) - exact)[exact <= Rounding.REACH]
        return Rounding.symmetric(max(float(off.max(initial=0.0)), 0.5) + 2.0**-20)


def _output_multiplier(a: Tensor, b: Tensor, y: Tensor) -> float:
    return (2.0 * max(a.q.s, b.q.s)) ** 2 / (2.0 ** (2 * _LEFT_SHIFT) * y.q.s)


def _squared(a: I64, b: I64, ta: Tensor, tb: Tensor, y: Tensor) -> I64:
    """Unclamped, in quanta of the output, without its zero point."""
    twice = 2.0 * max(ta.q.s, tb.q.s)
    difference = multiply_double_rounding(a << _LEFT_SHIFT, Multiplier.of(ta.q.s / twice)) - multiply_double_rounding(
        b << _LEFT_SHIFT, Multiplier.of(tb.q.s / twice)
    )
    return multiply_double_rounding(difference * difference, Multiplier.of(_output_multiplier(ta, tb, y)))
