"""Single changes of the input of a pair whose first layer is dense, without executing that layer again.

Changing one input adds a multiple of one row of the first layer's transposed weights to its accumulators;
only the rest of the network is executed.  The quantized side stays bit for bit what the runtime computes
(sums of integers that are exact in floating point); the float side is in float32, for a search whose
results are executed again.  Letters: B inputs, n entries of the input, m of the first layer, K outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.concrete import real_values
from qebgate.engines.work import execution
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.numerics.fixed_point import I64
from qebgate.numerics.rounding import F64
from qebgate.regions.cell import InputCodec
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics import fixed_point, fully_connected
from qebgate.semantics.base import apply_activation
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.registry import ALL_SEMANTICS
from qebgate.task import Task

DENSE = ("FULLY_CONNECTED", "FIXED_POINT_DENSE")

F32 = NDArray[np.float32]
Index = NDArray[np.intp]
Step = Callable[[Sequence[Array]], Array]


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What the first layers add up for B inputs, without their biases: ``q [B, m]`` integers, ``f [B, m]``."""

    q: Array
    f: F32

    def take(self, rows: Index) -> Sums:
        return Sums(self.q[rows], self.f[rows])

    def put(self, rows: Index, other: Sums) -> None:
        """Overwrite some rows by those of another."""
        self.q[rows] = other.q[rows]
        self.f[rows] = other.f[rows]


class Incremental:
    """A task on the grid whose two networks begin with a dense layer; made by :func:`incremental`."""

    def __init__(self, task: Task, quantized: Node, floating: Node) -> None:
        self._codec: InputCodec = task.codec
        self._pick = list(task.outputs)
        self._q = _Quantized(task.pair.quantized, quantized, task.runtime)
        self._f = _Floating(task.pair.float, floating)

    @property
    def cost(self) -> float:
        """Units of one change (see :mod:`qebgate.engines.work`)."""
        return self._q.cost + self._f.cost

    def sums(self, codes: Array) -> Sums:
        """Of inputs given by their codes ``[B, n]``."""
        x = self._codec.grid(codes).astype(np.float64)
        return Sums(self._q.sums(codes), (x @ self._f.w.astype(np.float64)).astype(np.float32))

    def changed(self, s: Sums, at: Index, before: Array, after: Array) -> Sums:
        """The sums once input ``at [B]`` has the code ``after [B]`` instead of ``before [B]``."""
        q = self._q.w[at]
        q *= (after - before).astype(q.dtype)[:, None]
        q += s.q
        f = self._f.w[at]
        f *= ((after - before) * np.float32(self._codec.scale)).astype(np.float32)[:, None]
        f += s.f
        return Sums(q, f)

    def gaps(self, s: Sums) -> F64:
        """Gaps ``[B, K]``."""
        q, f = self._q.run(s.q), self._f.run(s.f)
        return real_values(self._q.graph, q)[:, self._pick] - f.reshape(len(f), -1)[:, self._pick]


def incremental(task: Task) -> Incremental | None:
    """None where the region is not on the grid, or a network does not begin with a dense layer."""
    if task.cell.codes is None or not task.pair.quantized.every_engine:
        return None
    q, f = _first(task.pair.quantized, task), _first(task.pair.float, task)
    return None if q is None or f is None else Incremental(task, q, f)


def _first(graph: Graph, task: Task) -> Node | None:
    """The dense layer that alone reads the input, all of it; on the grid, codes go unchanged through what is before."""
    at = graph.inputs[0]
    while True:
        readers = graph.consumers.get(at, [])
        if len(readers) != 1 or at in graph.outputs:
            return None
        node = readers[0]
        if node.op in DENSE:
            whole = LinearNode.of(node, graph).weights.shape[1] == task.cell.lower.size
            return node if whole and node.folded is None else None
        unchanged = node.op in ("FIXED_POINT_INPUT", "RESHAPE") or (node.op == "QUANTIZE" and task.codec.in_model)
        if not unchanged:
            return None
        at = node.outputs[0]


class _Side(ABC):
    """One network: the weights ``w [n, m]`` of its first layer, and what follows that layer's sums."""

    def __init__(self, graph: Graph, first: Node) -> None:
        self.graph = graph
        lin = LinearNode.of(first, graph)
        rest = graph.nodes[graph.nodes.index(first) + 1 :]
        self.cost = 5.0 * lin.y.size + execution(graph, rest)
        self._first = first.outputs[0]
        self._steps: list[tuple[tuple[int, ...], int, Step]] = []
        live = {self._first}
        for node in rest:
            inputs = tuple(i for i in node.inputs if i in live)
            live.add(node.outputs[0])
            self._steps.append((inputs, node.outputs[0], self._step(node)))
        self._finish = self._end(first)

    def run(self, sums: Array) -> Array:
        """The output ``[B, *shape]`` for sums ``[B, m]``."""
        y = self._finish(sums)
        values = {self._first: y.reshape(len(y), *self.graph.tensors[self._first].shape)}
        for inputs, output, step in self._steps:
            values[output] = step([values[i] for i in inputs])
        return values[self.graph.outputs[0]]

    def _step(self, node: Node) -> Step:
        """A node after the first layer."""
        shape = self.graph.tensors[node.outputs[0]].shape
        lin = LinearNode.of(node, self.graph) if node.op in DENSE and node.folded is None else None
        if lin is not None and lin.x.size == lin.weights.shape[1]:
            product, end = self._product(lin), self._end(node)
            return lambda x: end(product(x[0].reshape(len(x[0]), -1))).reshape(len(x[0]), *shape)
        given = [self.graph.tensors[i].const if i >= 0 else None for i in node.inputs]
        varying = [k for k, (i, c) in enumerate(zip(node.inputs, given, strict=True)) if i >= 0 and c is None]

        def whole(x: Sequence[Array]) -> Array:
            args: list[Array | None] = list(given)
            for k, v in zip(varying, x, strict=True):
                args[k] = v
            return self._execute(node, args)

        return whole

    @abstractmethod
    def _product(self, lin: LinearNode) -> Callable[[Array], Array]:
        """Sums ``[B, m]`` of a dense layer's inputs ``[B, n]``."""

    @abstractmethod
    def _end(self, node: Node) -> Callable[[Array], Array]:
        """What a dense layer makes of its sums ``[B, m]``."""

    @abstractmethod
    def _execute(self, node: Node, args: Sequence[Array | None]) -> Array:
        """A node by its own executor."""


class _Quantized(_Side):
    def __init__(self, graph: Graph, first: Node, runtime: Runtime) -> None:
        self._runtime = runtime
        super().__init__(graph, first)
        lin = LinearNode.of(first, graph)
        self._zero = lin.x.q.z
        self.w = np.ascontiguousarray(lin.weights.T.astype(_exact(lin)))

    def sums(self, codes: Array) -> Array:
        return (codes - self._zero).astype(self.w.dtype) @ self.w

    def _product(self, lin: LinearNode) -> Callable[[Array], Array]:
        dtype, zero = _exact(lin), lin.x.q.z
        w = np.ascontiguousarray(lin.weights.T.astype(dtype))
        return lambda x: (x - zero if zero else x).astype(dtype, copy=False) @ w

    def _end(self, node: Node) -> Callable[[Array], Array]:
        lin = LinearNode.of(node, self.graph)
        bias: I64 = np.zeros(lin.weights.shape[0], np.int64) if lin.bias is None else lin.bias.astype(np.int64)
        if isinstance(node.attrs, fixed_point.DenseAttrs):
            if node.attrs.shift is None or not _fits(lin, 1 << node.attrs.shift):
                return lambda s: fixed_point.finish(node, self.graph, s.astype(np.int64) + bias)
            # the same in float32, where all of these integers are exact
            rounded, unit = (
                (bias + ((1 << node.attrs.shift) >> 1)).astype(np.float32),
                np.float32(2.0**-node.attrs.shift),
            )
            lo, hi = np.float32(lin.y.q.qmin), np.float32(lin.y.q.qmax)

            def shifted(s: Array) -> Array:
                y = s + rounded
                y *= unit
                np.floor(y, out=y)
                return np.clip(y, lo, hi, out=y)

            return shifted
        return lambda s: fully_connected.finish(node, self.graph, s.astype(np.int64) + bias, self._runtime)

    def _execute(self, node: Node, args: Sequence[Array | None]) -> Array:
        return ALL_SEMANTICS[node.op].run_int(node, self.graph, args, self._runtime)


class _Floating(_Side):
    """The weights of the first layer hold what the input is multiplied by before it."""

    def __init__(self, graph: Graph, first: Node) -> None:
        super().__init__(graph, first)
        scale = 1.0
        for node in graph.nodes[: graph.nodes.index(first)]:
            scale *= float(node.attrs.scale) if isinstance(node.attrs, fixed_point.InputAttrs) else 1.0
        w = LinearNode.of(first, graph).weights
        self.w: F32 = np.ascontiguousarray((w.T.astype(np.float64) * scale).astype(np.float32))

    def _product(self, lin: LinearNode) -> Callable[[Array], Array]:
        w = np.ascontiguousarray(lin.weights.T.astype(np.float32))
        return lambda x: x @ w

    def _end(self, node: Node) -> Callable[[Array], Array]:
        lin, attrs = LinearNode.of(node, self.graph), node.attrs
        assert isinstance(attrs, fully_connected.FullyConnectedAttrs)
        bias = np.zeros(lin.weights.shape[0], np.float32) if lin.bias is None else lin.bias.astype(np.float32)
        return lambda s: apply_activation(s + bias, attrs.activation)

    def _execute(self, node: Node, args: Sequence[Array | None]) -> Array:
        return ALL_SEMANTICS[node.op].run_float(node, self.graph, args)


def _exact(lin: LinearNode) -> type[np.float32 | np.float64]:
    """A type in which the layer's sums are exact, also while one input is being replaced by another."""
    return np.float32 if _fits(lin, 0) else np.float64


def _fits(lin: LinearNode, more: int) -> bool:
    """Whether float32 is exact for the layer's sums with their bias and ``more`` added."""
    bias = 0.0 if lin.bias is None else float(np.abs(lin.bias.astype(np.float64)).max(initial=0.0))
    return 2.0 * lin.accumulator_bound(reduce=(1,)) + bias + more < 2.0**24
