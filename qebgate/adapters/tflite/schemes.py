"""Quantization schemes other than full integers: constants that are dequantized first, hybrid operators.

A DEQUANTIZE of a constant is what the file says about the constant, not a step of the network: the constant becomes
the float32 numbers that it stands for, and remembers how it is stored.  What no runtime here executes, or executes
in a way that was not measured, is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qebgate.errors import ModelError, UnsupportedError
from qebgate.ir.graph import Node
from qebgate.ir.tensor import Array, DType, Stored, Tensor

_FULL_INTEGER = (
    "convert with a representative data set, `optimizations = [tf.lite.Optimize.DEFAULT]` and "
    "`supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]`"
)

SCHEME = "QEB435"
"""Code of the errors of this module."""

HYBRID = frozenset({"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"})
"""Operators whose hybrid kernels (float activations, int8 weights) were read and measured."""

ASYMMETRIC = "a constant with one scale and a zero point that is dequantized before use is not supported"
FLOAT16 = "float16 computation is not supported"
PACKED = (
    "int4 constants are not supported here: only as weights of FULLY_CONNECTED, CONV_2D or DEPTHWISE_CONV_2D on int8"
)
OTHER = "dynamic-range quantization of {op} is not supported: integer constants with float activations"


def fold_constants(nodes: Sequence[Node], tensors: Sequence[Tensor]) -> tuple[tuple[Node, ...], tuple[Tensor, ...]]:
    """The graph without its DEQUANTIZE nodes on constants; what they give is constant itself."""
    out, kept = list(tensors), list[Node]()
    for n in nodes:
        made = _dequantized(n, out)
        if made is None:
            kept.append(n)
        else:
            out[n.outputs[0]] = made
    return tuple(kept), tuple(out)


def _dequantized(node: Node, tensors: Sequence[Tensor]) -> Tensor | None:
    """The constant that a DEQUANTIZE makes; None where there is nothing to fold, or a later check refuses it."""
    if node.op != "DEQUANTIZE" or len(node.inputs) != 1 or len(node.outputs) != 1:
        return None
    x, y = tensors[node.inputs[0]], tensors[node.outputs[0]]
    if x.const is None or (y.is_const and not y.variable) or y.dtype is not DType.FLOAT32 or x.shape != y.shape:
        return None
    values: Array
    if x.dtype is DType.FLOAT16:
        values = x.const.astype(np.float32)  # exact
    elif (
        x.dtype is DType.INT8
        and not x.packed
        and x.quant is not None
        and (x.quant.per_channel or not x.quant.zero_point.any())
    ):
        scale, zero = x.quant.along(x.const.ndim)
        # rounded once, in every runtime (builtin's vectors for a single scale would round a zero point apart)
        values = (x.const.astype(np.int64) - zero).astype(np.float32) * scale.astype(np.float32)
    else:
        return None
    if y.variable:  # a state's beginning, said twice: it is reset to zero
        return None if values.any() else y
    return replace(y, const=values, stored=Stored(x.dtype, x.quant), quant=None)


def find_schemes(nodes: Sequence[Node], tensors: Sequence[Tensor]) -> tuple[list[ModelError], set[int]]:
    """One error per scheme that is not supported, and the file positions of the nodes that they concern."""
    found: dict[str, list[Node]] = {}
    for n in nodes:
        scheme = _scheme(n, tensors)
        if scheme is not None:
            found.setdefault(scheme, []).append(n)
    errors: list[ModelError] = []
    for scheme, where in found.items():
        more = f" and {len(where) - 1} more operators" if len(where) > 1 else ""
        errors.append(UnsupportedError(SCHEME, scheme, where=where[0].origin + more, fix=_FULL_INTEGER))
    tainted = {o for where in found.values() for n in where for o in n.outputs}
    mixed = {n.index for where in found.values() for n in where}
    return errors, {n.index for n in nodes if n.index in mixed or tainted.intersection(n.inputs)}


def _int4_weights(node: Node, tensors: Sequence[Tensor]) -> bool:
    """Whether packed weights are where reference and builtin kernels unpack them into int8 first: measured."""
    if node.op not in HYBRID or len(node.inputs) < 2:
        return False
    x, w = tensors[node.inputs[0]], tensors[node.inputs[1]]
    others = (i for i in node.inputs if i != node.inputs[1] and i >= 0)
    grouped = node.op == "CONV_2D" and x.shape[-1:] != w.shape[-1:]
    return x.dtype is DType.INT8 and not grouped and not any(tensors[i].packed for i in others)


def _scheme(node: Node, tensors: Sequence[Tensor]) -> str | None:
    ins = [tensors[i] for i in node.inputs if i >= 0]
    outs = [tensors[o] for o in node.outputs]
    if any(t.packed for t in ins) and not _int4_weights(node, tensors):
        return PACKED
    if node.op == "DEQUANTIZE" and ins and ins[0].is_const:
        return ASYMMETRIC
    if any(t.dtype is DType.FLOAT16 for t in ins + outs):
        return FLOAT16
    floats = any(t.dtype is DType.FLOAT32 and not t.is_const for t in ins + outs)
    constant_codes = any(t.is_const and t.dtype.is_code for t in ins)
    if floats and constant_codes and node.op not in (*HYBRID, "QUANTIZE", "DEQUANTIZE", "CAST"):
        return OTHER.format(op=node.op)
    return None
