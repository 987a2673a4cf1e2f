"""TRANSPOSE_CONV (tensorflow/lite/kernels/transpose_conv.cc): the transpose of a convolution, then a bias.

The output is the input of the convolution that is transposed: the same window, read the other way round.  A file
names the output's shape, the weights ``[M, K, L, C]`` and the input, in this order; here nodes are
``(input, weights, bias)``, as those of every operator with weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qebgate.errors import UnsupportedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType, Tensor
from qebgate.numerics.fixed_point import I64
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
class TransposeConvAttrs:
    """Geometry of the convolution that is transposed, and fused activation."""

    how: Stride
    activation: Activation


class TransposeConv(Semantics):
    name = "TRANSPOSE_CONV"
    max_version = 5

    def parse(self, options: Options) -> TransposeConvAttrs:
        how = Stride.parse(options.int8(0), (options.int32(2), options.int32(1)))
        return TransposeConvAttrs(how, Activation.parse(options.int8(3)))

    def arrange(self, node: Node, tensors: Sequence[Tensor]) -> Node:
        """Without the output's shape, which must be constant and that of the output."""
        given = node.inputs
        if not 3 <= len(given) <= 4 or min(given[:3]) < 0:
            raise UnsupportedError("QEB432", "unexpected inputs", found=str(given[:10]))
        shape, y = tensors[given[0]], tensors[node.outputs[0]]
        if shape.const is None or shape.dtype is not DType.INT32 or tuple(shape.const.reshape(-1)) != y.shape:
            found = "computed" if shape.const is None else str(shape.const.reshape(-1)[:10].tolist())
            raise UnsupportedError("QEB432", "the output's shape is not a constant that fits the output", found=found)
        return replace(node, inputs=(given[2], given[1], *given[3:]))

    def window(self, node: Node, graph: Graph) -> Window:
        """Of the convolution that is transposed: its input is this node's output."""
        lin, attrs = LinearNode.of(node, graph), node.attrs
        assert isinstance(attrs, TransposeConvAttrs)
        return Window.of(lin.y.shape[1:3], lin.w.shape[1:3], attrs.how)  # type: ignore[arg-type]

    def check(self, node: Node, graph: Graph) -> None:
        lin = LinearNode.of(node, graph)
        n, _, _, c = image(node, graph, lin.x)
        oc, _, _, depth = image(node, graph, lin.w)
        batch, _, _, channels = image(node, graph, lin.y)
        fits = depth == c and oc == channels and batch == n
        found = f"{lin.x.shape}, {lin.w.shape}, {lin.y.shape}"
        require(fits, "the weights do not fit the input or the output", node, graph, found)
        self.window(node, graph).check(node, graph, lin.x, n, c)
        if lin.bias is not None:
            require(lin.bias.shape == (oc,), "the bias does not fit the weights", node, graph, lin.bias.shape)
        if lin.x.dtype.is_code:
            lin.check_types()
            lin.check_quantized(axis=0)
            assert isinstance(node.attrs, TransposeConvAttrs)
            check_limits(node.attrs.activation, node, graph)
        else:
            lin.check_float(axis=0)

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        lin, attrs, x = LinearNode.of(node, graph), node.attrs, inputs[0]
        assert isinstance(attrs, TransposeConvAttrs)
        assert x is not None
        z = scatter(self.window(node, graph), x.reshape(-1, *lin.x.shape[1:]), lin.weights)
        if lin.bias is not None:
            z = z + lin.bias.astype(z.dtype)
        return apply_activation(z, attrs.activation).reshape(x.shape[0], *lin.y.shape)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        lin, attrs, x = LinearNode.of(node, graph), node.attrs, inputs[0]
        assert isinstance(attrs, TransposeConvAttrs)
        assert x is not None
        kernel, window = lin.kernel(runtime), self.window(node, graph)
        codes = attrs.activation.code_range(lin.y, kernel)
        float_type = np.float32 if lin.accumulator_bound(reduce=(1, 2, 3)) < 2.0**24 else np.float64
        rows = x.reshape(-1, *lin.x.shape[1:])
        y = np.empty((len(rows), *lin.y.shape[1:]), np.int32)
        for part in chunks(len(rows), 32 * y[:1].size):
            centred = (rows[part] - lin.x.q.z).astype(float_type)
            acc: I64 = scatter(window, centred, lin.weights).astype(np.int64)
            if lin.bias is not None:
                acc += lin.bias
            scales = lin.x.q.s, lin.w.q.scale, lin.y.q.s, lin.y.q.z
            y[part] = requantize(
                acc, *scales, codes, kernel, dense=False, wide=lin.wide, tail=scalar_tail(lin.y.shape[3])
            )
        return y.reshape(x.shape[0], *lin.y.shape)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        lin = LinearNode.of(node, graph)
        scales, kernel = (lin.x.q.s, lin.w.q.scale, lin.y.q.s), lin.kernel(runtime)
        dev = linear_deviation(*scales, kernel, dense=False, wide=lin.wide, reach=Rounding.REACH)
        return Rounding.symmetric(dev)


def scatter(window: Window, rows: Array, weights: Array) -> Array:
    """``[N, H, W, M]``: every entry of ``rows [N, P, Q, C]`` times ``weights [M, K, L, C]``, added where it falls.

    ``window`` is that of the convolution from ``(H, W)`` to ``(P, Q)``.  Exact for integers within the type's reach.
    """
    (p, q), (s0, s1), (t, left), (h, width) = window.out, window.stride, window.before, window.size
    m, kk, ll, _ = weights.shape
    w = weights.astype(rows.dtype)
    reach = ((n - 1) * s + k for n, s, k in zip(window.out, window.stride, window.kernel, strict=True))
    padded = [max(a, n + b) for a, n, b in zip(reach, window.size, window.before, strict=True)]
    z = np.zeros((len(rows), *padded, m), rows.dtype)
    for k in range(kk):
        for j in range(ll):
            at = (slice(None), slice(k, k + (p - 1) * s0 + 1, s0), slice(j, j + (q - 1) * s1 + 1, s1))
            z[at] += rows @ w[:, k, j].T
    return z[:, t : t + h, left : left + width]
