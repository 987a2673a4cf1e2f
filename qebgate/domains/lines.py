"""Linear bounds of one neuron's activation: clamp, staircase and gap.

A *line* bounds a function from above by ``slope * x + intercept`` on an interval.  Any slope is
allowed; the intercept is then the supremum of ``f(x) - slope * x``, which for the piecewise functions
here is attained at a few breakpoints, and is rounded upwards.  Soundness therefore never depends on how
a slope was chosen, and slopes may be optimised freely.

Only bounds from above are written out: a bound from below is the negated bound from above of the
mirrored neuron (:meth:`Neurons.mirrored`).

Relations used (docs/mathematics.md, section 2):

* float side ``h = clamp(z, a, b)``;
* quantized side ``hq = u * clamp(round(zq / u))``: between the staircases
  ``ceil(zq/u - below)`` and ``floor(zq/u + above)``, clamped to the codes that can occur;
* gap ``delta = hq - h`` with ``D = zq - z`` and one shared rounding error ``xi``:
  ``zq' = zq + xi``, ``D' = D + xi``, and with ``relu(v) = max(v, 0)``
  ``delta = D' + relu(aq - zq') - relu(a - z) - relu(zq' - bq) + relu(z - b)``;
  also ``delta`` is between ``min(0, D')`` and ``max(0, D')`` up to the mismatch of the two clamps
  (Paulsen et al., NeuroDiff, arXiv 2009.09943).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.numerics.rounding import F64, TINY64, U64, down, up


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """``slope * x + intercept`` above a function of x; arrays [m]."""

    slope: F64
    intercept: F64


@dataclass(frozen=True, slots=True, eq=False)
class GapLine:
    """``d * D + z * z + q * zq + intercept`` above delta; arrays [m]."""

    d: F64
    z: F64
    q: F64
    intercept: F64


@dataclass(frozen=True, slots=True, eq=False)
class Neurons:
    """What is known of ``m`` neurons before their activation.

    ``z``, ``q``, ``d``: float and quantized pre-activation and their gap (before rounding).
    ``a``, ``b``: the float clamp, ``aq``, ``bq`` the quantized one (infinite where there is none).
    ``below``, ``above``: rounding envelope in real units.  ``unit`` is the output quantum, or None where
    the quantized value is not on a grid; ``k`` are then bounds of the centred codes, else of nothing.
    ``joint`` says whether lines of the gap may use both networks' pre-activations.
    """

    z: Interval
    q: Interval
    d: Interval
    a: float
    b: float
    aq: float
    bq: float
    below: F64
    above: F64
    unit: float | None
    k: Interval | None
    joint: bool = True

    def mirrored(self) -> Neurons:
        """The same neurons with every quantity negated."""
        neg = lambda i: Interval(-i.hi, -i.lo)  # noqa: E731
        return Neurons(
            neg(self.z), neg(self.q), neg(self.d), -self.b, -self.a, -self.bq, -self.aq,
            self.above, self.below, self.unit, None if self.k is None else neg(self.k), self.joint,
        )  # fmt: skip

    @property
    def both_ways(self) -> Neurons:
        """These neurons and the mirrored ones as two rows, so that both sides are bounded at once."""
        m = self.mirrored()
        rows = lambda x, y: Interval(np.stack([x.lo, y.lo]), np.stack([x.hi, y.hi]))  # noqa: E731
        edge = lambda x, y: cast("float", np.array([[x], [y]]))  # noqa: E731  (broadcasts like a number)
        k = None if self.k is None or m.k is None else rows(self.k, m.k)
        return Neurons(
            rows(self.z, m.z), rows(self.q, m.q), rows(self.d, m.d),
            edge(self.a, m.a), edge(self.b, m.b), edge(self.aq, m.aq), edge(self.bq, m.bq),
            np.stack([self.below, m.below]), np.stack([self.above, m.above]), self.unit, k, self.joint,
        )  # fmt: skip

    @property
    def rounded(self) -> Interval:
        """``zq'``: the quantized pre-activation after rounding, before the clamp."""
        return self.q.widened(self.below, self.above)

    @property
    def rounded_gap(self) -> Interval:
        """``D'``."""
        return self.d.widened(self.below, self.above)


@dataclass(frozen=True, slots=True, eq=False)
class Activation:
    """Bounds from above of h, hq and delta, and the interval bound of delta that they imply."""

    h: Line
    g: Line
    d: GapLine
    delta: F64

    def row(self, i: int) -> Activation:
        """One row of the bounds of :attr:`Neurons.both_ways`."""
        line = lambda x: Line(x.slope[i], x.intercept[i])  # noqa: E731
        gap = GapLine(self.d.d[i], self.d.z[i], self.d.q[i], self.d.intercept[i])
        return Activation(line(self.h), line(self.g), gap, self.delta[i])


def total(first: F64 | float, *others: F64 | float) -> F64:
    """The sum of a few terms, each itself the result of at most two roundings, rounded upwards."""
    s, size = first, np.abs(first)
    for p in others:
        s = s + p
        size = size + np.abs(p)
    return up(s + (8 * U64) * size + 4 * TINY64)


def _slope(dy: F64, dx: F64) -> F64:
    """dy / dx where dx > 0, else 0; always finite."""
    ok = dx > 0
    with np.errstate(over="ignore"):
        s = np.where(ok, dy, 0.0) / np.where(ok, dx, 1.0)
    return s if np.isfinite(s).all() else np.where(np.isfinite(s), s, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Breakpoints:
    """Points ``x``, ``y`` [P, m] that decide every line of slope >= 0 above a function.

    ``slopes`` [S, m] are those worth trying first.
    """

    x: F64
    y: F64
    slopes: F64

    @classmethod
    def of(cls, xs: list[F64], ys: list[F64], slopes: list[F64]) -> Breakpoints:
        return cls(np.stack(xs), np.stack(ys), np.stack(np.broadcast_arrays(*slopes)))

    def best(self, centre: F64) -> Line:
        """Of the lines with the given slopes, the lowest at the centre."""
        prod = self.slopes[:, None] * self.x[None]
        c = total(self.y[None], -prod).max(axis=1)
        best = np.argmin(c + self.slopes * centre, axis=0)
        at = (best, *np.ogrid[tuple(slice(k) for k in best.shape)])
        return Line(self.slopes[at], c[at])

    def line(self, slope: F64) -> Line:
        """The line of a given slope (>= 0) above all points."""
        return Line(slope, total(self.y, -slope * self.x).max(axis=0))

    def touched(self, slope: F64) -> F64:
        """Where that line touches the function."""
        at = np.argmax(self.y - slope * self.x, axis=0)[None]
        return np.take_along_axis(self.x, at, 0)[0]


def clamp_points(x: Interval, a: float, b: float) -> Breakpoints:
    """Of ``clamp(x, a, b)``: the ends and the clamp's corners."""
    pa, pb = np.clip(a, x.lo, x.hi), np.clip(b, x.lo, x.hi)
    xs = [x.lo, x.hi, pa, pb]
    fl, fu = np.clip(x.lo, a, b), np.clip(x.hi, a, b)
    slopes = [np.zeros_like(x.lo), np.ones_like(x.lo), _slope(fu - fl, x.width), _slope(fu - fl, pb - x.lo)]
    return Breakpoints.of(xs, [np.clip(p, a, b) for p in xs], slopes)


def clamp_line(x: Interval, a: float, b: float) -> Line:
    """Above ``clamp(x, a, b)``."""
    return clamp_points(x, a, b).best(x.centre)


def staircase_line(x: Interval, k: Interval, unit: float, above: F64) -> Line:
    """Above the staircase of :func:`staircase_points`."""
    return staircase_points(x, k, unit, above).best(x.centre)


def staircase_points(x: Interval, k: Interval, unit: float, above: F64) -> Breakpoints:
    """Of ``unit * min(k.hi, max(k.lo, floor(x / unit + above)))``.

    For a slope s >= 0 the supremum of ``staircase - s x`` is attained at the left end of a step.  Left
    ends lie on one straight line except the first, so three of them decide: the step at ``x.lo``, the
    next one, the last one.
    """
    lo, hi = k.lo, k.hi

    def left_end(code: F64) -> F64:
        edge = (code - above) * unit
        return np.clip(down(edge - 4 * U64 * (np.abs(code) + above) * unit), x.lo, x.hi)

    at = x.lo / unit
    first = np.clip(np.floor(up(at + above + 4 * U64 * (np.abs(at) + above))), lo, hi)
    second = np.minimum(first + 1, hi)
    xs = [x.lo, left_end(second), left_end(hi)]
    ys = [first * unit, second * unit, hi * unit]
    ones = np.ones_like(x.lo)
    slopes = [0 * ones, ones, _slope(ys[2] - ys[0], xs[2] - xs[0]), _slope(ys[2] - ys[0], x.width)]
    return Breakpoints.of(xs, ys, slopes)


def _relu_chord(x: Interval) -> tuple[F64, F64]:
    """Slope and intercept of the line above ``relu`` on x (the triangle's upper side)."""
    s = np.where(x.lo >= 0, 1.0, np.where(x.hi <= 0, 0.0, _slope(x.hi, x.width)))
    c = np.maximum(total(np.maximum(x.lo, 0.0), -s * x.lo), total(np.maximum(x.hi, 0.0), -s * x.hi))
    exact = (x.lo >= 0) | (x.hi <= 0)
    return s, np.where(exact, 0.0, np.maximum(c, 0.0))


def _relu_step(x: Interval, lean: float) -> F64:
    """Slope 0 or 1 of a line below ``relu`` through the origin; ``lean`` decides for undecided neurons."""
    return np.where(x.lo >= 0, 1.0, np.where(x.hi <= 0, 0.0, lean))


def mismatch(x: Interval, n: Neurons) -> F64:
    """Largest ``clamp(v, aq, bq) - clamp(v, a, b)`` over v in x (0 where the clamps agree)."""
    if np.all(n.a == n.aq) and np.all(n.b == n.bq):
        return np.zeros_like(x.lo)
    points = np.stack([x.lo, x.hi, *(np.clip(p, x.lo, x.hi) for p in (n.a, n.b, n.aq, n.bq))])
    diff = np.clip(points, n.aq, n.bq) - np.clip(points, n.a, n.b)
    same = (n.a <= points) & (points <= n.b) & (n.aq <= points) & (points <= n.bq)
    return np.where(same, 0.0, up(diff)).max(axis=0)


def above(n: Neurons, h_below: Line | None = None) -> Activation:
    """All lines from above; ``h_below`` is the float side's line from below."""
    h = clamp_line(n.z, n.a, n.b)
    if n.unit is not None and n.k is not None:
        g = staircase_line(n.q, n.k, n.unit, n.above / n.unit)
    else:
        g = clamp_line(n.rounded, n.aq, n.bq)  # in zq' = zq + xi
        g = Line(g.slope, total(g.intercept, g.slope * n.above))
    lines, delta = gap_lines(n, g, h_below)
    d, z, q, c = (np.stack([getattr(x, k) for x in lines]) for k in ("d", "z", "q", "intercept"))
    best = np.argmin(_score(GapLine(d, z, q, c), n), axis=0)
    at = (best, *np.ogrid[tuple(slice(k) for k in best.shape)])
    return Activation(h, g, GapLine(d[at], z[at], q[at], c[at]), delta)


def gap_lines(n: Neurons, g: Line, h_below: Line | None = None) -> tuple[list[GapLine], F64]:
    """All candidates above delta, the last one constant, and that constant."""
    g_hi = n.k.hi * n.unit if n.unit is not None and n.k is not None else np.clip(n.rounded.hi, n.aq, n.bq)
    if h_below is None:
        m = clamp_line(Interval(-n.z.hi, -n.z.lo), -n.b, -n.a)
        h_below = Line(m.slope, -m.intercept)
    lines, ends = _gap_candidates(n, g, h_below, g_hi)
    delta = np.minimum.reduce(ends)
    zero = np.zeros_like(delta)
    lines.append(GapLine(zero, zero, zero, delta))
    return lines, delta


SPREAD = 0.25
"""Weight of a line's spread beside its height at the centre; 0.25 gave the tightest bounds (benchmarks/qebverif.py)."""


def _score(line: GapLine, n: Neurons) -> F64:
    """How good a line above delta is likely to be: its height over the box, with ``zq = z + D``."""
    z, d = line.z + line.q, line.d + line.q
    spread = np.abs(z) * n.z.width + np.abs(d) * n.d.width
    # of lines that say the same, the one in D alone keeps the correlation of the two networks
    tie = 1e-6 * (np.abs(line.z) * n.z.width + np.abs(line.q) * n.q.width)
    return line.intercept + z * n.z.centre + d * n.d.centre + 0.5 * SPREAD * spread + tie


def _or_never(there: np.bool_, lo: F64, hi: F64) -> Interval:
    """An interval relative to a clamp's edge; one that is never reached where there is no edge."""
    return Interval(np.where(there, lo, -1.0), np.where(there, hi, -1.0))


def _gap_candidates(n: Neurons, g: Line, h_below: Line, g_hi: F64) -> tuple[list[GapLine], list[F64]]:
    """Lines above delta, cheap correlation first, and constants above delta."""
    zero = np.zeros_like(n.z.lo)
    dp, qp = n.rounded_gap, n.rounded
    lines: list[GapLine] = []
    ends: list[F64] = []

    # delta = D' + relu(aq - zq') - relu(a - z) - relu(zq' - bq) + relu(z - b)
    def over(x: Interval, edge: float) -> Interval:  # x - edge
        return _or_never(np.isfinite(edge), down(x.lo - edge), up(x.hi - edge))

    def under(x: Interval, edge: float) -> Interval:  # edge - x
        return _or_never(np.isfinite(edge), down(edge - x.hi), up(edge - x.lo))

    r1, r2, r3, r4 = under(qp, n.aq), under(n.z, n.a), over(qp, n.bq), over(n.z, n.b)
    s1, c1 = _relu_chord(r1)
    s4, c4 = _relu_chord(r4)
    edge = lambda v: np.where(np.isfinite(v), v, 0.0)  # noqa: E731
    for lean in (0.0, 1.0):
        s2, s3 = _relu_step(r2, lean), _relu_step(r3, lean)
        net = 1.0 - s1 - s3
        slack = 4 * U64  # |net| after two roundings
        xi = np.maximum((net + slack) * n.above, (slack - net) * n.below)
        c = total(xi, c1, s1 * edge(n.aq), c4, -s4 * edge(n.b), s3 * edge(n.bq), -s2 * edge(n.a))
        # the slopes of zq, z are sums of two, each rounded once: charged to the intercept
        c = total(c, 2 * U64 * n.q.magnitude, 2 * U64 * n.z.magnitude)
        lines.append(GapLine(zero + 1.0, s2 + s4, -(s1 + s3), c))
    pos = lambda r: np.maximum(r.hi, 0.0)  # noqa: E731
    low = lambda r: np.maximum(r.lo, 0.0)  # noqa: E731
    ends.append(total(dp.hi, pos(r1), -low(r2), -low(r3), pos(r4)))

    # between min(0, D') and max(0, D'), plus the mismatch of the clamps
    gap = np.minimum(mismatch(qp, n), mismatch(n.z, n))
    s, c = _relu_chord(dp)
    lines.append(GapLine(s, zero, zero, total(c, s * n.above, gap)))
    rise: F64 = np.maximum(dp.hi, 0.0)
    ends.append(np.where(gap == 0.0, rise, up(rise + gap)))

    # two independent bounds
    lines.append(GapLine(zero, -h_below.slope, g.slope, total(g.intercept, -h_below.intercept)))
    h_lo = np.clip(n.z.lo, n.a, n.b)
    ends.append(np.where(g_hi == h_lo, 0.0, up(g_hi - h_lo)))
    return (lines, ends) if n.joint else (lines[-1:], ends[-1:])
