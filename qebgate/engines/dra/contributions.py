"""Where a bound comes from: the final back-substitution once more, with every step's share written down.

**Definition.**  Let ``x0`` be the centre of the region and ``h_l``, ``z_l`` the float network's values and
pre-activations there.  Every form ``a_h . h + a_g . hq + a_d . delta + c`` of the back-substitution is
evaluated at one reference: both networks hold the float values, ``(h, hq, delta) = (h_l, h_l, 0)``, and
likewise ``(z, zq, D) = (z_l, z_l, 0)`` before an activation.  The form that is bounded (the gap of one
output, or its negative) is 0 there, and the last one, its supremum over the box, is the bound ``U``.  So
``U`` is the sum of what every step adds:

* through a layer with weights, neuron by neuron:
  ``(c_q + c_d) * ((Wq - W) h)`` **weights** and ``(c_q + c_d) * (bq - b)`` **biases**, because
  ``zq = Wq hq + bq`` and ``D = Wq delta + (Wq - W) h + (bq - b)`` at the reference below;
  ``|c_z - c_d| * noise`` is the **float32** evaluation error of the reference network;
* where an activation is replaced by its line, ``a * (line(z_l, z_l, 0) - value)`` with ``value`` h_l, h_l
  or 0.  Of this, ``(a_g + a_d) * (clamp_q(z_l) - clamp(z_l))`` is **saturation**: where the two clamps
  differ.  The rest is **rounding** where both sides are known to be on the same linear piece of their
  clamps.  Elsewhere rounding is the envelope's share of the line (``max((d + q) above, -(d + q) below)``,
  at most the rest) and what remains is **unstable**: the line is not the function;
  the rounding and saturation of the inputs themselves are **input**;
* at the root, ``a . (x - x0)`` at its largest: **region**, how much the parts (taken at the centre) can
  grow as the input moves; mostly weight rounding and slopes, times the radius;
* values that are bounded by intervals only are **intervals**; our own outward rounding is **roundoff**;
* **tightening** (never positive): the bound in force may be another one of the same output (plain
  intervals, other slopes), smaller than the back-substituted one that is taken apart here.

Parts are signed: weight rounding may work against the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.crop import Crop
from qebgate.domains.gap import Gap, Interval
from qebgate.domains.layers import ROOT, Affine, Layer, MaxPool, Opaque
from qebgate.domains.linear_map import Scale, Sparse
from qebgate.domains.lines import GapLine, Line
from qebgate.engines.dra.analysis import Analysis
from qebgate.engines.dra.backward import Backward, Form, Pre, Resolved, Run
from qebgate.engines.dra.program import Program
from qebgate.engines.dra.slopes import tune
from qebgate.errors import InternalError
from qebgate.numerics.rounding import F64

Source = Literal[
    "weights", "biases", "rounding", "saturation", "input", "unstable", "float32", "intervals", "region", "roundoff",
    "tightening",
]  # fmt: skip
Side = Literal["lower", "upper"]

SOURCES: tuple[Source, ...] = (
    "weights", "biases", "rounding", "saturation", "input", "unstable", "float32", "intervals", "region", "roundoff",
    "tightening",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class LayerShare:
    """What one layer adds to a bound: per source, an entry per channel (the last axis of its output)."""

    label: str
    output: int
    """Position of the layer's value; :data:`ROOT` for the region, None of which for the analysis itself."""
    parts: Mapping[Source, F64]

    @property
    def total(self) -> float:
        return float(sum(v.sum() for v in self.parts.values()))

    @property
    def channels(self) -> F64:
        """All sources, per channel."""
        return np.sum([*self.parts.values()], axis=0)

    def of(self, source: Source) -> float:
        return float(self.parts[source].sum()) if source in self.parts else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Contributions:
    """The parts of ``bound``: the proven upper bound of the gap at ``entry``, or of its negative (``lower``).

    ``layers`` from the input to the output, then the region and the analysis itself.
    """

    entry: int
    side: Side
    bound: float
    layers: tuple[LayerShare, ...]
    region: LayerShare
    analysis: LayerShare

    @property
    def shares(self) -> tuple[LayerShare, ...]:
        return (*self.layers, self.region, self.analysis)

    @property
    def total(self) -> float:
        """The sum of all parts: ``bound`` up to float64 roundoff."""
        return float(sum(s.total for s in self.shares))

    def of(self, source: Source) -> float:
        """One source, over all layers."""
        return float(sum(s.of(source) for s in self.shares))


def contributions(
    a: Analysis,
    p: Program,
    entry: int,
    side: Side,
    *,
    channels: Mapping[int, int],
    output: int | None = None,
    iterations: int = 0,
) -> Contributions:
    """Take the proven bound of one entry of ``output`` (the compared value where None) apart.

    ``a`` has run.  ``channels`` gives the last axis of a value by its position (all its entries where
    missing).  ``iterations`` optimises the lines for this bound first.
    """
    output = p.output if output is None else output
    gap = a.gap(output, np.array([entry], dtype=np.intp))
    bound = float(gap.hi[0]) if side == "upper" else -float(gap.lo[0])
    sign = 1.0 if side == "upper" else -1.0
    one = np.zeros((1, a.states[output].size))
    one[0, entry] = sign
    reference = Reference.at(p.layers, a.root.centre)
    runs: list[_Recorder] = []
    attempts = [(a.backward, Form(d=one)), (a.backward, Form(h=-one, g=one))]
    if iterations:
        attempts.append((_tuned(a, output, Form(d=one), iterations), Form(d=one)))
    for lines, form in attempts:
        run = _Recorder(a, reference)
        run.found = float(lines.value(output, form, run)[0])
        runs.append(run)
    best = min(runs, key=lambda r: r.found)
    if best.found < bound - 1e-12 * abs(bound):  # optimised; else only another order of summation
        bound = best.found
    if not np.isfinite(best.found):
        raise InternalError("QEB912", "a bound that is not finite cannot be explained")
    if best.found - bound > 1e-12 * abs(bound):
        best.add("tightening", _ANALYSIS, np.array([bound - best.found]))
    shares = {layer.output: best.share(layer.label, layer.output, channels) for layer in p.layers}
    return Contributions(
        entry,
        side,
        bound,
        tuple(s for s in shares.values() if s.parts),
        best.share("region", ROOT, channels),
        best.share("analysis", _ANALYSIS, {}),
    )


def _tuned(a: Analysis, output: int, form: Form, iterations: int) -> Backward:
    """The layers with lines of their own for one bound, as the analysis itself tunes them."""
    facts = {
        layer.output: (layer, a.pre[layer.output], [a.states[i] for i in layer.inputs])
        for layer in a.layers
        if isinstance(layer, Affine)
    }
    lines = Backward(a.root)
    for resolved in tune(a.backward.layers, facts, a.root, (output, form), iterations):
        lines.push(resolved)
    return lines


def behind_curve(p: Program) -> int | None:
    """What goes into the softmax or sigmoid that makes the compared value; None where there is none."""
    makers = {layer.output: layer for layer in p.layers}
    layer = makers.get(p.output)
    while isinstance(layer, Affine) and layer.grid is None and layer.f == (Scale(1.0, layer.m),):
        layer = makers.get(layer.inputs[0])
    if not isinstance(layer, Opaque) or len(layer.inputs) != 1 or layer.recurrent:
        return None
    return layer.inputs[0]


_ANALYSIS = -2
"""Where parts without a layer are kept."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The float network's values at one input, and its pre-activations, by position of the value."""

    values: Mapping[int, F64]
    pre: Mapping[int, F64]

    @classmethod
    def at(cls, layers: Sequence[Layer], x: F64) -> Reference:
        """Execute the float side in float64.  Any numbers would do: the parts add up whatever they are."""
        values: dict[int, F64] = {ROOT: x}
        pre: dict[int, F64] = {}
        for layer in layers:
            h = [values[i] for i in layer.inputs]
            if isinstance(layer, Affine):
                z = layer.bf + sum(m.forward(v[None])[0] for m, v in zip(layer.f, h, strict=True))
                pre[layer.output] = z
                values[layer.output] = np.clip(z, *layer.float_range)
            elif isinstance(layer, MaxPool):
                values[layer.output] = np.where(layer.index < 0, -np.inf, h[0][np.maximum(layer.index, 0)]).max(1)
            else:
                points = [Gap(Interval.point(v), Interval.point(v), Interval.point(np.zeros_like(v))) for v in h]
                values[layer.output] = layer.float_transform(points).float.centre
        return cls(values, pre)


def input_layers(layers: Sequence[Layer]) -> frozenset[int]:
    """Layers that only turn the region's inputs into codes: their rounding is input quantization."""
    raw, found = {ROOT}, set[int]()
    for layer in layers:
        if (
            isinstance(layer, Affine)
            and set(layer.inputs) <= raw
            and all(m == Scale(1.0, layer.m) or (isinstance(m, Sparse) and m.selects) for m in (*layer.f, *layer.q))
            and layer.float_range == (-np.inf, np.inf)
            and not layer.bf.any()
        ):
            found.add(layer.output)
            if layer.grid is None:
                raw.add(layer.output)
    return frozenset(found)


class _Recorder(Run):
    """A back-substitution of one row that writes down what each step adds at the reference."""

    def __init__(self, a: Analysis, reference: Reference) -> None:
        super().__init__(a.root, 1)
        self.a = a
        self.reference = reference
        self.layers = {layer.output: layer for layer in a.layers}
        self.inputs = input_layers(a.layers)
        self.parts: dict[int, dict[Source, F64]] = {}
        self.found = np.inf

    def add(self, source: Source, output: int, values: F64) -> None:
        """Add a part, per neuron."""
        mine = self.parts.setdefault(output, {})
        mine[source] = mine[source] + values if source in mine else values

    def share(self, label: str, output: int, channels: Mapping[int, int]) -> LayerShare:
        """All parts of one value, per channel; parts that are 0 everywhere are left out."""
        mine = self.parts.get(output, {})
        found: dict[Source, F64] = {}
        for s in SOURCES:
            if s in mine and mine[s].any():
                found[s] = mine[s].reshape(-1, channels.get(output, mine[s].size)).sum(axis=0)
        return LayerShare(label, output, found)

    def relax(self, layer: Resolved, form: Form) -> Pre:
        pre = super().relax(layer, form)
        k = layer.output
        source = self.layers[k]
        h = self.reference.values[k]
        z = self.reference.pre.get(k)
        if z is None:  # a pool: the float winner's value stands for both; nothing where intervals bound the value
            z = np.zeros_like(h)
            for m, i in zip(layer.f, layer.inputs, strict=True):
                z = m.forward(self.reference.values[i][None])[0]
        zero = np.zeros_like(h)
        lines = zip(layer.over, layer.under, strict=True)
        stream = zip(("h", "g", "d"), (form.h, form.g, form.d), lines, (h, h, zero), strict=True)
        for name, coeff, (top, low), value in stream:
            over, under = _in_gap_form(top), _in_gap_form(low)
            if coeff is None:
                continue
            pos, neg = np.maximum(coeff[0], 0.0), np.minimum(coeff[0], 0.0)
            above = (over.z + over.q) * z + (over.intercept - value)
            below = (under.z + under.q) * z + (under.intercept - value)
            slack = pos * above + neg * below
            if not isinstance(source, Affine):
                self.add("unstable" if isinstance(source, MaxPool) else "intervals", k, slack)
            elif name == "h":
                self.add("unstable", k, slack)
            else:
                self._split_slack(source, z, slack, pos, neg, over, under, both=name == "d")
        return pre

    def _split_slack(
        self, layer: Affine, z: F64, slack: F64, pos: F64, neg: F64, over: GapLine, under: GapLine, *, both: bool
    ) -> None:
        """Saturation, rounding and instability of the quantized side's (or the gap's) lines of one layer."""
        pre = self.a.pre[layer.output]
        (a, b), (aq, bq) = layer.float_range, layer.quantized_range if layer.grid is None else layer.grid.range
        saturation = (pos + neg) * (np.clip(z, aq, bq) - np.clip(z, a, b))
        rest = slack - saturation
        q_piece = _piece(pre.q.widened(pre.below, pre.above), aq, bq)
        stable = q_piece >= 0
        if both:
            stable &= _piece(pre.z, a, b) == q_piece
        up, low = over.d + over.q, under.d + under.q
        envelope = pos * np.maximum(up * pre.above, -up * pre.below) - neg * np.maximum(
            low * pre.below, -low * pre.above
        )
        rounding = np.where(stable, rest, np.clip(envelope, 0.0, np.maximum(rest, 0.0)))
        if layer.output in self.inputs:
            self.add("input", layer.output, saturation + rounding)
        else:
            self.add("saturation", layer.output, saturation)
            self.add("rounding", layer.output, rounding)
        self.add("unstable", layer.output, rest - rounding)

    def through(self, layer: Resolved, pre: Pre, seen: tuple[Crop, ...] | None) -> None:
        super().through(layer, pre, seen)
        k = layer.output
        affine = isinstance(self.layers[k], Affine)
        zero = np.zeros(layer.bf.size)
        cz, cq, cd = (zero if c is None else c[0] for c in (pre.z, pre.q, pre.d))
        h = [self.reference.values[i][None] for i in layer.inputs]
        if h:
            moved = np.sum([m.forward(v)[0] for m, v in zip(layer.diff, h, strict=True)], axis=0)
            self.add("weights" if affine else "unstable", k, (cq + cd) * moved)
        self.add("biases" if affine else "unstable", k, cq * (layer.bq - layer.bf) + cd * layer.bd)
        if layer.noise is not None:
            self.add("float32", k, np.abs(cz - cd) * layer.noise)

    def concretise(self, scale: float) -> F64:
        form = self.live.get(ROOT)
        a = np.zeros_like(self.root.lo)
        if form is not None:
            a = sum((c[0] for c in (form.h, form.g) if c is not None), a)
        x0, ends = self.reference.values[ROOT], np.where(a > 0, self.root.hi, self.root.lo)
        self.add("region", ROOT, a * (ends - x0))
        bound = super().concretise(scale)
        self.add("roundoff", _ANALYSIS, bound - (self.constant + a @ ends + self.noise))
        return bound


def _in_gap_form(line: Line | GapLine) -> GapLine:
    """A line of one pre-activation as one of zq (its value at the reference is the same for z)."""
    if isinstance(line, GapLine):
        return line
    zero = np.zeros_like(line.slope)
    return GapLine(zero, zero, line.slope, line.intercept)


def _piece(x: Interval, a: float, b: float) -> NDArray[np.intp]:
    """Which linear piece of a clamp an interval is on: 0 below, 1 inside, 2 above, -1 on several."""
    return np.select([(x.lo >= a) & (x.hi <= b), x.hi <= a, x.lo >= b], [1, 0, 2], -1)
