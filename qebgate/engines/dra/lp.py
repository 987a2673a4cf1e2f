"""A linear program over the analysis' own relaxation, and its certificate.

Variables are what the analysis bounds: z, zq, h, hq of every layer and the region's inputs, with
``D = zq - z`` and ``delta = hq - h`` written out.  Rows are the affine maps and every candidate line of every
neuron, from above and from below; bounds are the intervals that the analysis proved.

Nothing that the solver says is believed.  Its multipliers become parameters of one back-substitution:

* those of a neuron's lines are the weights of a convex mixture of them (any mixture of sound lines is sound);
* their sum over the lines of delta says how much of ``hq`` and ``h`` is to be carried as their gap:
  ``tau (hq - h - delta) = 0`` may be added to any form;
* those of bounds are parts of a form that are replaced by their interval at once.

The back-substitution is the rigorous one, so the bound holds whatever the numbers are; by duality it is the
program's optimum where the solver reached it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Gap, Interval
from qebgate.domains.layers import ROOT, Affine
from qebgate.domains.lines import Breakpoints, Line
from qebgate.engines.dra.analysis import Analysis
from qebgate.engines.dra.backward import Backward, Form, Pre, Resolved, Run
from qebgate.engines.dra.forward import PreActivation, neurons, resized
from qebgate.engines.dra.slopes import SURE, Lines, Side, Slope, mirror
from qebgate.engines.milp_encoding import applies, matrix
from qebgate.milp import mathopt
from qebgate.milp.model import Builder, Index, Scaled
from qebgate.numerics.rounding import F64

MAX_COEFFICIENTS = MAX_MACS = 400_000
"""Larger programs are not tried: the solver's time would be minutes."""
NONE = 1e-30
"""Weight of a line that the solver does not use."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What is done to a form at one layer, every array ``[m]``.

    Where ``live``: ``gap`` is the coefficient of delta that ``tau`` brings about, ``h`` and ``g`` are what of the
    coefficients of h and hq is replaced by intervals; ``z`` and ``q`` is what is left of z and zq once ``D = zq - z``
    is written out, and ``d`` what of D is replaced by its interval.
    """

    state: Gap
    pre: PreActivation
    gap: F64
    live: NDArray[np.bool_]
    h: F64
    g: F64
    z: F64
    q: F64
    d: F64


class Certificate(Run):
    """A back-substitution with the freedom that the program has; sound for any numbers in the parts."""

    def __init__(self, root: Interval, parts: dict[int, Part]) -> None:
        super().__init__(root, 1)
        self._parts = parts

    def relax(self, layer: Resolved, form: Form) -> Pre:
        part = self._parts.get(layer.output)
        if part is None:
            return super().relax(layer, form)
        n = layer.bf.size
        h, g, d = (np.zeros((1, n)) if c is None else c for c in (form.h, form.g, form.d))
        tau = np.where(part.live, d - part.gap, 0.0)
        h, g, d = h - tau, g + tau, d - tau  # rounded once each: within what their magnitudes are charged below
        h, g = self._interval(h, part.h, part.state.float), self._interval(g, part.g, part.state.quantized)
        pre = super().relax(layer, Form(h, g, d))
        z, q, d = (np.zeros((1, n)) if c is None else c for c in (pre.z, pre.q, pre.d))
        x, kept = part.pre, d - part.d
        d = self._interval(d, part.d, x.d)
        # what is kept of z and zq: by the program's multipliers, with the part of D that is carried as D
        z = self._interval(z, np.where(part.live, z - (part.z + kept), 0.0), x.z)
        q = self._interval(q, np.where(part.live, q - (part.q - kept), 0.0), x.q)
        return Pre(z, q, d)

    def _interval(self, coefficients: F64, part: F64, x: Interval) -> F64:
        """Replace a part of the coefficients by the largest value on an interval; what is left of them."""
        pos = np.maximum(part, 0.0)
        self.constant += pos @ x.hi + (part - pos) @ x.lo
        self.weight += np.abs(coefficients) @ x.magnitude + np.abs(part) @ x.magnitude
        return coefficients - part

    def concretise(self, scale: float) -> F64:
        self.terms += 16 * len(self._parts)  # the additions above
        return super().concretise(scale)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Row indices of a side's candidate lines, ``[K, neurons]`` each (-1: not a row)."""

    h: Index
    g: Index
    d: Index


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """A layer's neurons that are not constant (``at``), their lines and rows from above and below, and variables."""

    at: NDArray[np.intp]
    sides: tuple[Side, Side]
    rows: tuple[_Rows, _Rows]
    gap: Index
    """Rows that bound D."""
    maps: tuple[Index, Index]
    """Rows of the affine maps of z and zq."""
    h: Index
    g: Index


@dataclass
class LinearProgram:
    """The program of one analysis."""

    analysis: Analysis
    b: Builder = field(default_factory=Builder)
    layers: dict[int, _Encoded] = field(default_factory=dict)
    values: dict[int, tuple[Index, Index]] = field(default_factory=dict)
    """Variables of (h, hq)."""

    def __post_init__(self) -> None:
        root = self.analysis.root
        x = self.b.variables(root.lo, root.hi)
        self.values[ROOT] = x, x
        for layer in self.analysis.layers:
            assert isinstance(layer, Affine)
            self._layer(layer)
        self.scaled: Scaled = self.b.build()

    def _layer(self, layer: Affine) -> None:
        a, b = self.analysis, self.b
        pre, state, inputs = a.pre[layer.output], a.states[layer.output], [a.states[i] for i in layer.inputs]
        h, g = b.variables(state.float.lo, state.float.hi), b.variables(state.quantized.lo, state.quantized.hi)
        self.values[layer.output] = h, g
        at = np.flatnonzero((state.float.lo < state.float.hi) | (state.quantized.lo < state.quantized.hi))
        z, q = b.variables(pre.z.lo[at], pre.z.hi[at]), b.variables(pre.q.lo[at], pre.q.hi[at])
        one = np.ones(at.size)
        noise = np.zeros(at.size) if pre.noise is None else pre.noise[at]
        into = [(matrix(m)[at], self.values[i][0]) for m, i in zip(layer.f, layer.inputs, strict=True)]
        z_rows = b.rows([*into, (-one, z)], -layer.bf[at] - noise, -layer.bf[at] + noise)
        into = [(matrix(m)[at], self.values[i][1]) for m, i in zip(layer.q, layer.inputs, strict=True)]
        q_rows = b.rows([*into, (-one, q)], -layer.bq[at], -layer.bq[at])
        gap = b.rows([(one, q), (-one, z)], pre.d.lo[at], pre.d.hi[at])
        n = neurons(layer, pre, inputs)[0]
        resolved = next(r for r in a.backward.layers if r.output == layer.output)
        sides = Side.of(n, resolved.over), Side.of(n.mirrored(), mirror(resolved.under))
        of = (h[at], g[at], z, q)
        rows = self._lines(sides[0], at, of, 1.0), self._lines(sides[1], at, of, -1.0)
        self.layers[layer.output] = _Encoded(at, sides, rows, gap, (z_rows, q_rows), h, g)

    def _lines(self, side: Side, at: NDArray[np.intp], of: tuple[Index, Index, Index, Index], sign: float) -> _Rows:
        h, g, z, q = of
        one = np.ones(at.size)

        def rows(terms: Sequence[tuple[F64, Index]], c: F64) -> Index:
            free = np.full(at.size, np.inf)
            return self.b.rows(terms, *((-free, c[at]) if sign > 0 else (-c[at], free)))

        def lines(value: Index, x: Index, candidates: Sequence[Line]) -> Index:
            return np.stack([rows([(one, value), (-c.slope[at], x)], c.intercept) for c in candidates])

        d = side.d
        gaps = zip(d.d, d.z, d.q, d.c, strict=True)
        between = [rows([(one, g), (-one, h), (-(x + v)[at], q), ((x - w)[at], z)], c) for x, w, v, c in gaps]
        return _Rows(lines(h, z, candidates(side.h)), lines(g, q, candidates(side.g)), np.stack(between))

    def objective(self, output: int, entry: int, sign: float) -> tuple[F64, float]:
        """The gap at one entry in scaled variables, divided by a number that makes its size 1, and that number."""
        h, g = (v[entry] for v in self.values[output])
        c = np.zeros(self.scaled.scale.size)
        c[g], c[h] = sign * self.scaled.scale[g], -sign * self.scaled.scale[h]
        unit = float(np.abs(c).max())
        return c / unit, unit


def candidates(x: Slope | Line) -> list[Line]:
    """The lines of an activation that may be mixed."""
    return [x] if isinstance(x, Line) else [x.points.line(s) for s in _slopes(x.points)]


def _slopes(points: Breakpoints) -> F64:
    """The slopes worth trying, and the one from the first point to the second: the hull has no others."""
    dx, dy = points.x[1] - points.x[0], points.y[1] - points.y[0]
    steep = np.where((dx > 0) & (dy > 0), dy, 0.0) / np.where(dx > 0, dx, 1.0)
    return np.concatenate([points.slopes, np.where(np.isfinite(steep), steep, 0.0)[None]])


def certificate(program: LinearProgram, y: F64, objective: F64, unit: float) -> tuple[list[Resolved], dict[int, Part]]:
    """Layers with mixed lines, and parts, from the program's multipliers (any numbers)."""
    a, scaled = program.analysis, program.scaled
    real = scaled.multipliers(y) * unit
    reduced = (objective - scaled.model.matrix.T @ y) * unit / scaled.scale
    layers: list[Resolved] = []
    parts: dict[int, Part] = {}
    for r in a.backward.layers:
        e, n = program.layers[r.output], r.bf.size
        over, under = (
            _mixed(side, rows, e.at, sign * real) for side, rows, sign in zip(e.sides, e.rows, (1.0, -1.0), strict=True)
        )
        layers.append(resized(replace(r, over=over, under=mirror(under)), a.pre[r.output]))
        gap = np.maximum(real[e.rows[0].d], 0.0).sum(axis=0) - np.maximum(-real[e.rows[1].d], 0.0).sum(axis=0)
        live = np.zeros(n, bool)
        live[e.at] = True
        # a row is W h - z = -b: its multiplier is what z keeps, negated
        gaps, z, q, d = (_scatter(v, e.at, n) for v in (gap, -real[e.maps[0]], -real[e.maps[1]], real[e.gap]))
        h, g = (np.where(live, reduced[v], 0.0) for v in (e.h, e.g))
        parts[r.output] = Part(a.states[r.output], a.pre[r.output], gaps, live, h, g, z, q, d)
    return layers, parts


def _scatter(v: F64, at: NDArray[np.intp], n: int) -> F64:
    out = np.zeros(n)
    out[at] = v
    return out


def _mixed(side: Side, rows: _Rows, at: NDArray[np.intp], y: F64) -> Lines:
    """A side's lines, mixed by their rows' multipliers; where there are none, those of the analysis."""

    def line(x: Slope | Line, index: Index) -> Line:
        if isinstance(x, Line):
            return x
        w = np.maximum(y[index], 0.0)
        total = w.sum(axis=0)
        slope = x.slope.copy()
        some = total > 0
        slope[at[some]] = (w * _slopes(x.points)[:, at]).sum(axis=0)[some] / total[some]
        return x.points.line(slope)

    w = np.maximum(y[rows.d], 0.0)
    total = w.sum(axis=0)
    weights = np.where(side.d.logits == SURE, 1.0, 0.0)
    weights[:, at[total > 0]] = w[:, total > 0] / total[total > 0]
    gap = copy(side.d)
    gap.logits = np.log(np.maximum(weights, NONE))
    return line(side.h, rows.h), line(side.g, rows.g), gap.line()


def improved(
    a: Analysis, target: tuple[int, NDArray[np.intp]], gap: Interval, wanted: float, iterations: int, seconds: float
) -> Interval:
    """``gap`` of some entries of a value, improved on the sides that exceed ``wanted``.

    ``iterations`` of the solver for each side; ``seconds`` is a guard.  Programs that are too large, and
    networks with other layers than dense ones, are left as they are.
    """
    output, index = target
    lo, hi = gap.lo.copy(), gap.hi.copy()
    open_sides = [(k, s) for s, bound in ((1.0, hi), (-1.0, -lo)) for k in np.flatnonzero(bound > wanted).tolist()]
    if not open_sides or not applies(a.layers) or sum(x.macs for x in a.layers if isinstance(x, Affine)) > MAX_MACS:
        return gap
    program = LinearProgram(a)
    if program.scaled.model.matrix.nnz > MAX_COEFFICIENTS:
        return gap
    goals = [program.objective(output, int(index[k]), s) for k, s in open_sides]
    found = mathopt.row_multipliers(
        program.scaled.model, [c for c, _ in goals], iterations=iterations, seconds=seconds / len(goals)
    )
    for (k, sign), (c, unit), y in zip(open_sides, goals, found, strict=False):
        a.pulse()
        if y is None:
            continue
        bound = evaluate(program, y, (c, unit), (output, int(index[k]), sign))
        if sign > 0:
            hi[k] = min(hi[k], bound)
        else:
            lo[k] = max(lo[k], -bound)
    return Interval(lo, hi)


def evaluate(program: LinearProgram, y: F64, objective: tuple[F64, float], target: tuple[int, int, float]) -> float:
    """A proven upper bound of ``sign * delta`` at ``(value, entry, sign)``, whatever the multipliers are."""
    a, (output, entry, sign) = program.analysis, target
    layers, parts = certificate(program, y, *objective)
    b = Backward(a.root)
    for layer in layers:
        b.push(layer)
    one = np.zeros((1, a.states[output].size))
    one[0, entry] = sign
    return float(b.value(output, Form(d=one), Certificate(a.root, parts))[0])
