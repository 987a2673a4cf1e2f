"""What executing networks costs, roughly: the unit in which a search counts its effort.

Deterministic, from the networks' sizes alone, so that a search does not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from qebgate.ir.graph import Graph, Node

MACS = 8.0
"""Multiply-adds that take as long as one unit (about a nanosecond)."""
VALUE = 4.0
"""Units for every value that is computed."""


def execution(graph: Graph, nodes: Sequence[Node] | None = None) -> float:
    """Units of one input's execution, of all nodes or of some."""
    total = 0.0
    for node in graph.nodes if nodes is None else nodes:
        size = graph.tensors[node.outputs[0]].size
        weights = graph.tensors[node.inputs[1]] if len(node.inputs) > 1 and node.inputs[1] >= 0 else None
        taps = 0.0
        if weights is not None and weights.is_const and len(weights.shape) > 1 and node.op != "PAD":
            channels = weights.shape[-1] if node.op == "DEPTHWISE_CONV_2D" else weights.shape[0]
            taps = weights.size / max(1, channels)
        total += size * (VALUE + taps / MACS)
    return total
