"""Two graphs recognised as the same network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from qebgate.errors import InternalError, UnsupportedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Tensor

FINAL = frozenset({"ARG_MAX", "LOG_SOFTMAX", "LOGISTIC", "SOFTMAX"})
"""Operators that only turn logits into something to read, where nothing comes behind them."""

Head = Literal["output", "logits"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well one layer's quantized weights agree with the float ones.

    ``worst`` is ``max |dequantized - float| / scale``: at most 0.5 for the same weights rounded to
    nearest.  ``bias`` is the same for the bias, in quanta of the accumulator (None without a bias).
    """

    layer: str
    worst: float
    bias: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """Corresponding nodes; one side is None for a node that only one graph has (QUANTIZE, RESHAPE, ...).

    ``inputs`` are positions in :attr:`Pair.values`, ``output`` is the position it defines.
    """

    float_node: Node | None
    quantized_node: Node | None
    inputs: tuple[int, ...]
    output: int

    @property
    def op(self) -> str:
        node = self.quantized_node or self.float_node
        assert node is not None
        return node.op


@dataclass(frozen=True, slots=True)
class Value:
    """A pair of tensors that hold the same quantity: indices into the two graphs."""

    float_tensor: int
    quantized_tensor: int


@dataclass(frozen=True)
class Pair:
    """A float and a quantized graph, aligned step by step; made by :func:`qebgate.ir.align.align`."""

    float: Graph
    quantized: Graph
    values: tuple[Value, ...]
    steps: tuple[Step, ...]
    agreements: tuple[Agreement, ...]
    derived: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What is computed once for all tasks of the pair (its lowered layers); stays in this process."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "derived": {}}

    def tensors(self, position: int) -> tuple[Tensor, Tensor]:
        """The float and the quantized tensor of a value."""
        v = self.values[position]
        return self.float.tensors[v.float_tensor], self.quantized.tensors[v.quantized_tensor]

    def at(self, head: Head) -> Pair:
        """The same pair ending before a final softmax or sigmoid (``logits``), or as it is (``output``).

        A final DEQUANTIZE (or QUANTIZE to uint8) goes with it.  Without a final softmax or sigmoid the
        logits are the output.
        """
        if head == "output":
            self._comparable()
            return self
        position = self.logits
        keep: list[Step] = []
        need = {position}
        for s in reversed(self.steps):
            if s.output in need:
                keep.append(s)
                need.update(s.inputs)
        v = self.values[position]
        return replace(
            self,
            float=self.float.cut(v.float_tensor),
            quantized=self.quantized.cut(v.quantized_tensor),
            steps=tuple(reversed(keep)),
        )

    @property
    def output(self) -> int:
        """Position of the value that both graphs return; InternalError where the last step makes another one."""
        position = self.steps[-1].output if self.steps else 0
        value = self.values[position]
        if (value.float_tensor, value.quantized_tensor) != (self.float.outputs[0], self.quantized.outputs[0]):
            raise InternalError("QEB917", "the last step of a pair does not make the networks' output")
        return position

    @property
    def logits(self) -> int:
        """Position of the value before the final softmax or sigmoid; :attr:`output` where there is none.

        An index of the largest entry may come behind it.
        """
        found: int | None = None
        for s in reversed(self.steps):
            if s.op in FINAL:
                found = s.inputs[0]
            if s.op in FINAL - {"ARG_MAX"} or s.op not in ("ARG_MAX", "DEQUANTIZE", "QUANTIZE", "RESHAPE"):
                break
        return self.output if found is None else found

    def _comparable(self) -> None:
        """UnsupportedError where the output is an index."""
        if self.steps and self.steps[-1].op == "ARG_MAX":
            raise UnsupportedError(
                "QEB429",
                "the networks' output is the index of the largest entry: two indices have no gap",
                where=f"{self.float.source.label} and {self.quantized.source.label}",
                fix="compare what comes before: `tensor: logits`, with `kind: same_top1` for the same index",
            )
