"""What an analysis used, as plain arrays: slopes of all lines, which layers were back-substituted, multipliers.

For :mod:`qebgate.certify`, which derives bounds of its own from them; intercepts and intervals are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Gap
from qebgate.domains.layers import Affine
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.backward import Backward, Form, Pre, Resolved
from qebgate.engines.dra.dual import Dual, Sides
from qebgate.engines.dra.forward import PreActivation
from qebgate.engines.dra.program import direct, program
from qebgate.engines.guard import Guard
from qebgate.numerics.rounding import F64
from qebgate.task import Budget, Task


@dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """Multipliers of one search: of z, zq or D of a layer's neurons, or of the gap of a value's entries, signed.

    ``multipliers`` are value -> ``[2, R, m]``.
    """

    value: int
    kind: Literal["z", "q", "d", "gap"]
    entries: NDArray[np.intp]
    signs: F64
    multipliers: dict[int, F64]


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """Value -> slopes ``[10, m]``, value -> level of refinement, and searches; see :mod:`qebgate.certify.walk`."""

    slopes: dict[int, F64]
    refine: dict[int, int]
    targets: tuple[Searched, ...] = ()


@dataclass(frozen=True, eq=False)
class _Watched(Dual):
    """A search for multipliers that remembers what it found, and of what."""

    found: list[Searched] = field(default_factory=list[Searched])
    last: list[dict[int, Sides]] = field(default_factory=list[dict[int, Sides]])

    def search(self, forms: Mapping[int, Form], iterations: int) -> dict[int, Sides]:
        self.last[:] = [super().search(forms, iterations)]
        return self.last[0]

    def value(self, backward: Backward, target: Mapping[int, Form], iterations: int) -> F64:
        bound = super().value(backward, target, iterations)
        ((value, form),) = target.items()
        self._keep(value, "gap", form.d)
        return bound

    def before(self, backward: Backward, layer: Resolved, pre: Pre, iterations: int) -> F64:
        bound = super().before(backward, layer, pre, iterations)
        self._keep(layer.output, "d", pre.d)
        return bound

    def _keep(self, value: int, kind: Literal["d", "gap"], rows: F64 | None) -> None:
        """``rows`` have one entry of +1 or -1 each."""
        assert rows is not None
        entry = np.argmax(np.abs(rows), axis=1)
        multipliers = {v: np.stack(sides) for v, sides in self.last[0].items()}
        self.found.append(Searched(value, kind, entry, rows[np.arange(entry.size), entry], multipliers))


@dataclass
class Recorded(Analysis):
    """An analysis that keeps what it did."""

    refined: dict[int, int] = field(default_factory=dict[int, int])
    searched: list[Searched] = field(default_factory=list[Searched])

    def multipliers(self) -> Dual:
        d = super().multipliers()
        return _Watched(d.layers, d.corners, d.root, self.searched)

    def _bound(
        self,
        layer: Affine,
        inputs: Sequence[Gap],
        pre: PreActivation,
        masks: tuple[NDArray[np.bool_], NDArray[np.bool_]],
        *,
        gap: bool,
    ) -> PreActivation:
        self.refined[layer.output] = 2 if gap else 1
        return super()._bound(layer, inputs, pre, masks, gap=gap)

    @property
    def certificate(self) -> Certificate:
        """What it used."""
        return Certificate(slopes_of(self.backward.layers), self.refined, tuple(self.searched))


def certificate(task: Task, budget: Budget) -> Certificate:
    """The analysis of a task, once more, keeping what it used.  May raise GuardedStop.

    Of networks with max pools, and of linear programs, only the analysis itself is kept.
    """
    p = direct(program(task))
    a = Recorded(p.layers, p.box, Settings(work=budget.dra), pulse=Guard(budget))
    a.run()
    index = np.asarray(task.outputs, dtype=np.intp)
    gap = a.gap(p.output, index)
    if budget.slopes and task.prop.of_box(gap.lo, gap.hi) > task.prop.limit:
        a.tuned(p.output, index, gap, task.prop.limit * task.prop.unit, budget.slopes)
    best = a.sharpest or a
    assert isinstance(best, Recorded)
    return best.certificate


def slopes_of(layers: Sequence[Resolved]) -> dict[int, F64]:
    """Slopes ``[10, m]`` of resolved layers, above then below: h, hq, and delta (D, z, zq)."""
    out: dict[int, F64] = {}
    for r in layers:
        (h0, g0, d0), (h1, g1, d1) = r.over, r.under
        rows = (h0.slope, h1.slope, g0.slope, g1.slope, d0.d, d0.z, d0.q, d1.d, d1.z, d1.q)
        out[r.output] = np.stack(rows)
    return out
