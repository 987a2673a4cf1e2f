"""Recognise two graphs as the same network, step by step.

The quantized graph is followed in its own order; each of its nodes is matched with the float node of
the same operator that reads the corresponding tensors.  Nodes that only quantization adds (QUANTIZE,
DEQUANTIZE) or that only move data (RESHAPE) may stand alone.  Layers with weights must agree: rounding
to nearest moves a weight by at most half a quantum.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from qebgate.errors import AlignmentError
from qebgate.ir.graph import INPUT_PART, Graph, Node
from qebgate.ir.joined import PartAttrs, ambiguous, join, orders, same_names
from qebgate.ir.pair import Agreement, Pair, Step, Value
from qebgate.ir.tensor import Array, Tensor
from qebgate.numerics.rounding import F64, TINY32

QUANTIZED_ONLY = frozenset({"QUANTIZE", "DEQUANTIZE", "RESHAPE"})
FLOAT_ONLY = frozenset({"RESHAPE", "RELU", "RELU6"})
COMMUTATIVE = frozenset({"ADD", "MAXIMUM", "MINIMUM", "MUL"})
_GATES = ("input", "forget", "cell", "output")
_ONE: tuple[tuple[int, int | None, str], ...] = ((1, 2, ""),)
WEIGHTED: Mapping[str, tuple[tuple[int, int | None, str], ...]] = MappingProxyType(
    {
        **dict.fromkeys(("BATCH_MATMUL", "FULLY_CONNECTED", "FIXED_POINT_DENSE"), _ONE),
        **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"), _ONE),
        "UNIDIRECTIONAL_SEQUENCE_LSTM": (
            *((1 + k, 12 + k, f": {gate} gate") for k, gate in enumerate(_GATES)),
            *((5 + k, None, f": {gate} gate, state") for k, gate in enumerate(_GATES)),
        ),
    }
)
"""Operator -> positions of its weights and of their biases among its inputs, and how they are told apart."""
FLOAT_TWIN = {"FIXED_POINT_DENSE": "FULLY_CONNECTED"}
"""The float operator of a quantized one, where it has another name."""
SATURATING = frozenset({"FIXED_POINT_DENSE"})
"""Made from the float weights by qebgate itself; weights beyond the fixed range saturate, by any number of quanta."""

MAX_DISAGREEMENT = 1.0
"""Largest accepted ``|dequantized - float| / scale``.

The same weights rounded to nearest give 0.5; quantization-aware training clips the outermost weight
to a stored range, which was seen to add a fraction of a quantum.  Other networks give hundreds.
"""


def align(float_graph: Graph, quantized_graph: Graph) -> Pair:
    """Pair up two graphs; AlignmentError names the layer where they stop being the same network."""
    if float_graph.is_quantized:
        raise AlignmentError(
            "QEB461",
            "the float reference is itself a quantized model",
            where=float_graph.source.label,
            found=float_graph.scheme.value,
            fix="name the float model first and the quantized one second",
        )
    if not quantized_graph.is_quantized:
        raise AlignmentError(
            "QEB462",
            "the quantized model has no integer tensors",
            where=quantized_graph.source.label,
            found=quantized_graph.scheme.value,
            fix="convert it with quantization, or name the file that was",
        )
    if len(float_graph.inputs) == len(quantized_graph.inputs) == 1:
        return _Aligner(_live(float_graph), _live(quantized_graph)).run()
    return _several(float_graph, quantized_graph)


def _several(f: Graph, q: Graph) -> Pair:
    """Pair up models of several inputs: by names, else in the only order of inputs that makes them one network."""
    joined, possible = join(q, range(len(q.inputs))), orders(f, q)
    tried = [_in_order(f, joined, order) for order in possible]
    pairs = [p for p in tried if isinstance(p, Pair)]
    # of several, the one of equal names is the first
    if len(pairs) > 1 and not (isinstance(tried[0], Pair) and same_names(f, q, possible[0])):
        raise ambiguous(f, q)
    if pairs:
        return pairs[0]
    raise next(e for e in tried if isinstance(e, AlignmentError))


def _in_order(f: Graph, joined: Graph, order: tuple[int, ...]) -> Pair | AlignmentError:
    try:
        return _Aligner(_live(join(f, order)), _live(joined)).run()
    except AlignmentError as e:
        return e


def _live(graph: Graph) -> Graph:
    """The graph without nodes that its output does not need: the last step of a pair makes what is compared."""
    return graph.cut(graph.outputs[0]) if len(graph.outputs) == 1 else graph


def _same_part(m: Node, n: Node) -> bool:
    a, b = m.attrs, n.attrs
    return isinstance(a, PartAttrs) and isinstance(b, PartAttrs) and (a.start, a.size) == (b.start, b.size)


class _Aligner:
    def __init__(self, f: Graph, q: Graph) -> None:
        self.f, self.q = f, q
        self.values: list[Value] = []
        self.position: dict[Value, int] = {}
        self.current: dict[int, int] = {}  # quantized tensor -> position of the value that holds it now
        self.steps: list[Step] = []
        self.agreements: list[Agreement] = []
        self.used: set[int] = set()

    def run(self) -> Pair:
        fi, qi = self.f.input, self.q.input
        if fi.shape != qi.shape:
            raise self._error("QEB463", "the two models have inputs of different shapes", f"{fi.shape} and {qi.shape}")
        self._value(self.f.inputs[0], self.q.inputs[0])
        for node, live in self.q.walk():
            self._match(node, live)
        self._finish()
        return Pair(self.f, self.q, tuple(self.values), tuple(self.steps), tuple(self.agreements))

    def _value(self, float_tensor: int, quantized_tensor: int) -> int:
        v = Value(float_tensor, quantized_tensor)
        if v not in self.position:
            self.position[v] = len(self.values)
            self.values.append(v)
        self.current[quantized_tensor] = self.position[v]
        return self.position[v]

    def _match(self, node: Node, live: tuple[int, ...]) -> None:
        while True:
            wanted = tuple(self.values[self.current[t]].float_tensor for t in live)
            found = self._candidate(node, wanted)
            if found is not None:
                self._pair(found, node, live)
                return
            if node.op in QUANTIZED_ONLY:
                inputs = (self.current[live[0]],)
                out = self._value(wanted[0], node.outputs[0])
                self.steps.append(Step(None, node, inputs, out))
                return
            if not any(self._skip_float(t) for t in live):
                raise self._mismatch(node, wanted)

    def _candidate(self, node: Node, wanted: tuple[int, ...]) -> Node | None:
        """The unused float node of the same operator that reads the corresponding tensors.

        Of several (branches that start alike), the first whose weights agree.
        """
        found = self._candidates(node, wanted)
        if len(found) > 1 and node.op in WEIGHTED:
            return next((m for m in found if self._disagreement(m, node) <= MAX_DISAGREEMENT), found[0])
        return found[0] if found else None

    def _candidates(self, node: Node, wanted: tuple[int, ...]) -> list[Node]:
        found: list[Node] = []
        if not wanted:
            return found
        for m in self.f.consumers.get(wanted[0], []):
            if m.op != FLOAT_TWIN.get(node.op, node.op) or m.outputs[0] in self.used:
                continue
            if m.op == INPUT_PART and not _same_part(m, node):
                continue
            if m.op == "RESHAPE" and self.f.tensors[m.outputs[0]].shape != self.q.tensors[node.outputs[0]].shape:
                continue  # each stands alone: what counts is the order of the values, which none changes
            reads = tuple(i for i in m.inputs if i >= 0 and not self.f.tensors[i].is_const)
            if reads == wanted or (m.op in COMMUTATIVE and sorted(reads) == sorted(wanted)):
                found.append(m)
        return found

    def _pair(self, m: Node, n: Node, live: tuple[int, ...]) -> None:
        self.used.add(m.outputs[0])
        fo, qo = self.f.tensors[m.outputs[0]], self.q.tensors[n.outputs[0]]
        if fo.shape != qo.shape:
            raise self._error(
                "QEB464", f"{n.origin} has another output shape than its float twin", f"{fo.shape} and {qo.shape}"
            )
        if n.op in WEIGHTED:
            self._agree(m, n)
        inputs = tuple(self.current[t] for t in live)
        self.steps.append(Step(m, n, inputs, self._value(m.outputs[0], n.outputs[0])))

    def _skip_float(self, quantized_tensor: int) -> bool:
        """Move past one node that only the float graph has; False where there is none."""
        position = self.current[quantized_tensor]
        for m in self.f.consumers.get(self.values[position].float_tensor, []):
            if m.op in FLOAT_ONLY and m.outputs[0] not in self.used:
                self.used.add(m.outputs[0])
                out = self._value(m.outputs[0], quantized_tensor)
                self.steps.append(Step(m, None, (position,), out))
                return True
        return False

    def _finish(self) -> None:
        out = self.q.outputs[0]
        fo, qo = self.f.output, self.q.output  # both raise where there are several
        while self.values[self.current[out]].float_tensor != self.f.outputs[0]:
            if not self._skip_float(out):
                name = self.f.tensors[self.values[self.current[out]].float_tensor].label
                raise self._error(
                    "QEB465", "the float model goes on where the quantized one ends", f"after tensor {name}"
                )
        if not self.steps:
            raise self._error("QEB466", "the models have no operators", "0 operators")
        if fo.size != qo.size:
            raise self._error("QEB464", "the two models have outputs of different sizes", f"{fo.shape} and {qo.shape}")

    def _agree(self, m: Node, n: Node) -> None:
        for weights, bias, what in WEIGHTED[n.op]:
            wf, wq = self.f.tensors[m.inputs[weights]], self.q.tensors[n.inputs[weights]]
            layer = f"{n.origin}{what} ({self.q.tensors[n.outputs[0]].label})"
            if wf.const is None or wq.const is None or wf.shape != wq.shape:
                found = f"shapes {wf.shape} and {wq.shape}"
                raise self._error("QEB467", f"{layer}: the weights do not correspond", found)
            worst = self._off(m, n, weights)
            self.agreements.append(Agreement(layer, worst, self._bias(m, n, wq, bias)))
            if n.op not in SATURATING and not worst <= MAX_DISAGREEMENT:
                raise self._error(
                    "QEB468",
                    f"{layer}: the weights are not the float model's",
                    f"off by up to {worst:.4g} quanta; rounding explains 0.5",
                )

    def _disagreement(self, m: Node, n: Node) -> float:
        """Largest ``|dequantized - float|`` of two nodes' weights in quanta; infinite where they do not correspond."""
        return max(self._off(m, n, weights) for weights, _, _ in WEIGHTED[n.op])

    def _off(self, m: Node, n: Node, weights: int) -> float:
        """The same of one of their inputs."""
        wf, wq = self.f.tensors[m.inputs[weights]], self.q.tensors[n.inputs[weights]]
        if wf.const is None or wq.const is None or wf.shape != wq.shape:
            return float("inf")
        real = wq.q.dequantize(wq.const) if wq.dtype.is_code else wq.const.astype(np.float64)
        off = np.abs(real - wf.const.astype(np.float64)) / _quantum(wq)
        return float(off.max(initial=0.0))

    def _bias(self, m: Node, n: Node, wq: Tensor, at: int | None) -> float | None:
        bf, bq = _bias_of(self.f, m, at), _bias_of(self.q, n, at)
        if (bf is None and bq is None) or not self.q.tensors[n.inputs[0]].dtype.is_code:
            return None
        unit = self.q.tensors[n.inputs[0]].q.s * wq.q.scale
        f = np.zeros(1) if bf is None else bf.astype(np.float64)
        q = np.zeros(1) if bq is None else bq.astype(np.float64)
        return float(np.abs(q - f / unit).max(initial=0.0))

    def _mismatch(self, node: Node, wanted: tuple[int, ...]) -> AlignmentError:
        names = ", ".join(self.f.tensors[t].label for t in wanted) or "nothing"
        here = sorted({m.op for t in wanted for m in self.f.consumers.get(t, [])})
        return self._error(
            "QEB469",
            f"{node.origin} of the quantized model has no twin in the float model",
            f"at tensor {names} the float model has {', '.join(here) or 'no further operator'}",
        )

    def _error(self, code: str, message: str, found: str) -> AlignmentError:
        return AlignmentError(
            code,
            f"not the same network: {message}",
            where=f"{self.f.source.label} and {self.q.source.label}",
            found=found,
            fix="compare a quantized model with the float model that it was converted from",
        )


def _quantum(weights: Tensor) -> F64:
    """What rounding to the form that the file stores moves a weight by, twice at most; broadcasts to the weights.

    Weights that stay float32 are the float model's own, up to how a batch normalization was folded.
    """
    stored = weights.stored
    assert weights.const is not None
    quant = weights.quant if stored is None else stored.quant
    if quant is not None:
        return quant.along(weights.const.ndim)[0]
    size = np.abs(weights.const.astype(np.float64))
    if stored is not None:
        return np.maximum(np.spacing(size.astype(np.float16)).astype(np.float64), 2.0**-24)
    return np.maximum(size.max(initial=0.0) * 2.0**-14, TINY32)


def _bias_of(graph: Graph, node: Node, at: int | None) -> Array | None:
    """The constant input at a position, if there is one."""
    index = [i for i in node.inputs[at : at + 1] if i >= 0] if at is not None else []
    return graph.tensors[index[0]].const if index else None
