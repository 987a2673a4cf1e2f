"""Execution of whole graphs over a batch of inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from qebgate.errors import DataError, InternalError, UnboundedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.emulation import check_runtime
from qebgate.semantics.hybrid import run_hybrid
from qebgate.semantics.moves import MOVES
from qebgate.semantics.registry import ALL_SEMANTICS

ONE_ROUNDING = frozenset(
    {
        "ADD",
        "DIV",
        "MAX_POOL_2D",
        "MUL",
        "NEG",
        "PAD",
        "RELU",
        "RELU6",
        "RESHAPE",
        "SQUARE",
        "SQUARED_DIFFERENCE",
        "SUB",
        *(cls.name for cls in MOVES),
    }
)
"""Operators whose float32 result is the same in every runtime."""
PARTIAL = frozenset({"DIV", "RSQRT", "SQRT"})
"""Operators that are not defined everywhere."""
_CHUNK_ELEMENTS = 1 << 20
"""Elements of the largest tensor that are computed at once, so that intermediate results stay in the caches."""


def run_float(
    graph: Graph, x: Array, *, dtype: type[np.float32 | np.float64] = np.float64, keep: Collection[int] = ()
) -> dict[int, Array]:
    """Execute a float graph on ``x [B, *shape]``; returns outputs (and tensors in ``keep``) by index."""
    return _run(graph, {graph.inputs[0]: x.astype(dtype)}, None, keep)


def run_int(graph: Graph, x: Array, runtime: Runtime, *, keep: Collection[int] = ()) -> dict[int, Array]:
    """Execute a quantized graph as a runtime does; ``x`` holds codes, or float32 for a float input."""
    t = graph.input
    check_runtime(graph, runtime)
    if len(runtime.members) > 1:
        raise InternalError("QEB915", f"{runtime.value} is several runtimes: it executes nothing")
    return _run(graph, {graph.inputs[0]: x.astype(np.float32 if t.dtype is DType.FLOAT32 else np.int32)}, runtime, keep)


def run_node(node: Node, graph: Graph, args: Sequence[Array | None], runtime: Runtime) -> Array:
    """One node of a quantized graph: on codes, or in float32 where it computes on floats (see :func:`exact`)."""
    if not graph.computes_in_float(node):
        return ALL_SEMANTICS[node.op].run_int(node, graph, args, runtime)
    x = args[0]
    assert x is not None
    if graph.is_hybrid(node) and node.op == "FULLY_CONNECTED":
        return run_hybrid(node, graph, x, runtime)
    return ALL_SEMANTICS[node.op].run_float(node, graph, args)


def require_numbers(y: Array, graph: Graph) -> None:
    """UnboundedError where a graph with partial operators gave what is no number."""
    if not np.isfinite(y).all() and any(n.op in PARTIAL for n in graph.nodes):
        message = "the model divides by 0 at an input of the region, or takes the root of a number below 0"
        raise UnboundedError("QEB440", message, where=graph.source.label)


def exact(graph: Graph) -> bool:
    """Whether execution here equals the runtimes bit for bit.

    float32 sums have no order of their own, and exponentials no exact value.  One operation rounds once, everywhere;
    and hybrid dense layers are emulated.
    """
    return all(
        not graph.computes_in_float(n) or n.op in ONE_ROUNDING or (n.op == "FULLY_CONNECTED" and graph.is_hybrid(n))
        for n in graph.nodes
    )


def _run(graph: Graph, values: Mapping[int, Array], runtime: Runtime | None, keep: Collection[int]) -> dict[int, Array]:
    for i, v in values.items():
        if v.shape[1:] != graph.tensors[i].shape:
            raise DataError(
                "QEB441",
                "the data does not have the model's input shape",
                where=f"{graph.source.label}: tensor {graph.tensors[i].label}",
                found=f"{v.shape[1:]}, expected {graph.tensors[i].shape}",
            )
    batch = len(next(iter(values.values())))
    step = max(1, _CHUNK_ELEMENTS // max(t.size for t in graph.tensors if not t.is_const))
    parts = [
        _run_part(graph, {i: v[k : k + step] for i, v in values.items()}, runtime, keep)
        for k in range(0, max(batch, 1), step)
    ]
    return parts[0] if len(parts) == 1 else {i: np.concatenate([p[i] for p in parts]) for i in parts[0]}


def _run_part(
    graph: Graph, values: Mapping[int, Array], runtime: Runtime | None, keep: Collection[int]
) -> dict[int, Array]:
    live = dict(values)
    wanted = set(graph.outputs) | set(keep)
    last = {i: n.outputs[0] for n in graph.nodes for i in n.inputs}
    for node in graph.nodes:
        sem = ALL_SEMANTICS[node.op]
        args = [None if i < 0 else live[i] if i in live else graph.tensors[i].const for i in node.inputs]
        out = sem.run_float(node, graph, args) if runtime is None else run_node(node, graph, args, runtime)
        live[node.outputs[0]] = out
        for i in node.inputs:
            if i in live and i not in wanted and last[i] == node.outputs[0]:
                del live[i]
    return {i: live[i] for i in wanted if i in live}
