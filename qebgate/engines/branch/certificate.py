"""Branch trees as plain data for :mod:`qebgate.certify`: the leaves' splits, and their multipliers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.branch.dual import Multipliers, Region
from qebgate.engines.branch.engine import Prepared, applies
from qebgate.engines.branch.hidden import Sharpened
from qebgate.engines.branch.search import Found
from qebgate.engines.branch.tree import Node, Split, Tree
from qebgate.engines.dra.certificate import Searched
from qebgate.engines.dra.program import Program
from qebgate.engines.guard import Guard
from qebgate.numerics.rounding import F64
from qebgate.task import Budget

Splits = tuple[Split, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Leaves:
    """Leaves of one side of one output, and value -> splits ``[S, 6]``: leaf, neuron, ends of z, ends of the code."""

    searched: Searched
    splits: dict[int, F64]


@dataclass
class _Recorder(Tree):
    """A tree that keeps its leaves."""

    leaves: list[tuple[Splits, Multipliers | None]] = field(default_factory=list[tuple[Splits, "Multipliers | None"]])
    bounded: set[Splits] = field(default_factory=set[Splits])

    def _again(self) -> None:
        super()._again()
        self.leaves.clear()

    def _bound(self, parts: list[tuple[Splits, Node]], enough: float, pulse: Callable[[], None]) -> F64:
        self.bounded.clear()
        bounds = super()._bound(parts, enough, pulse)
        self.leaves += [(s, None) for s, _ in parts if s not in self.bounded]  # nothing of the region is in them
        return bounds

    def _keep(
        self, splits: Sequence[Splits], region: Region, found: Found, parents: Sequence[float], enough: float
    ) -> F64:
        before = {id(n) for _, _, n in self.open} | {id(n) for n in self.stuck}
        bounds = super()._keep(splits, region, found, parents, enough)
        left = {n.splits for n in (*(n for _, _, n in self.open), *self.stuck) if id(n) not in before}
        self.bounded |= set(splits)
        for k, s in enumerate(splits):
            if s not in left:
                self.leaves.append((s, {i: (lam[k], mu[k]) for i, (lam, mu) in found.multipliers.items()}))
        return bounds


def branch_certificate(p: Program, sides: Sequence[tuple[int, float]], enough: float, budget: Budget) -> list[Leaves]:
    """Trees that prove ``sign * gap <= enough`` at some entries of the output, where that is within the budget."""
    if not applies(p):
        return []
    guard = Guard(budget)
    prepared = Prepared.of(p, budget, guard)
    out = [Leaves(_searched(s), {}) for s in prepared.sharpened]
    left = budget.branch
    for entry, sign in sides:
        tree = prepared.tree(p.output, entry, sign, _Recorder)
        assert isinstance(tree, _Recorder)
        tree.run(enough, left, guard)
        left -= tree.nodes
        if tree.open or tree.stuck:
            break
        out.append(_leaves(tree, p.output, entry, sign))
    return out


def _searched(s: Sharpened) -> Searched:
    multipliers = {v: np.stack(both) for v, both in s.multipliers.items()}
    return Searched(s.layer, s.kind, s.entries, s.signs, multipliers)


def _leaves(tree: _Recorder, output: int, entry: int, sign: float) -> Leaves:
    count = len(tree.leaves)
    multipliers: dict[int, F64] = {}
    for v, (lam, _) in tree.start.items():
        multipliers[v] = np.zeros((2, count, lam.shape[1]))
        for k, (_, m) in enumerate(tree.leaves):
            if m is not None:
                multipliers[v][:, k] = m[v]
    ends: dict[int, dict[tuple[int, int], list[float]]] = {}
    for k, (splits, _) in enumerate(tree.leaves):
        for s in splits:
            e = ends.setdefault(s.layer, {}).setdefault((k, s.neuron), [-np.inf, np.inf, -np.inf, np.inf])
            at = 0 if s.kind == "z" else 2
            e[at : at + 2] = [max(e[at], s.at), e[at + 1]] if s.upper else [e[at], min(e[at + 1], s.at)]
    columns = {v: np.array([[*where, *e] for where, e in found.items()], np.float64) for v, found in ends.items()}
    entries: NDArray[np.intp] = np.full(count, entry, np.intp)
    return Leaves(Searched(output, "gap", entries, np.full(count, sign), multipliers), columns)
