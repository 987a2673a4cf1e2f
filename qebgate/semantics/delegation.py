"""Which nodes the XNNPACK delegate takes, and which it leaves to LiteRT's builtin kernels.

Read in ``xnnpack_delegate.cc`` and measured against the installed delegate (tests/semantics); a node
that it leaves is executed as ``litert-builtin``.
"""

from __future__ import annotations

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import DType, Tensor
from qebgate.runtimes.profiles import Runtime


def owner(node: Node, graph: Graph, runtime: Runtime) -> Runtime:
    """The runtime whose kernel executes the node."""
    if runtime is Runtime.XNNPACK and not delegated(node, graph):
        return Runtime.BUILTIN
    return runtime


def delegated(node: Node, graph: Graph) -> bool:
    """Whether the XNNPACK delegate takes a node whose input or output is an integer code."""
    y = graph.tensors[node.outputs[0]]
    if any(i >= 0 and graph.tensors[i].dtype is DType.INT16 for i in (*node.inputs, *node.outputs)):
        return False
    rule = _RULES.get(node.op)
    return node.op not in _NEVER and (rule is None or rule(node, graph, y))


_NEVER = frozenset(
    {
        "ABS",
        "AVERAGE_POOL_2D",
        "DIV",
        "GELU",
        "HARD_SWISH",
        "LOG_SOFTMAX",
        "MAXIMUM",
        "MINIMUM",
        "PRELU",
        "RELU",
        "RELU6",
        "RSQRT",
        "SOFTMAX",
        "SQRT",
        "SQUARED_DIFFERENCE",
        "TILE",
    }
)
"""Taken for float tensors only."""


def _batch_matmul(node: Node, graph: Graph, y: Tensor) -> bool:
    """Not by a matrix with a zero point."""
    del y
    return graph.tensors[node.inputs[1]].q.z == 0


def _quantize(node: Node, graph: Graph, y: Tensor) -> bool:
    """From float always; between codes of one type while the ratio of scales fits the kernel's 16 bits."""
    x = graph.tensors[node.inputs[0]]
    if not x.dtype.is_code:
        return True
    return x.dtype is y.dtype and 2.0**-8 <= float(np.float32(x.q.s) / np.float32(y.q.s)) <= 2.0**7


def _max_pool(node: Node, graph: Graph, y: Tensor) -> bool:
    """Not where windows leave gaps between them."""
    del graph, y
    kernel, stride = node.attrs.kernel, node.attrs.how.stride  # type: ignore[attr-defined]
    return bool(kernel[0] >= stride[0] and kernel[1] >= stride[1])


def _add(node: Node, graph: Graph, y: Tensor) -> bool:
    """Only while both ratios of scales fit the kernel's multipliers."""
    ratios = [np.float32(graph.tensors[i].q.s) / np.float32(y.q.s) for i in node.inputs]
    return all(2.0**-10 <= float(r) < 2.0**8 for r in ratios)


def _mul(node: Node, graph: Graph, y: Tensor) -> bool:
    """Only while the ratio of scales fits the kernel's multiplier."""
    a, b = (np.float32(graph.tensors[i].q.s) for i in node.inputs)
    return 2.0**-16 <= float(a * b / np.float32(y.q.s)) < 2.0**8


def _leaky_relu(node: Node, graph: Graph, y: Tensor) -> bool:
    """Only while both ratios fit the kernel's multipliers."""
    ratio = np.float32(graph.tensors[node.inputs[0]].q.s) / np.float32(y.q.s)
    below = ratio * np.float32(node.attrs.alpha)  # type: ignore[attr-defined]
    return 2.0**-8 <= float(ratio) <= 2.0**7 and 2.0**-8 <= float(below) <= 2.0**7


def _transpose_conv(node: Node, graph: Graph, y: Tensor) -> bool:
    """Not where SAME padding of a kernel shorter than its stride leaves gaps."""
    del y
    kernel, how = graph.tensors[node.inputs[1]].shape[1:3], node.attrs.how  # type: ignore[attr-defined]
    return bool(not how.same or (kernel[0] >= how.stride[0] and kernel[1] >= how.stride[1]))


_RULES = {
    "ADD": _add,
    "BATCH_MATMUL": _batch_matmul,
    "LEAKY_RELU": _leaky_relu,
    "MAX_POOL_2D": _max_pool,
    "MUL": _mul,
    "QUANTIZE": _quantize,
    "SUB": _add,
    "TRANSPOSE_CONV": _transpose_conv,
}
