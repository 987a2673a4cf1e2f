"""Search for an input with a large gap: corners, random samples, gradient-guided moves.

Everything is evaluated on the exact executors; the best input found is replayed in the installed
runtime at the end, and only that may refute a property.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.concrete import Inputs, Session, gaps
from qebgate.engines.dra.program import Program, program
from qebgate.engines.enumerate import batch
from qebgate.engines.gradient import gap_gradient
from qebgate.engines.segment import Segment
from qebgate.evidence import Bound, Evidence, Witness
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64
from qebgate.regions.line import Line
from qebgate.task import Budget, Task

KEPT = 8
"""Starting points kept for the guided search, per direction."""
MOVES = (1.0, 0.5, 0.2, 0.05, 0.01)
"""Shares of the inputs that a guided move sets to their better end."""
MOST_BYTES = 1 << 28
"""Largest array of inputs of a segment."""
REPLAYED = 3
"""Candidates replayed while none of them violates the property in the real runtime."""


class Falsify:
    """Applies to every region of more than one input."""

    name = "falsify"

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> list[Evidence]:
        if task.cell.is_point:
            return []
        search = _Search(task, budget, session)
        if task.cell.line is not None:
            # a walk to the end has seen more than this
            if not any(isinstance(e, Bound) and e.engine == Segment.name for e in known):
                search.along(task.cell.line)
            return search.witnesses(self.name)
        search.sample()
        search.climb()
        return search.witnesses(self.name)


@dataclass
class _Search:
    """State of one search.  Points are flattened: codes on the grid, float32 numbers else."""

    task: Task
    budget: Budget
    session: Session
    spent: int = 0
    points: Array = field(init=False)
    found: F64 = field(init=False)

    def __post_init__(self) -> None:
        cell = self.task.cell
        self.rng = np.random.default_rng(self.budget.seed)
        self.shape = cell.lower.shape
        ends = cell.codes if cell.codes is not None else (cell.lower.astype(np.float32), cell.upper.astype(np.float32))
        self.lo, self.hi = (e.ravel() for e in ends)
        self.size = self.lo.size
        self.batch = min(batch(self.task), 1024)
        self.deadline = time.monotonic() + self.budget.seconds / 4  # leaves time to prove
        self.points = np.empty((0, self.size), self.lo.dtype)
        self.found = np.empty((0, len(self.task.outputs)))

    @property
    def exhausted(self) -> bool:
        return self.spent >= self.budget.falsify or time.monotonic() > self.deadline

    def inputs(self, points: Array) -> Inputs:
        shaped = points.reshape(-1, *self.shape)
        make = Inputs.of_reals if self.task.cell.codes is None else Inputs.of_codes
        return make(self.task, shaped)

    def evaluate(self, points: Array) -> F64:
        """Gaps of points; the best ones are remembered."""
        out = np.concatenate(
            [gaps(self.task, self.inputs(points[i : i + self.batch])) for i in range(0, len(points), self.batch)]
        )
        self.spent += len(points)
        self.session.progress(Falsify.name, min(self.spent, self.budget.falsify), self.budget.falsify)
        pool, values = np.concatenate([self.points, points]), np.concatenate([self.found, out])
        best = np.argsort(-np.abs(values).max(axis=1), kind="stable")[: 4 * KEPT]
        self.points, self.found = pool[best], values[best]
        return out

    def sample(self) -> None:
        """The corners of all lower and all upper ends, random corners, random points inside."""
        n = max(2, min(self.budget.falsify // 4, 4 * self.batch) // 2)
        coin = self.rng.random((n, self.size)) < 0.5
        corners = np.where(coin, self.lo, self.hi)
        self.evaluate(np.concatenate([np.stack([self.lo, self.hi]), corners, self._random(n)]))

    def along(self, line: Line) -> None:
        """Inputs of a segment, evenly spread over its codes; there is nowhere else to go from them."""
        points = line.some(self.task.codec, max(1, min(self.budget.falsify, MOST_BYTES // (8 * self.size))))
        for i in range(0, len(points), self.batch):
            if self.exhausted:
                break
            self.evaluate(points[i : i + self.batch])

    def _random(self, n: int) -> Array:
        if self.task.cell.codes is not None:
            lo, hi = self.lo.astype(np.int64), self.hi.astype(np.int64)
            return self.rng.integers(lo, hi, (n, self.size), endpoint=True).astype(self.lo.dtype)
        span = self.hi.astype(np.float64) - self.lo
        x = (self.lo + span * self.rng.random((n, self.size))).astype(np.float32)
        return np.clip(x, self.lo, self.hi)

    def climb(self) -> None:
        """From the best points, move shares of the inputs to the end that the gradient points to."""
        p = program(self.task)
        stale = 0
        while not self.exhausted and stale < 6:
            before = float(np.abs(self.found).max())
            start = self.points[:KEPT]
            worst = np.argmax(np.abs(self.found[:KEPT]), axis=1)
            sign = np.sign(self.found[np.arange(len(start)), worst])
            self.evaluate(self._moves(p, start, worst, np.where(sign == 0, 1.0, sign)))
            stale = 0 if float(np.abs(self.found).max()) > before else stale + 1

    def _moves(self, p: Program, start: Array, output: NDArray[np.intp], sign: F64) -> Array:
        real = self._real(start)
        m = self.task.pair.float.output.size
        weights = np.zeros((len(start), m))
        weights[np.arange(len(start)), np.asarray(self.task.outputs)[output]] = sign
        g = gap_gradient(p, real, weights)
        better = np.where(g > 0, self.hi, np.where(g < 0, self.lo, start))
        gain = np.abs(g) * (self.hi.astype(np.float64) - self.lo)
        moves: list[Array] = []
        for share in MOVES:
            for _ in range(2):
                # large expected gains first, with some luck
                luck = gain * self.rng.random(gain.shape)
                count = max(1, round(share * self.size))
                chosen = np.zeros(gain.shape, bool)
                np.put_along_axis(chosen, np.argpartition(-luck, count - 1, axis=1)[:, :count], True, axis=1)
                moves.append(np.where(chosen, better, start))
        flips = self.rng.random((len(start), self.size)) < min(0.5, 2.0 / self.size)
        moves.append(np.where(flips, self._random(len(start)), start))
        return np.concatenate(moves)

    def _real(self, points: Array) -> F64:
        if self.task.cell.codes is None:
            return points.astype(np.float64)
        return (points.astype(np.float64) - self.task.codec.zero_point) * self.task.codec.scale

    def witnesses(self, engine: str) -> list[Evidence]:
        """The best input, replayed; further ones while they seem to violate the limit and do not."""
        prop = self.task.prop
        best: Witness | None = None
        for row in range(min(REPLAYED, len(self.points))):
            w = self.session.witness(self.task, self.inputs(self.points[row][None]), engine)
            if best is None or prop.of_gap(w.gap) > prop.of_gap(best.gap):
                best = w
            if prop.of_gap(best.gap) > prop.limit or prop.of_gap(self.found[row]) <= prop.limit:
                break
        return [] if best is None else [best]
