"""NEG and SQUARE in float32; converters leave them between a DEQUANTIZE and a QUANTIZE.

LiteRT's int8 NEG negates codes whatever their zero point is, and SQUARE has no int8 kernel.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from qebgate.errors import UnsupportedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import FLOAT32, Semantics, require
from qebgate.semantics.elementwise import check_codes


class FloatOnly(Semantics):
    """A function of one entry, in float32."""

    max_version = 1

    @abstractmethod
    def function(self, x: Array) -> Array:
        """The real function, in the input's float type."""

    def check(self, node: Node, graph: Graph) -> None:
        x, _ = check_codes(node, graph)
        require(x.dtype is FLOAT32, f"{node.op} runs on float32 only", node, graph, x.dtype.value)

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        del node, graph
        x = inputs[0]
        assert x is not None
        return self.function(x)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        raise UnsupportedError(
            "QEB432", f"{node.op} runs on float32 only", where=f"{graph.source.label}: {node.origin}"
        )


class Neg(FloatOnly):
    name = "NEG"

    def function(self, x: Array) -> Array:
        return -x


class Square(FloatOnly):
    name = "SQUARE"

    def function(self, x: Array) -> Array:
        return x * x
