"""One neuron: the supremum of what its activations exceed given multiples of its pre-activations by.

A neuron's pre-activations lie in the polytope ``z in Z, zq in Q, zq - z = D in its box``.  With H the float clamp
and G what the runtime's rounding and clamp can make of zq, every line and every dual multiplier needs

    sup over the polytope of  ah H(z) + ag G(zq) - lam z - mu zq.

G lies between two staircases; from above it is at most its least value before its first step and
``min(zq + above, largest value)`` from there on, from below likewise.  So the function is linear between the edges of
H and the first and last step, and for a fixed zq its largest value is at an end of z's range there or at an edge of H.
Where those four are corners as zq moves, zq is at one of a few places: the ends, the steps, and where z's range ends at
a bound of Z or an edge of H.  All are evaluated, for all neurons at once, whatever the multiples are.  Points and
values are rounded to nearest; what that can lose is added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qebgate.certify.box import Box
from qebgate.numerics.rounding import F64, TINY64, U64, down, up

ULPS = 64.0
"""More roundings than a point and one evaluation have, each relative to the largest number that occurs."""
SLAB = 1 << 14
"""Values computed at once: in the caches, and enough for numpy."""


@dataclass(frozen=True, slots=True, eq=False)
class Neurons:
    """``m`` neurons: boxes of z, zq and D, the float clamp, the rounding (real units) and the values of hq.

    ``unit`` is None where the quantized value is on no grid.
    """

    z: Box
    q: Box
    d: Box
    clamp: tuple[float, float]
    below: F64
    above: F64
    unit: float | None
    values: Box

    def corners(self) -> Corners:
        """The places that decide."""
        z, d, edges = self.z, self.d, [e for e in self.clamp if np.isfinite(e)]
        q = Box(np.maximum(self.q.lo, down(z.lo + d.lo)), np.minimum(self.q.hi, up(z.hi + d.hi)))
        size = z.magnitude + q.magnitude + d.magnitude + self.below + self.above + self.values.magnitude
        size = size + sum(abs(e) for e in edges) + (self.unit or 0.0)
        step = self.unit or 0.0
        first, last = self.values.lo + step - self.above, self.values.hi - self.above
        final, top = self.values.hi - step + self.below, self.values.lo + self.below
        near = ULPS * U64 * size
        zs: list[F64] = []
        qs: list[F64] = []
        for place in (*q, z.lo + d.hi, z.hi + d.lo, first, last, final, top, *(e + s for e in edges for s in d)):
            at = np.clip(place, *q)
            least, most = np.maximum(z.lo, at - d.hi), np.minimum(z.hi, at - d.lo)
            zs += [least, most, *(np.clip(e, least, most) for e in edges)]
            qs += [at] * (2 + len(edges))
        zz, qq = np.stack(zs), np.stack(qs)
        highest = np.where(qq < first - near, self.values.lo, np.clip(qq + self.above, *self.values))
        lowest = np.where(qq > final + near, self.values.hi, np.clip(qq - self.below, *self.values))
        return Corners(zz, qq, np.clip(zz, *self.clamp), highest, lowest, size)


@dataclass(frozen=True, slots=True, eq=False)
class Corners:
    """Places ``[P, m]`` of z and zq, h there, the most and the least that hq can be, and the largest number [m]."""

    z: F64
    q: F64
    h: F64
    most: F64
    least: F64
    size: F64

    def supremum(self, ah: F64, ag: F64, lam: F64, mu: F64) -> F64:
        """Least c with ``ah h + ag hq <= lam z + mu zq + c``, rounded up; arrays ``[R, m]``."""
        pos = np.maximum(ag, 0.0)
        neg = ag - pos
        best = np.full(np.broadcast_shapes(ah.shape, lam.shape), -np.inf)
        some = max(1, SLAB // max(1, best.size))
        for k in range(0, len(self.z), some):
            at = slice(k, k + some)
            value = ah * self.h[at, None]
            value = value - lam * self.z[at, None]
            value += pos * self.most[at, None]
            value += neg * self.least[at, None]
            value -= mu * self.q[at, None]
            np.maximum(best, value.max(axis=0), out=best)
        steepness = np.abs(ah) + np.abs(ag) + np.abs(lam) + np.abs(mu)
        return up(best + ULPS * U64 * steepness * self.size + TINY64)
