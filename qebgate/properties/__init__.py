"""Properties: what must hold of the gap between the two networks' outputs.

Every property has a *figure*, a number of at least 0 for each input, and holds where the figure is at most its limit.

- ``max_abs``, ``max_lsb``: the largest gap of an output, in real units or in quanta of the output;
- ``max_l2``: the Euclidean length of all gaps;
- ``max_rel``: the largest gap relative to ``max(|float output|, floor)``;
- ``same_top1``: 0 where both networks choose the same class (of equals, the one of lowest index).  Elsewhere the
  smallest margin that would have excused it: the float model prefers its class by ``m``, and the figure is the next
  number above ``m``.  The limit is the policy's margin, so the property fails where the float model decides by at
  least the margin and the quantized one does not agree.

Proven figures are rounded up, witnessed ones down.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from qebgate.numerics.rounding import F64, down, up

Kind = Literal["max_abs", "max_lsb", "max_rel", "same_top1", "max_l2"]
Range = tuple[F64, F64]
"""Lower and upper bounds [K] of some outputs."""

_PAIRS = 1 << 11
"""Outputs whose pairs are compared all at once; of more, each with the best of the others."""


@dataclass(frozen=True, slots=True)
class Property:
    """A limit on the figure of a kind.

    ``unit`` is the gap (real units) that a limit of 1 allows: where every output's gap is within ``limit * unit``, the
    property holds.  It is 1 for ``max_abs`` and the output's scale for ``max_lsb``; see :meth:`of_kind`.
    """

    kind: Kind
    limit: float
    unit: float = 1.0
    floor: float = 0.0
    """Of ``max_rel``."""

    @classmethod
    def of_kind(cls, kind: Kind, limit: float, outputs: int, *, scale: float = 1.0, floor: float = 0.0) -> Property:
        """A property of a network with so many compared outputs, with its sufficient ``unit``."""
        if kind == "max_lsb":
            return cls(kind, limit, scale)
        if kind == "max_rel":
            return cls(kind, limit, floor, floor)
        if kind == "max_l2":
            return cls(kind, limit, 1.0 / max(1.0, float(np.sqrt(outputs))))
        return cls(kind, limit, 0.5 if kind == "same_top1" else 1.0)

    @property
    def of_gap_alone(self) -> bool:
        """Whether the figure follows from the gap, without the outputs themselves."""
        return self.kind not in ("max_rel", "same_top1")

    def of_box(self, lower: F64, upper: F64, values: tuple[Range, Range] | None = None) -> float:
        """Upper bound of the figure over gaps in ``[lower, upper]`` [K]; NaN stays NaN.

        ``values`` are bounds of the float and of the quantized outputs [K] over the same inputs, where there are any.
        """
        size = np.maximum(-lower, upper)
        if self.kind == "same_top1":
            return _disagreement(lower, upper, values)
        if self.kind == "max_l2":
            return _length(size)
        if self.kind == "max_rel":
            f = (0.0, 0.0) if values is None else values[0]
            least = np.maximum(np.maximum(f[0], -np.asarray(f[1])), self.floor)
            return float(up(size / least).max(initial=0.0))
        worst = float(size.max(initial=0.0))
        figure = worst / self.unit
        if self.unit == 1.0 or not np.isfinite(figure):
            return figure
        # round up only where the division rounded down: a gap of exactly two quanta is 2, not 2.0000000000000004
        return figure if Fraction(figure) * Fraction(self.unit) >= Fraction(worst) else float(up(figure))

    def of_batch(self, quantized: F64, floats: F64, error: F64) -> F64:
        """Upper bounds [B] of the figure at inputs, where every float output [B, K] may differ by ``error`` [K]."""
        if self.kind == "same_top1":
            return _disagreements(quantized, floats, error)
        size = up(np.abs(quantized - floats)) + error
        if self.kind == "max_l2":
            return up(np.sqrt(_sum_of_squares(up(size))))
        if self.kind == "max_rel":
            size = up(size) / np.maximum(down(np.abs(floats) - error), self.floor)
        else:
            size = up(size) / self.unit
        return up(size.max(axis=1, initial=0.0))

    def of_gap(self, gap: F64) -> float:
        """The figure for concrete gaps ``[..., K]`` (the largest over all of them), or less; see :meth:`of_outputs`.

        Rounded to nearest, which is monotone: it exceeds the limit only if the exact figure does.  0 for properties of
        the outputs themselves.
        """
        if not self.of_gap_alone:
            return 0.0
        if self.kind == "max_l2":
            rows = np.abs(gap).reshape(-1, gap.shape[-1])
            scale = float(rows.max(initial=0.0))
            if scale == 0.0 or not np.isfinite(scale):
                return scale
            return float(scale * np.sqrt(((rows / scale) ** 2).sum(axis=1).max()) * (1 - _LENGTH * (rows.shape[1] + 4)))
        return float(np.abs(gap).max(initial=0.0) / self.unit)

    def of_outputs(self, gap: F64, quantized: F64, floats: Range) -> float:
        """The figure at one input [K], or less: the float outputs are known up to an interval.

        ``gap`` is what is certain of it (:class:`qebgate.evidence.Witness`).
        """
        if self.kind == "same_top1":
            return _certain_disagreement(quantized, floats)
        if self.kind == "max_rel":
            size = np.maximum(down(np.abs(gap)), 0.0)
            most = np.maximum(np.maximum(np.abs(floats[0]), np.abs(floats[1])), self.floor)
            return float(np.maximum(down(size / most), 0.0).max(initial=0.0))
        return self.of_gap(gap)

    def scores(self, quantized: F64, floats: F64) -> F64:
        """What a search makes large, [B]: the figure to a few roundings, and for classes that agree how nearly so."""
        gap = np.abs(quantized - floats)
        if self.kind == "max_l2":
            return np.sqrt((gap**2).sum(axis=1))
        if self.kind == "max_rel":
            return (gap / np.maximum(np.abs(floats), self.floor)).max(axis=1, initial=0.0)
        if self.kind != "same_top1":
            return gap.max(axis=1, initial=0.0) / self.unit
        mine, theirs = floats.argmax(axis=1), quantized.argmax(axis=1)
        lead, deficit = _rivals(floats, mine), _rivals(quantized, mine)
        # beside a disagreement: the quantized rival may be far from winning, or win where the margin is small
        return np.where(mine == theirs, deficit - 1e-300, np.nextafter(-lead, np.inf))


_LENGTH = 2.0**-52
"""Relative error of a Euclidean length, per entry."""


def _rivals(y: F64, mine: np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> F64:
    """The best other entry of each row minus that of the class ``mine`` [B]."""
    rows = np.arange(len(y))
    others = y.copy()
    others[rows, mine] = -np.inf
    return others.max(axis=1) - y[rows, mine]


def _sum_of_squares(size: F64) -> F64:
    """Upper bounds of the sums of squares over the last axis."""
    with np.errstate(over="ignore"):
        total = (size**2).sum(axis=-1)
    return up(total * (1 + _LENGTH * (size.shape[-1] + 4)) + 2.0**-1000)


def _length(size: F64) -> float:
    """Upper bound of the Euclidean length."""
    if np.isnan(size).any():
        return float("nan")
    worst = float(size.max(initial=0.0))
    if worst <= 0 or not np.isfinite(worst):
        return max(worst, 0.0)
    # scaled: squares of tiny or huge gaps would underflow or overflow
    return float(up(up(np.sqrt(_sum_of_squares(up(np.maximum(size, 0.0) / worst)))) * worst))


def _disagreement(lower: F64, upper: F64, values: tuple[Range, Range] | None) -> float:
    """Upper bound of ``same_top1``'s figure: over all pairs of a float class c and a quantized class d.

    Where the float model chooses c and the quantized one d, ``f_c - f_d`` is at least the float margin; and
    ``q_d >= q_c`` makes it at most ``gap_d - gap_c``.
    """
    if np.isnan(lower).any() or np.isnan(upper).any():
        return float("nan")
    k = lower.size
    first, second = np.ones(k, np.bool_), np.ones(k, np.bool_)  # what the float, the quantized model may choose
    if values is not None:
        f, q = values
        first, second = f[1] >= f[0].max(initial=-np.inf), q[1] >= q[0].max(initial=-np.inf)
    c, d = np.flatnonzero(first), np.flatnonzero(second)
    worst = -np.inf
    for part in np.array_split(c, max(1, -(-c.size * d.size // _PAIRS**2))):
        with np.errstate(invalid="ignore"):
            most = up(upper[d][None] - lower[part][:, None])
            if values is not None:
                f, q = values
                most = np.minimum(most, up(f[1][part][:, None] - f[0][d][None]))
                loses = np.where(d[None] > part[:, None], q[1][d] <= q[0][part][:, None], q[1][d] < q[0][part][:, None])
                most = np.where(loses, -np.inf, most)
        most = np.where(part[:, None] == d[None], -np.inf, most)
        worst = max(worst, float(most.max(initial=-np.inf)))
    return above(worst)


def above(margin: float) -> float:
    """The figure of a disagreement whose float margin is at most ``margin``; 0 where there can be none."""
    return 0.0 if margin < 0 else float(up(margin))


def _disagreements(quantized: F64, floats: F64, error: F64) -> F64:
    rows = np.arange(len(floats))
    chosen = quantized.argmax(axis=1)
    top, own = up(floats + error), down(floats[rows, chosen] - error[chosen])
    lead = top - own[:, None]
    lead = np.where(lead == 0, 0.0, up(lead))
    index = np.arange(floats.shape[1])
    lead[rows, chosen] = -np.inf
    # of equals the lowest index is chosen: a later class needs more than the same value
    exact = (error == 0).all()
    same = exact & (floats == floats[rows, chosen][:, None]) & (index[None] > chosen[:, None])
    lead[same] = -np.inf
    worst = lead.max(axis=1, initial=-np.inf)
    return np.where(worst < 0, 0.0, up(np.maximum(worst, 0.0)))


def _certain_disagreement(quantized: F64, floats: Range) -> float:
    """The least figure of all float outputs in the intervals."""
    lo, hi = floats
    chosen, index = int(np.argmax(quantized)), np.arange(quantized.size)
    c = int(np.argmax(lo))
    beaten = np.where(c < index, lo[c] >= hi, lo[c] > hi) | (index == c)
    if c == chosen or not beaten.all():
        return 0.0
    rival = float(np.delete(hi, c).max())
    margin = float(lo[c]) - rival
    if not np.isfinite(margin):
        return float("inf") if margin > 0 else 0.0
    exact = Fraction(float(lo[c])) - Fraction(rival)
    return margin if Fraction(margin) > exact else float(up(margin))
