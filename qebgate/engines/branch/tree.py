"""Best-first branch and bound: regions are split at neurons until the dual is low enough.

A split says on which side of a corner of the clamp a float pre-activation is, or whether a quantized code is at most
k or at least k + 1.  The leaves always cover the region, so the largest of their bounds is a bound; it only
ever falls.  Which neuron is split, and how, is decided where the relaxation errs most at the averaged point.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from qebgate.domains.layers import Affine
from qebgate.engines.branch.dual import Dual, Multipliers, Region, Target
from qebgate.engines.branch.neuron import Box, Shape
from qebgate.engines.branch.search import NODE_STEPS, Found, Steps, minimise
from qebgate.numerics.rounding import F64, down, up

BATCH = 64
"""Nodes split at once."""
CACHE = 1 << 20
"""Entries of one array of a batch at most."""
MANY_CODES, RARELY = 4, 0.1
"""Splits of neurons with more open codes than this count for less: each of them settles little."""


@dataclass(frozen=True, slots=True)
class Split:
    """The float pre-activation (kind z), or the centred code, is at most, or at least, ``at``."""

    layer: int
    neuron: int
    kind: Literal["z", "code"]
    at: float
    upper: bool
    """Whether this is the part above."""


@dataclass(slots=True, eq=False)
class Node:
    """A part of the region: its splits, its bound (rounded upwards), where its search ended."""

    splits: tuple[Split, ...]
    bound: float
    multipliers: dict[int, tuple[F64, F64]]
    """One row [m] of each layer."""
    choice: tuple[Split, Split] | None
    """The two parts it would be split into; None where no split would help."""


@dataclass
class Tree:
    """Branch and bound of one target."""

    dual: Dual
    target: Target
    start: Multipliers
    first: Steps
    later: Steps = NODE_STEPS
    nodes: int = 0
    """Nodes bounded so far."""
    open: list[tuple[float, int, Node]] = field(default_factory=list)
    stuck: list[Node] = field(default_factory=list)
    """Leaves that no split can improve."""
    closed: float = -np.inf
    """The largest bound of leaves that were low enough."""
    number: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def bound(self) -> float:
        """Upper bound of the target over the whole region."""
        parts = [self.closed, *(n.bound for n in self.stuck)]
        return max([*parts, -self.open[0][0]] if self.open else parts)

    def run(self, enough: float, most: int, pulse: Callable[[], None] = lambda: None) -> float:
        """Split until the bound is at most ``enough``, ``most`` nodes were bounded, or nothing can be split."""
        if not self.nodes:
            found = minimise(self.dual, self.target, self.start, self.dual.region, self.first, enough, pulse)
            self._keep([()], self.dual.region, found, [np.inf], enough)
        widest = max(layer.m for layer in self.dual.layers)
        size = max(1, min(BATCH, CACHE // widest))
        while self.open and self.bound > enough and self.nodes < most:
            parts: list[tuple[tuple[Split, ...], Node]] = []
            while self.open and len(parts) < 2 * size:
                node = heapq.heappop(self.open)[2]
                assert node.choice is not None
                parts += [((*node.splits, half), node) for half in node.choice]
            self._bound(parts, enough, pulse)
        return self.bound

    def _bound(self, parts: list[tuple[tuple[Split, ...], Node]], enough: float, pulse: Callable[[], None]) -> None:
        region = self._region([splits for splits, _ in parts])
        empty = np.any([box.empty() for box in region.boxes.values()], axis=0)
        self.nodes += int(empty.sum())
        keep = np.flatnonzero(~empty)
        if not keep.size:
            return
        parts = [parts[k] for k in keep]
        boxes = {k: Box(*(v[keep] for v in box.arrays)) for k, box in region.boxes.items()}
        region = Region(boxes, region.lo, region.hi)
        start = {
            k: tuple(np.stack([node.multipliers[k][side] for _, node in parts]) for side in (0, 1)) for k in self.start
        }
        target = self.target.rows(len(parts))
        try:
            found = minimise(self.dual, target, start, region, self.later, enough, pulse)  # type: ignore[arg-type]
        except BaseException:
            # what was being split is still a leaf: the bound holds at any interruption
            for node in dict.fromkeys(node for _, node in parts):
                heapq.heappush(self.open, (-node.bound, next(self.number), node))
            raise
        self._keep([splits for splits, _ in parts], region, found, [node.bound for _, node in parts], enough)

    def _keep(
        self,
        splits: Sequence[tuple[Split, ...]],
        region: Region,
        found: Found,
        parents: Sequence[float],
        enough: float,
    ) -> None:
        """File the nodes of one batch; each has the better of its own and its parent's bound."""
        target = self.target.rows(len(splits))
        bounds = np.minimum(self.dual.bound(target, found.multipliers, region), parents)
        choices = self._choices(target, region, found)
        self.nodes += len(splits)
        for k, bound in enumerate(bounds.tolist()):
            if bound <= enough:
                self.closed = max(self.closed, bound)
                continue
            row = {i: (lam[k].copy(), mu[k].copy()) for i, (lam, mu) in found.multipliers.items()}
            node = Node(splits[k], bound, row, choices[k])
            if node.choice is None:
                self.stuck.append(node)
            else:
                heapq.heappush(self.open, (-bound, next(self.number), node))

    def _region(self, splits: Sequence[tuple[Split, ...]]) -> Region:
        """The boxes of some nodes."""
        region = self.dual.region
        boxes = {k: box.rows(len(splits)) for k, box in region.boxes.items()}
        touched: dict[int, list[tuple[int, int]]] = {}
        for row, several in enumerate(splits):
            for s in several:
                _apply(boxes[s.layer], row, s, self.dual.shapes[s.layer])
                touched.setdefault(s.layer, []).append((row, s.neuron))
        for k, entries in touched.items():
            rows, neurons = np.array(sorted(set(entries))).T
            boxes[k].tighten((rows, neurons))
        return Region(boxes, region.lo, region.hi)

    def _choices(self, target: Target, region: Region, found: Found) -> list[tuple[Split, Split] | None]:
        """The most promising split of every node."""
        count = target.constant.size
        best = np.zeros(count)
        chosen: list[tuple[Split, Split] | None] = [None] * count
        pulled = self.dual.pulled(target, found.multipliers)
        for layer in self.dual.layers:
            if layer.output not in found.average:
                continue
            nu, eta = pulled[layer.output]
            box = region.boxes[layer.output]
            for score, at, kind in _scores(layer, found.average[layer.output], (nu, eta), box):
                j = np.argmax(score, axis=1)
                top = score[np.arange(count), j]
                for row in np.flatnonzero(top > best):
                    best[row] = top[row]
                    low, high = (float(at[row, j[row]]) + x for x in ((0.0, 1.0) if kind == "code" else (0.0, 0.0)))
                    where = layer.output, int(j[row]), kind
                    chosen[row] = Split(*where, low, upper=False), Split(*where, high, upper=True)
        return chosen


def _scores(
    layer: Affine, average: tuple[F64, F64, F64, F64], pulled: tuple[F64, F64], box: Box
) -> list[tuple[F64, F64, Literal["z", "code"]]]:
    """Scores [B, m] of splits of each kind, and where they would be; 0 where there is nothing to split."""
    z, h, q, s = average
    nu, eta = pulled
    a, b = layer.float_range
    out: list[tuple[F64, F64, Literal["z", "code"]]] = []
    error = nu * (h - np.clip(z, a, b))
    for corner in (a, b):
        if np.isfinite(corner):
            crosses = (box.z0 < corner) & (box.z1 > corner)
            out.append((np.where(crosses, np.maximum(error, 1e-9 * np.abs(nu)), 0.0), np.full_like(z, corner), "z"))
    if layer.grid is None:
        return out
    u = layer.grid.unit
    k0, k1 = np.rint(box.s0 / u), np.rint(box.s1 / u)
    several = k1 > k0
    at = np.clip(np.floor(q / u), k0, k1 - 1)
    rounding = np.maximum(eta * (s - u * np.clip(np.rint(q / u), k0, k1)), 1e-6 * np.abs(eta) * u)
    rounding = np.where(k1 - k0 > MANY_CODES, RARELY * rounding, rounding)
    out.append((np.where(several, rounding, 0.0), at, "code"))
    # the ends of the staircase: where it is flat, and where its envelope is steep
    flat = np.maximum(eta * (s - np.clip(q, box.s0, box.s1)), 0.0) + 1e-5 * np.abs(eta) * u
    low, high = several & (box.q0 < box.s0), several & (box.q1 > box.s1)
    near_low = low & (~high | (q < 0.5 * (box.s0 + box.s1)))
    out.append((np.where(low | high, flat, 0.0), np.where(near_low, k0, k1 - 1), "code"))
    return out


def _apply(box: Box, row: int, s: Split, shape: Shape) -> None:
    """Restrict a node's box to one side of a split."""
    at = row, s.neuron
    if s.kind == "z":
        if s.upper:
            box.z0[at] = max(box.z0[at], s.at)
        else:
            box.z1[at] = min(box.z1[at], s.at)
        return
    value = s.at * shape.unit  # exact: codes have 16 bits and scales 24
    if s.upper:  # rounding adds at most `above`
        box.s0[at] = max(box.s0[at], value)
        box.q0[at] = max(box.q0[at], float(down(value - shape.above[s.neuron])))
    else:
        box.s1[at] = min(box.s1[at], value)
        box.q1[at] = min(box.q1[at], float(up(value + shape.below[s.neuron])))
