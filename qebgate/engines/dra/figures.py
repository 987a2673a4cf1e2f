"""What the analysis knows of figures that do not follow from the gap of each output alone.

``max_rel`` needs the float outputs; ``same_top1`` compares outputs with each other, and forms of their differences
are much smaller than the differences of their forms: inputs move all outputs of a network together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Interval
from qebgate.domains.layers import Affine
from qebgate.engines.dra.analysis import ITERATIONS, NEURONS, Analysis
from qebgate.engines.dra.backward import Form
from qebgate.numerics.rounding import F64, up
from qebgate.properties import Property, Range, above

MOST_PAIRS = 1 << 13
"""Pairs of classes that are compared; where more are open, the outputs' own bounds decide."""
ROWS = 64
SHARES = (0.5, 1.0, 2.0)
MOST_TUNED, TUNED = 96, 8
"""Pairs that get multipliers, and how many at once."""

Index = NDArray[np.intp]


def values_of(a: Analysis, output: int, index: Index, gap: Interval) -> tuple[Range, Range]:
    """Bounds of the float and of the quantized outputs [K]."""
    f, whole = a.float_value(output, index), a.states[output].quantized
    q = Interval(whole.lo[index], whole.hi[index]).meet(f.plus(gap))
    one = _rows(a, output, index, np.arange(index.size), None)
    for k in range(0, index.size, ROWS):
        part = slice(k, k + ROWS)
        both = a.backward.value(output, Form(g=np.concatenate([one[part], -one[part]])))
        n = len(one[part])
        q.hi[part] = np.minimum(q.hi[part], both[:n])
        q.lo[part] = np.maximum(q.lo[part], -both[n:])
    return (f.lo, f.hi), (q.lo, q.hi)


def top1(
    a: Analysis, output: int, index: Index, gap: Interval, values: tuple[Range, Range], limit: float, iterations: int
) -> float | None:
    """Upper bound of ``same_top1``'s figure; None where too many pairs of classes are open.

    A pair (c, d) is the float model's class and the quantized one's.  Pairs beyond the limit get multipliers of their
    own, found in so many ``iterations`` (:mod:`qebgate.engines.dra.dual`).
    """
    f, q = values
    most = np.minimum(up(gap.hi[None] - gap.lo[:, None]), up(f[1][:, None] - f[0][None]))
    open_ = (most >= 0) & (q[1][None] >= q[0][:, None])
    open_ &= (f[1] >= f[0].max())[:, None] & (q[1] >= q[0].max())[None]
    np.fill_diagonal(open_, val=False)
    c, d = np.nonzero(open_)
    if c.size > MOST_PAIRS:
        return None
    figure = np.full(c.size, -np.inf)
    for k in range(0, c.size, ROWS):
        part = slice(k, k + ROWS)
        i, j = c[part], d[part]
        figure[part] = _margin(i, j, most[i, j], _rows(a, output, index, j, i), partial(a.backward.value, output), a)
    hard = np.flatnonzero(figure >= limit)
    few = hard.size <= MOST_TUNED and sum(x.m for x in a.layers if isinstance(x, Affine)) <= NEURONS
    if iterations and hard.size and few and all(isinstance(x, Affine) for x in a.layers):
        dual = a.multipliers()

        def tuned(form: Form) -> F64:
            return dual.value(a.backward, {output: form}, ITERATIONS * iterations)

        for k in range(0, hard.size, TUNED):
            part = hard[k : k + TUNED]
            i, j = c[part], d[part]
            figure[part] = _margin(i, j, figure[part], _rows(a, output, index, j, i), tuned, a)
    return above(float(figure.max(initial=-np.inf)))


def _margin(i: Index, j: Index, known: F64, rows: F64, bound: Callable[[Form], F64], a: Analysis) -> F64:
    """Upper bounds of the float margins with which class i may lose to j; minus infinity where it cannot.

    Where it does, ``q_j - q_i >= 0``, and any multiple of that may be added to ``f_i - f_j``.
    """
    a.pulse()
    lead = bound(Form(g=rows))  # q_d - q_c
    margin = np.minimum(known, bound(Form(h=-rows)))  # f_c - f_d
    margin = np.minimum(margin, bound(Form(d=rows)))  # gap_d - gap_c
    for share in SHARES:
        margin = np.minimum(margin, bound(Form(h=-rows, g=share * rows)))
    wins = ((lead > 0) | ((lead == 0) & (j < i))) & (margin >= 0)
    return np.where(wins, margin, -np.inf)


def figures(
    prop: Property, a: Analysis, output: int, index: Index, gap: Interval, iterations: int = 0
) -> tuple[tuple[Range, Range] | None, float | None]:
    """``values`` and ``figure`` of a bound (:class:`qebgate.evidence.Bound`); nothing where the gap says it all."""
    if prop.of_gap_alone:
        return None, None
    values = values_of(a, output, index, gap)
    if prop.kind != "same_top1":
        return values, None
    return values, top1(a, output, index, gap, values, prop.limit, iterations)


def _rows(a: Analysis, output: int, index: Index, plus: Index, minus: Index | None) -> F64:
    """Rows ``e_plus`` (minus ``e_minus``) over a whole value."""
    rows = np.zeros((plus.size, a.states[output].size))
    rows[np.arange(plus.size), index[plus]] = 1.0
    if minus is not None:
        rows[np.arange(minus.size), index[minus]] -= 1.0
    return rows
