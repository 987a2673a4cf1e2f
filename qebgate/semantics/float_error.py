"""How far the float32 evaluation of one operator can be from its exact value.

The runtime that evaluates the float model in float32 may sum in any order, with or without fused
multiply-add, and flush subnormals to zero.  With unit roundoff ``u = 2**-24`` and
``gamma(n) = n u / (1 - n u)`` (N. Higham, Accuracy and Stability of Numerical Algorithms, section 3.1):

- a linear operator of n products: ``gamma(n + 1) (|W| X + |b|) + (2n + 2 + n max |W|) 2**-126``;
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
from types import MappingProxyType

import numpy as np

from qebgate.errors import InternalError
from qebgate.ir.graph import Graph, Node
from qebgate.numerics.rounding import F64, SAFETY, TINY32, U32, gamma
from qebgate.semantics.conv_2d import Conv2D, correlate
from qebgate.semantics.depthwise_conv_2d import DepthwiseConv2D, correlate_depthwise
from qebgate.semantics.fixed_point import InputAttrs
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.mean import Mean
from qebgate.semantics.pool_2d import Pool2D
from qebgate.semantics.registry import SEMANTICS

LOGISTIC_ULPS = 16.0
"""Absolute error of LOGISTIC in units of 2**-24 (its values are below 1)."""
TANH_ULPS = 24.0
"""Absolute error of TANH in units of 2**-24."""
EXP_ULPS = 16.0
"""Relative error of SOFTMAX's exponentials in units of 2**-24, for arguments that are exact."""

_OVERFLOW = 2.0**126
"""Beyond this a float32 intermediate result could overflow: no bound is given."""

Magnitudes = Sequence[F64 | None]
Rule = Callable[[Node, Graph, list[F64]], F64]


def float_error(node: Node, graph: Graph, magnitude: Magnitudes) -> F64:
    """``E [*out shape]`` with ``|float32 result - exact result on the same inputs| <= E``.

    ``magnitude`` has an upper bound ``[*shape]`` of the *computed* ``|value|`` for every input of the
    node; None is allowed for constants and inputs left out.  Infinite where float32 could overflow.
    """
    out = graph.tensors[node.outputs[0]].shape
    given: list[F64] = []
    for i, x in zip(node.inputs, magnitude, strict=True):
        const = graph.tensors[i].const if i >= 0 else None
        if x is not None:
            given.append(np.asarray(x, np.float64))
        else:
            given.append(np.zeros(0) if const is None else np.abs(const.astype(np.float64)))
    rule = _RULES.get(node.op) or _ON_THE_FLY.get(node.op)
    if rule is None:
        raise InternalError("QEB710", f"no float32 error bound is known for {node.op}", where=node.origin)
    with np.errstate(over="ignore", invalid="ignore"):
        e = np.broadcast_to(rule(node, graph, given), out) * SAFETY
    return np.where(np.isnan(e), np.inf, e)


def _linear(node: Node, n: int, total: F64, weights: F64) -> F64:
    """``total = |W| X + |b|`` of n products; a subnormal input may be read as zero, times its weight.

    Where another step is folded in (see :class:`~qebgate.ir.graph.Folded`), ``total`` is that of the
    folded weights: the first step's relative error is scaled with its result, and the second step adds
    its own roundings of terms that ``total`` counts.  Each step may flush what it computes.
    """
    inputs = n * float(weights.max(initial=0.0))
    f = node.folded
    if f is None:
        e = gamma(n + 1, U32) * total + (2 * n + 2 + inputs) * TINY32
        return np.where(total < _OVERFLOW, e, np.inf)
    flushed = (2 * n + 4) * np.maximum(f.scale, 1.0) + 6 + inputs
    e = gamma(n + 1 + f.roundings, U32) * total + flushed * TINY32
    return np.where(total < _OVERFLOW * np.minimum(f.scale, 1.0), e, np.inf)


def _fully_connected(node: Node, graph: Graph, x: list[F64]) -> F64:
    lin = LinearNode.of(node, graph)
    w = np.abs(lin.weights.astype(np.float64))
    total = x[0].reshape(-1, w.shape[1]) @ w.T
    bias = _bias_magnitude(lin)
    if bias is not None:
        total = total + bias
    return _linear(node, w.shape[1], total, w).reshape(lin.y.shape)


def _bias_magnitude(lin: LinearNode) -> F64 | None:
    if lin.node.folded is not None:
        return lin.node.folded.magnitude
    return None if lin.bias is None else np.abs(lin.bias.astype(np.float64))


def _conv(node: Node, graph: Graph, x: list[F64]) -> F64:
    lin, sem = LinearNode.of(node, graph), SEMANTICS["CONV_2D"]
    assert isinstance(sem, Conv2D)
    w = np.abs(lin.weights.astype(np.float64))
    return _linear(node, w[0].size, correlate(sem.window(node, graph), x[0], w, _bias_magnitude(lin)), w)


def _depthwise(node: Node, graph: Graph, x: list[F64]) -> F64:
    lin, sem = LinearNode.of(node, graph), SEMANTICS["DEPTHWISE_CONV_2D"]
    assert isinstance(sem, DepthwiseConv2D)
    w = np.abs(lin.weights.astype(np.float64))
    total = correlate_depthwise(sem.window(node, graph), x[0], w, _bias_magnitude(lin))
    return _linear(node, w.shape[1] * w.shape[2], total, w)


def _average(n: int, mean: F64) -> F64:
    e = gamma(n + 2, U32) * mean + (n + 3) * TINY32
    return np.where(mean * n < _OVERFLOW, e, np.inf)


def _average_pool(node: Node, graph: Graph, x: list[F64]) -> F64:
    sem = SEMANTICS["AVERAGE_POOL_2D"]
    assert isinstance(sem, Pool2D)
    window = sem.window(node, graph)
    mean = window.patches(x[0], 0).sum(axis=(4, 5)) / window.counts()
    return _average(window.taps, mean)


def _mean(node: Node, graph: Graph, x: list[F64]) -> F64:
    sem = SEMANTICS["MEAN"]
    assert isinstance(sem, Mean)
    mean = x[0].mean(axis=sem.axes(node, graph))
    return _average(sem.count(node, graph), mean).reshape(graph.tensors[node.outputs[0]].shape)


def _add(node: Node, graph: Graph, x: list[F64]) -> F64:
    del node, graph
    total = x[0] + x[1]
    return np.where(total < _OVERFLOW, gamma(1, U32) * total + 3 * TINY32, np.inf)


def _copy(node: Node, graph: Graph, x: list[F64]) -> F64:
    del node, graph, x
    return np.zeros(())


def _flush(node: Node, graph: Graph, x: list[F64]) -> F64:
    del node, graph, x
    return np.full((), TINY32)


def _logistic(node: Node, graph: Graph, x: list[F64]) -> F64:
    del node, graph, x
    return np.full((), LOGISTIC_ULPS * U32)


def _tanh(node: Node, graph: Graph, x: list[F64]) -> F64:
    """Small arguments give small values, so the error is at most relative to them too."""
    del node, graph
    return np.minimum(1.0, x[0]) * (TANH_ULPS * U32) + TINY32


def _softmax(node: Node, graph: Graph, x: list[F64]) -> F64:
    """``p = e_i / sum e_j``, ``e_i = exp(beta (x_i - max))``, n terms.

    The argument ``d = beta (x_i - max)`` has two roundings, ``2 u |d|``: ``p |d| <= 1/e`` for the
    numerator, and the mean of ``|d|`` weighted by p is at most ``ln n`` for the sum.  To these come the
    exponential's own error twice, n roundings of the sum, the division or reciprocal and product.
    """
    del x
    n = graph.tensors[node.inputs[0]].shape[-1]
    return np.full((), gamma(n + 2 * math.log(n) + 2 * EXP_ULPS + 8, U32) + (n + 2) * TINY32)


def _quantize(node: Node, graph: Graph, x: list[F64]) -> F64:
    """Of the scaled value before it is rounded to a code, in real units."""
    del node, graph
    return gamma(2, U32) * x[0] + TINY32


def _dequantize(node: Node, graph: Graph, x: list[F64]) -> F64:
    """Three roundings of at most 255 quanta (builtin adds the zero point after scaling)."""
    del x
    return np.full((), gamma(3, U32) * 255.0 * graph.tensors[node.inputs[0]].q.s)


def _scaled_input(node: Node, graph: Graph, x: list[F64]) -> F64:
    """The scale is rounded, then the product; or one division."""
    del graph
    assert isinstance(node.attrs, InputAttrs)
    scaled = x[0] * float(node.attrs.scale)
    return np.where(scaled < _OVERFLOW, gamma(3, U32) * scaled + TINY32, np.inf)


_RULES = MappingProxyType[str, Rule](
    {
        "ADD": _add,
        "AVERAGE_POOL_2D": _average_pool,
        "CONV_2D": _conv,
        "DEPTHWISE_CONV_2D": _depthwise,
        "DEQUANTIZE": _dequantize,
        "FULLY_CONNECTED": _fully_connected,
        "LOGISTIC": _logistic,
        "MAX_POOL_2D": _flush,
        "MEAN": _mean,
        "PAD": _copy,
        "QUANTIZE": _quantize,
        "RELU": _flush,
        "RELU6": _flush,
        "RESHAPE": _copy,
        "SOFTMAX": _softmax,
        "TANH": _tanh,
    }
)

_ON_THE_FLY = MappingProxyType[str, Rule]({"FIXED_POINT_INPUT": _scaled_input})
"""Operators that no .tflite file has."""
