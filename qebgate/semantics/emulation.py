"""Which operators the emulation of TensorFlow Lite Micro covers, and what those of the envelope agree on.

Nothing here can run TFLM, so an operator counts only where its kernel was read in TFLM's source (2024 and later) and
is the reference kernel that LiteRT runs as well, or has a formula here of its own.  Others are refused by name.
"""

from __future__ import annotations

import numpy as np

from qebgate.errors import UnsupportedError
from qebgate.ir.graph import INPUT_PART, Graph, Node
from qebgate.ir.tensor import DType
from qebgate.runtimes.profiles import DEPLOYED, MICRO, Runtime
from qebgate.semantics.base import Activation, Rounding
from qebgate.semantics.moves import MOVES, Tile
from qebgate.semantics.registry import ALL_SEMANTICS

EMULATED = frozenset(
    {
        "ADD",
        "AVERAGE_POOL_2D",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "DEQUANTIZE",
        "FULLY_CONNECTED",
        INPUT_PART,
        "MAX_POOL_2D",
        "MEAN",
        "PAD",
        "QUANTIZE",
        "RELU",
        "RELU6",
        "RESHAPE",
        "SOFTMAX",
        *(cls.name for cls in MOVES if cls is not Tile),  # whose TFLM kernel was not read
    }
)
"""Operators whose TFLM kernels are emulated, on int8; those that only move codes have nothing to round."""

_LITERT = ", ".join(r.value for r in DEPLOYED)


def rounding(node: Node, graph: Graph, runtime: Runtime) -> Rounding:
    """The envelope of a node's requantization in a profile: the widest of its members."""
    found = [ALL_SEMANTICS[node.op].rounding(node, graph, r) for r in runtime.members]
    if len(found) == 1:
        return found[0]
    sides = zip(*((r.below, r.above) for r in found), strict=True)
    below, above = (np.maximum.reduce(np.broadcast_arrays(*side)) for side in sides)
    return Rounding(below, above)


def check_runtime(graph: Graph, runtime: Runtime) -> None:
    """UnsupportedError where a profile cannot be said to cover a quantized graph."""
    _check_packed(graph, runtime)
    if runtime not in MICRO and runtime is not Runtime.ENVELOPE:
        return
    missing = sorted({n.op for n in graph.nodes} - EMULATED)
    if missing:
        raise UnsupportedError(
            "QEB439",
            f"the emulation of TensorFlow Lite Micro does not cover {', '.join(missing)}",
            where=f"{graph.source.label} in {runtime.value}",
            fix=f"check it in the runtimes that can be replayed: {_LITERT}",
        )
    for node in graph.nodes:
        if node.op != INPUT_PART:  # no kernel: the runtime is given each input by itself
            _check_node(node, graph, runtime)


def _check_packed(graph: Graph, runtime: Runtime) -> None:
    """Weights of 4 bits: XNNPACK takes them in dense layers only, and TFLM's kernels were not read."""
    if runtime in (Runtime.REFERENCE, Runtime.BUILTIN):
        return
    for node in graph.nodes:
        if any(i >= 0 and graph.tensors[i].packed for i in node.inputs):
            raise UnsupportedError(
                "QEB439",
                f"{runtime.value} is not known to compute int4 weights as int8 ones",
                where=f"{graph.source.label}: {node.origin}",
                fix=f"check it in {Runtime.REFERENCE.value} or {Runtime.BUILTIN.value}",
            )


def _check_node(node: Node, graph: Graph, runtime: Runtime) -> None:
    x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
    found = None
    if node.op == "RELU6" and y.dtype.is_code and (x.q.s, x.q.z) != (y.q.s, y.q.z):
        found = "a RELU6 between different scales, which TFLM only clamps"
    if not (x.dtype.is_code or y.dtype.is_code) or DType.INT16 in (x.dtype, y.dtype):
        found = f"{node.op} from {x.dtype.value} to {y.dtype.value}"
    activation = getattr(node.attrs, "activation", None)
    if runtime is Runtime.ENVELOPE and isinstance(activation, Activation) and y.dtype.is_code:
        limits = {activation.code_range(y, r) for r in runtime.members}
        if len(limits) > 1:
            found = f"limits of {activation.name} that the runtimes round differently: {sorted(limits)}"
    if found is not None:
        raise UnsupportedError(
            "QEB439",
            f"{runtime.value} does not cover an operator of the model",
            where=f"{graph.source.label}: {node.origin}",
            found=found,
            fix=f"check it in the runtimes that can be replayed: {_LITERT}",
        )
