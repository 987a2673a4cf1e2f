"""Finite regions: every input executed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.concrete import Inputs, Session, gaps
from qebgate.engines.dra.analysis import Settings
from qebgate.engines.guard import Guard
from qebgate.engines.reference import reference_error
from qebgate.evidence import Bound, Evidence, Stopped
from qebgate.numerics.rounding import down, up
from qebgate.regions.cell import Cell
from qebgate.task import Budget, Task

BATCH_BYTES = 1 << 25


class Enumerate:
    """Applies to grid regions of at most ``budget.enumerate`` inputs.

    The quantized side is executed exactly; the float side in float64, widened by what any evaluation
    of the reference can differ from that.
    """

    name = "enumerate"

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> list[Evidence]:
        del known
        total = task.cell.count
        if task.cell.codes is None or total is None:
            return []
        if total > budget.enumerate:
            return [Stopped(self.name, "effort", f"{total:.3g} inputs are more than {budget.enumerate}")]
        start = time.monotonic()
        k = len(task.outputs)
        lo, hi = np.full(k, np.inf), np.full(k, -np.inf)
        worst: tuple[float, Inputs] | None = None
        done, guard = 0, Guard(budget)
        for codes in all_codes(task.cell, batch(task)):
            inputs = Inputs.of_codes(task, codes)
            gap = gaps(task, inputs)
            lo, hi = np.minimum(lo, gap.min(axis=0)), np.maximum(hi, gap.max(axis=0))
            size = np.abs(gap).max(axis=1)
            row = int(np.argmax(size))
            if worst is None or size[row] > worst[0]:
                worst = (float(size[row]), inputs.take(slice(row, row + 1)))
            done += len(inputs)
            session.progress(self.name, done, total)
            guard()
        assert worst is not None and done == total
        error = reference_error(task, Settings(work=budget.dra), guard)
        # lo and hi are differences that were rounded themselves
        bound = Bound(down(down(lo) - error), up(up(hi) + error), "exhaustive", self.name, time.monotonic() - start)
        return [bound, session.witness(task, worst[1], self.name)]


def batch(task: Task) -> int:
    """Inputs executed at once: bounded by the widest tensor of the two networks."""
    widest = max(t.size for g in (task.pair.float, task.pair.quantized) for t in g.tensors if not t.is_const)
    return int(max(1, BATCH_BYTES // (8 * widest)))


def all_codes(cell: Cell, size: int) -> Iterator[NDArray[np.int32]]:
    """Every code tensor of a grid cell, ``[<= size, *shape]`` at a time, in mixed-radix order."""
    assert cell.codes is not None and cell.count is not None
    lo, hi = (c.ravel().astype(np.int64) for c in cell.codes)
    free = np.flatnonzero(hi > lo)
    width = (hi - lo + 1)[free]
    for first in range(0, cell.count, size):
        number = np.arange(first, min(first + size, cell.count), dtype=np.int64)
        codes = np.broadcast_to(lo, (number.size, lo.size)).copy()
        for i, w in zip(free, width, strict=True):
            codes[:, i] += number % w
            number //= w
        yield codes.reshape(-1, *cell.codes[0].shape).astype(np.int32)
