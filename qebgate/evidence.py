"""What engines return: facts about one task, never verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qebgate.errors import InternalError
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64

Progress = Callable[[str, int, int | None], None]
"""``progress(what, done, total)``: called from time to time by long work."""


def silent(what: str, done: int, total: int | None) -> None:
    """Progress that goes nowhere."""
    del what, done, total


Range = tuple[F64, F64]
"""Lower and upper bounds [K] of some outputs."""
Trust = Literal["exhaustive", "certified", "solver"]
Reason = Literal["effort", "guard_time", "guard_memory", "out_of_range"]


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """Proven: ``lower[k] <= quantized - float <= upper[k]`` at ``task.outputs[k]``, for every input of the region.

    An infinite entry means that nothing is known on that side; a NaN is an internal error.  ``values`` bound the float
    and the quantized outputs themselves, and ``figure`` the property's figure where the engine knows more of it than
    follows from the rest (:func:`qebgate.task.proven`).
    """

    lower: F64
    upper: F64
    trust: Trust
    engine: str
    seconds: float
    values: tuple[Range, Range] | None = None
    figure: float | None = None

    def __post_init__(self) -> None:
        if np.isnan(self.lower).any() or np.isnan(self.upper).any():
            raise InternalError("QEB901", f"engine {self.engine} returned a bound that is not a number")
        if (self.lower > self.upper).any():
            raise InternalError("QEB902", f"engine {self.engine} returned an empty bound")
        if self.figure is not None and math.isnan(self.figure):
            raise InternalError("QEB901", f"engine {self.engine} returned a figure that is not a number")


@dataclass(frozen=True, slots=True, eq=False)
class Witness:
    """A concrete input and the gap [K] there, known up to ``slack`` [K].

    Where the float side is evaluated in exact arithmetic, the gap cannot be stored exactly: ``gap`` is
    then what is certain, the end of its enclosure nearest to 0, and ``slack`` the enclosure's width.

    ``x`` is the real input [*shape] (float32), ``codes`` what the quantized model was given (None when
    it takes floats).  ``replayed`` says that ``gap`` was measured in the installed runtime; only then
    may it refute a property.  ``values``: the float outputs, known up to a range, and the quantized ones, where the
    witness is to speak of properties of the outputs themselves.
    """

    x: Array
    codes: Array | None
    gap: F64
    replayed: bool
    engine: str
    slack: F64 | float = 0.0
    values: tuple[Range, F64] | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """An engine gave up, and why."""

    engine: str
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Floor:
    """An estimate, never judged: what rounding alone may cost (``worst``), and the ``span`` that the outputs have.

    See :mod:`qebgate.engines.noise_floor`.
    """

    worst: float
    span: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """``failures`` of ``n`` independent inputs were beyond the limit; see :mod:`qebgate.engines.statistical`.

    With the asked confidence the share of such inputs is at most ``upper``; with the same confidence it is at least
    ``lower``.
    """

    n: int
    failures: int
    lower: float
    upper: float
    engine: str


Evidence = Bound | Witness | Stopped | Floor | Sampled
