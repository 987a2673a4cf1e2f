"""A solver-neutral mixed-integer model, and its construction in real units.

The solver never sees real units.  Every continuous variable is written ``v = centre + 2**e * x`` with
``x`` in about ``[-1, 1]``, every row is multiplied by a power of two so that its largest coefficient is in
``[1, 2)``.  Multiplying by powers of two is exact, so an untrusted model whose layers are rescaled gives
the same program.  What is not exact, the right-hand sides moved by the centres and coefficients that are
themselves rounded, is charged to the rows' bounds: every real point of the stated rows is feasible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from qebgate.numerics.rounding import F64, SAFETY, TINY64, down, gamma, up

Index = NDArray[np.intp]
Flags = NDArray[np.bool_]
Csr = Any
"""A ``scipy.sparse.csr_matrix``; scipy's own annotations say too little about them."""

MAX_RANGE = 2.0**20
"""Largest accepted ratio of two coefficients: SCIP and HiGHS were seen to pass false bounds beyond it."""
NEGLIGIBLE = 2.0 / MAX_RANGE
"""Coefficients of a row below this may become slack (the row's largest is in [1, 2), variables in [-1, 1])."""
ROOM = 2e-6
"""How far inside the scaled rows and bounds every real point is: more than solvers' feasibility tolerances.

Without it real points lie on the boundary, and HiGHS' presolve was seen to call programs infeasible that
hold an executed input.
"""
MAX_SLACK = 2.0**-16
"""Largest total slack that dropping a row's coefficients may add."""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Maximise ``objective . x`` over ``lo <= x <= hi``, ``row_lo <= matrix x <= row_hi``, some x integer."""

    lo: F64
    hi: F64
    integer: Flags
    matrix: Csr
    row_lo: F64
    row_hi: F64
    objective: F64

    @property
    def coefficient_range(self) -> float:
        """Largest over smallest absolute non-zero coefficient (1 for an empty matrix)."""
        a = np.abs(self.matrix.data)
        return float(a.max() / a.min()) if a.size else 1.0

    @property
    def is_finite(self) -> bool:
        """Whether all variables are bounded and no number is a NaN."""
        arrays = (self.lo, self.hi, self.matrix.data, self.objective)
        bounds = not (np.isnan(self.row_lo).any() or np.isnan(self.row_hi).any())
        return bounds and all(bool(np.isfinite(a).all()) for a in arrays)

    @property
    def activity(self) -> float:
        """Largest ``sum |a_i| |x_i|`` of a row."""
        if not self.matrix.nnz:
            return 0.0
        return float((abs(self.matrix) @ np.maximum(np.abs(self.lo), np.abs(self.hi))).max())

    @property
    def reach(self) -> tuple[float, float]:
        """Smallest and largest objective over the variables' bounds alone."""
        c = self.objective
        low, high = np.minimum(c * self.lo, c * self.hi), np.maximum(c * self.lo, c * self.hi)
        return float(low.sum()), float(high.sum())

    def relaxed(self) -> Model:
        """The same model without integrality."""
        return replace(self, integer=np.zeros_like(self.integer))

    def aiming(self, objective: F64) -> Model:
        """The same feasible set with another objective."""
        return replace(self, objective=objective)

    def violation(self, x: F64) -> float:
        """How far a point is from satisfying bounds and rows (integrality not counted)."""
        y = self.matrix @ x
        parts = (self.lo - x, x - self.hi, self.row_lo - y, y - self.row_hi)
        return max(float(p.max(initial=0.0)) for p in parts)


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """A model in scaled variables, and how to come back: ``real = centre + scale * x``.

    Of ``rows`` stated rows those at ``kept`` are in the model, multiplied by ``factor``.
    """

    model: Model
    centre: F64
    scale: F64
    rows: int
    kept: Index
    factor: F64

    def real(self, x: F64) -> F64:
        return self.centre + self.scale * x

    def multipliers(self, y: F64) -> F64:
        """Multipliers of the stated rows from those of the model's."""
        out = np.zeros(self.rows)
        out[self.kept] = y * self.factor
        return out


Term = tuple[Csr, Index]
"""Coefficients ``[m]`` of one variable per row, or a matrix ``[m, n]`` over ``n`` variables."""


@dataclass
class Builder:
    """Collects variables and rows in real units."""

    _lo: list[F64] = field(default_factory=list)
    _hi: list[F64] = field(default_factory=list)
    _integer: list[Flags] = field(default_factory=list)
    _size: int = 0
    _rows: list[tuple[list[Term], F64, F64]] = field(default_factory=list)
    _height: int = 0

    def variables(self, lo: F64, hi: F64, *, integer: bool = False) -> Index:
        """New variables in ``[lo, hi]``; returns their indices."""
        self._lo.append(lo)
        self._hi.append(hi)
        self._integer.append(np.full(lo.size, integer))
        first, self._size = self._size, self._size + lo.size
        return np.arange(first, self._size, dtype=np.intp)

    def bounds(self) -> tuple[F64, F64]:
        """Bounds of all variables so far."""
        return np.concatenate([np.empty(0), *self._lo]), np.concatenate([np.empty(0), *self._hi])

    def rows(self, terms: Sequence[Term], lo: F64 | float, hi: F64 | float) -> Index:
        """New rows ``lo <= sum of terms <= hi`` (one-sided where infinite); returns their indices.

        Coefficients may carry a relative error of four roundings, and ``lo``, ``hi`` one of four roundings
        of numbers of the row's size: both are covered by slack.
        """
        m = terms[0][0].shape[0]
        if m:
            self._rows.append((list(terms), np.broadcast_to(lo, m).astype(float), np.broadcast_to(hi, m).astype(float)))
        first, self._height = self._height, self._height + m
        return np.arange(first, self._height, dtype=np.intp)

    def build(self) -> Scaled:
        """The scaled model, with objective 0."""
        lo, hi = self.bounds()
        integer = np.concatenate([np.empty(0, bool), *self._integer])
        centre, scale = _frame(lo, hi, integer)
        x_lo = np.where(integer | (lo == hi), 0.0, down((lo - centre) / scale))
        x_hi = np.where(integer, hi - lo, np.where(lo == hi, 0.0, up((hi - centre) / scale)))
        a, row_lo, row_hi = self._matrix()
        size = np.maximum(np.abs(lo), np.abs(hi))
        shift, weight = a @ centre, abs(a) @ size
        terms = int(np.diff(a.indptr).max(initial=0))
        finite = np.where(np.isfinite(row_lo), np.abs(row_lo), 0.0) + np.where(np.isfinite(row_hi), np.abs(row_hi), 0.0)
        slack = SAFETY * gamma(terms + 16) * (2 * weight + finite) + (terms + 8) * TINY64
        row_lo, row_hi = down(row_lo - shift - slack), up(row_hi - shift + slack)
        moving = np.where(x_lo < x_hi, scale, 0.0)
        a = _csr(a @ sp.diags(moving))
        a.eliminate_zeros()
        reach = np.maximum(np.abs(x_lo), np.abs(x_hi))
        stated = Model(x_lo, x_hi, integer, a, row_lo, row_hi, np.zeros(lo.size))
        model, kept, factor = _normalised(stated, reach)
        return Scaled(_roomy(model), centre, scale, self._height, kept, factor)

    def _matrix(self) -> tuple[Csr, F64, F64]:
        blocks: list[Csr] = []
        for terms, lo, _ in self._rows:
            block: Csr = sp.csr_matrix((lo.size, self._size))
            for coefficients, index in terms:
                if sp.issparse(coefficients):
                    c = coefficients.tocoo()
                    part = sp.csr_matrix((c.data, (c.row, index[c.col])), (lo.size, self._size))
                else:
                    part = sp.csr_matrix((coefficients, (np.arange(lo.size), index)), (lo.size, self._size))
                block = block + part
            blocks.append(block)
        if not blocks:
            return sp.csr_matrix((0, self._size)), np.empty(0), np.empty(0)
        lower, upper = (np.concatenate(x) for x in ([r[1] for r in self._rows], [r[2] for r in self._rows]))
        return _csr(sp.vstack(blocks, format="csr")), lower, upper


def _csr(a: object) -> Csr:
    """Any sparse result of scipy as a csr matrix."""
    return cast("Any", a).tocsr()


def _frame(lo: F64, hi: F64, integer: Flags) -> tuple[F64, F64]:
    """Centre and power-of-two scale of every variable; integers are only moved to start at 0."""
    centre = np.where(integer, lo, 0.5 * lo + 0.5 * hi)
    radius = up(np.maximum(hi - centre, centre - lo))
    scale = np.exp2(np.ceil(np.log2(np.maximum(radius, TINY64))))
    return centre, np.where(integer | (lo == hi), 1.0, scale)


def _roomy(m: Model) -> Model:
    """The same program with every row and every continuous variable's bounds widened by :data:`ROOM`."""
    wide = np.where(m.integer | (m.lo == m.hi), 0.0, ROOM)
    return replace(m, lo=m.lo - wide, hi=m.hi + wide, row_lo=m.row_lo - ROOM, row_hi=m.row_hi + ROOM)


def _normalised(m: Model, reach: F64) -> tuple[Model, Index, F64]:
    """Rows scaled to a largest coefficient in [1, 2); negligible coefficients and rows that never bind dropped.

    Also the rows that are left, and what each was multiplied by.
    """
    a = m.matrix
    largest = abs(a).max(axis=1).toarray().ravel() if a.shape[0] else np.empty(0)
    factor = np.exp2(-np.floor(np.log2(np.where(largest > 0, largest, 1.0))))
    a = _csr(sp.diags(factor) @ a) if a.shape[0] else a
    row_lo, row_hi = m.row_lo * factor, m.row_hi * factor
    small = a.copy()
    small.data = np.where(np.abs(a.data) < NEGLIGIBLE, np.abs(a.data), 0.0)
    loss = up((small @ reach) * (1 + 2.0**-40))
    ok = (loss > 0) & (loss <= MAX_SLACK)
    row = np.repeat(np.arange(a.shape[0]), np.diff(a.indptr))
    a.data = np.where(ok[row] & (np.abs(a.data) < NEGLIGIBLE), 0.0, a.data)
    a.eliminate_zeros()
    row_lo, row_hi = np.where(ok, down(row_lo - loss), row_lo), np.where(ok, up(row_hi + loss), row_hi)
    most = up((abs(a) @ reach) * (1 + 2.0**-40))
    row_lo, row_hi = np.where(row_lo < -most, -np.inf, row_lo), np.where(row_hi > most, np.inf, row_hi)
    keep = np.isfinite(row_lo) | np.isfinite(row_hi)
    keep &= np.diff(a.indptr) > 0
    model = replace(m, matrix=a[keep], row_lo=row_lo[keep], row_hi=row_hi[keep])
    return model, np.flatnonzero(keep), factor[keep]
