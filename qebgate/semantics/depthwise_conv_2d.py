"""DEPTHWISE_CONV_2D (tensorflow/lite/kernels/depthwise_conv.cc): output channel ``c * multiplier + m``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.accumulate import linear_deviation, requantize, scalar_tail
from qebgate.semantics.base import (
    Activation,
    Options,
    Rounding,
    Semantics,
    apply_activation,
    check_limits,
    require,
)
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.windows import Stride, Window, chunks, image


@dataclass(frozen=True, slots=True)
class DepthwiseConv2DAttrs:
    """Geometry, fused activation, and the depth multiplier M of ``C * M`` output channels."""

    how: Stride
    activation: Activation
    multiplier: int


class DepthwiseConv2D(Semantics):
    name = "DEPTHWISE_CONV_2D"
    max_version = 7

    def parse(self, options: Options) -> DepthwiseConv2DAttrs:
        how = Stride.parse(
            options.int8(0), (options.int32(2), options.int32(1)), (options.int32(6, 1), options.int32(5, 1))
        )
        return DepthwiseConv2DAttrs(how, Activation.parse(options.int8(4)), options.int32(3))

    def window(self, node: Node, graph: Graph) -> Window:
        """Geometry of a checked node."""
        lin, attrs = LinearNode.of(node, graph), node.attrs
        assert isinstance(attrs, DepthwiseConv2DAttrs)
        return Window.of(lin.x.shape[1:3], lin.w.shape[1:3], attrs.how)  # type: ignore[arg-type]

    def check(self, node: Node, graph: Graph) -> None:
        lin = LinearNode.of(node, graph)
        n, _, _, c = image(node, graph, lin.x)
        one, _, _, oc = image(node, graph, lin.w)
        fits = one == 1 and c >= 1 and oc % c == 0
        require(fits, "the weights do not fit the input", node, graph, f"{lin.x.shape}, {lin.w.shape}")
        assert isinstance(node.attrs, DepthwiseConv2DAttrs)
        # the builtin kernels go by the shapes, XNNPACK by the option
        stated = node.attrs.multiplier
        require(
            stated == oc // c, "the depth multiplier does not fit the weights", node, graph, f"{stated}, not {oc // c}"
        )
        self.window(node, graph).check(node, graph, lin.y, n, oc)
        if lin.bias is not None:
            require(lin.bias.shape == (oc,), "the bias does not fit the weights", node, graph, lin.bias.shape)
        if lin.x.dtype.is_code:
            lin.check_types()
            lin.check_quantized(axis=3)
            assert isinstance(node.attrs, DepthwiseConv2DAttrs)
            check_limits(node.attrs.activation, node, graph)
        else:
            lin.check_float(axis=3)

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        lin, attrs, x = LinearNode.of(node, graph), node.attrs, inputs[0]
        assert isinstance(attrs, DepthwiseConv2DAttrs)
        assert x is not None
        z = correlate_depthwise(self.window(node, graph), x.reshape(-1, *lin.x.shape[1:]), lin.weights, lin.bias)
        return apply_activation(z, attrs.activation).reshape(x.shape[0], *lin.y.shape)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        lin, attrs, x = LinearNode.of(node, graph), node.attrs, inputs[0]
        assert isinstance(attrs, DepthwiseConv2DAttrs)
        assert x is not None
        window = self.window(node, graph)
        channels = lin.y.shape[3]
        codes = attrs.activation.code_range(lin.y, runtime)
        tail = scalar_tail(channels)
        rows = x.reshape(-1, *lin.x.shape[1:])
        y = np.empty((len(rows), *lin.y.shape[1:]), np.int32)
        for part in chunks(len(rows), 32 * lin.y.size // max(1, lin.y.shape[0])):
            kind = np.int64 if lin.wide else np.int32
            centred = rows[part].astype(kind) - kind(lin.x.q.z)
            acc = _accumulate(window.patches(centred, 0), lin.weights[0].astype(kind)).astype(np.int64)
            if lin.bias is not None:
                acc += lin.bias
            y[part] = requantize(
                acc,
                lin.x.q.s,
                lin.w.q.scale,
                lin.y.q.s,
                lin.y.q.z,
                codes,
                runtime,
                dense=False,
                wide=lin.wide,
                tail=tail,
            )
        return y.reshape(x.shape[0], *lin.y.shape)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        lin = LinearNode.of(node, graph)
        scales = lin.x.q.s, lin.w.q.scale, lin.y.q.s
        dev = linear_deviation(*scales, runtime, dense=False, wide=lin.wide, reach=Rounding.REACH)
        return Rounding.symmetric(dev)


def correlate_depthwise(window: Window, rows: Array, weights: Array, bias: Array | None) -> Array:
    """``[N, P, Q, C * M]`` float products of ``rows [N, H, W, C]`` with ``weights [1, K, L, C * M]``, plus the bias."""
    z = np.empty((len(rows), *window.out, weights.shape[3]), rows.dtype)
    for part in chunks(len(rows), 16 * z[:1].size):
        z[part] = _accumulate(window.patches(rows[part], 0), weights[0].astype(rows.dtype))
    return z if bias is None else z + bias.astype(rows.dtype)


def _accumulate(patches: Array, w: Array) -> Array:
    """``[N, P, Q, C, K, L]`` patches times ``[K, L, C * M]`` weights, one kernel tap at a time.

    int32 never overflows: :meth:`LinearNode.check_quantized` has seen to it.
    """
    n, p, q, c, kk, ll = patches.shape
    multiplier = w.shape[2] // c
    taps = w.reshape(kk, ll, c, multiplier)
    acc = np.zeros((n, p, q, c, multiplier), patches.dtype)
    for k in range(kk):
        for j in range(ll):
            acc += patches[:, :, :, :, k, j, None] * taps[k, j]
    return acc.reshape(n, p, q, c * multiplier)
