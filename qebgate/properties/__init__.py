"""Properties: what must hold of the gap between the two networks' outputs."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from qebgate.numerics.rounding import F64, up

Kind = Literal["max_abs", "max_lsb"]


@dataclass(frozen=True, slots=True)
class Property:
    """A limit on the gap.  ``unit`` is 1 for ``max_abs`` and the output's scale for ``max_lsb``."""

    kind: Kind
    limit: float
    unit: float = 1.0

    def of_box(self, lower: F64, upper: F64) -> float:
        """Upper bound of the property's figure over gaps in ``[lower, upper]``; NaN stays NaN."""
        worst = float(np.maximum(-lower, upper).max(initial=0.0))
        figure = worst / self.unit
        if self.unit == 1.0 or not np.isfinite(figure):
            return figure
        # round up only where the division rounded down: a gap of exactly two quanta is 2, not 2.0000000000000004
        return figure if Fraction(figure) * Fraction(self.unit) >= Fraction(worst) else float(up(figure))

    def of_gap(self, gap: F64) -> float:
        """The property's figure for concrete gaps ``[..., K]`` (the largest over all of them).

        Rounded to nearest, which is monotone: it exceeds the limit only if the exact figure does.
        """
        return float(np.abs(gap).max(initial=0.0) / self.unit)
