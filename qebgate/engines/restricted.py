"""Dense matrices of linear operators, restricted to the entries that some inputs reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.semantics.conv_2d import Conv2D
from qebgate.semantics.depthwise_conv_2d import DepthwiseConv2D
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.registry import SEMANTICS

Index = NDArray[np.intp]

_MAX_ENTRIES = 1 << 22
_MAX_WASTE = 4
"""How many times the operator's own multiply-adds a dense matrix may need."""


class TooLarge(Exception):  # noqa: N818  (no error: the operator is executed as a whole instead)
    """The dense matrix would be too large, or would cost more than the operator itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Restriction:
    """``y[out] = w.T x[live] + constant``: flat entries ``out [m]``, their channels ``[m]``, ``w [k, m]``."""

    out: Index
    channel: Index
    w: Array


def products(node: Node, graph: Graph) -> int:
    """Multiply-adds of a linear node."""
    lin = LinearNode.of(node, graph)
    return lin.y.size * (lin.weights[..., 0].size if node.op == "DEPTHWISE_CONV_2D" else lin.weights[0].size)


def reached_entries(node: Node, graph: Graph, live: Index) -> Index:
    """Flat entries of the output whose window contains a live input."""
    lin = LinearNode.of(node, graph)
    place = _places(node, graph, lin, live)
    channels = lin.y.shape[-1]
    return _entries(np.unique(place[place >= 0]), channels)


def restrict(
    node: Node, graph: Graph, live: Index, dtype: type[np.float32 | np.float64]
) -> Restriction:  # fmt: skip
    """The matrix of a linear node from its live inputs, without columns of zeros; raises TooLarge."""
    lin = LinearNode.of(node, graph)
    channels, weights = lin.y.shape[-1], lin.weights
    place = _places(node, graph, lin, live)
    positions = np.unique(place[place >= 0])
    size = live.size * positions.size * channels
    if size > min(_MAX_ENTRIES, max(_MAX_WASTE * products(node, graph), 1 << 16)):
        raise TooLarge
    w = np.zeros((live.size, positions.size, channels), dtype)
    depth = lin.x.shape[-1] if node.op != "FULLY_CONNECTED" else weights.shape[1]
    channel_in = live % depth
    for tap, at in enumerate(place):
        rows = np.flatnonzero(at >= 0)
        rank, c = np.searchsorted(positions, at[rows]), channel_in[rows]
        if node.op == "DEPTHWISE_CONV_2D":
            taps = weights[0].reshape(-1, channels)[tap]
            each = np.arange(channels // depth)
            to = c[:, None] * each.size + each
            w[rows[:, None], rank[:, None], to] = taps[to]
        else:
            w[rows, rank] = weights.reshape(channels, -1, depth)[:, tap, c].T
    flat = w.reshape(live.size, -1)
    used = np.flatnonzero(flat.any(axis=0))
    out = _entries(positions, channels)[used]
    return Restriction(out, out % channels, np.ascontiguousarray(flat[:, used]))


def _entries(positions: Index, channels: int) -> Index:
    return (positions[:, None] * channels + np.arange(channels)).ravel()


def _places(node: Node, graph: Graph, lin: LinearNode, live: Index) -> Index:
    """``[taps, k]``: the output position that reads each live input through each tap of the kernel, or -1."""
    if node.op == "FULLY_CONNECTED":
        return (live // lin.weights.shape[1])[None]
    sem = SEMANTICS[node.op]
    assert isinstance(sem, (Conv2D, DepthwiseConv2D))
    window = sem.window(node, graph)
    (h, width), (rows, columns) = window.size, window.out
    pixel = live // lin.x.shape[3]
    image, pixel = np.divmod(pixel, h * width)
    axes: list[Index] = []
    for at, axis in ((pixel // width, 0), (pixel % width, 1)):
        tap = np.arange(window.kernel[axis])[:, None] * window.dilation[axis]
        shifted = at + window.before[axis] - tap
        p = shifted // window.stride[axis]
        inside = (shifted % window.stride[axis] == 0) & (p >= 0) & (p < window.out[axis])
        axes.append(np.where(inside, p, -1))
    p, q = axes[0][:, None], axes[1][None]
    place = np.where((p >= 0) & (q >= 0), image * (rows * columns) + p * columns + q, -1)
    return place.reshape(-1, live.size)
