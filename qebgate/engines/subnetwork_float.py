"""The float side of a restricted network, in float64.

What does not vary is summed first and becomes a bias: one more order of summation of the same products,
so the error bound of any evaluation holds for it too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.engines.restricted import Restriction, TooLarge, restrict
from qebgate.engines.subnetwork import (
    LINEAR,
    MOVES,
    Buffer,
    Index,
    Network,
    Part,
    Step,
    execute_whole,
    window_max,
    without_activation,
)
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64, U64
from qebgate.semantics.execute import run_float
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.registry import SEMANTICS


class FloatNetwork(Network):
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
                self.executed_as_a_whole(node)
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
        rest = sem.run_float(without_activation(node), self.graph, [fixed.reshape(1, *lin.x.shape)]).ravel()[r.out]
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
        buffer = Buffer(stay.size, np.float64)

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
        lo, hi = (window_max(v[None], columns, rest)[0] for v in (part.lo, part.hi))
        new, stay = self._clamped(node, out, lo, hi, (a, b))
        columns, rest = columns[stay], rest[stay]
        if (a, b) == (-np.inf, np.inf):
            return new, lambda x: window_max(x[0], columns, rest)
        return new, lambda x: np.clip(window_max(x[0], columns, rest), a, b)

    def _whole(self, node: Node, live: tuple[int, ...]) -> tuple[Part, Step]:
        """By the operator's own executor."""
        out = self.mask(node, live)
        run = execute_whole(self, node, live, lambda args: SEMANTICS[node.op].run_float(node, self.graph, args))
        wide = np.full(out.size, np.inf)
        return Part(self.base(node.outputs[0]), out, -wide, wide), lambda x: run(x)[:, out]
