"""Statistical evidence: how rare inputs beyond the limit are, from independent ones.  It is never a proof.

How many inputs are run is computed before the first one is: so many that, if none of them is beyond the limit, the
share of such inputs is at most the asked rate, with the asked confidence.  What was seen is then bounded by Clopper
and Pearson (Biometrika 26, 1934): the bound holds for every true share, and rests on nothing but independence.

Both networks are executed bit-exactly: the quantized one as its runtime computes it, the float one by the installed
runtime where that evaluates its file, else in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, Context, Decimal

import numpy as np

from qebgate.engines.concrete import Inputs, Session, float_outputs, quantized_outputs
from qebgate.engines.enumerate import batch
from qebgate.engines.guard import Guard, GuardedStop
from qebgate.evidence import Evidence, Sampled, Stopped
from qebgate.numerics.rounding import F64
from qebgate.regions.cell import Cell
from qebgate.semantics.execute import exact
from qebgate.task import Budget, Sampling, Task

BATCH = 4096
WIDER = 1e-9
"""Relative: more than the error of the incomplete beta function's inverse."""
_EXACT = Context(prec=60)


def needed(confidence: float, rate: float) -> int:
    """The smallest n with ``(1 - rate) ** n <= 1 - confidence``: none of so many inputs may be beyond the limit."""
    left, kept = _EXACT.subtract(1, Decimal(confidence)), _EXACT.subtract(1, Decimal(rate))
    n = int(_EXACT.divide(_EXACT.ln(left), _EXACT.ln(kept)).to_integral_value(ROUND_CEILING))
    return n if _EXACT.power(kept, n) <= left else n + 1


def clopper_pearson(n: int, failures: int, confidence: float) -> tuple[float, float]:
    """Lower and upper bound of the share that ``failures`` of ``n`` come from; each holds with ``confidence``."""
    from scipy.special import betaincinv

    lower = 0.0 if failures == 0 else float(betaincinv(failures, n - failures + 1, 1 - confidence))
    upper = 1.0 if failures == n else float(betaincinv(failures + 1, n - failures, confidence))
    if failures == 0:  # exactly 1 - (1 - confidence) ** (1 / n), rounded up
        root = _EXACT.power(_EXACT.subtract(1, Decimal(confidence)), _EXACT.divide(1, n))
        return 0.0, float(np.nextafter(float(_EXACT.subtract(1, root)), 1.0))
    return max(0.0, lower * (1 - WIDER)), min(1.0, upper * (1 + WIDER))


class Statistical:
    """Applies where the policy asks for it: the task then says from what inputs are drawn."""

    name = "statistical"

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> list[Evidence]:
        del known
        asked = task.sampling
        if asked is None:
            return []
        guard, done, failures = Guard(budget), 0, 0
        worst: tuple[float, Inputs] | None = None
        limit = task.prop.limit
        try:
            for inputs in drawn(task, asked):
                scores = _scores(task, inputs, session)
                failures += int((~(scores <= limit)).sum())
                row = int(np.argmax(scores))
                if worst is None or scores[row] > worst[0]:
                    worst = float(scores[row]), inputs.take(slice(row, row + 1))
                done += len(inputs)
                session.progress(self.name, done, asked.n)
                guard()
        except GuardedStop as stop:
            return [Stopped(self.name, stop.reason, f"{done} of {asked.n} inputs: {stop.detail}")]
        assert worst is not None and done == asked.n
        lower, upper = clopper_pearson(done, failures, asked.confidence)
        found: list[Evidence] = [Sampled(done, failures, lower, upper, self.name)]
        if upper > asked.max_failure_rate:
            found.append(Stopped(self.name, "effort", f"{failures} of {done} inputs are beyond the limit"))
        return [*found, session.witness(task, worst[1], self.name)]


def drawn(task: Task, asked: Sampling) -> Iterator[Inputs]:
    """The sample, some inputs at a time."""
    size = min(BATCH, batch(task))
    if asked.rows:
        for k in range(0, asked.n, size):
            cells = asked.cells[k : min(k + size, asked.n)]
            yield _inputs(task, np.stack([_ends(c)[0] for c in cells]))
        return
    rng = np.random.default_rng(asked.seed)
    ends = [_ends(c) for c in asked.cells]
    for k in range(0, asked.n, size):
        n = min(size, asked.n - k)
        which = rng.integers(len(ends), size=n)
        lo, hi = np.stack([ends[i][0] for i in which]), np.stack([ends[i][1] for i in which])
        if task.cell.codes is not None:
            yield _inputs(
                task, rng.integers(lo.astype(np.int64), hi.astype(np.int64), endpoint=True).astype(np.float64)
            )
        else:
            x = lo + (hi - lo) * rng.random(lo.shape)
            yield _inputs(task, x.astype(np.float32).clip(lo.astype(np.float32), hi.astype(np.float32)))


def _ends(cell: Cell) -> tuple[F64, F64]:
    ends = (cell.lower, cell.upper) if cell.codes is None else cell.codes
    return ends[0].astype(np.float64), ends[1].astype(np.float64)


def _inputs(task: Task, points: F64) -> Inputs:
    return Inputs.of_codes(task, points) if task.cell.codes is not None else Inputs.of_reals(task, points)


def _scores(task: Task, inputs: Inputs, session: Session) -> F64:
    """The figures [B]; of an envelope the largest of its runtimes'."""
    found: list[F64] = []
    for runtime in task.runtime.members:
        t = replace(task, runtime=runtime)
        found.append(t.prop.scores(_quantized(t, inputs, session), _floats(t, inputs, session)))
    return np.max(found, axis=0)


def _quantized(task: Task, inputs: Inputs, session: Session) -> F64:
    """The quantized outputs [B, K]: executed here where that is exact, else by the runtime itself."""
    if exact(task.pair.quantized) or task.runtime.emulated:
        return quantized_outputs(task, inputs)
    given = inputs.x if inputs.codes is None else inputs.codes
    return session.outputs(task.pair.quantized, given, task.runtime)[:, list(task.outputs)]


def _floats(task: Task, inputs: Inputs, session: Session) -> F64:
    """The float outputs [B, K] as the runtime returns them, or in float64 (module docstring)."""
    replayed = task.pair.float.source.format == "tflite" and not task.runtime.emulated
    if task.float_semantics == "float32" and replayed:
        return session.outputs(task.pair.float, inputs.x, task.runtime)[:, list(task.outputs)]
    return float_outputs(task, inputs)
