"""Where the supremum of a pair of activations minus linear terms can be: a few points of each neuron.

Of ``a_h h(z) + a_g hq(zq) - lam z - mu zq`` over the hexagon z in Z, zq in Q, zq - z in D.  The activations are
linear between the clamps' edges and the first and last step of the staircase, so the supremum is at a
vertex of a cell, and vertices do not depend on the coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Interval
from qebgate.domains.lines import Neurons, staircase_points
from qebgate.numerics.rounding import F64, U64, down, up

Sides = tuple[F64, F64]
"""Something of the float side and of the quantized side, [R, n] each."""


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Corners of some neurons (``columns``): z, zq, h and hq from above and below, [P, k]."""

    columns: NDArray[np.intp] | slice
    z: F64
    q: F64
    h: F64
    above: F64
    below: F64

    def take(self, columns: NDArray[np.intp], order: NDArray[np.intp]) -> Points:
        """Of some columns, the points in the given order [P', k']."""
        pick = lambda v: v[order, columns[None]]  # noqa: E731
        return Points(columns, *(pick(v) for v in (self.z, self.q, self.h, self.above, self.below)))

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

    points: Points
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
        units in the last place of ``size``; the caller charges for that.
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
        points = Points(np.arange(size.size), zz, qq, h, above, below)
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


def _distinct(points: Points, columns: NDArray[np.intp]) -> Points:
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
