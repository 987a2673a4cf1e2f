"""LOGISTIC and TANH: on int8 a table of 256 codes (tensorflow/lite/kernels/activations.cc, LUTPopulate)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, Tensor
from qebgate.numerics.fixed_point import round_half_away
from qebgate.numerics.libm import F32, expf, tanhf
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import Rounding, Semantics, require
from qebgate.semantics.delegation import owner
from qebgate.semantics.elementwise import check_codes, codes_table, look_up


class Table(Semantics):
    """A function of one code whose output scale and zero point the schema fixes."""

    max_version = 3
    scale: float
    zero_point: int

    @abstractmethod
    def function(self, x: Array) -> Array:
        """The real function, in the input's float type."""

    def check(self, node: Node, graph: Graph) -> None:
        x, y = check_codes(node, graph)
        if x.dtype.is_code:
            fixed = (y.q.s, y.q.z) == (self.scale, self.zero_point)
            expected = f"an int8 {self.name} must have output scale {self.scale} and zero point {self.zero_point}"
            require(fixed, expected, node, graph, f"{y.q.s}, {y.q.z}")

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        del node, graph
        x = inputs[0]
        assert x is not None
        return self.function(x)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        codes, x = inputs[0], graph.tensors[node.inputs[0]]
        assert codes is not None
        return look_up(self.codes(node, graph, runtime), codes, x)

    def codes(self, node: Node, graph: Graph, runtime: Runtime) -> Array:
        """The runtime's table."""
        x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        return self.table(x, y, owner(node, graph, runtime))

    @abstractmethod
    def single(self, x: F32, runtime: Runtime) -> F32:
        """The function as the runtime's kernel computes it in float32."""

    def table(self, x: Tensor, y: Tensor, runtime: Runtime) -> Array:
        """Output codes of all input codes, ascending: made once by the kernels with the C library's functions."""
        real = (codes_table(x) - x.q.z).astype(np.float32) * np.float32(x.q.s)
        scaled = self.single(real, runtime) * np.float32(1.0 / y.q.s)  # 128 or 256: exact
        if runtime is Runtime.XNNPACK:
            q = np.rint(scaled + np.float32(y.q.z))
        else:
            q = round_half_away(scaled.astype(np.float64)) + y.q.z
        return np.clip(q, *y.dtype.code_range).astype(np.int32)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        """0.5, and a few float32 roundings of a value of at most 256 quanta."""
        del node, graph, runtime
        return Rounding.symmetric(0.5 + 2.0**-13)


class Logistic(Table):
    name = "LOGISTIC"
    scale = 1.0 / 256.0
    zero_point = -128

    def function(self, x: Array) -> Array:
        one = x.dtype.type(1.0)
        e = np.exp(-np.abs(x))
        return np.where(x >= 0, one, e) / (one + e)

    def single(self, x: F32, runtime: Runtime) -> F32:
        one = np.float32(1.0)
        if runtime is Runtime.XNNPACK:  # in double, rounded once
            with np.errstate(over="ignore"):
                return (1.0 / (1.0 + np.exp(-x.astype(np.float64)))).astype(np.float32)
        return one / (one + expf(-x))


class Tanh(Table):
    name = "TANH"
    scale = 1.0 / 128.0
    zero_point = 0

    def function(self, x: Array) -> Array:
        return np.tanh(x)

    def single(self, x: F32, runtime: Runtime) -> F32:
        del runtime
        return tanhf(x)
