"""The dual's optimum as a linear program, solved once and certified.

Variables are the region's inputs, z, zq, h, hq of every layer, and weights of the corners
(:class:`qebgate.engines.dra.dual.Corners`) whose convex combination they are.  Rows are the affine maps and
those combinations.  The multipliers of the affine maps' rows are the best ones that the search of
:mod:`qebgate.engines.dra.dual` could find, so the last per cent of it is here.

Nothing that the solver says is believed: a bound is evaluated from the multipliers, whatever they are, with
every roundoff charged (:class:`qebgate.engines.dra.dual.Certified`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from qebgate.domains.gap import Interval
from qebgate.domains.layers import ROOT, Affine
from qebgate.engines.dra.analysis import Analysis
from qebgate.engines.dra.backward import Form
from qebgate.engines.dra.dual import Certified, Corners, Sides
from qebgate.engines.milp_encoding import applies, matrix
from qebgate.milp import mathopt
from qebgate.milp.model import Builder, Index, Scaled
from qebgate.numerics.rounding import F64

MAX_COEFFICIENTS = 400_000
"""Larger programs are not tried: the solver's time would be minutes."""
SAME = 1e-9
"""Corners that differ by less, relative to their size, are one."""


@dataclass
class LinearProgram:
    """The program of one analysis."""

    analysis: Analysis
    b: Builder = field(default_factory=Builder)
    values: dict[int, tuple[Index, Index]] = field(default_factory=dict)
    """Variables of (h, hq)."""
    maps: dict[int, tuple[NDArray[np.intp], Index, Index]] = field(default_factory=dict)
    """Neurons that are not constant, and rows of their affine maps of z and zq."""

    def __post_init__(self) -> None:
        root, self.dual = self.analysis.root, self.analysis.multipliers()
        x = self.b.variables(root.lo, root.hi)
        self.values[ROOT] = x, x
        for layer in self.analysis.layers:
            assert isinstance(layer, Affine)
            self._layer(layer)
        self.scaled: Scaled = self.b.build()

    def _layer(self, layer: Affine) -> None:
        b, pre = self.b, self.analysis.pre[layer.output]
        c = self.dual.corners[layer.output]
        at, p = np.flatnonzero(~c.fixed), c.points
        h_lo, h_hi, g_lo, g_hi = c.h.copy(), c.h.copy(), c.g.copy(), c.g.copy()
        h_lo[at], h_hi[at] = p.h.min(axis=0), p.h.max(axis=0)
        g_lo[at], g_hi[at] = p.below.min(axis=0), p.above.max(axis=0)
        h, g = b.variables(h_lo, h_hi), b.variables(g_lo, g_hi)
        self.values[layer.output] = h, g
        z = b.variables(p.z.min(axis=0), p.z.max(axis=0))
        q = b.variables(p.q.min(axis=0), p.q.max(axis=0))
        one = np.ones(at.size)
        noise = np.zeros(at.size) if pre.noise is None else pre.noise[at]
        into = [(matrix(m)[at], self.values[i][0]) for m, i in zip(layer.f, layer.inputs, strict=True)]
        z_rows = b.rows([*into, (-one, z)], -layer.bf[at] - noise, -layer.bf[at] + noise)
        into = [(matrix(m)[at], self.values[i][1]) for m, i in zip(layer.q, layer.inputs, strict=True)]
        q_rows = b.rows([*into, (-one, q)], -layer.bq[at], -layer.bq[at])
        self.maps[layer.output] = at, z_rows, q_rows
        neuron, points = _points(c)
        w = b.variables(np.zeros(neuron.size), np.ones(neuron.size))
        spread = lambda v: sp.csr_matrix((v, (neuron, np.arange(neuron.size))), (at.size, neuron.size))  # noqa: E731
        b.rows([(spread(np.ones(neuron.size)), w)], 1.0, 1.0)
        for value, v in zip((z, q, h[at], g[at]), points, strict=True):
            b.rows([(spread(v), w), (-one, value)], 0.0, 0.0)

    def objective(self, output: int, entry: int, sign: float) -> tuple[F64, float]:
        """The gap at one entry in scaled variables, divided by a number that makes its size 1, and that number."""
        h, g = (v[entry] for v in self.values[output])
        c = np.zeros(self.scaled.scale.size)
        c[g], c[h] = sign * self.scaled.scale[g], -sign * self.scaled.scale[h]
        unit = float(np.abs(c).max())
        return c / unit, unit

    def multipliers(self, y: F64, unit: float) -> dict[int, Sides]:
        """Those of z and zq of every layer.  A row is ``W h - z = -b``: what z keeps is its multiplier, negated."""
        real = self.scaled.multipliers(y) * unit
        found: dict[int, Sides] = {}
        for output, (at, *rows) in self.maps.items():
            lam, mu = np.zeros((2, 1, self.analysis.states[output].size))
            lam[0, at], mu[0, at] = (-real[r] for r in rows)
            found[output] = lam, mu
        return found


def _points(c: Corners) -> tuple[NDArray[np.intp], F64]:
    """Corners without repetitions: the position of the neuron of each, and its z, zq, h, hq ``[4, K]``."""
    p = c.points
    points = np.concatenate([np.stack([p.z, p.q, p.h, hq]) for hq in (p.above, p.below)], axis=1)
    neuron = np.broadcast_to(np.arange(points.shape[2]), points.shape[1:])
    near = np.rint(points / (SAME * c.size[~c.fixed]))
    _, first = np.unique(np.stack([neuron, *near]).reshape(5, -1), axis=1, return_index=True)
    return neuron.ravel()[first], points.reshape(4, -1)[:, first]


def improved(
    a: Analysis,
    target: tuple[int, NDArray[np.intp]],
    gap: Interval,
    wanted: float,
    iterations: int,
    seconds: float,
) -> Interval:
    """``gap`` of some entries of a value, improved on the sides that exceed ``wanted``.

    ``iterations`` of the solver for each side; ``seconds`` is a guard.  Programs that are too large, and
    networks with other layers than dense ones, are left as they are.
    """
    output, index = target
    lo, hi = gap.lo.copy(), gap.hi.copy()
    open_sides = [(k, s) for s, bound in ((1.0, hi), (-1.0, -lo)) for k in np.flatnonzero(bound > wanted).tolist()]
    fits = applies(a.layers) and 2 * sum(x.macs for x in a.layers if isinstance(x, Affine)) <= MAX_COEFFICIENTS
    if not open_sides or not fits:
        return gap
    program = LinearProgram(a)
    goals = [program.objective(output, int(index[k]), s) for k, s in open_sides]
    found = mathopt.row_multipliers(
        program.scaled.model,
        [c for c, _ in goals],
        iterations=iterations,
        seconds=seconds / len(goals),
    )
    for (k, sign), (_, unit), y in zip(open_sides, goals, found, strict=False):
        a.pulse()
        if y is None:
            continue
        bound = evaluate(program, program.multipliers(y, unit), (output, int(index[k]), sign))
        if sign > 0:
            hi[k] = min(hi[k], bound)
        else:
            lo[k] = max(lo[k], -bound)
    return Interval(lo, hi)


def evaluate(
    program: LinearProgram,
    multipliers: dict[int, Sides],
    target: tuple[int, int, float],
) -> float:
    """A proven upper bound of ``sign * delta`` at ``(value, entry, sign)``, whatever the multipliers are."""
    a, (output, entry, sign) = program.analysis, target
    run = Certified(a.root, 1, program.dual.corners, multipliers)
    one = np.zeros((1, a.states[output].size))
    one[0, entry] = sign
    return float(a.backward.value(output, Form(h=-one, g=one), run)[0])
