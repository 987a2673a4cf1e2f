"""Matrices of operators over flattened tensors, built from the models alone."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from qebgate.certify.errors import cannot
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Tensor
from qebgate.numerics.rounding import F64
from qebgate.semantics.average_pool_2d import AveragePool2D
from qebgate.semantics.conv_2d import Conv2D
from qebgate.semantics.depthwise_conv_2d import DepthwiseConv2D
from qebgate.semantics.fixed_point import InputAttrs
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.mean import Mean
from qebgate.semantics.pad import Pad
from qebgate.semantics.windows import Window

MAX_ENTRIES = 40_000_000
"""Largest number of entries of one matrix."""
Matrix = F64 | sp.csr_array
"""Of one axis: a diagonal one."""
WEIGHTED = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")


def entries(m: Matrix) -> tuple[int, int]:
    """Rows and columns."""
    shape = m.shape
    assert shape is not None
    return int(shape[0]), int(shape[-1])


def forward(m: Matrix, x: F64) -> F64:
    """``m x`` for a vector."""
    return m * x if m.ndim == 1 else m @ x  # pyright: ignore[reportReturnType]


def back(c: F64, m: Matrix) -> F64:
    """``c m`` for rows ``c [R, m]``."""
    return c * m if m.ndim == 1 else c @ m  # pyright: ignore[reportReturnType]


def picked(m: Matrix, index: NDArray[np.intp]) -> F64:
    """Some rows, dense."""
    if m.ndim == 1:
        out = np.zeros((index.size, entries(m)[1]))
        out[np.arange(index.size), index] = m[index]
        return out
    rows = m[index]
    return rows if isinstance(rows, np.ndarray) else rows.toarray()


def minus(q: Matrix, f: Matrix) -> Matrix:
    """The difference."""
    q, f = (sp.csr_array(sp.diags(m)) if m.ndim == 1 and q.ndim != f.ndim else m for m in (q, f))
    return q - f


def matrices_of(node: Node, graph: Graph, where: str) -> tuple[list[tuple[int, Matrix]], F64]:
    """``(tensor, matrix)`` of every operand that is not constant, and the sum of the constant ones."""
    op, x, y = node.op, graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
    if op in (*WEIGHTED, "FIXED_POINT_DENSE"):
        return _weighted(node, graph)
    if op == "ADD":
        return _sum(node, graph)
    if op == "FIXED_POINT_INPUT":
        assert isinstance(node.attrs, InputAttrs)
        matrix: Matrix = identity(y.size) * float(node.attrs.scale)
    elif op in ("QUANTIZE", "DEQUANTIZE", "RELU", "RELU6"):
        matrix = identity(y.size)
    elif op == "PAD":
        index = np.arange(x.size).reshape(x.shape)
        index = np.pad(index, Pad().amounts(node, graph), constant_values=-1)
        matrix = _sparse(index.reshape(-1, 1), np.ones((1, 1)), x.size)
    elif op == "AVERAGE_POOL_2D":
        taps = _taps(AveragePool2D().window(node, graph), x).reshape(y.size, -1)
        matrix = _sparse(taps, 1.0 / (taps >= 0).sum(axis=1, keepdims=True), x.size)
    elif op == "MEAN":
        axes = Mean().axes(node, graph)
        index = np.moveaxis(np.arange(x.size).reshape(x.shape), axes, range(-len(axes), 0)).reshape(y.size, -1)
        matrix = _sparse(index, np.full((1, 1), 1.0 / index.shape[1]), x.size)
    else:
        raise cannot(f"{op} is not known to the checker", where)
    return [(node.inputs[0], matrix)], np.zeros(y.size)


def _weighted(node: Node, graph: Graph) -> tuple[list[tuple[int, Matrix]], F64]:
    lin = LinearNode.of(node, graph)
    x, y = lin.x, lin.y
    codes = x.dtype.is_code
    w = lin.w.q.dequantize(lin.weights) if codes else lin.weights.astype(np.float64)
    channels = w.shape[3] if node.op == "DEPTHWISE_CONV_2D" else w.shape[0]
    bias = np.zeros(channels)
    if lin.bias is not None:  # of integers below 2**31 and a product of 48 bits: rounded once
        bias = lin.bias.astype(np.float64) * (x.q.s * lin.w.q.scale if codes else 1.0)
    if node.op in ("FULLY_CONNECTED", "FIXED_POINT_DENSE"):
        rows = x.size // w.shape[1]
        matrix: Matrix = w if rows == 1 else sp.csr_array(sp.kron(sp.identity(rows), w, format="csr"))
    elif node.op == "CONV_2D":
        taps = _taps(Conv2D().window(node, graph), x)  # [P, C, T]
        per = w.transpose(0, 3, 1, 2).reshape(channels, *taps.shape[1:])
        index = np.broadcast_to(taps[:, None], (len(taps), *per.shape)).reshape(y.size, -1)
        matrix = _sparse(index, np.broadcast_to(per, (len(taps), *per.shape)).reshape(y.size, -1), x.size)
    else:
        taps = _taps(DepthwiseConv2D().window(node, graph), x)
        per = w[0].reshape(taps.shape[2], taps.shape[1], -1).transpose(1, 2, 0)  # [C, multiplier, T]
        index = np.broadcast_to(taps[:, :, None], (len(taps), *per.shape)).reshape(y.size, -1)
        matrix = _sparse(index, np.broadcast_to(per, (len(taps), *per.shape)).reshape(y.size, -1), x.size)
    return [(node.inputs[0], matrix)], np.tile(bias, y.size // channels)


def _sum(node: Node, graph: Graph) -> tuple[list[tuple[int, Matrix]], F64]:
    y = graph.tensors[node.outputs[0]]
    operands: list[tuple[int, Matrix]] = []
    bias = np.zeros(y.size)
    for i in node.inputs:
        t = graph.tensors[i]
        if t.const is not None:
            value = t.q.dequantize(t.const) if t.dtype.is_code else t.const.astype(np.float64)
            bias = bias + np.broadcast_to(value, y.shape).ravel()
        else:
            index = np.broadcast_to(np.arange(t.size).reshape(t.shape), y.shape)
            operands.append((i, _sparse(index.reshape(-1, 1), np.ones((1, 1)), t.size)))
    return operands, bias


def identity(n: int) -> F64:
    """Diagonal."""
    return np.ones(n)


def _taps(window: Window, x: Tensor) -> NDArray[np.int64]:
    """Flat input index ``[positions, channels, taps]`` that each output position reads; -1 for padding."""
    if x.shape[0] != 1:
        raise cannot("a window over a batch")
    numbers = np.arange(1, x.size + 1, dtype=np.int64).reshape(x.shape)
    return window.patches(numbers, 0).reshape(window.out[0] * window.out[1], x.shape[3], -1) - 1


def _sparse(index: NDArray[np.int64], weights: F64, n: int) -> sp.csr_array:
    """Row k has ``weights[k]`` at the columns ``index[k]`` that are not negative."""
    if index.size > MAX_ENTRIES:
        raise cannot(f"a matrix of {index.size} entries is too large")
    valid = index >= 0
    starts = np.concatenate([[0], np.cumsum(valid.sum(axis=1))])
    data = np.broadcast_to(weights, index.shape)[valid].astype(np.float64)
    return sp.csr_array((data, index[valid], starts), shape=(len(index), n))
