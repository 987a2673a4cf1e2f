"""SQRT and RSQRT (tensorflow/lite/kernels/elementwise.cc): functions of one code; XNNPACK takes floats only.

The int8 kernels fail on codes below the zero point, so that only tensors without such codes are taken.
"""

from __future__ import annotations

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.numerics.fixed_point import I64, Multiplier, multiply_double_rounding
from qebgate.numerics.gemmlowp import inverse_root
from qebgate.numerics.rounding import F64
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import Rounding, require
from qebgate.semantics.elementwise import codes_table
from qebgate.semantics.tables import Function, ends

_SHIFT = 20


class Sqrt(Function):
    name = "SQRT"
    closest, widest = 2.0**-40, 2.0**20

    def check(self, node: Node, graph: Graph) -> None:
        super().check(node, graph)
        x, _ = ends(node, graph)
        if x.dtype.is_code:
            found = f"an int8 {self.name} fails on codes below its input's zero point"
            require(x.q.z == x.dtype.code_range[0], found, node, graph, x.q.z)

    def function(self, node: Node, graph: Graph, x: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return np.sqrt(x)

    def table(self, node: Node, graph: Graph, kernel: Runtime) -> I64:
        """The quotient is truncated."""
        x, y = ends(node, graph)
        real = np.float32(x.q.s) * (codes_table(x) - x.q.z).astype(np.float32)
        return np.trunc(np.sqrt(real) / np.float32(y.q.s)).astype(np.int64) + y.q.z


class Rsqrt(Sqrt):
    name = "RSQRT"

    def check(self, node: Node, graph: Graph) -> None:
        super().check(node, graph)
        x, _ = ends(node, graph)
        if x.dtype.is_code:
            m = self._multiplier(node, graph)
            require(2.0**-10 < m < 2.0**20, "RSQRT between scales too far apart", node, graph, m)

    def _multiplier(self, node: Node, graph: Graph) -> float:
        x, y = ends(node, graph)
        return 1.0 / float(np.sqrt(np.float32(x.q.s)) * np.float32(y.q.s))

    def function(self, node: Node, graph: Graph, x: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return x.dtype.type(1.0) / np.sqrt(x)

    def exact(self, node: Node, graph: Graph, x: F64) -> F64:
        """Beyond every code at 0, where the kernel gives the largest."""
        beyond = 2 * Rounding.REACH * ends(node, graph)[1].q.s
        return np.where(x > 0, 1.0 / np.sqrt(np.where(x > 0, x, 1.0)), beyond)

    def table(self, node: Node, graph: Graph, kernel: Runtime) -> I64:
        x, y = ends(node, graph)
        value = codes_table(x) - x.q.z
        inverse, right = inverse_root(np.maximum(value, 1))
        data = multiply_double_rounding(np.ones_like(value), Multiplier(inverse, _SHIFT - right))
        m = Multiplier.of(self._multiplier(node, graph))
        q = multiply_double_rounding(data, Multiplier(m.mantissa, m.shift - _SHIFT)) + y.q.z
        return np.where(value == 0, y.dtype.code_range[1], q)
