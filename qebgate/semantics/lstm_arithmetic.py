"""What each stage of an LSTM adds to its exact result: in exact arithmetic, in float32, in the integer kernel.

Errors are in real units and hold for one stage on given inputs; arrays [..., 4 H] for gates, [..., H] for the rest.
The gates are one behind the other, in the order of :data:`qebgate.semantics.unidirectional_sequence_lstm.GATES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Tensor
from qebgate.numerics.fixed_point import Multiplier
from qebgate.numerics.rounding import F64, TINY32, gamma
from qebgate.semantics.unidirectional_sequence_lstm import (
    GATE_BITS,
    IntegerLstm,
    LstmNode,
    sigmoid_table,
    tanh_table,
)

Limits = tuple[F64 | float, F64 | float]
NONE: Limits = (-np.inf, np.inf)
OVERFLOW = 2.0**126
"""Beyond this a float32 sum could overflow: no bound is given."""
_SINGLE = 2.0**-22
"""Relative error of a multiplier: products of scales in float32, and 31 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Arithmetic:
    """Exact: nothing is rounded, and only the cell has a limit."""

    cell_limits: Limits

    gate_limits = NONE
    hidden_limits = NONE

    def first(self, p: F64) -> F64:
        """Of the input's part of a gate's sum, which is at most p."""
        return np.zeros_like(p)

    def gate(self, wx: F64, rh: F64, b: F64) -> F64:
        """Of a gate's whole sum; ``wx`` and ``rh`` bound the sums of the products' magnitudes."""
        del b
        return np.zeros_like(wx + rh)

    def sigmoid(self, z: F64) -> F64:
        return np.zeros_like(z)

    def tanh(self, z: F64) -> F64:
        """Of the cell gate, at an argument of at most z."""
        return np.zeros_like(z)

    def of_cell(self, c: F64) -> F64:
        """Of the cell's tanh."""
        return np.zeros_like(c)

    def cell(self, kept: F64, new: F64, c: F64) -> F64:
        """Of the cell, a sum of two products of at most so much; c is the cell before."""
        del new, c
        return np.zeros_like(kept)

    def hidden(self, h: F64) -> F64:
        """Of the last product."""
        return np.zeros_like(h)


@dataclass(frozen=True, slots=True, eq=False)
class Floating(Arithmetic):
    """Floating point of a unit roundoff, in any order of summation; curves are known up to some units."""

    unit: float
    products: int
    """Products behind a gate's sum."""
    largest: float
    """Largest magnitude of a weight."""
    sigmoid_units: float
    tanh_units: float

    def gate(self, wx: F64, rh: F64, b: F64) -> F64:
        flushed = (2 * self.products + 4 + self.products * self.largest) * TINY32
        return gamma(self.products + 2, self.unit) * (wx + rh + np.abs(b)) + flushed

    def sigmoid(self, z: F64) -> F64:
        return np.full_like(z, self.sigmoid_units * self.unit)

    def tanh(self, z: F64) -> F64:
        return np.minimum(1.0, z) * (self.tanh_units * self.unit) + TINY32

    def of_cell(self, c: F64) -> F64:
        return self.tanh(c)

    def cell(self, kept: F64, new: F64, c: F64) -> F64:
        # a factor that is flushed moves its product by the other one
        return gamma(3, self.unit) * (kept + new) + (8.0 + c) * TINY32

    def hidden(self, h: F64) -> F64:
        return gamma(2, self.unit) * h + 4 * TINY32


@dataclass(frozen=True, slots=True, eq=False)
class Integers(Arithmetic):
    """The integer kernel; see :class:`~qebgate.semantics.unidirectional_sequence_lstm.IntegerLstm`."""

    lstm: IntegerLstm
    of_input: F64
    """Largest deviation of each gate's first and second requantization [4 H], in real units."""
    of_state: F64
    hidden_limits: Limits  # type: ignore[misc]

    gate_limits = (-(2.0 ** (15 - GATE_BITS)), ((1 << 15) - 1) * 2.0**-GATE_BITS)

    @classmethod
    def of(cls, node: Node, graph: Graph) -> Integers:
        lstm = IntegerLstm.of(node, graph)
        n, unit = lstm.node, 2.0**-lstm.cell_bits
        lo, hi = n.y.dtype.code_range
        top = float((1 << 15) - 1) * unit
        clip = min(lstm.clip * unit, top) if lstm.clip > 0 else np.inf
        return cls(
            (max(-top - unit, -clip), min(top, clip)),
            lstm,
            _deviation(lstm.of_input) * 2.0**-GATE_BITS,
            _deviation(lstm.of_state) * 2.0**-GATE_BITS,
            ((lo - n.y.q.z) * n.y.q.s, (hi - n.y.q.z) * n.y.q.s),
        )

    def first(self, p: F64) -> F64:
        return self.of_input + p * _SINGLE

    def gate(self, wx: F64, rh: F64, b: F64) -> F64:
        del wx, b
        return np.where(rh > 0, self.of_state, 0.0) + rh * _SINGLE  # a sum of zeros is not rounded

    def sigmoid(self, z: F64) -> F64:
        return np.full_like(z, table_error(None))

    def tanh(self, z: F64) -> F64:
        return np.full_like(z, table_error(15 - GATE_BITS))

    def of_cell(self, c: F64) -> F64:
        return np.full_like(c, table_error(15 - self.lstm.cell_bits))

    def cell(self, kept: F64, new: F64, c: F64) -> F64:
        del new, c
        return np.full_like(kept, 2.0**-self.lstm.cell_bits)  # two roundings to nearest

    def hidden(self, h: F64) -> F64:
        return _deviation(self.lstm.of_hidden) * self.lstm.node.y.q.s + h * _SINGLE


def _deviation(m: Multiplier) -> F64:
    """Of gemmlowp's two roundings, in quanta."""
    return 0.5 + np.where(m.right > 0, 2.0 ** -(m.right + 1.0), 0.0) + 2.0**-20


@cache
def table_error(integer_bits: int | None) -> float:
    """Largest error of the fixed-point tanh for codes with so many integer bits, of the sigmoid for None."""
    codes = np.arange(-(1 << 15), 1 << 15)
    if integer_bits is None:
        table, exact = sigmoid_table(), 0.5 * (1.0 + np.tanh(codes * 2.0 ** -(GATE_BITS + 1)))
    else:
        table, exact = tanh_table(integer_bits), np.tanh(codes * 2.0 ** (integer_bits - 15))
    return float(np.abs(table * 2.0**-15 - exact).max()) + 2.0**-40


def float_error(n: LstmNode, x: F64, arithmetic: Floating) -> F64:
    """``E [1, T, H]`` of a float32 evaluation, from the inputs' magnitudes: no error cancels another.

    Every value is at most what a gate in [0, 1] lets through; errors pass gates with slopes of 1/4 and 1.
    """
    w, r, b = (np.abs(v) for v in real_constants(n))
    limit, more = n.clip if n.clip > 0 else np.inf, 1 + 2.0**-20
    h, c, eh, ec = (np.zeros(n.cells) for _ in range(4))
    out: list[F64] = []
    for row in n.rows(np.abs(x))[0]:
        wx, rh = w @ row, r @ h
        if not (wx + rh + b < OVERFLOW).all():
            return np.full(n.y.shape, np.inf)
        ez = arithmetic.gate(wx, rh, b) + r @ eh
        i, f, g, o = np.split(ez, 4)
        i, f, o = (np.minimum(1.0, e / 4) + arithmetic.sigmoid(e) for e in (i, f, o))
        g = np.minimum(2.0, g) + arithmetic.tanh(np.ones_like(g))
        ec = ec * more + c * f + i * (1 + g) + g + arithmetic.cell(c * (1 + f), (1 + i) * (1 + g), c)
        c = np.minimum(c + 1, limit) * more
        ec = np.minimum(ec, 2 * c)
        eh = (np.minimum(ec, 2.0) + arithmetic.of_cell(c)) * more + o + arithmetic.hidden(np.ones_like(c))
        h, eh = np.full_like(h, more), np.minimum(eh, 2 * more)
        out.append(eh)
    return np.stack(out).reshape(n.y.shape)


def real_constants(n: LstmNode) -> tuple[F64, F64, F64]:
    """Weights ``[4 H, C]`` and ``[4 H, H]`` and biases [4 H] in real units (exact but for those of 31 bits)."""
    w, r = (np.concatenate([_real(t) for t in ts]) for ts in (n.weights, n.recurrent))
    units = [t.q.s * n.x.q.s if t.dtype.is_code else 1.0 for t in n.weights]
    return w, r, np.concatenate([b.astype(np.float64) * u for b, u in zip(n.b, units, strict=True)])


def _real(t: Tensor) -> F64:
    assert t.const is not None
    return t.q.dequantize(t.const) if t.dtype.is_code else t.const.astype(np.float64)


def limits_of(n: LstmNode) -> Limits:
    """Of the cell in real arithmetic, and in float32."""
    return (-n.clip, n.clip) if n.clip > 0 else NONE


def floating(n: LstmNode, unit: float, sigmoid_units: float, tanh_units: float) -> Floating:
    """The float arithmetic of a node."""
    w, r, _ = real_constants(n)
    largest = max(float(np.abs(v).max(initial=0.0)) for v in (w, r))
    return Floating(limits_of(n), unit, n.channels + n.cells, largest, sigmoid_units, tanh_units)
