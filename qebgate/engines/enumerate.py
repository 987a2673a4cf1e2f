"""Finite regions: every input executed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.concrete import Inputs, Session, gaps
from qebgate.engines.dra.analysis import Settings
from qebgate.engines.guard import Guard
from qebgate.engines.reached import Reached
from qebgate.engines.reference import reference_error
from qebgate.engines.subnetwork import Uncovered
from qebgate.evidence import Bound, Evidence, Stopped
from qebgate.numerics.fixed_point import I64
from qebgate.numerics.rounding import down, up
from qebgate.regions.cell import Cell
from qebgate.task import Budget, Task

BATCH_BYTES = 1 << 25
LEAST_REACHED = 1 << 12
"""Regions of fewer inputs are executed on the whole networks: restricting them would take longer."""


def about(count: int) -> str:
    """A number of any size in words; regions have more inputs than a float can count."""
    return str(count) if count < 10**9 else f"at least 2^{count.bit_length() - 1}"


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
            return [Stopped(self.name, "effort", f"{about(total)} inputs are more than {budget.enumerate}")]
        start = time.monotonic()
        k = len(task.outputs)
        lo, hi = np.full(k, np.inf), np.full(k, -np.inf)
        worst: tuple[float, Inputs] | None = None
        done, guard = 0, Guard(budget)
        small = None if total < LEAST_REACHED else reached(task)
        parts = all_codes(task.cell, batch(task)) if small is None else box_codes(small.lo, small.hi, small.rows)
        for codes in parts:
            gap = small.gaps(codes) if small is not None else gaps(task, Inputs.of_codes(task, codes))
            least, most = gap.min(axis=0), gap.max(axis=0)
            np.minimum(lo, least, out=lo)
            np.maximum(hi, most, out=hi)
            size = float(max(-least.min(), most.max()))
            if worst is None or size > worst[0]:
                row = int(np.argmax(np.abs(gap).max(axis=1)))
                whole = codes[row : row + 1] if small is None else small.whole(codes[row : row + 1])
                worst = (size, Inputs.of_codes(task, whole))
            done += len(codes)
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
    assert cell.codes is not None
    lo, hi = (c.ravel().astype(np.int64) for c in cell.codes)
    free = np.flatnonzero(hi > lo)
    for part in box_codes(lo[free], hi[free], size):
        codes = np.broadcast_to(lo, (len(part), lo.size)).copy()
        codes[:, free] = part
        yield codes.reshape(-1, *cell.codes[0].shape).astype(np.int32)


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


def reached(task: Task) -> Reached | None:
    """The sub-network that the free inputs reach; None where it cannot be restricted."""
    try:
        return Reached(task)
    except Uncovered:
        return None
