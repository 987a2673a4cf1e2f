"""ADD of two tensors, with numpy's broadcasting (tensorflow/lite/kernels/add.cc, XNNPACK qs8-vadd)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, Tensor
from qebgate.numerics.fixed_point import I64, Multiplier, multiply_double_rounding
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import (
    INT8,
    Activation,
    Options,
    Rounding,
    Semantics,
    apply_activation,
    check_limits,
    require,
)
from qebgate.semantics.delegation import owner

_LEFT_SHIFT = 20


@dataclass(frozen=True, slots=True)
class AddAttrs:
    """The fused activation."""

    activation: Activation


class Add(Semantics):
    name = "ADD"
    max_version = 4

    def parse(self, options: Options) -> AddAttrs:
        return AddAttrs(Activation.parse(options.int8(0)))

    def check(self, node: Node, graph: Graph) -> None:
        require(len(node.inputs) == 2, "unexpected number of inputs", node, graph, len(node.inputs))
        a, b = (graph.tensors[i] for i in node.inputs)
        y = graph.tensors[node.outputs[0]]
        try:
            shape = np.broadcast_shapes(a.shape, b.shape)
        except ValueError:
            shape = None
        require(
            shape == y.shape,
            "the inputs' shapes do not give the output's",
            node,
            graph,
            f"{a.shape}, {b.shape}, {y.shape}",
        )
        require(
            a.dtype is b.dtype is y.dtype,
            "inputs and output have different types",
            node,
            graph,
            f"{a.dtype.value}, {b.dtype.value}",
        )
        if y.dtype.is_code:
            assert isinstance(node.attrs, AddAttrs)
            check_limits(node.attrs.activation, node, graph)
            require(y.dtype is INT8, "ADD runs on int8 only", node, graph, y.dtype.value)
            require(
                not (a.q.per_channel or b.q.per_channel or y.q.per_channel),
                "activations have per-channel scales",
                node,
                graph,
            )
            ratios = [t.q.s / y.q.s for t in (a, b)]
            # the kernel needs 2 max(s) / (2**20 s_out) < 1, and a smaller input that is not flushed away
            require(
                max(ratios) < 2.0**18 and min(ratios) > 2.0**-20, "ADD of scales too far apart", node, graph, ratios
            )
            require(max(ratios) / min(ratios) < 2.0**20, "ADD of scales too far apart", node, graph, ratios)
            # builtin's vectors narrow the sum to 16 bits by dropping bits
            reach = sum(_reach(t) * r for t, r in zip((a, b), ratios, strict=True))
            require(
                reach < 2.0**15 - 2, "the sum of an ADD may overflow 16 bits", node, graph, f"{reach:.0f} output quanta"
            )

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        assert isinstance(node.attrs, AddAttrs)
        a, b = self._aligned(node, graph, inputs)
        live = [x.dtype for x, i in zip((a, b), node.inputs, strict=True) if not graph.tensors[i].is_const]
        dtype = np.result_type(*(live or [a.dtype, b.dtype]))
        return apply_activation(a.astype(dtype) + b.astype(dtype), node.attrs.activation)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        assert isinstance(node.attrs, AddAttrs)
        ta, tb = (graph.tensors[i] for i in node.inputs)
        out = graph.tensors[node.outputs[0]]
        kernel = owner(node, graph, runtime)
        a, b = self._aligned(node, graph, inputs)
        a, b = a.astype(np.int64) - ta.q.z, b.astype(np.int64) - tb.q.z
        q = _xnnpack(a, b, ta, tb, out) if kernel is Runtime.XNNPACK else _tflite(a, b, ta, tb, out)
        return np.clip(q + out.q.z, *node.attrs.activation.code_range(out, kernel)).astype(np.int32)

    @staticmethod
    def _aligned(node: Node, graph: Graph, inputs: Sequence[Array | None]) -> tuple[Array, Array]:
        """Both operands with the output's number of axes after the batch axis."""
        rank = len(graph.tensors[node.outputs[0]].shape)
        out: list[Array] = []
        for i, x in zip(node.inputs, inputs, strict=True):
            assert x is not None
            t = graph.tensors[i]
            lead = (x.shape[0],) if not t.is_const else (1,)
            out.append(x.reshape(*lead, *(1,) * (rank - len(t.shape)), *t.shape))
        return out[0], out[1]

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        a, b, y = (graph.tensors[i] for i in (*node.inputs, node.outputs[0]))
        if owner(node, graph, runtime) is Runtime.XNNPACK:
            # multipliers: half a unit of their last bit, and the float32 quotient that they are made of; the
            # terms can be large where their sum is small, so the error goes with the terms
            terms = _reach(a) * a.q.s / y.q.s + _reach(b) * b.q.s / y.q.s
            last_bit = 0.5 * 2.0 ** -_xnnpack_shift(a, b, y)
            return Rounding.symmetric(0.5 + (_reach(a) + _reach(b)) * last_bit + terms * 2.0**-23)
        # each rescaled input is within 0.75 (roundings) + 2**-4 (multiplier, of a term below 2**27) of its exact
        # value, in units of twice_max * 2**-20
        unit = 2.0 * max(a.q.s, b.q.s) / 2.0**_LEFT_SHIFT / y.q.s
        mult = Multiplier.of(unit)
        second = 2.0 ** -(int(mult.right[0]) + 1) if int(mult.right[0]) else 0.0
        return Rounding.symmetric(0.5 + second + 2 * unit + Rounding.REACH * 2.0**-29)


def _reach(t: Tensor) -> int:
    """Largest ``|code - zero_point|``."""
    lo, hi = t.dtype.code_range
    return max(hi - t.q.z, t.q.z - lo)


def _tflite(a: I64, b: I64, ta: Tensor, tb: Tensor, out: Tensor) -> I64:
    twice = 2.0 * max(ta.q.s, tb.q.s)
    sa = multiply_double_rounding(a << _LEFT_SHIFT, Multiplier.of(ta.q.s / twice))
    sb = multiply_double_rounding(b << _LEFT_SHIFT, Multiplier.of(tb.q.s / twice))
    return multiply_double_rounding(sa + sb, Multiplier.of(twice / (2.0**_LEFT_SHIFT * out.q.s)))


def _xnnpack_ratios(ta: Tensor, tb: Tensor, out: Tensor) -> tuple[np.float32, np.float32]:
    return np.float32(ta.q.s) / np.float32(out.q.s), np.float32(tb.q.s) / np.float32(out.q.s)


def _xnnpack_shift(ta: Tensor, tb: Tensor, out: Tensor) -> int:
    """The larger multiplier gets 21 bits."""
    return 20 - (math.frexp(float(max(_xnnpack_ratios(ta, tb, out))))[1] - 1)


def _xnnpack(a: I64, b: I64, ta: Tensor, tb: Tensor, out: Tensor) -> I64:
    shift = _xnnpack_shift(ta, tb, out)
    ma, mb = (np.int64(np.rint(float(r) * 2.0**shift)) for r in _xnnpack_ratios(ta, tb, out))
    return (a * ma + b * mb + (np.int64(1) << (shift - 1))) >> shift
