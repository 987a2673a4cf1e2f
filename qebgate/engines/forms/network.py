"""A program restricted to what a few free inputs reach, and its forms over the cells of a region.

Everything else is the same in every cell: it folds into biases, which are narrow intervals.  So do
entries that are reached but do not change anywhere in the region.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Gap, Interval
from qebgate.domains.layers import ROOT, Affine, Layer, MaxPool, Opaque
from qebgate.engines.dra.forward import activate, affine_intervals, max_pool
from qebgate.engines.dra.program import Program, direct, program
from qebgate.engines.forms.form import Form, Values
from qebgate.engines.forms.matrices import Index, product
from qebgate.engines.forms.steps import AffineStep, Cells, Fact, OpaqueStep, PoolStep, Step
from qebgate.engines.restricted import TooLarge
from qebgate.numerics.rounding import F64, U64
from qebgate.task import Task

MOST = 1 << 22
"""Weights of all live entries together, beyond which a program is not restricted: everything is reached."""


class Network:
    """``run`` bounds all values over cells; ``facts`` has what holds over the whole region."""

    def __init__(
        self, p: Program, free: Index, cells: Cells, symbols: int = 0, pulse: Callable[[], None] = lambda: None
    ):
        self.program = p
        self.free = free
        self.steps: list[Step] = []
        zero = np.zeros_like(p.box.lo)
        self.before: dict[int, Interval] = {}
        """Pre-activations ``[m]`` of the float network by value, where known."""
        self.facts: dict[int, Fact] = {ROOT: Fact(Gap(p.box, p.box, Interval(zero, zero)), free)}
        self.macs = 0.0
        """Multiply-adds of one row through all steps."""
        values, total = {ROOT: _root(cells)}, free.size
        last = {i: k for k, layer in enumerate(p.layers) for i in layer.inputs}
        for k, layer in enumerate(p.layers):
            pulse()
            total = self._add(layer, values, cells, symbols, total)
            for i in layer.inputs:
                if last[i] == k and i != p.output:
                    values.pop(i, None)
        self.symbols = total

    def _add(self, layer: Layer, values: dict[int, Values], cells: Cells, symbols: int, total: int) -> int:
        """Build one layer's step and run it over the whole region."""
        inputs = [self.facts[i] for i in layer.inputs]
        full = [f.gap for f in inputs]
        live = [i for i, f in zip(layer.inputs, inputs, strict=True) if f.live.size]
        if isinstance(layer, Affine):
            pre = affine_intervals(layer, full)
            out = activate(layer, pre, full)[0]
            self.before[layer.output] = pre.z
        else:
            out = _whole(layer, full)
        if not live:
            self.facts[layer.output] = Fact(out, np.empty(0, np.intp))
            return total
        if isinstance(layer, Affine):
            self.macs += sum(m.macs * f.live.size / m.n for m, f in zip(layer.q, inputs, strict=True))
            if self.macs > MOST:
                raise TooLarge
        step = _step(layer, self.facts, out)
        if not step.live.size:
            self.facts[layer.output] = Fact(out, step.live)
            return total
        got, total = step.run([values[i] for i in step.inputs], cells, symbols, total)
        if isinstance(step, AffineStep) and step.z is not None:
            self.before[layer.output] = _cut(self.before[layer.output], step.live, step.z)
        gap = _merged(out, step.live, got.gap)
        moving = _moves(got.gap)
        opaque = isinstance(step, OpaqueStep)
        self.facts[layer.output] = Fact(gap, step.live if opaque else step.live[moving])
        at = np.flatnonzero(moving)
        if opaque or at.size:
            # again without what does not move, and made for many cells
            self.steps.append(step if opaque else _step(layer, self.facts, gap, step.live[at]))
            values[layer.output] = got if opaque else got.take(at)
        return total

    def run(self, cells: Cells, symbols: int = 0) -> Values | None:
        """The compared value's live entries over some cells; None where it has none."""
        return self.values(cells, symbols).get(self.program.output)

    def values(self, cells: Cells, symbols: int = 0) -> dict[int, Values]:
        """All values' live entries over some cells, by position."""
        values, total = {ROOT: _root(cells)}, self.free.size
        for step in self.steps:
            values[step.output], total = step.run([values[i] for i in step.inputs], cells, symbols, total)
        return values

    @property
    def influence(self) -> F64:
        """How much one unit of each free input moves, over the first layer that mixes inputs, ``[k]``."""
        x: F64 = np.eye(self.free.size)
        at = ROOT
        for step in self.steps:
            if at not in step.inputs:
                continue
            if not isinstance(step, AffineStep):
                break
            x = product(x, step.float_weights(step.inputs.index(at))[1])
            at = step.output
            if (x > 0).sum(axis=1).max() > 1:
                break
        return x.sum(axis=1)

    @property
    def output(self) -> Fact:
        return self.facts[self.program.output]


def _root(cells: Cells) -> Values:
    """The free inputs: one column each."""
    x = Interval(cells.lo, cells.hi)
    c = x.centre
    half = np.maximum(x.hi - c, c - x.lo)
    b, k = c.shape
    g = np.zeros((b, k, k))
    g[:, np.arange(k), np.arange(k)] = half
    # the centre and the half width are rounded: together they may miss an end by a few units in the last place
    form = Form(c, g, 4 * U64 * x.magnitude)
    zero = np.zeros_like(c)
    return Values(Gap(x, x, Interval(zero, zero)), form, form, Form(zero, np.zeros((b, k, k)), zero))


def _whole(layer: MaxPool | Opaque, inputs: Sequence[Gap]) -> Gap:
    """Plain intervals of all outputs over the region."""
    if isinstance(layer, MaxPool):
        return max_pool(layer, inputs[0])[0]
    return layer.transform(inputs)


def _moves(gap: Gap) -> NDArray[np.bool_]:
    """Which entries ``[k]`` are not one number on both sides, over one cell."""
    same = (gap.float.lo == gap.float.hi) & (gap.quantized.lo == gap.quantized.hi)
    return ~same[0]


def _cut(x: Interval, live: Index, y: Interval) -> Interval:
    """An interval ``[n]``, cut down at live entries by their own ``[1, k]``."""
    lo, hi = x.lo.copy(), x.hi.copy()
    lo[live], hi[live] = np.maximum(lo[live], y.lo[0]), np.minimum(hi[live], y.hi[0])
    return Interval(lo, hi)


def _merged(whole: Gap, live: Index, got: Gap) -> Gap:
    """Plain intervals of all entries, cut down by the live ones' ``[1, k]``."""
    cut = lambda x, y: _cut(x, live, y)  # noqa: E731
    codes = whole.codes
    if codes is not None and got.codes is not None:
        codes = (codes[0].copy(), codes[1].copy())
        codes[0][live] = np.maximum(codes[0][live], got.codes[0][0])
        codes[1][live] = np.minimum(codes[1][live], got.codes[1][0])
    return Gap(cut(whole.float, got.float), cut(whole.quantized, got.quantized), cut(whole.delta, got.delta), codes)


def _step(layer: Layer, facts: dict[int, Fact], out: Gap, live: Index | None = None) -> Step:
    """One layer's step: of everything reached, or of some outputs only and over many cells."""
    if isinstance(layer, Affine):
        return AffineStep(layer, facts, out, live)
    if isinstance(layer, MaxPool):
        return PoolStep(layer, facts, live)
    return OpaqueStep(layer.output, layer.inputs, facts, layer.transform)


def composed(task: Task, free: Index, symbols: int, pulse: Callable[[], None] = lambda: None) -> Network | None:
    """Forms of the pair over the region, against the exact float network; None where there is too much of it."""
    p = direct(program(replace(task, float_semantics="real")))
    try:
        return Network(p, free, whole_region(task, free), symbols, pulse)
    except TooLarge:
        return None


def whole_region(task: Task, free: Index) -> Cells:
    """The region as one cell."""
    cell = task.cell
    codes = None
    if cell.codes is not None:
        codes = (cell.codes[0].ravel()[free][None].astype(np.int64), cell.codes[1].ravel()[free][None].astype(np.int64))
    return Cells(cell.lower.ravel()[free][None], cell.upper.ravel()[free][None], codes)
