"""Recognition of quantization schemes that are not full integer quantization.

A runtime executes them with rules of its own (hybrid kernels quantize activations on the fly, constants
are dequantized first): reading their integer weights as if they were numbers would be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from qebgate.errors import ModelError, UnsupportedError
from qebgate.ir.graph import Node
from qebgate.ir.tensor import DType, Tensor

_FULL_INTEGER = (
    "convert with a representative data set, `optimizations = [tf.lite.Optimize.DEFAULT]` and "
    "`supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]`"
)
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "CAST")

SCHEME = "QEB435"
"""Code of the errors of this module."""

DYNAMIC_RANGE = "dynamic-range quantization is not supported: int8 weights with float activations"
WEIGHT_ONLY = "weight-only quantization is not supported: integer weights that are dequantized before use"
FLOAT16_WEIGHTS = "float16 quantization is not supported: float16 weights that are dequantized before use"
FLOAT16 = "float16 computation is not supported"


def find_schemes(nodes: Sequence[Node], tensors: Sequence[Tensor]) -> tuple[list[ModelError], set[int]]:
    """One error per scheme that is not supported, and the positions of the nodes that they concern."""
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


def _scheme(node: Node, tensors: Sequence[Tensor]) -> str | None:
    ins = [tensors[i] for i in node.inputs if i >= 0]
    outs = [tensors[o] for o in node.outputs]
    constant_codes = any(t.is_const and t.dtype.is_code for t in ins)
    if node.op == "DEQUANTIZE" and ins and ins[0].is_const:
        return FLOAT16_WEIGHTS if ins[0].dtype is DType.FLOAT16 else WEIGHT_ONLY
    if any(t.dtype is DType.FLOAT16 for t in ins + outs):
        return FLOAT16
    floats = any(t.dtype is DType.FLOAT32 and not t.is_const for t in ins + outs)
    if floats and constant_codes and node.op not in _CONVERSIONS:
        return DYNAMIC_RANGE
    return None
