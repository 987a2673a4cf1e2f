"""The mixed-integer verifier: maximise the gap itself, side by side, where everything cheaper leaves a task open.

A bound counts where two solvers have shown it: of what SCIP, HiGHS and CP-SAT prove for one side, the second best is
taken (:func:`agreed`).  It is ``solver`` evidence: floating-point branch and bound, trusted within a margin, on
well-scaled programs, and only while nothing contradicts it, neither a solver's own answer, nor the other solver's
solution, nor any input that was executed.  A stopped search still improves the bound.

Measured on networks that all else leaves open (docs/benchmarks.md): rounding as free noise, and integer codes at once
only where a single layer is rounded; SCIP first, without heuristics.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.domains.layers import Opaque
from qebgate.engines.concrete import Inputs, Session, gaps, quantized_outputs
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.program import Program, direct, program
from qebgate.engines.guard import Guard
from qebgate.engines.milp_codes import NotInteger, encode
from qebgate.engines.milp_encoding import Encoded, Encoding, applies
from qebgate.engines.milp_integer import gap_bound, solve
from qebgate.evidence import Bound, Evidence, Stopped, Witness
from qebgate.ir.tensor import Array
from qebgate.milp import mathopt
from qebgate.milp.mathopt import Limits, Solver
from qebgate.milp.model import Model
from qebgate.numerics.rounding import F64, up
from qebgate.task import Budget, Task

SOLVERS: tuple[Solver, ...] = ("gscip", "highs")
"""In this order: what the first one cannot show within its nodes, the second one is not given more time for."""
MAX_BINARIES = 4000
MAX_INTEGERS = 400
"""Open codes up to which integer codes are tried."""
MAX_COEFFICIENTS = 4_000_000
PROBES = 64
MARGIN = 1e-6
CUT_OFF = 0.995
"""Share of the limit below which the gap need not be known: more than the margin."""
PATIENCE, LEAST = 3.0, 20.0
"""Seconds of the second solver: so many times those of the first, and at least so many."""
NODE = 100_000
"""Coefficients of a program whose nodes the budget counts; smaller programs get more nodes in proportion."""
INTEGER_WORK = 1 / 64
"""CP-SAT's deterministic seconds for each of the budget's nodes."""
GAPS = ("max_abs", "max_lsb")
"""Properties that are about the gap of one output at a time."""


class Milp:
    """Applies to networks of dense layers (and sums) whose bound is still above the limit."""

    name = "milp"

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> list[Evidence]:
        start = time.monotonic()
        line = task.cell.is_point or task.cell.line is not None
        if budget.milp <= 0 or line or task.prop.kind not in GAPS:
            return []
        p = direct(program(task))
        if not applies(p.layers):
            return []
        a = session.analysis_of(task)
        if a is None:
            a = Analysis(p.layers, p.box, Settings(work=budget.dra), pulse=Guard(budget)).run()
        box = a.gap(p.output, np.asarray(task.outputs, dtype=np.intp))
        for b in known:
            if isinstance(b, Bound) and b.trust != "solver":
                box = box.meet(Interval(b.lower, b.upper))
        search = _Search(task, p, a, session, box.lo.copy(), box.hi.copy(), budget)
        search.probe(known)
        if not search.targets():
            return []
        search.all(start + budget.seconds)
        return search.evidence(time.monotonic() - start)


def agreed(bounds: Mapping[str, float]) -> float | None:
    """The least number that two solvers have shown to be an upper bound; None where only one has shown any."""
    return sorted(bounds.values())[1] if len(bounds) > 1 else None


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
    budget: Budget
    witness: Witness | None = None
    improved: bool = False
    stopped: list[str] = field(default_factory=list[str])
    shown: dict[_Target, dict[str, float]] = field(default_factory=dict[_Target, dict[str, float]])
    """What each solver has shown: upper bounds of ``sign * gap``."""
    seen: F64 = field(default_factory=lambda: np.empty((0, 2)))
    """Smallest and largest gap executed so far [K, 2]: no bound may contradict them."""
    best: dict[tuple[int, int], F64] = field(default_factory=dict[tuple[int, int], F64])
    """Where they were found."""
    outputs: F64 = field(default_factory=lambda: np.empty((0, 0)))
    """Some quantized outputs [B, K]; none where there are several runtimes."""

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
        """Tighter and tighter programs for one side, while the looser ones are solved and leave it open."""
        self.shown[target] = {}
        self._whole_numbers(target, deadline)
        few = self._open_codes() <= MAX_INTEGERS
        rounded = sum(x.grid is not None for x in self.program.layers if not isinstance(x, Opaque))
        for exact in (True,) if few and rounded == 1 else (False, True) if few else (False,):
            e = self._encode(target, exact=exact)
            if e is None or not self._solve(target, e, deadline):
                return

    def _open_codes(self) -> int:
        """Codes that are not constant, over both networks' whole depth."""
        states = self.analysis.states.values()
        return sum(int((s.codes[0] < s.codes[1]).sum()) for s in states if s.codes is not None)

    def _stop(self, target: _Target, why: str) -> None:
        self.stopped.append(f"output {self.task.outputs[target.k]}: {why}")

    def _encode(self, target: _Target, *, exact: bool) -> Encoded | None:
        output, s = self.task.outputs[target.k], target.sign
        ends = sorted((s * float(self.lower[target.k]), s * float(self.upper[target.k])))
        floor = CUT_OFF * self.task.prop.limit * self.task.prop.unit
        best = self.best[target.k, (s + 1) // 2]
        e = Encoding(self.program, self.analysis, output, exact, s, (ends[0], ends[1]), floor, best).run()
        if e.binaries > MAX_BINARIES:
            self.stopped.append(f"{e.binaries} undecided clamps are more than {MAX_BINARIES}")
            return None
        if e.scaled.model.matrix.nnz > MAX_COEFFICIENTS:
            self.stopped.append(f"{e.scaled.model.matrix.nnz} coefficients are more than {MAX_COEFFICIENTS}")
            return None
        return e

    def _solve(self, target: _Target, e: Encoded, deadline: float) -> bool:
        """One program for one side, by two solvers; whether a tighter one is worth trying."""
        model, solved = e.model, True
        nodes = round(self.budget.milp * max(1.0, NODE / max(1, model.matrix.nnz)))
        results: list[mathopt.Result] = []
        for solver in SOLVERS:
            left = deadline - time.monotonic()
            seconds = left if results else left / 2
            if results:
                seconds = min(seconds, max(LEAST, PATIENCE * results[0].seconds))
            if seconds <= 0:
                self._stop(target, "time limit reached")
                return False
            limits = Limits(seconds, nodes, self.budget.seed)
            r = mathopt.maximize(model, limits, solver=solver, hint=e.hint)
            if r.x is not None:
                self._try(e, r.x)
            if self.witness is not None:
                return False
            if r.dual is None:
                self._stop(target, f"{solver}: {r.trouble or 'no bound'}")
                return False
            bound = real_bound(e, model, r.dual)
            if bound < self._seen(target):
                self._stop(target, f"the bound of {solver} contradicts an executed input")
                return False
            results.append(r)
            if _contradict(results):
                self._stop(target, "the solvers contradict each other")
                self.shown[target].clear()
                return False
            of = self.shown[target]
            of[solver] = min(bound, of.get(solver, np.inf))
            self._tighten(target)
            solved = solved and r.ending is mathopt.Ending.OPTIMAL
        still = self._exceeds(self._bound(target))
        if still and not solved:
            self._stop(target, "effort limit reached")
        return still and solved

    def _whole_numbers(self, t: _Target, deadline: float) -> None:
        """The quantized network alone, in exact integers, where its largest output could decide the question."""
        output, index = self.task.outputs[t.k], np.asarray([self.task.outputs[t.k]])
        if not self.outputs.size:
            return
        f = self.analysis.float_value(self.program.output, index)
        float_lower = float(f.lo[0] if t.sign > 0 else -f.hi[0])
        if self._exceeds(float((t.sign * self.outputs[:, t.k]).max()) - float_lower):
            return
        codes = {o: s.codes for o, s in self.analysis.states.items() if s.codes is not None}
        try:
            e = encode(self.task, program(self.task), output, codes)
        except NotInteger:
            return
        left = (deadline - time.monotonic()) / 2
        m = solve(e, t.sign, work=INTEGER_WORK * self.budget.milp, seconds=left, seed=self.budget.seed)
        if m.codes is not None:
            self._run(Inputs.of_codes(self.task, m.codes.reshape(1, *self.task.cell.lower.shape)))
        bound = gap_bound(m, float_lower)
        if bound is None:
            self._stop(t, m.result.trouble or "no bound")
        elif bound < self._seen(t):
            self._stop(t, "the bound of CP-SAT contradicts an executed input")
        else:
            self.shown[t]["cpsat"] = bound

    def _tighten(self, t: _Target) -> None:
        bound = agreed(self.shown[t])
        if bound is None or bound >= self._bound(t):
            return
        if t.sign > 0:
            self.upper[t.k] = max(bound, self.lower[t.k])
        else:
            self.lower[t.k] = min(-bound, self.upper[t.k])
        self.improved = True

    def _bound(self, t: _Target) -> float:
        return float(self.upper[t.k] if t.sign > 0 else -self.lower[t.k])

    def _seen(self, t: _Target) -> float:
        """Largest ``sign * gap`` executed so far."""
        return float(t.sign * self.seen[t.k, (t.sign + 1) // 2])

    def _exceeds(self, gap: float) -> bool:
        g = np.array([gap])
        return not self.task.prop.of_box(-g, g) <= self.task.prop.limit

    def _try(self, e: Encoded, x: F64) -> None:
        """Execute the input that a solver's solution stands for."""
        cell, codec = self.task.cell, self.task.codec
        real = e.scaled.real(x)[e.x].reshape(cell.lower.shape)
        if cell.codes is None:
            inputs = Inputs.of_reals(self.task, np.clip(real.astype(np.float32), cell.lower, cell.upper)[None])
        else:
            codes = np.rint(real / codec.scale) + codec.zero_point
            inputs = Inputs.of_codes(self.task, np.clip(codes, cell.codes[0], cell.codes[1]).astype(np.int32)[None])
        self._run(inputs)

    def _run(self, inputs: Inputs) -> None:
        """Execute one input; replay it where it violates the property."""
        gap = gaps(self.task, inputs)
        self._note(gap, inputs.x)
        if self.task.prop.of_gap(gap) > self.task.prop.limit:
            witness = self.session.witness(self.task, inputs, Milp.name)
            if self.task.prop.of_gap(witness.gap) > self.task.prop.limit:
                self.witness = witness

    def probe(self, known: Sequence[Evidence]) -> None:
        """Execute some inputs of the region: whatever a solver says must agree with them."""
        cell, rng = self.task.cell, np.random.default_rng(self.budget.seed)
        where = rng.random((PROBES, *cell.lower.shape))
        where[: PROBES // 2] = where[: PROBES // 2].round()
        if cell.codes is None:
            x = (cell.lower + where * (cell.upper - cell.lower)).astype(np.float32)
            inputs = Inputs.of_reals(self.task, np.clip(x, cell.lower, cell.upper))
        else:
            width = cell.codes[1] - cell.codes[0]
            inputs = Inputs.of_codes(self.task, cell.codes[0] + np.rint(where * width))
        gap = gaps(self.task, inputs)
        self.seen = np.stack([np.full(self.lower.size, np.inf), np.full(self.lower.size, -np.inf)], axis=1)
        self._note(gap, inputs.x)
        one = len(self.task.runtime.members) == 1
        if one:
            self.outputs = quantized_outputs(self.task, inputs)
        for w in known:
            if isinstance(w, Witness):
                self._note(w.gap[None], np.asarray(w.x)[None])

    def _note(self, gap: F64, x: Array) -> None:
        """Remember gaps ``[B, K]`` of inputs ``[B, *shape]``."""
        for side, sign in ((0, -1), (1, 1)):
            row = (sign * gap).argmax(axis=0)
            value = gap[row, np.arange(gap.shape[1])]
            for k in np.flatnonzero(sign * value > sign * self.seen[:, side]).tolist():
                self.seen[k, side] = value[k]
                self.best[k, side] = x[row[k]].astype(np.float64).ravel()

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


def _contradict(results: Sequence[mathopt.Result]) -> bool:
    """Whether one solver's solution is beyond another one's bound of the same program."""
    for a in results:
        for b in results:
            if a.primal is not None and b.dual is not None:
                slack = 100 * mathopt.TOLERANCE * (1.0 + abs(b.dual))
                if not a.primal <= b.dual + slack:
                    return True
    return False


def real_bound(e: Encoded, model: Model, dual: float) -> float:
    """An upper bound of ``sign * delta`` in real units from a dual bound in the program's own, with its margin.

    The margin is relative to the program's rows: scaling a network leaves it unchanged.
    """
    margin = MARGIN * (1.0 + abs(dual) + model.activity)
    centre, scale = float(e.scaled.centre[e.objective]), float(e.scaled.scale[e.objective])
    return float(up(up(centre + scale * (dual + margin))))
