"""What a search for a large gap keeps: the region's points, what was found so far, and the effort spent.

Points are flattened: codes on the grid, float32 numbers else; none ever leaves the region.  A *target* is
an output and a sign.  Effort is counted in units of :mod:`qebgate.engines.work`, never in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.concrete import Inputs, Session, gaps
from qebgate.engines.enumerate import batch
from qebgate.engines.guard import Guard
from qebgate.engines.work import execution
from qebgate.evidence import Bound, Evidence, Witness
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64
from qebgate.task import Budget, Task, witnessed

MOST_TARGETS = 32
"""Targets that are followed; of more, those with the largest gaps seen first."""
CALL = 100_000.0
"""Units of executing a batch, besides those of its inputs."""
CHEAPEST, COSTLIEST = 5_000.0, 50_000.0
"""Units that one input of the budget stands for: a search of a large network executes fewer, of a tiny one more."""
REPLAYED = 4
"""Candidates replayed in the real runtime while none of them violates the property there."""
BEYOND = 1.0 + 2.0**-20
"""How much larger than a candidate that did not violate the next one must be."""
SHARE_OF_TIME = 0.25
"""Part of the task's wall-clock guard that a search may use."""
_PART_BYTES = 1 << 26

Index = NDArray[np.intp]


class Box:
    """The points of a task's region."""

    def __init__(self, task: Task) -> None:
        cell, codec = task.cell, task.codec
        self._task = task
        self.grid = cell.codes is not None
        ends = cell.codes if cell.codes is not None else (cell.lower.astype(np.float32), cell.upper.astype(np.float32))
        self.lo, self.hi = (e.ravel() for e in ends)
        self.size = self.lo.size
        self.free = np.flatnonzero(self.hi > self.lo)
        self._codec = codec

    def inputs(self, points: Array) -> Inputs:
        shaped = points.reshape(-1, *self._task.cell.lower.shape)
        return Inputs.of_codes(self._task, shaped) if self.grid else Inputs.of_reals(self._task, shaped)

    def real(self, points: Array) -> F64:
        """What the float network reads."""
        return self._task.codec.grid(points).astype(np.float64) if self.grid else points.astype(np.float64)

    def random(self, n: int, rng: np.random.Generator) -> Array:
        return self.at(np.broadcast_to(np.arange(self.size), (n, self.size)), rng)

    def at(self, index: Index, rng: np.random.Generator) -> Array:
        """Random values of some entries; an array like ``index``."""
        lo, hi = self.lo[index], self.hi[index]
        if self.grid:
            return rng.integers(lo.astype(np.int64), hi.astype(np.int64), endpoint=True).astype(self.lo.dtype)
        x = lo + (hi.astype(np.float64) - lo) * rng.random(index.shape)
        # half of them beside a place where the code changes: the largest gaps are there
        quantum = self._codec.unit(index)
        switch = (np.floor(x / quantum) + 0.5) * quantum
        side = np.where(rng.random(index.shape) < 0.5, -np.inf, np.inf).astype(np.float32)
        x = np.where(rng.random(index.shape) < 0.5, np.nextafter(switch.astype(np.float32), side), x)
        return x.astype(np.float32).clip(lo, hi)

    def proposals(self, index: Index, rng: np.random.Generator) -> Array:
        """Values worth trying: mostly the ends of the range."""
        u = rng.random(index.shape)
        return np.where(u < 0.4, self.lo[index], np.where(u < 0.8, self.hi[index], self.at(index, rng)))


@dataclass
class Search:
    """State of one search; ``share`` of the budget is its own."""

    task: Task
    budget: Budget
    session: Session
    engine: str
    share: float
    spent: float = 0.0
    executed: int = 0
    violated: bool = False
    witness: Witness | None = None
    replays: int = 0
    output: Index = field(init=False)
    sign: F64 = field(init=False)
    value: F64 = field(init=False)
    point: Array = field(init=False)
    top: float = -np.inf
    top_point: Array | None = None
    failed: float = 0.0

    def __post_init__(self) -> None:
        self.box = Box(self.task)
        self.rng = np.random.default_rng(self.budget.seed)
        self.rows = min(batch(self.task), 1024)
        pair = self.task.pair
        self.cost = execution(pair.float) + execution(pair.quantized)
        self.allowance = self.share * self.budget.falsify * min(max(self.cost, CHEAPEST), COSTLIEST)
        self.limit = self.task.prop.limit * self.task.prop.unit
        self.guard = Guard(replace(self.budget, seconds=self.budget.seconds * SHARE_OF_TIME))
        k = len(self.task.outputs)
        self.output, self.sign = np.tile(np.arange(k), 2), np.repeat([1.0, -1.0], k)
        self.value, self.point = np.full(2 * k, -np.inf), np.zeros((0, self.box.size), self.box.lo.dtype)

    @property
    def left(self) -> float:
        """Units left; nothing once a witness violates the property."""
        return 0.0 if self.violated else self.allowance - self.spent

    def spend(self, units: float) -> None:
        self.spent += units
        total = max(1, int(self.allowance))
        self.session.progress(self.engine, min(int(self.spent), total), total)
        self.guard()

    def affordable(self, share: float, most: int) -> int:
        """How many inputs a share of all units pays for, at least 2 of them and at most ``most``."""
        return int(np.clip(share * self.allowance / self.cost, 2, most))

    def evaluate(self, points: Array) -> F64:
        """Gaps ``[N, K]`` of points, executed in full; the best are remembered and, beyond the limit, replayed."""
        parts: list[F64] = []
        for i in range(0, len(points), self.rows):
            chunk = points[i : i + self.rows]
            out = gaps(self.task, self.box.inputs(chunk))
            parts.append(out)
            self.executed += len(chunk)
            self.remember(chunk, out)
            self.spend(CALL + self.cost * len(chunk))
            self.confirm()
            if self.violated:
                break
        return np.concatenate(parts)

    def remember(self, points: Array, found: F64) -> None:
        """Keep the best point of every target that is followed."""
        size = np.abs(found).max(axis=1, initial=0.0)
        row = int(np.argmax(size))
        if size[row] > self.top:
            self.top, self.top_point = float(size[row]), points[row].copy()
        values = self.sign * found[:, self.output]
        best = values.argmax(axis=0)
        value = values[best, np.arange(len(best))]
        if not len(self.point):
            # followed from now on: not every output of a large one
            order = np.argsort(-value, kind="stable")[:MOST_TARGETS]
            self.output, self.sign, self.value = self.output[order], self.sign[order], value[order]
            self.point = points[best[order]].copy()
            return
        better = np.flatnonzero(value > self.value)
        self.value[better] = value[better]
        self.point[better] = points[best[better]]

    def follow(self, chosen: Index) -> None:
        """Follow only some of the targets from now on, in this order."""
        self.output, self.sign = self.output[chosen], self.sign[chosen]
        self.value, self.point = self.value[chosen], self.point[chosen]

    def open(self, known: Sequence[Evidence]) -> Index:
        """Targets that no proven bound holds within the limit, the largest gap first."""
        bounds = [e for e in known if isinstance(e, Bound) and e.trust != "solver"]
        reach = np.full(len(self.output), np.inf)
        for b in bounds:
            reach = np.minimum(reach, np.where(self.sign > 0, b.upper[self.output], -b.lower[self.output]))
        order = np.argsort(-self.value, kind="stable")
        return order[reach[order] > self.limit]

    def confirm(self) -> None:
        """Replay the best point once it seems to violate the property."""
        if self.violated or self.top_point is None or self.replays >= REPLAYED:
            return
        if self.top > max(self.limit, self.failed * BEYOND):
            self._replay(self.top_point)
            self.failed = self.top

    def _replay(self, point: Array) -> None:
        prop = self.task.prop
        found = self.session.witness(self.task, self.box.inputs(point[None]), self.engine)
        self.replays += 1
        figure = witnessed(prop, found)
        if self.witness is None or figure > witnessed(prop, self.witness):
            self.witness = found
        self.violated = figure > prop.limit

    def witnesses(self) -> list[Evidence]:
        """The best input that was found, replayed; none where nothing was executed."""
        if not self.violated and self.top_point is not None and (self.witness is None or self.top > self.failed):
            self._replay(self.top_point)
        return [] if self.witness is None else [self.witness]
