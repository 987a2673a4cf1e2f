"""A pair over a region as mixed-integer rows, inside the bounds that the analysis proved.

Per layer and neuron, in the letters of docs/mathematics.md:

* ``z = W h + b + eps`` with ``|eps| <= E`` (float32), ``h = clamp(z)``: a binary for each side of the
  clamp that is undecided;
* ``zq = Wq hq + bq``, ``zq' = zq + xi`` with the runtime's rounding envelope as the closed interval of
  ``xi``, ``hq = clamp(zq')``; ``hq`` is an integer code where few codes are open, else free (a relaxation);
* ``D = Wq delta + (Wq - W) h + (bq - b) - eps`` and ``delta = hq - h``, the only rows in which the two networks'
  weights cancel, with the lines that bound ``hq`` and ``delta`` in the analysis.  Where z and zq are both open,
  ``zq = z + D`` takes the place of zq's own row of weights: with many inputs, dense rows are what costs time.

Every pre-activation is bounded by the analysis: those are the big-M constants.

The objective is the gap of one output, or a number below the limit where the gap is less (``floor``): a cut-off for
which no program becomes infeasible.  Each variable has a value at one input, ``at``, from which a solver may start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from qebgate.domains.layers import ROOT, Affine, CodeGrid, Layer
from qebgate.domains.linear_map import Dense, LinearMap, Scale
from qebgate.engines.dra.analysis import Analysis
from qebgate.engines.dra.forward import PreActivation, activate
from qebgate.engines.dra.program import Program
from qebgate.milp.model import Builder, Csr, Index, Model, Scaled
from qebgate.numerics.rounding import F64, down, up

Picked = NDArray[np.intp]


def applies(layers: Sequence[Layer]) -> bool:
    """Whether every layer is affine with plain matrices."""
    return all(isinstance(x, Affine) and all(isinstance(m, Dense | Scale) for m in (*x.f, *x.q)) for x in layers)


def matrix(m: LinearMap) -> Csr:
    """The matrix ``[m, n]`` of a map that :func:`applies` accepts."""
    if isinstance(m, Scale):
        return sp.csr_matrix(sp.identity(m.size) * m.factor)
    assert isinstance(m, Dense)
    return sp.csr_matrix(sp.kron(sp.identity(m.rows), m.w)) if m.rows > 1 else sp.csr_matrix(m.w)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """The program of one compared output.

    ``objective`` is the index of what to maximise, ``delta`` that of the gap, ``x`` the indices of the region's
    inputs.  ``binaries`` and ``integers`` count the undecided clamps and the integer codes.  ``hint`` holds a value
    for every scaled variable.
    """

    scaled: Scaled
    objective: int
    delta: int
    x: Index
    binaries: int
    integers: int
    hint: F64

    @property
    def model(self) -> Model:
        """The program with its objective."""
        c = np.zeros(self.scaled.scale.size)
        c[self.objective] = 1.0
        return self.scaled.model.aiming(c)


@dataclass(slots=True)
class _Value:
    """Variable indices of the three quantities of a value, -1 where none was needed."""

    h: Index
    hq: Index
    delta: Index


@dataclass
class Encoding:
    """Encodes the rows behind ``sign`` times the gap of one output; ``exact`` makes open codes integer variables.

    ``known`` bounds that product, ``floor`` cuts it off, ``at`` is an input (real units) to start from.
    """

    program: Program
    analysis: Analysis
    output: int
    exact: bool
    sign: int = 1
    known: tuple[float, float] = (-np.inf, np.inf)
    floor: float = -np.inf
    at: F64 | None = None
    b: Builder = field(default_factory=Builder)
    values: dict[int, _Value] = field(default_factory=dict)
    binaries: int = 0
    integers: int = 0

    def run(self) -> Encoded:
        """Encode all layers."""
        a = self.analysis
        self.start: list[F64] = []
        needed = self._needed()
        centre = a.root.centre if self.at is None else self.at
        x = self._new(a.root.lo, a.root.hi, centre)
        zero = self._new(np.zeros(x.size), np.zeros(x.size), np.zeros(x.size))
        self.values[ROOT] = _Value(x, x, zero)
        for layer in self.program.layers:
            assert isinstance(layer, Affine)
            if layer.output in needed:
                self._layer(layer, np.flatnonzero(needed[layer.output]))
        delta = self.values[self.program.output].delta[[self.output]]
        objective = self._objective(delta)
        scaled = self.b.build()
        lo, hi = scaled.model.lo, scaled.model.hi
        hint = np.clip((np.concatenate(self.start) - scaled.centre) / scaled.scale, lo, hi)
        return Encoded(scaled, objective, int(delta[0]), x, self.binaries, self.integers, hint)

    def _new(self, lo: F64, hi: F64, at: F64, *, integer: bool = False) -> Index:
        """New variables, and their values at the input to start from."""
        self.start.append(np.clip(at, lo, hi))
        return self.b.variables(lo, hi, integer=integer)

    def _at(self, v: Index) -> F64:
        """Values of variables at that input (0 where there is none)."""
        return np.where(v >= 0, np.concatenate(self.start)[v], 0.0)

    def _objective(self, delta: Index) -> int:
        """``max(sign delta, floor)``, where the floor can be reached."""
        interval, s = self.analysis.states[self.program.output].delta, float(self.sign)
        low, high = sorted((s * interval.lo[self.output], s * interval.hi[self.output]))
        low, high = max(low, self.known[0]), min(high, self.known[1])
        low = min(low, high)
        value, one = s * self._at(delta), np.ones(1)
        if not low < self.floor < high:
            t = self._new(one * low, one * high, value)
            self.b.rows([(one, t), (-s * one, delta)], 0.0, 0.0)
            return int(t[0])
        t = self._new(one * self.floor, one * high, value)
        below = self._new(0 * one, one, (value < self.floor).astype(np.float64), integer=True)
        self.b.rows([(one, t), (-s * one, delta), (-(self.floor - low) * one, below)], -np.inf, 0.0)
        self.b.rows([(one, t), ((high - self.floor) * one, below)], -np.inf, high)
        return int(t[0])

    def _needed(self) -> dict[int, NDArray[np.bool_]]:
        """Which neurons of each value the output depends on."""
        out = {self.program.output: np.arange(self.analysis.states[self.program.output].size) == self.output}
        for layer in reversed(self.program.layers):
            assert isinstance(layer, Affine)
            if layer.output not in out:
                continue
            for i, f, q in zip(layer.inputs, layer.f, layer.q, strict=True):
                used = abs(matrix(f)) + abs(matrix(q))
                reads = (used.T @ out[layer.output].astype(float)) > 0
                out[i] = out[i] | reads if i in out else reads
        return out

    def _layer(self, layer: Affine, pick: Picked) -> None:
        b, pre, state = self.b, self.analysis.pre[layer.output], self.analysis.states[layer.output]
        n = state.size
        f = [matrix(m)[pick] for m in layer.f]
        q = [matrix(m)[pick] for m in layer.q]
        inputs = [self.values[i] for i in layer.inputs]
        noise = np.zeros(n) if pre.noise is None else pre.noise
        h, z = self._float(layer, pre, pick, noise, f, inputs)
        hq, zq = self._quantized(layer, pre, pick, q, inputs, z)
        delta = self._new(state.delta.lo[pick], state.delta.hi[pick], self._at(hq) - self._at(h))
        one = np.ones(pick.size)
        b.rows([(one, hq), (-one, h), (-one, delta)], 0.0, 0.0)
        both = np.flatnonzero((z >= 0) & (zq >= 0))
        at = pick[both]
        gap = self._new(pre.d.lo[at], pre.d.hi[at], self._at(zq[both]) - self._at(z[both]))
        terms = [(m[both], v.delta) for m, v in zip(q, inputs, strict=True)]
        terms += [((mq - mf)[both], v.h) for mq, mf, v in zip(q, f, inputs, strict=True)]
        one = np.ones(at.size)
        b.rows([*_used(terms), (-one, gap)], down(-layer.bd[at] - noise[at]), up(-layer.bd[at] + noise[at]))
        b.rows([(one, zq[both]), (-one, z[both]), (-one, gap)], 0.0, 0.0)
        self._lines(layer, at, (z[both], zq[both], gap), (hq[both], delta[both]))
        full = lambda v: _scatter(v, pick, n)  # noqa: E731
        self.values[layer.output] = _Value(full(h), full(hq), full(delta))

    def _float(
        self, layer: Affine, pre: PreActivation, pick: Picked, noise: F64, f: list[Csr], inputs: list[_Value]
    ) -> tuple[Index, Index]:
        """Variables of h, and of z (-1 where h is constant)."""
        b, state = self.b, self.analysis.states[layer.output].float
        given = self._through(layer.bf[pick], f, [v.h for v in inputs])
        h_lo, h_hi = state.lo[pick], state.hi[pick]
        live = np.flatnonzero(h_lo < h_hi)
        at = pick[live]
        low, high = _effective(pre.z.lo[at], pre.z.hi[at], state.lo[at], state.hi[at], layer.float_range)
        z = self._new(low, high, given[live])
        terms = _used([(m[live], v.h) for m, v in zip(f, inputs, strict=True)])
        b.rows([*terms, (-np.ones(at.size), z)], down(-layer.bf[at] - noise[at]), up(-layer.bf[at] + noise[at]))
        h = np.full(pick.size, -1, np.intp)
        h[live] = self._clamp(z, low, high, state.lo[at], state.hi[at], layer.float_range)
        fixed = np.flatnonzero(h_lo >= h_hi)
        h[fixed] = self._new(h_lo[fixed], h_hi[fixed], h_lo[fixed])
        return h, _scatter(z, live, pick.size)

    def _quantized(
        self, layer: Affine, pre: PreActivation, pick: Picked, q: list[Csr], inputs: list[_Value], z: Index
    ) -> tuple[Index, Index]:
        """Variables of hq, and of zq before rounding (-1 where hq is constant); rows of zq where z has none."""
        b, state = self.b, self.analysis.states[layer.output]
        g, grid = state.quantized, layer.grid
        g_lo, g_hi = g.lo[pick], g.hi[pick]
        live = np.flatnonzero(g_lo < g_hi)
        at = pick[live]
        given = self._through(layer.bq[pick], q, [v.hq for v in inputs])[live]
        zq = self._new(pre.q.lo[at], pre.q.hi[at], given)
        one = np.ones(at.size)
        alone = np.flatnonzero(z[live] < 0)
        terms = _used([(m[live[alone]], v.hq) for m, v in zip(q, inputs, strict=True)])
        b.rows([*terms, (-one[alone], zq[alone])], -layer.bq[at[alone]], -layer.bq[at[alone]])
        bounds = layer.quantized_range if grid is None else grid.range
        moved = pre.q.widened(pre.below, pre.above)
        low, high = _effective(moved.lo[at], moved.hi[at], g.lo[at], g.hi[at], bounds)
        rounded = self._new(low, high, given if grid is None else _nearest(given, grid.unit, pre.above[at]))
        b.rows([(one, rounded), (-one, zq)], -pre.below[at], pre.above[at])
        hq = np.full(pick.size, -1, np.intp)
        hq[live] = self._clamp(rounded, low, high, g.lo[at], g.hi[at], bounds)
        fixed = np.flatnonzero(g_lo >= g_hi)
        hq[fixed] = self._new(g_lo[fixed], g_hi[fixed], g_lo[fixed])
        if self.exact and grid is not None and state.codes is not None:
            self._integers(grid, (state.codes[0][at], state.codes[1][at]), hq[live])
        return hq, _scatter(zq, live, pick.size)

    def _integers(self, grid: CodeGrid, codes: tuple[Index, Index], hq: Index) -> None:
        """``hq = (k - zero) * unit`` with an integer k."""
        value: F64 = np.rint(self._at(hq) / grid.unit) + float(grid.zero)
        k = self._new(codes[0].astype(np.float64), codes[1].astype(np.float64), value, integer=True)
        one = np.ones(k.size)
        self.b.rows([(one, hq), (-grid.unit * one, k)], -grid.unit * grid.zero, -grid.unit * grid.zero)
        self.integers += k.size

    def _clamp(self, v: Index, low: F64, high: F64, out_lo: F64, out_hi: F64, bounds: tuple[float, float]) -> Index:
        """Variables ``clamp(v, *bounds)`` for v in ``[low, high]``; v itself where nothing is clamped."""
        b, (lo, hi) = self.b, bounds
        under, over = low < lo, high > hi
        out = v.copy()
        some = np.flatnonzero(under | over)
        value = self._at(v)
        out[some] = self._new(out_lo[some], out_hi[some], np.clip(value[some], lo, hi))
        p, s = np.full(v.size, -1, np.intp), np.full(v.size, -1, np.intp)
        i = np.flatnonzero(under)
        one = np.ones(i.size)
        p[i] = self._new(0 * one, one, (value[i] > lo).astype(np.float64), integer=True)  # 1: above the lower end
        b.rows([(one, out[i]), (-(out_hi[i] - lo), p[i])], -np.inf, lo)
        b.rows([(one, out[i]), (-one, v[i]), (lo - low[i], p[i])], -np.inf, lo - low[i])
        i = np.flatnonzero(over)
        one = np.ones(i.size)
        s[i] = self._new(0 * one, one, (value[i] > hi).astype(np.float64), integer=True)  # 1: above the upper end
        b.rows([(one, out[i]), (-(hi - out_lo[i]), s[i])], out_lo[i], np.inf)
        b.rows([(one, v[i]), (-one, out[i]), (-(high[i] - hi), s[i])], -np.inf, 0.0)
        i = np.flatnonzero(under & over)
        b.rows([(np.ones(i.size), s[i]), (-np.ones(i.size), p[i])], -np.inf, 0.0)
        i = np.flatnonzero(~under & over)
        b.rows([(np.ones(i.size), out[i]), (-np.ones(i.size), v[i])], -np.inf, 0.0)
        i = np.flatnonzero(under & ~over)
        b.rows([(np.ones(i.size), v[i]), (-np.ones(i.size), out[i])], -np.inf, 0.0)
        self.binaries += int(under.sum() + over.sum())
        return out

    def _through(self, bias: F64, maps: list[Csr], inputs: list[Index]) -> F64:
        """A layer's map at the input to start from."""
        return bias + sum((m @ self._at(v) for m, v in zip(maps, inputs, strict=True)), np.zeros_like(bias))

    def _lines(self, layer: Affine, at: Picked, before: tuple[Index, Index, Index], after: tuple[Index, Index]) -> None:
        """The analysis' own lines above and below hq (hull of the staircase) and delta."""
        pre = self.analysis.pre[layer.output]
        _, over, under = activate(layer, pre, [self.analysis.states[i] for i in layer.inputs])
        (z, zq, gap), (hq, delta) = before, after
        one = np.ones(at.size)
        for side, sign in ((over, 1.0), (under, -1.0)):
            g, d = side.g, side.d  # of the mirrored neuron below: slopes stay, the bound turns round
            lo, hi = _side(g.intercept[at], sign)
            self.b.rows([(one, hq), (-g.slope[at], zq)], lo, hi)
            lo, hi = _side(d.intercept[at], sign)
            self.b.rows([(one, delta), (-d.d[at], gap), (-d.z[at], z), (-d.q[at], zq)], lo, hi)


def _nearest(v: F64, unit: float, above: F64) -> F64:
    """The nearest multiple of ``unit``; of two, one that is no more than ``above`` away."""
    up_ = np.floor(v / unit + 0.5) * unit
    return np.where(up_ > v + above, up_ - unit, up_)


def _side(intercept: F64, sign: float) -> tuple[F64, F64]:
    """Row bounds of ``value - slopes <= intercept``, or of its mirror image."""
    infinite = np.full_like(intercept, np.inf)
    return (-infinite, intercept) if sign > 0 else (-intercept, infinite)


def _effective(lo: F64, hi: F64, out_lo: F64, out_hi: F64, bounds: tuple[float, float]) -> tuple[F64, F64]:
    """Bounds of a clamp's argument, tightened where its result is known to be off the clamp's ends."""
    low = np.where(out_lo > bounds[0], np.maximum(lo, out_lo), lo)
    high = np.where(out_hi < bounds[1], np.minimum(hi, out_hi), hi)
    return low, high


def _used(terms: list[tuple[Csr, Index]]) -> list[tuple[Csr, Index]]:
    """Terms without the columns of neurons that have no variable (their coefficients are zero)."""
    out: list[tuple[Csr, Index]] = []
    for m, index in terms:
        have = np.flatnonzero(index >= 0)
        assert not m[:, np.flatnonzero(index < 0)].count_nonzero()
        out.append((m[:, have], index[have]))
    return out


def _scatter(values: Index, at: Picked, n: int) -> Index:
    out = np.full(n, -1, np.intp)
    out[at] = values
    return out
