"""Arithmetic on shapes, done while a model is read; and operators with several outputs, made into one of each.

Converters write the shape of a RESHAPE as SHAPE, STRIDED_SLICE, PACK and so on where a batch of any size is allowed.
With the batch of 1 all of it is constant.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from qebgate.errors import ModelError
from qebgate.ir.graph import Graph, Node, Source
from qebgate.ir.tensor import Array, DType, Tensor
from qebgate.semantics.moves import Move, SplitAttrs
from qebgate.semantics.registry import SEMANTICS

LARGEST = 1024
"""Entries of a tensor that is computed here: many more than any shape has."""
_INTEGERS = (DType.INT32, DType.INT64)


def folded(
    tensors: tuple[Tensor, ...], nodes: Sequence[Node], unfit: Collection[int]
) -> tuple[tuple[Tensor, ...], tuple[Node, ...]]:
    """Tensors and nodes without what is computed from constants, and one node for every part of a SPLIT.

    Nodes at positions in ``unfit`` stay as they are, and so does everything that cannot be computed.
    """
    known = list(tensors)
    kept: list[Node] = []
    for node in nodes:
        if node.index in unfit:
            kept.append(node)
            continue
        value = _value(node, known)
        if value is not None:
            out = node.outputs[0]
            known[out] = replace(known[out], const=value)
        elif isinstance(node.attrs, SplitAttrs) and len(node.outputs) == node.attrs.parts:
            attrs = node.attrs
            kept += [replace(node, outputs=(o,), attrs=replace(attrs, part=k)) for k, o in enumerate(node.outputs)]
        else:
            kept.append(node)
    return tuple(known), tuple(kept)


def _value(node: Node, tensors: Sequence[Tensor]) -> Array | None:
    """What a node computes from shapes or integers alone; None where it does something else."""
    out = tensors[node.outputs[0]]
    if out.dtype not in _INTEGERS or out.quant is not None or out.size > LARGEST or len(node.outputs) != 1:
        return None
    if node.op == "SHAPE":
        shape = tensors[node.inputs[0]].shape
        return np.array(shape, out.dtype.numpy) if out.shape == (len(shape),) else None
    ins = [tensors[i] for i in node.inputs if i >= 0]
    sem = SEMANTICS.get(node.op)
    if len(ins) < len(node.inputs) or any(t.const is None or t.size > LARGEST for t in ins):
        return None
    if node.op == "RESHAPE" and ins and ins[0].dtype is out.dtype and ins[0].size == out.size:
        assert ins[0].const is not None
        return ins[0].const.reshape(out.shape)
    if not isinstance(sem, Move):
        return None
    graph = Graph(tuple(tensors), (), (), (), Source("", "", "tflite"))
    try:
        sem.check(node, graph)
    except ModelError:  # said where the node is checked
        return None
    return np.array(sem.run_float(node, graph, [t.const for t in ins])[0]).reshape(out.shape)
