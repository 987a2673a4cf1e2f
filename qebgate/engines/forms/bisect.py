"""Bisection of a region into cells, each bounded by forms, small ones executed; best first, at any time sound.

A cell that cannot be worse than the limit, or than an input already found, is not split any more.  What
is proven is the union of all cells' bounds; a part's bound is never worse than that of the whole.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.engines.forms.matrices import Index
from qebgate.engines.forms.network import Network
from qebgate.engines.forms.steps import Cells
from qebgate.engines.sweep import box_codes
from qebgate.numerics.rounding import F64, down, up

LEAF = 1 << 12
"""Cells of so many points are executed instead of split."""
BATCH, BATCH_BYTES = 32, 1 << 25
CLOSE = 1.0001
"""Cells this close to the worst input found are left."""


class Points(Protocol):
    """Executes points of the region."""

    error: F64
    """By how much gaps ``[K]`` can be off the exact ones."""

    def gaps(self, points: F64) -> F64:
        """Gaps ``[B, K]`` at codes (or real values) ``[B, k]`` of the free inputs."""
        ...


@dataclass(slots=True, eq=False)
class Cell:
    """A part of the region: ``lo``, ``hi`` [k] codes or real values, and the gap's bounds [K] there."""

    lo: F64
    hi: F64
    gap: Interval
    widest: int
    """The free input to split."""

    @property
    def worst(self) -> float:
        return float(np.maximum(-self.gap.lo, self.gap.hi).max(initial=0.0))


@dataclass(eq=False)
class Bisection:
    """``reals`` turns codes into real inputs (None on real-valued regions, whose parts are real boxes)."""

    net: Network
    points: Points
    outputs: Index
    whole: Cells
    limit: float
    """Gaps up to this are of no interest."""
    beyond: float
    """An input with a larger gap is an answer."""
    reals: Callable[[F64], F64] | None
    cut: Callable[[int, float, float], float]
    """``cut(input, lo, hi)``: where to split a real interval."""
    symbols: int = 0
    found: float = 0.0
    """The largest gap of an executed point, at least."""
    best: F64 = field(init=False)
    """That point [k]."""
    done: int = 0
    """Cells bounded so far."""
    executed: int = 0
    _open: list[tuple[float, int, Cell]] = field(default_factory=list[tuple[float, int, Cell]])
    _number: Iterator[int] = field(default_factory=itertools.count)
    _closed: list[Interval] = field(default_factory=list[Interval])

    def __post_init__(self) -> None:
        fact = self.net.output
        place = np.full(fact.gap.size, -1)
        place[fact.live] = np.arange(fact.live.size)
        self._place = place[self.outputs]
        self._fixed = Interval(fact.gap.delta.lo[self.outputs], fact.gap.delta.hi[self.outputs])
        first = self.whole.codes if self.reals is not None else (self.whole.lo, self.whole.hi)
        assert first is not None
        lo, hi = (np.asarray(v[0], np.float64) for v in first)
        self.best = lo
        self._weights = self.net.influence
        size = 8 * max(1, self.net.symbols) * max((s.live.size for s in self.net.steps), default=1)
        self._batch = int(np.clip(BATCH_BYTES // size, 1, BATCH))
        self.look((lo + hi) / 2 if self.reals is None else np.floor((lo + hi) / 2))
        self._push(Cell(lo, hi, self._fixed, self._split_at(lo, hi)))

    @property
    def bound(self) -> Interval:
        """What is proven now, ``[K]``."""
        parts = [*self._closed, *(c.gap for _, _, c in self._open)]
        lo, hi = np.min([p.lo for p in parts], axis=0), np.max([p.hi for p in parts], axis=0)
        return Interval(lo, hi)

    @property
    def finished(self) -> bool:
        """Whether more cells could not change an answer."""
        return not self._open or self.found > self.beyond

    def run(self, cells: int, pulse: Callable[[int], None]) -> None:
        """Bound at most so many cells, or until the answer is known."""
        while not self.finished and self.done < cells:
            pulse(self.done)
            some = [heapq.heappop(self._open)[2] for _ in range(min(self._batch, len(self._open)))]
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

    def _step(self, some: Sequence[Cell]) -> None:
        """Split or execute some open cells; what becomes of them is filed only when all is known."""
        closed: list[Interval] = []
        parts: list[Cell] = []
        for c in some:
            if c.worst <= max(self.limit, self.found * CLOSE):
                closed.append(c.gap)
            elif self.reals is not None and float(np.prod(c.hi - c.lo + 1)) <= LEAF:
                points = next(box_codes(c.lo.astype(np.int64), c.hi.astype(np.int64), LEAF))
                gap, e = self.look(points.astype(np.float64)), self.points.error
                # the differences were rounded themselves
                got = Interval(down(down(gap.min(axis=0)) - e), up(up(gap.max(axis=0)) + e))
                closed.append(c.gap.meet(got))
            else:
                halves = self._halves(c)
                if halves is None:
                    closed.append(c.gap)
                else:
                    parts += halves
        bounded = self._bounded(parts)
        if bounded:
            middle = np.stack([(c.lo + c.hi) / 2 for c in bounded])
            self.look(middle if self.reals is None else np.floor(middle))
        self._closed += closed
        if len(self._closed) > 64:
            lo = np.min([p.lo for p in self._closed], axis=0)
            self._closed = [Interval(lo, np.max([p.hi for p in self._closed], axis=0))]
        for c in bounded:
            self._push(c)

    def _push(self, c: Cell) -> None:
        heapq.heappush(self._open, (-c.worst, next(self._number), c))

    def _halves(self, c: Cell) -> list[Cell] | None:
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
        return [Cell(lo, hi, c.gap, self._split_at(lo, hi)) for lo, hi in ((c.lo, a), (b, c.hi))]

    def _split_at(self, lo: F64, hi: F64) -> int:
        width = hi - lo if self.reals is None else self.reals(hi) - self.reals(lo)
        return int(np.argmax(np.where(width > 0, self._weights * width, -1.0)))

    def _bounded(self, parts: Sequence[Cell]) -> list[Cell]:
        """The same cells with bounds of their own."""
        out: list[Cell] = []
        for k in range(0, len(parts), self._batch):
            some = parts[k : k + self._batch]
            lo, hi = np.stack([c.lo for c in some]), np.stack([c.hi for c in some])
            if self.reals is None:
                cells = Cells(lo, hi, None)
            else:
                cells = Cells(self.reals(lo), self.reals(hi), (lo.astype(np.int64), hi.astype(np.int64)))
            values = self.net.run(cells, self.symbols)
            self.done += len(some)
            for n, c in enumerate(some):
                gap = c.gap
                if values is not None:
                    there = self._place >= 0
                    least, most = self._fixed.lo.copy(), self._fixed.hi.copy()
                    at = self._place[there]
                    least[there], most[there] = values.gap.delta.lo[n, at], values.gap.delta.hi[n, at]
                    gap = gap.meet(Interval(least, most))
                out.append(Cell(c.lo, c.hi, gap, c.widest))
        return out
