"""The quantized side of a restricted network, bit for bit in the runtime's own arithmetic.

What does not vary folds into the accumulators, which are integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qebgate.engines.restricted import Restriction, TooLarge, restrict
from qebgate.engines.staircase import Staircase
from qebgate.engines.subnetwork import (
    COVERED,
    ELEMENTWISE,
    LINEAR,
    MOVES,
    Buffer,
    Index,
    Network,
    Part,
    Step,
    Uncovered,
    execute_whole,
    window_max,
    without_activation,
)
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.numerics.fixed_point import I64
from qebgate.regions.cell import InputCodec
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.accumulate import effective_scale, requantize
from qebgate.semantics.execute import run_int
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.registry import SEMANTICS

_TABLE_ENTRIES = 1 << 24


class QuantizedNetwork(Network):
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
                self.executed_as_a_whole(node)
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
        acc = SEMANTICS[node.op].run_float(without_activation(node), self.graph, [centred])
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
        buffer = Buffer(stay.size, dtype)

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
                lin.kernel(self.runtime),
                dense=dense,
                wide=False,
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
            return np.clip(window_max(x + above, columns, rest), *limits) - zero

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
        run = execute_whole(
            self, node, live, lambda args: SEMANTICS[node.op].run_int(node, self.graph, args, self.runtime)
        )
        least, most = self.graph.tensors[node.outputs[0]].dtype.code_range
        zero = base[out].astype(np.int64)
        part = Part(base, out, least - zero, most - zero)
        return part, lambda x: (run(x)[:, out] - zero).astype(np.float32)
