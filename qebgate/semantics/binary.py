"""What operators on two tensors share: numpy's broadcasting, a fused activation, preconditions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType, Tensor
from qebgate.semantics.base import (
    INT8,
    Activation,
    Options,
    Semantics,
    apply_activation,
    check_limits,
    require,
)


@dataclass(frozen=True, slots=True)
class BinaryAttrs:
    """The fused activation; ``powers`` says that int16 scales are powers of two (an ADD of old files)."""

    activation: Activation
    powers: bool = False


class Binary(Semantics):
    """Base of operators on two tensors, one of which may be constant."""

    def parse(self, options: Options) -> BinaryAttrs:
        return BinaryAttrs(Activation.parse(options.int8(0)), options.bool(1, True))

    @abstractmethod
    def function(self, a: Array, b: Array) -> Array:
        """The real function, in the operands' float type."""

    def check(self, node: Node, graph: Graph) -> None:
        require(len(node.inputs) == 2, "unexpected number of inputs", node, graph, len(node.inputs))
        a, b = (graph.tensors[i] for i in node.inputs)
        y = graph.tensors[node.outputs[0]]
        try:
            shape = np.broadcast_shapes(a.shape, b.shape)
        except ValueError:
            shape = None
        require(
            shape == y.shape,
            "the inputs' shapes do not give the output's",
            node,
            graph,
            f"{a.shape}, {b.shape}, {y.shape}",
        )
        require(
            a.dtype is b.dtype is y.dtype,
            "inputs and output have different types",
            node,
            graph,
            f"{a.dtype.value}, {b.dtype.value}",
        )
        if y.dtype.is_code:
            assert isinstance(node.attrs, BinaryAttrs)
            check_limits(node.attrs.activation, node, graph)
            wide = y.dtype is DType.INT16 and node.op == "ADD" and not node.attrs.powers
            require(y.dtype is INT8 or wide, f"{node.op} runs on int8 only", node, graph, y.dtype.value)
            zero = not wide or a.q.z == b.q.z == y.q.z == 0
            require(zero, "int16 activations with a zero point", node, graph, (a.q.z, b.q.z, y.q.z))
            require(
                not (a.q.per_channel or b.q.per_channel or y.q.per_channel),
                "activations have per-channel scales",
                node,
                graph,
            )

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        assert isinstance(node.attrs, BinaryAttrs)
        a, b = aligned(node, graph, inputs)
        live = [x.dtype for x, i in zip((a, b), node.inputs, strict=True) if not graph.tensors[i].is_const]
        dtype = np.result_type(*(live or [a.dtype, b.dtype]))
        return apply_activation(self.function(a.astype(dtype), b.astype(dtype)), node.attrs.activation)


def aligned(node: Node, graph: Graph, inputs: Sequence[Array | None]) -> tuple[Array, Array]:
    """Both operands with the output's number of axes after the batch axis."""
    rank = len(graph.tensors[node.outputs[0]].shape)
    out: list[Array] = []
    for i, x in zip(node.inputs, inputs, strict=True):
        assert x is not None
        t = graph.tensors[i]
        lead = (x.shape[0],) if not t.is_const else (1,)
        out.append(x.reshape(*lead, *(1,) * (rank - len(t.shape)), *t.shape))
    return out[0], out[1]


def operands(node: Node, graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
    """Both inputs and the output."""
    a, b = (graph.tensors[i] for i in node.inputs)
    return a, b, graph.tensors[node.outputs[0]]


def reach(t: Tensor) -> int:
    """Largest ``|code - zero_point|``."""
    lo, hi = t.dtype.code_range
    return max(hi - t.q.z, t.q.z - lo)
