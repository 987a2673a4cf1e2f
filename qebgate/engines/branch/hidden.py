"""Bounds of hidden pre-activations by multipliers of their own: z, zq and D of every open neuron, both ways.

Layer by layer: what was found of a layer is used by the next one.  Every bound is rounded outwards and only ever cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.layers import ROOT, Affine
from qebgate.engines.branch.dual import Dual, Multipliers, Target
from qebgate.engines.branch.neuron import Box
from qebgate.engines.branch.search import Steps, minimise
from qebgate.engines.dra.backward import Resolved
from qebgate.numerics.rounding import F64, down

CHUNK, CACHE = 128, 1 << 17
"""Targets that are searched for together, and neurons of one layer in all of them, at most."""
STEPS = Steps(60, 0.1, 3e-3)
SHARE = 0.25
"""Of the work that back-substitution may do."""
Kind = Literal["z", "q", "d"]
KINDS: tuple[Kind, ...] = ("z", "q", "d")


@dataclass(frozen=True, slots=True, eq=False)
class Sharpened:
    """Multipliers that bound one kind of pre-activation of some neurons of a layer, times ``signs``."""

    layer: int
    kind: Kind
    entries: NDArray[np.intp]
    signs: F64
    multipliers: Multipliers


def sharpen(
    dual: Dual, lines: Mapping[int, Resolved], work: float, pulse: Callable[[], None] = lambda: None
) -> list[Sharpened]:
    """Improve the boxes of a dual's hidden layers in place, for a share of ``work`` multiply-adds; what proves them."""
    found: list[Sharpened] = []
    chunk = max(1, min(CHUNK, CACHE // max(layer.m for layer in dual.layers)))
    left, below = SHARE * work, 0.0
    for layer in dual.layers:
        below += 4.0 * layer.macs
        box = dual.region.boxes[layer.output]
        if ROOT in layer.inputs or layer.grid is None:
            continue
        kept = dual.kernel.kept[layer.output]
        left -= 2 * len(KINDS) * kept.size * STEPS.count * below
        if left < 0:
            break
        for kind in KINDS:
            entries, signs = np.tile(kept, 2), np.repeat([1.0, -1.0], kept.size)
            for k in range(0, entries.size, chunk):
                part = slice(k, k + chunk)
                target = _target(dual, layer, kind, entries[part], signs[part])
                best = minimise(dual, target, dual.start(target, lines), dual.region, STEPS, pulse=pulse)
                bound = dual.bound(target, best.multipliers, dual.region)
                used = _cut(box, kind, entries[part], signs[part], bound)
                if used.any():
                    few = {v: (lam[used], mu[used]) for v, (lam, mu) in best.multipliers.items()}
                    found.append(Sharpened(layer.output, kind, entries[part][used], signs[part][used], few))
        _settle(box, layer)
        dual.renew()
    return found


def _target(dual: Dual, layer: Affine, kind: Kind, entries: NDArray[np.intp], signs: F64) -> Target:
    """Signed pre-activations as forms over the layer's inputs."""
    s = signs[:, None]
    zero, constant, weight = np.zeros((entries.size, 1)), np.zeros(entries.size), np.zeros(entries.size)
    values: dict[int, tuple[F64, F64]] = {}
    by_z, by_q = {"z": (1.0, 0.0), "q": (0.0, 1.0), "d": (-1.0, 1.0)}[kind]
    for k, i in enumerate(layer.inputs):
        h = by_z * s * layer.f[k].pick(entries) if by_z else zero + np.zeros(layer.f[k].n)
        g = by_q * s * layer.q[k].pick(entries) if by_q else zero + np.zeros(layer.q[k].n)
        values[i] = (h, g) if i not in values else (values[i][0] + h, values[i][1] + g)
    for by, bias in ((by_z, layer.bf), (by_q, layer.bq)):
        constant, weight = constant + by * signs * bias[entries], weight + abs(by) * np.abs(bias[entries])
    noise = dual.noise[layer.output]
    if noise is not None and by_z:
        constant, weight = constant + noise[entries], weight + noise[entries]
    return Target(values, constant, weight)


def _cut(box: Box, kind: Kind, entries: NDArray[np.intp], signs: F64, bound: F64) -> NDArray[np.bool_]:
    """Which bounds are better than what was known; they replace it."""
    lo, hi = {"z": (box.z0, box.z1), "q": (box.q0, box.q1), "d": (box.d0, box.d1)}[kind]
    up = signs > 0
    better = np.where(up, bound < hi[0, entries], -bound > lo[0, entries])
    a, b = better & up, better & ~up
    hi[0, entries[a]] = bound[a]
    lo[0, entries[b]] = -bound[b]
    return better


def _settle(box: Box, layer: Affine) -> None:
    """Cut z, zq, D by each other, and the codes by zq."""
    assert layer.grid is not None
    box.tighten((np.zeros(layer.m, np.intp), np.arange(layer.m)))
    u = layer.grid.unit
    low = np.ceil(down(down(box.q0 - layer.below) / u)) * u
    high = -np.ceil(down(down(-box.q1 - layer.above) / u)) * u
    box.s0[:], box.s1[:] = np.clip(low, box.s0, box.s1), np.clip(high, box.s0, box.s1)
