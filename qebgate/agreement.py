"""What reviewers ask for first: how often both networks choose the same class on the data itself, and the right one.

Data rows are run as they are (on the grid: quantized), on the exact executors.  This is about the rows, never about
the region around them.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.concrete import Inputs, float_outputs, quantized_outputs
from qebgate.engines.enumerate import batch
from qebgate.engines.work import execution
from qebgate.plan import PlannedCheck
from qebgate.result import DataFigures
from qebgate.task import FloatSemantics, Task

MOST_ROWS = 2000
MOST_WORK = 2e10
"""Units of :mod:`qebgate.engines.work`: a few seconds at most."""


def on_data(planned: PlannedCheck) -> DataFigures | None:
    """Top-1 agreement and, where there are labels, accuracy on a check's rows; None where neither means anything."""
    if not planned.rows or not planned.jobs or planned.jobs[0].pair.float.output.size < 2:
        return None
    job = planned.jobs[0]
    cost = execution(job.pair.float) + execution(job.pair.quantized)
    cells = planned.rows[: int(min(MOST_ROWS, max(1.0, MOST_WORK / cost)))]
    runtime = job.runtime.members[0]
    outputs = tuple(range(job.pair.float.output.size))
    semantics = cast("FloatSemantics", job.float_semantics)
    task = Task(job.pair, job.cell, job.codec, job.prop, outputs, runtime, semantics)
    mine: list[NDArray[np.intp]] = []
    theirs: list[NDArray[np.intp]] = []
    size = min(256, batch(task))
    for k in range(0, len(cells), size):
        x = np.stack([c.centre for c in cells[k : k + size]])
        grid = job.cell.codes is not None
        inputs = Inputs.of_codes(task, job.codec.encode(x)) if grid else Inputs.of_reals(task, x)
        mine.append(float_outputs(task, inputs).argmax(axis=1))
        theirs.append(quantized_outputs(task, inputs).argmax(axis=1))
    f, q = np.concatenate(mine), np.concatenate(theirs)
    n = len(cells)
    if planned.labels is None:
        return DataFigures(n, int((f == q).sum()), None, None)
    y = planned.labels[:n]
    return DataFigures(n, int((f == q).sum()), int((f == y).sum()), int((q == y).sum()))
