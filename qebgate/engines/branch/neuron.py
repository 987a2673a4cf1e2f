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

from collections.abc import Sequence
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

    def first(self, edge: F64, size: F64) -> F64:
        """Where the upper envelope leaves its lowest value (rounded downwards: it may only rise too early)."""
        return edge - ULPS * (np.abs(edge) + size)

    def last(self, edge: F64, size: F64) -> F64:
        """Where the lower envelope reaches its highest value (rounded upwards)."""
        return edge + ULPS * (np.abs(edge) + size)


@dataclass(frozen=True, slots=True, eq=False)
class Supremum:
    """``value`` [B, m], not rounded outwards; ``slack`` [B, m]; where it is attained."""

    value: F64
    slack: F64
    z: F64
    h: F64
    q: F64
    s: F64


def corners(box: Sequence[F64], shape: Shape, rounding: Sequence[F64], up: NDArray[np.bool_]) -> F64:
    """The points that decide: (z, h, q, s) ``[4, V, ...]`` of neurons whose arrays have any one shape.

    ``box`` are the arrays of a :class:`Box`, ``rounding`` those of ``below, above, size``, and ``up`` says whether s is
    wanted large.  Between the corners of the clamp and the staircase's ends the function is linear, so that it is
    largest where two of these lines meet: q at an end, at its first step (before and after it), or where the staircase
    ends, with z at an end of what D leaves or at a corner of the clamp; or z at an end or a corner, and D at an end.
    """
    z0, z1, q0, q1, d0, d1, s0, s1 = box
    below, above, size = rounding
    kinks = [c for c in (shape.a, shape.b) if np.isfinite(c)]
    options = 2 + len(kinks)
    out = np.empty((4, 7 * options, *np.broadcast_shapes(z0.shape, up.shape)))
    edge_up, edge_low = s0 + (shape.unit - above), s1 - (shape.unit - below)
    first = shape.first(edge_up, size)
    last = shape.last(edge_low, size)

    def clip(q: F64) -> F64:
        return np.minimum(np.maximum(q, q0), q1)

    def staircase(q: F64) -> F64:
        s = np.where(up, np.where(q < first, s0, q + above), np.where(q > last, s1, q - below))
        return np.minimum(np.maximum(s, s0), s1)

    step = clip(np.where(up, first, last))
    row = 0
    for q in (q0, q1, step, clip(np.where(up, s1 - above, s0 + below))):
        low = np.maximum(z0, q - d1)
        high = np.maximum(np.minimum(z1, q - d0), low)
        for z in (low, high, *(np.minimum(np.maximum(c, low), high) for c in kinks)):
            out[0, row], row = z, row + 1
        out[2, row - options : row] = q
        out[3, row - options : row] = staircase(q)
    out[0, row : row + options] = out[0, 2 * options : 3 * options]
    out[2, row : row + options] = step
    out[3, row : row + options] = np.where(up, s0, s1)  # the limit from before the step
    row += options
    for c in (z0, z1, *kinks):
        for d in (d0, d1):
            q = clip(c + d)
            low = np.maximum(z0, q - d1)
            out[0, row] = np.minimum(np.maximum(c, low), np.maximum(np.minimum(z1, q - d0), low))
            out[2, row] = q
            out[3, row], row = staircase(q), row + 1
    np.minimum(np.maximum(out[0], shape.a), shape.b, out=out[1])
    return out


def supremum(nu: F64, eta: F64, lam: F64, mu: F64, box: Box, shape: Shape) -> Supremum:
    """The supremum of every neuron, and a point where it is (nearly) attained."""
    points = corners(box.arrays, shape, (shape.below, shape.above, shape.size), eta >= 0)
    z, h, q, s = points
    value = nu * h - lam * z
    value += eta * s
    value -= mu * q
    best = value.argmax(axis=0)[None]
    at = [np.take_along_axis(v, best, axis=0)[0] for v in (value, *points)]
    slack = ULPS * (np.abs(nu) + np.abs(eta) + np.abs(lam) + np.abs(mu)) * shape.size
    return Supremum(at[0], slack, *at[1:])


def outer(z: Interval, q: Interval, d: Interval, s: Interval) -> Box:
    """The box of a layer's bounds, as a single row."""
    return Box(*(v[None].copy() for i in (z, q, d, s) for v in (i.lo, i.hi)))
