"""Best-first branch and bound: regions are split at neurons until the dual is low enough.

A split says on which side of a corner of the clamp a float pre-activation is, or whether a quantized code is at most
k or at least k + 1.  The leaves always cover the region, so the largest of their bounds is a bound; it only
ever falls.  Which neuron is split, and how, is decided where the relaxation errs most at the averaged point, times
the share of such errors that earlier splits there have gained.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.layers import Affine
from qebgate.engines.branch.dual import Dual, Evaluation, Multipliers, Region, Target
from qebgate.engines.branch.neuron import Box, Shape
from qebgate.engines.branch.search import NODE_STEPS, Found, Steps, minimise
from qebgate.numerics.rounding import F64, down, up

BATCH = 64
"""Nodes split at once."""
CACHE = 1 << 17
"""Neurons of one layer in all nodes of a batch at most."""
MANY_CODES, RARELY = 4, 0.1
"""Splits of neurons with more open codes than this count for less: each of them settles little."""


EXPECTED = 0.3
"""Share of the error that a split is expected to gain, before any was tried."""
TRUST = 2.0
"""Splits of one neuron that weigh as much as the mean of all neurons."""
SCOUTED = 4096
"""Nodes after which a tree is grown anew, once, by what its splits have gained: the first splits matter most."""
ALIKE = 1
"""Layers that have been split at most, for that: in deeper networks it was seen to gain nothing."""


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
    multipliers: dict[int, NDArray[np.float32]]
    """[2, m] of each layer."""
    choice: tuple[Split, Split] | None
    """The two parts it would be split into; None where no split would help."""
    error: float = 0.0
    """What the relaxation errs by there."""


@dataclass(slots=True, eq=False)
class Experience:
    """What splits of one kind at one layer's neurons gained, as shares of the error seen before: sums, counts [m]."""

    total: F64
    count: F64

    @classmethod
    def none(cls, m: int) -> Experience:
        return cls(np.zeros(m), np.zeros(m))

    def shares(self) -> F64:
        """Expected shares [m]; those of few splits are drawn to the mean of all."""
        mean = (self.total.sum() + EXPECTED) / (self.count.sum() + 1.0)
        return (self.total + TRUST * mean) / (self.count + TRUST)


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
    probe: Callable[[F64], bool] = lambda _: False
    """Given inputs that nodes ended with; whether the search may end."""
    experience: dict[tuple[int, str], Experience] = field(default_factory=dict[tuple[int, str], Experience])
    """By layer and kind of split."""
    over: bool = False
    """Whether the probe ended it."""
    scouted: float | None = None
    """The bound of the tree that was given up for this one."""

    @property
    def bound(self) -> float:
        """Upper bound of the target over the whole region."""
        parts = [self.closed, *(n.bound for n in self.stuck)]
        own = max([*parts, -self.open[0][0]] if self.open else parts)
        if self.scouted is None:
            return own
        return self.scouted if own == -np.inf else min(own, self.scouted)  # also where it was interrupted in between

    def run(self, enough: float, most: int, pulse: Callable[[], None] = lambda: None) -> float:
        """Split until the bound is at most ``enough``, ``most`` nodes were bounded, or nothing can be split."""
        if not self.nodes:
            self._plant(enough, pulse)
        widest = max(layer.m for layer in self.dual.layers)
        size = max(1, min(BATCH, CACHE // (2 * widest)))
        while self.open and self.bound > enough and self.nodes < most and not self.over:
            if self.nodes >= SCOUTED and self.scouted is None and len({v for v, _ in self.experience}) <= ALIKE:
                self._plant(enough, pulse)
            parts: list[tuple[tuple[Split, ...], Node]] = []
            while self.open and len(parts) < 2 * size:
                node = heapq.heappop(self.open)[2]
                assert node.choice is not None
                parts += [((*node.splits, half), node) for half in node.choice]
            bounds = self._bound(parts, enough, pulse)
            self._learn(parts, bounds)
        return self.bound

    def _plant(self, enough: float, pulse: Callable[[], None]) -> None:
        """The root, in place of whatever has grown."""
        found = minimise(self.dual, self.target, self.start, self.dual.region, self.first, enough, pulse)
        if self.nodes:
            self._again()
        self._keep([()], self.dual.region, found, [np.inf], enough)

    def _again(self) -> None:
        """Give the tree up, and keep what it has shown."""
        self.scouted = self.bound
        self.open, self.stuck, self.closed = [], [], -np.inf

    def _learn(self, parts: Sequence[tuple[tuple[Split, ...], Node]], bounds: F64) -> None:
        """What the splits of a batch have gained."""
        for k in range(0, len(parts), 2):
            node = parts[k][1]
            split = parts[k][0][-1]
            gain = np.maximum(node.bound - bounds[k : k + 2], 0.0)
            e = self.experience.setdefault((split.layer, split.kind), Experience.none(self.dual.sizes[split.layer]))
            e.total[split.neuron] += float(gain.min()) / max(node.error, 1e-12)
            e.count[split.neuron] += 1.0

    def _bound(self, parts: list[tuple[tuple[Split, ...], Node]], enough: float, pulse: Callable[[], None]) -> F64:
        region = self._region([splits for splits, _ in parts])
        empty = np.any([box.empty() for box in region.boxes.values()], axis=0)
        self.nodes += int(empty.sum())
        keep = np.flatnonzero(~empty)
        bounds = np.array([node.bound - node.error for _, node in parts])  # what an empty part is taken to gain
        if not keep.size:
            return bounds
        parts = [parts[k] for k in keep]
        boxes = {k: Box(*(v[keep] for v in box.arrays)) for k, box in region.boxes.items()}
        region = Region(boxes, region.lo, region.hi)
        start = {k: _both(np.stack([node.multipliers[k] for _, node in parts], axis=1)) for k in self.start}
        target = self.target.rows(len(parts))
        try:
            found = minimise(self.dual, target, start, region, self.later, enough, pulse)
        except BaseException:
            # what was being split is still a leaf: the bound holds at any interruption
            for node in dict.fromkeys(node for _, node in parts):
                heapq.heappush(self.open, (-node.bound, next(self.number), node))
            raise
        bounds[keep] = self._keep(
            [splits for splits, _ in parts], region, found, [node.bound for _, node in parts], enough
        )
        return bounds

    def _keep(
        self,
        splits: Sequence[tuple[Split, ...]],
        region: Region,
        found: Found,
        parents: Sequence[float],
        enough: float,
    ) -> F64:
        """File the nodes of one batch; each has the better of its own and its parent's bound."""
        target = self.target.rows(len(splits))
        e = self.dual.evaluate(target, found.multipliers, region)
        bounds = np.minimum(up(e.value + e.slack), parents)
        choices, errors = self._choices(e, region, found)
        self.nodes += len(splits)
        self.over = self.over or (bool((bounds > enough).any()) and self.probe(found.input[bounds > enough]))
        for k, bound in enumerate(bounds.tolist()):
            if bound <= enough:
                self.closed = max(self.closed, bound)
                continue
            row = {i: np.stack([lam[k], mu[k]]).astype(np.float32) for i, (lam, mu) in found.multipliers.items()}
            node = Node(splits[k], bound, row, choices[k], float(errors[k]))
            if node.choice is None:
                self.stuck.append(node)
            else:
                heapq.heappush(self.open, (-bound, next(self.number), node))
        return bounds

    def _region(self, splits: Sequence[tuple[Split, ...]]) -> Region:
        """The boxes of some nodes."""
        boxes = {k: box.rows(len(splits)) for k, box in self.dual.region.boxes.items()}
        for k, box in boxes.items():
            of = [
                (row, s.neuron, s.kind == "code", s.at, s.upper)
                for row, all_ in enumerate(splits)
                for s in all_
                if s.layer == k
            ]
            if of:
                rows, neurons, code, at, upper = np.array(of).T
                _apply(
                    box, (rows.astype(np.intp), neurons.astype(np.intp)), (code > 0, upper > 0, at), self.dual.shapes[k]
                )
        return Region(boxes, self.dual.region.lo, self.dual.region.hi)

    def _choices(self, e: Evaluation, region: Region, found: Found) -> tuple[list[tuple[Split, Split] | None], F64]:
        """The most promising split of every node, and the relaxation's error there."""
        count = e.value.size
        best, errors = np.zeros(count), np.zeros(count)
        chosen: list[tuple[Split, Split] | None] = [None] * count
        for layer in self.dual.layers:
            if layer.output not in found.average:
                continue
            kept = self.dual.kernel.kept[layer.output]
            nu, eta = (v[:, kept] for v in e.pulled[layer.output])
            box = Box(*(v[:, kept] for v in region.boxes[layer.output].arrays))
            for score, at, kind in _scores(layer, found.average[layer.output], (nu, eta), box):
                if not kept.size:
                    continue
                known = self.experience.get((layer.output, kind))
                expected = score * (EXPECTED if known is None else known.shares()[kept])
                j = np.argmax(expected, axis=1)
                top = expected[np.arange(count), j]
                for row in np.flatnonzero(top > best):
                    best[row], errors[row] = top[row], score[row, j[row]]
                    low, high = (float(at[row, j[row]]) + x for x in ((0.0, 1.0) if kind == "code" else (0.0, 0.0)))
                    where = layer.output, int(kept[j[row]]), kind
                    chosen[row] = Split(*where, low, upper=False), Split(*where, high, upper=True)
        return chosen, errors


def _scores(
    layer: Affine, average: F64, pulled: tuple[F64, F64], box: Box
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


def _apply(
    box: Box,
    at: tuple[NDArray[np.intp], NDArray[np.intp]],
    splits: tuple[NDArray[np.bool_], NDArray[np.bool_], F64],
    shape: Shape,
) -> None:
    """Restrict boxes, at (nodes, neurons), to the sides (whether of the code, whether above, where) of splits."""
    code, upper, value = splits
    one = lambda kind: tuple(v[kind] for v in at)  # noqa: E731
    for kind, end, meet in ((~code & upper, box.z0, np.maximum), (~code & ~upper, box.z1, np.minimum)):
        meet.at(end, one(kind), value[kind])
    real = value * shape.unit  # exact: codes have 16 bits and scales 24
    kind = code & upper  # rounding adds at most `above`
    np.maximum.at(box.s0, one(kind), real[kind])
    np.maximum.at(box.q0, one(kind), down(real[kind] - shape.above[at[1][kind]]))
    kind = code & ~upper
    np.minimum.at(box.s1, one(kind), real[kind])
    np.minimum.at(box.q1, one(kind), up(real[kind] + shape.below[at[1][kind]]))
    box.tighten(at)


def _both(v: NDArray[np.float32]) -> tuple[F64, F64]:
    return v[0].astype(np.float64), v[1].astype(np.float64)
