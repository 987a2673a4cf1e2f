"""CONV_2D (tensorflow/lite/kernels/conv.cc), by patches and an exact matrix product; in groups of channels too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
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
)
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.windows import Stride, Window, chunks, image


@dataclass(frozen=True, slots=True)
class Conv2DAttrs:
    """Geometry and fused activation."""

    how: Stride
    activation: Activation


class Conv2D(Semantics):
    name = "CONV_2D"
    max_version = 8

    def parse(self, options: Options) -> Conv2DAttrs:
        how = Stride.parse(
            options.int8(0), (options.int32(2), options.int32(1)), (options.int32(5, 1), options.int32(4, 1))
        )
        return Conv2DAttrs(how, Activation.parse(options.int8(3)))

    def window(self, node: Node, graph: Graph) -> Window:
        """Geometry of a checked node."""
        lin, attrs = LinearNode.of(node, graph), node.attrs
        assert isinstance(attrs, Conv2DAttrs)
        return Window.of(lin.x.shape[1:3], lin.w.shape[1:3], attrs.how)  # type: ignore[arg-type]

    def check(self, node: Node, graph: Graph) -> None:
        lin = LinearNode.of(node, graph)
        n, _, _, c = image(node, graph, lin.x)
        oc, _, _, depth = image(node, graph, lin.w)
        fits = lin.weights.shape[3] == c
        require(fits, "the weights do not fit the input's channels", node, graph, f"{c}, weights have {depth}")
        hybrid = lin.groups > 1 and graph.is_hybrid(node)
        require(not hybrid, "grouped convolutions with weights quantized for float inputs", node, graph, lin.groups)
        self.window(node, graph).check(node, graph, lin.y, n, oc)
        if lin.bias is not None:
            require(lin.bias.shape == (oc,), "the bias does not fit the weights", node, graph, lin.bias.shape)
        if lin.x.dtype.is_code:
            lin.check_types()
            lin.check_quantized(axis=0)
            assert isinstance(node.attrs, Conv2DAttrs)
            check_limits(node.attrs.activation, node, graph)
        else:
            lin.check_float(axis=0)

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        lin, attrs, x = LinearNode.of(node, graph), node.attrs, inputs[0]
        assert isinstance(attrs, Conv2DAttrs)
        assert x is not None
        z = correlate(self.window(node, graph), x.reshape(-1, *lin.x.shape[1:]), lin.weights, lin.bias)
        return apply_activation(z, attrs.activation).reshape(x.shape[0], *lin.y.shape)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        lin, attrs, x = LinearNode.of(node, graph), node.attrs, inputs[0]
        assert isinstance(attrs, Conv2DAttrs)
        assert x is not None
        bound = lin.accumulator_bound(reduce=(1, 2, 3))
        float_type = np.float32 if bound < 2.0**24 else np.float64
        w = lin.weights.astype(float_type).reshape(lin.y.shape[3], -1).T
        window = self.window(node, graph)
        kernel, codes = lin.kernel(runtime), attrs.activation.code_range(lin.y, runtime)
        rows = x.reshape(-1, *lin.x.shape[1:])
        y = np.empty((len(rows), *lin.y.shape[1:]), np.int32)
        area = window.out[0] * window.out[1]
        for part in chunks(len(rows), 4 * area * (len(w) + 4 * w.shape[1])):
            centred = (rows[part] - lin.x.q.z).astype(float_type)
            acc = exact_matmul(window.columns(centred, 0), w, bound).astype(np.int64)
            if lin.bias is not None:
                acc += lin.bias
            q = requantize(
                acc, lin.x.q.s, lin.w.q.scale, lin.y.q.s, lin.y.q.z, codes, kernel, dense=False, wide=lin.wide
            )
            y[part] = q.reshape(-1, *lin.y.shape[1:])
        return y.reshape(x.shape[0], *lin.y.shape)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        lin = LinearNode.of(node, graph)
        scales = lin.x.q.s, lin.w.q.scale, lin.y.q.s
        dev = linear_deviation(*scales, lin.kernel(runtime), dense=False, wide=lin.wide, reach=Rounding.REACH)
        return Rounding.symmetric(dev)


def correlate(window: Window, rows: Array, weights: Array, bias: Array | None) -> Array:
    """``[N, P, Q, M]`` float products of ``rows [N, H, W, C]`` with ``weights [M, K, L, C]``, plus the bias."""
    m = weights.shape[0]
    w = weights.astype(rows.dtype).reshape(m, -1).T
    z = np.empty((len(rows), *window.out, m), rows.dtype)
    for part in chunks(len(rows), 8 * window.out[0] * window.out[1] * len(w)):
        z[part] = (window.columns(rows[part], 0) @ w).reshape(-1, *window.out, m)
    return z if bias is None else z + bias.astype(rows.dtype)
