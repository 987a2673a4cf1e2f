"""What the analysis knows of figures that do not follow from the gap of each output alone.

``max_rel`` needs the float outputs; ``same_top1`` compares outputs with each other, and forms of their differences
are much smaller than the differences of their forms: inputs move all outputs of a network together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Interval
from qebgate.engines.dra.analysis import Analysis
from qebgate.engines.dra.backward import Form
from qebgate.numerics.rounding import F64, up
from qebgate.properties import Property, Range, above

MOST_PAIRS = 1 << 13
"""Pairs of classes that are compared; where more are open, the outputs' own bounds decide."""
ROWS = 64

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


def top1(a: Analysis, output: int, index: Index, gap: Interval, values: tuple[Range, Range]) -> float | None:
    """Upper bound of ``same_top1``'s figure; None where too many pairs of classes are open.

    A pair (c, d) is the float model's class and the quantized one's.
    """
    f, q = values
    most = np.minimum(up(gap.hi[None] - gap.lo[:, None]), up(f[1][:, None] - f[0][None]))
    open_ = (most >= 0) & (q[1][None] >= q[0][:, None])
    open_ &= (f[1] >= f[0].max())[:, None] & (q[1] >= q[0].max())[None]
    np.fill_diagonal(open_, val=False)
    c, d = np.nonzero(open_)
    if c.size > MOST_PAIRS:
        return None
    worst = -np.inf
    for k in range(0, c.size, ROWS):
        a.pulse()
        i, j = c[k : k + ROWS], d[k : k + ROWS]
        rows = _rows(a, output, index, j, i)
        lead = a.backward.value(output, Form(g=rows))  # q_d - q_c
        margin = np.minimum(most[i, j], a.backward.value(output, Form(h=-rows)))  # f_c - f_d
        margin = np.minimum(margin, a.backward.value(output, Form(d=rows)))  # gap_d - gap_c
        wins = (lead > 0) | ((lead == 0) & (j < i))
        worst = max(worst, float(np.where(wins, margin, -np.inf).max()))
    return above(worst)


def figures(
    prop: Property, a: Analysis, output: int, index: Index, gap: Interval
) -> tuple[tuple[Range, Range] | None, float | None]:
    """``values`` and ``figure`` of a bound (:class:`qebgate.evidence.Bound`); nothing where the gap says it all."""
    if prop.of_gap_alone:
        return None, None
    values = values_of(a, output, index, gap)
    return values, top1(a, output, index, gap, values) if prop.kind == "same_top1" else None


def _rows(a: Analysis, output: int, index: Index, plus: Index, minus: Index | None) -> F64:
    """Rows ``e_plus`` (minus ``e_minus``) over a whole value."""
    rows = np.zeros((plus.size, a.states[output].size))
    rows[np.arange(plus.size), index[plus]] = 1.0
    if minus is not None:
        rows[np.arange(minus.size), index[minus]] -= 1.0
    return rows
