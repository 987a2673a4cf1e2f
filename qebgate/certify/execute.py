"""Parts of a grid region that are executed: the quantized network exactly, the float network within its error.

The float network is evaluated in float64 by the rows that everything else uses.  What any allowed evaluation of it can
differ by goes through the layers as ``|F| e``, plus what each layer's own arithmetic adds; neurons that are clamped
for every input pass nothing on.
"""

from __future__ import annotations

import math

import numpy as np

from qebgate.certify.box import I64, Box
from qebgate.certify.errors import EvidenceError
from qebgate.certify.matrices import Matrix, forward
from qebgate.certify.rows import ROOT, Layer, Program
from qebgate.ir.pair import Pair
from qebgate.numerics.rounding import F64, SAFETY, TINY64, down, gamma, up
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.execute import run_int

MOST = 1 << 14
"""Points of one part at most."""


def executed(
    pair: Pair, cell: Cell, codec: InputCodec, runtime: Runtime, outputs: tuple[int, ...], p: Program
) -> tuple[F64, F64]:
    """``lower <= quantized - float <= upper`` at the outputs, for every input of a grid cell."""
    if cell.codes is None:
        raise EvidenceError("QEB481", "the evidence is damaged: a part of real inputs is executed")
    lo, hi = (c.ravel().astype(np.int64) for c in cell.codes)
    total = math.prod((hi - lo + 1).tolist())
    if total > MOST:
        raise EvidenceError("QEB481", f"the evidence is damaged: more than {MOST} inputs are executed as one part")
    graph, index = pair.quantized, list(outputs)
    codes = _points(lo, hi, total).astype(np.int32)
    x = codec.grid(codes)
    given = (x if codec.in_model else codes).reshape(total, *graph.input.shape)
    y, t = run_int(graph, given, runtime)[graph.outputs[0]].reshape(total, -1)[:, index], graph.output
    q = t.q.dequantize(y) if t.dtype.is_code else y.astype(np.float64)
    h, error = floats(p, x.astype(np.float64))
    gap, e = q - h[:, index], error[index]
    return down(down(gap.min(axis=0)) - e), up(up(gap.max(axis=0)) + e)


def _points(lo: I64, hi: I64, total: int) -> I64:
    """Every code vector ``[total, n]``."""
    out = np.repeat(lo[None], total, axis=0)
    number = np.arange(total, dtype=np.int64)
    for i in np.flatnonzero(hi > lo).tolist():
        width = int(hi[i] - lo[i]) + 1
        out[:, i] += number % width
        number //= width
    return out


def floats(p: Program, x: F64) -> tuple[F64, F64]:
    """Float outputs ``[B, m]`` at inputs ``[B, n]``, and by how much [m] any allowed evaluation can be off them."""
    live: dict[int, tuple[F64, F64]] = {ROOT: (x, np.zeros(x.shape[1]))}
    last = {i: layer.output for layer in p.layers for i in layer.inputs}
    for layer in p.layers:
        live[layer.output] = _layer(layer, [live[i] for i in layer.inputs])
        for i in layer.inputs:
            if last[i] == layer.output and i in live:
                del live[i]
    return live[p.output]


def _layer(layer: Layer, inputs: list[tuple[F64, F64]]) -> tuple[F64, F64]:
    z = np.repeat(layer.bf[None], len(inputs[0][0]), axis=0)
    size, error = np.abs(layer.bf), np.zeros(layer.m)
    boxes: list[Box] = []
    for m, (h, e) in zip(layer.f, inputs, strict=True):
        z += _images(m, h)
        box = Box(h.min(axis=0), h.max(axis=0)).widened(e, e)
        boxes.append(box)
        absolute = abs(m)
        size, error = size + forward(absolute, box.magnitude), error + forward(absolute, e)
    if layer.noise is not None:
        error = error + layer.noise(boxes)
    off = SAFETY * gamma(layer.size + 16) * (size + error) + layer.size * TINY64
    error = up(error + off)
    a, b = layer.clamp
    still = (up(z.max(axis=0) + error) <= a) | (down(z.min(axis=0) - error) >= b)
    return z.clip(a, b), np.where(still, 0.0, error)


def _images(m: Matrix, h: F64) -> F64:
    """``h m^T`` for rows ``h [B, n]``."""
    if m.ndim == 1:
        return h * m
    return h @ m.T if isinstance(m, np.ndarray) else (m @ h.T).T
