"""How far the float reference, as any runtime evaluates it, can be from our float64 execution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.program import program, shadowed
from qebgate.numerics.rounding import F64, U32, U64, up
from qebgate.task import Task

FLOAT64_SHARE = 2 * U64 / U32
"""Error bounds of float64 evaluation relative to float32's: they are proportional to the unit roundoff."""


def reference_error(task: Task, settings: Settings) -> F64:
    """``e [K]``: for every input of the region, ``|reference - float64 execution| <= e``.

    Both are evaluations of the same exact network with bounded error in every neuron; each error is
    bounded by a shadow program, whose gap is the computed network minus the exact one.  With
    ``float_semantics: real`` only our own float64 execution has an error.
    """
    p = shadowed(program(replace(task, float_semantics="float32")))
    ours = _error(p, settings, task, FLOAT64_SHARE)
    return ours if task.float_semantics == "real" else up(ours + _error(p, settings, task, 1.0))


def _error(p, settings: Settings, task: Task, share: float) -> F64:  # noqa: ANN001
    layers = tuple(_scaled(layer, share) for layer in p.layers)
    a = Analysis(layers, p.box, settings).run()
    gap = a.gap(p.output, np.asarray(task.outputs, dtype=np.intp))
    return np.maximum(-gap.lo, gap.hi)


def _scaled(layer, share: float):  # noqa: ANN001, ANN202
    noise = getattr(layer, "evaluation", None)
    if noise is None or share == 1.0:
        return layer
    return replace(layer, evaluation=lambda magnitudes: noise(magnitudes) * share)
