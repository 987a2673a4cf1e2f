"""A bisection whose cells are bounded by the reachability analysis, one analysis each.

The smaller a cell, the fewer neurons and codes are open in it: that, and not the linear terms alone, is what makes
bounds fall.  The input that is split has the largest share in the bound of the worst output: its coefficient after
back-substitution times its width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.crop import Crop
from qebgate.domains.gap import Interval
from qebgate.domains.layers import ROOT
from qebgate.engines.bisection import Bisection, Cut, Part, Points, whole_inputs
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.backward import Form, Run
from qebgate.engines.dra.program import Program, direct, program
from qebgate.numerics.rounding import F64
from qebgate.regions.cell import Cell
from qebgate.task import Task

SMALL = 1 << 9
"""Cells of so few points are executed at once: bounding them would take longer."""

Index = NDArray[np.intp]


class Tree(Bisection):
    """Parts of a task's region; ``known`` is what is known of the whole of it already, ``work`` the multiply-adds."""

    batch = 4

    def __init__(
        self, task: Task, free: Index, points: Points, known: Interval, work: float, pulse: Callable[[], None]
    ) -> None:
        self.task, self.free, self.pulse = task, free, pulse
        self.work = work
        """Multiply-adds left, of all analyses together."""
        self._outputs = np.asarray(task.outputs, np.intp)
        self._corners: list[F64] = []
        limit, cell, codec = task.prop.limit * task.prop.unit, task.cell, task.codec.only(free)
        ends = (cell.lower, cell.upper) if cell.codes is None else cell.codes
        lo, hi = (e.ravel()[free].astype(np.float64) for e in ends)
        reals = None
        if cell.codes is not None:
            reals = lambda codes: codec.grid(codes).astype(np.float64)  # noqa: E731
        self._weights = np.ones(free.size)
        super().__init__(points, self._analysed(Part(lo, hi, known, 0)), limit, limit, reals, Cut(codec))
        self.done = 1

    def cell(self, lo: F64, hi: F64) -> Cell:
        """A part of the region as a region."""
        whole, codec = self.task.cell, self.task.codec
        ends = [whole_inputs(self.task, self.free, e[None])[0] for e in (lo, hi)]
        if whole.codes is None:
            return Cell(ends[0], ends[1], None, whole.index, ends[0].copy())
        codes = ends[0].astype(np.int32), ends[1].astype(np.int32)
        lower, upper = (codec.grid(c).astype(np.float64) for c in codes)
        return Cell(lower, upper, codes, whole.index, lower.copy())

    def _split_at(self, lo: F64, hi: F64) -> int:
        return int(np.argmax(np.where(hi > lo, self._weights * (hi - lo), -1.0)))

    def _bounded(self, parts: Sequence[Part]) -> list[Part]:
        self._corners.clear()
        self.done += len(parts)
        small = [self.reals is not None and c.points <= SMALL for c in parts]
        return [c if few else self._analysed(c) for c, few in zip(parts, small, strict=True)]

    def candidates(self, parts: Sequence[Part]) -> F64:
        return np.concatenate([self.middles(parts), *(c[None] for c in self._corners)])

    def _analysed(self, c: Part) -> Part:
        self.pulse()
        p = direct(program(replace(self.task, cell=self.cell(c.lo, c.hi))))
        a = self.analysis(p, Settings(work=max(self.work, 0.0)))
        gap = c.gap.meet(a.gap(p.output, self._outputs))
        self.work = a.work_left
        a_x = self._coefficients(a, p, gap)
        self._corners.append(np.where(a_x > 0, c.hi, c.lo))
        share = np.where(c.hi > c.lo, np.abs(a_x) * (c.hi - c.lo), -1.0)
        widest = int(np.argmax(share if share.max() > 0 else np.where(c.hi > c.lo, c.hi - c.lo, -1.0)))
        return Part(c.lo, c.hi, gap, widest)

    def analysis(self, p: Program, settings: Settings) -> Analysis:
        """The analysis of a part."""
        return Analysis(p.layers, p.box, settings, pulse=self.pulse).run()

    def _coefficients(self, a: Analysis, p: Program, gap: Interval) -> F64:
        """Coefficients [k] of the free inputs in the bound of the worst side."""
        k = int(np.argmax(np.concatenate([gap.hi, -gap.lo])))
        n = self._outputs.size
        one = np.zeros((1, a.states[p.output].size))
        one[0, self._outputs[k % n]] = 1.0 if k < n else -1.0
        run = Run(a.root, 1)
        a.backward.value(p.output, Form(d=one), run)
        form = run.live.get(ROOT)
        parts = [] if form is None else [c for c in (form.h, form.g) if c is not None]
        if form is None or not parts:  # constant
            return np.zeros(self.free.size)
        total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        if form.crop is not None:
            total = form.crop.expand(total, Crop.whole(form.crop.image))
        return total[0][self.free]
