"""Quantizing a float network on the fly, in the fixed-point scheme of ``qebgate.semantics.fixed_point``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from qebgate.adapters.dense import dense_graph
from qebgate.adapters.npz import DenseNetwork
from qebgate.errors import UnsupportedError
from qebgate.ir.graph import Graph, Node, Source
from qebgate.ir.tensor import Array, DType, QuantParams, Tensor
from qebgate.numerics.fixed_point import round_half_away
from qebgate.numerics.rounding import F64
from qebgate.semantics.fixed_point import DenseAttrs, FixedPointDense, FixedPointInput, InputAttrs


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """``bits`` of weights, biases and hidden activations; integer bits of each, the sign among them.

    A number with ``i`` integer bits has ``bits - i`` fractional ones.  Inputs have 8 or 16 bits.
    """

    bits: int
    weight_int_bits: int
    bias_int_bits: int
    activation_int_bits: int
    input_bits: int
    input_signed: bool
    input_int_bits: int

    @property
    def input_fraction(self) -> int:
        return self.input_bits - self.input_int_bits

    @property
    def input_scale(self) -> Fraction:
        """What one step of the input is worth to the quantized network."""
        return Fraction(1, 1 << self.input_fraction)

    @property
    def input_type(self) -> DType:
        return DType(("" if self.input_signed else "u") + f"int{self.input_bits}")


def quantize(v: Array, bits: int, fraction: int) -> F64:
    """``clamp(round(v 2**fraction))`` to ``bits`` bits with sign, ties away from zero; integers."""
    top = 2.0 ** (bits - 1)
    return round_half_away(v.astype(np.float64) * 2.0**fraction).clip(-top, top - 1)


def build(net: DenseNetwork, how: FixedPoint, input_scale: Fraction | None) -> tuple[Graph, Graph]:
    """The float and the quantized graph; both read the same integers ``[1, n]``.

    ``input_scale`` is what one step of the input is worth to the float network (None: as to the
    quantized one).  Raises UnsupportedError where the bits do not fit together.
    """
    return dense_graph(net, input_scale or how.input_scale), _quantized(net, how)


def _quantized(net: DenseNetwork, how: FixedPoint) -> Graph:
    n, dtype = net.inputs, how.input_type
    lo, hi = dtype.code_range
    tensors = [
        Tensor("input", (1, n), dtype, _power(0, lo, hi)),
        Tensor("scaled", (1, n), dtype, _power(how.input_fraction, lo, hi)),
    ]
    nodes = [Node("FIXED_POINT_INPUT", (0,), (1,), InputAttrs(how.input_scale), 0)]
    top = 1 << (how.bits - 1)
    weight, bias, out = (how.bits - i for i in (how.weight_int_bits, how.bias_int_bits, how.activation_int_bits))
    before = how.input_fraction
    codes = DType.UINT8 if how.bits <= 8 else DType.UINT16
    for k, (w, b) in enumerate(net.layers):
        last = k == len(net.layers) - 1
        shift = before + weight - out
        if before + weight < bias or (shift < 0 and not last):
            raise UnsupportedError(
                "QEB473",
                "biases or activations have more fractional bits than the accumulators of their layer",
                where=f"layer {k}",
                found=f"{before} + {weight} in the accumulator, {bias} in the bias, {out} in the activation",
                fix="give weights or inputs fewer integer bits, or biases and activations more",
            )
        stored = DType.INT8 if how.bits <= 8 else DType.INT16
        at = len(tensors)
        tensors += [
            Tensor(
                f"w{k}",
                w.shape,
                stored,
                _power(weight, -top, top - 1),
                quantize(w, how.bits, weight).astype(stored.numpy),
            ),
            Tensor(
                f"b{k}",
                b.shape,
                DType.INT64,
                None,
                quantize(b, how.bits, bias).astype(np.int64) << (before + weight - bias),
            ),
            Tensor("output", (1, w.shape[0]), DType.FLOAT64)
            if last
            else Tensor(f"h{k}", (1, w.shape[0]), codes, _power(out, 0, 2 * top - 1)),
        ]
        nodes.append(
            Node("FIXED_POINT_DENSE", (at - 1, at, at + 1), (at + 2,), DenseAttrs(None if last else shift), k + 1)
        )
        before = out
    digest = hashlib.sha256(f"{net.sha256} {how}".encode()).hexdigest()
    source = Source(f"{net.path} ({how.bits} bits, fixed point)", digest, "fixed_point")
    graph = Graph(tuple(tensors), tuple(nodes), (0,), (len(tensors) - 1,), source)
    FixedPointInput().check(nodes[0], graph)
    for node in nodes[1:]:
        FixedPointDense().check(node, graph)
    return graph


def _power(fraction: int, lo: int, hi: int) -> QuantParams:
    """Codes ``lo`` to ``hi`` worth ``2**-fraction`` each."""
    return QuantParams(np.array([2.0**-fraction]), np.zeros(1, np.int64), None, lo, hi)
