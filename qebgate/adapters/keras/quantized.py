"""The integer network of a quantization-aware model, as TensorFlow's converter would write it.

Weights, scales and zero points come from the stored ranges, never from the current weights or from
data.  What has no range of its own has that of its neighbours where the operator does not change
values (reshaping, padding, maxima), or the range that the format prescribes (softmax).  Anything else
the converter would compute in float: it is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from qebgate.adapters.keras.draft import LINEAR, Draft, Op
from qebgate.adapters.keras.fake import describe
from qebgate.errors import UnsupportedError
from qebgate.ir.graph import Graph, Node, Source
from qebgate.ir.tensor import Array, DType, QuantParams, Tensor
from qebgate.numerics.fixed_point import round_half_away
from qebgate.numerics.rounding import F64
from qebgate.semantics.registry import SEMANTICS

QMIN, QMAX = -128, 127
_TOP = 127.0
_SAME = frozenset({"RESHAPE", "PAD", "MAX_POOL_2D", "AVERAGE_POOL_2D", "CONCATENATION"})
"""Operators whose input and output must have one scale."""
_UNSEEN = frozenset({"TRANSPOSE_CONV", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "TILE"})
_RESCALED = LINEAR | {"ADD", "SUB", "MUL", "MEAN"}
"""Operators whose output may have any scale."""
_FIXED = {"SOFTMAX": (2.0**-8, -128), "LOGISTIC": (2.0**-8, -128), "TANH": (2.0**-7, 0)}

Affine = tuple[float, int]
"""Scale in double, as the converter computes with it (files store it in float32), and zero point."""


def quantize(draft: Draft, inputs: tuple[int, ...], outputs: tuple[int, ...], source: Source) -> Graph:
    """The integer graph, with float inputs and outputs as converters write by default.

    Raises UnsupportedError QEB489 for a value without a range.
    """
    outputs = draft.normal(outputs)
    return _Quantizer(draft, source).graph(inputs, outputs)


def nudged(lo: float, hi: float) -> Affine:
    """Scale and zero point of a range of 8-bit codes, as the converter derives them (in double)."""
    scale = (hi - lo) / (QMAX - QMIN)
    low, high = QMIN - lo / scale, QMAX - hi / scale
    error_low, error_high = abs(QMIN) + abs(lo / scale), abs(QMAX) + abs(hi / scale)
    zero = low if error_low < error_high else high
    return scale, int(np.clip(round_half_away(zero), QMIN, QMAX))


@dataclass(slots=True)
class _Quantizer:
    draft: Draft
    source: Source
    affine: dict[int, Affine] = field(default_factory=dict[int, Affine])
    tensors: list[Tensor] = field(default_factory=list[Tensor])
    nodes: list[Node] = field(default_factory=list[Node])
    again: dict[int, list[Affine]] = field(default_factory=dict[int, list[Affine]])
    """The other scales that values are wanted in."""
    copies: dict[tuple[int, Affine], int] = field(default_factory=dict[tuple[int, Affine], int])
    ends: frozenset[int] = frozenset()
    index: dict[int, int] = field(default_factory=dict[int, int])
    """Value of the draft -> tensor of the graph."""

    def graph(self, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Graph:
        self.ends = frozenset(outputs)
        self._spread()
        first = [self._float(i) for i in inputs]
        for i, f in zip(inputs, first, strict=True):
            self._node("QUANTIZE", (f,), self._value(i))
            self._copy(i)
        for op in self.draft.ops:
            self._op(op)
        last = [self._float(o) for o in outputs]
        for o, f in zip(outputs, last, strict=True):
            self._node("DEQUANTIZE", (self.index[o],), f)
        graph = Graph(tuple(self.tensors), tuple(self.nodes), tuple(first), tuple(last), self.source)
        for node in self.nodes:
            SEMANTICS[node.op].check(node, graph)
        trained = all(op.span is not None for op in self.draft.ops if op.op in LINEAR)
        return replace(graph, notes=describe(graph, trained=trained))

    # -- ranges ---------------------------------------------------------------------------------

    def _spread(self) -> None:
        """Give every value a scale."""
        for value, (lo, hi) in self.draft.spans.items():
            self.affine[value] = nudged(float(lo[0]), float(hi[0]))
        for op in self.draft.ops:
            if op.op in _FIXED and self.affine.setdefault(op.output, _FIXED[op.op]) != _FIXED[op.op]:
                raise self._refuse(op, "a range of its own", "the format prescribes the scale of its output")
        same = [o for o in self.draft.ops if o.op in _SAME]
        for ops, forwards in ((same, True), (same[::-1], False), (same, True)):
            for op in ops:
                x, y = op.inputs[0], op.output
                if forwards and x in self.affine:
                    self.affine.setdefault(y, self.affine[x])
                elif not forwards and y in self.affine:
                    for i in op.inputs:
                        self.affine.setdefault(i, self.affine[y])
        self._straighten()

    def _straighten(self) -> None:
        """What only a concatenation reads is computed in its scale at once, as converters do."""
        producer = {o.output: o for o in self.draft.ops}
        readers: dict[int, int] = {}
        for op in self.draft.ops:
            for i in set(op.inputs):
                readers[i] = readers.get(i, 0) + 1
        for op in self.draft.ops:
            for i in op.inputs if op.op == "CONCATENATION" and op.output in self.affine else ():
                free = i in producer and producer[i].op in _RESCALED and readers[i] == 1 and i not in self.ends
                if free:
                    self.affine[i] = self.affine[op.output]
                elif i in self.affine and self.affine[i] != self.affine[op.output]:
                    self.again.setdefault(i, []).append(self.affine[op.output])

    def _scale(self, value: int, what: Op | None) -> Affine:
        if value not in self.affine:
            raise self._refuse(
                what, f"value {self.draft.names[value]}", "a value has no range: the converter would leave it in float"
            )
        return self.affine[value]

    def _refuse(self, op: Op | None, found: str, message: str) -> UnsupportedError:
        where = self.source.label if op is None else f"{self.source.label}: {op.layer}"
        return UnsupportedError(
            "QEB489", f"the quantization-aware model cannot be read as integers: {message}", where, found,
            "quantize the whole model (quantize_model), or convert it to .tflite",
        )  # fmt: skip

    # -- graph ----------------------------------------------------------------------------------

    def _add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _float(self, value: int) -> int:
        return self._add(Tensor(self.draft.names[value], self.draft.shapes[value], DType.FLOAT32))

    def _value(self, value: int, op: Op | None = None) -> int:
        s, z = self._scale(value, op)
        q = _params(np.array([s]), z)
        self.index[value] = self._add(Tensor(self.draft.names[value], self.draft.shapes[value], DType.INT8, q))
        return self.index[value]

    def _node(self, op: str, inputs: tuple[int, ...], output: int, attrs: object = None) -> None:
        self.nodes.append(Node(op, inputs, (output,), attrs, len(self.nodes)))

    def _op(self, op: Op) -> None:
        grouped = (
            op.op == "CONV_2D" and op.weights is not None and op.weights.shape[3] != self.draft.shapes[op.inputs[0]][3]
        )
        if op.op not in SEMANTICS or op.op in _UNSEEN or grouped:
            raise self._refuse(op, op.op, "an operator has no integer form, or TF-MOT's was not measured")
        inputs = [self.index[i] for i in op.inputs]
        out = self._value(op.output, op)
        if op.op in _SAME:
            inputs = [self._rescaled(i, k, op) for i, k in zip(op.inputs, inputs, strict=True)]
        if op.op in LINEAR:
            constants = self._weights(op)
        elif op.constant is None:
            constants = []
        elif op.constant.dtype.kind == "f":
            raise self._refuse(op, f"a constant of {op.op}", "a constant has no range")
        else:
            constants = [self._add(Tensor(op.layer, op.constant.shape, DType.INT32, None, op.constant))]
        self._node(op.op, (*inputs, *constants), out, op.attrs)
        self._copy(op.output)

    def _copy(self, value: int) -> None:
        """The value in the other scales that it is wanted in."""
        for scale, zero in self.again.get(value, ()):
            if (value, (scale, zero)) not in self.copies:
                tensor = self.tensors[self.index[value]]
                copy = self._add(replace(tensor, quant=_params(np.array([scale]), zero)))
                self._node("QUANTIZE", (self.index[value],), copy)
                self.copies[value, (scale, zero)] = copy

    def _rescaled(self, value: int, tensor: int, op: Op) -> int:
        """The tensor in the scale of the operator's output."""
        wanted = self.affine[op.output]
        if self.affine[value] == wanted:
            return tensor
        if (value, wanted) not in self.copies:
            raise self._refuse(op, op.op, "an operator that keeps its input's scale has another one after it")
        return self.copies[value, wanted]

    def _weights(self, op: Op) -> list[int]:
        assert op.weights is not None
        w = op.weights.astype(np.float64)
        axis = 3 if op.op == "DEPTHWISE_CONV_2D" else 0
        m = w.shape[axis]
        scale, per_tensor = self._weight_scale(op, w, axis, op.rounded)
        along = [1] * w.ndim
        along[axis] = -1
        codes = np.clip(np.rint(w / scale.reshape(along)), -_TOP, _TOP).astype(np.int8)
        stored = scale.astype(np.float32).astype(np.float64)
        q = _params(stored[:1], 0) if per_tensor else _channels(stored, axis)
        weights = self._add(Tensor(f"{op.layer} weights", codes.shape, DType.INT8, q, codes))
        bias = np.zeros(m) if op.bias is None else op.bias.astype(np.float64)
        if op.op == "FULLY_CONNECTED" and not bias.any():
            return [weights]
        unit = self.affine[op.inputs[0]][0] * scale
        limit = float(2**31 - 1)
        values = np.clip(round_half_away(bias / unit), -limit, limit).astype(np.int32)
        shown = unit.astype(np.float32).astype(np.float64)
        bq = (
            QuantParams(shown[:1].copy(), np.zeros(1, np.int64), None, -(2**31), 2**31 - 1)
            if per_tensor
            else QuantParams(shown, np.zeros(m, np.int64), 0, -(2**31), 2**31 - 1)
        )
        return [weights, self._add(Tensor(f"{op.layer} bias", (m,), DType.INT32, bq, values))]

    def _weight_scale(self, op: Op, w: F64, axis: int, factor: F64 | None) -> tuple[F64, bool]:
        """Scales [m] in double, and whether there is one for the whole tensor."""
        m = w.shape[axis]
        if op.span is None:
            # the converter quantizes what training did not, per channel
            others = tuple(a for a in range(w.ndim) if a != axis)
            top = np.abs(w).max(axis=others)
            if not top.all():
                raise self._refuse(op, "a channel of zeros", "weights that training did not quantize")
            return top / _TOP, False
        lo, hi = op.span
        if not np.array_equal(-lo, hi):
            found = f"from {float(lo[0])!r} to {float(hi[0])!r}"
            raise self._refuse(op, found, "the range of weights is not symmetric")
        scale: F64 = hi / _TOP
        if scale.size not in (1, m):
            scale = self._by_depth(op, scale, m)
        one = scale.size == 1 and factor is None and op.op != "DEPTHWISE_CONV_2D"
        full: F64 = np.broadcast_to(scale, (m,)).copy()
        return (full if factor is None else full * factor), one

    def _by_depth(self, op: Op, scale: F64, m: int) -> F64:
        """Kernels of depthwise convolutions have one range per multiplier: channel ``c M + k`` has the k-th."""
        if op.op != "DEPTHWISE_CONV_2D" or m % scale.size:
            raise self._refuse(op, f"{scale.size} ranges for {m} channels", "the ranges of weights do not fit them")
        return np.tile(scale, m // scale.size)


def _params(scale: F64, zero: int) -> QuantParams:
    return QuantParams(scale.astype(np.float32).astype(np.float64), np.array([zero], np.int64), None, QMIN, QMAX)


def _channels(scale: F64, axis: int) -> QuantParams:
    return QuantParams(scale, np.zeros(scale.size, np.int64), axis, QMIN, QMAX)


__all__ = ["Array", "nudged", "quantize"]
