"""What is known of the float network's values over a region, because they were executed or walked.

``Ranges`` maps a position of ``Pair.values`` to an interval [n] of the *pre-activation* of that value: what the
operator computes before its clamp (a fused one, or a standalone ReLU's own), or the value itself where nothing is
clamped.  It holds for every input of the region and for one network: the exact float network, or one float64
execution of it (whose own rounding needs no widening).  Positions may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.engines.subnetwork import without_activation
from qebgate.ir.graph import Graph, Node
from qebgate.ir.pair import Pair
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64
from qebgate.semantics.base import Activation, apply_activation
from qebgate.semantics.execute import PARTIAL, require_numbers
from qebgate.semantics.registry import ALL_SEMANTICS

Ranges = Mapping[int, Interval]

_CHUNK_ELEMENTS = 1 << 20


class FloatExecution:
    """Executes the float graph of a pair in float64 and keeps the least and the largest of everything it computes."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._before: dict[int, tuple[F64, F64]] = {}
        self._after: dict[int, tuple[F64, F64]] = {}

    def run(self, x: Array) -> F64:
        """Outputs ``[B, n]`` of inputs ``[B, *shape]``, the same as those of ``run_float`` in float64."""
        graph = self._pair.float
        rows = max(1, _CHUNK_ELEMENTS // max(t.size for t in graph.tensors if not t.is_const))
        parts = [self._part(graph, x[k : k + rows].astype(np.float64)) for k in range(0, len(x), rows)]
        return np.concatenate(parts)

    def _part(self, graph: Graph, x: F64) -> F64:
        live = {graph.inputs[0]: x}
        last = {i: n.outputs[0] for n in graph.nodes for i in n.inputs}
        _keep(self._after, graph.inputs[0], x)
        for node in graph.nodes:
            args = [None if i < 0 else live[i] if i in live else graph.tensors[i].const for i in node.inputs]
            z, y = _both(node, graph, args)
            if node.op in PARTIAL:
                require_numbers(z, graph)
            out = node.outputs[0]
            _keep(self._before, out, z)
            if y is not z:
                _keep(self._after, out, y)
            live[out] = y
            for i in node.inputs:
                if i in live and i not in graph.outputs and last[i] == node.outputs[0]:
                    del live[i]
        return live[graph.outputs[0]].reshape(len(x), -1)

    @property
    def ranges(self) -> dict[int, Interval]:
        """Of all inputs executed so far; none of a value whose clamp another step has."""
        found: dict[int, Interval] = {}
        for step in self._pair.steps:
            tensor = self._pair.values[step.output].float_tensor
            node = step.float_node
            at = self._after.get(tensor, self._before.get(tensor)) if node is None else self._before.get(tensor)
            if at is not None and (node is None or node.outputs[0] == tensor):
                found[step.output] = Interval(at[0].copy(), at[1].copy())
        return found


def _both(node: Node, graph: Graph, args: Sequence[Array | None]) -> tuple[Array, Array]:
    """A node's result before and after its clamp (the same array where there is none)."""
    sem = ALL_SEMANTICS[node.op]
    if node.op in ("RELU", "RELU6"):
        assert args[0] is not None
        return args[0], sem.run_float(node, graph, args)
    activation = getattr(node.attrs, "activation", Activation.NONE)
    if activation is Activation.NONE:
        y = sem.run_float(node, graph, args)
        return y, y
    z = sem.run_float(without_activation(node), graph, args)
    return z, apply_activation(z, activation)


def _keep(into: dict[int, tuple[F64, F64]], tensor: int, v: Array) -> None:
    flat = v.reshape(len(v), -1)
    lo, hi = flat.min(axis=0), flat.max(axis=0)
    if tensor in into:
        lo, hi = np.minimum(lo, into[tensor][0]), np.maximum(hi, into[tensor][1])
    into[tensor] = (lo, hi)
