"""What a tensor of a SavedModel can be while its graph is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A known array.

    Floats are float64, with ``reach`` the sum of the absolute values that they are made of: what float32
    loses in computing them is relative to it.  ``stored``: read from the file, and not computed.
    """

    value: Array
    reach: F64
    stored: bool = True

    @classmethod
    def of(cls, a: Array) -> Constant:
        v = a.astype(np.float64) if a.dtype.kind == "f" else a
        return cls(v, np.abs(v.astype(np.float64)))

    @property
    def floats(self) -> bool:
        return self.value.dtype.kind == "f"


@dataclass(frozen=True, slots=True)
class Live:
    """A value that depends on the input: a number of the draft."""

    index: int


@dataclass(frozen=True, slots=True)
class Handle:
    """A variable, by its name in the checkpoint."""

    key: str


Value = Constant | Live | Handle
