"""Finite regions: every input executed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.concrete import Inputs, Session, float_outputs, quantized_outputs
from qebgate.engines.dra.analysis import Settings
from qebgate.engines.float_ranges import FloatExecution
from qebgate.engines.guard import Guard
from qebgate.engines.reached import Reached
from qebgate.engines.reference import reference_error
from qebgate.engines.subnetwork import Uncovered
from qebgate.engines.sweep import box_codes, prepared
from qebgate.evidence import Bound, Evidence, Stopped, Trust
from qebgate.numerics.rounding import F64, down, up
from qebgate.regions.cell import Cell
from qebgate.task import Budget, Task

BATCH_BYTES = 1 << 25
LEAST_SWEPT = 1 << 17
"""Regions of as many inputs are executed on the composed float network: composing it has been paid for then."""
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
        if task.cell.codes is None or total is None or task.cell.line is not None:
            return []
        if total > budget.enumerate:
            return [Stopped(self.name, "effort", f"{about(total)} inputs are more than {budget.enumerate}")]
        start = time.monotonic()
        if task.prop.kind not in ("max_abs", "max_lsb"):
            return self._figures(task, total, budget, session)
        if total >= LEAST_SWEPT:
            found = self._swept(task, total, budget, session)
            if found is not None:
                lower, upper, trust, worst_input = found
                bound = Bound(lower, upper, trust, self.name, time.monotonic() - start)
                return [bound, session.witness(task, worst_input, self.name)]
        k = len(task.outputs)
        lo, hi = np.full(k, np.inf), np.full(k, -np.inf)
        worst: tuple[float, Inputs] | None = None
        done, guard = 0, Guard(budget)
        small = None if total < LEAST_REACHED else reached(task)
        parts = all_codes(task.cell, batch(task)) if small is None else box_codes(small.lo, small.hi, small.rows)
        floats = FloatExecution(task.pair)
        for codes in parts:
            if small is not None:
                gap = small.gaps(codes)
            else:
                inputs = Inputs.of_codes(task, codes)
                gap = quantized_outputs(task, inputs) - floats.run(inputs.x)[:, list(task.outputs)]
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
        ranges = floats.ranges if small is None else None
        error = reference_error(task, Settings(work=budget.dra), guard, ranges)
        # lo and hi are differences that were rounded themselves
        bound = Bound(down(down(lo) - error), up(up(hi) + error), "exhaustive", self.name, time.monotonic() - start)
        return [bound, session.witness(task, worst[1], self.name)]

    def _figures(self, task: Task, total: int, budget: Budget, session: Session) -> list[Evidence]:
        """The same for properties that need all outputs of an input at once.

        The error of the float side is needed before the first input is executed, and is bounded without knowing them.
        """
        start, guard, k = time.monotonic(), Guard(budget), len(task.outputs)
        lo, hi = np.full(k, np.inf), np.full(k, -np.inf)
        error = reference_error(task, Settings(work=budget.dra), guard)
        figure, seen, worst, done = 0.0, -np.inf, task.cell.codes, 0
        for codes in all_codes(task.cell, batch(task)):
            inputs = Inputs.of_codes(task, codes)
            q, h = quantized_outputs(task, inputs), float_outputs(task, inputs)
            np.minimum(lo, (q - h).min(axis=0), out=lo)
            np.maximum(hi, (q - h).max(axis=0), out=hi)
            figure = max(figure, float(task.prop.of_batch(q, h, error).max()))
            scores = task.prop.scores(q, h)
            row = int(np.argmax(scores))
            if scores[row] > seen:
                seen, worst = float(scores[row]), (codes[row : row + 1], codes[row : row + 1])
            done += len(codes)
            session.progress(self.name, done, total)
            guard()
        assert worst is not None and done == total
        seconds = time.monotonic() - start
        lower, upper = down(down(lo) - error), up(up(hi) + error)
        bound = Bound(lower, upper, "exhaustive", self.name, seconds, figure=figure)
        return [bound, session.witness(task, Inputs.of_codes(task, worst[0]), self.name)]

    def _swept(self, task: Task, total: int, budget: Budget, session: Session) -> tuple[F64, F64, Trust, Inputs] | None:
        """Bounds and the worst input, of a region with few enough free inputs to be composed."""
        small = reached(task)
        sweep = None if small is None else prepared(task, small)
        if sweep is None:
            return None
        guard = Guard(budget)
        done = 0

        def pulse(rows: int) -> None:
            nonlocal done
            done += rows
            session.progress(self.name, min(done, total), total)
            guard()

        lo, hi, codes, trust = sweep.extremes(pulse)
        if task.float_semantics == "float32":
            error = reference_error(task, Settings(work=budget.dra), guard, ranges=sweep.net.before)
            lo, hi = down(lo - error), up(hi + error)
        return lo, hi, trust, Inputs.of_codes(task, sweep.small.whole(codes))


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


def reached(task: Task) -> Reached | None:
    """The sub-network that the free inputs reach; None where it cannot be restricted."""
    try:
        return Reached(task)
    except Uncovered:
        return None
