"""How far Keras' inference of a quantization-aware model can be from the integer network that it becomes.

Keras computes in float and rounds every quantized value to its nearest code; the deployed kernels
compute in integers, round biases too, and round products of scales on the way.
"""

from __future__ import annotations

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.numerics.rounding import F64
from qebgate.runtimes.profiles import DEPLOYED
from qebgate.semantics.registry import SEMANTICS

_SPREAD = {
    "RESHAPE": 1.0, "PAD": 1.0, "MAX_POOL_2D": 1.0, "AVERAGE_POOL_2D": 1.0, "MEAN": 1.0, "CONCATENATION": 1.0,
    "QUANTIZE": 1.0, "DEQUANTIZE": 1.0, "RELU": 1.0, "RELU6": 1.0, "LEAKY_RELU": 1.0, "TANH": 1.0, "LOGISTIC": 0.25,
    "SOFTMAX": 0.5, "ADD": 1.0,
}  # fmt: skip
"""How much an operator can enlarge the largest difference of one of its inputs."""
_MOVES = frozenset({"RESHAPE", "PAD", "MAX_POOL_2D", "CONCATENATION", "DEQUANTIZE"})


def describe(graph: Graph, *, trained: bool) -> tuple[str, ...]:
    """The notes of a graph read from a quantization-aware model.  ``trained``: all its weights were quantized."""
    words = (
        "the quantized model is read before its conversion: integer weights and scales as the converter derives them, "
        "float input and output; no runtime executes it, and witnesses are replayed in qebgate's exact evaluator; "
        "check the converted file before it is deployed"
    )
    about = "Keras' fake-quantized inference is not the deployed function: it rounds in float, and biases not at all"
    bound = distance(graph) if trained else None
    if bound is None:
        return words, f"{about}; by how much they can differ is not bounded here"
    quanta = bound / _last_scale(graph)
    return words, (
        f"{about}; given the same codes each operator's results differ by at most {_step(graph)} code, over the whole "
        f"network the outputs by at most {bound:.6g} ({quanta:.4g} output quanta), float32 roundoff aside"
    )


def distance(graph: Graph) -> float | None:
    """Largest difference of an output, in real units, over all inputs and runtimes; None where it is not known.

    In exact arithmetic: Keras' own float32 roundoff is not part of it.
    """
    off: dict[int, float] = dict.fromkeys(graph.inputs, 0.0)
    for node in graph.nodes:
        live = [i for i in node.inputs if i in off]
        spread = _spread(node, graph)
        if spread is None:
            return None
        before = sum(off[i] for i in live) if node.op == "ADD" else max((off[i] for i in live), default=0.0)
        out = graph.tensors[node.outputs[0]]
        after = spread * before + _rounding(node, graph)
        if out.quant is not None:
            after = min(after, 255.0 * out.quant.s)
        off[node.outputs[0]] = after
    return max(off[o] for o in graph.outputs)


def _spread(node: Node, graph: Graph) -> float | None:
    """Largest sum of absolute weights for operators that have some."""
    w = graph.tensors[node.inputs[1]] if len(node.inputs) > 1 else None
    if node.op not in ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D") or w is None or w.const is None:
        return _SPREAD.get(node.op)
    axis = 3 if node.op == "DEPTHWISE_CONV_2D" else 0
    real: F64 = np.abs(w.q.dequantize(w.const))
    return float(real.sum(axis=tuple(a for a in range(real.ndim) if a != axis)).max(initial=0.0))


def _rounding(node: Node, graph: Graph) -> float:
    """What the two roundings, and that of the bias, can add."""
    if node.op in _MOVES:
        return 0.0
    out = graph.tensors[node.outputs[0]].q.s
    envelopes = [SEMANTICS[node.op].rounding(node, graph, r) for r in DEPLOYED]
    worst = max(float(max(e.below.max(initial=0.0), e.above.max(initial=0.0))) for e in envelopes)
    bias = 0.0
    if node.op in ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"):
        x, w = (graph.tensors[i].q for i in node.inputs[:2])
        bias = 0.5 * x.s * float(w.scale.max())
    return (max(worst, 0.5) + 0.5) * out + bias


def _step(graph: Graph) -> int:
    """The most codes by which one operator's two results can differ, given the same codes."""
    quantized = [n for n in graph.nodes if graph.tensors[n.outputs[0]].quant is not None]
    return max((int(_rounding(n, graph) / graph.tensors[n.outputs[0]].q.s) for n in quantized), default=0)


def _last_scale(graph: Graph) -> float:
    """The scale of the codes behind the first output."""
    node = graph.producer[graph.outputs[0]]
    return graph.tensors[node.inputs[0]].q.s
