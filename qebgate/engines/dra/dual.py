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

from qebgate.domains.corners import Corners, Sides
from qebgate.domains.crop import Crop
from qebgate.domains.gap import Interval
from qebgate.domains.layers import ROOT
from qebgate.domains.linear_map import Dense, LinearMap
from qebgate.engines.dra.backward import ROUNDINGS, Backward, Form, Pre, Resolved, Run
from qebgate.numerics.rounding import F64

RATE, LAST = 0.15, 0.01
"""First step, relative to the multipliers' size, and the last one's share of it."""


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
