"""UNIDIRECTIONAL_SEQUENCE_LSTM: the plain LSTM that converters make of a recurrent layer of Keras.

Gates are in the order input, forget, cell, output (letters i, f, g, o).  With T steps, C inputs and H cells:

    z = W x_t + R h + b,    c = sigmoid(z_f) c + sigmoid(z_i) tanh(z_g),    h = sigmoid(z_o) tanh(c)

``cell_clip`` clamps c.  Every invocation starts with h = c = 0, as after the interpreter's ``reset_all_variables``.

The integer kernel (8x8->16; read in tensorflow/lite/kernels/lstm_eval.cc and internal/reference/portable_tensor_utils,
and measured) has int8 inputs, weights and hidden state, an int16 cell whose scale is a power of two, and int16 gates
of 12 fractional bits.  It is the same in all three runtimes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qebgate.errors import UnsupportedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType, Tensor, frozen
from qebgate.numerics.fixed_point import I64, Multiplier, divide_by_pot, multiply_double_rounding
from qebgate.numerics.gemmlowp import logistic, tanh
from qebgate.numerics.rounding import F64
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import INT8, Options, Semantics, require

GATES = ("input", "forget", "cell", "output")
I, F, G, O = range(4)  # noqa: E741
INPUT_WEIGHTS, RECURRENT_WEIGHTS, BIASES = (1, 2, 3, 4), (5, 6, 7, 8), (12, 13, 14, 15)
STATE, CELL = 18, 19
"""Positions of the inputs that keep the hidden state and the cell."""
EXTRAS = (
    ((9, 10, 11), "an LSTM with peephole weights is not supported"),
    ((16, 17), "an LSTM with a projection is not supported"),
    ((20, 21, 22, 23), "an LSTM with layer normalization is not supported"),
)
"""Optional inputs, and what the operator is with them."""
GATE_BITS = 12
"""Fractional bits of the gates' sums."""
HIDDEN = 4
"""Position of the intermediate tensor that has the scale of the hidden state."""
_INTEGER_BITS = 15 - GATE_BITS
_MIDDLE = 1 << 15
_CODES = np.arange(-_MIDDLE, _MIDDLE)
_TANH = 4  # ActivationFunctionType
_INT32 = 1 << 31


@dataclass(frozen=True, slots=True)
class LstmAttrs:
    """``cell_clip`` is the limit of the cell in real units (a float32), 0 for none."""

    cell_clip: float
    time_major: bool


@dataclass(frozen=True, slots=True, eq=False)
class LstmNode:
    """A node's tensors, the gates' in the order of :data:`GATES`."""

    x: Tensor
    y: Tensor
    state: Tensor
    cell: Tensor
    weights: tuple[Tensor, ...]
    recurrent: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    clip: float

    @classmethod
    def of(cls, node: Node, graph: Graph) -> LstmNode:
        assert isinstance(node.attrs, LstmAttrs)
        at = lambda i: graph.tensors[node.inputs[i]]  # noqa: E731
        each = lambda places: tuple(at(i) for i in places)  # noqa: E731
        return cls(
            at(0),
            graph.tensors[node.outputs[0]],
            at(STATE),
            at(CELL),
            each(INPUT_WEIGHTS),
            each(RECURRENT_WEIGHTS),
            each(BIASES),
            node.attrs.cell_clip,
        )

    @property
    def w(self) -> Array:
        """Weights of the input ``[4, H, C]``, codes or float32."""
        return _stacked(self.weights)

    @property
    def r(self) -> Array:
        """Recurrent weights ``[4, H, H]``."""
        return _stacked(self.recurrent)

    @property
    def b(self) -> Array:
        """Biases ``[4, H]``."""
        return _stacked(self.biases)

    @property
    def cells(self) -> int:
        return self.biases[0].size

    @property
    def channels(self) -> int:
        return self.x.shape[2]

    @property
    def steps(self) -> int:
        return self.x.size // self.channels

    def rows(self, x: Array) -> Array:
        """``[B, T, C]``: with one sequence the two orders of the axes are the same."""
        return x.reshape(-1, self.steps, self.channels)


@dataclass(frozen=True, slots=True, eq=False)
class IntegerLstm:
    """What the integer kernel derives from a node's scales, the gates one behind the other.

    ``w [4 H, C]`` and ``r [4 H, H]`` hold integers as float64, whose sums below 2**53 are exact; ``b`` and ``rb`` [4 H]
    have the zero points in them.
    """

    node: LstmNode
    w: F64
    r: F64
    b: F64
    rb: F64
    of_input: Multiplier
    of_state: Multiplier
    of_hidden: Multiplier
    cell_bits: int
    """Fractional bits of the cell."""
    clip: int

    @classmethod
    def of(cls, node: Node, graph: Graph) -> IntegerLstm:
        n = LstmNode.of(node, graph)
        w, r, b = (np.concatenate(v.astype(np.float64)) for v in (n.w, n.r, n.b))
        return cls(
            n,
            w,
            r,
            b - n.x.q.z * w.sum(axis=1),
            -n.state.q.z * r.sum(axis=1),
            _multipliers(n.weights, n.x, n.cells),
            _multipliers(n.recurrent, n.state, n.cells),
            Multiplier.of(float(np.float32(2.0**-15 / n.y.q.s * 2.0**-15))),
            -round(np.log2(n.cell.q.s)),
            int(np.clip(np.float32(n.clip) / np.float32(n.cell.q.s), -32768.0, 32767.0)),
        )

    def run(self, x: Array) -> I64:
        """Codes ``[B, T, H]`` of codes ``[B, T, C]``."""
        n = self.node
        first = (x.astype(np.float64) @ self.w.T + self.b).astype(np.int64)
        first = int16(multiply_double_rounding(first, self.of_input))
        h = np.full((len(x), n.cells), n.state.q.z, np.int64)
        c, out = np.zeros_like(h), np.empty((*x.shape[:2], n.cells), np.int64)
        sigmoid, curve = sigmoid_table(), tanh_table(_INTEGER_BITS)
        of_cell = tanh_table(15 - self.cell_bits)
        lo, hi = n.y.dtype.code_range
        for t in range(x.shape[1]):
            again = (h.astype(np.float64) @ self.r.T + self.rb).astype(np.int64)
            z = int16(first[:, t] + multiply_double_rounding(again, self.of_state)) + _MIDDLE
            i, f, g, o = np.split(z, 4, axis=1)
            kept = divide_by_pot(sigmoid[f] * c, 15)
            c = int16(kept + divide_by_pot(sigmoid[i] * curve[g], 30 - self.cell_bits))
            if self.clip > 0:
                c = np.clip(c, -self.clip, self.clip)
            h = multiply_double_rounding(sigmoid[o] * of_cell[c + _MIDDLE], self.of_hidden) + n.y.q.z
            h = np.clip(h, lo, hi)
            out[:, t] = h
        return out


class UnidirectionalSequenceLstm(Semantics):
    name = "UNIDIRECTIONAL_SEQUENCE_LSTM"
    max_version = 4

    def parse(self, options: Options) -> LstmAttrs:
        activation, clip = options.int8(0), options.float32(1)
        if activation != _TANH:
            raise UnsupportedError(
                "QEB431", "an LSTM with another activation than tanh is not supported", found=f"activation {activation}"
            )
        if options.bool(5):
            raise UnsupportedError("QEB431", "an LSTM with diagonal recurrent weights is not supported")
        if clip < 0 or options.float32(2) < 0:
            raise UnsupportedError("QEB431", "an LSTM with a negative limit is not supported", found=str(clip))
        return LstmAttrs(clip, options.bool(3))

    def check(self, node: Node, graph: Graph) -> None:
        given = node.inputs
        require(len(given) in (20, 24), "unexpected number of inputs", node, graph, len(given))
        require(len(node.outputs) == 1, "unexpected number of outputs", node, graph, len(node.outputs))
        for places, message in EXTRAS:
            require(all(given[i] < 0 for i in places if i < len(given)), message, node, graph)
        message = "an LSTM without an input gate (CIFG) is not supported"
        require(all(given[p[0]] >= 0 for p in (INPUT_WEIGHTS, RECURRENT_WEIGHTS, BIASES)), message, node, graph)
        constant = (*INPUT_WEIGHTS, *RECURRENT_WEIGHTS, *BIASES)
        there = all(given[i] >= 0 and graph.tensors[given[i]].is_const for i in constant)
        require(there, "weights or bias are computed, not constant", node, graph)
        plain = not any(graph.tensors[given[i]].variable for i in constant)
        require(plain, "weights or bias are variables", node, graph)
        states = [given[i] for i in (STATE, CELL)]
        kept = all(i >= 0 and graph.tensors[i].variable for i in states) and states[0] != states[1]
        require(kept, "an LSTM needs two variable tensors for its state", node, graph, states)
        require(not graph.tensors[given[0]].is_const, "an LSTM of a constant is not supported", node, graph)
        n = LstmNode.of(node, graph)
        self._check_shapes(n, node, graph)
        types = [t.dtype for t in (n.x, n.y, n.state, n.cell, *n.weights, *n.recurrent, *n.biases)]
        if n.x.dtype is DType.FLOAT32:
            same = set(types) == {DType.FLOAT32}
            require(same, "an LSTM of mixed types is not supported", node, graph, _names(types))
            return
        known = [INT8, INT8, INT8, DType.INT16, *[INT8] * 8, *[DType.INT32] * 4]
        message = "an integer LSTM runs on int8 activations and weights with an int16 cell only"
        require(types == known, message, node, graph, _names(types))
        self._check_scales(n, node, graph)

    def _check_shapes(self, n: LstmNode, node: Node, graph: Graph) -> None:
        assert isinstance(node.attrs, LstmAttrs)
        require(len(n.x.shape) == 3, "an LSTM needs an input of three axes", node, graph, n.x.shape)
        batch = n.x.shape[1 if node.attrs.time_major else 0]
        require(batch == 1, "an LSTM of more than one sequence is not supported", node, graph, n.x.shape)
        cells, channels = n.biases[0].size, n.x.shape[2]
        wanted = [(cells, channels)] * 4 + [(cells, cells)] * 4 + [(cells,)] * 4
        found = [t.shape for t in (*n.weights, *n.recurrent, *n.biases)]
        require(found == wanted, "the weights' shapes do not fit together", node, graph, found)
        require(n.y.shape == (*n.x.shape[:2], cells), "the output has another shape", node, graph, n.y.shape)
        sizes = (n.state.size, n.cell.size)
        require(sizes == (cells, cells), "the state has another size", node, graph, sizes)

    def _check_scales(self, n: LstmNode, node: Node, graph: Graph) -> None:
        quantized = (n.x, n.y, n.state, n.cell, *n.weights, *n.recurrent)
        single = all(t.quant is not None and not t.q.per_channel for t in quantized)
        require(single, "an LSTM needs one scale for each tensor", node, graph)
        zeros = [t.q.z for t in (n.cell, *n.weights, *n.recurrent)]
        require(not any(zeros), "weights or cell with a zero point", node, graph, zeros)
        require(len(node.intermediates) == 5, "an integer LSTM has five intermediates", node, graph, node.intermediates)
        hidden = graph.tensors[node.intermediates[HIDDEN]]
        same = hidden.quant is not None and {(t.q.s, t.q.z) for t in (n.y, n.state, hidden)} == {(n.y.q.s, n.y.q.z)}
        require(same, "output and hidden state have different scales", node, graph)
        power = np.log2(n.cell.q.s)
        fits = power == round(power) and -15 <= power <= -9
        require(fits, "the cell's scale must be a power of two, 2**-15 to 2**-9", node, graph, n.cell.q.s)
        lstm = IntegerLstm.of(node, graph)
        for weights, bias, multiplier in ((lstm.w, lstm.b, lstm.of_input), (lstm.r, lstm.rb, lstm.of_state)):
            reach = (np.abs(bias) + 128 * np.abs(weights).sum(axis=1)) * 2.0**multiplier.left
            worst = float(reach.max())
            require(worst < _INT32, "a gate's sum may overflow 32 bits", node, graph, worst)
        require(int(lstm.of_hidden.left[0]) == 0, "the output's scale is too small", node, graph, n.y.q.s)

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        given = inputs[0]
        assert given is not None
        n = LstmNode.of(node, graph)
        w, r, b = (v.astype(given.dtype) for v in (n.w, n.r, n.b))
        x, limit = n.rows(given), given.dtype.type(n.clip)
        h = np.zeros((len(x), n.cells), given.dtype)
        c, out = h, np.empty((len(x), n.steps, n.cells), given.dtype)
        for t in range(n.steps):
            i, f, g, o = (x[:, t] @ w[k].T + h @ r[k].T + b[k] for k in range(4))
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            if n.clip > 0:
                c = np.clip(c, -limit, limit)
            h = _sigmoid(o) * np.tanh(c)
            out[:, t] = h
        return out.reshape(-1, *n.y.shape)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        del runtime  # the same kernel in all of them
        codes = inputs[0]
        assert codes is not None
        lstm = IntegerLstm.of(node, graph)
        return lstm.run(lstm.node.rows(codes)).reshape(-1, *lstm.node.y.shape).astype(np.int32)


def int16(x: I64) -> I64:
    """Saturated to 16 bits."""
    return np.clip(x, -_MIDDLE, _MIDDLE - 1)


@functools.cache
def sigmoid_table() -> I64:
    """Codes with 15 fractional bits of all codes of a gate, ascending from -2**15."""
    return frozen(logistic(_CODES, _INTEGER_BITS, 16))


@functools.cache
def tanh_table(integer_bits: int) -> I64:
    """The same of ``tanh``, for codes with so many integer bits."""
    return frozen(tanh(_CODES, integer_bits, 16))


def _multipliers(weights: Sequence[Tensor], x: Tensor, cells: int) -> Multiplier:
    """Of each entry of the gates; computed in float32 by the kernel, and the power of two is exact."""
    each = [float(np.float32(w.q.s) * np.float32(x.q.s)) * 2.0**GATE_BITS for w in weights]
    return Multiplier.of(np.repeat(each, cells))


def _sigmoid(x: Array) -> Array:
    one, e = x.dtype.type(1.0), np.exp(-np.abs(x))
    return np.where(x >= 0, one, e) / (one + e)


def _stacked(tensors: Sequence[Tensor]) -> Array:
    values = [t.const for t in tensors if t.const is not None]
    assert len(values) == len(tensors)
    return np.stack(values)


def _names(types: Sequence[DType]) -> str:
    return ", ".join(sorted({t.value for t in types}))


__all__ = ["GATES", "IntegerLstm", "LstmNode", "UnidirectionalSequenceLstm"]
