"""INPUT_PART: one of several inputs, out of the joined one.  No kernel: runtimes are given each input by itself."""

from __future__ import annotations

from collections.abc import Sequence

from qebgate.ir.graph import INPUT_PART, Graph, Node
from qebgate.ir.joined import PartAttrs
from qebgate.numerics.fixed_point import I64
from qebgate.semantics.moves import Move


class InputParts(Move):
    name = INPUT_PART

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        a = node.attrs
        assert isinstance(a, PartAttrs)
        return numbers[0].reshape(-1)[a.start : a.start + a.size].reshape(graph.tensors[node.outputs[0]].shape)
