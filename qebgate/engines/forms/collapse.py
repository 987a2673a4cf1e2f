"""The float network over a region as few sums: neurons that are linear everywhere in it are composed away.

What is left are the inputs and the neurons (or pools) that switch somewhere in the region; every output
is an affine function of them.  They are the symbols of a form here (each a power of two times a number
in [-1, 1], so nothing is rounded by that), whose remainder holds the roundoff of the composition; the
roundoff of executing it is added.  Letters: B inputs, V variables, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Interval
from qebgate.domains.layers import ROOT
from qebgate.engines.forms.form import Form, choose, constant, image
from qebgate.engines.forms.matrices import Index
from qebgate.engines.forms.network import Network
from qebgate.engines.forms.steps import AffineStep, PoolStep
from qebgate.engines.restricted import TooLarge
from qebgate.numerics.rounding import F64, SAFETY, TINY64, U64, gamma, up

MOST = 1 << 12
"""Variables beyond which composing does not pay."""


@dataclass(frozen=True, slots=True, eq=False)
class _Unit:
    """New variables: the largest of some sums each, clamped.  ``w [V', n]``, ``c [n]``; groups begin at ``first``."""

    w: F64
    c: F64
    first: Index | None
    a: float
    b: float


class Collapsed:
    """``run`` evaluates the real float network at points of the region, up to ``error [K]``."""

    def __init__(self, net: Network, outputs: Index) -> None:
        self._net = net
        root = net.facts[ROOT]
        self._reach: list[F64] = []
        """Powers of two above the variables' magnitudes."""
        self._error: list[F64] = []
        """By how much the variables' computed values can be off."""
        self._units: list[_Unit] = []
        k = net.free.size
        scale = _power(root.gap.float.magnitude[root.live])
        self._reach.append(scale)
        self._error.append(np.zeros(k))
        zero = np.zeros((1, k))
        self._forms: dict[int, Form] = {ROOT: Form(zero, np.diag(scale)[None], zero)}
        self._count = k
        for step in net.steps:
            if isinstance(step, AffineStep):
                form = self._affine(step)
            elif isinstance(step, PoolStep):
                form = self._pool(step)
            else:
                raise TooLarge
            self._forms[step.output] = form
            if self._count > MOST:
                raise TooLarge
        self._finish(outputs)

    @property
    def variables(self) -> int:
        """Inputs, and neurons that switch."""
        return self._count

    @property
    def cost(self) -> float:
        """Roughly, in nanoseconds for one input (of few outputs)."""
        return sum(u.w.size / 12.0 + 3.0 * u.w.shape[1] for u in self._units)

    def _bounds(self, value: int) -> Interval:
        """Of the live entries of a value, ``[1, k]``."""
        fact = self._net.facts[value]
        x = fact.gap.float
        return Interval(x.lo[None, fact.live], x.hi[None, fact.live])

    def _affine(self, step: AffineStep) -> Form:
        terms = [(self._forms[i], self._bounds(i), *step.float_weights(n)) for n, i in enumerate(step.inputs)]
        z = image(terms, step.float_bias, step.terms).form
        a, b = step.float_range
        h = self._bounds(step.output)
        lo, hi = h.lo[0], h.hi[0]
        still = lo == hi
        inside = ((lo > a) | (a == -np.inf)) & ((hi < b) | (b == np.inf))
        switching = np.flatnonzero(~still & ~inside)
        new = self._variables(z.take(switching), None, a, b, h.magnitude[0, switching])
        return self._assembled(z, h, still, switching, new)

    def _pool(self, step: PoolStep) -> Form:
        """Windows whose winner is the same everywhere are composed away too."""
        x = self._forms[step.inputs[0]]
        bounds = self._bounds(step.inputs[0])
        rest = step.float_rest
        wide = constant(rest, x.symbols)
        x = Form(*(np.concatenate(p, axis=-1) for p in ((x.c, wide.c), (x.g, wide.g), (x.r, wide.r))))
        lo, hi = (np.concatenate([u[0], v[0]]) for u, v in ((bounds.lo, rest.lo), (bounds.hi, rest.hi)))
        index = step.index
        pad = index < 0
        idx = np.maximum(index, 0)
        least, most = np.where(pad, -np.inf, lo[idx]), np.where(pad, -np.inf, hi[idx])
        wins = (most >= least.max(axis=1, keepdims=True)) & ~pad
        first = np.argmax(wins, axis=1)
        form = x.take(idx[np.arange(len(idx)), first])
        # a runtime may flush subnormal values to zero: that is its evaluation's error, the real value is exact
        decided = wins.sum(axis=1) == 1
        switching = np.flatnonzero(~decided)
        h = self._bounds(step.output)
        still = np.zeros(len(index), bool)
        row, tap = np.nonzero(wins[switching])
        begin = np.flatnonzero(np.diff(row, prepend=-1))
        candidates = x.take(idx[switching][row, tap])
        new = self._variables(candidates, begin, -np.inf, np.inf, h.magnitude[0, switching])
        return self._assembled(form, h, still, switching, new)

    def _variables(self, z: Form, first: Index | None, a: float, b: float, magnitude: F64) -> Index:
        """New variables for sums; returns their numbers."""
        count = magnitude.size
        if not count:
            return np.empty(0, np.intp)
        w, c, error = self._evaluated(z)
        if first is not None:
            error = np.maximum.reduceat(error, first)
        self._units.append(_Unit(w, c, first, a, b))
        numbers = self._count + np.arange(count)
        self._reach.append(_power(magnitude))
        self._error.append(error)
        self._count += count
        return numbers

    def _evaluated(self, z: Form) -> tuple[F64, F64, F64]:
        """Weights ``[V, n]`` of the variables as they are, constants, and the error of evaluating the sums."""
        reach, off = np.concatenate(self._reach), np.concatenate(self._error)
        w = z.padded(reach.size).g[0] / reach[:, None]
        c = z.c[0]
        size = np.abs(c) + np.abs(w).T @ (reach + off)
        error = z.r[0] + np.abs(w).T @ off + gamma(reach.size + 8) * SAFETY * size + (reach.size + 8) * TINY64
        return w, c, up(error * (1 + 4 * gamma(reach.size + 8)))

    def _assembled(self, z: Form, h: Interval, still: NDArray[np.bool_], switching: Index, new: Index) -> Form:
        """Composed where nothing switches, a variable or a constant elsewhere."""
        z = z.padded(self._count)
        which = np.where(still, 1, 0)
        which[switching] = 2
        fresh = Form(np.zeros_like(z.c), np.zeros_like(z.g), np.zeros_like(z.r))
        if new.size:
            fresh.g[0, new, switching] = self._reach[-1]
        return choose(which[None], [z, constant(h, self._count), fresh])

    def _finish(self, outputs: Index) -> None:
        fact = self._net.output
        x = fact.gap.float
        place = np.full(fact.gap.size, -1)
        place[fact.live] = np.arange(fact.live.size)
        moving = place[outputs] >= 0
        self.error = np.zeros(outputs.size)
        self._c = x.centre[outputs]
        self._w = np.zeros((self._count, outputs.size))
        # an output that does not move
        self.error[:] = up(up(0.5 * x.width) + 2 * U64 * x.magnitude)[outputs]
        if moving.any():
            w, c, error = self._evaluated(self._forms[self._net.program.output].take(place[outputs[moving]]))
            self._w[:, moving], self._c[moving], self.error[moving] = w, c, error

    def run(self, x: F64, columns: Index | slice = slice(None)) -> F64:
        """Outputs ``[B, K]`` (or some of them) at real values ``[B, k]`` of the free inputs."""
        v = np.empty((len(x), self._count))
        k = x.shape[1]
        v[:, :k] = x
        for unit in self._units:
            z = v[:, : len(unit.w)] @ unit.w
            z += unit.c
            if unit.first is not None:
                z = np.maximum.reduceat(z, unit.first, axis=1)
            if unit.a != -np.inf:
                np.maximum(z, unit.a, out=z)
            if unit.b != np.inf:
                np.minimum(z, unit.b, out=z)
            v[:, k : k + z.shape[1]] = z
            k += z.shape[1]
        out = v @ self._w[:, columns]
        out += self._c[columns]
        return out


def _power(x: F64) -> F64:
    """A power of two above twice a magnitude (1 for 0)."""
    return np.where(x > 0, np.ldexp(1.0, np.frexp(np.maximum(x, TINY64))[1] + 1), 1.0)


def collapsed(net: Network, outputs: Sequence[int]) -> Collapsed | None:
    """None where the network has operators that do not compose, or too much of it switches."""
    try:
        return Collapsed(net, np.asarray(outputs, np.intp))
    except TooLarge:
        return None
