"""Functions of one entry: their shapes, and bounds of their values, gaps and codes.

With slopes of f in ``[s, S]`` between x and x', the gap ``f(x') - f(x)`` is a number of ``[s, S]`` times that of x.
For back-substitution f is a line and a rest; the rest of a function with ``|f''| <= K`` is within ``K w**2 / 8`` of the
line through its values at points w apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special

from qebgate.domains.gap import I64, Gap, Interval, tighten
from qebgate.domains.layers import Band, CodeBox, Layer, Opaque
from qebgate.domains.linear_map import diagonal
from qebgate.ir.graph import Graph, Node
from qebgate.ir.pair import Step
from qebgate.numerics.rounding import F64, down, up
from qebgate.ops.base import Context, label, needed_grid, rounding_of
from qebgate.ops.products import times
from qebgate.semantics.registry import SEMANTICS
from qebgate.semantics.sigmoid import Table
from qebgate.semantics.tables import Function, GeluAttrs, LeakyReluAttrs, Prelu

LIBM = 2.0**-48
"""Relative error allowed to float64 exp, tanh, erfc and the few operations around them (about 16 ulp)."""
SAMPLES = 17
"""Points at which a rest is evaluated."""
_WIDE = 2.0**40
"""Lines are only drawn over intervals that are not wider."""


def outward(x: F64, sign: int) -> F64:
    """A computed value moved up or down by LIBM relative and a little absolute."""
    err = LIBM * np.abs(x) + 1e-300
    return up(x + err) if sign > 0 else down(x - err)


def sigmoid(x: F64) -> F64:
    """In float64, without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


class Shape(ABC):
    """A function that falls up to ``turn`` and rises from there; ``kinks`` are where its slope jumps.

    Arrays end in the tensor's entries, all of them or (for a function with parameters per channel) whole channels.
    """

    turn: float = -np.inf
    kinks: tuple[float, ...] = ()
    curvature: float = 0.0
    """Bound of ``|f''|`` between kinks."""
    least: float = -np.inf
    most: float = np.inf

    @abstractmethod
    def value(self, x: F64) -> F64: ...

    @abstractmethod
    def slopes(self, x: Interval) -> tuple[F64, F64]:
        """Least and largest slope over an interval (approximate: they are moved outwards)."""

    def image(self, x: Interval) -> Interval:
        """All values over an interval."""
        lo, hi = self.value(x.lo), self.value(x.hi)
        least = np.minimum(lo, hi)
        if np.isfinite(self.turn):
            inside = (x.lo < self.turn) & (x.hi > self.turn)
            least = np.where(inside, np.minimum(least, self.value(np.full_like(x.lo, self.turn)) - 1e-12), least)
        low, high = outward(least, -1), outward(np.maximum(lo, hi), +1)
        return Interval(np.clip(low, self.least, self.most), np.clip(high, self.least, self.most))

    def steep(self, x: Interval) -> Interval:
        """Slopes over an interval, outwards."""
        lo, hi = self.slopes(x)
        return Interval(outward(lo, -1), outward(hi, +1))

    def rest(self, x: Interval, slope: F64) -> Interval:
        """Bounds of ``f(t) - slope t`` for t in x."""
        steps = np.linspace(0.0, 1.0, SAMPLES)
        points = [x.lo + (x.hi - x.lo) * s for s in steps[:-1]] + [x.hi]
        points += [np.clip(np.full_like(x.lo, k), x.lo, x.hi) for k in self.kinks]
        at = np.clip(np.stack(points), x.lo, x.hi)
        value, line = self.value(at), slope * at
        error = 2.0**-46 * (np.abs(value) + np.abs(line)).max(axis=0) + 1e-300
        # two neighbours may be a little farther apart than a step: their places are rounded
        bend = self.curvature * ((x.hi - x.lo) / (SAMPLES - 1)) ** 2 / 8 * (1 + 2.0**-20)
        rest = value - line
        return Interval(down(rest.min(axis=0) - bend - error), up(rest.max(axis=0) + bend + error))


@dataclass(frozen=True, slots=True)
class Smooth(Shape):
    """LOGISTIC and TANH: ``gradient`` falls with the distance from 0."""

    function: Callable[[F64], F64]
    gradient: Callable[[F64], F64]
    least: float
    most: float
    curvature: float

    def value(self, x: F64) -> F64:
        return self.function(x)

    def slopes(self, x: Interval) -> tuple[F64, F64]:
        nearest = np.where((x.lo <= 0) & (x.hi >= 0), 0.0, np.minimum(np.abs(x.lo), np.abs(x.hi)))
        return self.gradient(x.magnitude), self.gradient(nearest)


LOGISTIC = Smooth(sigmoid, lambda x: sigmoid(x) * sigmoid(-x), 0.0, 1.0, 0.1)
TANH = Smooth(np.tanh, lambda x: 1.0 / np.cosh(np.minimum(x, 300.0)) ** 2, -1.0, 1.0, 0.78)


@dataclass(frozen=True, slots=True, eq=False)
class Bent(Shape):
    """``x`` above zero, ``alpha x`` below; alpha [1] or [C].  LEAKY_RELU, PRELU, ABS."""

    alpha: F64
    kinks: tuple[float, ...] = (0.0,)

    @property
    def turn(self) -> float:  # type: ignore[override]
        return 0.0 if (self.alpha < 0).any() else -np.inf

    def _each(self, x: F64) -> F64:
        """The slope below zero of every entry."""
        return np.resize(self.alpha, x.shape[-1])

    def value(self, x: F64) -> F64:
        return np.where(x >= 0, x, x * self._each(x))

    def slopes(self, x: Interval) -> tuple[F64, F64]:
        a = self._each(x.lo)
        some = np.stack([np.where(x.lo < 0, a, 1.0), np.where(x.hi > 0, 1.0, a)])
        return some.min(axis=0), some.max(axis=0)


class EluShape(Shape):
    kinks = (0.0,)
    curvature = 1.0
    least = -1.0

    def value(self, x: F64) -> F64:
        return np.where(x >= 0, x, np.expm1(np.minimum(x, 0.0)))

    def slopes(self, x: Interval) -> tuple[F64, F64]:
        return np.exp(np.minimum(x.lo, 0.0)), np.exp(np.minimum(x.hi, 0.0))


class HardSwishShape(Shape):
    turn = -1.5
    kinks = (-3.0, 3.0)
    curvature = 1.0 / 3.0 + 1e-9
    least = -0.375

    def value(self, x: F64) -> F64:
        return x * np.clip(x + 3.0, 0.0, 6.0) / 6.0

    def slopes(self, x: Interval) -> tuple[F64, F64]:
        touches = (x.lo <= 3.0) & (x.hi >= -3.0)
        inner = [(2.0 * np.clip(v, -3.0, 3.0) + 3.0) / 6.0 for v in (x.lo, x.hi)]
        lo, hi = (np.where(touches, v, fill) for v, fill in zip(inner, (np.inf, -np.inf), strict=True))
        lo, hi = np.where(x.lo < -3.0, np.minimum(lo, 0.0), lo), np.where(x.lo < -3.0, np.maximum(hi, 0.0), hi)
        return np.where(x.hi > 3.0, np.minimum(lo, 1.0), lo), np.where(x.hi > 3.0, np.maximum(hi, 1.0), hi)


class GeluShape(Shape):
    """``x Phi(x)``; its slopes are in [-0.1290, 1.1290] and its curvature is at most 0.7979 (at 0)."""

    turn = -0.7517915246935645
    curvature = 0.8
    least = -0.1701

    def value(self, x: F64) -> F64:
        return 0.5 * x * scipy.special.erfc(-x * np.sqrt(0.5))

    def gradient(self, x: F64) -> F64:
        """The slope at a point."""
        return 0.5 * scipy.special.erfc(-x * np.sqrt(0.5)) + x * np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)

    def slopes(self, x: Interval) -> tuple[F64, F64]:
        half = 0.5 * (x.hi - x.lo) + 1e-12
        at, off = self.gradient(np.clip(x.centre, -40.0, 40.0)), 0.85 * np.minimum(half, 100.0)
        return np.maximum(at - off, -0.135), np.minimum(at + off, 1.135)


class FastGeluShape(GeluShape):
    """The tanh approximation: within the same bounds (the least value is -0.17004, at -0.75246)."""

    turn = -0.7524614220710162

    def value(self, x: F64) -> F64:
        # x (1 + tanh u) / 2 = x sigmoid(2 u), which keeps its precision where tanh is near -1
        return x * sigmoid(self._inner(np.clip(x, -1e4, 1e4)))

    @staticmethod
    def _inner(x: F64) -> F64:
        return 2.0 * np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)

    def gradient(self, x: F64) -> F64:
        p = sigmoid(self._inner(x))
        return p + x * p * (1.0 - p) * 2.0 * np.sqrt(2.0 / np.pi) * (1.0 + 3 * 0.044715 * x * x)


def _shape(node: Node, graph: Graph) -> Shape:
    attrs, sem = node.attrs, SEMANTICS[node.op]
    if isinstance(attrs, LeakyReluAttrs):
        return Bent(np.array([float(np.float32(attrs.alpha))]))
    if isinstance(sem, Prelu):
        return Bent(sem.alpha(node, graph))
    if isinstance(attrs, GeluAttrs):
        return FastGeluShape() if attrs.approximate else GeluShape()
    return _SHAPES[node.op]


_SHAPES = {
    "LOGISTIC": LOGISTIC,
    "TANH": TANH,
    "ELU": EluShape(),
    "HARD_SWISH": HardSwishShape(),
    "ABS": Bent(np.array([-1.0])),
}


class CurveLowering:
    """A function of one entry; one instance an operator."""

    def __init__(self, op: str) -> None:
        self.op = op

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        graph = ctx.pair.quantized
        grid, (f, q) = needed_grid(qn, graph), (_shape(fn, ctx.pair.float), _shape(qn, graph))
        if not isinstance(q, Bent):  # slopes may differ, whatever else says which function it is may not
            ctx.same(step, fn.attrs, qn.attrs, "options")
        kernel, noise = table_codes(qn, ctx), ctx.noise(step)
        below, above = rounding_of(qn, graph, ctx.runtime)
        apart = _apart(f, q)

        def transform(inputs: Sequence[Gap]) -> Gap:
            (x,) = inputs
            assert x.codes is not None
            e = 0.0 if noise is None else noise([x.float])
            h = f.image(x.float).widened(e, e)
            codes = kernel(x.codes)
            g = grid.real(codes)
            # h = f(x) + float noise, hq = q(xq) + rounding; the clamp is respected by g and h
            d = _moved(q, x).plus(apart(x.float)).widened(below + e, above + e)
            d = _saturated(d, h, q.image(x.quantized).widened(below, above), grid.range)
            return Gap(*tighten(h, g, d), codes)

        def float_transform(inputs: Sequence[Gap]) -> Gap:
            (x,) = inputs
            e = 0.0 if noise is None else noise([x.quantized])
            h, g = f.image(x.float), f.image(x.quantized).widened(e, e)
            return Gap(*tighten(h, g, _moved(f, x).widened(e, e)))

        def lines(inputs: Sequence[Gap], out: Gap) -> Band:
            (x,) = inputs
            e = 0.0 if noise is None else noise([x.float])
            return _band((f, q), x, out, (below, above), e, apart(x.float), grid.range)

        return [Opaque(label(step), step.inputs, step.output, transform, float_transform, lines)]


def _moved(f: Shape, x: Gap) -> Interval:
    """Bounds of ``f(h + delta) - f(h)``."""
    return times(f.steep(_both(x)), x.delta)


def _both(x: Gap) -> Interval:
    """All that either side can be."""
    return Interval(np.minimum(x.float.lo, x.quantized.lo), np.maximum(x.float.hi, x.quantized.hi))


def _apart(f: Shape, q: Shape) -> Callable[[Interval], Interval]:
    """Bounds of ``q(x) - f(x)``: the two models' parameters may differ (slopes of a PRELU are quantized)."""

    def run(x: Interval) -> Interval:
        zero = np.zeros_like(x.lo)
        if not (isinstance(f, Bent) and isinstance(q, Bent)) or np.array_equal(f.alpha, q.alpha):
            return Interval(zero, zero)
        below = Interval(np.minimum(x.lo, 0.0), np.minimum(x.hi, 0.0))
        slope = np.resize(q.alpha, x.lo.size) - np.resize(f.alpha, x.lo.size)
        return times(Interval(down(slope), up(slope)), below)

    return run


def _saturated(d: Interval, h: Interval, q: Interval, limits: tuple[float, float]) -> Interval:
    """The gap after the quantized side's clamp: ``min(q, top) - h`` and ``max(q, bottom) - h``."""
    bottom, top = limits
    lo = np.where(q.hi > top, np.minimum(d.lo, down(top - h.hi)), d.lo)
    hi = np.where(q.lo < bottom, np.maximum(d.hi, up(bottom - h.lo)), d.hi)
    return Interval(lo, np.maximum(lo, hi))


def _band(
    shapes: tuple[Shape, Shape],
    x: Gap,
    out: Gap,
    rounding: tuple[F64, F64],
    noise: F64 | float,
    apart: Interval,
    limits: tuple[float, float],
) -> Band:
    """The chord over all that both sides can be, and what is left."""
    (f, q), (below, above), both = shapes, rounding, _both(x)
    width = both.hi - both.lo
    narrow = (width > 0) & (both.magnitude < _WIDE)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where(narrow, (f.value(both.hi) - f.value(both.lo)) / np.where(width > 0, width, 1.0), 0.0)
    line = Interval(slope, slope)
    image_f, image_q = out.float.minus(times(line, x.float)), out.quantized.minus(times(line, x.quantized))
    h = f.rest(x.float, slope).widened(noise, noise)
    g = q.rest(x.quantized, slope).widened(below, above)
    exact = q.image(x.quantized).widened(below, above)
    bottom, top = limits
    clamped = (exact.lo < bottom) | (exact.hi > top)
    g = Interval(np.where(clamped, image_q.lo, g.lo), np.where(clamped, image_q.hi, g.hi))
    steep = q.steep(both)
    d = times(Interval(down(steep.lo - slope), up(steep.hi - slope)), x.delta).plus(apart)
    d = d.widened(below + noise, above + noise)
    plain = out.delta.minus(times(line, x.delta))
    d = Interval(np.where(clamped, plain.lo, d.lo), np.where(clamped, plain.hi, d.hi))
    usable = lambda a, b: Interval(np.maximum(a.lo, b.lo), np.minimum(a.hi, b.hi))  # noqa: E731
    return Band((diagonal(slope),), usable(h, image_f), usable(g, image_q), usable(d, plain))


def table_codes(node: Node, ctx: Context) -> Callable[[CodeBox], CodeBox]:
    """Least and largest output code for boxes of input codes, from the runtimes' own tables."""
    graph, sem = ctx.pair.quantized, SEMANTICS[node.op]
    assert isinstance(sem, Function | Table)
    x = graph.tensors[node.inputs[0]]
    tables = [sem.codes(node, graph, r) for r in ctx.runtime.members]
    least, most = (
        [_levels(t.reshape(len(t), -1).astype(np.int64), reduce) for t in tables] for reduce in (np.minimum, np.maximum)
    )
    first = x.dtype.code_range[0]

    def run(codes: CodeBox) -> CodeBox:
        lo, hi = codes[0] - first, codes[1] - first
        level = np.log2(hi - lo + 1).astype(np.int64)
        lows = [_range(t, lo, hi, level, np.minimum) for t in least]
        return np.minimum.reduce(lows), np.maximum.reduce([_range(t, lo, hi, level, np.maximum) for t in most])

    return run


def _levels(table: I64, reduce: np.ufunc) -> I64:
    """``[k, 256, C]``: the extreme of 2**k entries from each one on (those beyond the end repeat the last)."""
    levels = [table]
    step = 1
    while 2 * step <= len(table):
        ahead = np.concatenate([levels[-1][step:], np.repeat(levels[-1][-1:], step, axis=0)])
        levels.append(reduce(levels[-1], ahead))
        step *= 2
    return np.stack(levels)


def _range(levels: I64, lo: I64, hi: I64, level: I64, reduce: np.ufunc) -> I64:
    """The extreme of entries lo to hi, each entry of a tensor in its own channel."""
    channel = np.arange(lo.size) % levels.shape[2]
    return reduce(levels[level, lo, channel], levels[level, hi + 1 - (np.int64(1) << level), channel])


def curve_bounds(step: Step, ctx: Context) -> Callable[[Gap], tuple[Interval, Interval, Interval]] | None:
    """Bounds of h, hq and their gap from those of the input, in real arithmetic; None for other operators."""
    fn, qn = step.float_node, step.quantized_node
    assert fn is not None and qn is not None
    if not isinstance(SEMANTICS[qn.op], Table | Function | Prelu):
        return None
    f, q = _shape(fn, ctx.pair.float), _shape(qn, ctx.pair.quantized)
    if not isinstance(q, Bent):
        ctx.same(step, fn.attrs, qn.attrs, "options")
    apart = _apart(f, q)

    def bounds(x: Gap) -> tuple[Interval, Interval, Interval]:
        return f.image(x.float), q.image(x.quantized), _moved(q, x).plus(apart(x.float))

    return bounds
