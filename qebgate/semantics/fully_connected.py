"""FULLY_CONNECTED: ``y = x W^T + b`` (tensorflow/lite/kernels/fully_connected.cc)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qebgate.errors import UnsupportedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.numerics.fixed_point import I64
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.accumulate import exact_matmul, linear_deviation, requantize
from qebgate.semantics.base import (
    Activation,
    Options,
    Rounding,
    Semantics,
    apply_activation,
    check_limits,
    require,
    tensor,
)
from qebgate.semantics.linear import LinearNode


@dataclass(frozen=True, slots=True)
class FullyConnectedAttrs:
    """``keep_dims`` keeps the input's leading axes instead of flattening them into one.

    ``asymmetric`` says how builtin's hybrid kernel quantizes a float input (XNNPACK always does it asymmetrically).
    """

    activation: Activation
    keep_dims: bool
    asymmetric: bool = False


class FullyConnected(Semantics):
    name = "FULLY_CONNECTED"
    max_version = 12

    def parse(self, options: Options) -> FullyConnectedAttrs:
        if options.int8(1) != 0:
            raise UnsupportedError("QEB433", "FULLY_CONNECTED with shuffled weights is not supported")
        return FullyConnectedAttrs(Activation.parse(options.int8(0)), options.bool(2), options.bool(3))

    def check(self, node: Node, graph: Graph) -> None:
        lin = LinearNode.of(node, graph)
        x, w, y = lin.x, lin.w, lin.y
        require(len(w.shape) == 2, "FULLY_CONNECTED needs a matrix of weights", node, graph, w.shape)
        require(x.size % w.shape[1] == 0, "the input does not fit the weights", node, graph, f"{x.shape}, {w.shape}")
        rows = x.size // w.shape[1]
        require(
            y.size == rows * w.shape[0], "the output does not fit the weights", node, graph, f"{y.shape}, {w.shape}"
        )
        if x.dtype.is_code:
            lin.check_types()
            lin.check_quantized(axis=0)
            assert isinstance(node.attrs, FullyConnectedAttrs)
            check_limits(node.attrs.activation, node, graph)
        else:
            lin.check_float(axis=0)

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        lin, attrs = LinearNode.of(node, graph), node.attrs
        assert isinstance(attrs, FullyConnectedAttrs)
        x = inputs[0]
        assert x is not None
        w = lin.weights.astype(x.dtype)
        y = x.reshape(-1, w.shape[1]) @ w.T
        if lin.bias is not None:
            y = y + lin.bias.astype(x.dtype)
        return apply_activation(y, attrs.activation).reshape(x.shape[0], *lin.y.shape)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        lin, attrs = LinearNode.of(node, graph), node.attrs
        assert isinstance(attrs, FullyConnectedAttrs)
        x = inputs[0]
        assert x is not None
        w = lin.weights
        centred = x.reshape(-1, w.shape[1]) - lin.x.q.z
        acc = exact_matmul(centred, w.T, lin.accumulator_bound(reduce=(1,))).astype(np.int64)
        if lin.bias is not None:
            acc = acc + lin.bias
        return finish(node, graph, acc, runtime).reshape(x.shape[0], *lin.y.shape)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        lin = LinearNode.of(node, graph)
        out = tensor(graph, node.outputs[0])
        return Rounding.symmetric(
            linear_deviation(
                lin.x.q.s, lin.w.q.scale, out.q.s, runtime, dense=True, wide=lin.wide, reach=Rounding.REACH
            )
        )


def finish(node: Node, graph: Graph, acc: I64, runtime: Runtime) -> Array:
    """The codes that a runtime makes of exact accumulators ``[..., m]``, bias included."""
    lin, attrs = LinearNode.of(node, graph), node.attrs
    assert isinstance(attrs, FullyConnectedAttrs)
    return requantize(
        acc,
        lin.x.q.s,
        lin.w.q.scale,
        lin.y.q.s,
        lin.y.q.z,
        attrs.activation.code_range(lin.y, runtime),
        runtime,
        dense=True,
        wide=lin.wide,
    )
