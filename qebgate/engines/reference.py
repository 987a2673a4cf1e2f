"""How far the float reference, as any runtime evaluates it, can be from our float64 execution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qebgate.domains.layers import Affine, Layer
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.program import program, shadowed
from qebgate.engines.float_ranges import Ranges
from qebgate.numerics.rounding import F64, U32, U64, up
from qebgate.task import Task

FLOAT64_SHARE = 2 * U64 / U32
"""Error bounds of float64 evaluation relative to float32's: they are proportional to the unit roundoff."""


def reference_error(
    task: Task, settings: Settings, pulse: Callable[[], None] = lambda: None, ranges: Ranges | None = None
) -> F64:
    """``e [K]``: for every input of the region, ``|reference - float64 execution| <= e``.

    Both are evaluations of the same exact network with bounded error in every neuron; each error is
    bounded by a shadow program, whose gap is the computed network minus the exact one.  With
    ``float_semantics: real`` only our own float64 execution has an error.

    ``ranges`` are what is known of the float network's pre-activations over the region (see
    :mod:`qebgate.engines.float_ranges`); with them nearly all neurons are on one side of their clamp.
    """
    del ranges  # not used yet
    p = shadowed(program(replace(task, float_semantics="float32")))
    index = np.asarray(task.outputs, dtype=np.intp)

    def error(share: float) -> F64:
        layers = tuple(_scaled(layer, share) for layer in p.layers)
        gap = Analysis(layers, p.box, settings, pulse=pulse).run().gap(p.output, index)
        return np.maximum(-gap.lo, gap.hi)

    ours = error(FLOAT64_SHARE)
    return ours if task.float_semantics == "real" else up(ours + error(1.0))


def _scaled(layer: Layer, share: float) -> Layer:
    noise = layer.evaluation if isinstance(layer, Affine) else None
    if noise is None:
        return layer
    return replace(layer, evaluation=lambda magnitudes: noise(magnitudes) * share)
