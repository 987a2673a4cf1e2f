"""How far one evaluation of a recurrent network is from another, followed through many steps.

A drift is ``centre + sum_k generators_k e_k + rest e``, every e a number of [-1, 1] of its own: first-order effects
of a disturbance keep their signs from step to step (intervals would grow with the product of the weights'
magnitudes), and what is left of each operation is in ``rest``.  Affine arithmetic (L. de Figueiredo, J. Stolfi,
Numerical Algorithms 37, 2004).  Letters: B rows, n entries, k generators.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.numerics.rounding import F64, gamma, up

MOST = 1536
"""Generators that are kept; beyond it half of them, the smaller ones, become rest."""
FORGET = 0.25
_TINY = 1e-290
"""What underflow can cost any operation here."""


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """``centre`` and ``rest`` [B, n], ``generators`` [B, n, k]."""

    centre: F64
    generators: F64
    rest: F64

    @classmethod
    def of(cls, x: Interval) -> Drift:
        """Anything in an interval [B, n]."""
        c = x.centre
        return cls(c, np.zeros((*c.shape, 0)), _half(x))

    @property
    def radius(self) -> F64:
        return _up(np.abs(self.generators).sum(axis=2) + self.rest, self._terms)

    @property
    def range(self) -> Interval:
        return Interval.point(self.centre).widened(self.radius, self.radius)

    @property
    def _terms(self) -> int:
        return self.generators.shape[2] + 16

    def _rounded(self, size: F64, more: int = 0) -> Drift:
        """With what the float64 evaluation of sums of magnitude ``size`` can have lost."""
        return replace(self, rest=up(self.rest + 2 * gamma(self._terms + more) * size + _TINY))

    @property
    def _size(self) -> F64:
        return np.abs(self.centre) + self.radius

    def through(self, w: F64) -> Drift:
        """Times a matrix ``[m, n]``."""
        a = np.abs(w)
        out = Drift(self.centre @ w.T, np.matmul(w, self.generators), self.rest @ a.T)
        return out._rounded(self._size @ a.T, w.shape[1])

    def scaled(self, s: F64) -> Drift:
        """Times one number for each entry."""
        out = Drift(self.centre * s, self.generators * s[..., None], self.rest * np.abs(s))
        return out._rounded(self._size * np.abs(s))

    def plus(self, other: Drift) -> Drift:
        a, b = self.generators, other.generators
        width = max(a.shape[2], b.shape[2])
        a, b = (np.pad(v, ((0, 0), (0, 0), (0, width - v.shape[2]))) if v.shape[2] < width else v for v in (a, b))
        out = Drift(self.centre + other.centre, a + b, self.rest + other.rest)
        return out._rounded(self._size + other._size)

    def moved(self, by: Interval) -> Drift:
        """And any numbers of an interval."""
        out = Drift(self.centre + by.centre, self.generators, self.rest + _half(by))
        return out._rounded(self._size + by.magnitude)

    def widened(self, by: F64) -> Drift:
        """And any numbers of at most so much."""
        return replace(self, rest=up(self.rest + by))

    def within(self, x: Interval) -> Drift:
        """Of a drift that is known to be in an interval: where that says much more, entries forget where they are from.

        Not where it says a little more: what is forgotten cannot cancel any longer.
        """
        better = _half(x) < FORGET * self.radius
        if not better.any():
            return self
        own = Drift.of(x)
        return Drift(
            np.where(better, own.centre, self.centre),
            np.where(better[..., None], 0.0, self.generators),
            np.where(better, own.rest, self.rest),
        )

    def part(self, at: slice) -> Drift:
        """Some entries."""
        return Drift(self.centre[:, at], self.generators[:, at], self.rest[:, at])

    def named(self, first: int) -> Drift:
        """The rest of every entry as a generator of its own, from number ``first`` on."""
        b, n, k = self.generators.shape
        g = np.zeros((b, n, max(first, k) + n))
        g[:, :, :k] = self.generators
        g[:, np.arange(n), max(first, k) + np.arange(n)] = self.rest
        return Drift(self.centre, g, np.zeros_like(self.rest))

    def fewer(self) -> Drift:
        """With half of the generators where there are more than :data:`MOST`."""
        if self.generators.shape[2] <= MOST:
            return self
        size = np.abs(self.generators).sum(axis=(0, 1))
        order = np.argsort(size)
        small, kept = order[: size.size - MOST // 2], np.sort(order[size.size - MOST // 2 :])
        rest = up(self.rest + _up(np.abs(self.generators[:, :, small]).sum(axis=2), self._terms))
        return Drift(self.centre, self.generators[:, :, kept], rest)


def stacked(parts: list[Drift]) -> Drift:
    """Entries of several drifts, one behind the other."""
    width = max(p.generators.shape[2] for p in parts)
    pad = [np.pad(p.generators, ((0, 0), (0, 0), (0, width - p.generators.shape[2]))) for p in parts]
    return Drift(
        np.concatenate([p.centre for p in parts], axis=1),
        np.concatenate(pad, axis=1),
        np.concatenate([p.rest for p in parts], axis=1),
    )


def _half(x: Interval) -> F64:
    """At least the distance from the centre to either end."""
    c = x.centre
    return up(np.maximum(x.hi - c, c - x.lo))


def _up(x: F64, terms: int) -> F64:
    return up(x * (1 + 2 * gamma(terms)))
