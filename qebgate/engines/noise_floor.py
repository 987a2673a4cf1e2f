"""The cost of rounding as free noise at one input: what no bound of this kind can get below.

Around a point where most codes are uncertain, every neuron's rounding is a free number in
``[-u/2, u/2]``, u its quantum.  To first order the worst they can do to one output is

    floor_k = sum over layers  | d output_k / d pre-activation |_1 * u / 2

with the derivatives of the float network at the region's centre (reverse mode through the canonical
layers).  Where that is beyond the limit, or near the range of the outputs, a region with many free inputs
will stay unknown however hard the bounds try: ask about points, segments or a few free inputs instead.
An estimate for people and for choosing engines, not a bound: nothing is proven from it.

It steers the portfolio: where it is beyond the limit and beyond the outputs' own range, and intervals
cannot fix enough codes either, bounds and solvers are not tried and the answer is an UNKNOWN at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Gap, Interval
from qebgate.domains.layers import ROOT, Affine, Layer, MaxPool, Opaque
from qebgate.domains.linear_map import gather
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.contributions import Reference, behind_curve, input_layers
from qebgate.engines.dra.program import Program, direct, program
from qebgate.evidence import Floor
from qebgate.numerics.rounding import F64
from qebgate.task import Task

CHUNK = 1 << 22
"""Bytes of one array of derivatives."""
STEP = 2.0**-12
"""Half the step of the difference quotient through a function of one entry."""


@dataclass(frozen=True, slots=True, eq=False)
class NoiseFloor:
    """``floor`` [K] at the entries ``index`` [K] of the value ``output``, in real units.

    ``span`` is the largest minus the smallest of the value's entries at the same input; ``layers`` holds
    every layer's share of the largest floor, in order.
    """

    output: int
    index: NDArray[np.intp]
    floor: F64
    span: float
    layers: tuple[tuple[str, float], ...]

    @property
    def worst(self) -> float:
        return float(self.floor.max(initial=0.0))


def steer(task: Task, pulse: Callable[[], None] = lambda: None) -> tuple[Floor, bool]:
    """The floor of a task, and whether it says that bounds are hopeless.

    They are where the floor is beyond the limit and beyond the range that the quantized outputs have at
    all, even if only those neurons count whose codes intervals leave open: a small region may fix most.
    """
    p = direct(program(task))
    noise = noise_floor(p, task.outputs)
    grid = next((x.grid for x in p.layers if isinstance(x, Affine) and x.output == noise.output), None)
    floor = Floor(noise.worst, noise.span if grid is None else grid.range[1] - grid.range[0])
    # a limit on a softmax says nothing about what goes into it
    enough = max(floor.span, task.prop.limit * task.prop.unit if noise.output == p.output else 0.0)
    if grid is None or not noise.worst > enough:
        return floor, False
    states = Analysis(p.layers, p.box, Settings(refine=False), pulse=pulse).run().states
    is_open = {k: s.codes[0] < s.codes[1] for k, s in states.items() if s.codes is not None}
    return floor, noise_floor(p, task.outputs, is_open).worst > enough


def noise_floor(
    p: Program, outputs: Sequence[int], is_open: Mapping[int, NDArray[np.bool_]] | None = None
) -> NoiseFloor:
    """The floor of a task's program at the centre of its box; of the neurons that ``is_open``, by value (None: all).

    Where the compared value is bounded by intervals only (softmax, sigmoid), that of what goes into it:
    all its entries, because each of them moves every output.
    """
    reference = Reference.at(p.layers, p.box.centre)
    output, index = p.output, np.asarray(outputs, dtype=np.intp)
    behind = behind_curve(p)
    if behind is not None:
        output, index = behind, np.arange(reference.values[behind].size)
    value = reference.values[output]
    widest = max(v.size for v in reference.values.values())
    rows = max(1, CHUNK // (8 * widest))
    noise = [
        _per_layer(p.layers, reference, (output, part), is_open or {})
        for part in np.array_split(index, max(1, -(-index.size // rows)))
        if part.size
    ]
    shares = {k: np.concatenate([n[k] for n in noise]) for k in noise[0]} if noise else {}
    floor = sum(shares.values(), np.zeros(index.size))
    k = int(np.argmax(floor)) if floor.size else 0
    layers = tuple((x.label, float(shares[x.output][k])) for x in p.layers if x.output in shares)
    return NoiseFloor(output, index, floor, float(np.ptp(value)), layers)


def _per_layer(
    layers: Sequence[Layer],
    at: Reference,
    target: tuple[int, NDArray[np.intp]],
    is_open: Mapping[int, NDArray[np.bool_]],
) -> Mapping[int, F64]:
    """Every rounding layer's share of the floor of some entries of a value, by the layer's output."""
    output, index = target
    inputs = input_layers(layers)
    one = np.zeros((index.size, at.values[output].size))
    one[np.arange(index.size), index] = 1.0
    back: dict[int, F64] = {output: one}
    shares: dict[int, F64] = {}

    def add(i: int, g: F64) -> None:
        back[i] = back[i] + g if i in back else g

    for layer in reversed(layers):
        g = back.pop(layer.output, None)
        if g is None:
            continue
        if isinstance(layer, Affine):
            z, (a, b) = at.pre[layer.output], layer.float_range
            g = g * ((z > a) & (z < b))
            if layer.grid is not None and layer.output not in inputs and (layer.below.any() or layer.above.any()):
                counted = np.abs(g) if layer.output not in is_open else np.abs(g) * is_open[layer.output]
                shares[layer.output] = counted.sum(axis=1) * (layer.grid.unit / 2)
            for m, i in zip(layer.f, layer.inputs, strict=True):
                if i != ROOT:
                    add(i, m.back(g))
        elif isinstance(layer, MaxPool):
            (source,) = layer.inputs
            v = at.values[source]
            window = np.where(layer.index < 0, -np.inf, v[np.maximum(layer.index, 0)])
            chosen = layer.index[np.arange(len(window)), window.argmax(axis=1)]
            add(source, gather(chosen, v.size).back(g))
        elif len(layer.inputs) == 1 and not layer.recurrent:
            (source,) = layer.inputs
            add(source, g * _slope(layer, at.values[source]))
        elif layer.lines is not None:  # a product: its lines at a point are its derivatives
            points = [_point(at.values[i]) for i in layer.inputs]
            for m, i in zip(layer.lines(points, layer.transform(points)).maps, layer.inputs, strict=True):
                add(i, m.back(g))
    return shares


def _point(v: F64) -> Gap:
    point = Interval.point(v)
    return Gap(point, point, Interval.point(np.zeros_like(v)))


def _slope(layer: Opaque, x: F64) -> F64:
    """Derivative of a function of one entry, by a central difference."""

    def value(v: F64) -> F64:
        return layer.float_transform([_point(v)]).float.centre

    return (value(x + STEP) - value(x - STEP)) / (2 * STEP)
