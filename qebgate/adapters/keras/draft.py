"""A network under construction, and the normal form in which converters write it.

Layers emit one operator per step of theirs.  Then batch normalization is folded into the convolution
or dense layer before it, and a ReLU becomes the fused activation of the operator before it, as in the
.tflite files that are compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qebgate.errors import ModelError, UnsupportedError
from qebgate.ir.graph import Folded, Graph, Node, Source
from qebgate.ir.tensor import Array, DType, Tensor
from qebgate.numerics.rounding import F64
from qebgate.semantics.base import Activation
from qebgate.semantics.registry import SEMANTICS
from qebgate.semantics.windows import Window

LINEAR = frozenset({"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"})
NORMALIZE, BIAS = "BATCH_NORMALIZATION", "BIAS_ADD"
"""Operators of drafts only."""
_FUSES = {"RELU": Activation.RELU, "RELU6": Activation.RELU6}
_HOSTS = LINEAR | {"ADD", "AVERAGE_POOL_2D", "MAX_POOL_2D"}
ROUNDINGS = 20
"""Of batch normalization in float32, relative to the terms ``t z``, ``t mean`` and ``beta``: variance plus
epsilon (1), reciprocal square root (at most 8), times gamma (1), products and sums (5), and a margin."""
FACTORS = (2.0**-40, 2.0**40)


@dataclass(frozen=True, slots=True, eq=False)
class Normalization:
    """``y = factor (x - mean) + beta`` per channel, float64; ``factor = gamma / sqrt(variance + epsilon)``.

    ``rounded`` is the factor as converters compute it, step by step in float32; ``reach`` bounds the sum of
    the absolute terms that ``beta`` was computed from (None: it is stored as it is).
    """

    factor: F64
    mean: F64
    beta: F64
    rounded: F64
    reach: F64 | None = None


Span = tuple[F64, F64]
"""The smallest and the largest value that codes represent."""


@dataclass(slots=True, eq=False)
class Op:
    """One operator of a draft; ``layer`` says where it comes from.

    ``weights`` and ``bias`` are in the layout of .tflite files; ``constant`` is any other second input.
    """

    op: str
    inputs: tuple[int, ...]
    output: int
    attrs: Any
    layer: str
    weights: Array | None = None
    bias: Array | None = None
    constant: Array | None = None
    folded: Folded | None = None
    span: Span | None = None
    rounded: F64 | None = None
    """:attr:`Normalization.rounded` of what was folded in."""


@dataclass(slots=True)
class Draft:
    """Values are numbered; each has a name and a shape with the batch axis of 1.

    ``spans`` are the ranges that quantization-aware training gave to values, :attr:`Op.span` those of
    weights: per channel, or one.
    """

    where: str
    names: list[str] = field(default_factory=list[str])
    shapes: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    ops: list[Op] = field(default_factory=list[Op])
    spans: dict[int, Span] = field(default_factory=dict[int, Span])

    def value(self, name: str, shape: tuple[int, ...]) -> int:
        """A new value."""
        self.names.append(name)
        self.shapes.append(shape)
        return len(self.names) - 1

    def emit(
        self,
        op: str,
        inputs: tuple[int, ...],
        shape: tuple[int, ...],
        attrs: object,
        layer: str,
        *,
        weights: Array | None = None,
        bias: Array | None = None,
        constant: Array | None = None,
    ) -> int:
        """A new operator; returns its output."""
        out = self.value(layer, shape)
        self.ops.append(Op(op, inputs, out, attrs, layer, weights, bias, constant))
        return out

    def reshape(self, x: int, shape: tuple[int, ...], layer: str) -> int:
        """The value in another shape; itself where it has that shape."""
        return x if self.shapes[x] == shape else self.emit("RESHAPE", (x,), shape, None, layer)

    def finish(self, inputs: tuple[int, ...], outputs: tuple[int, ...], source: Source) -> Graph:
        """The graph; raises UnsupportedError where it has parts that its operators cannot express."""
        return self._graph(inputs, self.normal(outputs), source)

    def normal(self, outputs: tuple[int, ...]) -> tuple[int, ...]:
        """Bring it into the normal form; returns its outputs."""
        self._prune(set(outputs))
        outputs = self._fuse(self._fold(self._bias(outputs)))
        self._pad(set(outputs))
        self._merge(set(outputs))
        return outputs

    # -- normal form ----------------------------------------------------------------------------

    def _prune(self, wanted: set[int]) -> None:
        keep: list[Op] = []
        for op in reversed(self.ops):
            if op.output in wanted:
                keep.append(op)
                wanted.update(op.inputs)
        self.ops = keep[::-1]

    def _reads(self) -> dict[int, int]:
        """How many operators read a value."""
        out: dict[int, int] = {}
        for op in self.ops:
            for i in op.inputs:
                out[i] = out.get(i, 0) + 1
        return out

    def _only_before(self, op: Op, made: dict[int, Op], reads: dict[int, int], ends: set[int]) -> list[Op]:
        """The operators before one, as far as nothing else reads them: movements, then the first other one.

        A movement keeps the last axis, so that what acts on channels commutes with it.
        """
        chain: list[Op] = []
        at = op.inputs[0]
        while at in made and reads[at] == 1 and at not in ends:
            before = made[at]
            if at in self.spans:  # codes stand between the two
                break
            chain.append(before)
            if before.op != "RESHAPE" or self.shapes[before.inputs[0]][-1] != self.shapes[at][-1]:
                break
            at = before.inputs[0]
        return chain

    def _fold(self, outputs: tuple[int, ...]) -> tuple[int, ...]:
        """Batch normalization into the weights before it."""
        for op in [o for o in self.ops if o.op == NORMALIZE]:
            chain = self._only_before(op, {o.output: o for o in self.ops}, self._reads(), set(outputs))
            host = chain[-1] if chain else None
            fits = host is not None and host.op in LINEAR and host.folded is None
            if host is None or not fits or host.attrs.activation is not Activation.NONE:
                raise UnsupportedError(
                    "QEB479",
                    "batch normalization is read only directly after a convolution or dense layer without activation",
                    where=f"{self.where}: {op.layer}",
                    found=f"after {host.layer}" if host is not None else "after a value that other layers read too",
                    fix="elsewhere it is a product and a sum (MUL), which is not supported in this version",
                )
            self._absorb(host, op.attrs)
            outputs = self._without(op, outputs)
        return outputs

    def _bias(self, outputs: tuple[int, ...]) -> tuple[int, ...]:
        """Sums with a constant per channel into the layer, or the normalization, before them."""
        for op in [o for o in self.ops if o.op == BIAS]:
            chain = self._only_before(op, {o.output: o for o in self.ops}, self._reads(), set(outputs))
            host = chain[-1] if chain else None
            n: Normalization = op.attrs
            plain = host is not None and host.op in LINEAR and host.bias is None and not _active(host)
            if host is not None and plain and n.reach is None:
                host.bias = n.beta.astype(np.float32)
            elif host is not None and host.op == NORMALIZE and not host.attrs.beta.any():
                host.attrs = replace(host.attrs, beta=n.beta, reach=n.reach)
            else:
                op.op = NORMALIZE
                continue
            outputs = self._without(op, outputs)
        return outputs

    def _absorb(self, host: Op, n: Normalization) -> None:
        assert host.weights is not None
        bias = np.zeros(n.mean.size) if host.bias is None else host.bias.astype(np.float64)
        t = n.factor
        axes = (1,) * (host.weights.ndim - 1)
        by_row = t.reshape(-1, *axes) if host.op != "DEPTHWISE_CONV_2D" else t.reshape(*axes, -1)
        host.weights = host.weights.astype(np.float64) * by_row
        host.bias = t * (bias - n.mean) + n.beta
        size: F64 = np.abs(t)
        magnitude: F64 = size * (np.abs(bias) + np.abs(n.mean)) + (np.abs(n.beta) if n.reach is None else n.reach)
        host.folded = Folded(size, magnitude, ROUNDINGS)
        host.rounded = np.abs(n.rounded)

    def _without(self, op: Op, outputs: tuple[int, ...]) -> tuple[int, ...]:
        """Remove an operator; its input takes the place of its output, which may be one of the model's."""
        self.ops.remove(op)
        for o in self.ops:
            o.inputs = tuple(op.inputs[0] if i == op.output else i for i in o.inputs)
        self.names[op.inputs[0]] = self.names[op.output]
        if op.output in self.spans:
            self.spans[op.inputs[0]] = self.spans.pop(op.output)
        return tuple(op.inputs[0] if o == op.output else o for o in outputs)

    def _fuse(self, outputs: tuple[int, ...]) -> tuple[int, ...]:
        """A ReLU into the operator before it."""
        for op in [o for o in self.ops if o.op in _FUSES]:
            chain = self._only_before(op, {o.output: o for o in self.ops}, self._reads(), set(outputs))
            host = chain[-1] if chain else None
            if host is None or host.op not in _HOSTS or host.attrs.activation is not Activation.NONE:
                continue
            host.attrs = replace(host.attrs, activation=_FUSES[op.op])
            outputs = self._without(op, outputs)
        return outputs

    def _pad(self, ends: set[int]) -> None:
        """Zeros around an image into the convolution behind them, where they are those of SAME."""
        for op in [o for o in self.ops if o.op in ("CONV_2D", "DEPTHWISE_CONV_2D") and not o.attrs.how.same]:
            pad = next((o for o in self.ops if o.output == op.inputs[0] and o.op == "PAD"), None)
            if pad is None or pad.output in ends or pad.output in self.spans or self._reads()[pad.output] > 1:
                continue
            assert pad.constant is not None and op.weights is not None
            how = replace(op.attrs.how, same=True)
            size, kernel = self.shapes[pad.inputs[0]][1:3], op.weights.shape[1:3]
            same = Window.of(size, kernel, how)  # type: ignore[arg-type]
            around = [[0, 0], *zip(same.before, same.after, strict=True), [0, 0]]
            if same.out == self.shapes[op.output][1:3] and np.array_equal(pad.constant, around):
                self.ops.remove(pad)
                op.inputs = pad.inputs
                op.attrs = replace(op.attrs, how=how)

    def _merge(self, ends: set[int]) -> None:
        """Two movements in a row are one."""
        for op in [o for o in self.ops if o.op == "RESHAPE"]:
            before = next((o for o in self.ops if o.output == op.inputs[0] and o.op == "RESHAPE"), None)
            free = before is not None and before.output not in ends and before.output not in self.spans
            if before is not None and free and self._reads()[before.output] == 1:
                self.ops.remove(before)
                op.inputs = before.inputs

    # -- graph ----------------------------------------------------------------------------------

    def _graph(self, inputs: tuple[int, ...], outputs: tuple[int, ...], source: Source) -> Graph:
        tensors = [Tensor(n, s, DType.FLOAT32) for n, s in zip(self.names, self.shapes, strict=True)]
        nodes: list[Node] = []
        for k, op in enumerate(self.ops):
            constants: list[int] = []
            for what, data in (("weights", op.weights), ("bias", op.bias), ("", op.constant)):
                if data is not None:
                    dtype = DType.FLOAT32 if data.dtype.kind == "f" else DType.INT32
                    tensors.append(Tensor(f"{op.layer} {what}".strip(), data.shape, dtype, None, data))
                    constants.append(len(tensors) - 1)
            nodes.append(Node(op.op, (*op.inputs, *constants), (op.output,), op.attrs, k, folded=op.folded))
        graph = Graph(tuple(tensors), tuple(nodes), inputs, outputs, source)
        for node, op in zip(nodes, self.ops, strict=True):
            self._check(node, op, graph)
        return graph

    def _check(self, node: Node, op: Op, graph: Graph) -> None:
        try:
            SEMANTICS[node.op].check(node, graph)
        except ModelError as e:
            e.where = f"{self.where}: {op.layer}"
            raise


def _active(op: Op) -> bool:
    return op.attrs.activation is not Activation.NONE
