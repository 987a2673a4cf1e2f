"""Staircases in exact integers: where their steps are, the straight line that they follow, and the rows that say so.

A step is known by the last argument before it and the first one on it: what lies between does not occur.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from qebgate.domains.gap import I64
from qebgate.milp import cpsat
from qebgate.milp.cpsat import IntegerModel

FEW_STEPS = 3
"""Staircases of so few steps are written step by step."""
MAX_STEPS = 20_000
"""Steps written one by one, in a whole program."""
MAX_ROWS = 200_000
"""Rows of all tables of a program."""
SHARPEST = 27
"""Bits of the larger weight of :func:`plane`."""


class NotInteger(Exception):  # noqa: N818  (ends the encoding, is no error)
    """Why a network, or a region, has no integer program here."""


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """``low`` and ``height`` more at each step: ``before < step <= first``, ascending; all of one length."""

    low: int
    before: I64
    first: I64
    height: I64

    @property
    def high(self) -> int:
        return self.low + int(self.height.sum())

    @classmethod
    def of_values(cls, x: I64, y: I64) -> Steps | None:
        """Of ``y`` at the ascending arguments ``x``; None where it falls, or one argument has two values."""
        order = np.lexsort((y, x))
        x, y = x[order], y[order]
        jump = np.diff(y)
        at = np.flatnonzero(jump)
        if (jump < 0).any() or (np.diff(x)[at] == 0).any():
            return None
        return cls(int(y[0]), x[at], x[at + 1], jump[at])

    @classmethod
    def of_firsts(cls, low: int, first: I64) -> Steps:
        """One more at each of the ascending integers ``first``, which may be equal."""
        at, height = np.unique(first, return_counts=True)
        return cls(low, at - 1, at, height.astype(np.int64))


@dataclass
class CodeModel(IntegerModel):
    """Also collects functions of one variable."""

    stepped: int = 0
    """Steps written one by one."""
    listed_rows: int = 0
    """Rows of all tables."""

    def function(self, v: int, x: I64, y: I64) -> int:
        """A variable that is ``y`` where another one is ``x``; ``v`` is not read where it is a constant."""
        if (y == y[0]).all():
            return self.variable(int(y[0]), int(y[0]))
        if (x == y).all():
            return v
        steps = Steps.of_values(x, y)
        if steps is not None:
            return self.stair(v, steps)
        k = self.variable(int(y.min()), int(y.max()))
        self.listed([v, k], np.stack([x, y], axis=1))
        return k

    def listed(self, variables: Sequence[int], rows: I64) -> None:
        self.listed_rows += len(rows)
        if self.listed_rows > MAX_ROWS:
            raise NotInteger(f"more than {MAX_ROWS} rows of tables")
        self.table(variables, rows)

    def total(self, x: I64, a: I64, offset: int = 0) -> int:
        """A variable that is ``sum a_i x_i + offset``."""
        lo, hi = self.range(x, a)
        out = self.variable(lo + offset, hi + offset)
        self.row(np.append(x, out), np.append(a, -1), -offset, -offset)
        return out

    def stair(self, x: int, s: Steps) -> int:
        """A variable that is the staircase of another one."""
        line = straight(s) if s.first.size > FEW_STEPS else None
        if line is not None:
            a, c, d = line  # level j begins where a x >= c j + d, j from 0
            least, most = ((a * b - d) // c + 1 for b in (self.lo[x], self.hi[x]))
            t = self.variable(s.low + least, s.low + most)
            # 0 <= a x - d - c (t - low - 1) <= c - 1
            side = d - c * (s.low + 1)
            self.row(np.asarray([x, t]), np.asarray([a, -c]), side, side + c - 1)
            return self.clamp(t, s.low, s.high)
        n = s.first.size
        self.stepped += n
        if self.stepped > MAX_STEPS:
            raise NotInteger(f"more than {MAX_STEPS} steps of staircases")
        k = self.variable(s.low, s.high)
        b = self.variables(np.zeros(n, np.int64), np.ones(n, np.int64))
        self.row(np.append(b, k), np.append(s.height, -1), -s.low, -s.low)
        one = np.ones(1, np.int64)
        for v, before, first in zip(b.tolist(), s.before.tolist(), s.first.tolist(), strict=True):
            self.row(np.asarray([x]), one, first, self.hi[x], v, value=True)
            self.row(np.asarray([x]), one, self.lo[x], before, v, value=False)
        return k


def straight(steps: Steps) -> tuple[int, int, int] | None:
    """``(A, C, D)`` such that level j begins where ``A x >= C j + D``, j from 0; None if there are none.

    That is ``A before < C j + D <= A first`` for all steps: their slopes ``C / A`` form an interval.  Its simplest
    fraction is taken, and whatever comes out is checked on every step.
    """
    before, first = np.repeat(steps.before, steps.height), np.repeat(steps.first, steps.height)
    j = np.arange(first.size, dtype=np.int64)
    run, rise_low, rise_high = j[None] - j[:, None], before[None] - first[:, None], first[None] - before[:, None]
    above = run > 0
    if not above.any():
        return None
    run, rise_low, rise_high = run[above], rise_low[above], rise_high[above]
    # quotients that differ are hardly ever equal in float64, and whatever is taken is checked
    least, most = int((rise_low / run).argmax()), int((rise_high / run).argmin())
    low = Fraction(max(int(rise_low[least]), 0), int(run[least]))
    high = Fraction(int(rise_high[most]), int(run[most]))
    if low >= high:
        return None
    slope = simplest(low, high)
    c, a = slope.numerator, slope.denominator
    if max(a, c) > cpsat.MAX_COEFFICIENT or c == 0:
        return None
    ends = [
        (a * f - c * k, a * b - c * k) for k, (f, b) in enumerate(zip(first.tolist(), before.tolist(), strict=True))
    ]
    d = min(e for e, _ in ends)
    return (a, c, d) if max(e for _, e in ends) < d else None


def simplest(low: Fraction, high: Fraction) -> Fraction:
    """The fraction of smallest denominator strictly between two others (Stern and Brocot)."""
    whole = low.numerator // low.denominator
    if whole + 1 < high:
        return Fraction(whole + 1)
    low, high = low - whole, high - whole  # 0 <= low < high <= 1
    if low == 0:
        return whole + Fraction(1, (high.denominator // high.numerator) + 1)
    return whole + 1 / simplest(1 / high, 1 / low)


def firsts(codes: Callable[[I64], I64], lo: I64, hi: I64, base: I64, steps: int) -> I64:
    """``[steps, n]``: the first accumulator at which each code beyond ``base`` is reached (bisection, all at once)."""
    out = np.empty((steps, lo.size), np.int64)
    start = lo
    for k in range(steps):
        low, high = start.copy(), hi.copy()  # codes(high) >= base + k + 1, or the step is never reached
        while (low < high).any():
            middle = low + (high - low) // 2
            reached = codes(middle) > base + k
            low, high = np.where(reached, low, np.minimum(middle + 1, high)), np.where(reached, middle, high)
        out[k] = start = high
    return out


def plane(weights: tuple[float, float], x: tuple[I64, I64], values: I64) -> tuple[tuple[int, int], Steps] | None:
    """Integers ``a, b`` near a multiple of the weights such that values ``[p]`` are a staircase of ``a x0 + b x1``.

    ``x`` holds the arguments ``[p]`` of every value.  The shortest integers that do are taken; None if there are none.
    """
    most = max(abs(w) for w in weights)
    if not 0 < most < np.inf:
        return None
    for bits in range(6, SHARPEST + 1):
        a, b = (round(w / most * (1 << bits)) for w in weights)
        steps = Steps.of_values(a * x[0] + b * x[1], values)
        if steps is not None:
            return (a, b), steps
    return None
