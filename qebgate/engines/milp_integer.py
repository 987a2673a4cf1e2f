"""The quantized network alone, in exact integers: the largest or smallest value of one of its outputs.

Unlike the mixed-integer program of the gap this is no relaxation: :mod:`qebgate.engines.milp_codes` writes the
network's own function in integers, and CP-SAT maximises (:mod:`qebgate.milp.cpsat`).

What follows for the gap is :func:`gap_bound`: no gap is above the largest quantized output minus the smallest float
output.  That is exact where the float side is constant, and useless where both move together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from qebgate.domains.gap import I64
from qebgate.engines.concrete import Inputs, quantized_outputs
from qebgate.engines.dra.program import program
from qebgate.engines.milp_codes import IntegerOutput, NotInteger, encode
from qebgate.milp import cpsat
from qebgate.milp.cpsat import IntegerResult
from qebgate.numerics.rounding import up
from qebgate.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class Maximum:
    """The outcome for one output and sign: ``sign * quantized output <= bound`` for every input of the region.

    ``bound`` is None where nothing was shown, and ``result.trouble`` says why.  ``best`` is the value at ``codes``
    (the input codes, flattened), which is executed: both None without a solution.  ``exact``: best is the maximum.
    """

    bound: float | None
    best: float | None
    codes: I64 | None
    exact: bool
    result: IntegerResult


def integer_maximum(
    task: Task, output: int, sign: int = 1, *, work: float = 60.0, seconds: float = 60.0, seed: int = 0
) -> Maximum:
    """Largest value (smallest, negated, for ``sign`` -1) of one quantized output over the task's grid region.

    ``output`` is a position of the flattened output, ``work`` a limit in CP-SAT's deterministic seconds and ``seconds``
    a guard of the wall clock.  Real units; exact in the task's runtime.  Where the region or the network has no exact
    integer program, ``bound`` is None.
    """
    try:
        e = encode(task, program(task), output)
    except NotInteger as why:
        return Maximum(None, None, None, False, IntegerResult("refused", None, None, None, str(why), 0.0))
    return _executed(task, output, sign, e, solve(e, sign, work=work, seconds=seconds, seed=seed))


def _executed(task: Task, output: int, sign: int, e: IntegerOutput, m: Maximum) -> Maximum:
    """The maximum with the value that is executed where it was found; nothing of it where the program has another."""
    if m.codes is None or m.best is None:
        return m
    inputs = Inputs.of_codes(task, m.codes.reshape(1, *task.cell.lower.shape))
    best = sign * float(quantized_outputs(replace(task, outputs=(output,)), inputs)[0, 0])
    slack = max(e.below, e.above) + abs(best) * 2.0**-40
    if abs(best - m.best) > slack or (m.bound is not None and best > m.bound):
        trouble = replace(m.result, trouble="an executed input contradicts the program")
        return Maximum(None, None, None, False, trouble)
    return replace(m, best=best)


def solve(e: IntegerOutput, sign: int, *, work: float, seconds: float, seed: int = 0) -> Maximum:
    """As :func:`integer_maximum`, of a network that is encoded already; ``best`` is the program's, up to roundings."""
    r = cpsat.maximize(e.model, (e.variables, sign * e.weights), work=work, seconds=seconds, seed=seed)
    if r.bound is None or r.best is None or r.x is None:
        return Maximum(None, None, None, False, r)
    slack = e.above if sign > 0 else e.below
    # exact products below 2**53, then at most one rounding each
    bound = float(up(up((r.bound + sign * e.offset) * e.unit) + slack))
    best = (r.best + sign * e.offset) * e.unit
    return Maximum(bound, best, r.x[e.codes], e.rising and r.ending == "optimal" and r.best == r.bound, r)


def gap_bound(largest: Maximum, float_lower: float) -> float | None:
    """An upper bound of ``sign * gap`` from that of ``sign * quantized`` and the least ``sign * float``."""
    return None if largest.bound is None else float(up(largest.bound - float_lower))
