"""Segments: the quantized network executed once per code vector, the float network walked or executed.

On the grid a segment is a finite list of inputs, all of them executed.  A real-valued one is divided where
its codes change; in between the quantized output is constant, and the float one is enclosed piece by piece
(:mod:`qebgate.engines.segment_walk`).  Both give the extremes of the gap, exact up to roundoff.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Interval
from qebgate.engines.concrete import Inputs, Session, quantized_outputs
from qebgate.engines.dra.analysis import Settings
from qebgate.engines.dra.program import program
from qebgate.engines.enumerate import about, batch
from qebgate.engines.guard import Guard, GuardedStop
from qebgate.engines.reference import reference_error
from qebgate.engines.segment_walk import Leaf, Walk
from qebgate.evidence import Bound, Evidence, Stopped, Witness
from qebgate.numerics.rounding import F64, down, passes, up
from qebgate.regions.line import Line, Part
from qebgate.task import Budget, Task

PART_BYTES = 1 << 26
MOST_PIECES = 64
"""Breakpoints per unit of ``budget.enumerate`` executed inputs."""
CANDIDATES = 8
"""Places with large gaps that are kept for a witness."""
STRETCHES = 16
"""Into how many parts a segment is divided for the reference's evaluation error."""
INWARDS = (0.0, 2.0**-20, 2.0**-17, 2.0**-15, 2.0**-14, 2.0**-13, 2.0**-12, 2.0**-10, 2.0**-6, np.inf)
"""How far from a switch, in quanta, a witness may have to be for float32 to agree about its codes."""


class Segment:
    """Applies to segments of at most ``budget.enumerate`` code vectors."""

    name = "segment"
    pieces = 0
    """How many linear pieces of the float network the last run has walked."""

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> list[Evidence]:
        del known
        line = task.cell.line
        if line is None:
            return []
        if line.count > budget.enumerate:
            detail = f"{about(line.count)} code vectors are more than {budget.enumerate}"
            return [Stopped(self.name, "effort", detail)]
        start = time.monotonic()
        work = _Work(task, line, budget, session)
        try:
            complete = work.everything()
        except GuardedStop as stop:
            return [*work.witnesses(), Stopped(self.name, stop.reason, stop.detail)]
        finally:
            self.pieces = work.pieces
        witnesses = work.witnesses()
        if not complete:
            return [*witnesses, Stopped(self.name, "effort", f"more than {work.limit} linear pieces")]
        refuted = any(task.prop.of_gap(w.gap) > task.prop.limit for w in witnesses)
        try:
            gap, stopped = work.bounds(refuted)
        except GuardedStop as stop:
            return [*witnesses, Stopped(self.name, stop.reason, stop.detail)]
        return [Bound(gap.lo, gap.hi, "exhaustive", self.name, time.monotonic() - start), *witnesses, *stopped]


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A point of the line with a large gap: ``codes`` [n] become ``quantized`` [K] from ``begin`` to ``end``."""

    size: float
    t: float
    codes: NDArray[np.int32]
    quantized: F64
    begin: float
    end: float


@dataclass(frozen=True, slots=True, eq=False)
class _Stretch:
    """Bounds [K] of the gap over some of the code vectors, and what the float network's neurons did there."""

    gap: Interval
    ranges: dict[int, Interval]


@dataclass
class _Work:
    """What is known so far: bounds [K] of the gap over the code vectors of this stretch, and where it is large."""

    task: Task
    line: Line
    budget: Budget
    session: Session
    done: int = 0
    pieces: int = 0
    best: list[_Place] = field(default_factory=list[_Place])
    stretches: list[_Stretch] = field(default_factory=list[_Stretch])
    lower: F64 = field(init=False)
    upper: F64 = field(init=False)

    def __post_init__(self) -> None:
        task = self.task
        self.guard = Guard(self.budget)
        self.shape = task.cell.lower.shape
        self.limit = MOST_PIECES * self.budget.enumerate
        p = program(replace(task, float_semantics="real"))
        self.walk = Walk(p.layers, p.output, np.asarray(task.outputs, np.intp), self.guard)
        self._begin()

    def _begin(self) -> None:
        k = len(self.task.outputs)
        self.lower, self.upper = np.full(k, np.inf), np.full(k, -np.inf)
        self.walk.ranges = {}

    def everything(self) -> bool:
        """Go through all code vectors; False where there are too many pieces."""
        n = self.task.cell.lower.size
        size = batch(self.task) if self.line.grid else max(1, min(1024, PART_BYTES // (8 * n)))
        if self.task.float_semantics == "float32":
            size = min(size, -(-self.line.count // STRETCHES))
        for track in self.line.tracks:
            for part in track.parts(size):
                q = quantized_outputs(self.task, self._on_grid(part.codes))
                if self.line.grid:
                    self._points(part, q)
                elif not self._pieces(part, q):
                    return False
                self.stretches.append(_Stretch(Interval(self.lower, self.upper), self._ranges()))
                self._begin()
                self.done += len(q)
                self.session.progress(Segment.name, self.done, self.line.count)
                self.guard()
        assert self.done == self.line.count
        return True

    def _on_grid(self, codes: NDArray[np.int32]) -> Inputs:
        """The inputs that have these codes whatever rounds them."""
        return Inputs.of_codes(self.task, codes.reshape(-1, *self.shape))

    def _points(self, part: Part, q: F64) -> None:
        x = self.task.codec.grid(part.codes).astype(np.float64)
        leaf = self.walk.at(x)
        self.lower = np.minimum(self.lower, down(q - leaf.upper).min(axis=0))
        self.upper = np.maximum(self.upper, up(q - leaf.lower).max(axis=0))
        size = _sizes(q, leaf, slice(None))
        p = int(np.argmax(size))
        self._keep(float(size[p]), part, q, p, float(part.begin[p]))

    def _pieces(self, part: Part, q: F64) -> bool:
        for leaf in self.walk.along(self.line, np.unique(np.concatenate([part.begin, part.end]))):
            self.pieces += len(leaf.t) - 1
            if self.pieces > self.limit:
                return False
            first = np.searchsorted(leaf.t, part.begin, "left")
            last = np.searchsorted(leaf.t, part.end, "right")
            for p in np.flatnonzero(last > first).tolist():
                # the gap while the codes are those of vector p
                lower, upper = leaf.between(int(first[p]), int(last[p]) - 1)
                self.lower = np.minimum(self.lower, down(q[p] - upper))
                self.upper = np.maximum(self.upper, up(q[p] - lower))
                size = _sizes(q[p], leaf, slice(first[p], last[p]))
                i = int(np.argmax(size))
                self._keep(float(size[i]), part, q, p, float(leaf.t[first[p] + i]))
        return True

    def _keep(self, size: float, part: Part, q: F64, p: int, t: float) -> None:
        if np.isfinite(size) and (len(self.best) < CANDIDATES or size > self.best[-1].size):
            place = _Place(size, t, part.codes[p].copy(), q[p].copy(), float(part.begin[p]), float(part.end[p]))
            self.best = sorted([*self.best, place], key=lambda b: -b.size)[:CANDIDATES]

    def _ranges(self) -> dict[int, Interval]:
        return self.walk.ranges if self.task.float_semantics == "float32" else {}

    def bounds(self, refuted: bool) -> tuple[Interval, list[Stopped]]:
        """Bounds [K] of the gap everywhere, against the reference as it is evaluated.

        The evaluation error is bounded once for the whole line, and where that leaves the question open,
        stretch by stretch: neurons that are on one side of their clamp are known better.
        """
        gap = _hull([s.gap for s in self.stretches])
        if self.task.float_semantics == "real":
            return gap, []
        everywhere = {k: _hull([s.ranges[k] for s in self.stretches]) for k in self.stretches[0].ranges}
        first = self._evaluated(gap, everywhere)
        answered = refuted or passes(self.task.prop.of_box(first.lo, first.hi), self.task.prop.limit)
        if answered or len(self.stretches) == 1:
            return first, []
        try:
            return first.meet(_hull([self._evaluated(s.gap, s.ranges) for s in self.stretches])), []
        except GuardedStop as stop:
            return first, [Stopped(Segment.name, stop.reason, stop.detail)]

    def _evaluated(self, gap: Interval, ranges: dict[int, Interval]) -> Interval:
        error = reference_error(self.task, Settings(work=self.budget.dra), self.guard, ranges=ranges)
        return gap.widened(error, error)

    def witnesses(self) -> list[Witness]:
        """The largest gap found so far, replayed."""
        walk = replace(self.walk, pulse=lambda: None, ranges={})
        for place in self.best:
            found = self._at(place)
            if found is not None:
                inputs, points = found
                leaf = walk.at(points)
                exact = Interval(leaf.lower.min(axis=0), leaf.upper.max(axis=0))
                return [self.session.witness(self.task, inputs, Segment.name, exact)]
        return []

    def _at(self, place: _Place) -> tuple[Inputs, F64] | None:
        """The input nearest to a place whose codes are settled, and what the gap is measured at.

        An input is float32, and the points of a line are not: on a real-valued segment what is said of
        the gap holds both at the input and at the point of the line that it stands for.
        """
        if self.line.grid:
            inputs = self._on_grid(place.codes[None])
            return inputs, self.task.codec.grid(place.codes[None]).astype(np.float64)
        middle = 0.5 * (place.begin + place.end)
        unit = self.line.quantum(self.task.codec.scale)
        for inwards in INWARDS:
            far = min(inwards * unit, abs(middle - place.t))
            point = self.line.at(np.array([place.t + np.sign(middle - place.t) * far]))
            inputs = Inputs.of_reals(self.task, point)
            if inputs.codes is None:
                agrees = np.array_equal(quantized_outputs(self.task, inputs)[0], place.quantized)
            else:
                agrees = np.array_equal(inputs.codes.ravel(), place.codes)
            if agrees:
                return inputs, np.concatenate([point, inputs.x.astype(np.float64)]).reshape(2, -1)
        return None


def _hull(parts: Sequence[Interval]) -> Interval:
    """The smallest interval [n] around all."""
    return Interval(np.minimum.reduce([p.lo for p in parts]), np.maximum.reduce([p.hi for p in parts]))


def _sizes(q: F64, leaf: Leaf, rows: slice) -> F64:
    """About how large the gap is at breakpoints, ``[B]``; nothing rests on it."""
    with np.errstate(invalid="ignore"):
        return np.abs(q - 0.5 * (leaf.lower[rows] + leaf.upper[rows])).max(axis=1)
