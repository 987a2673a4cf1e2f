"""What is known of a layer, and linear forms on their way down to the input: plain data of :mod:`.walk`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qebgate.certify.box import I64, Box
from qebgate.certify.neuron import Corners
from qebgate.numerics.rounding import F64

Slopes = Mapping[int, F64]
"""Value -> slopes ``[10, m]``: of h above, below; of hq above, below; of delta (D, z, zq) above, below."""
Multipliers = Mapping[int, F64]
"""Value -> multiples ``[2, R, m]`` of z and zq that each of R forms goes on with below that value."""
Kind = Literal["z", "q", "d", "gap"]


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Quantities of single neurons of one value, times +1 or -1, with multipliers for the bound of each.

    ``kind`` is z, zq or D of the value's layer, or the gap of the value itself.  With ``splits`` the targets are one
    and the same, each in the part of the region that its splits leave; together the parts must be all of it.
    """

    value: int
    kind: Kind
    entries: NDArray[np.intp]
    signs: F64
    multipliers: Multipliers
    splits: Mapping[int, Splits] = field(default_factory=dict[int, "Splits"])
    """Value -> splits of its layer's neurons."""

    def some(self, part: slice) -> Targets:
        """Some of the targets."""
        few = {k: v[:, part] for k, v in self.multipliers.items()}
        splits = {k: s.of_rows(part) for k, s in self.splits.items()}
        return replace(self, entries=self.entries[part], signs=self.signs[part], multipliers=few, splits=splits)


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """Neurons of one layer, each in a row of a group of targets: ends, maybe infinite, of z and of the centred code."""

    row: NDArray[np.intp]
    neuron: NDArray[np.intp]
    z: Box
    code: Box

    def of_rows(self, part: slice) -> Splits:
        """Those of some rows, counted from the first of them."""
        at = np.flatnonzero((self.row >= part.start) & (self.row < part.stop))
        z, code = (Box(b.lo[at], b.hi[at]) for b in (self.z, self.code))
        return Splits(self.row[at] - part.start, self.neuron[at], z, code)


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """Intervals of h, hq and their gap, and of hq's codes."""

    h: Box
    g: Box
    d: Box
    codes: tuple[I64, I64] | None


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What is known of a layer before its lines: intervals of z, zq, D; E; magnitudes behind z, zq, D; hq, its codes.

    ``corners`` are None for exact layers without multipliers.
    """

    z: Box
    q: Box
    d: Box
    noise: F64
    sizes: tuple[F64, F64, F64]
    g: Box
    codes: tuple[I64, I64] | None
    corners: Corners | None = None


Found = tuple[Box, Box, Box, F64, tuple[F64, F64, F64]]
"""z, zq, D, noise and sizes of a layer, as in Facts."""


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Slopes ``[10, m]``, intercepts ``[6, m]`` (h, hq, delta, each above and below), sizes [3, m] behind them."""

    slopes: F64
    intercepts: F64
    sizes: F64


@dataclass(slots=True, eq=False)
class Form:
    """Coefficients ``[R, n]`` of h, hq and delta; None stands for zeros."""

    h: F64 | None = None
    g: F64 | None = None
    d: F64 | None = None

    def __add__(self, other: Form) -> Form:
        return Form(plus(self.h, other.h), plus(self.g, other.g), plus(self.d, other.d))


@dataclass(slots=True, eq=False)
class Rows:
    """Forms on their way down: what they hold besides coefficients, one entry a row."""

    live: dict[int, Form]
    constant: F64
    noise: F64
    weight: F64
    x: F64 | None = None
    """Coefficients of the region's input, at the end."""
    empty: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(1, np.bool_))
    """Whether nothing is left of the region there."""


def plus(a: F64 | None, b: F64 | None) -> F64 | None:
    """A sum of coefficients; None stands for zeros."""
    return b if a is None else a if b is None else a + b
