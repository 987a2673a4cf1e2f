"""How far the float32 evaluation of one operator can be from its exact value.

The runtime that evaluates the float model in float32 may sum in any order, with or without fused
multiply-add, and flush subnormals to zero.  With unit roundoff ``u = 2**-24`` and
``gamma(n) = n u / (1 - n u)`` (N. Higham, Accuracy and Stability of Numerical Algorithms, section 3.1):

- a linear operator: k summands that are not exactly zero (products, bias), so k - 1 additions; every operand sum is
  one of a subset of the summands, at most ``S = max(P, N)``, P and N the totals of the positive and of the negative
  summands; every product is rounded at most once.  The errors of the additions and of the products just add up:
  ``(k - 1) u (S + gamma(k) (P + N)) + u (P + N) + (2n + 2 + n max |W|) 2**-126`` for n products;
- a mean of n: ``gamma(n + 2) mean(X) + (n + 3) 2**-126`` (division, or product with a rounded 1/n);
- ADD: one rounding; MAX_POOL_2D, RELU: only flushed subnormals; PAD, RESHAPE: nothing;
- LOGISTIC, TANH, SOFTMAX: no kernel states its accuracy; the constants here are envelopes, several times
  the largest error seen in dense sweeps over LiteRT's three runtimes, TensorFlow and numpy.

Fused activations are clamps, which never enlarge an error.  Not covered: reduced precision that a user
switches on (float16, bfloat16, TF32) and Winograd convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from qebgate.errors import InternalError
from qebgate.ir.graph import Graph, Node
from qebgate.numerics.rounding import F64, TINY32, U32, gamma
from qebgate.semantics.conv_2d import Conv2D, correlate
from qebgate.semantics.depthwise_conv_2d import DepthwiseConv2D, correlate_depthwise
from qebgate.semantics.fixed_point import InputAttrs
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.lstm_arithmetic import float_error as lstm_error
from qebgate.semantics.lstm_arithmetic import floating
from qebgate.semantics.mean import Mean
from qebgate.semantics.moves import MOVES
from qebgate.semantics.pool_2d import Pool2D
from qebgate.semantics.registry import SEMANTICS
from qebgate.semantics.resize_bilinear import ResizeBilinear, Taps
from qebgate.semantics.tables import Prelu
from qebgate.semantics.transpose_conv import TransposeConv, scatter
from qebgate.semantics.unidirectional_sequence_lstm import LstmNode
from qebgate.semantics.windows import chunks

LOGISTIC_ULPS = 16.0
"""Absolute error of LOGISTIC in units of 2**-24 (its values are below 1)."""
TANH_ULPS = 24.0
"""Absolute error of TANH in units of 2**-24."""
ELU_ULPS = 24.0
"""Absolute error of ELU below zero in units of 2**-24, relative to arguments below 1."""
GELU_ULPS = 48.0
"""Error of GELU in units of 2**-24, relative to its argument."""
ROOT_ULPS = 12.0
"""Relative error of SQRT and RSQRT in units of 2**-24."""
EXP_ULPS = 16.0
"""Relative error of SOFTMAX's exponentials in units of 2**-24, for arguments that are exact."""

_ROUNDED = 1 + 2.0**-24
"""Covers the rounding of the bounds themselves: at most 2**24 operations behind any of them, in float64."""
_OVERFLOW = 2.0**126
"""Beyond this a float32 intermediate result could overflow: no bound is given."""

_SORTED = 1 << 19
"""Products of a layer that are sorted at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """Bounds ``[*shape]`` of the values of a tensor *as the runtime computes it*."""

    lo: F64
    hi: F64

    @classmethod
    def within(cls, magnitude: F64) -> Computed:
        """All values of at most some magnitude."""
        return cls(-magnitude, magnitude)

    @property
    def magnitude(self) -> F64:
        return np.maximum(np.abs(self.lo), np.abs(self.hi))

    def reshape(self, *shape: int) -> Computed:
        return Computed(self.lo.reshape(shape), self.hi.reshape(shape))


Rule = Callable[[Node, Graph, list[Computed]], F64]


def float_error(node: Node, graph: Graph, inputs: Sequence[Computed | None]) -> F64:
    """``E [*out shape]`` with ``|float32 result - exact result on the same inputs| <= E``.

    ``inputs`` has bounds for every input of the node; None is allowed for constants and inputs left out.
    Infinite where float32 could overflow.
    """
    out = graph.tensors[node.outputs[0]].shape
    given: list[Computed] = []
    for i, x in zip(node.inputs, inputs, strict=True):
        const = graph.tensors[i].const if i >= 0 else None
        v = np.zeros(0) if const is None else const.astype(np.float64)
        given.append(Computed(v, v) if x is None else x)
    rule = _RULES.get(node.op) or _ON_THE_FLY.get(node.op)
    if rule is None:
        raise InternalError("QEB710", f"no float32 error bound is known for {node.op}", where=node.origin)
    with np.errstate(over="ignore", invalid="ignore"):
        e = np.broadcast_to(rule(node, graph, given), out) * _ROUNDED
    return np.where(np.isnan(e), np.inf, e)


@dataclass(frozen=True, slots=True, eq=False)
class _Sum:
    """Sums of products and a bias: totals of the positive and of the negative summands, and how many there are.

    All are upper bounds, and broadcast to the output; ``operands`` bounds the sum of the magnitudes of what the
    additions add, None for ``(count - 1) max(positive, negative)``.
    """

    positive: F64
    negative: F64
    count: F64
    operands: F64 | None = None


def _linear(node: Node, s: _Sum, n: int, weights: F64) -> F64:
    """Error of a sum of at most n products; a subnormal input may be read as zero, times its weight.

    Where another step is folded in (see :class:`~qebgate.ir.graph.Folded`), the totals are those of the
    folded weights: the first step's error is scaled with its result, and the second step adds its own
    roundings of terms that the totals count.  Each step may flush what it computes.
    """
    inputs = n * float(np.abs(weights).max(initial=0.0))
    f = node.folded
    scale, roundings, steps = (np.ones(()), 0, 2) if f is None else (f.scale, f.roundings, 10)
    total = s.positive + s.negative
    additions = np.maximum(s.count - 1, 0.0)
    operands = additions * np.maximum(s.positive, s.negative) if s.operands is None else s.operands
    # what is added was rounded before: at most gamma of all of it, in each addition
    later = (additions + roundings) * gamma(n + 2 + roundings, U32) * total
    flushed = (2 * n + steps) * np.maximum(scale, 1.0) + inputs
    e = U32 * (operands + (1 + roundings) * total + later) + flushed * TINY32
    return np.where(total < _OVERFLOW * np.minimum(scale, 1.0), e, np.inf)


def _summed(x: Computed, lin: LinearNode, product: Callable[[F64, F64], F64], count: Callable[[F64], F64]) -> _Sum:
    """``product(x, w)`` is the operator without its bias; ``count(mask)`` counts a mask's inputs of each output."""
    w = lin.weights.astype(np.float64)
    plus, minus = np.maximum(w, 0.0), np.maximum(-w, 0.0)
    up, down = np.maximum(x.hi, 0.0), np.maximum(-x.lo, 0.0)
    positive, negative = product(up, plus), product(up, minus)
    if down.any():
        positive, negative = positive + product(down, minus), negative + product(down, plus)
    summands = count((x.magnitude > 0).astype(np.float64))
    low, top = _bias(lin)
    return _Sum(positive + top, negative - low, summands + (np.maximum(top, -low) > 0))


def _bias(lin: LinearNode) -> tuple[F64, F64]:
    """The bias as a summand: its negative and its positive part [m], or the magnitude that it was folded from."""
    if lin.node.folded is not None:
        return -lin.node.folded.magnitude, lin.node.folded.magnitude
    b = np.zeros(1) if lin.bias is None else lin.bias.astype(np.float64)
    return np.minimum(b, 0.0), np.maximum(b, 0.0)


def _fully_connected(node: Node, graph: Graph, x: list[Computed]) -> F64:
    lin = LinearNode.of(node, graph)
    m, n = lin.weights.shape
    rows = x[0].reshape(-1, n)
    s = _summed(rows, lin, lambda v, w: v @ w.T, lambda v: v.sum(axis=1, keepdims=True))
    if len(rows.lo) * m * n <= _SORTED:
        s = replace(s, operands=_operands(rows, lin))
    return _linear(node, s, n, lin.weights.astype(np.float64)).reshape(lin.y.shape)


def _operands(rows: Computed, lin: LinearNode) -> F64:
    """:func:`_added` ``[R, m]`` for rows ``[R, n]`` and weights ``[m, ...]`` of n entries."""
    w = lin.weights.astype(np.float64).reshape(len(lin.weights), -1)
    return np.concatenate([
        _added(rows.lo[part, None] * w, rows.hi[part, None] * w, _bias(lin))
        for part in chunks(len(rows.lo), 8 * w.size)
    ])  # fmt: skip


def _added(a: F64, b: F64, bias: tuple[F64, F64]) -> F64:
    """What all additions of a sum add, at most: the magnitudes of all subtotals and of the total itself.

    Products ``[..., m, n]`` at either end of their inputs.  The additions are a binary tree over k summands; U(j), the
    largest sum of j summands of one sign (all of them where there are fewer), bounds a node over j of them.

    - A tree has at most ``k - j + 1`` nodes over j summands or more (r such nodes need ``j + r - 1`` summands), and U
      does not decrease: no tree is worse than adding one summand at a time, ``U(2) + ... + U(k)``.
    - A node over more than ``h = k // 2`` summands is the total S less the other ones: ``|S| + U(k - j)`` bounds it as
      well.  Such nodes contain one another, so they have different sizes; below them are at most two trees that
      matter, one over h summands, because of two smaller ones the larger could have taken summands from the other.
      With l large nodes the other one has ``k - h - l + 1`` at most: ``U(2) + ... + U(h)`` and ``U(2) + ... +
      U(k - h + 1)`` and ``(k - h) |S|``, whatever l is.
    """
    least, most = (np.broadcast_to(v[:, None], (*a.shape[:-1], 1)) for v in bias)
    low = np.concatenate([np.minimum(a, b), least], axis=-1)
    top = np.concatenate([np.maximum(a, b), most], axis=-1)
    total = np.maximum(np.abs(low.sum(axis=-1)), np.abs(top.sum(axis=-1)))
    low, top = np.maximum(-low, 0.0), np.maximum(top, 0.0)
    k = ((top > 0) | (low > 0)).sum(axis=-1)
    largest = np.maximum(*(np.cumsum(np.sort(v, axis=-1)[..., ::-1], axis=-1) for v in (top, low)))
    sums = np.cumsum(largest, axis=-1)

    def from_two(j: NDArray[np.intp]) -> F64:
        at = np.maximum(j - 1, 0)[..., None]
        return np.take_along_axis(sums, at, axis=-1)[..., 0] - largest[..., 0]

    h = k // 2
    return np.where(k < 2, 0.0, np.minimum(from_two(k), from_two(h) + from_two(k - h + 1) + (k - h) * total))


def _conv(node: Node, graph: Graph, x: list[Computed]) -> F64:
    lin, sem = LinearNode.of(node, graph), SEMANTICS["CONV_2D"]
    assert isinstance(sem, Conv2D)
    window, one = sem.window(node, graph), np.ones((1, *lin.weights.shape[1:3], 1))
    read = (lin.weights != 0).astype(np.float64)
    s = _summed(
        x[0],
        lin,
        lambda v, w: correlate(window, v, w, None),
        lambda v: (
            correlate(window, v, read, None)
            if lin.groups > 1
            else correlate(window, v.sum(axis=-1, keepdims=True), one, None)
        ),
    )
    if lin.weights.size * window.out[0] * window.out[1] <= _SORTED:
        rows = Computed(window.columns(x[0].lo, 0), window.columns(x[0].hi, 0))
        s = replace(s, operands=_operands(rows, lin).reshape(s.positive.shape))
    return _linear(node, s, lin.weights[0].size, lin.weights.astype(np.float64))


def _depthwise(node: Node, graph: Graph, x: list[Computed]) -> F64:
    lin, sem = LinearNode.of(node, graph), SEMANTICS["DEPTHWISE_CONV_2D"]
    assert isinstance(sem, DepthwiseConv2D)
    window, ones = sem.window(node, graph), np.ones(lin.weights.shape)
    s = _summed(
        x[0],
        lin,
        lambda v, w: correlate_depthwise(window, v, w, None),
        lambda v: correlate_depthwise(window, v, ones, None),
    )
    taps, channels = window.taps, lin.weights.shape[3]
    if lin.weights.size * window.out[0] * window.out[1] <= _SORTED // 4:
        w = lin.weights.astype(np.float64).reshape(taps, channels).T
        ends = (window.patches(v, 0).reshape(-1, x[0].lo.shape[3], taps) for v in (x[0].lo, x[0].hi))
        a, b = (np.repeat(v, channels // v.shape[1], axis=1) * w for v in ends)
        s = replace(s, operands=_added(a, b, _bias(lin)).reshape(s.positive.shape))
    return _linear(node, s, taps, lin.weights.astype(np.float64))


def _transpose_conv(node: Node, graph: Graph, x: list[Computed]) -> F64:
    lin, sem = LinearNode.of(node, graph), SEMANTICS["TRANSPOSE_CONV"]
    assert isinstance(sem, TransposeConv)
    window, one = sem.window(node, graph), np.ones((1, *lin.weights.shape[1:3], 1))
    s = _summed(
        x[0],
        lin,
        lambda v, w: scatter(window, v, w),
        lambda v: scatter(window, v.sum(axis=-1, keepdims=True), one),
    )
    return _linear(node, s, lin.weights[0].size, lin.weights.astype(np.float64))


def _average(n: int, mean: F64) -> F64:
    e = gamma(n + 2, U32) * mean + (n + 3) * TINY32
    return np.where(mean * n < _OVERFLOW, e, np.inf)


def _average_pool(node: Node, graph: Graph, x: list[Computed]) -> F64:
    sem = SEMANTICS["AVERAGE_POOL_2D"]
    assert isinstance(sem, Pool2D)
    window = sem.window(node, graph)
    mean = window.patches(x[0].magnitude, 0).sum(axis=(4, 5)) / window.counts()
    return _average(window.taps, mean)


def _mean(node: Node, graph: Graph, x: list[Computed]) -> F64:
    sem = SEMANTICS["MEAN"]
    assert isinstance(sem, Mean)
    mean = x[0].magnitude.mean(axis=sem.axes(node, graph))
    return _average(sem.count(node, graph), mean).reshape(graph.tensors[node.outputs[0]].shape)


def _resize(node: Node, graph: Graph, x: list[Computed]) -> F64:
    """Weighted means of four neighbours, at positions that are rounded as well.

    Kernels multiply by products of weights or interpolate twice: at most 20 roundings of terms of at most four times
    the largest neighbour.  Interpolation is continuous, so a position that is off by d (even in the next cell) moves
    a value by at most d times the difference of two entries of its channel.
    """
    sem = SEMANTICS["RESIZE_BILINEAR"]
    assert isinstance(sem, ResizeBilinear)
    size, axes = x[0].magnitude, sem.axes(node, graph)
    near = size
    for axis, taps in enumerate(sem.exact(node, graph), start=1):
        near = np.maximum(np.take(near, taps.first, axis), np.take(near, taps.second, axis))
    off = Taps.slack(*axes[0])[:, None, None] + Taps.slack(*axes[1])[:, None]
    pixels = (1, 2)
    largest = size.max(axis=pixels, keepdims=True)
    spread = x[0].hi.max(axis=pixels, keepdims=True) - x[0].lo.min(axis=pixels, keepdims=True)
    e = 4 * gamma(20, U32) * (near + off * largest) + off * spread + 40 * TINY32
    return np.where(largest < 2.0**90, e, np.inf)


def _add(node: Node, graph: Graph, x: list[Computed]) -> F64:
    del node, graph
    total = x[0].magnitude + x[1].magnitude
    return np.where(total < _OVERFLOW, gamma(1, U32) * total + 3 * TINY32, np.inf)


def product_error(magnitude: F64, more: int = 0) -> F64:
    """Of a product whose exact value is at most so large; a subnormal operand may be read as zero.

    ``more`` counts the roundings of a factor that the reference computes itself.
    """
    return np.where(magnitude < _OVERFLOW, gamma(1 + more, U32) * magnitude + 3 * TINY32, np.inf)


def difference_error(magnitude: F64) -> F64:
    """Of a difference whose exact value is at most so large; subnormal operands may be read as zero."""
    return np.where(magnitude < _OVERFLOW, gamma(1, U32) * magnitude + 3 * TINY32, np.inf)


def _squared_difference(node: Node, graph: Graph, x: list[Computed]) -> F64:
    """The difference is rounded, and then its square."""
    del node, graph
    d = np.maximum(np.maximum(x[0].hi - x[1].lo, x[1].hi - x[0].lo), 0.0) * (1 + 2.0**-50)
    e = difference_error(d)
    return product_error((d + e) ** 2) + (2 * d + e) * e


def _mul(node: Node, graph: Graph, x: list[Computed]) -> F64:
    del graph
    a, b = (v.magnitude for v in x)
    more = 0 if node.folded is None else node.folded.roundings
    # an operand that is flushed moves the product by the other operand
    return product_error(a * b, more) + (a + b) * TINY32


def _div(node: Node, graph: Graph, x: list[Computed]) -> F64:
    """One rounding; a numerator that is flushed moves the quotient by 1 over the divisor."""
    del node, graph
    a, b = x
    least = np.maximum(np.maximum(b.lo, -b.hi), 0.0)
    with np.errstate(divide="ignore"):
        quotient, flushed = a.magnitude / least, TINY32 / least
    e = gamma(2, U32) * quotient + 3 * TINY32 + flushed
    return np.where((quotient < _OVERFLOW) & (least > TINY32), e, np.inf)


def _square(node: Node, graph: Graph, x: list[Computed]) -> F64:
    del node, graph
    return product_error(x[0].magnitude ** 2)


def _bent(node: Node, graph: Graph, x: list[Computed]) -> F64:
    """LEAKY_RELU and PRELU: nothing is rounded above zero, one product below."""
    sem = SEMANTICS[node.op]
    alpha = sem.alpha(node, graph) if isinstance(sem, Prelu) else np.array([abs(node.attrs.alpha)])  # type: ignore[attr-defined]
    size = np.abs(alpha) * np.maximum(-x[0].lo, 0.0)
    return np.where(size < _OVERFLOW, gamma(1, U32) * size + (2.0 + np.abs(alpha)) * TINY32, np.inf)


def _elu(node: Node, graph: Graph, x: list[Computed]) -> F64:
    del node, graph
    return np.minimum(1.0, np.maximum(-x[0].lo, 0.0)) * (ELU_ULPS * U32) + TINY32


def _gelu(node: Node, graph: Graph, x: list[Computed]) -> F64:
    """Relative to the argument: ``x`` times a number in [0, 1] known up to some units."""
    del node, graph
    return np.where(x[0].magnitude < _OVERFLOW, x[0].magnitude * (GELU_ULPS * U32) + 3 * TINY32, np.inf)


def _sqrt(node: Node, graph: Graph, x: list[Computed]) -> F64:
    """A subnormal argument may be read as zero, whose root is up to 2**-63."""
    del node, graph
    root = np.sqrt(np.maximum(x[0].hi, 0.0))
    return np.where(x[0].lo >= 0, root * (ROOT_ULPS * U32) + TINY32**0.5, np.inf)


def _rsqrt(node: Node, graph: Graph, x: list[Computed]) -> F64:
    del node, graph
    least = np.maximum(x[0].lo, TINY32)
    return np.where(x[0].lo >= TINY32, least**-0.5 * (ROOT_ULPS * U32) + TINY32, np.inf)


def _hard_swish(node: Node, graph: Graph, x: list[Computed]) -> F64:
    """``x clip(x + 3, 0, 6) / 6``: a sum below 6 that counts, two products, a rounded 1/6; relative to x."""
    del node, graph
    return np.where(
        x[0].magnitude < 2.0**100, gamma(8, U32) * x[0].magnitude + 8 * (1 + x[0].magnitude) * TINY32, np.inf
    )


def _copy(node: Node, graph: Graph, x: list[Computed]) -> F64:
    del node, graph, x
    return np.zeros(())


def _flush(node: Node, graph: Graph, x: list[Computed]) -> F64:
    del node, graph, x
    return np.full((), TINY32)


def _logistic(node: Node, graph: Graph, x: list[Computed]) -> F64:
    del node, graph, x
    return np.full((), LOGISTIC_ULPS * U32)


def _tanh(node: Node, graph: Graph, x: list[Computed]) -> F64:
    """Small arguments give small values, so the error is at most relative to them too."""
    del node, graph
    return np.minimum(1.0, x[0].magnitude) * (TANH_ULPS * U32) + TINY32


def _softmax(node: Node, graph: Graph, x: list[Computed]) -> F64:
    """``p = e_i / sum e_j``, ``e_i = exp(beta (x_i - max))``, n terms.

    The argument ``d = beta (x_i - max)`` has two roundings, ``2 u |d|``: ``p |d| <= 1/e`` for the
    numerator, and the mean of ``|d|`` weighted by p is at most ``ln n`` for the sum.  To these come the
    exponential's own error twice, n roundings of the sum, the division or reciprocal and product.
    """
    del x
    n = graph.tensors[node.inputs[0]].shape[-1]
    return np.full((), gamma(n + 2 * math.log(n) + 2 * EXP_ULPS + 8, U32) + (n + 2) * TINY32)


def _lstm(node: Node, graph: Graph, x: list[Computed]) -> F64:
    n = LstmNode.of(node, graph)
    return lstm_error(n, x[0].magnitude, floating(n, U32, LOGISTIC_ULPS, TANH_ULPS))


def _log_softmax(node: Node, graph: Graph, x: list[Computed]) -> F64:
    """``(x_i - max) - log(sum)``: the sum is that of SOFTMAX, its logarithm at most ``ln n``, and two differences."""
    n = graph.tensors[node.inputs[0]].shape[-1]
    spread = x[0].hi.max(axis=-1, keepdims=True) - x[0].lo
    total = gamma(n + 2 * math.log(n) + EXP_ULPS + 8, U32) + (2 * spread + EXP_ULPS * math.log(n)) * U32
    return np.where(spread < _OVERFLOW, total + (n + 4) * TINY32, np.inf)


def _quantize(node: Node, graph: Graph, x: list[Computed]) -> F64:
    """Of the scaled value before it is rounded to a code, in real units."""
    del node, graph
    return gamma(2, U32) * x[0].magnitude + TINY32


def _dequantize(node: Node, graph: Graph, x: list[Computed]) -> F64:
    """Three roundings of at most 255 quanta (builtin adds the zero point after scaling)."""
    del x
    return np.full((), gamma(3, U32) * 255.0 * graph.tensors[node.inputs[0]].q.s)


def _scaled_input(node: Node, graph: Graph, x: list[Computed]) -> F64:
    """The scale is rounded, then the product; or one division."""
    del graph
    assert isinstance(node.attrs, InputAttrs)
    scaled = x[0].magnitude * float(node.attrs.scale)
    return np.where(scaled < _OVERFLOW, gamma(3, U32) * scaled + TINY32, np.inf)


_RULES = MappingProxyType[str, Rule](
    {
        "ABS": _flush,
        "ADD": _add,
        "AVERAGE_POOL_2D": _average_pool,
        "BATCH_MATMUL": _fully_connected,
        "CONV_2D": _conv,
        "DEPTHWISE_CONV_2D": _depthwise,
        "DEQUANTIZE": _dequantize,
        "DIV": _div,
        "ELU": _elu,
        "FULLY_CONNECTED": _fully_connected,
        "GELU": _gelu,
        "HARD_SWISH": _hard_swish,
        "LEAKY_RELU": _bent,
        "LOGISTIC": _logistic,
        "LOG_SOFTMAX": _log_softmax,
        "MAXIMUM": _flush,
        "MAX_POOL_2D": _flush,
        "MEAN": _mean,
        "MINIMUM": _flush,
        "MUL": _mul,
        "NEG": _flush,
        "PAD": _copy,
        "PRELU": _bent,
        "QUANTIZE": _quantize,
        "REDUCE_MAX": _flush,
        "REDUCE_MIN": _flush,
        "RELU": _flush,
        "RELU6": _flush,
        "RESHAPE": _copy,
        "RESIZE_BILINEAR": _resize,
        "RSQRT": _rsqrt,
        "SOFTMAX": _softmax,
        "SQRT": _sqrt,
        "SQUARE": _square,
        "SQUARED_DIFFERENCE": _squared_difference,
        "SUB": _add,
        "TANH": _tanh,
        "TRANSPOSE_CONV": _transpose_conv,
        "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
        **dict.fromkeys((cls.name for cls in MOVES), _copy),
    }
)

_ON_THE_FLY = MappingProxyType[str, Rule]({"FIXED_POINT_INPUT": _scaled_input})
"""Operators that no .tflite file has."""
