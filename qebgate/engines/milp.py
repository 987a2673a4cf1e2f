"""The mixed-integer verifier: maximise the gap itself, output by output, where DRA leaves a task open.

Three relaxations in turn, each only while the limit is still exceeded: the linear one, binaries with free
rounding noise, and, where few codes are open, integer codes.  A stopped search still improves the bound.
Bounds are ``solver`` evidence: floating-point branch and bound, trusted within a margin and only while
nothing contradicts it, neither the solver's own answer nor any input that was executed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.engines.concrete import Inputs, Session, gaps
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.program import Program, program
from qebgate.engines.milp_encoding import Encoded, Encoding, applies
from qebgate.evidence import Bound, Evidence, Stopped, Witness
from qebgate.milp import mathopt
from qebgate.milp.model import Model
from qebgate.numerics.rounding import F64, up
from qebgate.task import Budget, Task

MAX_BINARIES = 4000
MAX_INTEGERS = 200
"""Open codes up to which integer codes are tried."""
MAX_COEFFICIENTS = 4_000_000
PROBES = 64
MARGIN = 1e-6
FIRST_SHARE = 0.4
"""Share of an objective's time for the program with free rounding, where integer codes may follow."""


class Milp:
    """Applies to networks of dense layers (and sums) whose bound is still above the limit."""

    name = "milp"

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> list[Evidence]:
        start = time.monotonic()
        if budget.milp <= 0 or task.cell.is_point or task.cell.line is not None:
            return []
        p = program(task)
        if not applies(p.layers):
            return []
        a = Analysis(p.layers, p.box, Settings(work=budget.dra)).run()
        box = _known_bounds(known) or a.gap(p.output, np.asarray(task.outputs, dtype=np.intp))
        search = _Search(task, p, a, session, box.lo.copy(), box.hi.copy(), budget.seed)
        search.probe(known)
        if not search.targets():
            return []
        limit = min(budget.milp, budget.seconds)
        search.all(start + limit)
        return search.evidence(time.monotonic() - start)


@dataclass(frozen=True, slots=True)
class _Target:
    """One side of one compared output: ``k`` is its position in ``task.outputs``."""

    k: int
    sign: int


@dataclass
class _Search:
    """The state of one task: bounds that shrink, a witness when one is found, reasons to have stopped."""

    task: Task
    program: Program
    analysis: Analysis
    session: Session
    lower: F64
    upper: F64
    seed: int
    witness: Witness | None = None
    improved: bool = False
    stopped: list[str] = field(default_factory=list)
    seen_lower: F64 = field(default_factory=lambda: np.empty(0))
    """Smallest and largest gap executed so far, per output: no bound may contradict them."""
    seen_upper: F64 = field(default_factory=lambda: np.empty(0))

    def targets(self) -> list[_Target]:
        """Open sides, the worst first."""
        found = [_Target(k, s) for k in range(self.lower.size) for s in (-1, 1)]
        return sorted((t for t in found if self._exceeds(self._bound(t))), key=lambda t: -self._bound(t))

    def all(self, deadline: float) -> None:
        """Work on every open side until all are closed, a witness is found or time is up."""
        targets = self.targets()
        for n, target in enumerate(targets):
            left = deadline - time.monotonic()
            if left <= 0:
                self.stopped.append(f"no time left for {len(targets) - n} of {len(targets)} objectives")
                return
            self.session.progress(Milp.name, n, len(targets))
            self._improve(target, time.monotonic() + left / (len(targets) - n))
            if self.witness is not None:
                return

    def _improve(self, target: _Target, deadline: float) -> None:
        free = self._encode(target, exact=False)
        if free is None:
            return
        exact = self._open_codes() <= MAX_INTEGERS
        stages: list[tuple[Encoded, bool, float]] = [(free, True, 1.0)]
        if free.binaries:
            stages.append((free, False, FIRST_SHARE if exact else 1.0))
        for encoded, relaxed, share in stages:
            if not self._solve(target, encoded, relaxed, share * (deadline - time.monotonic())):
                return
        coded = self._encode(target, exact=True) if exact else None
        if coded is not None:
            self._solve(target, coded, False, deadline - time.monotonic())

    def _open_codes(self) -> int:
        """Codes that are not constant, over both networks' whole depth."""
        states = self.analysis.states.values()
        return sum(int((s.codes[0] < s.codes[1]).sum()) for s in states if s.codes is not None)

    def _stop(self, target: _Target, why: str) -> None:
        self.stopped.append(f"output {self.task.outputs[target.k]}: {why}")

    def _encode(self, target: _Target, *, exact: bool) -> Encoded | None:
        e = Encoding(self.program, self.analysis, self.task.outputs[target.k], exact).run()
        if e.binaries > MAX_BINARIES:
            self.stopped.append(f"{e.binaries} undecided clamps are more than {MAX_BINARIES}")
            return None
        if e.scaled.model.matrix.nnz > MAX_COEFFICIENTS:
            self.stopped.append(f"{e.scaled.model.matrix.nnz} coefficients are more than {MAX_COEFFICIENTS}")
            return None
        return e

    def _solve(self, target: _Target, e: Encoded, relaxed: bool, seconds: float) -> bool:
        """One program for one side; whether it is worth going on with a tighter one."""
        if seconds <= 0:
            self._stop(target, "time limit reached")
            return False
        model = e.scaled.model.relaxed() if relaxed else e.scaled.model
        objective = np.zeros(model.lo.size)
        objective[e.delta] = target.sign
        model = model.aiming(objective)
        result = mathopt.maximize(model, seconds=seconds, seed=self.seed)
        if result.x is not None:
            self._try(e, result.x)
        if self.witness is not None:
            return False
        if result.dual is None:
            self._stop(target, result.trouble or "no bound")
            return False
        bound = real_bound(e, model, target.sign, result.dual)
        if bound < self._seen(target):
            self._stop(target, "the solver's bound contradicts an executed input")
            return False
        self._tighten(target, bound)
        still = self._exceeds(self._bound(target))
        if still and result.ending is mathopt.Ending.LIMIT:
            self._stop(target, "time limit reached")
        return still

    def _tighten(self, t: _Target, bound: float) -> None:
        if t.sign > 0 and bound < self.upper[t.k]:
            self.upper[t.k] = max(bound, self.lower[t.k])
            self.improved = True
        elif t.sign < 0 and -bound > self.lower[t.k]:
            self.lower[t.k] = min(-bound, self.upper[t.k])
            self.improved = True

    def _bound(self, t: _Target) -> float:
        return float(self.upper[t.k] if t.sign > 0 else -self.lower[t.k])

    def _seen(self, t: _Target) -> float:
        return float(self.seen_upper[t.k] if t.sign > 0 else -self.seen_lower[t.k])

    def _exceeds(self, gap: float) -> bool:
        g = np.array([gap])
        return not self.task.prop.of_box(-g, g) <= self.task.prop.limit

    def _try(self, e: Encoded, x: F64) -> None:
        """Execute the input that a solver's solution stands for; replay it where it violates the property."""
        inputs = self._input(e, e.scaled.real(x))
        gap = gaps(self.task, inputs)
        self._note(gap)
        if self.task.prop.of_gap(gap) > self.task.prop.limit:
            witness = self.session.witness(self.task, inputs, Milp.name)
            if self.task.prop.of_gap(witness.gap) > self.task.prop.limit:
                self.witness = witness

    def _input(self, e: Encoded, real: F64) -> Inputs:
        cell, codec = self.task.cell, self.task.codec
        x = real[e.x].reshape(cell.lower.shape)
        if cell.codes is None:
            return Inputs.of_reals(self.task, np.clip(x.astype(np.float32), cell.lower, cell.upper)[None])
        codes = np.rint(x / codec.scale) + codec.zero_point
        return Inputs.of_codes(self.task, np.clip(codes, cell.codes[0], cell.codes[1]).astype(np.int32)[None])

    def probe(self, known: Sequence[Evidence]) -> None:
        """Execute some inputs of the region: whatever a solver says must agree with them."""
        cell, rng = self.task.cell, np.random.default_rng(self.seed)
        where = rng.random((PROBES, *cell.lower.shape))
        where[: PROBES // 2] = where[: PROBES // 2].round()
        if cell.codes is None:
            x = (cell.lower + where * (cell.upper - cell.lower)).astype(np.float32)
            inputs = Inputs.of_reals(self.task, np.clip(x, cell.lower, cell.upper))
        else:
            width = cell.codes[1] - cell.codes[0]
            inputs = Inputs.of_codes(self.task, cell.codes[0] + np.rint(where * width))
        gap = gaps(self.task, inputs)
        self.seen_lower, self.seen_upper = gap.min(axis=0), gap.max(axis=0)
        for w in known:
            if isinstance(w, Witness):
                self._note(w.gap[None])

    def _note(self, gap: F64) -> None:
        self.seen_lower = np.minimum(self.seen_lower, gap.min(axis=0))
        self.seen_upper = np.maximum(self.seen_upper, gap.max(axis=0))

    def evidence(self, seconds: float) -> list[Evidence]:
        """What is to be told."""
        out: list[Evidence] = []
        if self.improved:
            out.append(Bound(self.lower, self.upper, "solver", Milp.name, seconds))
        if self.witness is not None:
            out.append(self.witness)
        elif self.targets():
            reasons = list(dict.fromkeys(self.stopped)) or ["the optimum of the tightest program exceeds the limit"]
            more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
            out.append(Stopped(Milp.name, "effort", "; ".join(reasons[:3]) + more))
        return out


def real_bound(e: Encoded, model: Model, sign: int, dual: float) -> float:
    """An upper bound of ``sign * delta`` in real units from a dual bound in the program's own, with its margin.

    The margin is relative to the program's rows: scaling a network leaves it unchanged.
    """
    margin = MARGIN * (1.0 + abs(dual) + model.activity)
    centre, scale = float(e.scaled.centre[e.delta]), float(e.scaled.scale[e.delta])
    return float(up(up(sign * centre + scale * (dual + margin))))


def _known_bounds(known: Sequence[Evidence]) -> Interval | None:
    """All bounds so far, intersected."""
    out: Interval | None = None
    for b in known:
        if isinstance(b, Bound):
            here = Interval(b.lower, b.upper)
            out = here if out is None else out.meet(here)
    return out
