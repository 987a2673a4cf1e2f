"""Branch and bound as an engine."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from qebgate.domains.layers import Affine
from qebgate.engines.branch.dual import Dual, Target
from qebgate.engines.branch.search import ROOT_STEPS
from qebgate.engines.branch.tree import Tree
from qebgate.engines.concrete import Session
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.program import Program, direct, program
from qebgate.engines.guard import Guard, GuardedStop
from qebgate.errors import InternalError
from qebgate.evidence import Bound, Evidence, Stopped
from qebgate.numerics.rounding import F64
from qebgate.task import Budget, Task

WIDEST = 1 << 14
"""Neurons of a layer at most."""


def applies(p: Program) -> bool:
    """Whether every layer has a dual: linear maps, clamps and rounding, of a size that many nodes can share."""
    return all(isinstance(layer, Affine) and layer.m <= WIDEST for layer in p.layers)


class Branch:
    """Applies to regions of more than one input, to networks of linear maps, clamps and rounding.

    Works on one side of one output at a time, the worst first, until all are within the limit or the
    nodes are used up; what was reached counts.
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
        a = Analysis(p.layers, p.box, Settings(work=budget.dra), pulse=guard).run()
        index = np.asarray(task.outputs, dtype=np.intp)
        gap = a.gap(p.output, index)
        lower, upper = gap.lo.copy(), gap.hi.copy()
        for b in known:
            if isinstance(b, Bound) and b.trust != "solver":
                lower, upper = np.maximum(lower, b.lower), np.minimum(upper, b.upper)
        dual = Dual(p, a)
        lines = {r.output: r for r in a.backward.layers}
        size = a.states[p.output].size
        limit = task.prop.limit * task.prop.unit
        left = budget.branch
        stopped: list[Evidence] = []
        try:
            for k, sign in _sides(lower, upper, limit):
                target = Target.gap(p.output, size, int(index[k]), sign)
                tree = Tree(dual, target, dual.start(target, lines), ROOT_STEPS)

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
                if tree.bound > limit:
                    stopped = [Stopped(self.name, "effort", f"{tree.nodes} nodes leave a bound of {tree.bound:.6g}")]
                if left <= 0:
                    break
        except GuardedStop as stop:
            stopped = [Stopped(self.name, stop.reason, stop.detail)]
        return [Bound(lower, upper, "certified", self.name, time.monotonic() - start), *stopped]


def _sides(lower: F64, upper: F64, limit: float) -> list[tuple[int, float]]:
    """Outputs and signs whose bound is beyond the limit, the worst first."""
    sides = [(float(v), k, 1.0) for k, v in enumerate(upper)] + [(float(-v), k, -1.0) for k, v in enumerate(lower)]
    return [(k, sign) for v, k, sign in sorted(sides, key=lambda s: (-s[0], s[1], s[2])) if v > limit]
