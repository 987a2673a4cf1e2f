"""The Lagrangian dual of a pair: any multipliers on ``z = f h + bf``, ``zq = q hq + bq`` bound a form from above.

    sup  t . (h, hq)_out  <=  sum over layers ( sum over neurons sup(nu h + eta s - lam z - mu q)
                                               + lam . bf + mu . bq + |lam| . noise )  +  sup over inputs c . x

with ``nu``, ``eta`` the multipliers of a value's consumers pulled back through their maps (plus the target), and c the
same at the input.  Each neuron's supremum is over its own two-dimensional region (:mod:`.neuron`): never looser than
back-substitution with the same coefficients.  :meth:`Dual.bound` is rounded outwards; everything else is a search
and is not trusted.  Every node has boxes of its own, where :mod:`qebgate.engines.dra.dual` has one for all rows.
Letters: B nodes, m neurons of a layer, n inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.domains.layers import ROOT, Affine
from qebgate.engines.branch.kernel import Kernel
from qebgate.engines.branch.neuron import Box, Shape, Supremum, outer, supremum
from qebgate.engines.dra.analysis import Analysis
from qebgate.engines.dra.backward import UNDERFLOW, Resolved
from qebgate.engines.dra.program import Program
from qebgate.numerics.rounding import F64, SAFETY, gamma, up

Multipliers = dict[int, tuple[F64, F64]]
"""(lam, mu) [B, m] of every layer, by its output."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """Linear forms, one per node: ``h . (float value) + g . (quantized value)`` summed over values, plus a constant.

    ``values`` holds (h, g) [B, n] by value; ``constant`` [B] and the magnitude ``weight`` [B] behind it.
    """

    values: Mapping[int, tuple[F64, F64]]
    constant: F64
    weight: F64

    @classmethod
    def gap(cls, output: int, size: int, index: int, sign: float) -> Target:
        """``sign`` times the gap of one entry of a value."""
        one = np.zeros((1, size))
        one[0, index] = sign
        return cls({output: (-one, one)}, np.zeros(1), np.zeros(1))

    def rows(self, n: int) -> Target:
        """One copy of a single form for each of n nodes."""
        values = {k: (np.repeat(h, n, axis=0), np.repeat(g, n, axis=0)) for k, (h, g) in self.values.items()}
        return Target(values, np.repeat(self.constant, n), np.repeat(self.weight, n))


@dataclass(slots=True, eq=False)
class Region:
    """Boxes of some nodes: of every layer's neurons, by output, and of the input ``lo``, ``hi`` [B or 1, n]."""

    boxes: dict[int, Box]
    lo: F64
    hi: F64


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """``value`` [B], not rounded outwards; slack [B] makes it so; where the suprema are attained."""

    value: F64
    slack: F64
    points: Mapping[int, Supremum]
    pulled: Mapping[int, tuple[F64, F64]]
    """(nu, eta) of every value."""
    input: F64
    """The maximising input."""
    slope: F64
    """c [B, n]."""


class Dual:
    """The dual of one program over one box, as an analysis left it."""

    def __init__(self, p: Program, a: Analysis) -> None:
        self.layers = [layer for layer in p.layers if isinstance(layer, Affine)]
        self.root = a.root
        boxes: dict[int, Box] = {}
        self.shapes: dict[int, Shape] = {}
        self.terms = 2 * a.root.lo.size + 8
        self._z: dict[int, tuple[F64, F64]] = {}
        self.noise: dict[int, F64 | None] = {}
        for layer in self.layers:
            pre, out = a.pre[layer.output], a.states[layer.output]
            # the staircase begins and ends at codes; the value's interval may have been cut between two of them
            reached = out.quantized if layer.grid is None or out.codes is None else layer.grid.real(out.codes)
            boxes[layer.output] = outer(pre.z, pre.q, pre.d, reached)
            size = pre.z.magnitude + pre.q.magnitude + out.float.magnitude + reached.magnitude
            edges = sum(abs(v) for v in layer.float_range if np.isfinite(v))
            unit = layer.grid.unit if layer.grid is not None else 0.0
            size = size + pre.below + pre.above + edges + unit
            self.shapes[layer.output] = Shape(*layer.float_range, pre.below, pre.above, unit, size)
            x = [a.states[i] for i in layer.inputs]
            self._z[layer.output] = (
                _behind(layer.f, [g.float for g in x], layer.bf),
                _behind(layer.q, [g.quantized for g in x], layer.bq),
            )
            self.noise[layer.output] = pre.noise
            self.terms = max(self.terms, layer.terms + layer.m) + 8
        self.region = Region(boxes, a.root.lo[None], a.root.hi[None])
        self.macs = 2.0 * sum(layer.macs for layer in self.layers) * 2
        self.sizes = {layer.output: layer.m for layer in self.layers}
        self._scale = 1.0 + max(float(s.size.max(initial=0.0)) for s in self.shapes.values())

    @cached_property
    def kernel(self) -> Kernel:
        """The same in float32, for searching."""
        return Kernel(self)

    def renew(self) -> None:
        """To be called after boxes were changed."""
        self.__dict__.pop("kernel", None)

    def evaluate(self, target: Target, m: Multipliers, region: Region) -> Evaluation:
        """The dual function at some multipliers."""
        value, weight = target.constant.copy(), target.weight.copy()
        count = value.size
        slack = np.zeros(count)
        nu = {k: h for k, (h, _) in target.values.items()}
        eta = {k: g for k, (_, g) in target.values.items()}
        points: dict[int, Supremum] = {}
        pulled: dict[int, tuple[F64, F64]] = {}
        for layer in reversed(self.layers):
            if layer.output not in nu:
                continue
            n, e = nu.pop(layer.output), eta.pop(layer.output)
            lam, mu = m[layer.output]
            s = supremum(n, e, lam, mu, region.boxes[layer.output], self.shapes[layer.output])
            points[layer.output], pulled[layer.output] = s, (n, e)
            value += s.value.sum(axis=1) + lam @ layer.bf + mu @ layer.bq
            size = np.abs(lam), np.abs(mu)
            noise = self.noise[layer.output]
            if noise is not None:
                value += size[0] @ noise
                weight += size[0] @ noise
            slack += s.slack.sum(axis=1)
            z, q = self._z[layer.output]
            weight += size[0] @ z + size[1] @ q + np.abs(s.value).sum(axis=1)
            for k, i in enumerate(layer.inputs):
                h, g = layer.f[k].back(lam), layer.q[k].back(mu)
                nu[i] = h if i not in nu else nu[i] + h
                eta[i] = g if i not in eta else eta[i] + g
        size_in = region.hi.shape[1]
        c = nu[ROOT] + eta[ROOT] if ROOT in nu else np.zeros((count, size_in))
        x = np.where(c > 0, region.hi, region.lo)
        value += (c * x).sum(axis=1)
        weight += np.abs(c) @ self.root.magnitude
        slack = slack + SAFETY * gamma(self.terms) * (weight + slack) + UNDERFLOW * self._scale
        return Evaluation(value, slack, points, pulled, x, c)

    def pulled(self, target: Target, m: Multipliers) -> dict[int, tuple[F64, F64]]:
        """(nu, eta) of every value that the target depends on."""
        live = dict(target.values)
        out: dict[int, tuple[F64, F64]] = {}
        for layer in reversed(self.layers):
            if layer.output not in live:
                continue
            out[layer.output] = live.pop(layer.output)
            lam, mu = m[layer.output]
            for k, i in enumerate(layer.inputs):
                new = layer.f[k].back(lam), layer.q[k].back(mu)
                live[i] = new if i not in live else (live[i][0] + new[0], live[i][1] + new[1])
        return out

    def start(self, target: Target, lines: Mapping[int, Resolved]) -> Multipliers:
        """The multipliers that back-substitution through some lines has.

        What a form has of h and of hq with opposite signs is taken as a multiple of the gap.
        """
        live = {k: (h.copy(), g.copy()) for k, (h, g) in target.values.items()}
        found: Multipliers = {}
        for layer in reversed(self.layers):
            if layer.output not in live:
                continue
            h, g = live.pop(layer.output)
            r = lines[layer.output]
            d = np.where(h * g < 0, np.sign(g) * np.minimum(np.abs(h), np.abs(g)), 0.0)
            h, g = h + d, g - d
            pick = lambda a, over, under: a * np.where(a > 0, over, under)  # noqa: E731
            (h_up, g_up, d_up), (h_lo, g_lo, d_lo) = r.over, r.under
            gap = pick(d, d_up.d, d_lo.d)
            lam = pick(h, h_up.slope, h_lo.slope) + pick(d, d_up.z, d_lo.z) - gap
            mu = pick(g, g_up.slope, g_lo.slope) + pick(d, d_up.q, d_lo.q) + gap
            found[layer.output] = lam, mu
            for k, i in enumerate(layer.inputs):
                new = layer.f[k].back(lam), layer.q[k].back(mu)
                live[i] = new if i not in live else (live[i][0] + new[0], live[i][1] + new[1])
        return found

    def bound(self, target: Target, m: Multipliers, region: Region) -> F64:
        """Upper bounds [B] of the target over the nodes' regions, rounded upwards."""
        e = self.evaluate(target, m, region)
        return up(e.value + e.slack)


def _behind(maps: Sequence[object], xs: Sequence[Interval], bias: F64) -> F64:
    """``sum |map| |x| + |bias|``: magnitudes behind one unit of a multiplier."""
    total = np.abs(bias)
    for m, x in zip(maps, xs, strict=True):
        total = total + m.absolute.forward(x.magnitude[None])[0]  # type: ignore[attr-defined]
    return total
