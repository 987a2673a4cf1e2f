"""Dense networks in fixed point, quantized on the fly (QEBVerif, CAV 2023, arXiv 2212.11138, section 2.2).

All scales are powers of two.  Layer i on integers, with ``f`` fractional bits of its input, ``F`` of its
weights and ``g`` of its output:

    acc = sum_j W_j h_j + b 2**(f + F - B)            exact, B fractional bits of the bias
    h'  = clamp(floor(acc / 2**e + 1/2), 0, 2**Q - 1)  e = f + F - g, round half up (hidden layers)
    y   = acc / 2**(f + F)                             the output: exact, neither rounded nor clamped

Read in the authors' code.  The float network reads the same integers, times the input scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from qebgate.errors import InternalError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType
from qebgate.numerics.rounding import F64
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.accumulate import exact_matmul
from qebgate.semantics.base import Semantics, require
from qebgate.semantics.linear import LinearNode

REACH = 2.0**40
"""Accumulators are smaller: exact in float64, and within what the analysis asks an exact kernel."""

I64 = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class InputAttrs:
    """``value = integer * scale``, exactly this rational number."""

    scale: Fraction


@dataclass(frozen=True, slots=True)
class DenseAttrs:
    """``shift`` is e of a hidden layer; None for the output layer, whose accumulators are returned."""

    shift: int | None


class FixedPointInput(Semantics):
    """What an integer of the region means: scaled in the float network, kept as it is in the quantized one."""

    name = "FIXED_POINT_INPUT"

    def check(self, node: Node, graph: Graph) -> None:
        x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        assert isinstance(node.attrs, InputAttrs)
        require(x.shape == y.shape, "input and output have different shapes", node, graph, f"{x.shape}, {y.shape}")
        if y.dtype.is_code:
            require(x.dtype is y.dtype, "input and output have different types", node, graph, y.dtype.value)
            require(x.q.s == 1.0 and x.q.z == y.q.z == 0, "the input is not made of plain integers", node, graph)
            require(Fraction(y.q.s) == node.attrs.scale, "the scale is not the output's", node, graph, y.q.s)

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        x = inputs[0]
        assert x is not None and isinstance(node.attrs, InputAttrs)
        return x * x.dtype.type(float(node.attrs.scale))

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        x = inputs[0]
        assert x is not None
        return x


class FixedPointDense(Semantics):
    """One dense layer; its float twin is FULLY_CONNECTED."""

    name = "FIXED_POINT_DENSE"

    def check(self, node: Node, graph: Graph) -> None:
        lin, attrs = LinearNode.of(node, graph), node.attrs
        assert isinstance(attrs, DenseAttrs)
        x, w, y = lin.x, lin.w, lin.y
        require(len(w.shape) == 2 and lin.bias is not None, "weights and a bias are needed", node, graph)
        fits = x.shape == (1, w.shape[1]) and y.shape == (1, w.shape[0]) and lin.bias is not None
        require(fits and lin.bias.shape == w.shape[:1], "the shapes do not fit", node, graph)  # type: ignore[union-attr]
        require(x.q.z == 0 and not w.q.per_channel and w.q.z == 0, "fixed point has no zero points", node, graph)
        unit = x.q.s * w.q.s
        if attrs.shift is None:
            require(y.dtype is DType.FLOAT64, "the output is the exact accumulator", node, graph, y.dtype.value)
        else:
            require(attrs.shift >= 0 and y.q.z == 0, "a layer cannot be rounded to its output", node, graph)
            require(unit * 2.0**attrs.shift == y.q.s, "the shift is not that of the scales", node, graph, attrs.shift)
        require(_bound(lin) < REACH, "the accumulator may be beyond 40 bits", node, graph, f"{_bound(lin):.3g}")

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        raise InternalError("QEB912", "a layer in fixed point has no float execution", where=node.origin)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        """Codes (int32), or the exact real outputs (float64) of the last layer."""
        lin, x = LinearNode.of(node, graph), inputs[0]
        assert x is not None and lin.bias is not None
        acc = exact_matmul(x.reshape(len(x), -1), lin.weights.T, _bound(lin)).astype(np.int64) + lin.bias
        out = finish(node, graph, acc)
        return out.reshape(len(x), *lin.y.shape)


def finish(node: Node, graph: Graph, acc: I64) -> Array:
    """What a layer makes of its exact accumulators ``[..., m]``: codes, or reals of the last layer."""
    lin, attrs = LinearNode.of(node, graph), node.attrs
    assert isinstance(attrs, DenseAttrs)
    if attrs.shift is None:
        return acc * (lin.x.q.s * lin.w.q.s)  # exact: fewer than 53 bits, and a power of two
    half = (1 << attrs.shift) >> 1
    return ((acc + half) >> attrs.shift).clip(lin.y.q.qmin, lin.y.q.qmax).astype(np.int32)


def rounding(node: Node, graph: Graph) -> tuple[F64, F64]:
    """``(below, above)``, real units, [m]: the rounded value is in ``[acc - below, acc + above]``.

    Round half up of a multiple of ``2**-e`` quanta: up by at most 1/2, down by at most ``1/2 - 2**-e``.
    """
    lin, attrs = LinearNode.of(node, graph), node.attrs
    assert isinstance(attrs, DenseAttrs)
    m = lin.weights.shape[0]
    if not attrs.shift:  # None: not rounded; 0: every accumulator is a code
        return np.zeros(m), np.zeros(m)
    unit = lin.y.q.s
    return np.full(m, unit * (0.5 - 2.0**-attrs.shift)), np.full(m, unit * 0.5)


def _bound(lin: LinearNode) -> float:
    """Upper bound of every ``sum |x_i w_i| + |b|`` and of its partial sums, with the rounding's half added."""
    assert lin.bias is not None
    reach = max(lin.x.q.qmax, -lin.x.q.qmin)
    rows = np.abs(lin.weights.astype(np.float64)).sum(axis=1) * reach + np.abs(lin.bias.astype(np.float64))
    half = 0 if not isinstance(lin.node.attrs, DenseAttrs) else 1 << (lin.node.attrs.shift or 0)
    return float(rows.max(initial=0.0)) + half
