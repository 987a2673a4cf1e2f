"""What the operators with weights share: constant weights and bias, checked, and which kernel rounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qebgate.errors import UnsupportedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType, Tensor
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import require
from qebgate.semantics.delegation import owner

LARGEST = 1 << 24
"""Entries of the weights of a grouped convolution, written out for all input channels, at most."""
BIAS_LEFT_OUT = frozenset({"FULLY_CONNECTED", "TRANSPOSE_CONV"})
"""Operators on codes that every runtime executes without a bias."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearNode:
    """A node ``y = act(x * W + b)`` with constant ``W`` and an optional constant ``b``.

    ``weights`` are integer codes where the input is, and real numbers where it is a float: those of a hybrid
    node dequantized, exact in float64.  Those of a grouped CONV_2D are written out, zero between groups.
    """

    node: Node
    graph: Graph
    x: Tensor
    w: Tensor
    y: Tensor
    weights: Array
    bias: Array | None
    groups: int = 1

    @classmethod
    def of(cls, node: Node, graph: Graph) -> LinearNode:
        """Raises UnsupportedError where weights or bias are not constants."""
        require(len(node.inputs) in (2, 3), "unexpected number of inputs", node, graph, len(node.inputs))
        xi, wi = node.inputs[0], node.inputs[1]
        bi = node.inputs[2] if len(node.inputs) == 3 else -1
        w = graph.tensors[wi]
        weights = w.const
        bias = graph.tensors[bi].const if bi >= 0 else None
        if weights is None or (bi >= 0 and bias is None):
            raise UnsupportedError(
                "QEB434", "weights or bias are computed, not constant", where=f"{graph.source.label}: {node.origin}"
            )
        if node.op == "BATCH_MATMUL":
            weights = _matrix(node, w)
        elif graph.is_hybrid(node):
            weights = w.q.dequantize(weights)
        x, groups = graph.tensors[xi], 1
        if node.op == "CONV_2D" and len(x.shape) == len(w.shape) == 4:
            groups = max(1, x.shape[3] // max(1, w.shape[3]))
        if groups > 1:
            weights = _ungrouped(node, graph, weights, groups)
        return cls(node, graph, x, w, graph.tensors[node.outputs[0]], weights, bias, groups)

    def kernel(self, runtime: Runtime) -> Runtime:
        """The runtime whose requantization the node has: builtin leaves grouped convolutions to the reference's."""
        made = owner(self.node, self.graph, runtime)
        return Runtime.REFERENCE if made is Runtime.BUILTIN and self.groups > 1 else made

    @property
    def wide(self) -> bool:
        """Whether activations are int16: sums of 64 bits, zero points of 0."""
        return self.x.dtype is DType.INT16

    def check_types(self) -> None:
        """int8 or int16 activations, int8 weights."""
        types = f"{self.x.dtype.value}, {self.w.dtype.value}"
        known = self.x.dtype in (DType.INT8, DType.INT16) and self.w.dtype is DType.INT8
        message = f"{self.node.op} runs on int8 or int16 with int8 weights only"
        require(known, message, self.node, self.graph, types)

    def check_float(self, axis: int) -> None:
        """The preconditions of float and hybrid kernels; ``axis`` is the output channels' axis of the weights."""
        n, g = self.node, self.graph
        require(self.y.dtype is DType.FLOAT32, "a float input with an output of codes", n, g, self.y.dtype.value)
        if self.bias is not None:
            bias_type = g.tensors[n.inputs[2]].dtype
            require(bias_type is DType.FLOAT32, "the bias of a float operator is not float32", n, g, bias_type.value)
            require(
                self.bias.shape == (self.w.shape[axis],), "the bias does not fit the weights", n, g, self.bias.shape
            )
        if not self.w.dtype.is_code:
            require(self.w.dtype is DType.FLOAT32, "the weights are not float32", n, g, self.w.dtype.value)
            return
        q = self.w.q
        require(self.w.dtype is DType.INT8, "hybrid weights are not int8", n, g, self.w.dtype.value)
        require(q.axis in (None, axis), "weights are quantized along another axis", n, g, q.axis)
        require(not q.zero_point.any(), "weights have a zero point", n, g, int(np.abs(q.zero_point).max()))
        if n.op != "FULLY_CONNECTED":
            require(self.bias is not None, f"a hybrid {n.op} without a bias", n, g)
        if n.op == "DEPTHWISE_CONV_2D":  # builtin reads one scale for each channel, whatever there is
            sizes = q.scale.size, self.w.shape[axis]
            require(sizes[0] == sizes[1], "a hybrid DEPTHWISE_CONV_2D without a scale per channel", n, g, sizes)

    def accumulator_bound(self, reduce: tuple[int, ...]) -> float:
        """Upper bound of every ``sum |x_i - z| |w_i|``; ``reduce`` are the axes of W summed over."""
        lo, hi = self.x.dtype.code_range
        reach = max(hi - self.x.q.z, self.x.q.z - lo)
        return float(np.abs(self.weights.astype(np.float64)).sum(axis=reduce).max(initial=0.0)) * reach

    def check_quantized(self, axis: int) -> None:
        """The preconditions of the integer kernels: types, zero points, no int32 overflow.

        ``axis`` is the output channels' axis of the weights.
        """
        n, g = self.node, self.graph
        require(self.y.dtype is self.x.dtype, "input and output have different types", n, g, self.y.dtype.value)
        require(not self.x.q.per_channel and not self.y.q.per_channel, "activations have per-channel scales", n, g)
        q = self.w.q
        require(q.axis in (None, axis), "weights are quantized along another axis", n, g, q.axis)
        require(not q.zero_point.any(), "weights have a zero point", n, g, int(np.abs(q.zero_point).max()))
        channels = self.weights.shape[axis]
        # LiteRT refuses int8 convolutions without a bias, or crashes on them
        require(
            self.bias is not None or n.op in BIAS_LEFT_OUT, f"an int8 {n.op} without a bias is not executable", n, g
        )
        if self.bias is not None:
            bias_type = self.graph.tensors[n.inputs[2]].dtype
            expected = DType.INT64 if self.wide else DType.INT32
            require(bias_type is expected, f"the bias is not {expected.value}", n, g, bias_type.value)
            require(self.bias.shape == (channels,), "the bias does not fit the weights", n, g, self.bias.shape)
            self._check_bias_scale()
        reduce = tuple(a for a in range(self.weights.ndim) if a != axis)
        total = self.accumulator_bound(reduce)
        if self.bias is not None:
            total += float(np.abs(self.bias.astype(np.float64)).max(initial=0.0))
        m = self.x.q.s * q.scale / self.y.q.s
        if self.wide:
            zero = self.x.q.z == 0 == self.y.q.z
            require(zero, "int16 activations with a zero point", n, g, f"{self.x.q.z}, {self.y.q.z}")
            require(bool((m < 64.0).all()), "a multiplier is 64 or more", n, g, float(m.max()))
            require(total < 2.0**46, "the accumulator may overflow 48 bits", n, g, f"{total:.3g}")
            fits = total * float(m.max()) < 2.0**30
            require(fits, "the result may overflow 32 bits", n, g, f"{total * float(m.max()):.3g}")
            return
        require(bool((m < 256.0).all()), "a multiplier is 256 or more, which XNNPACK refuses", n, g, float(m.max()))
        left = float(2.0 ** np.maximum(np.frexp(m)[1], 0).max())
        require(total * left < 2.0**31, "the accumulator may overflow 32 bits", n, g, f"{total * left:.3g}")

    def _check_bias_scale(self) -> None:
        """The kernels take the bias in quanta of ``s_in * s_w``, whatever its own scale says.

        Some refuse a bias that says otherwise, and XNNPACK leaves one with no scale or with a zero point to
        builtin; no converter writes one.
        """
        n, g = self.node, self.graph
        q = g.tensors[n.inputs[2]].quant
        require(q is not None and not q.zero_point.any(), "the bias has no scale, or a zero point", n, g)
        assert q is not None
        product = self.x.q.s * self.w.q.scale
        off = (
            float(np.abs(q.scale / product - 1.0).max())
            if q.scale.size in (1, product.size) or product.size == 1
            else np.inf
        )
        require(
            off <= 0.01,
            "the bias's scale is not the product of the input's and the weights'",
            n,
            g,
            f"off by {off:.2g}",
        )


def _ungrouped(node: Node, graph: Graph, weights: Array, groups: int) -> Array:
    """``[M, K, L, C]`` from weights ``[M, K, L, C / groups]``; the first M / groups of them read the first group."""
    m, k, j, depth = weights.shape
    require(m % groups == 0, "the output channels do not divide into the groups", node, graph, f"{m}, {groups}")
    size = weights.size * groups
    require(size <= LARGEST, "a grouped convolution of this size is not supported", node, graph, size)
    out = np.zeros((groups, m // groups, k, j, groups, depth), weights.dtype)
    g = np.arange(groups)
    out[g, :, :, :, g, :] = weights.reshape(groups, m // groups, k, j, depth)
    return out.reshape(m, k, j, groups * depth)


def _matrix(node: Node, w: Tensor) -> Array:
    """The only matrix of a BATCH_MATMUL in the layout of dense weights, ``[m, n]``; codes less their zero point."""
    assert w.const is not None
    matrix = w.const.reshape(w.shape[-2:]) if len(w.shape) >= 2 and w.size == w.shape[-1] * w.shape[-2] else w.const
    matrix = matrix if node.attrs.second else matrix.T  # type: ignore[attr-defined]
    return matrix.astype(np.int64) - w.q.z if w.dtype.is_code else matrix
