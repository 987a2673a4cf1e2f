"""Multipliers by Adam's method: steps of about a share of each layer's own size; the best of all iterations is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qebgate.engines.branch.dual import Dual, Evaluation, Multipliers, Region, Target
from qebgate.numerics.rounding import F64


@dataclass(frozen=True, slots=True)
class Steps:
    """``count`` iterations, whose steps fall geometrically from ``first`` to ``last``, shares of the multipliers."""

    count: int
    first: float
    last: float

    def at(self, k: int) -> float:
        return self.first * (self.last / self.first) ** (k / max(1, self.count - 1))


ROOT_STEPS = Steps(300, 0.1, 3e-4)
NODE_STEPS = Steps(60, 0.03, 3e-4)
BETA_1, BETA_2 = 0.8, 0.95
AVERAGED = 1 / 3
"""Share of the iterations before points are averaged."""


@dataclass(slots=True, eq=False)
class Found:
    """Multipliers of the lowest ``value`` [B] seen (not rounded), and averaged points (z, h, q, s) of every layer."""

    value: F64
    multipliers: Multipliers
    average: dict[int, tuple[F64, F64, F64, F64]]


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
    m = start
    sizes = {k: _sizes(v) for k, v in start.items()}
    first = {k: (np.zeros_like(v[0]), np.zeros_like(v[1])) for k, v in m.items()}
    second = {k: (np.zeros_like(v[0]), np.zeros_like(v[1])) for k, v in m.items()}
    best = np.full(target.constant.size, np.inf)
    kept = {k: (v[0].copy(), v[1].copy()) for k, v in m.items()}
    total: dict[int, list[F64]] = {}
    averaged = 0
    for k in range(steps.count):
        pulse()
        e = dual.evaluate(target, m, region)
        value = e.value + e.slack
        better = value < best
        best = np.where(better, value, best)
        for layer, pair in kept.items():
            for mine, new in zip(pair, m[layer], strict=True):
                np.copyto(mine, new, where=better[:, None])
        if k >= AVERAGED * steps.count or k == steps.count - 1:
            averaged += 1
            _add(total, e)
        if (best <= enough).all() or k == steps.count - 1:
            break
        gradient = dual.gradient(e)
        rate = steps.at(k)
        moved: Multipliers = {}
        for layer, (lam, mu) in m.items():
            by_lam, by_mu = gradient[layer]
            step: list[F64] = []
            for side, g in enumerate((0.5 * (by_lam + by_mu), by_mu - by_lam)):
                a, b = first[layer][side], second[layer][side]
                a += (1 - BETA_1) * (g - a)
                b += (1 - BETA_2) * (g * g - b)
                scale = rate * sizes[layer][side] / (1 - BETA_1 ** (k + 1))
                step.append(scale * a / (np.sqrt(b / (1 - BETA_2 ** (k + 1))) + 1e-12))
            moved[layer] = lam - 0.5 * step[0] + step[1], mu - 0.5 * step[0] - step[1]
        m = moved
    if not averaged:
        averaged = 1
        _add(total, dual.evaluate(target, kept, region))
    mean = {k: tuple(v / averaged for v in vs) for k, vs in total.items()}
    return Found(best, kept, mean)  # type: ignore[arg-type]


def _sizes(start: tuple[F64, F64]) -> tuple[F64, F64]:
    """Sizes of steps in ``lam + mu`` and in ``(mu - lam) / 2``.

    ``lam z + mu q = (lam + mu) z + mu (q - z)``: the two networks nearly agree, so that the sum, which multiplies all
    of z, is small and needs finer steps than the difference.
    """
    lam, mu = start
    about = lambda v: np.abs(v) + 0.1 * np.abs(v).max(axis=1, keepdims=True)  # noqa: E731
    return about(lam + mu), about(mu)


def _add(total: dict[int, list[F64]], e: Evaluation) -> None:
    for layer, s in e.points.items():
        new = [s.z, s.h, s.q, s.s]
        total[layer] = new if layer not in total else [a + b for a, b in zip(total[layer], new, strict=True)]
