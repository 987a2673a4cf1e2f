"""Back-substitution of linear forms through a pair, with every roundoff accounted for.

A form over a value is ``a_h . h + a_g . hq + a_d . delta`` (one row of three coefficient arrays
``[R, n]``).  Through a layer it becomes coefficients ``(c_z, c_q, c_d)`` of the pre-activations by the
layer's lines, and then forms over the layer's inputs by

    z = f h + bf,   zq = q hq + bq,   D = zq - z = q delta + (q - f) h + (bq - bf)

(docs/mathematics.md, section 2; QEBVerif, arXiv 2212.02781, with the back-substitution of CROWN, arXiv
1811.00866).  Everything is computed in float64.  ``weight`` collects the sum of the absolute values
of all terms; the result of any order of summation is off by at most ``gamma(terms) * weight``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.crop import Crop
from qebgate.domains.gap import Interval
from qebgate.domains.layers import ROOT
from qebgate.domains.linear_map import LinearMap
from qebgate.domains.lines import GapLine, Line
from qebgate.numerics.rounding import F64, SAFETY, gamma, up

ROUNDINGS = 16
"""More than the roundings of one step besides its products: lines as centre and half-difference, sums of streams."""
UNDERFLOW = 1e-280
"""More than all underflows of one bound can add up to, per unit of the largest magnitude."""


@dataclass(slots=True, eq=False)
class Form:
    """Coefficients [R, n] of one value's three quantities; None stands for zeros."""

    h: F64 | None = None
    g: F64 | None = None
    d: F64 | None = None

    crop: Crop | None = None
    """The rectangle of the value's image that the columns are; None for all of it."""

    def add(self, other: Form, size: int) -> Form:
        """The sum of two forms over a value of ``size`` entries."""
        into = None
        if self.crop is not None and other.crop is not None and self.crop.image == other.crop.image:
            into = self.crop.union(other.crop)
        a, b = self.within(into, size), other.within(into, size)
        return Form(_plus(a.h, b.h), _plus(a.g, b.g), _plus(a.d, b.d), into)

    def within(self, into: Crop | None, size: int) -> Form:
        """The same form over a larger rectangle, or over the whole value of ``size`` entries."""
        if self.crop is None or self.crop == into:
            return self
        crop, target = self.crop, into or Crop.whole(self.crop.image)
        assert into is not None or target.size == size
        grow = lambda c: None if c is None else crop.expand(c, target)  # noqa: E731
        return Form(grow(self.h), grow(self.g), grow(self.d), into)


def _plus(a: F64 | None, b: F64 | None) -> F64 | None:
    return b if a is None else a if b is None else a + b


@dataclass(frozen=True, slots=True, eq=False)
class Resolved:
    """A layer whose lines are fixed; what back-substitution needs and nothing else.

    ``over`` and ``under`` are (h, hq, delta) lines from above and from below.  ``noise`` [m] bounds the
    float32 error in ``z`` (shared with opposite sign by D), None for none.  ``z``, ``q``, ``d`` [m] bound
    the magnitudes behind one unit of each pre-activation coefficient, ``h_size``, ``g_size``,
    ``d_size`` those behind one unit of each form coefficient.
    """

    inputs: tuple[int, ...]
    output: int
    f: tuple[LinearMap, ...]
    q: tuple[LinearMap, ...]
    diff: tuple[LinearMap, ...]
    bf: F64
    bq: F64
    bd: F64
    over: tuple[Line, Line, GapLine]
    under: tuple[Line, Line, GapLine]
    noise: F64 | None
    z: F64
    q_mag: F64
    d: F64
    h_size: F64
    g_size: F64
    d_size: F64
    terms: int
    sizes: tuple[int, ...] = ()
    """Entries of each input value."""

    def cropped(self, crop: Crop) -> tuple[Resolved, tuple[Crop, ...]] | None:
        """The layer's part that writes a rectangle of its output, and what it reads of each input."""
        parts = [m.cropped(crop) for m in (*self.f, *self.q, *self.diff)]
        if any(p is None for p in parts):
            return None
        maps = tuple(p[0] for p in parts if p is not None)
        n = len(self.inputs)
        seen = tuple(p[1] for p in parts[:n] if p is not None)
        line = lambda x: Line(crop.take(x.slope), crop.take(x.intercept))  # noqa: E731
        gap = lambda x: GapLine(*(crop.take(v) for v in (x.d, x.z, x.q, x.intercept)))  # noqa: E731
        three = lambda t: (line(t[0]), line(t[1]), gap(t[2]))  # noqa: E731
        vectors = (self.z, self.q_mag, self.d, self.h_size, self.g_size, self.d_size)
        return Resolved(
            self.inputs, self.output, maps[:n], maps[n : 2 * n], maps[2 * n :],
            crop.take(self.bf), crop.take(self.bq), crop.take(self.bd), three(self.over), three(self.under),
            None if self.noise is None else crop.take(self.noise), *(crop.take(v) for v in vectors),
            terms=self.terms, sizes=self.sizes,
        ), seen  # fmt: skip


@dataclass(slots=True, eq=False)
class Pre:
    """Coefficients [R, m] of a layer's pre-activations; None stands for zeros.

    Rows are those of the run's :class:`Layout`: z and d hold the rows of h and d, q those of g.
    """

    z: F64 | None = None
    q: F64 | None = None
    d: F64 | None = None
    crop: Crop | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Which rows of a run have which coefficients: first ``float`` rows of h alone, then ``both``, then ``quantized``.

    A form holds only the rows that a stream has: h the first two parts, g the last two, d the middle one.
    """

    float: int
    both: int
    quantized: int

    @property
    def rows(self) -> int:
        return self.float + self.both + self.quantized

    @property
    def h(self) -> slice:
        return slice(0, self.float + self.both)

    @property
    def d(self) -> slice:
        """Rows of d, among all rows and within those of h."""
        return slice(self.float, self.float + self.both)

    @property
    def g(self) -> slice:
        return slice(self.float, self.rows)

    @property
    def d_in_g(self) -> slice:
        return slice(0, self.both)


@dataclass(frozen=True, slots=True, eq=False)
class Streams:
    """Bounds ``[lo; hi]`` of some neurons' pre-activations: z [2, P]; zq, D and ``zq - z`` [2, W] of some of them."""

    z: F64
    q: F64
    d: F64
    apart: F64


class Backward:
    """Upper bounds of forms over values that are already resolved."""

    def __init__(self, root: Interval) -> None:
        self.root = root
        self.layers: list[Resolved] = []
        self._terms = 2 * root.lo.size + ROUNDINGS
        self._scale = 1.0 + float(root.magnitude.max(initial=0.0))
        self.macs = 0.0

    def push(self, layer: Resolved) -> None:
        """Add the next layer in topological order."""
        self.layers.append(layer)
        self._terms = max(self._terms, layer.terms + layer.bf.size) + ROUNDINGS
        self._scale = max(self._scale, 1.0 + float(layer.h_size.max(initial=0.0) + layer.g_size.max(initial=0.0)))

    def streams(
        self, layer: Resolved, index: NDArray[np.intp], wide: NDArray[np.intp], crop: Crop | None, *, gap: bool
    ) -> Streams:
        """Bounds of z of the neurons ``index`` and of zq, D of those at ``wide`` among them, in one pass.

        The layer is not pushed yet.  Positions are those within ``crop`` if one is given.  ``zq - z`` is the
        sum of the two sides' rows before they are concretised, so it costs no products.  Without ``gap`` the
        gap's own stream is left out: then D is ``zq - z``.
        """
        part, seen = layer, None
        if crop is not None:
            found = layer.cropped(crop)
            assert found is not None
            part, seen = found
        open_q = index[wide]
        both = open_q if gap else index[:0]
        p, b, w = index.size, both.size, wide.size
        run = Run(self.root, 2 * (p + b + w))
        run.layout = Layout(2 * p, 2 * b, 2 * w)
        run.terms = max(self._terms, layer.terms + layer.bf.size) + ROUNDINGS
        run.enter(part, (index, both, open_q), seen)
        # zq's upper bound with z's lower one and the other way round
        pairs = np.concatenate([wide + p, wide]), np.arange(2 * w)
        bound = self._finish(run, pairs)
        z, d, q, apart = np.split(bound, np.cumsum([2 * p, 2 * b, 2 * w]))
        sides = lambda v: np.stack([-v[v.size // 2 :], v[: v.size // 2]])  # noqa: E731
        return Streams(sides(z), sides(q), sides(d if gap else apart), sides(apart))

    def value(self, output: int, form: Form, run: Run | None = None) -> F64:
        """Upper bounds [R] of forms over a resolved value.  ``run`` may watch how they come about."""
        rows = next(c for c in (form.h, form.g, form.d) if c is not None).shape[0]
        run = run or Run(self.root, rows)
        run.live[output] = form
        return self.finish(run)

    def finish(self, run: Run) -> F64:
        """Upper bounds [R] of what a run holds: forms over resolved values."""
        run.terms = max(run.terms, self._terms)
        return self._finish(run)

    def _finish(self, run: Run, pairs: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None) -> F64:
        for layer in reversed(self.layers):
            form = run.live.pop(layer.output, None)
            if form is not None:
                run.step(layer, form)
        bound = run.concretise(self._scale)
        return bound if pairs is None else np.concatenate([bound, run.paired(self._scale, *pairs)])


class Run:
    """One pass from some forms down to the root."""

    def __init__(self, root: Interval, rows: int) -> None:
        self.root = root
        self.layout = Layout(0, rows, 0)
        self.live: dict[int, Form] = {}
        self.constant = np.zeros(rows)
        self.noise = np.zeros(rows)
        self.weight = np.zeros(rows)
        self.terms = 0

    def enter(self, layer: Resolved, index: tuple[NDArray[np.intp], ...], seen: tuple[Crop, ...] | None) -> None:
        """Begin with single pre-activations, +1 then -1 of each: z, D and zq of the neurons in ``index``."""
        at = self.layout
        z, d, q = index
        both = lambda v: np.concatenate([v, -v])  # noqa: E731
        twice = lambda v: np.concatenate([v, v])  # noqa: E731
        self.constant += np.concatenate([both(layer.bf[z]), both(layer.bd[d]), both(layer.bq[q])])
        self.weight += np.concatenate([twice(layer.z[z]), twice(layer.d[d]), twice(layer.q_mag[q])])
        if layer.noise is not None:
            self.noise[at.h] += np.concatenate([twice(layer.noise[z]), twice(layer.noise[d])])
        for k, i in enumerate(layer.inputs):
            f, gap, g = both(layer.f[k].pick(z)), both(layer.diff[k].pick(d)), both(layer.q[k].pick(q))
            own = g if d is q else both(layer.q[k].pick(d))
            form = Form(
                np.concatenate([f, gap]), np.concatenate([np.zeros_like(own), g]), own if d.size else None,
                None if seen is None else seen[k],
            )  # fmt: skip
            self.live[i] = form if i not in self.live else self.live[i].add(form, layer.sizes[k])

    def step(self, layer: Resolved, form: Form) -> None:
        """Replace a value by its layer's inputs, within the form's rectangle where the layer allows it."""
        part = None if form.crop is None else layer.cropped(form.crop)
        if part is None:
            self.through(layer, self.relax(layer, form.within(None, layer.bf.size)), None)
        else:
            self.through(part[0], self.relax(part[0], form), part[1])

    def relax(self, layer: Resolved, form: Form) -> Pre:
        """Replace activations by their lines: from above for positive coefficients, from below for negative."""
        pre, at = Pre(), self.layout
        (h_up, g_up, d_up), (h_lo, g_lo, d_lo) = layer.over, layer.under
        if form.h is not None:
            lines = [(h_up.slope, h_lo.slope)]
            (pre.z,) = self._relaxed(form.h, at.h, lines, h_up.intercept, h_lo.intercept, layer.h_size)
        if form.g is not None:
            lines = [(g_up.slope, g_lo.slope)]
            (pre.q,) = self._relaxed(form.g, at.g, lines, g_up.intercept, g_lo.intercept, layer.g_size)
        if form.d is not None:
            lines = [(d_up.d, d_lo.d), (d_up.z, d_lo.z), (d_up.q, d_lo.q)]
            pre.d, z, q = self._relaxed(form.d, at.d, lines, d_up.intercept, d_lo.intercept, layer.d_size)
            pre.z = _added(pre.z, z, at.d, at.float + at.both)
            pre.q = _added(pre.q, q, at.d_in_g, at.both + at.quantized)
        return pre

    def _relaxed(
        self, a: F64, rows: slice, slopes: Sequence[tuple[F64, F64]], over: F64, under: F64, size: F64
    ) -> list[F64 | None]:
        """Coefficients behind each pair of slopes, as centre and half-difference: ``a mid + |a| half``."""
        magnitude = np.abs(a)
        self.constant[rows] += a @ (0.5 * (over + under)) + magnitude @ (0.5 * (over - under))
        self.weight[rows] += magnitude @ size
        found: list[F64 | None] = []
        for up_, low in slopes:
            if not (up_.any() or low.any()):
                found.append(None)
                continue
            c = a * (0.5 * (up_ + low))
            half = 0.5 * (up_ - low)
            if half.any():
                c += magnitude * half
            found.append(c)
        return found

    def through(self, layer: Resolved, pre: Pre, seen: tuple[Crop, ...] | None) -> None:
        """Replace pre-activations by the layer's inputs (``seen`` of them where given)."""
        at = self.layout
        for c, bias, size, rows in (
            (pre.z, layer.bf, layer.z, at.h),
            (pre.q, layer.bq, layer.q_mag, at.g),
            (pre.d, layer.bd, layer.d, at.d),
        ):
            if c is not None:
                self.constant[rows] += c @ bias
                self.weight[rows] += np.abs(c) @ size
        # the float side's share of D = zq - z, and the quantized one's
        z = q = None
        if layer.noise is not None or ROOT in layer.inputs:
            z = _added(pre.z, None if pre.d is None else -pre.d, at.d, at.float + at.both)
        if layer.noise is not None and z is not None:
            # z carries +eps and D carries -eps: one shared error
            self.noise[at.h] += np.abs(z) @ layer.noise
        if ROOT in layer.inputs:
            q = _added(pre.q, pre.d, at.d_in_g, at.both + at.quantized)
            if pre.d is not None:  # terms that nearly cancel
                self.weight[at.d] += np.abs(pre.d) @ (2 * (layer.z + layer.q_mag))
        for k, i in enumerate(layer.inputs):
            f, m, diff = layer.f[k], layer.q[k], layer.diff[k]
            if i == ROOT:  # no gap there: both sides' coefficients are of the same x
                h, g, d = None if z is None else f.back(z), None if q is None else m.back(q), None
            else:
                h = None if pre.z is None else f.back(pre.z)
                g = None if pre.q is None else m.back(pre.q)
                d = None if pre.d is None else m.back(pre.d)
                h = _added(h, None if pre.d is None else diff.back(pre.d), at.d, at.float + at.both)
            form = Form(h, g, d, None if seen is None else seen[k])
            self.live[i] = form if i not in self.live else self.live[i].add(form, layer.sizes[k])

    def concretise(self, scale: float) -> F64:
        """The supremum over the root box, rounded upwards.  At the root both sides are x and delta is 0."""
        at, form = self.layout, self.live.get(ROOT)
        assert not self.live.keys() - {ROOT}, "a form over a value that was never resolved"
        best, weight = np.zeros(at.rows), np.zeros(at.rows)
        if form is not None:
            both = form.h if form.g is None else form.g
            if form.h is not None and form.g is not None:
                both = form.h[at.d] + form.g[at.d_in_g]
            elif both is not None:
                both = both[at.d] if form.g is None else both[at.d_in_g]
            parts = (
                (slice(0, at.float), None if form.h is None else form.h[: at.float]),
                (at.d, both),
                (slice(at.float + at.both, None), None if form.g is None else form.g[at.both :]),
            )
            for rows, a in parts:
                if a is not None and len(a):
                    best[rows], weight[rows] = self._supremum(a, form.crop)
        return self._rounded(self.constant + best, self.noise, self.weight + weight, scale)

    def paired(self, scale: float, h_rows: NDArray[np.intp], g_rows: NDArray[np.intp]) -> F64:
        """The suprema of sums of one row of h alone and one of g alone (counted from the first such row)."""
        at, form = self.layout, self.live.get(ROOT)
        q_rows = g_rows + at.float + at.both
        total = lambda v: v[h_rows] + v[q_rows]  # noqa: E731
        best = weight = np.zeros(h_rows.size)
        if form is not None:
            h = None if form.h is None else form.h[h_rows]
            a = _plus(h, None if form.g is None else form.g[at.both :][g_rows])
            if a is not None:
                best, weight = self._supremum(a, form.crop)
        return self._rounded(total(self.constant) + best, total(self.noise), total(self.weight) + weight, scale)

    def _supremum(self, a: F64, crop: Crop | None) -> tuple[F64, F64]:
        """Largest ``a x`` over the root box, and the magnitude of its terms."""
        lo, hi = self.root.lo, self.root.hi
        if crop is not None:
            lo, hi = crop.take(lo), crop.take(hi)
        centre = 0.5 * (lo + hi)
        radius = np.where(lo == hi, 0.0, up(np.maximum(hi - centre, centre - lo)))
        size, most = np.abs(a), Interval(lo, hi).magnitude
        return a @ centre + size @ radius, size @ most

    def _rounded(self, total: F64, noise: F64, weight: F64, scale: float) -> F64:
        slack = noise + SAFETY * gamma(self.terms) * (weight + 2 * noise) + UNDERFLOW * scale
        return up(total + slack)


def _added(total: F64 | None, part: F64 | None, rows: slice, count: int) -> F64 | None:
    """A new array of ``count`` rows: ``total`` with ``part`` added to some of them; None stands for zeros."""
    if part is None:
        return total
    if total is None:
        if len(part) == count:
            return part
        total = np.zeros((count, part.shape[1]))
    elif len(part) == count:
        return total + part
    else:
        total = total.copy()
    total[rows] += part
    return total
