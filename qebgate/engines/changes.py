"""Evaluating changes of few inputs at many points: incrementally where the first layer is dense, else in full.

Letters: C points, n entries of the input, K outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.concrete import gaps
from qebgate.engines.incremental import Incremental, Sums, incremental
from qebgate.engines.search import Search
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64

STEP = 40_000.0
"""Units of one incremental step, besides its arithmetic."""
WHOLE_STEP = 200_000.0
"""Units of one full execution of a batch, besides its arithmetic."""

Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """At every point, input ``at [C]`` takes the value ``after [C]`` instead of ``before [C]``."""

    at: Index
    before: Array
    after: Array


class Changes(ABC):
    """Gaps of changed points; what a state is, only the subclass knows."""

    chains: int
    """How many points to change at once."""

    def __init__(self, search: Search) -> None:
        self.search = search

    @abstractmethod
    def start(self, points: Array) -> Sums | None:
        """The state of points ``[C, n]``."""

    @abstractmethod
    def after(self, state: Sums | None, points: Array, changes: Sequence[Change]) -> tuple[Sums | None, F64]:
        """State and gaps ``[C, K]`` of ``points [C, n]`` after changes (one entry is changed once at most)."""

    @abstractmethod
    def units(self, count: int) -> float:
        """What changing so many points at once costs."""

    @staticmethod
    def repeat(state: Sums | None, count: int) -> Sums | None:
        """The state of one point, so many times."""
        return None if state is None else state.take(np.zeros(count, np.intp))

    @staticmethod
    def put(state: Sums | None, rows: Index, other: Sums | None) -> None:
        """Overwrite some points' state."""
        if state is not None and other is not None:
            state.put(rows, other)


class Stepwise(Changes):
    """Incremental: the first layer is not executed again."""

    chains = 8

    def __init__(self, search: Search, net: Incremental) -> None:
        super().__init__(search)
        self._net = net

    def start(self, points: Array) -> Sums:
        return self._net.sums(points)

    def after(self, state: Sums | None, points: Array, changes: Sequence[Change]) -> tuple[Sums, F64]:
        assert state is not None
        for c in changes:
            state = self._net.changed(state, c.at, c.before, c.after)
        return state, self._net.gaps(state)

    def units(self, count: int) -> float:
        return STEP + count * self._net.cost


class Whole(Changes):
    """In full, for any network and any region."""

    chains = 32

    def start(self, points: Array) -> None:
        del points

    def after(self, state: Sums | None, points: Array, changes: Sequence[Change]) -> tuple[None, F64]:
        del state
        changed, rows = points.copy(), np.arange(len(points))
        for c in changes:
            changed[rows, c.at] = c.after
        return None, gaps(self.search.task, self.search.box.inputs(changed))

    def units(self, count: int) -> float:
        return WHOLE_STEP + count * self.search.cost


def changes_of(search: Search) -> Changes:
    """The cheaper way that there is."""
    net = incremental(search.task)
    return Whole(search) if net is None else Stepwise(search, net)
