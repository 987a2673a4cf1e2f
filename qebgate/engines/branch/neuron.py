"""The supremum of a linear function of one neuron's pre-activations and outputs over what they can be.

With ``z`` the float and ``q`` the quantized pre-activation, ``h = clamp(z, a, b)`` and ``s`` the rounded and clamped
``q``, one neuron of the dual contributes

    sup  nu h + eta s - lam z - mu q    over   z in Z, q in Q, q - z in D, s between the staircase's envelopes

For fixed ``q`` it is piecewise linear in z, so the supremum over z is at an end or a corner of the clamp; over q it is
piecewise linear between a few more points (where an end of Z meets D, where the staircase starts and ends; in
between the staircase is its envelope, ``q + above`` or ``q - below``).  Points are evaluated a few ulps off the true
vertices: :func:`supremum` charges what that can cost.  Arrays are ``[B, m]``: B nodes of one layer with m neurons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Interval
from qebgate.numerics.rounding import F64, U64

ULPS = 64 * U64
"""Relative error of a vertex' coordinates and of the function there: a dozen roundings each."""


@dataclass(slots=True, eq=False)
class Box:
    """Bounds of z, q, q - z and s; arrays ``[1 or B, m]`` (mutable: a node's splits are applied in place)."""

    z0: F64
    z1: F64
    q0: F64
    q1: F64
    d0: F64
    d1: F64
    s0: F64
    s1: F64

    def rows(self, n: int) -> Box:
        """One copy of a single row for each of n nodes."""
        return Box(*(np.repeat(v, n, axis=0) for v in self.arrays))

    @property
    def arrays(self) -> tuple[F64, ...]:
        return self.z0, self.z1, self.q0, self.q1, self.d0, self.d1, self.s0, self.s1

    def tighten(self, at: tuple[NDArray[np.intp], NDArray[np.intp]]) -> None:
        """Cut each of z, q, q - z by the other two at some entries, rounded outwards."""
        z0, z1, q0, q1, d0, d1 = (v[at] for v in self.arrays[:6])
        low, high = (lambda x: np.nextafter(x, -np.inf)), (lambda x: np.nextafter(x, np.inf))
        for _ in range(2):
            d0, d1 = np.maximum(d0, low(q0 - z1)), np.minimum(d1, high(q1 - z0))
            q0, q1 = np.maximum(q0, low(z0 + d0)), np.minimum(q1, high(z1 + d1))
            z0, z1 = np.maximum(z0, low(q0 - d1)), np.minimum(z1, high(q1 - d0))
        for mine, new in zip(self.arrays[:6], (z0, z1, q0, q1, d0, d1), strict=True):
            mine[at] = new

    def empty(self) -> NDArray[np.bool_]:
        """Nodes [B] that hold nothing: every bound is outward, so crossed bounds are certain."""
        pairs = ((self.z0, self.z1), (self.q0, self.q1), (self.d0, self.d1), (self.s0, self.s1))
        return np.any([(lo > hi).any(axis=1) for lo, hi in pairs], axis=0)


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What is fixed about a layer's neurons.

    ``a``, ``b``: the float clamp.  ``below``, ``above`` [m]: rounding moves q by a number in [-below, above].
    ``unit``: the output's quantum, 0 where the output is not on a grid.  ``size`` [m]: more than any of |z|,
    |q|, |q - z|, |h|, |s|.
    """

    a: float
    b: float
    below: F64
    above: F64
    unit: float
    size: F64

    def first(self, box: Box) -> F64:
        """Where the upper envelope leaves its lowest value (rounded downwards: it may only rise too early)."""
        edge = box.s0 + (self.unit - self.above)
        return edge - ULPS * (np.abs(edge) + self.size)

    def last(self, box: Box) -> F64:
        """Where the lower envelope reaches its highest value (rounded upwards)."""
        edge = box.s1 - (self.unit - self.below)
        return edge + ULPS * (np.abs(edge) + self.size)


@dataclass(frozen=True, slots=True, eq=False)
class Supremum:
    """``value`` [B, m], not rounded outwards; ``slack`` [B, m]; where it is attained."""

    value: F64
    slack: F64
    z: F64
    h: F64
    q: F64
    s: F64


def supremum(nu: F64, eta: F64, lam: F64, mu: F64, box: Box, shape: Shape) -> Supremum:
    """The supremum of every neuron, and a point where it is (nearly) attained."""
    a, b, up = shape.a, shape.b, eta >= 0
    first, last = shape.first(box), shape.last(box)
    s0, s1 = box.s0, box.s1

    def staircase(q: F64) -> F64:
        high = np.where(q < first, s0, q + shape.above)
        low = np.where(q > last, s1, q - shape.below)
        return np.clip(np.where(up, high, low), s0, s1)

    def clip(q: F64) -> F64:
        return np.clip(q, box.q0, box.q1)

    step = clip(np.where(up, first, last))
    far = clip(np.where(up, s1 - shape.above, s0 + shape.below))
    corners = [box.z0 + box.d1, box.z1 + box.d0]
    for c in (a, b):
        if np.isfinite(c):
            corners += [c + box.d0, c + box.d1]
    points: list[tuple[F64, F64 | None]] = [(box.q0, None), (box.q1, None), (step, None), (far, None)]
    points += [(clip(q), None) for q in corners]
    points.append((step, np.where(up, s0, s1)))  # the limit from before the step

    best = np.full(lam.shape, -np.inf)
    at = [np.zeros(lam.shape) for _ in range(4)]
    for q, fixed in points:
        s = staircase(q) if fixed is None else fixed
        z_low = np.maximum(box.z0, q - box.d1)
        z_high = np.maximum(np.minimum(box.z1, q - box.d0), z_low)
        z = z_low
        f = nu * np.clip(z, a, b) - lam * z
        others = [z_high, *(np.clip(c, z_low, z_high) for c in (a, b) if np.isfinite(c))]
        for other in others:
            g = nu * np.clip(other, a, b) - lam * other
            more = g > f
            f, z = np.where(more, g, f), np.where(more, other, z)
        f = f + (eta * s - mu * q)
        more = f > best
        best = np.where(more, f, best)
        for mine, new in zip(at, (z, np.clip(z, a, b), q, s), strict=True):
            np.copyto(mine, new, where=more)
    slack = ULPS * (np.abs(nu) + np.abs(eta) + np.abs(lam) + np.abs(mu)) * shape.size
    return Supremum(best, slack, *at)


def outer(z: Interval, q: Interval, d: Interval, s: Interval) -> Box:
    """The box of a layer's bounds, as a single row."""
    return Box(*(v[None].copy() for i in (z, q, d, s) for v in (i.lo, i.hi)))
