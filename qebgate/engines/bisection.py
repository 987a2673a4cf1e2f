"""Bisection of a region over its free inputs: cells bounded, small ones executed; best first, at any time sound.

A cell that cannot be worse than the limit, or than an input already found, is not split any more.  What is proven is
the union of all cells' bounds; a part's bound is never worse than that of the whole.  How cells are bounded, and which
input is split, is the subclass's.
"""

from __future__ import annotations

import heapq
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Interval
from qebgate.engines.dra.program import NEAREST_SLACK
from qebgate.engines.sweep import box_codes
from qebgate.numerics.rounding import F64, down, up
from qebgate.regions.cell import InputCodec
from qebgate.task import Task

LEAF = 1 << 12
"""Cells of so many points are executed instead of split."""
CLOSE = 1.0001
"""Cells this close to the worst input found are left."""

Reals = Callable[[F64], F64]
How = Literal["bounded", "executed", "indivisible"]
"""Why a cell is not split any more: its bound is low enough, its points are known, or it has no parts."""


class Points(Protocol):
    """Executes points of the region."""

    error: F64
    """By how much gaps ``[K]`` can be off the exact ones."""

    def gaps(self, points: F64) -> F64:
        """Gaps ``[B, K]`` at codes (or real values) ``[B, k]`` of the free inputs."""
        ...


@dataclass(slots=True, eq=False)
class Part:
    """A part of the region: ``lo``, ``hi`` [k] codes or real values, and the gap's bounds [K] there."""

    lo: F64
    hi: F64
    gap: Interval
    widest: int
    """The free input to split."""

    @property
    def worst(self) -> float:
        return float(np.maximum(-self.gap.lo, self.gap.hi).max(initial=0.0))

    @property
    def points(self) -> float:
        """How many code vectors it has."""
        return float(np.prod(self.hi - self.lo + 1))


class Bisection(ABC):
    """Cells of the box ``first``, which is bounded already.

    ``limit``: gaps up to this are of no interest; an input with a gap ``beyond`` is an answer.  ``reals`` turns codes
    into real inputs; it is None on real-valued regions, whose parts are real boxes and are split where ``cut(input,
    lo, hi)`` says.
    """

    batch = 1
    """Cells split at once."""
    leaf = LEAF

    def __init__(
        self, points: Points, first: Part, limit: float, beyond: float, reals: Reals | None,
        cut: Callable[[int, float, float], float],
    ) -> None:  # fmt: skip
        self.points, self.limit, self.beyond, self.reals, self.cut = points, limit, beyond, reals, cut
        self.found = 0.0
        """The largest gap of an executed point, at least."""
        self.best = first.lo
        """That point [k]."""
        self.done = 0
        """Cells bounded so far."""
        self.executed = 0
        self._open: list[tuple[float, int, Part]] = []
        self._number = itertools.count()
        self._closed: list[Interval] = []
        self.look(self.candidates([first]))
        self._push(first)

    @property
    def bound(self) -> Interval:
        """What is proven now, ``[K]``."""
        parts = [*self._closed, *(c.gap for _, _, c in self._open)]
        lo, hi = np.min([p.lo for p in parts], axis=0), np.max([p.hi for p in parts], axis=0)
        return Interval(lo, hi)

    @property
    def open(self) -> int:
        """How many cells may still be split."""
        return len(self._open)

    @property
    def finished(self) -> bool:
        """Whether more cells could not change an answer."""
        return not self._open or self.found > self.beyond

    def run(self, cells: int, pulse: Callable[[int], None]) -> None:
        """Bound at most so many cells, or until the answer is known."""
        while not self.finished and self.done < cells:
            pulse(self.done)
            some = [heapq.heappop(self._open)[2] for _ in range(min(self.batch, len(self._open)))]
            try:
                self._step(some)
            except BaseException:
                for c in some:  # they are still open: nothing may be lost
                    self._push(c)
                raise

    def look(self, points: F64) -> F64:
        """Execute points; the worst one is remembered."""
        x = points.reshape(-1, points.shape[-1])
        gap = self.points.gaps(x)
        self.executed += len(x)
        size = (np.abs(gap) - self.points.error).max(axis=1, initial=0.0)
        row = int(np.argmax(size))
        if size[row] > self.found:
            self.found, self.best = float(size[row]), x[row]
        return gap

    def middles(self, parts: Sequence[Part]) -> F64:
        """The middle points ``[B, k]`` of some parts."""
        middle = np.stack([(c.lo + c.hi) / 2 for c in parts])
        return middle if self.reals is None else np.floor(middle)

    def candidates(self, parts: Sequence[Part]) -> F64:
        """Points of parts that were just bounded, worth executing."""
        return self.middles(parts)

    def _step(self, some: Sequence[Part]) -> None:
        """Split or execute some open cells; what becomes of them is filed only when all is known."""
        closed: list[tuple[Part, Interval, How]] = []
        parts: list[Part] = []
        for c in some:
            if c.worst <= max(self.limit, self.found * CLOSE):
                closed.append((c, c.gap, "bounded"))
            elif self.reals is not None and c.points <= self.leaf:
                points = next(box_codes(c.lo.astype(np.int64), c.hi.astype(np.int64), self.leaf))
                gap, e = self.look(points.astype(np.float64)), self.points.error
                # the differences were rounded themselves
                got = Interval(down(down(gap.min(axis=0)) - e), up(up(gap.max(axis=0)) + e))
                closed.append((c, c.gap.meet(got), "executed"))
            else:
                halves = self._halves(c)
                if halves is None:
                    closed.append((c, c.gap, "indivisible"))
                else:
                    parts += halves
        bounded = self._bounded(parts)
        if bounded:
            self.look(self.candidates(bounded))
        self._file(closed)
        for c in bounded:
            self._push(c)

    def _file(self, closed: Sequence[tuple[Part, Interval, How]]) -> None:
        """Keep what is known of parts that are not split any more."""
        self._closed += [gap for _, gap, _ in closed]
        if len(self._closed) > 64:
            lo = np.min([p.lo for p in self._closed], axis=0)
            self._closed = [Interval(lo, np.max([p.hi for p in self._closed], axis=0))]

    def _push(self, c: Part) -> None:
        heapq.heappush(self._open, (-c.worst, next(self._number), c))

    def _halves(self, c: Part) -> list[Part] | None:
        """Two cells that together are this one; None where it cannot be split."""
        i = c.widest
        lo, hi = float(c.lo[i]), float(c.hi[i])
        if not lo < hi:
            return None
        if self.reals is not None:
            left = np.floor((lo + hi) / 2)
            right = left + 1
        else:
            left = right = self.cut(i, lo, hi)
            if not lo < left < hi:
                return None
        a, b = c.hi.copy(), c.lo.copy()
        a[i], b[i] = left, right
        return [Part(lo, hi, c.gap, self._split_at(lo, hi)) for lo, hi in ((c.lo, a), (b, c.hi))]

    @abstractmethod
    def _split_at(self, lo: F64, hi: F64) -> int:
        """The free input to split."""

    @abstractmethod
    def _bounded(self, parts: Sequence[Part]) -> list[Part]:
        """The same cells with bounds of their own, which are never worse than those they have."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Where to split real intervals: between two codes if there are several, near the middle.

    ``codec`` is that of the free inputs, which ``at`` counts.
    """

    codec: InputCodec

    def __call__(self, at: int, lo: float, hi: float) -> float:
        s = float(self.codec.unit(at))
        half = 0.5 if self.codec.in_model or self.codec.mode != "truncate" else 0.0
        middle = (lo + hi) / 2
        # next to a tie, further than any application's rounding: one side then has one code
        tie = (np.round(middle / s - half) + half) * s
        off = 2 * NEAREST_SLACK * s
        near = [c for c in (tie - off, tie + off) if lo < c < hi]
        cut = min(near, key=lambda c: abs(c - middle), default=middle)
        rounded = float(np.float32(cut))
        return rounded if lo < rounded < hi else middle


def whole_inputs(task: Task, free: NDArray[np.intp], points: F64) -> F64:
    """Whole inputs ``[B, *shape]`` (codes, or real values) from those of the free ones."""
    base = task.cell.lower if task.cell.codes is None else task.cell.codes[0]
    x = np.repeat(base.reshape(1, -1).astype(np.float64), len(points), axis=0)
    x[:, free] = points
    return x.reshape(-1, *base.shape)
