"""SOFTMAX and LOG_SOFTMAX: bounded by intervals, with gap bounds of their own.

A softmax depends on differences of logits only: with the gaps known up to
``t``, ``p'_i`` lies between two sigmoids of the shifted log-odds of ``p_i``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qebgate.domains.gap import I64, Gap, Interval, tighten
from qebgate.domains.layers import Layer, Opaque
from qebgate.ir.graph import Node
from qebgate.ir.pair import Step
from qebgate.numerics.rounding import F64, down, up
from qebgate.ops.base import Context, label, needed_grid, rounding_of
from qebgate.ops.shapes import sigmoid
from qebgate.semantics.registry import SEMANTICS
from qebgate.semantics.softmax import SoftmaxAttrs


class SoftmaxLowering:
    """SOFTMAX, or LOG_SOFTMAX; one instance an operator."""

    def __init__(self, op: str) -> None:
        self.op = op

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        qn = step.quantized_node
        assert qn is not None
        bounds = BOUNDS[self.op](step, ctx)
        graph = ctx.pair.quantized
        grid = needed_grid(qn, graph)
        below, above = rounding_of(qn, graph, ctx.runtime)
        noise, (bottom, top) = ctx.noise(step), grid.range
        exact = exact_codes(qn, ctx)

        def transform(inputs: Sequence[Gap]) -> Gap:
            (x,) = inputs
            e = 0.0 if noise is None else noise([x.float])
            h, q, d = bounds(x)
            h = h.widened(e, e)
            codes = exact(x.codes)
            if codes is None:
                lo = np.ceil(down((q.lo - below) / grid.unit)) + grid.zero
                hi = np.floor(up((q.hi + above) / grid.unit)) + grid.zero
                codes = (np.clip(lo, grid.lo, grid.hi).astype(np.int64), np.clip(hi, grid.lo, grid.hi).astype(np.int64))
            g = grid.real(codes)
            # rounding, or what the outermost codes lack: a probability of 1, a logarithm below -16
            d = d.widened(np.maximum(below, up(q.hi - top)) + e, np.maximum(above, up(bottom - q.lo)) + e)
            h, g, d = tighten(h, g, d)
            return Gap(h, g, d, codes)

        def float_transform(inputs: Sequence[Gap]) -> Gap:
            (x,) = inputs
            e = 0.0 if noise is None else noise([x.quantized])
            h, g, d = bounds(x)
            return Gap(*tighten(h, g.widened(e, e), d.widened(e, e)))

        return [Opaque(label(step), step.inputs, step.output, transform, float_transform)]


def exact_codes(node: Node, ctx: Context) -> Callable[[tuple[I64, I64] | None], tuple[I64, I64] | None]:
    """The kernels' own codes where the input's codes are all known exactly."""
    graph, runtime = ctx.pair.quantized, ctx.runtime
    shape = graph.tensors[node.inputs[0]].shape

    def run(codes: tuple[I64, I64] | None) -> tuple[I64, I64] | None:
        if codes is None or (codes[0] != codes[1]).any():
            return None
        x = codes[0].reshape(1, *shape).astype(np.int32)
        out = [SEMANTICS[node.op].run_int(node, graph, [x], r).ravel().astype(np.int64) for r in runtime.members]
        return np.minimum.reduce(out), np.maximum.reduce(out)

    return run


def _others(x: F64, reduce: np.ufunc) -> F64:
    """For each entry of the last axis, ``reduce`` over all the other entries (0 where there is none)."""
    n = x.shape[-1]
    if n == 1:
        return np.zeros_like(x)
    tiled = np.broadcast_to(x[..., None, :], (*x.shape, n))
    return reduce.reduce(tiled[..., ~np.eye(n, dtype=bool)].reshape(*x.shape, n - 1), axis=-1)


def _softmax(x: Interval, beta: float, width: int) -> Interval:
    """``p_i = 1 / (1 + sum_j exp(beta (x_j - x_i)))``: decreasing in every other logit."""
    lo, hi = x.lo.reshape(-1, width), x.hi.reshape(-1, width)

    def p(mine: F64, others: F64) -> F64:
        with np.errstate(over="ignore"):
            e = np.exp(np.clip(beta * (others[:, None, :] - mine[:, :, None]), -700.0, 700.0))
        e[:, np.arange(width), np.arange(width)] = 0.0
        return 1.0 / (1.0 + e.sum(axis=2))

    slack = 2.0**-40  # the exponent's rounding: up to 700 * 2**-50, and the sums
    low, high = p(lo, hi), p(hi, lo)
    return Interval(
        np.maximum(0.0, down(low * (1 - slack)) - 1e-290).ravel(),
        np.minimum(1.0, up(high * (1 + slack)) + 1e-290).ravel(),
    )


def _softmax_gap(p: Interval, delta: Interval, beta: float, width: int) -> Interval:
    """Bounds of ``softmax(x + delta) - p`` for p in its interval.

    ``p'_i = sigmoid(logit(p_i) + t)`` with ``t`` between ``beta (d_i - max_j d_j)`` and
    ``beta (d_i - min_j d_j)``; ``sigmoid(l + t) - sigmoid(l)`` is extreme at ``l = -t/2`` or at the ends.
    """
    if width == 1:
        return Interval(np.zeros_like(p.lo), np.zeros_like(p.hi))
    dl, du = delta.lo.reshape(-1, width), delta.hi.reshape(-1, width)
    t_hi = up(beta * (du - _others(dl, np.minimum))).ravel()
    t_lo = down(beta * (dl - _others(du, np.maximum))).ravel()
    with np.errstate(divide="ignore"):  # infinite at 0 and 1: a change of any size may come to nothing there
        l_lo, l_hi = (np.log(x) - np.log1p(-x) for x in (p.lo, p.hi))

    def change(t: F64) -> F64:
        points = np.stack([l_lo, l_hi, np.clip(-t / 2, l_lo, l_hi)])
        return sigmoid(points + t) - sigmoid(points)

    slack = 2.0**-38
    return Interval(down(change(t_lo).min(axis=0) - slack), up(change(t_hi).max(axis=0) + slack))


def softmax_bounds(step: Step, ctx: Context) -> Callable[[Gap], tuple[Interval, Interval, Interval]]:
    """Bounds of h, hq and their gap from those of the logits, in real arithmetic on both sides."""
    fn, qn = step.float_node, step.quantized_node
    assert fn is not None and qn is not None
    fa, qa = fn.attrs, qn.attrs
    assert isinstance(fa, SoftmaxAttrs) and isinstance(qa, SoftmaxAttrs)
    ctx.same(step, fa.beta, qa.beta, "betas")
    width, beta = ctx.pair.quantized.tensors[qn.outputs[0]].shape[-1], fa.beta

    def bounds(x: Gap) -> tuple[Interval, Interval, Interval]:
        h = _softmax(x.float, beta, width)
        return h, _softmax(x.quantized, beta, width), _softmax_gap(h, x.delta, beta, width)

    return bounds


def _log_softmax(x: Interval, width: int) -> Interval:
    """``-log(1 + sum_j exp(x_j - x_i))``: decreasing in every other entry."""
    lo, hi = x.lo.reshape(-1, width), x.hi.reshape(-1, width)

    def value(mine: F64, others: F64) -> tuple[F64, F64]:
        t = others[:, None, :] - mine[:, :, None]
        t[:, np.arange(width), np.arange(width)] = 0.0
        most = t.max(axis=2)
        total = most + np.log(np.exp(t - most[:, :, None]).sum(axis=2))
        return -total, 2.0**-46 * (total + width) + 1e-290

    low, off = value(lo, hi)
    high, away = value(hi, lo)
    return Interval(down(low - off).ravel(), np.minimum(0.0, up(high + away)).ravel())


def _log_softmax_gap(p: Interval, delta: Interval, width: int) -> Interval:
    """Bounds of the change for probabilities in their intervals.

    It is ``-log(p_i + (1 - p_i) e**t)``, with ``e**t`` a mean of ``e**(d_j - d_i)`` over the others: monotone in t, and
    extreme at an end of ``p_i``.
    """
    if width == 1:
        return Interval(np.zeros_like(p.lo), np.zeros_like(p.hi))
    dl, du = delta.lo.reshape(-1, width), delta.hi.reshape(-1, width)
    least = down(_others(dl, np.minimum) - du).ravel()
    most = up(_others(du, np.maximum) - dl).ravel()

    def change(t: F64, q: F64) -> F64:
        """Without cancellation: ``1 + (1 - q) (e**t - 1)``, or where that is small ``e**t + q (1 - e**t)``."""
        grown = np.expm1(np.clip(t, -700.0, 700.0))
        moved = (1.0 - q) * grown
        small = np.exp(np.clip(t, -700.0, 0.0)) - q * np.minimum(grown, 0.0)
        return -np.where(moved > -0.5, np.log1p(np.maximum(moved, -0.5)), np.log(small))

    # the mean of 1 and e**t is between them
    low = np.maximum(np.minimum(change(most, p.lo), change(most, p.hi)), -np.maximum(most, 0.0))
    low = np.where(most > 700.0, -most, low)
    high = np.minimum(np.maximum(change(least, p.lo), change(least, p.hi)), np.maximum(-least, 0.0))
    high = np.where(least < -700.0, -least, high)
    slack = 2.0**-44 * (1.0 + np.abs(least) + np.abs(most))
    return Interval(down(low - slack), up(high + slack))


def log_softmax_bounds(step: Step, ctx: Context) -> Callable[[Gap], tuple[Interval, Interval, Interval]]:
    """The same as :func:`softmax_bounds`."""
    qn = step.quantized_node
    assert qn is not None
    width = ctx.pair.quantized.tensors[qn.outputs[0]].shape[-1]

    def bounds(x: Gap) -> tuple[Interval, Interval, Interval]:
        p = _softmax(x.float, 1.0, width)
        return _log_softmax(x.float, width), _log_softmax(x.quantized, width), _log_softmax_gap(p, x.delta, width)

    return bounds


BOUNDS = {"LOG_SOFTMAX": log_softmax_bounds, "SOFTMAX": softmax_bounds}
"""In real arithmetic."""
