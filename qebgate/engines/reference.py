"""How far the float reference, as any runtime evaluates it, can be from our float64 execution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.domains.layers import alone
from qebgate.engines.deviation import Deviation
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.program import program
from qebgate.engines.float_ranges import FloatExecution, Ranges
from qebgate.errors import UnsupportedError
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64, U32, U64, up
from qebgate.task import Task

FLOAT64_SHARE = 2 * U64 / U32
"""Error bounds of float64 evaluation relative to float32's: they are proportional to the unit roundoff."""
OURS = 4 * FLOAT64_SHARE
"""The anchor's own evaluation, that of another float64 execution, and weights folded in float64, in both."""


def reference_error(
    task: Task, settings: Settings, pulse: Callable[[], None] = lambda: None, ranges: Ranges | None = None
) -> F64:
    """``e [K]``: for every input of the region, ``|reference - float64 execution| <= e``.

    The bounds of :mod:`qebgate.engines.deviation` for a float32 evaluation against one whose ranges are known
    are proportional to the evaluation error; so they give those of float64 evaluations too.  With
    ``float_semantics: real`` only our own float64 execution has an error.

    ``ranges`` are what is known of the float network's pre-activations over the region (see
    :mod:`qebgate.engines.float_ranges`); with them nearly all neurons are on one side of their clamp.
    Without them they come from the analysis of the float network alone.
    """
    if ranges is None:
        p = program(replace(task, float_semantics="real"))
        float_only = Analysis([alone(x) for x in p.layers], p.box, settings, pulse=pulse).run()
        ranges = {k: v.z for k, v in float_only.pre.items()}
    p = program(replace(task, float_semantics="float32"))
    found = Deviation(p.layers, p.box, ranges, settings.work, pulse).run()
    error = found.final(p.output, np.asarray(task.outputs, dtype=np.intp))
    return up(up(error * OURS) + (error if task.float_semantics == "float32" else 0.0))


def enclosure(task: Task, x: Array, settings: Settings, pulse: Callable[[], None] = lambda: None) -> Interval:
    """The reference's outputs [K] at one input ``[*shape]`` of a point region."""
    run = FloatExecution(task.pair)
    h = run.run(x[None])[0, list(task.outputs)]
    try:
        error = reference_error(task, settings, pulse, run.ranges)
    except UnsupportedError:  # float32 may overflow: real arithmetic does not
        if task.float_semantics == "float32":
            raise
        p = program(task)
        return Analysis(p.layers, p.box, settings, pulse=pulse).run().float_value(p.output, np.asarray(task.outputs))
    return Interval.point(h).widened(error, error)
