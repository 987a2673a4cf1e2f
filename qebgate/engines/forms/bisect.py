"""Bisection of a region into cells bounded by forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.engines import bisection
from qebgate.engines.bisection import Part, Points, Reals
from qebgate.engines.forms.matrices import Index
from qebgate.engines.forms.network import Network
from qebgate.engines.forms.steps import Cells
from qebgate.numerics.rounding import F64

LEAF = bisection.LEAF
BATCH, BATCH_BYTES = 32, 1 << 25


class Bisection(bisection.Bisection):
    """Cells of ``whole`` bounded by the forms of ``net``; ``symbols`` keep errors of the layers apart."""

    def __init__(
        self, net: Network, points: Points, outputs: Index, whole: Cells, limit: float, beyond: float,
        reals: Reals | None, cut: Callable[[int, float, float], float], symbols: int = 0,
    ) -> None:  # fmt: skip
        fact = net.output
        self.net, self.symbols = net, symbols
        place = np.full(fact.gap.size, -1)
        place[fact.live] = np.arange(fact.live.size)
        self._place = place[outputs]
        self._fixed = Interval(fact.gap.delta.lo[outputs], fact.gap.delta.hi[outputs])
        self._weights = net.influence
        size = 8 * max(1, net.symbols) * max((s.live.size for s in net.steps), default=1)
        self.batch = int(np.clip(BATCH_BYTES // size, 1, BATCH))
        self.leaf = LEAF
        first = whole.codes if reals is not None else (whole.lo, whole.hi)
        assert first is not None
        lo, hi = (np.asarray(v[0], np.float64) for v in first)
        self.reals = reals
        super().__init__(points, Part(lo, hi, self._fixed, self._split_at(lo, hi)), limit, beyond, reals, cut)

    def _split_at(self, lo: F64, hi: F64) -> int:
        width = hi - lo if self.reals is None else self.reals(hi) - self.reals(lo)
        return int(np.argmax(np.where(width > 0, self._weights * width, -1.0)))

    def _bounded(self, parts: Sequence[Part]) -> list[Part]:
        out: list[Part] = []
        for k in range(0, len(parts), self.batch):
            some = parts[k : k + self.batch]
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
                out.append(Part(c.lo, c.hi, gap, c.widest))
        return out
