"""Branch and bound as an engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qebgate.domains.layers import Affine
from qebgate.engines.branch.dual import Dual, Target
from qebgate.engines.branch.hidden import Sharpened, sharpen
from qebgate.engines.branch.search import ROOT_STEPS
from qebgate.engines.branch.tree import Tree
from qebgate.engines.concrete import Inputs, Session, gaps
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.backward import Resolved
from qebgate.engines.dra.program import Program, direct, program
from qebgate.engines.guard import Guard, GuardedStop
from qebgate.errors import InternalError
from qebgate.evidence import Bound, Evidence, Stopped, Witness
from qebgate.numerics.rounding import F64
from qebgate.task import Budget, Task, witnessed

WIDEST = 1 << 14
"""Neurons of a layer at most."""


def applies(p: Program) -> bool:
    """Whether every layer has a dual: linear maps, clamps and rounding, of a size that many nodes can share."""
    return all(isinstance(layer, Affine) and layer.m <= WIDEST for layer in p.layers)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What all trees of a program share: the dual over the whole region, lines to start from, hidden bounds."""

    dual: Dual
    analysis: Analysis
    lines: Mapping[int, Resolved]
    sharpened: Sequence[Sharpened]

    @classmethod
    def of(cls, p: Program, budget: Budget, pulse: Callable[[], None]) -> Prepared:
        a = Analysis(p.layers, p.box, Settings(work=budget.dra), pulse=pulse).run()
        dual, lines = Dual(p, a), {r.output: r for r in a.backward.layers}
        return cls(dual, a, lines, sharpen(dual, lines, budget.dra, pulse))

    def tree(self, output: int, entry: int, sign: float, kind: type[Tree] = Tree) -> Tree:
        target = Target.gap(output, self.analysis.states[output].size, entry, sign)
        return kind(self.dual, target, self.dual.start(target, self.lines), ROOT_STEPS)


class Branch:
    """Applies to regions of more than one input, to networks of linear maps, clamps and rounding.

    Works on one side of one output at a time, the worst first, until all are within the limit or the
    nodes are used up; what was reached counts.  Inputs that nodes end with are executed: one that violates the
    property is a witness, and ends it.
    """

    name = "branch"

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> list[Evidence]:
        start = time.monotonic()
        if budget.branch <= 0 or task.cell.is_point:
            return []
        p = direct(program(task))
        if not applies(p):
            return []
        guard = Guard(budget)
        prepared = Prepared.of(p, budget, guard)
        index = np.asarray(task.outputs, dtype=np.intp)
        gap = prepared.analysis.gap(p.output, index)
        lower, upper = gap.lo.copy(), gap.hi.copy()
        for b in known:
            if isinstance(b, Bound) and b.trust != "solver":
                lower, upper = np.maximum(lower, b.lower), np.minimum(upper, b.upper)
        limit = task.prop.limit * task.prop.unit
        left = budget.branch
        probe = _Probe(task, session)
        stopped: list[Evidence] = []
        try:
            for k, sign in _sides(lower, upper, limit):
                tree = prepared.tree(p.output, int(index[k]), sign)
                tree.probe = probe

                def pulse(tree: Tree = tree, left: int = left) -> None:
                    guard()
                    session.progress(self.name, budget.branch - left + tree.nodes, budget.branch)

                try:
                    tree.run(limit, left, pulse)
                finally:
                    if tree.nodes:
                        side = upper if sign > 0 else -lower
                        best = min(float(side[k]), tree.bound)
                        if sign > 0:
                            upper[k] = best
                        else:
                            lower[k] = -best
                if tree.bound == -np.inf:
                    raise InternalError("QEB913", "branch and bound found the whole region empty")
                left -= tree.nodes
                if probe.found:
                    break
                if tree.bound > limit:
                    stopped = [Stopped(self.name, "effort", f"{tree.nodes} nodes leave a bound of {tree.bound:.6g}")]
                if left <= 0:
                    break
        except GuardedStop as stop:
            stopped = [Stopped(self.name, stop.reason, stop.detail)]
        return [Bound(lower, upper, "certified", self.name, time.monotonic() - start), *probe.found, *stopped]


@dataclass(slots=True, eq=False)
class _Probe:
    """Executes inputs that nodes propose; keeps a witness against the property."""

    task: Task
    session: Session
    found: list[Witness] = field(default_factory=list[Witness])

    def __call__(self, x: F64) -> bool:
        """Whether one of some inputs [B, n] violates the property, also when it is replayed."""
        task, prop = self.task, self.task.prop
        if task.cell.line is not None or not prop.of_gap_alone or len(task.runtime.members) > 1:
            return False
        inputs = inputs_of(task, x)
        gap = gaps(task, inputs)
        row = int(np.abs(gap).max(axis=1).argmax())
        if prop.of_gap(gap[row : row + 1]) <= prop.limit:
            return False
        witness = self.session.witness(task, inputs.take(slice(row, row + 1)), Branch.name)
        if witnessed(prop, witness) <= prop.limit:
            return False
        self.found.append(witness)
        return True


def inputs_of(task: Task, x: F64) -> Inputs:
    """Real inputs [B, n] as nearest inputs of the task's region."""
    cell, codec = task.cell, task.codec
    x = x.reshape(-1, *cell.lower.shape)
    if cell.codes is None:
        return Inputs.of_reals(task, np.clip(x.astype(np.float32), cell.lower, cell.upper))
    codes = np.rint(x / codec.scale) + codec.zero_point
    return Inputs.of_codes(task, np.clip(codes, cell.codes[0], cell.codes[1]))


def _sides(lower: F64, upper: F64, limit: float) -> list[tuple[int, float]]:
    """Outputs and signs whose bound is beyond the limit, the worst first."""
    sides = [(float(v), k, 1.0) for k, v in enumerate(upper)] + [(float(-v), k, -1.0) for k, v in enumerate(lower)]
    return [(k, sign) for v, k, sign in sorted(sides, key=lambda s: (-s[0], s[1], s[2])) if v > limit]
