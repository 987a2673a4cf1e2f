"""Every code vector of a few free inputs, executed: the quantized network restricted, the float one composed.

Where there are many outputs, most cannot have the largest gap: what bounds say of them is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.engines.forms.collapse import Collapsed, collapsed
from qebgate.engines.forms.network import Network, composed
from qebgate.engines.memo import Keys
from qebgate.engines.reached import Reached
from qebgate.engines.subnetwork import Index
from qebgate.evidence import Trust
from qebgate.numerics.fixed_point import I64
from qebgate.numerics.rounding import F64, down, up
from qebgate.task import Task

SYMBOLS = 64
"""Errors per layer and stream that the forms keep apart."""
_MANY = 8
"""Outputs from which it pays to leave some out."""
_SAMPLE = 1 << 12
_CACHE_BYTES, _LEAST_ROWS, _MOST_ROWS = 1 << 21, 1 << 9, 1 << 13
_WORTH = 0.8


@dataclass(slots=True, eq=False)
class Sweep:
    """All points of a grid region of few free inputs, against the exact float network."""

    task: Task
    small: Reached
    net: Network
    floats: Collapsed

    def extremes(self, pulse: Callable[[int], None]) -> tuple[F64, F64, I64, Trust]:
        """Bounds ``[K]`` of the gap, the codes ``[1, k]`` of the worst point, and what the bounds rest on.

        ``pulse`` is told how many more points were executed.
        """
        small, index = self.small, np.asarray(self.task.outputs, np.intp)
        gap = self.net.output.gap
        known = Interval(gap.delta.lo[index], gap.delta.hi[index])
        columns = np.arange(index.size)
        keys: list[Keys] | None = None
        if index.size >= _MANY:
            if small.table is not None:
                keys = self._keys()
                if keys is not None:
                    table = small.table.table
                    q = Interval(table.min(axis=0), table.max(axis=0))
                    known = known.meet(q.minus(Interval(gap.float.lo[index], gap.float.hi[index])))
            least = self._sampled() - 2 * float(self.floats.error.max())
            columns = np.flatnonzero(np.maximum(-known.lo, known.hi) >= least)
        lo, hi, worst = self._run(columns, keys, pulse)
        error = self.floats.error[columns]
        lower, upper = known.lo.copy(), known.hi.copy()
        # lo and hi are differences that were rounded themselves
        lower[columns] = np.maximum(lower[columns], down(down(lo) - error))
        upper[columns] = np.minimum(upper[columns], up(up(hi) + error))
        return lower, upper, worst, "exhaustive" if columns.size == index.size else "certified"

    def _parts(self) -> Iterator[I64]:
        rows = _MOST_ROWS
        if self.small.table is None:
            rows = int(np.clip(_CACHE_BYTES // self.small.quantized_bytes, _LEAST_ROWS, _MOST_ROWS))
        return box_codes(self.small.lo, self.small.hi, rows)

    def _keys(self) -> list[Keys] | None:
        """Of all points, in order; the table then has the outputs of all of them.  None where it grows too large."""
        small = self.small
        found: list[Keys] = []
        for codes in self._parts():
            assert small.table is not None
            number = small.table.learn(small.deviations(codes))
            if number is None:
                small.table = None
                return None
            found.append(number)
        return found

    def _sampled(self) -> float:
        """A gap that some point has, about."""
        rng = np.random.default_rng(0)
        codes = rng.integers(self.small.lo, self.small.hi + 1, (_SAMPLE, self.small.lo.size))
        gap = self.small.quantized(codes) - self.floats.run(self.small.reals(codes))
        return float(np.abs(gap).max())

    def _run(self, columns: Index, keys: list[Keys] | None, pulse: Callable[[int], None]) -> tuple[F64, F64, I64]:
        small = self.small
        table = None
        if keys is not None and small.table is not None:
            memo, table = small.table, np.ascontiguousarray(small.table.table[:, columns])
        else:
            memo = None
            if columns.size < len(self.task.outputs):
                small.narrow(columns)
        lo, hi = np.full(columns.size, np.inf), np.full(columns.size, -np.inf)
        worst, size = small.lo[None], -np.inf
        rows = self._parts() if keys is None else box_codes(small.lo, small.hi, _MOST_ROWS)
        for n, codes in enumerate(rows):
            gap = self.floats.run(small.reals(codes), columns)
            if memo is not None and keys is not None and table is not None:
                np.subtract(table[memo.rows(keys[n])], gap, out=gap)
            else:
                np.subtract(small.quantized(codes), gap, out=gap)
            least, most = gap.min(axis=0), gap.max(axis=0)
            np.minimum(lo, least, out=lo)
            np.maximum(hi, most, out=hi)
            here = float(max(-least.min(), most.max()))
            if here > size:
                size, row = here, int(np.argmax(np.abs(gap).max(axis=1)))
                worst = codes[row : row + 1]
            pulse(len(codes))
        return lo, hi, worst


def prepared(task: Task, small: Reached, symbols: int = SYMBOLS) -> Sweep | None:
    """What a sweep of a region needs; None where composing the float network is not possible or does not pay."""
    net = composed(task, small.free, symbols)
    floats = None if net is None else collapsed(net, task.outputs)
    if net is None or floats is None or floats.cost > _WORTH * small.float_cost:
        return None
    return Sweep(task, small, net, floats)


def box_codes(lo: I64, hi: I64, size: int) -> Iterator[I64]:
    """Every point ``[k]`` of a box of integers, ``[<= size, k]`` at a time, in mixed-radix order."""
    width = hi - lo + 1
    total = math.prod(width.tolist())
    for first in range(0, total, size):
        number = np.arange(first, min(first + size, total), dtype=np.int64)
        codes = np.empty((number.size, lo.size), np.int64)
        for i, w in enumerate(width.tolist()):
            np.add(number % w, lo[i], out=codes[:, i])
            number //= w
        yield codes
