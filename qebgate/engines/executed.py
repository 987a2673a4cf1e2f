"""Points of a region of few free inputs, executed many at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.bisection import whole_inputs
from qebgate.engines.concrete import Inputs, gaps
from qebgate.engines.enumerate import batch
from qebgate.engines.forms.collapse import Collapsed
from qebgate.engines.reached import Reached
from qebgate.numerics.rounding import F64
from qebgate.task import Task

Index = NDArray[np.intp]


@dataclass(slots=True, eq=False)
class Executed:
    """Points on the networks restricted to what they reach, or (where that is not possible) on the whole ones."""

    task: Task
    free: Index
    error: F64
    small: Reached | None
    floats: Collapsed | None

    def gaps(self, points: F64) -> F64:
        out: list[F64] = []
        rows = batch(self.task) if self.small is None else self.small.rows
        for k in range(0, len(points), rows):
            part = points[k : k + rows]
            if self.small is None:
                on_grid = self.task.cell.codes is not None
                make = Inputs.of_codes if on_grid else Inputs.of_reals
                out.append(gaps(self.task, make(self.task, whole_inputs(self.task, self.free, part))))
                continue
            codes = part.astype(np.int64)
            if self.floats is None:
                out.append(self.small.gaps(codes).copy())
            else:
                out.append(self.small.quantized(codes) - self.floats.run(self.small.reals(codes)))
        return np.concatenate(out)
