"""Multipliers by Adam's method: steps of about a share of each layer's own size; the best of all iterations is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qebgate.engines.branch.dual import Dual, Multipliers, Region, Target
from qebgate.engines.branch.kernel import F32
from qebgate.numerics.rounding import F64


@dataclass(frozen=True, slots=True)
class Steps:
    """``count`` iterations, whose steps fall geometrically from ``first`` to ``last``, shares of the multipliers."""

    count: int
    first: float
    last: float

    def at(self, k: int) -> float:
        return self.first * (self.last / self.first) ** (k / max(1, self.count - 1))


ROOT_STEPS = Steps(400, 0.4, 1e-3)
NODE_STEPS = Steps(40, 0.15, 4e-3)
BETA_1, BETA_2 = 0.8, 0.95
AVERAGED = 1 / 3
"""Share of the iterations before points are averaged."""
SURELY = 1e-4
"""The search is in float32: values further than this below the limit, relative to their size, end it."""


@dataclass(slots=True, eq=False)
class Found:
    """Multipliers of the lowest ``value`` [B] seen (not rounded), and averaged points of every layer.

    ``average`` [4, B, m]: z, h, q, s.  ``input`` [B, n]: an input that the last iteration had.
    """

    value: F64
    multipliers: Multipliers
    average: dict[int, F64]
    input: F64


def minimise(
    dual: Dual,
    target: Target,
    start: Multipliers,
    region: Region,
    steps: Steps,
    enough: float = -np.inf,
    pulse: Callable[[], None] = lambda: None,
) -> Found:
    """Lower the dual from ``start``; ends early once every node is at most ``enough``."""
    kernel, count = dual.kernel, target.constant.size
    run = kernel.begin(target, region)
    m: dict[int, F32] = {}
    for v, (lam, mu) in start.items():
        both = np.stack([lam[:, kernel.kept[v]], mu[:, kernel.kept[v]]]).astype(np.float32)
        m[v] = np.broadcast_to(both, (2, count, both.shape[2])).copy()
    sizes = {v: _sizes(x) for v, x in m.items()}
    first = {v: np.zeros_like(x) for v, x in m.items()}
    second = {v: np.zeros_like(x) for v, x in m.items()}
    best = np.full(count, np.inf, np.float32)
    kept = {v: x.copy() for v, x in m.items()}
    total: dict[int, F32] = {}
    averaged = 0
    enough -= SURELY * (1.0 + abs(enough)) if np.isfinite(enough) else 0.0
    for k in range(steps.count):
        pulse()
        value = run.evaluate(m)
        better = np.flatnonzero(value < best)
        if better.size:
            best[better] = value[better]
            for v, x in kept.items():
                x[:, better] = m[v][:, better]
        final = k == steps.count - 1 or bool((best <= enough).all())
        if k >= AVERAGED * steps.count or final:
            averaged += 1
            for v, x in run.points.items():
                if v in total:
                    total[v] += x
                else:
                    total[v] = x.copy()
        if final:
            break
        rate = steps.at(k)
        for v, (by_lam, by_mu) in run.gradient().items():
            g = np.stack([0.5 * (by_lam + by_mu), by_mu - by_lam])
            a, b = first[v], second[v]
            a += np.float32(1 - BETA_1) * (g - a)
            g *= g
            g -= b
            g *= np.float32(1 - BETA_2)
            b += g
            step = np.sqrt(b * np.float32(1 / (1 - BETA_2 ** (k + 1))))
            step += np.float32(1e-12)
            np.divide(a, step, out=step)
            step *= sizes[v]
            step *= np.float32(rate / (1 - BETA_1 ** (k + 1)))
            step[0] *= np.float32(0.5)
            m[v][0] += step[1] - step[0]
            m[v][1] -= step[0] + step[1]
    mean = {v: x.astype(np.float64) / averaged for v, x in total.items()}
    found: Multipliers = {}
    for v, x in kept.items():
        lam, mu = np.zeros((2, count, dual.sizes[v]))
        lam[:, kernel.kept[v]], mu[:, kernel.kept[v]] = x
        found[v] = lam, mu
    return Found(best.astype(np.float64), found, mean, kernel.middle + run.input)


def _sizes(m: F32) -> F32:
    """Sizes [1, B, 1] of steps in ``lam + mu`` and in ``(mu - lam) / 2``: a layer's mean multiplier.

    One number for all neurons and both: steps in the sum, which is small as the two networks nearly agree, have to be
    as large as those in the difference, and neurons that have no multiplier yet must be able to get one.
    """
    total = np.abs(m).sum(axis=2, keepdims=True) / np.float32(max(1, m.shape[2]))
    return total.max(axis=0, keepdims=True)
