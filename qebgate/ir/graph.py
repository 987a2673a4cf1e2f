"""A network as a graph of operators in topological order, independent of any file format."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

from qebgate.errors import ModelError, printable
from qebgate.ir.tensor import Array, DType, Tensor
from qebgate.numerics.rounding import F64

CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})
"""Operators between float32 and codes."""
INPUT_PART = "INPUT_PART"
"""Takes one of several inputs out of the joined one (:mod:`qebgate.ir.joined`); no file can name it."""


class Scheme(str, Enum):
    """How a network is quantized, as inspect names it."""

    FLOAT32 = "float32"
    INT8 = "full int8"
    UINT8 = "full uint8 (legacy)"
    INT4 = "int8 activations, int4 weights"
    INT16X8 = "int16 activations, int8 weights"
    DYNAMIC_RANGE = "dynamic range"
    FLOAT16 = "float16 weights"
    WEIGHT_ONLY = "weight-only int8"
    PARTLY = "partly quantized"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a graph came from."""

    path: str
    sha256: str
    format: str

    @property
    def label(self) -> str:
        return printable(self.path)

    @property
    def unconverted(self) -> bool:
        """Whether it is a quantization-aware model before its conversion, which no runtime executes."""
        return self.format.startswith("tfmot")


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """That a node with weights is two in the model itself: ``y = t (W x + b) + s``, t and s per output channel.

    The node's weights ``t W`` and bias ``t b + s`` are their products in float64.  The reference
    evaluates the two steps in float32, which has another roundoff: ``scale`` [m] is ``|t|``,
    ``magnitude`` [m] bounds the sum of the absolute terms behind the bias, and ``roundings`` counts the
    float32 roundings (in units of 2**-24, relative to those terms) that the second step adds.
    """

    scale: F64
    magnitude: F64
    roundings: int


@dataclass(frozen=True, slots=True)
class InputPart:
    """One input of a model whose inputs are joined: entries ``[start, start + size)`` of the flat one.

    ``position`` is its place among the inputs of the file, ``tensor`` its index there.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    position: int
    tensor: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def label(self) -> str:
        """The name, safe to print."""
        return printable(self.name, 80)

    def of(self, x: Array) -> Array:
        """The input's entries ``[..., *shape]`` of joined ones ``[..., 1, n]``."""
        return x[..., 0, self.start : self.start + self.size].reshape(*x.shape[:-2], *self.shape)


@dataclass(frozen=True, slots=True)
class Node:
    """One operator.  ``inputs`` and ``outputs`` are tensor indices, -1 for an input left out.

    ``attrs`` is the operator's own frozen dataclass of parameters, made by its ``parse``;
    ``index`` is the operator's position in the file.  ``intermediates`` are tensors that only state scales.
    """

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attrs: object
    index: int
    version: int = 1
    folded: Folded | None = None
    intermediates: tuple[int, ...] = ()

    @property
    def origin(self) -> str:
        return f"input #{self.index}" if self.op == INPUT_PART else f"operator #{self.index} {self.op}"


@dataclass(frozen=True)
class Graph:
    """Tensors and nodes; every node's inputs are graph inputs, constants or outputs of earlier nodes."""

    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    source: Source
    notes: tuple[str, ...] = ()
    """What every report about the graph must say of how it was made."""
    signature: tuple[tuple[str, int], ...] = ()
    """Names that users know the outputs by, and the tensors that they are."""
    input_signature: tuple[tuple[str, int], ...] = ()
    """The same of the inputs."""
    parts: tuple[InputPart, ...] = ()
    """Of a model of several inputs that are joined into one: where each of them is."""

    def __post_init__(self) -> None:
        known = set(self.inputs) | {i for i, t in enumerate(self.tensors) if t.is_const} | {-1}
        for node in self.nodes:
            for i in node.inputs:
                if i not in known:
                    name = self.tensors[i].label if 0 <= i < len(self.tensors) else str(i)
                    raise ModelError(
                        "QEB410",
                        "an operator reads a tensor that nothing before it has written",
                        where=f"{self.source.label}: {node.origin}",
                        found=f"tensor {name}",
                    )
            for o in node.outputs:
                if o in known:
                    raise ModelError("QEB411", "a tensor is written twice", where=f"{self.source.label}: {node.origin}")
            known.update(node.outputs)
        missing = [o for o in self.outputs if o not in known]
        if missing:
            raise ModelError("QEB412", "an output of the model is never written", where=self.source.label)

    @cached_property
    def producer(self) -> dict[int, Node]:
        """Tensor index -> the node that writes it."""
        return {o: n for n in self.nodes for o in n.outputs}

    @cached_property
    def consumers(self) -> dict[int, list[Node]]:
        """Tensor index -> the nodes that read it."""
        out: dict[int, list[Node]] = {}
        for n in self.nodes:
            for i in dict.fromkeys(n.inputs):
                out.setdefault(i, []).append(n)
        return out

    @cached_property
    def live_inputs(self) -> dict[int, tuple[int, ...]]:
        """Node position -> its inputs that are neither constant nor left out."""
        return {
            k: tuple(i for i in n.inputs if i >= 0 and not self.tensors[i].is_const) for k, n in enumerate(self.nodes)
        }

    def walk(self) -> Iterator[tuple[Node, tuple[int, ...]]]:
        """Nodes with their live inputs, in topological order."""
        for k, n in enumerate(self.nodes):
            yield n, self.live_inputs[k]

    @cached_property
    def every_engine(self) -> bool:
        """Whether every engine and the checker know such networks: integers, and none of a converter's 16 bits."""
        return self.in_integers and self.scheme is not Scheme.INT16X8

    @property
    def input_names(self) -> tuple[str, ...]:
        """What users call the inputs, in the file's order: by the signature, else by their tensors."""
        if self.parts:
            return tuple(p.name for p in sorted(self.parts, key=lambda p: p.position))
        named = {i: n for n, i in self.input_signature}
        names = tuple(named.get(i, self.tensors[i].name) for i in self.inputs)
        return names if len(set(names)) == len(names) else tuple(f"input {k}" for k in range(len(names)))

    @property
    def input(self) -> Tensor:
        """The only input; ModelError where there are several."""
        return self.tensors[self._only(self.inputs, "inputs")]

    @property
    def output(self) -> Tensor:
        """The only output; ModelError where there are several."""
        return self.tensors[self._only(self.outputs, "outputs")]

    def _only(self, indices: tuple[int, ...], what: str) -> int:
        if len(indices) != 1:
            named = what == "outputs" and len(indices) > 1
            raise ModelError(
                "QEB413",
                f"the model has {len(indices)} {what}" + ("" if named else "; one is supported"),
                where=self.source.label,
                fix=f"compare one of them: `tensor: {{signature: NAME}}`, of {self._names()}" if named else None,
            )
        return indices[0]

    def _names(self) -> str:
        return ", ".join(printable(n, 40) for n, _ in self.signature[:10]) or f"0 to {len(self.outputs) - 1}"

    def only(self, output: str | int) -> Graph:
        """The graph with one of its outputs, by its name in the signature or by its position."""
        names = dict(self.signature)
        at = names.get(output) if isinstance(output, str) else None
        if isinstance(output, int) and 0 <= output < len(self.outputs):
            at = self.outputs[output]
        if at is None or at not in self.outputs:
            raise ModelError(
                "QEB426",
                f"the model has no output {printable(output, 80)!r}",
                where=self.source.label,
                fix=f"use one of {self._names()}",
            )
        return self.cut(at)

    @property
    def is_quantized(self) -> bool:
        """Whether anything in the graph is quantized."""
        return self.scheme is not Scheme.FLOAT32

    @cached_property
    def scheme(self) -> Scheme:
        """How the network is quantized."""
        live = {self.tensors[i].dtype for n in self.nodes for i in (*n.outputs, *self.live_inputs_of(n))}
        if any(t.is_code for t in live):
            if any(self.computes_in_float(n) for n in self.nodes):
                return Scheme.PARTLY
            inner = {self.tensors[n.outputs[0]].dtype for n in self.nodes if n.op not in (*CONVERSIONS, INPUT_PART)}
            if DType.INT16 in inner or (not inner and DType.INT16 in live):
                return Scheme.INT16X8
            if DType.UINT8 in inner:
                return Scheme.UINT8
            return Scheme.INT4 if any(t.packed for t in self.tensors) else Scheme.INT8
        if any(self.is_hybrid(n) for n in self.nodes):
            return Scheme.DYNAMIC_RANGE
        stored = {t.stored.dtype for t in self.tensors if t.stored is not None}
        if stored:
            return Scheme.FLOAT16 if stored == {DType.FLOAT16} else Scheme.WEIGHT_ONLY
        return Scheme.FLOAT32

    def live_inputs_of(self, node: Node) -> tuple[int, ...]:
        """A node's inputs that are neither constant nor left out."""
        return tuple(i for i in node.inputs if i >= 0 and not self.tensors[i].is_const)

    def computes_in_float(self, node: Node) -> bool:
        """Whether a node's result is float32 arithmetic on float32 values."""
        return self.tensors[node.outputs[0]].dtype is DType.FLOAT32 and node.op not in (*CONVERSIONS, INPUT_PART)

    def is_hybrid(self, node: Node) -> bool:
        """Whether a node quantizes its float input on the fly, for weights that are integer codes."""
        codes = any(i >= 0 and self.tensors[i].is_const and self.tensors[i].dtype.is_code for i in node.inputs)
        return codes and self.computes_in_float(node)

    @cached_property
    def in_integers(self) -> bool:
        """Whether every node computes on integer codes, or converts to and from them."""
        return not any(self.computes_in_float(n) for n in self.nodes)

    def cut(self, output: int) -> Graph:
        """The same graph ending at another tensor; nodes that it does not need are dropped."""
        need = {output}
        keep: list[Node] = []
        for n in reversed(self.nodes):
            if need & set(n.outputs):
                keep.append(n)
                need.update(n.inputs)
        return replace(self, nodes=tuple(reversed(keep)), outputs=(output,))


__all__ = ["DType", "Folded", "Graph", "Node", "Source", "Tensor"]
