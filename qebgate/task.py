"""A task: one pair of networks, one region instance, one property, one runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from qebgate.evidence import Bound, Witness
from qebgate.ir.pair import Pair
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import Runtime

FloatSemantics = Literal["float32", "real"]


@dataclass(frozen=True, slots=True, eq=False)
class Sampling:
    """What statistical evidence is asked for: ``n`` independent inputs, to be run before anything is known of them.

    ``cells`` are what they are drawn from, each cell as likely as any other and every input of it too; with ``rows``
    the cells are points, and they are the sample themselves.
    """

    cells: tuple[Cell, ...]
    n: int
    confidence: float
    max_failure_rate: float
    seed: int = 0
    rows: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Everything an engine needs.  ``pair`` already ends at the compared tensor (:meth:`Pair.at`).

    ``outputs`` are the compared positions of the flattened output.
    """

    pair: Pair
    cell: Cell
    codec: InputCodec
    prop: Property
    outputs: tuple[int, ...]
    runtime: Runtime
    float_semantics: FloatSemantics = "float32"
    sampling: Sampling | None = None


def proven(prop: Property, bound: Bound) -> float:
    """The figure that a bound proves."""
    box = prop.of_box(bound.lower, bound.upper, bound.values)
    return box if bound.figure is None else bound.figure if np.isnan(box) else min(box, bound.figure)


def witnessed(prop: Property, witness: Witness) -> float:
    """The figure at a witness, or less where it is not known exactly."""
    if witness.values is None:
        return prop.of_gap(witness.gap)
    floats, quantized = witness.values
    return prop.of_outputs(witness.gap, quantized, floats)


@dataclass(frozen=True, slots=True)
class Budget:
    """Deterministic limits of effort, and wall-clock and memory guards around them.

    ``enumerate`` inputs executed at most; ``dra`` multiply-adds of back-substitution; ``slopes`` iterations of slope
    optimisation for a bound that is not within the limit (0: none), then ``lp`` iterations of a linear program's solver
    for each side of a compared output (0: none); ``cells`` of a bisection bounded by forms (0: the whole region only);
    ``split`` parts of a region of few free inputs, halved until each is bounded or executed (0: none);
    ``falsify`` executed inputs (changes of single inputs count by their share, and where an execution takes long there
    are fewer); ``branch`` nodes of branch and bound (0: none); ``milp`` nodes of SCIP for each program of 100,000
    coefficients (more of smaller ones), and HiGHS a multiple of its time (0: no solver is called); ``seconds`` and
    ``memory`` guard one task (a task stopped by one is unknown, with that reason).
    """

    enumerate: int = 1 << 20
    dra: float = 2e11
    slopes: int = 60
    lp: int = 0
    cells: int = 4096
    split: int = 1024
    falsify: int = 1 << 16
    branch: int = 2048
    milp: int = 256
    seconds: float = 120.0
    memory: int = 8 << 30
    seed: int = 0
