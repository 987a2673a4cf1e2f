"""Lines optimised for one target: projected gradient over all three streams.

For one linear form the bound is an explicit function of every line used on the way down (alpha-CROWN,
arXiv 2011.13824).  With the maximising input propagated forward through those same lines, the
derivative with respect to a slope is ``|a| (x - x*)``: a the form's coefficient, x the propagated
pre-activation, x* where the line touches its function.  Candidate lines of the gap are mixed convexly.
Any lines found give a sound bound, because intercepts follow from slopes and the final evaluation is
the rigorous one; nothing in the search is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qebgate.domains.gap import Gap, Interval
from qebgate.domains.layers import ROOT, Affine
from qebgate.domains.lines import Breakpoints, GapLine, Line, Neurons, clamp_points, gap_lines, staircase_points, total
from qebgate.engines.dra.backward import Form, Resolved
from qebgate.engines.dra.forward import PreActivation, neurons, resized
from qebgate.numerics.rounding import F64

RATE, LOGIT_RATE, DECAY = 0.03, 1.0, 0.96
"""First steps of slopes (which live in [0, 1]) and of mixture logits, and their factor per iteration."""
SURE = 6.0
"""Logit of the candidate that the unoptimised analysis would take."""

Vectors = tuple[F64, F64, F64]
Lines = tuple[Line, Line, GapLine]
"""Of (h, hq, delta)."""


def mirror(lines: Lines) -> Lines:
    """Lines from below as lines from above of the mirrored neurons, or back."""
    h, g, d = lines
    return Line(h.slope, -h.intercept), Line(g.slope, -g.intercept), GapLine(d.d, d.z, d.q, -d.intercept)


class _Adam:
    """Steps of about the rate in every coordinate (arXiv 1412.6980)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.m, self.v, self.t = np.zeros(shape), np.zeros(shape), 0

    def step(self, gradient: F64, rate: float) -> F64:
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.99 * self.v + 0.01 * gradient**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.99**self.t)
        return rate * m / (np.sqrt(v) + 1e-12)


class Slope:
    """One slope per neuron of a function with known breakpoints."""

    def __init__(self, points: Breakpoints, start: Line) -> None:
        self.points, self.slope = points, start.slope.copy()
        self.adam = _Adam(self.slope.shape)

    def line(self) -> Line:
        return self.points.line(self.slope)

    def descend(self, size: F64, at: F64, rate: float) -> None:
        gradient = size * (at - self.points.touched(self.slope))
        self.slope = np.clip(self.slope - self.adam.step(gradient, RATE * rate), 0.0, 1.0)


class Mixture:
    """Convex combinations of candidate lines above delta, ``[K, m]`` each."""

    def __init__(self, lines: Sequence[GapLine], start: GapLine, n: Neurons) -> None:
        self.d, self.z, self.q, self.c = (
            np.stack([getattr(x, k) for x in lines]) for k in ("d", "z", "q", "intercept")
        )
        same = (self.d == start.d) & (self.z == start.z) & (self.q == start.q) & (self.c == start.intercept)
        self.logits = np.where(same, SURE, 0.0)
        self.adam = _Adam(self.logits.shape)
        edges = sum(abs(v) for v in (n.a, n.b, n.aq, n.bq) if np.isfinite(v))
        # of everything that a weight or a rounded coefficient is multiplied by, delta itself included
        self.size = n.d.magnitude + 2 * (n.q.magnitude + n.z.magnitude) + n.below + n.above + edges

    @property
    def weights(self) -> F64:
        e = np.exp(self.logits - self.logits.max(axis=0))
        return e / e.sum(axis=0)

    def line(self) -> GapLine:
        """The mixture, raised by what its roundoff can lose.

        Weights sum to 1, and sums of products to their values, up to a dozen roundings: far less than
        1e-13 of everything involved.
        """
        w = self.weights
        mix = lambda v: (w * v).sum(axis=0)  # noqa: E731
        coefficients = 1.0 + mix(np.abs(self.d)) + mix(np.abs(self.z)) + mix(np.abs(self.q))
        slack = 1e-13 * (coefficients * self.size + mix(np.abs(self.c)))
        return GapLine(mix(self.d), mix(self.z), mix(self.q), total(mix(self.c), slack))

    def descend(self, size: F64, at: Vectors, rate: float) -> None:
        d, z, q = at
        value = self.d * d + self.z * z + self.q * q + self.c
        w = self.weights
        gradient = size * w * (value - (w * value).sum(axis=0))
        self.logits = np.clip(self.logits - self.adam.step(gradient, LOGIT_RATE * rate), -30.0, 30.0)


@dataclass
class Side:
    """The tunable lines of one layer from above, in its own or in mirrored coordinates."""

    h: Slope
    g: Slope | Line
    d: Mixture

    @classmethod
    def of(cls, n: Neurons, start: Lines) -> Side:
        h = Slope(clamp_points(n.z, n.a, n.b), start[0])
        g: Slope | Line = start[1]
        if n.unit is not None and n.k is not None:
            g = Slope(staircase_points(n.q, n.k, n.unit, n.above / n.unit), start[1])
        return cls(h, g, Mixture(gap_lines(n, start[1])[0], start[2], n))

    def lines(self) -> Lines:
        return self.h.line(), self.g if isinstance(self.g, Line) else self.g.line(), self.d.line()

    def descend(self, sizes: Vectors, at: Vectors, rate: float) -> None:
        """``sizes`` are |coefficients| of (h, hq, delta) on this side, ``at`` the propagated (D, z, zq)."""
        _, z, q = at
        self.h.descend(sizes[0], z, rate)
        if isinstance(self.g, Slope):
            self.g.descend(sizes[1], q, rate)
        self.d.descend(sizes[2], at, rate)


@dataclass
class _Tuned:
    """A layer with its lines from above and, in mirrored coordinates, from below."""

    resolved: Resolved
    over: Side
    under: Side

    def current(self) -> Resolved:
        return replace(self.resolved, over=self.over.lines(), under=mirror(self.under.lines()))


def tune(
    layers: Sequence[Resolved],
    affine: Mapping[int, tuple[Affine, PreActivation, Sequence[Gap]]],
    root: Interval,
    target: tuple[int, Form],
    iterations: int,
) -> list[Resolved]:
    """Layers whose lines make the upper bound of one form (one row) over one value small.

    ``affine`` has what is known of each affine layer, by output.  The best of all iterations is returned.
    """
    tuned: dict[int, _Tuned] = {}
    for r in layers:
        if r.output in affine:
            n = neurons(*affine[r.output])[0]
            sides = Side.of(n, r.over), Side.of(n.mirrored(), mirror(r.under))
            tuned[r.output] = _Tuned(r, *sides)
    best, lowest = list(layers), np.inf
    rate = 1.0
    for _ in range(iterations):
        now = [tuned[r.output].current() if r.output in tuned else r for r in layers]
        value, trace = _descend(now, root, target)
        if value < lowest:
            best, lowest = now, value
        _ascend(now, root, trace)
        for r in now:
            if r.output in tuned and r.output in trace.forms:
                t, at = tuned[r.output], trace.at[r.output]
                form = trace.forms[r.output]
                pos = tuple(np.maximum(a, 0.0) for a in form)
                neg = tuple(np.maximum(-a, 0.0) for a in form)
                t.over.descend((pos[0], pos[1], pos[2]), at, rate)
                t.under.descend((neg[0], neg[1], neg[2]), (-at[0], -at[1], -at[2]), rate)
        rate *= DECAY
    return [resized(r, affine[r.output][1]) if r.output in tuned else r for r in best]


@dataclass
class _Trace:
    """One evaluation: coefficients of (h, hq, delta) per value, of pre-activations, and the way forward."""

    forms: dict[int, Vectors]
    pre: dict[int, Vectors]
    at: dict[int, Vectors]
    """Propagated (D, z, zq) per layer output."""
    input: F64


def _descend(layers: Sequence[Resolved], root: Interval, target: tuple[int, Form]) -> tuple[float, _Trace]:
    """The bound of one form, without roundoff, and every coefficient on the way."""
    output, form = target
    sizes = {r.output: r.bf.size for r in layers} | {ROOT: root.lo.size}
    row = lambda c, n: np.zeros(n) if c is None else c[0]  # noqa: E731
    live: dict[int, Vectors] = {output: tuple(row(c, sizes[output]) for c in (form.h, form.g, form.d))}  # type: ignore[dict-item]
    trace = _Trace({}, {}, {}, np.zeros(0))
    constant = 0.0
    for r in reversed(layers):
        a = live.pop(r.output, None)
        if a is None:
            continue
        trace.forms[r.output] = a
        (hp, gp, dp), (hn, gn, dn) = ([np.maximum(x, 0.0) for x in a], [np.minimum(x, 0.0) for x in a])
        over, under = r.over, r.under
        constant += float(hp @ over[0].intercept + hn @ under[0].intercept + gp @ over[1].intercept)
        constant += float(gn @ under[1].intercept + dp @ over[2].intercept + dn @ under[2].intercept)
        z = hp * over[0].slope + hn * under[0].slope + dp * over[2].z + dn * under[2].z
        q = gp * over[1].slope + gn * under[1].slope + dp * over[2].q + dn * under[2].q
        d = dp * over[2].d + dn * under[2].d
        constant += float(z @ r.bf + q @ r.bq + d @ r.bd)
        if r.noise is not None:
            constant += float(np.abs(z - d) @ r.noise)
        trace.pre[r.output] = (z, q, d)
        for k, i in enumerate(r.inputs):
            part = (
                r.f[k].back(z[None])[0] + r.diff[k].back(d[None])[0],
                r.q[k].back(q[None])[0],
                r.q[k].back(d[None])[0],
            )
            live[i] = part if i not in live else tuple(x + y for x, y in zip(live[i], part, strict=True))  # type: ignore[assignment]
    a = live.get(ROOT)
    x = np.zeros(root.lo.size) if a is None else a[0] + a[1]
    trace.input = np.where(x > 0, root.hi, root.lo)
    return constant + float(x @ trace.input), trace


def _ascend(layers: Sequence[Resolved], root: Interval, trace: _Trace) -> None:
    """Propagate the maximising input through the lines that the bound used."""
    values: dict[int, Vectors] = {ROOT: (trace.input, trace.input, np.zeros(root.lo.size))}
    for r in layers:
        if r.output not in trace.forms:
            continue
        z, q, d = r.bf.copy(), r.bq.copy(), r.bd.copy()
        for k, i in enumerate(r.inputs):
            h, g, delta = values[i]
            z += r.f[k].forward(h[None])[0]
            q += r.q[k].forward(g[None])[0]
            d += r.q[k].forward(delta[None])[0] + r.diff[k].forward(h[None])[0]
        if r.noise is not None:
            cz, _, cd = trace.pre[r.output]
            shift = np.sign(cz - cd) * r.noise
            z, d = z + shift, d - shift
        trace.at[r.output] = (d, z, q)
        a = trace.forms[r.output]
        over, under = r.over, r.under
        pick = lambda c, up, low: np.where(c > 0, up, low)  # noqa: E731
        on = lambda line, x: line.slope * x + line.intercept  # noqa: E731
        gap = lambda line: line.d * d + line.z * z + line.q * q + line.intercept  # noqa: B023, E731
        values[r.output] = (
            pick(a[0], on(over[0], z), on(under[0], z)),
            pick(a[1], on(over[1], q), on(under[1], q)),
            pick(a[2], gap(over[2]), gap(under[2])),
        )
