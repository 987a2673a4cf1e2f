"""Affine forms of many values over many cells at once, and their arithmetic with every roundoff in the remainder.

A form says ``x = c + sum_s g_s e_s + rho`` with ``-1 <= e_s <= 1`` and ``|rho| <= r``: the first symbols
are the free inputs of a cell, scaled to [-1, 1], the rest stand for errors shared by several values
(J. Stolfi, L. H. de Figueiredo, Self-Validated Numerical Methods, 1997).  Letters: B cells, S symbols, k values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Gap, Interval
from qebgate.engines.forms.matrices import Index, Matrix, product
from qebgate.numerics.rounding import F64, SAFETY, TINY64, U64, down, gamma, up


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """``c [B, k]``, ``g [B, S, k]``, ``r [B, k]`` (upper bounds, never negative)."""

    c: F64
    g: F64
    r: F64

    @property
    def symbols(self) -> int:
        return self.g.shape[1]

    @property
    def spread(self) -> F64:
        """``sum_s |g_s|``, as computed."""
        return np.abs(self.g).sum(axis=1)

    def padded(self, symbols: int) -> Form:
        """The same form with room for more symbols."""
        short = symbols - self.symbols
        if short <= 0:
            return self
        b, _, k = self.g.shape
        return Form(self.c, np.concatenate([self.g, np.zeros((b, short, k))], axis=1), self.r)

    def take(self, index: Index) -> Form:
        """Some of the values, the same in every cell."""
        return Form(self.c[:, index], self.g[:, :, index], self.r[:, index])

    def interval(self, spread: F64 | None = None) -> Interval:
        """All values, rounded outwards."""
        s = self.spread if spread is None else spread
        radius = (s + self.r) * (1.0 + SAFETY * gamma(self.symbols + 4)) + TINY64
        return Interval(down(self.c - radius), up(self.c + radius))

    def scaled(self, slope: F64, offset: Interval, spread: F64) -> Form:
        """``slope * x + o`` for every o of an interval; ``slope [B, k]``."""
        half = up(0.5 * offset.width) + 2 * U64 * offset.magnitude
        r = np.abs(slope) * self.r + half
        c = slope * self.c + offset.centre
        size = np.abs(slope) * (np.abs(self.c) + spread) + np.abs(offset.centre)
        return Form(c, slope[:, None] * self.g, padded_radius(r, size, self.symbols))

    def minus(self, other: Form, spreads: F64) -> Form:
        """The difference; ``spreads`` is the sum of the two spreads."""
        size = np.abs(self.c) + np.abs(other.c) + spreads
        n = max(self.symbols, other.symbols)
        a, b = self.padded(n), other.padded(n)
        return Form(a.c - b.c, a.g - b.g, padded_radius(a.r + b.r, size, n))


def padded_radius(r: F64, size: F64, symbols: int) -> F64:
    """A radius that also covers a few roundings of a form whose terms add up to ``size``."""
    # each stored number is off by a few units of its own size; ``size`` and r were summed from S terms
    return r * (1.0 + 8 * U64) + (8 * U64 * (1.0 + gamma(symbols + 8))) * size + 4 * TINY64


def constant(x: Interval, symbols: int) -> Form:
    """A form without columns, for an interval ``[B, k]``."""
    b, k = x.lo.shape
    return Form(x.centre, np.zeros((b, symbols, k)), up(0.5 * x.width) + 2 * U64 * x.magnitude + TINY64)


def choose(which: NDArray[np.integer[Any]] | NDArray[np.bool_], forms: list[Form]) -> Form:
    """Entry by entry, the form of that number (``which [B, k]``)."""
    n = max(f.symbols for f in forms)
    first, *rest = (f.padded(n) for f in forms)
    c, g, r = first.c.copy(), first.g.copy(), first.r.copy()
    for i, f in enumerate(rest, 1):
        here = which == i
        np.copyto(c, f.c, where=here)
        np.copyto(g, f.g, where=here[:, None])
        np.copyto(r, f.r, where=here)
    return Form(c, g, r)


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """Forms and intervals of ``sum x @ w`` before they are added up; built by :func:`image`."""

    form: Form
    interval: Interval


def image(terms: list[tuple[Form, Interval, Matrix, Matrix]], bias: Interval, length: int) -> Image:
    """``sum x @ w + bias`` for forms and intervals of x; each term is (form, interval, w, |w|).

    ``length`` bounds the number of products in an entry.  The bias is an interval ``[m]``.
    """
    symbols = max(f.symbols for f, *_ in terms)
    err = SAFETY * gamma(length + symbols + 16)
    c0, half = bias.centre, up(0.5 * bias.width) + 2 * U64 * bias.magnitude
    tiny = (length + 8) * TINY64
    c: F64 = c0[None]
    g: F64 = np.zeros((1, 1, 1))
    centre: F64 = c0[None]
    wide: F64 = np.zeros((1, 1))
    radius: F64 = np.zeros((1, 1))
    for short, x, w, size in terms:
        f = short.padded(symbols)
        xc = x.centre
        xr = up(np.maximum(x.hi - xc, xc - x.lo))
        got = product(np.concatenate([f.c[:, None], xc[:, None], f.g], axis=1), w)
        mag = np.abs(f.c) + f.spread
        both = product(np.stack([f.r + err * (mag + f.r), xr + err * (np.abs(xc) + xr)], axis=1), size)
        c, centre, g = c + got[:, 0], centre + got[:, 1], g + got[:, 2:]
        wide, radius = wide + both[:, 0], radius + both[:, 1]
    slack = err * bias.magnitude + half + tiny
    r = wide * (1.0 + err) + slack * (1.0 + 8 * U64)
    radius = radius * (1.0 + err) + slack * (1.0 + 8 * U64)
    return Image(Form(c, g, r), Interval(down(centre - radius), up(centre + radius)))


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """The live entries of one value over B cells: intervals and codes ``[B, k]``, and three forms."""

    gap: Gap
    f: Form
    q: Form
    d: Form

    def take(self, at: Index) -> Values:
        """Some of the entries."""
        pick = lambda x: Interval(x.lo[:, at], x.hi[:, at])  # noqa: E731
        codes = None if self.gap.codes is None else (self.gap.codes[0][:, at], self.gap.codes[1][:, at])
        gap = Gap(pick(self.gap.float), pick(self.gap.quantized), pick(self.gap.delta), codes)
        return Values(gap, self.f.take(at), self.q.take(at), self.d.take(at))
