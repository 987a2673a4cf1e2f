"""Back-substitution of linear forms through a pair, with every roundoff accounted for.

A form over a value is ``a_h . h + a_g . hq + a_d . delta`` (one row of three coefficient arrays
``[R, n]``).  Through a layer it becomes coefficients ``(c_z, c_q, c_d)`` of the pre-activations by the
layer's lines, and then forms over the layer's inputs by

    z = f h + bf,   zq = q hq + bq,   D = zq - z = q delta + (q - f) h + (bq - bf)

(method.md, section 1; QEBVerif, arXiv 2212.02781, with the back-substitution of CROWN, arXiv
1811.00866).  Everything is computed in float64.  ``weight`` collects the sum of the absolute values
of all terms; the result of any order of summation is off by at most ``gamma(terms) * weight``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qebgate.domains.crop import Crop
from qebgate.domains.gap import Interval
from qebgate.domains.layers import ROOT
from qebgate.domains.linear_map import LinearMap
from qebgate.domains.lines import GapLine, Line
from qebgate.numerics.rounding import F64, SAFETY, gamma, up

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
    """Coefficients [R, m] of a layer's pre-activations; None stands for zeros."""

    z: F64 | None = None
    q: F64 | None = None
    d: F64 | None = None
    crop: Crop | None = None


class Backward:
    """Upper bounds of forms over values that are already resolved."""

    def __init__(self, root: Interval) -> None:
        self.root = root
        self.layers: list[Resolved] = []
        self._terms = 2 * root.lo.size + 8
        self._scale = 1.0 + float(root.magnitude.max(initial=0.0))
        self.macs = 0.0

    def push(self, layer: Resolved) -> None:
        """Add the next layer in topological order."""
        self.layers.append(layer)
        self._terms = max(self._terms, layer.terms + layer.bf.size) + 8
        self._scale = max(self._scale, 1.0 + float(layer.h_size.max(initial=0.0) + layer.g_size.max(initial=0.0)))

    def before(self, layer: Resolved, pre: Pre) -> F64:
        """Upper bounds [R] of forms over the pre-activations of a layer that is not pushed yet."""
        rows = next(c for c in (pre.z, pre.q, pre.d) if c is not None).shape[0]
        run = Run(self.root, rows)
        run.terms = max(self._terms, layer.terms + layer.bf.size)
        if pre.crop is None:
            run.through(layer, pre, None)
        else:
            part = layer.cropped(pre.crop)
            assert part is not None
            run.through(part[0], pre, part[1])
        return self._finish(run)

    def value(self, output: int, form: Form, run: Run | None = None) -> F64:
        """Upper bounds [R] of forms over a resolved value.  ``run`` may watch how they come about."""
        rows = next(c for c in (form.h, form.g, form.d) if c is not None).shape[0]
        run = run or Run(self.root, rows)
        run.live[output] = form
        run.terms = self._terms
        return self._finish(run)

    def _finish(self, run: Run) -> F64:
        for layer in reversed(self.layers):
            form = run.live.pop(layer.output, None)
            if form is not None:
                run.step(layer, form)
        return run.concretise(self._scale)


class Run:
    """One pass from some forms down to the root."""

    def __init__(self, root: Interval, rows: int) -> None:
        self.root = root
        self.live: dict[int, Form] = {}
        self.constant = np.zeros(rows)
        self.noise = np.zeros(rows)
        self.weight = np.zeros(rows)
        self.terms = 0

    def step(self, layer: Resolved, form: Form) -> None:
        """Replace a value by its layer's inputs, within the form's rectangle where the layer allows it."""
        part = None if form.crop is None else layer.cropped(form.crop)
        if part is None:
            self.through(layer, self.relax(layer, form.within(None, layer.bf.size)), None)
        else:
            self.through(part[0], self.relax(part[0], form), part[1])

    def relax(self, layer: Resolved, form: Form) -> Pre:
        """Replace activations by their lines: from above for positive coefficients, from below for negative."""
        pre = Pre()
        (h_up, g_up, d_up), (h_lo, g_lo, d_lo) = layer.over, layer.under
        for coeff, over, under, size, name in (
            (form.h, h_up, h_lo, layer.h_size, "z"),
            (form.g, g_up, g_lo, layer.g_size, "q"),
        ):
            if coeff is not None:
                pos, neg = self._split(coeff, over.intercept, under.intercept, size)
                setattr(pre, name, pos * over.slope + neg * under.slope)
        if form.d is not None:
            pos, neg = self._split(form.d, d_up.intercept, d_lo.intercept, layer.d_size)
            pre.d = pos * d_up.d + neg * d_lo.d
            pre.z = _plus(pre.z, pos * d_up.z + neg * d_lo.z)
            pre.q = _plus(pre.q, pos * d_up.q + neg * d_lo.q)
        return pre

    def _split(self, a: F64, over: F64, under: F64, size: F64) -> tuple[F64, F64]:
        pos = np.maximum(a, 0.0)
        neg = a - pos
        self.constant += pos @ over + neg @ under
        self.weight += pos @ size - neg @ size
        return pos, neg

    def through(self, layer: Resolved, pre: Pre, seen: tuple[Crop, ...] | None) -> None:
        """Replace pre-activations by the layer's inputs (``seen`` of them where given)."""
        for c, bias, mag in ((pre.z, layer.bf, layer.z), (pre.q, layer.bq, layer.q_mag), (pre.d, layer.bd, layer.d)):
            if c is not None:
                self.constant += c @ bias
                self.weight += np.abs(c) @ mag
        if layer.noise is not None and (pre.z is not None or pre.d is not None):
            # z carries +eps and D = zq - z carries -eps: one shared error
            net = pre.z if pre.d is None else -pre.d if pre.z is None else pre.z - pre.d
            assert net is not None
            self.noise += np.abs(net) @ layer.noise
        for k, i in enumerate(layer.inputs):
            h = _plus(
                None if pre.z is None else layer.f[k].back(pre.z), None if pre.d is None else layer.diff[k].back(pre.d)
            )
            g = None if pre.q is None else layer.q[k].back(pre.q)
            d = None if pre.d is None else layer.q[k].back(pre.d)
            form = Form(h, g, d, None if seen is None else seen[k])
            self.live[i] = form if i not in self.live else self.live[i].add(form, layer.sizes[k])

    def concretise(self, scale: float) -> F64:
        """The supremum over the root box, rounded upwards.  At the root both sides are x and delta is 0."""
        total = self.constant
        form = self.live.pop(ROOT, None)
        assert not self.live, "a form over a value that was never resolved"
        if form is not None:
            a = _plus(form.h, form.g)
            if a is not None:
                take = (lambda v: v) if form.crop is None else form.crop.take
                pos = np.maximum(a, 0.0)
                neg = a - pos
                total = total + pos @ take(self.root.hi) + neg @ take(self.root.lo)
                self.weight += (pos - neg) @ take(self.root.magnitude)
        slack = self.noise + SAFETY * gamma(self.terms) * (self.weight + 2 * self.noise) + UNDERFLOW * scale
        return up(total + slack)
