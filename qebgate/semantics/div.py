"""DIV of two tensors (tensorflow/lite/kernels/div.cc, internal/reference/div.h); XNNPACK leaves int8 to it.

The int8 kernel fails on a divisor of 0: such inputs are not executed here either.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.errors import UnboundedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, Tensor
from qebgate.numerics.fixed_point import I64, Multiplier, divide_by_pot, high_mul
from qebgate.numerics.gemmlowp import reciprocal
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import Rounding, require
from qebgate.semantics.binary import Binary, BinaryAttrs, aligned, operands
from qebgate.semantics.elementwise import codes_table

_SHIFTS = 31
"""Places that a 32-bit number can be shifted by."""


class Div(Binary):
    name = "DIV"
    max_version = 2

    def function(self, a: Array, b: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return a / b

    def check(self, node: Node, graph: Graph) -> None:
        super().check(node, graph)
        a, b, y = operands(node, graph)
        if b.const is not None:
            zero = (b.const == (b.q.z if y.dtype.is_code else 0)).any()
            require(not zero, "DIV by a constant of 0", node, graph)
        if not y.dtype.is_code:
            return
        m = multiplier(a, b, y)
        require(2.0**-20 < m < 2.0**20, "DIV of scales too far apart", node, graph, m)
        shifts = _shifts(self.numerators(node, graph)[:, None], self.divisors(node, graph), Multiplier.of(m))
        # beyond, the compiled kernel gives anything: of 0 / c as well
        fits = bool((shifts >= 0).all() and (shifts <= _SHIFTS).all())
        require(fits, "DIV to a scale so coarse that the kernel shifts by more than 31 bits", node, graph, m)

    def numerators(self, node: Node, graph: Graph) -> I64:
        """All different codes of the first operand less their zero point."""
        a, _, _ = operands(node, graph)
        return (codes_table(a) if a.const is None else np.unique(a.const).astype(np.int64)) - a.q.z

    def divisors(self, node: Node, graph: Graph) -> I64:
        """All different codes of the second operand less their zero point, without 0."""
        _, b, _ = operands(node, graph)
        found = (codes_table(b) if b.const is None else np.unique(b.const).astype(np.int64)) - b.q.z
        return found[found != 0]

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        assert isinstance(node.attrs, BinaryAttrs)
        ta, tb, y = operands(node, graph)
        a, b = (v.astype(np.int64) - t.q.z for v, t in zip(aligned(node, graph, inputs), (ta, tb), strict=True))
        if not b.all():
            where = f"{graph.source.label}: {node.origin}"
            raise UnboundedError("QEB440", "an int8 division by 0, on which LiteRT fails", where=where)
        q = _quotient(a, b, Multiplier.of(multiplier(ta, tb, y)))
        return np.clip(q + y.q.z, *node.attrs.activation.code_range(y, Runtime.BUILTIN)).astype(np.int32)

    def table(self, node: Node, graph: Graph) -> tuple[I64, I64]:
        """All numerators over all divisors ``[N, K]``, in quanta of the output; and the divisors [K]."""
        divisors, m = self.divisors(node, graph), Multiplier.of(multiplier(*operands(node, graph)))
        return _quotient(self.numerators(node, graph)[:, None], divisors, m), divisors

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        """Measured on all codes over all divisors; beyond the reach both saturate."""
        a, b, y = operands(node, graph)
        found, divisors = self.table(node, graph)
        exact = self.numerators(node, graph)[:, None] * a.q.s / (divisors * b.q.s) / y.q.s
        off = np.abs(found - exact)[np.abs(exact) <= Rounding.REACH]
        return Rounding.symmetric(max(float(off.max(initial=0.0)), 0.5) + 2.0**-20)


def multiplier(a: Tensor, b: Tensor, y: Tensor) -> float:
    """``s_a / (s_b s_y)`` as the kernel computes it, in float32."""
    return float(np.float32(a.q.s) / (np.float32(b.q.s) * np.float32(y.q.s)))


def _sign_bits(a: I64) -> I64:
    """Leading bits of a 32-bit number that repeat its sign, less one."""
    size = np.where(a >= 0, a, -a - 1)
    return 31 - np.ceil(np.log2(size + 1.0)).astype(np.int64)


def _shifts(a: I64, b: I64, m: Multiplier) -> I64:
    """Places that the kernel shifts its last product to the right by, 0 divided by anything too."""
    a = np.where(b < 0, -a, a)
    _, over = reciprocal(np.abs(b), 31)
    return over + _sign_bits(a) - m.shift


def _quotient(a: I64, b: I64, m: Multiplier) -> I64:
    """``a / b`` times a multiplier, b not 0: a reciprocal in fixed point, and two products that are rounded."""
    shifts = _shifts(a, b, m)
    a = np.where(b < 0, -a, a)
    inverse, _ = reciprocal(np.abs(b), 31)
    return divide_by_pot(high_mul(high_mul(a << _sign_bits(a), inverse), m.mantissa), shifts)
