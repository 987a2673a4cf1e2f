"""One network restricted to what a few of its inputs reach: values, steps, and what both sides share.

Letters: B inputs, k live entries of a tensor of n, m live entries of an output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.restricted import products, reached_entries
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.semantics.base import Activation
from qebgate.semantics.pool_2d import Pool2D
from qebgate.semantics.registry import SEMANTICS

Index = NDArray[np.intp]
Step = Callable[[Sequence[Array]], Array]

LINEAR = frozenset({"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"})
ELEMENTWISE = frozenset({"RELU", "RELU6", "LOGISTIC", "TANH", "QUANTIZE", "DEQUANTIZE"})
MOVES = frozenset({"RESHAPE", "PAD"})
SUMS = frozenset({"ADD", "AVERAGE_POOL_2D", "MEAN"})
COVERED = LINEAR | ELEMENTWISE | MOVES | SUMS | {"MAX_POOL_2D", "SOFTMAX"}

_MOST_WHOLE = 0.3
"""Share of a network's multiply-adds beyond which restricting the rest of it does not pay."""


class Uncovered(Exception):  # noqa: N818  (no error: the whole network is executed instead)
    """The sub-network cannot be restricted."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One tensor: its values ``base [n]`` at the point, which entries ``live [k]`` vary, and in what range.

    Codes: ``lo``, ``hi`` are deviations from the base.  Floats: bounds of the values as computed, possibly infinite.
    """

    base: Array
    live: Index
    lo: Array
    hi: Array

    def keep(self, chosen: Array) -> Part:
        return Part(self.base, self.live[chosen], self.lo[chosen], self.hi[chosen])


class Network(ABC):
    """What both sides share: parts of tensors, steps in topological order, and their execution."""

    def __init__(self, graph: Graph, source: Part) -> None:
        self.graph = graph
        self.parts: dict[int, Part] = {graph.inputs[0]: source}
        self.steps: list[tuple[tuple[int, ...], int, Step]] = []
        self.width = source.live.size
        """Entries that one input needs in all steps together."""
        self._products = sum(products(n, graph) for n in graph.nodes if n.op in LINEAR)
        self._whole_products = 0

    def build(self) -> None:
        for node in self.graph.nodes:
            live = tuple(i for i in node.inputs if i in self.parts and self.parts[i].live.size)
            part, step = self.restrict(node, live) if live else (self.constant(node), None)
            self.parts[node.outputs[0]] = part
            self.width += part.live.size
            if step is not None and part.live.size:
                self.steps.append((live, node.outputs[0], step))
        need = {self.graph.outputs[0]} if self.output.live.size else set[int]()
        kept: list[tuple[tuple[int, ...], int, Step]] = []
        for inputs, output, step in reversed(self.steps):
            if output in need:
                kept.append((inputs, output, step))
                need.update(inputs)
        self.steps = kept[::-1]

    @abstractmethod
    def base(self, tensor: int) -> Array:
        """A tensor's values where every free input is at its base, flattened."""

    @abstractmethod
    def restrict(self, node: Node, live: tuple[int, ...]) -> tuple[Part, Step]:
        """What a node's output can be, and how to compute its live entries from those of its inputs."""

    def constant(self, node: Node) -> Part:
        none = np.empty(0)
        return Part(self.base(node.outputs[0]), np.empty(0, np.intp), none, none)

    def run(self, x: Array) -> Array:
        """Values ``[B, k]`` of the output's live entries for those of the input."""
        values = self.execute(self.steps, {self.graph.inputs[0]: x})
        return values.get(self.graph.outputs[0], np.empty((len(x), 0)))

    @staticmethod
    def execute(steps: Sequence[tuple[tuple[int, ...], int, Step]], values: dict[int, Array]) -> dict[int, Array]:
        """Run some steps on known tensors' live entries; returns ``values`` with what they give.

        A step's result is overwritten when it runs again.
        """
        for inputs, output, step in steps:
            values[output] = step([values[i] for i in inputs])
        return values

    @property
    def output(self) -> Part:
        return self.parts[self.graph.outputs[0]]

    def executed_as_a_whole(self, node: Node) -> None:
        """Count a linear node that is; raises Uncovered where most of the network would be."""
        self._whole_products += products(node, self.graph)
        if self._whole_products > _MOST_WHOLE * self._products:
            raise Uncovered

    def mask(self, node: Node, live: tuple[int, ...]) -> Index:
        """Entries of a node's output that depend on live ones; all of them where that is not known."""
        if node.op in LINEAR:
            return reached_entries(node, self.graph, self.parts[live[0]].live)
        if node.op not in SUMS:
            return np.arange(part_size(self.graph, node))
        args: list[Array | None] = []
        for i in node.inputs:
            t = self.graph.tensors[i]
            if t.const is not None:
                args.append(np.zeros(t.shape) if node.op == "ADD" else t.const)
                continue
            flags = np.zeros((1, *t.shape))
            if i in live:
                flags.reshape(-1)[self.parts[i].live] = 1.0
            args.append(flags)
        # sums and means of flags that are not negative, and clamps that leave positive values positive
        return np.flatnonzero(SEMANTICS[node.op].run_float(node, self.graph, args).ravel() > 0)

    def move(self, node: Node, i: int) -> tuple[Part, Step]:
        """RESHAPE and PAD: entries in other places."""
        part, t = self.parts[i], self.graph.tensors[i]
        number = np.zeros((1, *t.shape))
        number.reshape(-1)[part.live] = np.arange(1, part.live.size + 1)
        args = [number, *(self.graph.tensors[j].const for j in node.inputs[1:])]
        moved = SEMANTICS[node.op].run_float(node, self.graph, args).ravel()
        out = np.flatnonzero(moved)
        take = moved[out].astype(np.intp) - 1
        new = Part(self.base(node.outputs[0]), out, part.lo[take], part.hi[take])
        if np.array_equal(take, np.arange(part.live.size)):
            return new, lambda x: x[0]
        return new, lambda x: np.take(x[0], take, axis=1)

    def windows(self, node: Node, i: int) -> tuple[Index, Index, Array]:
        """Of a MAX_POOL_2D: reached entries ``[m]``, the columns ``[m, taps]`` they read, the rest's largest ``[m]``.

        Column k of an input with k live entries stands for nothing.
        """
        sem, part, t = SEMANTICS[node.op], self.parts[i], self.graph.tensors[i]
        assert isinstance(sem, Pool2D)
        if t.shape[0] != 1:
            raise Uncovered
        number = np.full(t.shape, -1.0)
        number.reshape(-1)[part.live] = np.arange(part.live.size)
        rest = part.base.astype(np.float64).copy()
        rest[part.live] = -np.inf
        window = sem.window(node, self.graph)
        columns = window.patches(number, -1).reshape(part_size(self.graph, node), -1).astype(np.intp)
        largest = window.patches(rest.reshape(t.shape), -np.inf).reshape(len(columns), -1).max(axis=1)
        out = np.flatnonzero((columns >= 0).any(axis=1))
        columns = columns[out]
        columns = np.sort(np.where(columns < 0, part.live.size, columns), axis=1)
        most = int((columns < part.live.size).sum(axis=1).max(initial=0))
        return out, columns[:, :most], largest[out]


def part_size(graph: Graph, node: Node) -> int:
    """Entries of a node's output."""
    return graph.tensors[node.outputs[0]].size


def window_max(x: Array, columns: Index, rest: Array) -> Array:
    """Largest of some columns of ``x [B, k]`` (k: none) and of a constant ``[m]``; a transposed ``[B, m]``."""
    size, k = x.shape
    rows = np.empty((k + 1, size), x.dtype)
    rows[:k], rows[k] = x.T, -np.inf
    y = np.repeat(rest.astype(x.dtype)[:, None], size, axis=1)
    for c in columns.T:
        np.maximum(y, rows[c], out=y)
    return y.T


def without_activation(node: Node) -> Node:
    """The same node without its fused activation."""
    return replace(node, attrs=replace(node.attrs, activation=Activation.NONE))  # type: ignore[type-var]


def execute_whole(
    net: Network, node: Node, live: tuple[int, ...], run: Callable[[Sequence[Array | None]], Array]
) -> Callable[[Sequence[Array]], Array]:
    """A node executed on whole tensors, rebuilt from their live entries; ``[B, n]``."""
    parts = {i: net.parts[i] for i in live}
    net.width += 2 * sum(p.base.size for p in parts.values()) + 4 * part_size(net.graph, node)

    def step(values: Sequence[Array]) -> Array:
        given = dict(zip(live, values, strict=True))
        size = len(values[0])
        args: list[Array | None] = []
        for i in node.inputs:
            t = net.graph.tensors[i] if i >= 0 else None
            if t is None or t.is_const:
                args.append(None if t is None else t.const)
                continue
            base = net.parts[i].base
            full = np.repeat(base[None], size, axis=0)
            if i in given:
                x, at = given[i], parts[i].live
                full[:, at] = x if base.dtype.kind == "f" else base[at] + x.astype(np.int32)
            args.append(full.reshape(size, *t.shape))
        return run(args).reshape(size, -1)

    return step


class Buffer:
    """One array that a step writes into again and again."""

    def __init__(self, columns: int, dtype: type[np.float32 | np.float64]) -> None:
        self._columns, self._dtype = columns, dtype
        self._data = np.empty((0, columns), dtype)

    def rows(self, n: int) -> Array:
        if n > len(self._data):
            self._data = np.empty((n, self._columns), self._dtype)
        return self._data[:n]
