"""Bounds of the outputs' gap from given slopes, layer by layer, rounded outwards.

Forward: intervals of every value.  Backward: a linear form over a value, ``ah . h + ag . hq + ad . delta``, becomes a
form over pre-activations by lines (their slopes are given, their intercepts are :mod:`.neuron`'s), then one over the
layer's inputs by its rows, down to the region's box.  Each step defines new coefficients in float64; they are off
from the exact ones by roundoff, and as every quantity that they multiply is bounded already, what that can change is
at most gamma times the sum of the magnitudes of all terms (Higham, section 3.1).  That is added at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qebgate.certify.box import I64, Box
from qebgate.certify.errors import EvidenceError, cannot
from qebgate.certify.forms import Facts, Form, Found, Lines, Rows, Slopes, Splits, Targets, Value, plus
from qebgate.certify.matrices import Matrix, back, forward, minus, picked
from qebgate.certify.neuron import Neurons
from qebgate.certify.rows import ROOT, Grid, Layer, Program
from qebgate.numerics.rounding import F64, SAFETY, TINY64, U64, down, gamma, up

CHUNK = 1 << 22
"""Bytes of one array of coefficients, about."""
UNDERFLOW = 1e-280


@dataclass
class Walk:
    """The layers' intervals, lines and bounds over one box; :meth:`run` does the work."""

    program: Program
    root: Box
    slopes: Slopes
    refine: Mapping[int, int]
    """Value -> 1 where z and zq of open neurons are back-substituted, 2 where D is as well, from a form of its own."""
    targets: Sequence[Targets] = ()
    values: dict[int, Value] = field(default_factory=dict)
    facts: dict[int, Facts] = field(default_factory=dict)
    lines: dict[int, Lines] = field(default_factory=dict)

    def run(self) -> Walk:
        """All layers."""
        zero = np.zeros_like(self.root.lo)
        self.values[ROOT] = Value(self.root, self.root, Box(zero, zero), self.program.codes)
        self._differences = {
            x.output: tuple(minus(q, f) for f, q in zip(x.f, x.q, strict=True)) for x in self.program.layers
        }
        self._longest = max(x.size for x in self.program.layers) + 8 * len(self.program.layers) + 32
        self._scale = 1.0 + float(self.root.magnitude.max(initial=0.0))
        for layer in self.program.layers:
            self._layer(layer)
        return self

    def upper(self, output: int, form: Form) -> F64:
        """Upper bounds ``[R]`` of forms over a value, by the layers' lines."""
        return self._highest(self._descend(_start(output, form), None))

    def gaps(self, group: Targets) -> F64:
        """Upper bounds of gaps, each times its sign."""
        size = self.values[group.value].d.lo.size
        found: list[F64] = []
        for part in self._parts(group.entries.size):
            index = group.entries[part]
            one = np.zeros((index.size, size))
            one[np.arange(index.size), index] = group.signs[part]
            rows = self._descend(_start(group.value, Form(d=one)), group.some(part))
            found.append(np.where(rows.empty, -np.inf, self._highest(rows)))
        return np.concatenate(found)

    def _parts(self, count: int, each: int = 1) -> Iterator[slice]:
        """Slices of neurons of so many rows each whose coefficients fit in memory."""
        step = max(1, CHUNK // (8 * each * max(v.h.lo.size for v in self.values.values())))
        return (slice(k, min(count, k + step)) for k in range(0, count, step))

    # forward

    def _layer(self, layer: Layer) -> None:
        inputs = [self.values[i] for i in layer.inputs]
        facts = self._facts(layer, inputs, self._intervals(layer, inputs))
        self.facts[layer.output] = facts
        level = self.refine.get(layer.output, 0)
        if level and ROOT not in layer.inputs:
            facts = self._facts(layer, inputs, self._refined(layer, facts, level))
        for group in self.targets:
            if group.value == layer.output and group.kind != "gap" and ROOT not in layer.inputs and not group.splits:
                facts = self._facts(layer, inputs, self._improved(layer, facts, group))
        h, g, d = facts.z.clipped(*layer.clamp), facts.g, facts.d
        if not layer.exact or any(layer.output in t.multipliers for t in self.targets):
            n = Neurons(facts.z, facts.q, d, layer.clamp, layer.below, layer.above, layer.grid and layer.grid.unit, g)
            facts = replace(facts, corners=n.corners())
            assert facts.corners is not None
        if facts.corners is not None and not layer.exact:
            one, none = np.array([[1.0], [-1.0]]), np.zeros((2, layer.m))
            highest, lowest = facts.corners.supremum(-one, one, none, none)
            d = Box(-lowest, highest)
        h, g = h.meet(g.minus(d)), g.meet(h.plus(d))
        self.values[layer.output] = Value(h, g, d.meet(g.minus(h)), facts.codes)
        self.facts[layer.output] = facts
        sizes = *facts.sizes, h.magnitude, g.magnitude
        self._scale = max(self._scale, *(1.0 + float(s.max(initial=0.0)) for s in sizes))
        self.lines[layer.output] = self._lines(layer, facts, self.slopes.get(layer.output))

    def _intervals(self, layer: Layer, inputs: Sequence[Value]) -> Found:
        """z, zq, D from the inputs' intervals, E, and the magnitudes behind the three."""
        diff = self._differences[layer.output]
        hs, gs, ds = ([getattr(v, k) for v in inputs] for k in ("h", "g", "d"))
        z, z_size = self._image(layer.f, hs, layer.bf, np.abs(layer.bf))
        q, q_size = self._image(layer.q, gs, layer.bq, np.abs(layer.bq))
        both: F64 = np.add(np.abs(layer.bq), np.abs(layer.bf))
        d, d_size = self._image((*layer.q, *diff), [*ds, *hs], layer.bq - layer.bf, both)
        noise = np.zeros(layer.m)
        if layer.noise is not None:
            noise = layer.noise(hs)
            if not np.isfinite(noise).all():
                raise cannot("the float reference may overflow float32", layer.label)
            z, d = z.widened(noise, noise), d.widened(noise, noise)
        return z, q, d, noise, (z_size, q_size, d_size)

    def _image(self, maps: Sequence[Matrix], xs: Sequence[Box], bias: F64, bias_size: F64) -> tuple[Box, F64]:
        centre, radius, size = bias.copy(), np.zeros_like(bias), bias_size.copy()
        for m, x in zip(maps, xs, strict=True):
            mid = 0.5 * (x.lo + x.hi)
            half = up(np.maximum(x.hi - mid, mid - x.lo))
            centre, absolute = centre + forward(m, mid), abs(m)
            radius, size = radius + forward(absolute, half), size + forward(absolute, np.abs(mid) + half)
        off = SAFETY * gamma(self._longest) * (size + radius) + self._longest * TINY64
        return Box(down(centre - radius - off), up(centre + radius + off)), size

    def _facts(self, layer: Layer, inputs: Sequence[Value], found: Found) -> Facts:
        """Each of z, zq, D tightened by the other two; then what hq can be."""
        z, q, d, noise, sizes = found
        z, q = z.meet(q.minus(d)), q.meet(z.plus(d))
        d = d.meet(q.minus(z))
        codes = self._codes(layer, inputs, q)
        g = q if layer.exact else q.widened(layer.below, layer.above)
        if codes is not None and layer.code_scale is not None:
            unit, zero = layer.code_scale
            real = Box((codes[0] - zero) * unit, (codes[1] - zero) * unit)
            g = real if layer.grid is not None else g.meet(real)
        return Facts(z, q, d, noise, sizes, g, codes)

    @staticmethod
    def _codes(layer: Layer, inputs: Sequence[Value], q: Box) -> tuple[I64, I64] | None:
        """Codes that can occur: by the envelope, the exact kernels, and what the region fixes."""
        known: list[tuple[I64, I64]] = []
        if layer.codes is not None:
            known.append(layer.codes)
        if layer.of_codes is not None and all(v.codes is not None for v in inputs):
            known.append(tuple(layer.of_codes([v.codes[k] for v in inputs if v.codes is not None]) for k in (0, 1)))  # type: ignore[arg-type]
        if layer.of_sums is not None and layer.sum_unit is not None:
            ends = np.ceil(_units(q.lo, 0.0, layer.sum_unit, -1)), np.floor(_units(q.hi, 0.0, layer.sum_unit, +1))
            known.append(tuple(layer.of_sums(e.clip(-(2.0**40), 2.0**40).astype(np.int64)) for e in ends))  # type: ignore[arg-type]
        if layer.grid is not None:
            known.append(_rounded(layer.grid, layer, q))
        if not known:
            return None
        lo, hi = np.maximum.reduce([k[0] for k in known]), np.minimum.reduce([k[1] for k in known])
        if (lo > hi).any():
            raise EvidenceError("QEB487", "codes contradict each other: nothing can be said", where=layer.label)
        return lo, hi

    # lines

    @staticmethod
    def _lines(layer: Layer, facts: Facts, slopes: F64 | None) -> Lines:
        if layer.exact or slopes is None:  # hq is about zq, h about z, delta about D
            slopes = np.zeros((10, layer.m))
            slopes[[0, 1, 2, 3, 4, 7]] = 1.0
        z, q, d = facts.z.magnitude, facts.q.magnitude, facts.d.magnitude
        c = np.zeros((6, layer.m))
        if facts.corners is not None and not layer.exact:
            sign = np.array([1.0, -1.0] * 3)[:, None]
            none = np.zeros((2, layer.m))
            dd, dz, dq = slopes[[4, 7]], slopes[[5, 8]], slopes[[6, 9]]
            lam = np.concatenate([slopes[0:2], none, dz - dd])  # d D + cz z + cq zq = (cz - d) z + (d + cq) zq
            mu = np.concatenate([none, slopes[2:4], dd + dq])
            ah, ag = np.array([[1.0], [-1], [0], [0], [-1], [1]]), np.array([[0.0], [0], [1], [-1], [1], [-1]])
            terms: list[F64] = [ah, ag, np.multiply(sign, lam), np.multiply(sign, mu)]
            c = np.multiply(sign, facts.corners.supremum(*terms))
            off = 4 * U64 * (np.abs(dd) + np.abs(dz) + np.abs(dq)) * facts.corners.size  # of the sums of slopes
            c[4:] = [up(c[4] + off[0]), down(c[5] - off[1])]
        s, a = np.abs(slopes), np.abs(c)
        sizes = np.stack([
            np.maximum(s[0], s[1]) * z + np.maximum(a[0], a[1]),
            np.maximum(s[2], s[3]) * q + np.maximum(a[2], a[3]),
            np.maximum(s[4], s[7]) * d + np.maximum(s[5], s[8]) * z + np.maximum(s[6], s[9]) * q
            + np.maximum(a[4], a[5]),
        ])  # fmt: skip
        return Lines(slopes, c, sizes)

    # backward

    def _refined(self, layer: Layer, facts: Facts, level: int) -> Found:
        """Intervals of open neurons replaced by back-substituted ones where those are better."""
        z, (a, b) = facts.z, layer.clamp
        wide = facts.g.lo < facts.g.hi
        open_z = ((z.lo < a) & (z.hi > a)) | ((z.lo < b) & (z.hi > b)) | wide
        ends = _Ends(facts)
        index = np.flatnonzero(open_z)
        for rows in self._parts(index.size, 2):
            part = index[rows]
            inside = np.flatnonzero(wide[part])
            at, both = part[inside], lambda v: np.concatenate([v, v])
            signs = np.repeat([1.0, -1.0], part.size), np.repeat([1.0, -1.0], at.size)
            z = self._descend(self._begin(layer, facts, (both(part), signs[0]), "z"), None)
            ends.meet("z", both(part), signs[0], self._highest(z))
            if not at.size:
                continue
            q = self._descend(self._begin(layer, facts, (both(at), signs[1]), "q"), None)
            ends.meet("q", both(at), signs[1], self._highest(q))
            # zq's upper bound with z's lower one, and the other way round
            apart = _paired(q, z, np.concatenate([inside + part.size, inside]))
            ends.meet("d", both(at), signs[1], self._highest(apart))
            if level > 1:
                d = self._descend(self._begin(layer, facts, (both(at), signs[1]), "d"), None)
                ends.meet("d", both(at), signs[1], self._highest(d))
        return ends.found()

    def _improved(self, layer: Layer, facts: Facts, group: Targets) -> Found:
        """Intervals of single neurons improved by multipliers of their own."""
        ends = _Ends(facts)
        for part in self._parts(group.entries.size):
            at = group.entries[part], group.signs[part]
            rows = self._descend(self._begin(layer, facts, at, group.kind), group.some(part))
            ends.meet(group.kind, *at, self._highest(rows))
        return ends.found()

    def _begin(self, layer: Layer, facts: Facts, at: tuple[NDArray[np.intp], F64], kind: str) -> Rows:
        """Forms of single pre-activations, each times its sign, over the layer's inputs."""
        index, signs = at
        k = "zqd".index(kind)
        bias = (layer.bf, layer.bq, layer.bq - layer.bf)[k][index] * signs
        noise = np.zeros(index.size) if kind == "q" else facts.noise[index]
        rows = Rows({}, bias, noise, facts.sizes[k][index])
        for j, i in enumerate(layer.inputs):
            f, q, diff = (
                picked(m[j], index) * signs[:, None] for m in (layer.f, layer.q, self._differences[layer.output])
            )
            form = {"z": Form(h=f), "q": Form(g=q), "d": Form(h=diff, d=q)}[kind]
            rows.live[i] = rows.live[i] + form if i in rows.live else form
        return rows

    def _descend(self, rows: Rows, targets: Targets | None) -> Rows:
        multipliers = {} if targets is None else targets.multipliers
        for layer in reversed(self.program.layers):
            form = rows.live.pop(layer.output, None)
            if form is None:
                continue
            given, corners = multipliers.get(layer.output), self.facts[layer.output].corners
            if given is None and layer.exact:
                self._through(rows, layer, form.h, form.g, form.d)
                continue
            if given is None or corners is None:
                self._through(rows, layer, *self._relaxed(rows, form, self.lines[layer.output]))
                continue
            ah, ag = (plus(v, None if form.d is None else s * form.d) for v, s in ((form.h, -1), (form.g, 1)))
            terms = [np.zeros_like(given[0]) if v is None else v for v in (ah, ag)] + list(given)
            best = corners.supremum(*terms)
            splits = None if targets is None else targets.splits.get(layer.output)
            if splits is not None:
                self._split(rows, layer, splits, terms, best)
            rows.constant = rows.constant + best.sum(axis=1)
            moved = np.zeros_like(best) if form.d is None else np.abs(form.d)  # the sums ah, ag: rounded once
            rows.weight = rows.weight + np.abs(best).sum(axis=1) + moved @ corners.size
            self._through(rows, layer, given[0], given[1], None)
        assert not rows.live
        return rows

    def _split(self, rows: Rows, layer: Layer, s: Splits, terms: Sequence[F64], best: F64) -> None:
        """Suprema of neurons that are split, in place, and rows of which nothing is left."""
        facts, j, unit = self.facts[layer.output], s.neuron, layer.grid.unit if layer.grid is not None else 0.0
        z, q, d, values = (Box(b.lo[j], b.hi[j]) for b in (facts.z, facts.q, facts.d, facts.g))
        above, below = layer.above[j], layer.below[j]
        z = Box(np.maximum(z.lo, s.z.lo), np.minimum(z.hi, s.z.hi))
        if layer.grid is not None:  # a code beyond the smallest (largest) one was rounded to, not clamped
            least, most = s.code.lo * unit, s.code.hi * unit
            q = Box(
                np.where(least > values.lo, np.maximum(q.lo, down(least - above)), q.lo),
                np.where(most < values.hi, np.minimum(q.hi, up(most + below)), q.hi),
            )
            values = Box(np.maximum(values.lo, least), np.minimum(values.hi, most))
        apart = Box(np.maximum(d.lo, down(q.lo - z.hi)), np.minimum(d.hi, up(q.hi - z.lo)))
        nothing = np.any([b.lo > b.hi for b in (z, q, values, apart)], axis=0)
        empty = np.zeros(len(best), np.bool_)
        empty[s.row[nothing]] = True
        n = Neurons(z, q, d, layer.clamp, below, above, unit or None, values)
        few = n.corners().supremum(*(t[s.row, j][None] for t in terms))[0]
        best[s.row, j] = np.where(nothing, 0.0, few)
        rows.empty = rows.empty | empty

    @staticmethod
    def _relaxed(rows: Rows, form: Form, lines: Lines) -> tuple[F64 | None, F64 | None, F64 | None]:
        """Coefficients of (z, zq, D): lines from above for positive coefficients, from below for negative ones."""
        s, c, found = lines.slopes, lines.intercepts, dict[str, F64 | None](z=None, q=None, d=None)
        parts = ((form.h, {"z": (0, 1)}), (form.g, {"q": (2, 3)}), (form.d, {"d": (4, 7), "z": (5, 8), "q": (6, 9)}))
        for k, (a, where) in enumerate(parts):
            if a is None:
                continue
            size = np.abs(a)
            both = size @ np.stack([0.5 * (c[2 * k] - c[2 * k + 1]), lines.sizes[k]], axis=1)
            rows.constant = rows.constant + (a @ (0.5 * (c[2 * k] + c[2 * k + 1])) + both[:, 0])
            rows.weight = rows.weight + both[:, 1]
            for name, (up_, low) in where.items():
                if s[up_].any() or s[low].any():
                    slope = a * (0.5 * (s[up_] + s[low]))
                    if (s[up_] != s[low]).any():
                        slope += size * (0.5 * (s[up_] - s[low]))
                    found[name] = slope if found[name] is None else found[name] + slope
        return found["z"], found["q"], found["d"]

    def _through(self, rows: Rows, layer: Layer, z: F64 | None, q: F64 | None, d: F64 | None) -> None:
        """From a layer's pre-activations to its inputs."""
        facts = self.facts[layer.output]
        for a, bias, size in zip((z, q, d), (layer.bf, layer.bq, layer.bq - layer.bf), facts.sizes, strict=True):
            if a is not None:
                rows.constant = rows.constant + a @ bias
                rows.weight = rows.weight + np.abs(a) @ size
        if ROOT in layer.inputs and d is not None:  # D is zq - z there: both sides are of the same x
            rows.weight = rows.weight + np.abs(d) @ (facts.sizes[0] + facts.sizes[1])
        own = plus(z, None if d is None else -d)
        if layer.noise is not None and own is not None:  # z has the error, and D has it with the other sign
            rows.noise = rows.noise + np.abs(own) @ facts.noise
        for j, i in enumerate(layer.inputs):
            f, g, diff = layer.f[j], layer.q[j], self._differences[layer.output][j]
            if i == ROOT:
                for c, m in ((own, f), (plus(q, d), g)):
                    rows.x = plus(rows.x, None if c is None else back(c, m))
                continue
            h = plus(None if z is None else back(z, f), None if d is None else back(d, diff))
            form = Form(h, None if q is None else back(q, g), None if d is None else back(d, g))
            rows.live[i] = rows.live[i] + form if i in rows.live else form

    def _highest(self, rows: Rows) -> F64:
        """The supremum over the region's box."""
        total, weight = rows.constant, rows.weight
        if rows.x is not None:
            mid = 0.5 * (self.root.lo + self.root.hi)
            half = up(np.maximum(self.root.hi - mid, mid - self.root.lo))
            size = np.abs(rows.x)
            total = total + (rows.x @ mid + size @ half)
            weight = weight + size @ (np.abs(mid) + half)
        slack = rows.noise + SAFETY * gamma(self._longest) * (weight + 2 * rows.noise)
        return up(total + slack + UNDERFLOW * self._scale)


class _Ends:
    """Intervals of z, zq and D under improvement."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.ends = {k: np.stack(v) for k, v in (("z", facts.z), ("q", facts.q), ("d", facts.d))}

    def meet(self, kind: str, index: NDArray[np.intp], signs: F64, bound: F64) -> None:
        """``bound`` are upper bounds of neurons' quantities times their signs."""
        known, top = self.ends[kind], signs > 0
        np.minimum.at(known[1], index[top], bound[top])
        np.maximum.at(known[0], index[~top], -bound[~top])

    def found(self) -> Found:
        z, q, d = (Box(*v).meet(Box(*v)) for v in self.ends.values())
        return z, q, d, self.facts.noise, self.facts.sizes


def _start(output: int, form: Form) -> Rows:
    zero = np.zeros(next(len(c) for c in (form.h, form.g, form.d) if c is not None))
    return Rows({output: form}, zero, zero, zero)


def _paired(q: Rows, z: Rows, index: NDArray[np.intp]) -> Rows:
    """Rows of zq with those of z that ``index`` names added: forms of ``zq - z`` and of its negative."""
    x, weight = q.x, q.weight + z.weight[index]
    if q.x is not None and z.x is not None:
        x = q.x + z.x[index]
    elif z.x is not None:
        x = z.x[index]
    return Rows({}, q.constant + z.constant[index], q.noise + z.noise[index], weight, x)


def _units(x: F64, envelope: F64 | float, unit: F64 | float, sign: int) -> F64:
    """``x`` moved by the envelope, in units, rounded outwards."""
    with np.errstate(over="ignore"):
        y, e = x / unit, envelope / unit
        off = 8 * U64 * (np.abs(y) + e)
        return up(y + e + off) if sign > 0 else down(y - e - off)


def _rounded(grid: Grid, layer: Layer, q: Box) -> tuple[I64, I64]:
    lo = np.ceil(_units(q.lo, layer.below, grid.unit, -1)) + grid.zero
    hi = np.floor(_units(q.hi, layer.above, grid.unit, +1)) + grid.zero
    return np.clip(lo, grid.lo, grid.hi).astype(np.int64), np.clip(hi, grid.lo, grid.hi).astype(np.int64)
