"""Forward affine forms and bisection as an engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.engines.bisection import Cut, whole_inputs
from qebgate.engines.concrete import Inputs, Session
from qebgate.engines.dra.analysis import Settings
from qebgate.engines.enumerate import reached
from qebgate.engines.executed import Executed
from qebgate.engines.forms.bisect import Bisection
from qebgate.engines.forms.collapse import collapsed
from qebgate.engines.forms.matrices import Index
from qebgate.engines.forms.network import Network, composed, whole_region
from qebgate.engines.guard import Guard, GuardedStop
from qebgate.engines.reference import reference_error
from qebgate.engines.sweep import SYMBOLS
from qebgate.evidence import Bound, Evidence, Stopped
from qebgate.numerics.rounding import down, up
from qebgate.task import Budget, Task

MOST_FREE = 16
"""Free inputs beyond which back-substitution does better."""
_PAYS = 0.95
"""Errors stay apart in the cells where that makes the whole region's bound this much smaller, or better."""


class Forms:
    """Applies to boxes of few free inputs: with more grid points than are enumerated, or of real inputs.

    Bounds hold for the exact float network; for ``float32`` semantics they are widened by what any
    float32 evaluation of it can differ.
    """

    name = "forms"

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> list[Evidence]:
        del known
        start = time.monotonic()
        cell = task.cell
        free = np.flatnonzero((cell.upper > cell.lower).ravel())
        if cell.line is not None or cell.is_point or free.size > MOST_FREE:
            return []
        if cell.count is not None and cell.count <= budget.enumerate:
            return []
        guard = Guard(budget)
        net = composed(task, free, SYMBOLS, guard)
        if net is None:
            return [Stopped(self.name, "effort", "the free inputs reach too much of the network")]
        index = np.asarray(task.outputs, np.intp)
        whole = Interval(net.output.gap.delta.lo[index], net.output.gap.delta.hi[index])
        error = np.zeros(index.size)
        if task.float_semantics == "float32":
            error = reference_error(task, Settings(work=budget.dra), guard, ranges=net.before)

        def bound(gap: Interval) -> Bound:
            seconds = time.monotonic() - start
            return Bound(down(gap.lo - error), up(gap.hi + error), "certified", self.name, seconds)

        first = bound(whole)
        if not budget.cells or task.prop.of_box(first.lower, first.upper) <= task.prop.limit:
            return [first]
        search = _bisection(task, net, index, float(error.max(initial=0.0)), budget, guard)
        found: list[Evidence] = []
        try:
            search.run(budget.cells, lambda done: _tell(session, self.name, done, budget, guard))
            if not search.finished:
                found.append(Stopped(self.name, "effort", f"{search.done} cells are not enough"))
        except GuardedStop as stop:
            found.append(Stopped(self.name, stop.reason, stop.detail))
        best = search.best
        inputs = Inputs.of_codes if cell.codes is not None else Inputs.of_reals
        witness = session.witness(task, inputs(task, whole_inputs(task, free, best[None])), self.name)
        return [bound(search.bound), witness, *found]


def _tell(session: Session, name: str, done: int, budget: Budget, guard: Guard) -> None:
    session.progress(name, done, budget.cells)
    guard()


def _bisection(task: Task, net: Network, index: Index, error: float, budget: Budget, guard: Guard) -> Bisection:
    """A bisection of the whole region, about the exact float network; ``error`` will be added to its bounds."""
    cell, free = task.cell, net.free
    limit = task.prop.limit * task.prop.unit
    reals, codec = None, task.codec.only(free)
    if cell.codes is not None:
        reals = lambda codes: codec.grid(codes).astype(np.float64)  # noqa: E731
    region = whole_region(task, free)
    plain = composed(task, free, 0, guard)
    symbols = 0
    if plain is not None and _figure(net, index) < _PAYS * _figure(plain, index):
        symbols = SYMBOLS
    return Bisection(
        net if symbols or plain is None else plain, _points(task, net, budget, guard), index, region,
        limit - error, limit + error, reals, Cut(codec), symbols,
    )  # fmt: skip


def _figure(net: Network, index: Index) -> float:
    d = net.output.gap.delta
    return float(np.maximum(-d.lo[index], d.hi[index]).max(initial=0.0))


def _points(task: Task, net: Network, budget: Budget, guard: Guard) -> Executed:
    small = reached(task) if task.cell.codes is not None else None
    floats = None if small is None else collapsed(net, task.outputs)
    if floats is not None:
        return Executed(task, net.free, floats.error, small, floats)
    error = reference_error(
        replace(task, float_semantics="real"), Settings(work=budget.dra), guard, ranges=net.before
    )  # fmt: skip
    return Executed(task, net.free, error, small, None)
