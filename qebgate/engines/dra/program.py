"""From a task to canonical layers: the pair's own, and before them what turns inputs into codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.domains.layers import ROOT, Affine, CodeGrid, Layer, Noise
from qebgate.domains.linear_map import Dense, Scale
from qebgate.errors import UnsupportedError
from qebgate.ir.graph import INPUT_PART
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64, SAFETY, TINY32, TINY64, U32, U64, gamma
from qebgate.ops.registry import lower
from qebgate.regions.cell import Cell, InputCodec, JoinedCodec
from qebgate.task import Task

NEAREST_SLACK = 2.0**-14
"""Four float32 roundings of at most 256 quanta: however an application divides by the scale."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Layers in topological order, the flattened input box, and the value that is compared."""

    layers: tuple[Layer, ...]
    box: Interval
    output: int


def program(task: Task) -> Program:
    """The canonical form of a task."""
    layers = lower(task.pair, task.runtime, float32=task.float_semantics == "float32")
    box = Interval(task.cell.lower.ravel().copy(), task.cell.upper.ravel().copy())
    line = task.cell.line
    first = _identity(box) if isinstance(task.codec, JoinedCodec) else input_layer(task.cell, task.codec, box)
    if line is not None and not line.grid and task.float_semantics == "float32":
        first = replace(first, noise=_rounded)
    if isinstance(task.codec, JoinedCodec):
        layers = _parts_of(layers, task.codec, task)
    else:
        layers = tuple(_on_grid(x, task.codec, task.cell.codes, 0) for x in layers)
    layers = (first, *layers)
    return condensed(Program(layers, box, task.pair.output))


def _rounded(x: Sequence[Interval]) -> F64:
    """The real points of a segment reach a float32 evaluation as float32 numbers."""
    return U32 * x[0].magnitude + TINY32


def condensed(p: Program) -> Program:
    """The same program with fewer layers."""
    return _without_scaling(_without_moves(p))


def _on_grid(layer: Layer, codec: InputCodec, codes: tuple[Array, Array] | None, given: int) -> Layer:
    """The model's own QUANTIZE of a grid region (value ``given``) gives back the very codes that it is made of.

    ``float32((q - z) * s) / s`` is within 2**-15 of the integer ``q - z``, so any rounding returns it.
    """
    if not (codec.in_model and codes is not None and isinstance(layer, Affine) and layer.inputs == (given,)):
        return layer
    grid = layer.grid
    if grid is None or (grid.unit, grid.zero) != (codec.scale, codec.zero_point) or layer.f != (Scale(1.0, layer.m),):
        return layer
    error = _grid_error(codec, layer.m)
    fixed = (codes[0].ravel().astype(np.int64), codes[1].ravel().astype(np.int64))
    return replace(layer, below=error, above=error, fixed_codes=fixed)


def _parts_of(layers: Sequence[Layer], codec: JoinedCodec, task: Task) -> tuple[Layer, ...]:
    """Where several inputs are joined: what the quantized model is given for each of them is its own part's layer.

    The joined value itself is real and the same on both sides; only its parts have scales.
    """
    cell = task.cell
    assert cell.line is None
    whole = Interval(cell.lower.ravel(), cell.upper.ravel())
    out = list(layers)
    for step in task.pair.steps:
        if step.op != INPUT_PART:
            continue
        node = step.quantized_node
        assert node is not None
        part, own = next((p, c) for p, c in zip(codec.parts, codec.each, strict=True) if p.tensor == node.outputs[0])
        at = slice(part.start, part.start + part.size)
        codes = None if cell.codes is None else (cell.codes[0].ravel()[at], cell.codes[1].ravel()[at])
        box = Interval(whole.lo[at], whole.hi[at])
        for k, layer in enumerate(out):
            if layer.output == step.output and isinstance(layer, Affine):
                given = _given(own, codes, box)
                out[k] = replace(
                    layer, below=given.below, above=given.above, grid=given.grid, fixed_codes=given.fixed_codes,
                    codes_of_inputs=None,
                )  # fmt: skip
            else:
                out[k] = _on_grid(layer, own, codes, step.output)
    return tuple(out)


def _without_scaling(p: Program) -> Program:
    """Where the input is only scaled on either side, dense layers read it directly.

    Their gap is then a linear function of the input.  The float side's weights are rounded once more,
    and the scaled input may have an error of its own: both become noise of the layer.  The quantized
    side's factor is a power of two, so that its weights stay exact.
    """
    first = p.layers[0]
    if not (isinstance(first, Affine) and first.only_scales) or first.output == p.output:
        return p
    f, q = first.f[0], first.q[0]
    assert isinstance(f, Scale) and isinstance(q, Scale)
    if abs(math.frexp(q.factor)[0]) != 0.5:
        return p
    kept: list[Layer] = []
    for layer in p.layers[1:]:
        if first.output not in layer.inputs:
            kept.append(layer)
        elif isinstance(layer, Affine) and len(layer.inputs) == 1:
            fd, qd = layer.f[0], layer.q[0]
            if not (isinstance(fd, Dense) and isinstance(qd, Dense)):
                return p
            folded = fd.times(f.factor)
            noise = _folded_noise(first, layer, fd, folded)
            kept.append(replace(layer, inputs=(ROOT,), f=(folded,), q=(qd.times(q.factor),), noise=noise))
        else:
            return p
    return Program(tuple(kept), p.box, p.output)


def _folded_noise(first: Affine, layer: Affine, weights: Dense, folded: Dense) -> Noise | None:
    """``|weights| e + r |folded| x`` and the layer's own noise, for inputs x scaled with error e; r is one rounding."""
    scale = first.f[0]
    assert isinstance(scale, Scale)
    if first.noise is None and layer.noise is None and abs(math.frexp(scale.factor)[0]) == 0.5:
        return None

    def noise(computed: Sequence[Interval]) -> F64:
        (c,) = computed
        x = c.magnitude
        error = np.zeros_like(x) if first.noise is None else first.noise(computed)
        total = 2 * U64 * folded.absolute.forward(x[None])[0] + weights.absolute.forward(error[None])[0]
        if layer.noise is not None:
            ends = c.lo * scale.factor, c.hi * scale.factor
            scaled = Interval(np.minimum(*ends), np.maximum(*ends)).widened(0.0, 0.0).widened(error, error)
            total = total + layer.noise([scaled])
        return total * (1 + SAFETY * gamma(2 * folded.terms + 8)) + folded.terms * TINY64

    return noise


def direct(p: Program) -> Program:
    """The same program without an input layer that hands the region's integers on as they are."""
    first = p.layers[0]
    if not isinstance(first, Affine) or first.inputs != (ROOT,) or first.fixed_codes is None or first.grid is None:
        return p
    exact = first.grid.unit == 1.0 and first.grid.zero == 0 and not (first.below.any() or first.above.any())
    if not (exact and first.f[0] == first.q[0] == Scale(1.0, first.m)) or first.output == p.output:
        return p
    place = {first.output: ROOT}
    kept = tuple(replace(x, inputs=tuple(place.get(i, i) for i in x.inputs)) for x in p.layers[1:])
    return _without_scaling(Program(kept, p.box, p.output))


def _without_moves(p: Program) -> Program:
    """The same program without layers that are the identity on both sides (RESHAPE): their value is their input's."""
    same: dict[int, int] = {}
    kept: list[Layer] = []
    for layer in p.layers:
        inputs = tuple(same.get(i, i) for i in layer.inputs)
        if isinstance(layer, Affine) and layer.is_identity:
            same[layer.output] = inputs[0]
        else:
            kept.append(replace(layer, inputs=inputs))
    return Program(tuple(kept), p.box, same.get(p.output, p.output))


def input_layer(cell: Cell, codec: InputCodec, box: Interval) -> Affine:
    """Value 0: the float input itself, and what the quantized model is given for it.

    On the grid the float model reads ``float32((q - z) * s)`` and the quantized one the code q.  For
    real inputs the application rounds, unless the quantized model takes floats and does it itself.
    """
    return _given(codec, cell.codes, box)


def _identity(box: Interval) -> Affine:
    one, zero = Scale(1.0, box.lo.size), np.zeros(box.lo.size)
    return Affine("input", (ROOT,), 0, (one,), (one,), zero, zero, (-np.inf, np.inf), zero, zero, None)


def _given(codec: InputCodec, codes: tuple[Array, Array] | None, box: Interval) -> Affine:
    n, base = box.lo.size, _identity(box)
    if codec.in_model:
        return base
    lo, hi = codec.dtype.code_range
    grid = CodeGrid(codec.scale, codec.zero_point, lo, hi)
    if codes is not None:
        error = _grid_error(codec, n)
        fixed = (codes[0].ravel().astype(np.int64), codes[1].ravel().astype(np.int64))
        return replace(base, below=error, above=error, grid=grid, fixed_codes=fixed)
    below, above = _application_rounding(codec, box)
    return replace(base, below=below * codec.scale, above=above * codec.scale, grid=grid)


def _grid_error(codec: InputCodec, n: int) -> F64:
    """Largest ``|float32((q - z) * s) - (q - z) * s|`` over all codes; the products are exact in float64."""
    lo, hi = codec.dtype.code_range
    exact = (np.arange(lo, hi + 1) - codec.zero_point) * codec.scale
    return np.full(n, np.abs(exact.astype(np.float32).astype(np.float64) - exact).max())


def _application_rounding(codec: InputCodec, box: Interval) -> tuple[F64, F64]:
    """Envelope of ``code - zero_point - x / scale`` before the clip, in quanta."""
    n = box.lo.size
    if codec.mode == "nearest":
        return np.full(n, 0.5 + NEAREST_SLACK), np.full(n, 0.5 + NEAREST_SLACK)
    if codec.mode == "truncate":
        # truncation towards zero of x / scale + zero_point: down where that is positive, up where negative
        shifted_lo = box.lo / codec.scale + codec.zero_point
        shifted_hi = box.hi / codec.scale + codec.zero_point
        below = np.where(shifted_hi <= -1.0, 0.0, 1.0) + NEAREST_SLACK
        above = np.where(shifted_lo >= 1.0, 0.0, 1.0) + NEAREST_SLACK
        return below, above
    raise UnsupportedError(
        "QEB454",
        "real inputs of an integer model need to know how the application rounds them",
        fix="set input_quantization: nearest (or truncate) for the model",
    )
