"""The reached sub-network: both networks restricted to what a few free inputs can change.

Every other value is a constant: it folds into accumulators (integers: exact) and biases (float64, as one
more order of summation).  So do values that the region does not change although they are reached: codes
that are the same at both ends of their accumulator's range, float neurons that are clamped everywhere.
Quantized values are held as deviations from one point of the region (small integers in float32);
float values as they are, in float64.  Letters: B inputs, k free inputs, n entries of a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.concrete import real_values
from qebgate.engines.restricted import Restriction, TooLarge, reached_entries, restrict
from qebgate.engines.staircase import Staircase
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.numerics.fixed_point import I64
from qebgate.numerics.rounding import F64, U64
from qebgate.regions.cell import InputCodec
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.accumulate import effective_scale, requantize
from qebgate.semantics.base import Activation
from qebgate.semantics.execute import run_float, run_int
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.pool_2d import Pool2D
from qebgate.semantics.registry import SEMANTICS
from qebgate.task import Task

Index = NDArray[np.intp]
Step = Callable[[Sequence[Array]], Array]

LINEAR = frozenset({"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"})
ELEMENTWISE = frozenset({"RELU", "RELU6", "LOGISTIC", "TANH", "QUANTIZE", "DEQUANTIZE"})
MOVES = frozenset({"RESHAPE", "PAD"})
SUMS = frozenset({"ADD", "AVERAGE_POOL_2D", "MEAN"})
COVERED = LINEAR | ELEMENTWISE | MOVES | SUMS | {"MAX_POOL_2D", "SOFTMAX"}
_TABLE_ENTRIES = 1 << 24
_CACHE_BYTES = 1 << 22
_MAX_ROWS = 1 << 13


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


class _Network:
    """What both sides share: parts of tensors, steps in topological order, and their execution."""

    def __init__(self, graph: Graph, source: Part) -> None:
        self.graph = graph
        self.parts: dict[int, Part] = {graph.inputs[0]: source}
        self.steps: list[tuple[tuple[int, ...], int, Step]] = []
        self.width = source.live.size
        """Entries that one input needs in all steps together."""

    def build(self) -> None:
        for node in self.graph.nodes:
            live = tuple(i for i in node.inputs if i in self.parts and self.parts[i].live.size)
            part, step = self.restrict(node, live) if live else (self.constant(node), None)
            self.parts[node.outputs[0]] = part
            self.width += part.live.size
            if step is not None and part.live.size:
                self.steps.append((live, node.outputs[0], step))

    def base(self, tensor: int) -> Array:
        raise NotImplementedError

    def restrict(self, node: Node, live: tuple[int, ...]) -> tuple[Part, Step]:
        raise NotImplementedError

    def constant(self, node: Node) -> Part:
        none = np.empty(0)
        return Part(self.base(node.outputs[0]), np.empty(0, np.intp), none, none)

    def run(self, x: Array) -> Array:
        """Values ``[B, k]`` of the output's live entries for those of the input."""
        values: dict[int, Array] = {self.graph.inputs[0]: x}
        for inputs, output, step in self.steps:
            values[output] = step([values[i] for i in inputs])
        return values.get(self.graph.outputs[0], np.empty((len(x), 0)))

    @property
    def output(self) -> Part:
        return self.parts[self.graph.outputs[0]]

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
        return out, np.where(columns < 0, part.live.size, columns), largest[out]


def part_size(graph: Graph, node: Node) -> int:
    """Entries of a node's output."""
    return graph.tensors[node.outputs[0]].size


def _window_max(x: Array, columns: Index, rest: Array) -> Array:
    """Largest of some columns of ``x [B, k + 1]`` and of a constant ``[m]``."""
    y = np.maximum(x[:, columns[:, 0]], rest)
    for j in range(1, columns.shape[1]):
        np.maximum(y, x[:, columns[:, j]], out=y)
    return y


def _beside(x: Array) -> Array:
    """``x [B, k]`` with a column of -inf."""
    return np.concatenate([x, np.full((len(x), 1), -np.inf, x.dtype)], axis=1)


def _without_activation(node: Node) -> Node:
    return replace(node, attrs=replace(node.attrs, activation=Activation.NONE))  # type: ignore[type-var]


class FloatNetwork(_Network):
    """The float network in float64: ``run`` takes and gives real values."""

    def __init__(self, graph: Graph, x: Array, free: Index, lo: F64, hi: F64) -> None:
        tensors = [n.outputs[0] for n in graph.nodes]
        self._values = run_float(graph, x[None], dtype=np.float64, keep=tensors)
        super().__init__(graph, Part(x.astype(np.float64).ravel(), free, lo, hi))
        self.build()

    def base(self, tensor: int) -> Array:
        return self._values[tensor].ravel()

    def restrict(self, node: Node, live: tuple[int, ...]) -> tuple[Part, Step]:
        if node.op in LINEAR:
            try:
                return self._linear(node, restrict(node, self.graph, self.parts[live[0]].live, np.float64))
            except TooLarge:
                return self._whole(node, live)
        if node.op in MOVES:
            return self.move(node, live[0])
        if node.op in ("RELU", "RELU6", "LOGISTIC", "TANH"):
            return self._elementwise(node, live[0])
        if node.op == "MAX_POOL_2D":
            return self._max_pool(node, live[0])
        return self._whole(node, live)

    def _clamped(self, node: Node, out: Index, lo: F64, hi: F64, limits: tuple[float, float]) -> tuple[Part, Array]:
        """The part of a clamped output, without entries that are at a limit everywhere; and which stay."""
        a, b = limits
        dead, full = hi <= a, lo >= b
        base = self.base(node.outputs[0]).copy()
        base[out[dead]] = a
        base[out[full]] = b
        stay = np.flatnonzero(~(dead | full))
        lo, hi = (np.clip(np.where(np.isnan(v), w, v), a, b) for v, w in ((lo, -np.inf), (hi, np.inf)))
        return Part(base, out, lo, hi).keep(stay), stay

    def _linear(self, node: Node, r: Restriction) -> tuple[Part, Step]:
        part = self.parts[node.inputs[0]]
        lin = LinearNode.of(node, self.graph)
        fixed = part.base.copy()
        fixed[part.live] = 0.0
        # everything that does not vary, and the bias: a partial sum of the same products
        sem = SEMANTICS[node.op]
        rest = sem.run_float(_without_activation(node), self.graph, [fixed.reshape(1, *lin.x.shape)]).ravel()[r.out]
        reach = np.maximum(np.abs(part.lo), np.abs(part.hi))
        with np.errstate(invalid="ignore"):
            up, down = np.maximum(r.w, 0.0), np.minimum(r.w, 0.0)
            margin = 4 * (len(r.w) + 8) * U64 * (np.abs(rest) + (up - down).T @ reach) + 2.0**-1000
            lo = rest + part.lo @ up + part.hi @ down - margin
            hi = rest + part.hi @ up + part.lo @ down + margin
        assert hasattr(node.attrs, "activation")
        limits = node.attrs.activation.range  # type: ignore[attr-defined]
        new, stay = self._clamped(node, r.out, lo, hi, limits)
        w, bias = np.ascontiguousarray(r.w[:, stay]), rest[stay]
        needed = (not bool((lo[stay] >= limits[0]).all()), not bool((hi[stay] <= limits[1]).all()))
        buffer = _Buffer(stay.size, np.float64)

        def step(x: Sequence[Array]) -> Array:
            z = np.matmul(x[0], w, out=buffer.rows(len(x[0])))
            np.add(z, bias, out=z)
            if needed[0]:
                np.maximum(z, limits[0], out=z)
            if needed[1]:
                np.minimum(z, limits[1], out=z)
            return z

        return new, step

    def _elementwise(self, node: Node, i: int) -> tuple[Part, Step]:
        part, sem = self.parts[i], SEMANTICS[node.op]
        if node.op in ("RELU", "RELU6"):
            limits = (0.0, np.inf if node.op == "RELU" else 6.0)
            new, stay = self._clamped(node, part.live, part.lo, part.hi, limits)
        else:
            wide = np.full(part.live.size, 1.0 + 2.0**-20)
            new, stay = Part(self.base(node.outputs[0]), part.live, -wide, wide), np.arange(part.live.size)
        return new, lambda x: sem.run_float(node, self.graph, [x[0][:, stay]])

    def _max_pool(self, node: Node, i: int) -> tuple[Part, Step]:
        part = self.parts[i]
        out, columns, rest = self.windows(node, i)
        a, b = node.attrs.activation.range  # type: ignore[attr-defined]
        lo, hi = (_window_max(_beside(v[None]), columns, rest)[0] for v in (part.lo, part.hi))
        new, stay = self._clamped(node, out, lo, hi, (a, b))
        columns, rest = columns[stay], rest[stay]
        return new, lambda x: np.clip(_window_max(_beside(x[0]), columns, rest), a, b)

    def _whole(self, node: Node, live: tuple[int, ...]) -> tuple[Part, Step]:
        """By the operator's own executor."""
        out = self.mask(node, live)
        run = _whole(self, node, live, lambda args: SEMANTICS[node.op].run_float(node, self.graph, args))
        wide = np.full(out.size, np.inf)
        return Part(self.base(node.outputs[0]), out, -wide, wide), lambda x: run(x)[:, out]


def _whole(
    net: _Network, node: Node, live: tuple[int, ...], run: Callable[[Sequence[Array | None]], Array]
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


class _Buffer:
    """One array that a step writes into again and again."""

    def __init__(self, columns: int, dtype: type[np.float32 | np.float64]) -> None:
        self._columns, self._dtype = columns, dtype
        self._data = np.empty((0, columns), dtype)

    def rows(self, n: int) -> Array:
        if n > len(self._data):
            self._data = np.empty((n, self._columns), self._dtype)
        return self._data[:n]


class QuantizedNetwork(_Network):
    """The quantized network, bit for bit: ``run`` takes and gives deviations of codes (float32 integers).

    ``grid`` turns codes into the float inputs of a model that quantizes them itself.
    """

    def __init__(self, graph: Graph, codes: Array, free: Index, lo: I64, hi: I64, runtime: Runtime,
                 codec: InputCodec) -> None:  # fmt: skip
        if any(n.op not in COVERED for n in graph.nodes):
            raise Uncovered
        self.runtime = runtime
        self._codec = codec if codec.in_model else None
        tensors = [n.outputs[0] for n in graph.nodes]
        given = codec.grid(codes) if codec.in_model else codes.astype(np.int32)
        self._values = run_int(graph, given[None], runtime, keep=tensors)
        if codec.in_model and any(n.op != "QUANTIZE" for n in graph.consumers.get(graph.inputs[0], [])):
            raise Uncovered
        base = codes.astype(np.int32).ravel()
        super().__init__(graph, Part(base, free, lo - base[free], hi - base[free]))
        self.build()

    def base(self, tensor: int) -> Array:
        return self._values[tensor].ravel()

    def restrict(self, node: Node, live: tuple[int, ...]) -> tuple[Part, Step]:
        out = self.graph.tensors[node.outputs[0]]
        if not out.dtype.is_code and (node.op != "DEQUANTIZE" or node.outputs[0] != self.graph.outputs[0]):
            raise Uncovered
        if node.op in LINEAR:
            try:
                return self._linear(node, restrict(node, self.graph, self.parts[live[0]].live, np.float32))
            except TooLarge:
                return self._whole(node, live)
        if node.op in MOVES:
            return self.move(node, live[0])
        if node.op in ELEMENTWISE:
            return self._table(node, live[0])
        if node.op == "MAX_POOL_2D":
            return self._max_pool(node, live[0])
        return self._whole(node, live)

    def _linear(self, node: Node, r: Restriction) -> tuple[Part, Step]:
        part, lin = self.parts[node.inputs[0]], LinearNode.of(node, self.graph)
        # the accumulators at the base point: integers below 2**31, exact in float64
        centred = (part.base.astype(np.float64) - lin.x.q.z).reshape(1, *lin.x.shape)
        acc = SEMANTICS[node.op].run_float(_without_activation(node), self.graph, [centred])
        acc = acc.ravel()[r.out].astype(np.int64)
        base = self.base(node.outputs[0])
        exact = self._requantization(node, lin, acc, base, r.out)
        up, down = np.maximum(r.w, 0).astype(np.float64), np.minimum(r.w, 0).astype(np.float64)
        lo = (part.lo @ up + part.hi @ down).astype(np.int64)
        hi = (part.hi @ up + part.lo @ down).astype(np.int64)
        everything = np.arange(r.out.size)
        first, last = exact(lo, everything), exact(hi, everything)
        stay = np.flatnonzero(last > first)
        new = Part(base, r.out[stay], first[stay], last[stay])
        if not stay.size:
            return new, lambda x: x[0][:, :0]
        reach = np.maximum(np.abs(part.lo), np.abs(part.hi)).astype(np.float64)
        small = float((np.abs(r.w[:, stay]).astype(np.float64).T @ reach).max()) < 2.0**24
        dtype = np.float32 if small else np.float64
        w = np.ascontiguousarray(r.w[:, stay].astype(dtype))
        channel = r.channel[stay] if lin.w.q.scale.size > 1 else np.zeros(stay.size, np.intp)
        slope = effective_scale(
            lin.x.q.s, lin.w.q.scale, lin.y.q.s, self.runtime, dense=node.op == "FULLY_CONNECTED"
        )[channel]  # fmt: skip
        stairs = Staircase(lambda g, c: exact(g, stay[c]), lo[stay], hi[stay], slope, dtype)
        buffer = _Buffer(stay.size, dtype)

        def step(x: Sequence[Array]) -> Array:
            g = np.matmul(x[0].astype(dtype, copy=False), w, out=buffer.rows(len(x[0])))
            stairs.apply(g)
            return g.astype(np.float32, copy=False)

        return new, step

    def _requantization(
        self, node: Node, lin: LinearNode, acc: I64, base: Array, out: Index
    ) -> Callable[[I64, Index], I64]:
        """The kernel's requantization of ``acc + g`` for some of the reached entries, as deviations from the base."""
        channels = lin.y.shape[-1]
        limits = node.attrs.activation.code_range(lin.y, self.runtime)  # type: ignore[attr-defined]
        dense, s_w = node.op == "FULLY_CONNECTED", lin.w.q.scale
        zero = base[out].astype(np.int64)

        def exact(g: I64, columns: Index) -> I64:
            # one column twice: a single scale would be taken for a scale per tensor
            c = np.repeat(columns, 2) if columns.size == 1 else columns
            total = acc[columns] + g
            channel = out[c] % channels
            tail = channel >= channels // 8 * 8 if node.op == "DEPTHWISE_CONV_2D" else None
            codes = requantize(
                np.repeat(total, 2, axis=-1) if columns.size == 1 else total,
                lin.x.q.s,
                s_w if s_w.size == 1 else s_w[channel],
                lin.y.q.s,
                lin.y.q.z,
                limits,
                self.runtime,
                dense=dense,
                tail=tail,
            )
            return codes[..., : columns.size].astype(np.int64) - zero[columns]

        return exact

    def _table(self, node: Node, i: int) -> tuple[Part, Step]:
        """An elementwise operator: its values for every deviation of every entry, by its own executor."""
        part, t = self.parts[i], self.graph.tensors[i]
        least, most = int(part.lo.min()), int(part.hi.max())
        count = most - least + 1
        if count * t.size > _TABLE_ENTRIES:
            return self._whole(node, (i,))
        given = np.repeat(part.base[None], count, axis=0)
        deviation = np.arange(least, most + 1)[:, None]
        given[:, part.live] = part.base[part.live] + np.clip(deviation, part.lo, part.hi)
        given = given.reshape(count, *t.shape)
        x = self._codec.grid(given) if self._codec is not None and i == self.graph.inputs[0] else given
        y = SEMANTICS[node.op].run_int(node, self.graph, [x], self.runtime).reshape(count, -1)[:, part.live]
        base = self.base(node.outputs[0])
        if y.dtype.kind != "f":
            y = y.astype(np.int64) - base[part.live]
        lo, hi = y.min(axis=0), y.max(axis=0)
        stay = np.flatnonzero(hi > lo)
        table = np.ascontiguousarray(y[:, stay]).astype(np.float64 if y.dtype.kind == "f" else np.float32).ravel()
        offset = np.arange(stay.size) - least * stay.size
        new = Part(base, part.live, lo, hi).keep(stay)
        return new, lambda x: table[x[0][:, stay].astype(np.intp) * stay.size + offset]

    def _max_pool(self, node: Node, i: int) -> tuple[Part, Step]:
        part, t = self.parts[i], self.graph.tensors[node.outputs[0]]
        out, columns, rest = self.windows(node, i)
        limits = node.attrs.activation.code_range(t, self.runtime)  # type: ignore[attr-defined]
        base = self.base(node.outputs[0])
        above, zero, rest = (
            part.base[part.live].astype(np.float32),
            base[out].astype(np.float32),
            rest.astype(np.float32),
        )

        def pool(x: Array) -> Array:
            return np.clip(_window_max(_beside(x + above), columns, rest), *limits) - zero

        lo, hi = (pool(v[None].astype(np.float32))[0].astype(np.int64) for v in (part.lo, part.hi))
        stay = np.flatnonzero(hi > lo)
        columns, rest, zero = columns[stay], rest[stay], zero[stay]
        return Part(base, out, lo, hi).keep(stay), lambda x: pool(x[0])

    def _whole(self, node: Node, live: tuple[int, ...]) -> tuple[Part, Step]:
        """By the operator's own executor."""
        if node.outputs[0] not in self._values or not self.graph.tensors[node.outputs[0]].dtype.is_code:
            raise Uncovered
        if self._codec is not None and self.graph.inputs[0] in live:
            raise Uncovered
        out, base = self.mask(node, live), self.base(node.outputs[0])
        run = _whole(self, node, live, lambda args: SEMANTICS[node.op].run_int(node, self.graph, args, self.runtime))
        least, most = self.graph.tensors[node.outputs[0]].dtype.code_range
        zero = base[out].astype(np.int64)
        part = Part(base, out, least - zero, most - zero)
        return part, lambda x: (run(x)[:, out] - zero).astype(np.float32)


class Reached:
    """A task's grid region, restricted: ``gaps`` of codes of its free inputs only."""

    def __init__(self, task: Task) -> None:
        assert task.cell.codes is not None
        lo, hi = (c.ravel().astype(np.int64) for c in task.cell.codes)
        self.free = np.flatnonzero(hi > lo)
        self._codec = task.codec
        middle = (lo + hi) // 2
        shape = task.cell.codes[0].shape
        lo, hi = lo[self.free], hi[self.free]
        self.lo, self.hi = lo, hi
        """Codes of the free inputs."""
        self._codes = middle.astype(np.int32)
        self._shape = shape
        codes = middle.reshape(shape).astype(np.int32)
        self._middle = middle[self.free]
        real = task.codec.grid(np.stack([lo, hi])).astype(np.float64)
        self._quantized = QuantizedNetwork(task.pair.quantized, codes, self.free, lo, hi, task.runtime, task.codec)
        self._float = FloatNetwork(task.pair.float, task.codec.grid(codes), self.free, real[0], real[1])
        pick = np.asarray(task.outputs, np.intp)
        self._q = _Outputs(
            real_values(task.pair.quantized, self._quantized.output.base[None])[0], self._quantized, pick
        )
        self._f = _Outputs(self._float.output.base, self._float, pick)
        t = task.pair.quantized.output
        self._unit, self._zero = (t.q.s, t.q.z) if t.dtype.is_code else (None, 0)
        width = 8 * (self._quantized.width + self._float.width + 3 * pick.size)
        self.rows = int(np.clip(_CACHE_BYTES // width, 16, _MAX_ROWS))
        """How many inputs to execute at once, so that intermediate results stay in the caches."""

    def whole(self, codes: Array) -> NDArray[np.int32]:
        """Code tensors ``[B, *shape]`` from codes ``[B, k]`` of the free inputs."""
        out = np.repeat(self._codes[None], len(codes), axis=0)
        out[:, self.free] = codes
        return out.reshape(-1, *self._shape)

    def gaps(self, codes: Array) -> F64:
        """Gaps ``[B, K]`` for codes ``[B, k]`` of the free inputs."""
        return self.quantized(codes) - self._floats(codes)

    def quantized(self, codes: Array) -> F64:
        """Real quantized outputs ``[B, K]``, exact."""
        q = self._quantized.run((codes - self._middle).astype(np.float32))
        q = q[:, self._q.columns].astype(np.float64)
        if self._unit is not None:
            q = (q + (self._quantized.output.base[self._q.live] - self._zero)) * self._unit
        return self._q.spread(q)

    def floats(self, codes: Array) -> F64:
        """Float outputs ``[B, K]``: a float64 evaluation in another order of summation."""
        return self._floats(codes).copy()

    def _floats(self, codes: Array) -> F64:
        """Overwritten by the next call."""
        f = self._float.run(self._codec.grid(codes).astype(np.float64))
        return self._f.spread(f[:, self._f.columns])


class _Outputs:
    """Compared outputs: constant ones, and where the live ones go."""

    def __init__(self, base: Array, net: _Network, pick: Index) -> None:
        place = np.full(base.size, -1)
        live = net.output.live
        place[live] = np.arange(live.size)
        self._row = base[pick].astype(np.float64)
        self._where = np.flatnonzero(place[pick] >= 0)
        take = place[pick[self._where]]
        self.columns = slice(None) if np.array_equal(take, np.arange(live.size)) else take
        self.live = live[take]

    def spread(self, values: F64) -> F64:
        """``[B, K]`` from the live ones."""
        if self._where.size == self._row.size:
            return values
        out = np.repeat(self._row[None], len(values), axis=0)
        out[:, self._where] = values
        return out
