"""Whether two quantized graphs are the same network, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qebgate.ir.graph import Graph
from qebgate.ir.tensor import Tensor
from qebgate.semantics.binary import BinaryAttrs


@dataclass
class Differences:
    """Numbers of integers and of scales that were compared, and what was found."""

    compared: int = 0
    scales: int = 0
    words: list[str] = field(default_factory=list)


def differences(a: Graph, b: Graph) -> Differences:
    """Operators, attributes, integer constants, scales and zero points.  Shapes' own constants do not count."""
    out = Differences()
    if [n.op for n in a.nodes] != [n.op for n in b.nodes]:
        out.words.append(f"{[n.op for n in a.nodes]} and {[n.op for n in b.nodes]}")
        return out
    for m, n in zip(a.nodes, b.nodes, strict=True):
        moved = m.op == "RESHAPE"
        if not moved and _meant(m.attrs) != _meant(n.attrs):
            out.words.append(f"{m.origin}: {m.attrs} and {n.attrs}")
        count = 1 if moved else max(len(m.inputs), len(n.inputs))
        pairs = list(zip(m.inputs[:count], n.inputs[:count], strict=True)) + list(
            zip(m.outputs, n.outputs, strict=True)
        )
        for k, (i, j) in enumerate(pairs):
            out.words += [f"{m.origin}, tensor {k}: {w}" for w in _tensor(a.tensors[i], b.tensors[j], out)]
    return out


def _meant(attrs: object) -> object:
    """Attributes without the flag of sums that only int16 files have a use for."""
    return attrs.activation if isinstance(attrs, BinaryAttrs) else attrs


def _tensor(a: Tensor, b: Tensor, out: Differences) -> list[str]:
    words: list[str] = []
    if (a.shape, a.dtype, a.is_const, a.quant is None) != (b.shape, b.dtype, b.is_const, b.quant is None):
        return [f"{a.shape} {a.dtype} and {b.shape} {b.dtype}"]
    if a.const is not None and b.const is not None:
        out.compared += a.const.size
        if not np.array_equal(a.const, b.const):
            words.append(f"{int((a.const != b.const).sum())} of {a.const.size} integers")
    if a.quant is not None and b.quant is not None:
        out.scales += a.quant.scale.size
        if a.quant.axis != b.quant.axis or not np.array_equal(a.quant.scale, b.quant.scale):
            words.append(f"scales {a.quant.scale[:4]} and {b.quant.scale[:4]}")
        elif not np.array_equal(a.quant.zero_point, b.quant.zero_point):
            words.append(f"zero points {a.quant.zero_point[:4]} and {b.quant.zero_point[:4]}")
    return words
