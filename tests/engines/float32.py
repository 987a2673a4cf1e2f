"""Evaluations that a float32 runtime may make of a float graph, and the worst ones that its error bounds allow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.domains.layers import ROOT, Affine, Layer, MaxPool, Opaque
from qebgate.domains.linear_map import gather
from qebgate.ir.graph import Graph, Node
from qebgate.semantics.base import apply_activation
from qebgate.semantics.conv_2d import Conv2D
from qebgate.semantics.depthwise_conv_2d import DepthwiseConv2D
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.registry import ALL_SEMANTICS, SEMANTICS

F32 = np.float32


def _summands(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Float32 products ``[..., m, n]`` and the bias as the last summand."""
    return np.concatenate([x * w, np.broadcast_to(b[:, None], (*np.broadcast_shapes(x.shape, w.shape)[:-1], 1))], -1)


def _sequential(v: np.ndarray) -> np.ndarray:
    """``((v0 + v1) + v2) + ...`` in float32."""
    return np.cumsum(v, axis=-1, dtype=F32)[..., -1]


def _pairwise(v: np.ndarray) -> np.ndarray:
    while v.shape[-1] > 1:
        if v.shape[-1] % 2:
            v = np.concatenate([v, np.zeros_like(v[..., :1])], -1)
        v = v[..., ::2] + v[..., 1::2]
    return v[..., 0]


def _fused(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One rounding for each product and addition (of a sum that float64 rounds first)."""
    total = np.broadcast_to(b, np.broadcast_shapes(x.shape, w.shape)[:-1]).astype(F32)
    for i in range(x.shape[-1]):
        product = x[..., i].astype(np.float64) * w[..., i].astype(np.float64)
        total = (product + total.astype(np.float64)).astype(F32)
    return total


Dot = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
ORDERS: dict[str, Dot] = {
    "forward": lambda x, w, b: _sequential(_summands(x, w, b)),
    "bias first": lambda x, w, b: _sequential(_summands(x, w, b)[..., ::-1]),
    "positive first": lambda x, w, b: _sequential(np.sort(_summands(x, w, b), axis=-1)[..., ::-1]),
    "negative first": lambda x, w, b: _sequential(np.sort(_summands(x, w, b), axis=-1)),
    "small first": lambda x, w, b: _sequential(_by_size(_summands(x, w, b))),
    "large first": lambda x, w, b: _sequential(_by_size(_summands(x, w, b))[..., ::-1]),
    "pairwise": lambda x, w, b: _pairwise(_summands(x, w, b)),
    "fused": _fused,
}
"""Dot products of ``x [..., 1, n]`` and ``w [m, n]``, plus ``b [m]``, in float32."""


def _by_size(v: np.ndarray) -> np.ndarray:
    return np.take_along_axis(v, np.argsort(np.abs(v), axis=-1), axis=-1)


def evaluate(graph: Graph, x: np.ndarray, order: str) -> np.ndarray:
    """Outputs ``[n]`` of one input in float32, every sum of products in some order."""
    values: dict[int, np.ndarray] = {graph.inputs[0]: x[None].astype(F32)}
    for node in graph.nodes:
        args = [None if i < 0 else values.get(i, graph.tensors[i].const) for i in node.inputs]
        if node.op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            assert args[0] is not None
            y = _linear(node, graph, args[0], ORDERS[order])
        else:
            y = ALL_SEMANTICS[node.op].run_float(node, graph, args)
        assert y.dtype == F32
        values[node.outputs[0]] = y
    return values[graph.outputs[0]].ravel().astype(np.float64)


def _linear(node: Node, graph: Graph, x: np.ndarray, dot: Dot) -> np.ndarray:
    lin = LinearNode.of(node, graph)
    w, sem = lin.weights, SEMANTICS[node.op]
    m = w.shape[3] if node.op == "DEPTHWISE_CONV_2D" else len(w)
    b = np.zeros(m, F32) if lin.bias is None else lin.bias
    if isinstance(sem, DepthwiseConv2D):
        window = sem.window(node, graph)
        patches = window.patches(x.reshape(1, *lin.x.shape[1:]), 0).reshape(-1, lin.x.shape[3], window.taps)
        z = dot(np.repeat(patches, m // lin.x.shape[3], axis=1), w.reshape(window.taps, m).T, b)
    elif isinstance(sem, Conv2D):
        columns = sem.window(node, graph).columns(x.reshape(1, *lin.x.shape[1:]), 0)
        z = dot(columns[:, None], w.reshape(m, -1), b)
    else:
        z = dot(x.reshape(-1, 1, w.shape[1]), w, b)
    return apply_activation(z, node.attrs.activation).reshape(1, *lin.y.shape)


def worst(layers: tuple[Layer, ...], x: np.ndarray, output: int, k: int, sign: float) -> np.ndarray | None:
    """The exact value of an output and one that deviates as far as the neurons' error bounds allow.

    Every neuron's error has the sign that moves the output, going by the exact network's derivatives.  None where a
    layer is not piecewise linear.
    """
    exact: dict[int, np.ndarray] = {ROOT: x}
    z: dict[int, np.ndarray] = {}
    chosen: dict[int, np.ndarray] = {}
    for layer in layers:
        if isinstance(layer, Opaque):
            return None
        if isinstance(layer, Affine):
            pre = sum((m.forward(exact[i][None])[0] for m, i in zip(layer.f, layer.inputs, strict=True)), layer.bf)
            z[layer.output], exact[layer.output] = pre, np.clip(pre, *layer.float_range)
        else:
            window = np.where(layer.index < 0, -np.inf, exact[layer.inputs[0]][np.maximum(layer.index, 0)])
            chosen[layer.output] = layer.index[np.arange(len(window)), window.argmax(axis=1)]
            exact[layer.output] = window.max(axis=1)
    one = np.zeros(exact[output].size)
    one[k] = sign
    back: dict[int, np.ndarray] = {output: one}
    signs: dict[int, np.ndarray] = {}
    for layer in reversed(layers):
        g = back.pop(layer.output, np.zeros(exact[layer.output].size))
        if isinstance(layer, Affine):
            a, b = layer.float_range
            g = g * ((z[layer.output] > a) & (z[layer.output] < b))
            signs[layer.output] = np.sign(g)
            maps = zip(layer.f, layer.inputs, strict=True)
        else:
            assert isinstance(layer, MaxPool)
            maps = zip((gather(chosen[layer.output], exact[layer.inputs[0]].size),), layer.inputs, strict=True)
        for m, i in maps:
            back[i] = back.get(i, 0.0) + m.back(g[None])[0]
    moved: dict[int, np.ndarray] = {ROOT: x}
    for layer in layers:
        if isinstance(layer, Affine):
            pre = sum((m.forward(moved[i][None])[0] for m, i in zip(layer.f, layer.inputs, strict=True)), layer.bf)
            if layer.noise is not None:
                error = layer.noise([Interval.point(moved[i]) for i in layer.inputs])
                pre = pre + signs[layer.output] * error * (1 - 2.0**-20)
            moved[layer.output] = np.clip(pre, *layer.float_range)
        else:
            assert isinstance(layer, MaxPool)
            window = np.where(layer.index < 0, -np.inf, moved[layer.inputs[0]][np.maximum(layer.index, 0)])
            moved[layer.output] = window.max(axis=1)
    return np.array([exact[output][k], moved[output][k]])
