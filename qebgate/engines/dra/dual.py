"""The Lagrangian dual of a pair: a multiplier for every pre-activation, optimised for many targets at once.

A bound of ``c_h . h + c_g . hq`` needs numbers ``lam``, ``mu`` for every layer's z and zq, any at all.  With
coefficients a_h, a_g of the layer's outputs, each neuron contributes

    sup of  a_h h(z) + a_g hq(zq) - lam z - mu zq   over  z in Z, zq in Q, zq - z in D

and ``lam z + mu zq`` goes on to the layer's inputs (dual decomposition: Bunel et al., arXiv 2002.10410; the
hexagon couples the two networks).  The activations are linear between the clamps' edges and the first and
last step of the staircase, so the supremum is at one of a few corners that do not depend on the
multipliers.  Its position minus the value propagated forward is the derivative.  Compared with lines
(:mod:`qebgate.engines.dra.slopes`) nothing of the three intervals and of the staircase is lost.

The search is not trusted: the bound is evaluated once more by :class:`Certified`, with every roundoff charged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.crop import Crop
from qebgate.domains.gap import Interval
from qebgate.domains.layers import ROOT
from qebgate.domains.linear_map import Dense, LinearMap
from qebgate.domains.lines import Neurons, staircase_points
from qebgate.engines.dra.backward import ROUNDINGS, Backward, Form, Pre, Resolved, Run
from qebgate.numerics.rounding import F64, U64, down, up

Sides = tuple[F64, F64]
"""Something of the float side and of the quantized side, [R, n] each."""

RATE, LAST = 0.15, 0.01
"""First step, relative to the multipliers' size, and the last one's share of it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """Corners of some neurons (``columns``): z, zq, h and hq from above and below, [P, k]."""

    columns: NDArray[np.intp] | slice
    z: F64
    q: F64
    h: F64
    above: F64
    below: F64

    def take(self, columns: NDArray[np.intp], order: NDArray[np.intp]) -> _Points:
        """Of some columns, the points in the given order [P', k']."""
        pick = lambda v: v[order, columns[None]]  # noqa: E731
        return _Points(columns, *(pick(v) for v in (self.z, self.q, self.h, self.above, self.below)))

    def best(self, a: Sides, multipliers: Sides, out: Best) -> None:
        """Fill in the largest values of these neurons, and where they are."""
        k = self.columns
        (h, g), (lam, mu) = ((x[:, k], y[:, k]) for x, y in (a, multipliers))
        v = h * self.h[:, None]
        v -= lam * self.z[:, None]
        v -= mu * self.q[:, None]
        v += np.maximum(g, 0.0) * self.above[:, None]
        v += np.minimum(g, 0.0) * self.below[:, None]
        at, j = np.argmax(v, axis=0), np.arange(v.shape[2])[None]
        out.value[:, k] = v[at, np.arange(len(h))[:, None], j]
        out.z[:, k], out.q[:, k], out.h[:, k] = self.z[at, j], self.q[at, j], self.h[at, j]
        out.g[:, k] = np.where(g > 0, self.above[at, j], self.below[at, j])


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """Largest value of every neuron, and z, zq, h and hq there, [R, m]."""

    value: F64
    z: F64
    q: F64
    h: F64
    g: F64


@dataclass(frozen=True, slots=True, eq=False)
class Corners:
    """Points that decide every supremum over a layer's neurons.

    ``size`` [m] is at least the magnitude of everything that makes up a point.  ``fixed`` [m] are neurons
    with one value on both sides, ``h`` and ``g``: their multipliers are 0.
    """

    points: _Points
    size: F64
    fixed: NDArray[np.bool_]
    h: F64
    g: F64

    @property
    def cost(self) -> int:
        """Points of all neurons."""
        return self.points.z.size + self.size.size

    @classmethod
    def of(cls, n: Neurons) -> Corners:
        """Vertices of the cells that the hexagon is cut into by the edges of the activations.

        A vertex is on two of the lines ``z =``, ``zq =``, ``zq - z =`` a constant.  Those on a line of zq are
        found from it; the others are on a line of D and an edge of z.  Rounding moves a point by a few
        units in the last place of ``size``; :class:`Certified` charges for that.
        """
        z, d = n.z, n.d
        q = Interval(np.maximum(n.q.lo, down(z.lo + d.lo)), np.minimum(n.q.hi, up(z.hi + d.hi)))
        size = z.magnitude + q.magnitude + d.magnitude + n.below + n.above
        edges = [e for e in (n.a, n.b) if np.isfinite(e)]
        tops, lows = _Steps.of(n, size), _Steps.of(n.mirrored(), size)
        at_q = [q.lo, q.hi, tops.first, tops.last, -lows.first, -lows.last, z.lo + d.hi, z.hi + d.lo]
        at_q += [e + side for e in edges for side in (d.lo, d.hi)]
        zs: list[F64] = []
        qs: list[F64] = []
        for line in at_q:
            v = np.clip(line, q.lo, q.hi)
            least = np.maximum(z.lo, v - d.hi)
            most = np.maximum(np.minimum(z.hi, v - d.lo), least)
            zs += [least, most, *(np.clip(e, least, most) for e in edges)]
            qs += [v] * (2 + len(edges))
        zz, qq = np.stack(zs), np.stack(qs)
        h, above, below = np.clip(zz, n.a, n.b), tops.value(qq), -lows.value(-qq)
        fixed = (h.max(axis=0) == h.min(axis=0)) & (above.max(axis=0) == below.min(axis=0))
        points = _Points(np.arange(size.size), zz, qq, h, above, below)
        return cls(_distinct(points, np.flatnonzero(~fixed)), size + tops.size + lows.size, fixed, h[0], above[0])

    def best(self, a: Sides, multipliers: Sides) -> Best:
        """The suprema of all neurons."""
        h, g = a
        constant = h * self.h + g * self.g
        zero = np.zeros_like(constant)
        out = Best(constant, zero, zero.copy(), zero + self.h, zero + self.g)
        self.points.best(a, multipliers, out)
        return out

    def without_fixed(self) -> Corners:
        """Only the neurons that are not fixed."""
        live = ~self.fixed
        return Corners(
            replace(self.points, columns=slice(None)), self.size[live], self.fixed[live], self.h[live], self.g[live]
        )


def _distinct(points: _Points, columns: NDArray[np.intp]) -> _Points:
    """Some columns, without points that all of them repeat."""
    z, q = points.z[:, columns], points.q[:, columns]
    repeated = np.zeros(z.shape, np.bool_)
    for i in range(1, len(z)):
        repeated[i] = ((z[:i] == z[i]) & (q[:i] == q[i])).any(axis=0)
    most = int((~repeated).sum(axis=0).max(initial=1))
    return points.take(columns, np.argsort(repeated, axis=0, kind="stable")[:most])


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """From above, what hq can be at zq: ``low`` before ``first``, then ``zq + above`` up to ``high`` at ``last``."""

    first: F64
    last: F64
    low: F64
    high: F64
    above: F64
    near: F64
    size: F64

    @classmethod
    def of(cls, n: Neurons, size: F64) -> _Steps:
        zero = np.zeros_like(n.z.lo)
        near = 16 * U64 * size
        if n.unit is not None and n.k is not None:
            p = staircase_points(n.q, n.k, n.unit, n.above / n.unit)
            return cls(p.x[1], p.x[2], p.y[0], p.y[2], n.above, near, np.abs(p.y).max(axis=0))
        low = zero + n.aq if np.isfinite(n.aq) else up(n.q.lo + n.above)
        high = zero + n.bq if np.isfinite(n.bq) else up(n.q.hi + n.above)
        first, last = (np.clip(v - n.above, n.q.lo, n.q.hi) for v in (low, high))
        # continuous: where it is clamped from below it is the larger of two lines
        return cls(first, last, low, high, n.above, near, np.maximum(np.abs(low), np.abs(high)))

    def value(self, q: F64) -> F64:
        rises = np.minimum(q + self.above, self.high)
        return np.where(q < self.first - self.near, self.low, np.maximum(rises, self.low))


class Certified(Run):
    """The bound that any multipliers give, every roundoff charged.

    A point of a cell is off by at most ``16 u size``, and a neuron's term changes by no more than the sum of
    its four coefficients times that; so the weight of the term is that sum times the size.
    """

    def __init__(self, root: Interval, rows: int, corners: Mapping[int, Corners], at: Mapping[int, Sides]) -> None:
        super().__init__(root, rows)
        self.corners, self.at = corners, at

    def relax(self, layer: Resolved, form: Form) -> Pre:
        if layer.output not in self.at:
            return super().relax(layer, form)
        assert form.d is None
        zero = np.zeros((self.layout.rows, layer.bf.size))
        a = (zero if form.h is None else form.h, zero if form.g is None else form.g)
        corners = self.corners[layer.output]
        lam, mu = (np.where(corners.fixed, 0.0, m) for m in self.at[layer.output])
        best = corners.best(a, (lam, mu)).value
        self.constant += best.sum(axis=1)
        terms = sum((np.abs(v) for v in (*a, lam, mu)), np.zeros_like(zero))
        self.weight += np.abs(best).sum(axis=1) + 4 * (terms @ corners.size)
        return Pre(z=lam, q=mu)


@dataclass(frozen=True, slots=True, eq=False)
class Dual:
    """What a search needs: resolved layers in order, corners of those with multipliers, and the root box."""

    layers: Sequence[Resolved]
    corners: Mapping[int, Corners]
    root: Interval

    def search(self, forms: Mapping[int, Form], iterations: int) -> dict[int, Sides]:
        """Multipliers that make the upper bounds of forms over some values small, for each row its own.

        The best of all iterations are returned.
        """
        slim, live = self.reduced()
        part = lambda k, pair: (pair[0][:, live[k]], pair[1][:, live[k]]) if k in live else pair  # noqa: E731
        target = {k: part(k, merged(form)) for k, form in forms.items()}
        at = {k: part(k, pair) for k, pair in self.start(forms).items()}
        found = slim.descend(target, at, iterations)
        for k in live.keys() & found.keys():
            lam, mu = np.zeros((2, len(found[k][0]), live[k].size))
            lam[:, live[k]], mu[:, live[k]] = found[k]
            found[k] = lam, mu
        return found

    def descend(self, target: Mapping[int, Sides], at: dict[int, Sides], iterations: int) -> dict[int, Sides]:
        """The best multipliers of some iterations (Adam, on a falling step)."""
        # lam z + mu zq = (lam + mu) z + mu D: the two networks nearly agree, so that the sum needs finer steps
        free = {k: ~c.fixed for k, c in self.corners.items()}
        sizes = {k: (_size(lam + mu) * free[k], _size(mu) * free[k]) for k, (lam, mu) in at.items()}
        steps = {k: (_Adam(lam.shape), _Adam(lam.shape)) for k, (lam, _) in at.items()}
        best = {k: (lam.copy(), mu.copy()) for k, (lam, mu) in at.items()}
        lowest = np.full(next(iter(target.values()))[0].shape[0], np.inf)
        for t in range(iterations):
            value, slope = self.evaluate(target, at)
            better = value < lowest
            lowest = np.where(better, value, lowest)
            rate = RATE * LAST ** (t / max(1, iterations - 1))
            for k, (lam, mu) in at.items():
                best[k][0][better], best[k][1][better] = lam[better], mu[better]
                z, q = slope[k]
                both = rate * sizes[k][0] * steps[k][0].step(z)
                gap = rate * sizes[k][1] * steps[k][1].step(q - z)
                at[k] = lam - both + gap, mu - gap
        return best

    def reduced(self) -> tuple[Dual, dict[int, NDArray[np.bool_]]]:
        """The same search without fixed neurons between dense layers, and which neurons are left, by value."""
        dense = lambda m: isinstance(m, Dense) and m.rows == 1  # noqa: E731
        slim = {r.output for r in self.layers if r.output in self.corners and all(map(dense, (*r.f, *r.q)))}
        for r in self.layers:
            slim -= {i for i, f, q in zip(r.inputs, r.f, r.q, strict=True) if not (dense(f) and dense(q))}
        live = {k: ~self.corners[k].fixed for k in slim}
        layers: list[Resolved] = []
        for r in self.layers:
            rows = live.get(r.output, slice(None))
            sides: list[tuple[tuple[LinearMap, ...], F64]] = []
            for maps, bias, name in ((r.f, r.bf, "h"), (r.q, r.bq, "g")):
                kept, total = list(maps), bias
                for k, (m, i) in enumerate(zip(maps, r.inputs, strict=True)):
                    if isinstance(m, Dense) and (r.output in slim or i in slim):
                        w = m.w
                        if i in slim:
                            c = self.corners[i]
                            total = total + w[:, c.fixed] @ getattr(c, name)[c.fixed]
                            w = w[:, live[i]]
                        kept[k] = Dense(np.ascontiguousarray(w[rows]))
                sides.append((tuple(kept), total[rows]))
            noise = None if r.noise is None else r.noise[rows]
            (f, bf), (q, bq) = sides
            layers.append(replace(r, f=f, q=q, bf=bf, bq=bq, noise=noise))
        corners = {k: c.without_fixed() if k in slim else c for k, c in self.corners.items()}
        return Dual(layers, corners, self.root), live

    def start(self, target: Mapping[int, Form]) -> dict[int, Sides]:
        """Multipliers that the layers' lines amount to."""
        run = _Watch(self.root, _rows(target))
        run.live.update(target)
        for r in reversed(self.layers):
            form = run.live.pop(r.output, None)
            if form is not None:
                run.through(r, run.relax(r, form), None)
        live = {k: ~c.fixed for k, c in self.corners.items()}
        return {k: (lam * live[k], mu * live[k]) for k, (lam, mu) in run.at.items() if k in live}

    def evaluate(self, target: Mapping[int, Sides], at: Mapping[int, Sides]) -> tuple[F64, dict[int, Sides]]:
        """The bounds [R], and their derivatives by the multipliers: values propagated minus values at the corners."""
        live = dict(target)
        total = np.zeros(next(iter(target.values()))[0].shape[0])
        found: dict[int, tuple[Sides, Sides, Sides]] = {}  # multipliers, points (z, zq), values (h, hq)
        for r in reversed(self.layers):
            a = live.pop(r.output, None)
            if a is None:
                continue
            if r.output in self.corners:
                c, m = self.corners[r.output], at[r.output]
                best = c.best(a, m)
                total += best.value.sum(axis=1)
                found[r.output] = m, (best.z, best.q), (best.h, best.g)
            else:
                m, add = _on_lines(r, a)
                total += add
                found[r.output] = m, a, a
            total += m[0] @ r.bf + m[1] @ r.bq
            if r.noise is not None:
                total += np.abs(m[0]) @ r.noise
            for k, i in enumerate(r.inputs):
                part = r.f[k].back(m[0]), r.q[k].back(m[1])
                live[i] = part if i not in live else (live[i][0] + part[0], live[i][1] + part[1])
        x = np.zeros((total.size, self.root.lo.size))
        if ROOT in live:
            a = sum(live[ROOT])
            x = np.where(a > 0, self.root.hi, self.root.lo)
            total += np.einsum("rn,rn->r", a, x)
        return total, self._ascend(found, x)

    def _ascend(self, found: Mapping[int, tuple[Sides, Sides, Sides]], x: F64) -> dict[int, Sides]:
        values: dict[int, Sides] = {ROOT: (x, x)}
        slopes: dict[int, Sides] = {}
        for r in self.layers:
            if r.output not in found:
                continue
            (lam, _), point, value = found[r.output]
            z = r.bf + sum(r.f[k].forward(values[i][0]) for k, i in enumerate(r.inputs)) + np.zeros_like(lam)
            q = r.bq + sum(r.q[k].forward(values[i][1]) for k, i in enumerate(r.inputs)) + np.zeros_like(lam)
            if r.noise is not None:
                z = z + np.sign(lam) * r.noise
            if r.output in self.corners:
                slopes[r.output] = z - point[0], q - point[1]
                values[r.output] = value
            else:
                pairs = zip(value, (z, q), r.over[:2], r.under[:2], strict=True)
                h, g = (
                    np.where(a > 0, up_.slope * v + up_.intercept, low.slope * v + low.intercept)
                    for a, v, up_, low in pairs
                )
                values[r.output] = h, g
        return slopes

    def value(self, backward: Backward, target: Mapping[int, Form], iterations: int) -> F64:
        """Rigorous upper bounds [R] of forms over resolved values, with multipliers searched for."""
        run = Certified(self.root, _rows(target), self.corners, self.search(target, iterations))
        for k, form in target.items():
            run.live[k] = Form(*merged(form))
        return backward.finish(run)

    def before(self, backward: Backward, layer: Resolved, pre: Pre, iterations: int) -> F64:
        """The same of forms over the pre-activations of a layer that is not pushed yet."""
        rows = next(c for c in (pre.z, pre.q, pre.d) if c is not None).shape[0]
        begin = Run(self.root, rows)
        begin.through(layer, pre, None)
        run = Certified(self.root, rows, self.corners, self.search(begin.live, iterations))
        run.through(layer, pre, None)
        run.live = {k: form if k == ROOT else Form(*merged(form)) for k, form in run.live.items()}
        run.terms = layer.terms + layer.bf.size + ROUNDINGS
        return backward.finish(run)


class _Watch(Run):
    """Writes down the multipliers of z and zq that the lines of a back-substitution amount to."""

    def __init__(self, root: Interval, rows: int) -> None:
        super().__init__(root, rows)
        self.at: dict[int, Sides] = {}

    def through(self, layer: Resolved, pre: Pre, seen: tuple[Crop, ...] | None) -> None:
        zero = np.zeros((self.layout.rows, layer.bf.size))
        z, q, d = (zero if c is None else c for c in (pre.z, pre.q, pre.d))
        self.at[layer.output] = z - d, q + d
        super().through(layer, pre, seen)


def merged(form: Form) -> Sides:
    """Coefficients of h and hq, with ``delta = hq - h``."""
    some = next(c for c in (form.h, form.g, form.d) if c is not None)
    h, g, d = (np.zeros_like(some) if c is None else c for c in (form.h, form.g, form.d))
    return h - d, g + d


def _size(m: F64) -> F64:
    """About how large a step a multiplier takes: its own size, and something where it is 0."""
    return np.abs(m) + 0.1 * np.abs(m).max(axis=1, keepdims=True, initial=0.0)


def _rows(target: Mapping[int, Form]) -> int:
    return merged(next(iter(target.values())))[0].shape[0]


def _on_lines(r: Resolved, a: Sides) -> tuple[Sides, F64]:
    """Multipliers of a layer that has none of its own, and what its lines' intercepts add."""
    m: list[F64] = []
    total = np.zeros(len(a[0]))
    for c, over, under in zip(a, r.over[:2], r.under[:2], strict=True):
        pos, neg = np.maximum(c, 0.0), np.minimum(c, 0.0)
        m.append(pos * over.slope + neg * under.slope)
        total += pos @ over.intercept + neg @ under.intercept
    return (m[0], m[1]), total


class _Adam:
    """Steps of about one in every coordinate (arXiv 1412.6980)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.m, self.v, self.t = np.zeros(shape), np.zeros(shape), 0

    def step(self, gradient: F64) -> F64:
        self.t += 1
        self.m += 0.1 * (gradient - self.m)
        self.v += 0.01 * (gradient * gradient - self.v)
        return (self.m / (1 - 0.9**self.t)) / (np.sqrt(self.v / (1 - 0.99**self.t)) + 1e-12)
