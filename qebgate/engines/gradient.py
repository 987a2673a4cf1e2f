"""Gradients of the gap with respect to the input, by straight-through estimation.

Heuristics for the search only: nothing here is trusted.  The quantized side's rounding has derivative 1
inside its clamp and 0 outside; a pool selects its largest entry; what is bounded by intervals only
(sigmoids, softmax) is treated as the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Gap, Interval
from qebgate.domains.layers import ROOT, Affine, Layer, MaxPool, Opaque
from qebgate.engines.dra.program import Program
from qebgate.numerics.rounding import F64

Pairs = tuple[F64, F64]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What a forward pass leaves for the way back: per layer, the derivatives (or selections) of both sides."""

    layer: Layer
    f: NDArray[np.bool_] | NDArray[np.intp]
    q: NDArray[np.bool_] | NDArray[np.intp]


def gap_gradient(p: Program, x: F64, weights: F64) -> F64:
    """Gradient ``[B, n]`` of ``weights [B, m] . (quantized - float)`` at ``x [B, n]`` (flattened, real units)."""
    if any(isinstance(layer, Opaque) and layer.recurrent for layer in p.layers):
        return np.zeros_like(x)  # what such a layer hands back is not known here
    values: dict[int, Pairs] = {ROOT: (x, x)}
    trace: list[Trace] = []
    for layer in p.layers:
        if isinstance(layer, Affine):
            values[layer.output] = _affine(layer, values, trace)
        elif isinstance(layer, MaxPool):
            values[layer.output] = _max(layer, values, trace)
        else:
            values[layer.output] = _opaque(layer, values)
            trace.append(Trace(layer, np.zeros(0, np.bool_), np.zeros(0, np.bool_)))
    back: dict[int, Pairs] = {p.output: (-weights, weights)}
    for t in reversed(trace):
        grad = back.pop(t.layer.output, None)
        if grad is not None:
            _back(t, grad, back, values)
    f, q = back.get(ROOT, (np.zeros_like(x), np.zeros_like(x)))
    return f + q


def _affine(layer: Affine, values: dict[int, Pairs], trace: list[Trace]) -> Pairs:
    z = layer.bf + sum(m.forward(values[i][0]) for m, i in zip(layer.f, layer.inputs, strict=True))
    zq = layer.bq + sum(m.forward(values[i][1]) for m, i in zip(layer.q, layer.inputs, strict=True))
    a, b = layer.float_range
    if layer.grid is None:
        aq, bq = layer.quantized_range
        hq = np.clip(zq, aq, bq)
    else:
        aq, bq = layer.grid.range
        rounded = np.rint(zq / layer.grid.unit) * layer.grid.unit if layer.above.any() else zq
        hq = np.clip(rounded, aq, bq)
    trace.append(Trace(layer, (z > a) & (z < b), (zq > aq) & (zq < bq)))
    return np.clip(z, a, b), hq


def _opaque(layer: Opaque, values: dict[int, Pairs]) -> Pairs:
    if len(layer.inputs) == 1:
        return values[layer.inputs[0]]
    f, q = (
        layer.float_transform([_points(values[i][side]) for i in layer.inputs]).float.centre.reshape(
            len(values[ROOT][0]), -1
        )
        for side in (0, 1)
    )
    return f, q


def _points(v: F64) -> Gap:
    point = Interval.point(v.ravel())
    return Gap(point, point, Interval.point(np.zeros(v.size)))


def _max(layer: MaxPool, values: dict[int, Pairs], trace: list[Trace]) -> Pairs:
    index, pad = np.maximum(layer.index, 0), layer.index < 0
    out: list[F64] = []
    chosen: list[NDArray[np.intp]] = []
    for v in values[layer.inputs[0]]:
        window = np.where(pad, -np.inf, v[:, index])
        arg = window.argmax(axis=2)
        out.append(np.take_along_axis(window, arg[..., None], 2)[..., 0])
        chosen.append(index[np.arange(len(index)), arg])
    trace.append(Trace(layer, chosen[0], chosen[1]))
    return out[0], out[1]


def _back(t: Trace, grad: Pairs, back: dict[int, Pairs], values: dict[int, Pairs]) -> None:
    layer = t.layer

    def add(i: int, f: F64, q: F64) -> None:
        back[i] = (back[i][0] + f, back[i][1] + q) if i in back else (f, q)

    if isinstance(layer, Affine):
        gf, gq = grad[0] * t.f, grad[1] * t.q
        for f, q, i in zip(layer.f, layer.q, layer.inputs, strict=True):
            add(i, f.back(gf), q.back(gq))
    elif isinstance(layer, MaxPool):
        source = layer.inputs[0]
        rows = np.arange(len(grad[0]))[:, None]
        parts: list[F64] = []
        for g, chosen in zip(grad, (t.f, t.q), strict=True):
            part = np.zeros_like(values[source][0])
            np.add.at(part, (rows, chosen), g)
            parts.append(part)
        add(source, parts[0], parts[1])
    else:  # what is broadcast to another size is left out
        for i in dict.fromkeys(layer.inputs):
            if values[i][0].shape == grad[0].shape:
                add(i, grad[0], grad[1])
