"""ADD of two tensors, with numpy's broadcasting (tensorflow/lite/kernels/add.cc, XNNPACK qs8-vadd)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType, Tensor
from qebgate.numerics.fixed_point import I64, Multiplier
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.accumulate import WIDE_REACH, multiply_quantized
from qebgate.semantics.base import Rounding, require
from qebgate.semantics.binary import Binary, BinaryAttrs, aligned, operands, reach
from qebgate.semantics.delegation import owner

_LEFT_SHIFT = 20
_ARTICLE = {"ADD": "an ADD", "SUB": "a SUB"}

AddAttrs = BinaryAttrs
"""The fused activation."""


class Add(Binary):
    name = "ADD"
    max_version = 4
    sign: ClassVar[int] = 1
    """Of the second operand."""

    def function(self, a: Array, b: Array) -> Array:
        return a + b

    def check(self, node: Node, graph: Graph) -> None:
        super().check(node, graph)
        check_sum(node, graph)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        assert isinstance(node.attrs, AddAttrs)
        ta, tb = (graph.tensors[i] for i in node.inputs)
        out = graph.tensors[node.outputs[0]]
        kernel = owner(node, graph, runtime)
        a, b = aligned(node, graph, inputs)
        a, b = a.astype(np.int64) - ta.q.z, b.astype(np.int64) - tb.q.z
        b = self.sign * b
        q = _xnnpack(a, b, ta, tb, out) if kernel is Runtime.XNNPACK else _tflite(a, b, ta, tb, out, kernel)
        return np.clip(q + out.q.z, *node.attrs.activation.code_range(out, kernel)).astype(np.int32)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        a, b, y = operands(node, graph)
        if owner(node, graph, runtime) is Runtime.XNNPACK:
            # multipliers: half a unit of their last bit, and the float32 quotient that they are made of; the
            # terms can be large where their sum is small, so the error goes with the terms
            terms = reach(a) * a.q.s / y.q.s + reach(b) * b.q.s / y.q.s
            last_bit = 0.5 * 2.0 ** -_xnnpack_shift(a, b, y)
            return Rounding.symmetric(0.5 + (reach(a) + reach(b)) * last_bit + terms * 2.0**-23)
        # each rescaled input is within 0.75 (roundings) + 2**-4 (multiplier, of a term below 2**27) of its exact
        # value, in units of twice_max * 2**-20
        unit = 2.0 * max(a.q.s, b.q.s) / 2.0 ** _left_shift(y) / y.q.s
        if y.dtype is DType.INT16:  # terms of up to 2**30 units, whose multipliers are off by half a unit there
            return Rounding.symmetric(0.5 + 0.5 + 4 * unit + WIDE_REACH * 2.0**-29)
        mult = Multiplier.of(unit)
        second = 2.0 ** -(int(mult.right[0]) + 1) if int(mult.right[0]) else 0.0
        return Rounding.symmetric(0.5 + second + 2 * unit + Rounding.REACH * 2.0**-29)


def check_sum(node: Node, graph: Graph) -> None:
    """What the integer kernels of ADD and SUB assume of the scales."""
    a, b, y = operands(node, graph)
    if not y.dtype.is_code:
        return
    ratios = [t.q.s / y.q.s for t in (a, b)]
    # the kernel needs 2 max(s) / (2**20 s_out) < 1, and a smaller input that is not flushed away
    apart = f"{node.op} of scales too far apart"
    require(max(ratios) < 2.0**18 and min(ratios) > 2.0**-20, apart, node, graph, ratios)
    require(max(ratios) / min(ratios) < 2.0**20, apart, node, graph, ratios)
    if y.dtype is DType.INT16:
        return
    # builtin's vectors narrow the sum to 16 bits by dropping bits
    total = sum(reach(t) * r for t, r in zip((a, b), ratios, strict=True))
    found = f"{total:.0f} output quanta"
    require(total < 2.0**15 - 2, f"the sum of {_ARTICLE[node.op]} may overflow 16 bits", node, graph, found)


def _tflite(a: I64, b: I64, ta: Tensor, tb: Tensor, out: Tensor, runtime: Runtime) -> I64:
    twice, multiply = 2.0 * max(ta.q.s, tb.q.s), multiply_quantized(runtime)
    shift = _left_shift(out)
    sa = multiply(a << shift, Multiplier.of(ta.q.s / twice))
    sb = multiply(b << shift, Multiplier.of(tb.q.s / twice))
    return multiply(sa + sb, Multiplier.of(twice / (2.0**shift * out.q.s)))


def _left_shift(y: Tensor) -> int:
    """Bits that the kernel adds to its inputs."""
    return 15 if y.dtype is DType.INT16 else _LEFT_SHIFT


def _xnnpack_ratios(ta: Tensor, tb: Tensor, out: Tensor) -> tuple[np.float32, np.float32]:
    return np.float32(ta.q.s) / np.float32(out.q.s), np.float32(tb.q.s) / np.float32(out.q.s)


def _xnnpack_shift(ta: Tensor, tb: Tensor, out: Tensor) -> int:
    """The larger multiplier gets 21 bits."""
    return 20 - (math.frexp(float(max(_xnnpack_ratios(ta, tb, out))))[1] - 1)


def _xnnpack(a: I64, b: I64, ta: Tensor, tb: Tensor, out: Tensor) -> I64:
    shift = _xnnpack_shift(ta, tb, out)
    ma, mb = (np.int64(np.rint(float(r) * 2.0**shift)) for r in _xnnpack_ratios(ta, tb, out))
    return (a * ma + b * mb + (np.int64(1) << (shift - 1))) >> shift
