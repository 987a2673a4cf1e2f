"""Hybrid kernels: float activations quantized on the fly, int8 weights, integer sums, a float result.

Of each row of a FULLY_CONNECTED and of each whole image of a convolution, the range with 0 becomes 255 steps of
``s = (max(0, x) - min(0, x)) / 255`` (127 steps to either side where the quantization is symmetric), the row
becomes codes q, and the result is ``float32(W (q - z)) * s * s_w + b``.  FULLY_CONNECTED is emulated bit for bit
(measured; tensorflow/lite/kernels/fully_connected.cc, portable_tensor_utils.cc, XNNPACK's qd8-f32-qc8w):

- reference and builtin: s from a float32 difference divided in double and rounded;
  ``b + float32(acc) * float32(s * s_w)``;
- XNNPACK: ``255 / (max - min)`` in float32, codes rounded to even, always asymmetric;
  ``fma(float32(acc) * s, s_w, b)``.

Convolutions are bounded, not emulated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qebgate.errors import DataError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.numerics.fixed_point import I64, round_half_away
from qebgate.numerics.rounding import F64, TINY32
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.accumulate import exact_matmul
from qebgate.semantics.base import apply_activation
from qebgate.semantics.conv_2d import Conv2D, correlate
from qebgate.semantics.depthwise_conv_2d import DepthwiseConv2D, correlate_depthwise
from qebgate.semantics.fully_connected import FullyConnectedAttrs
from qebgate.semantics.linear import LinearNode

F32 = NDArray[np.float32]

HALF = 0.5 + 2.0**-10
"""Largest distance of an activation from its code, in steps: rounding, and float32 arithmetic on up to 383 of them."""
SMALLEST = 2.0**-100
"""Rows without a larger entry have steps that may be subnormal numbers, or reciprocals beyond float32."""
RELATIVE = 2.0**-20
"""A few float32 roundings of the result's terms, and of the step itself."""


def run_hybrid(node: Node, graph: Graph, x: Array, runtime: Runtime) -> F32:
    """A hybrid FULLY_CONNECTED on ``x [B, ...]`` float32, as a runtime computes it."""
    lin, attrs = LinearNode.of(node, graph), node.attrs
    assert isinstance(attrs, FullyConnectedAttrs) and lin.w.const is not None
    w = lin.w.const
    rows = x.astype(np.float32).reshape(-1, w.shape[1])
    reach = np.abs(rows).max(axis=1)
    if ((reach > 0) & (reach < SMALLEST)).any() or not np.isfinite(reach).all():
        raise DataError("QEB443", "a row is too small or too large to be quantized on the fly", where=node.origin)
    codes, zero, step = _xnnpack(rows) if runtime is Runtime.XNNPACK else _builtin(rows, attrs.asymmetric)
    acc = exact_matmul(codes - zero, w.T.astype(np.int64), 255.0 * 128.0 * w.shape[1]).astype(np.int64)
    sums = acc.astype(np.float32)
    scale = np.broadcast_to(lin.w.q.scale.astype(np.float32), (len(w),))
    bias = np.zeros(len(w), np.float32) if lin.bias is None else lin.bias.astype(np.float32)
    if runtime is Runtime.XNNPACK:  # a fused multiply-add: the product of two float32 is exact in float64
        y = ((sums * step).astype(np.float64) * scale + bias).astype(np.float32)
    else:
        y = bias + sums * (scale * step)
    return apply_activation(y, attrs.activation).reshape(x.shape[0], *lin.y.shape)


def _builtin(x: F32, asymmetric: bool) -> tuple[I64, I64, F32]:
    """Codes [R, n], zero points and steps [R, 1] of rows."""
    low = np.minimum(x.min(axis=1, keepdims=True), np.float32(0))
    high = np.maximum(x.max(axis=1, keepdims=True), np.float32(0))
    empty = low == high
    if not asymmetric:
        reach = np.maximum(high, -low)
        safe = np.where(empty, np.float32(1), reach)
        codes = round_half_away((x * (np.float32(127) / safe)).astype(np.float64)).clip(-127, 127)
        return codes.astype(np.int64), np.zeros(reach.shape, np.int64), np.where(empty, 1, safe / np.float32(127))
    real = np.where(empty, np.float32(255), high - low).astype(np.float64) / 255.0
    from_low, from_high = -128.0 - low / real, 127.0 - high / real
    nearer = 128.0 + np.abs(low / real) < 127.0 + np.abs(high / real)
    zero = round_half_away(np.where(nearer, from_low, from_high).clip(-128.0, 127.0))
    step = real.astype(np.float32)
    moved = zero.astype(np.float32) + x * (np.float32(1) / step)
    codes = round_half_away(moved.astype(np.float64)).clip(-128, 127)
    z = np.where(empty, 0, zero).astype(np.int64)
    return np.where(empty, 0, codes).astype(np.int64), z, np.where(empty, np.float32(1), step)


def _xnnpack(x: F32) -> tuple[I64, I64, F32]:
    low = np.minimum(x.min(axis=1, keepdims=True), np.float32(0))
    high = np.maximum(x.max(axis=1, keepdims=True), np.float32(0))
    inverse = np.where(low == high, np.float32(1), np.float32(255) / np.where(low == high, np.float32(1), high - low))
    down, up = low * inverse, high * inverse
    nearer = (np.float32(-128) + down) + (np.float32(127) + up) > 0
    zero = np.rint(np.where(nearer, np.float32(-128) - down, np.float32(127) - up).clip(-128, 127)).astype(np.int64)
    codes = (np.rint(x * inverse).astype(np.int64) + zero).clip(-128, 127)
    return codes, zero, np.float32(1) / inverse


def hybrid_error(node: Node, graph: Graph, lo: F64, hi: F64) -> F64:
    """``E [*out shape]``: any runtime's hybrid result is within E of ``x W + b``, for inputs in ``[lo, hi]``.

    An input that is exactly 0 is exact: its code is the zero point.
    """
    lin = LinearNode.of(node, graph)
    w = np.abs(lin.weights)
    reach = np.maximum(np.abs(lo), np.abs(hi))
    bias = np.zeros(1) if lin.bias is None else np.abs(lin.bias.astype(np.float64))
    moving = (reach > 0).astype(np.float64)
    if node.op == "FULLY_CONNECTED":
        rows, live = reach.reshape(-1, w.shape[1]), moving.reshape(-1, w.shape[1])
        assert isinstance(node.attrs, FullyConnectedAttrs)
        step = _step(lo.reshape(rows.shape), hi.reshape(rows.shape), symmetric=not node.attrs.asymmetric)
        off, total = live @ w.T, rows @ w.T + bias
    else:
        step = _step(lo.reshape(1, -1), hi.reshape(1, -1), symmetric=lin.w.q.scale.size == 1).reshape(1, 1, 1, 1)
        product = _product(node, graph)
        off, total = product(moving, w), product(reach, w) + bias
    e = HALF * step * off * (1 + RELATIVE) + RELATIVE * (total + step * off) + (w[0].size + 2) * TINY32
    # where every entry is smaller than SMALLEST, codes are anything, and worth next to nothing
    e = e + 512.0 * SMALLEST * off
    return e.reshape(lin.y.shape)


def _step(lo: F64, hi: F64, *, symmetric: bool) -> F64:
    """The largest step of rows ``[R, n]``; where a runtime quantizes symmetrically, XNNPACK still does not."""
    low = np.minimum(lo.min(axis=1, keepdims=True), 0.0)
    high = np.maximum(hi.max(axis=1, keepdims=True), 0.0)
    step = (high - low) / 255.0
    return (np.maximum(step, np.maximum(high, -low) / 127.0) if symmetric else step) * (1 + RELATIVE)


def _product(node: Node, graph: Graph) -> Callable[[F64, F64], F64]:
    if node.op == "CONV_2D":
        window = Conv2D().window(node, graph)
        return lambda x, w: correlate(window, x, w, None)
    window = DepthwiseConv2D().window(node, graph)
    return lambda x, w: correlate_depthwise(window, x, w, None)
