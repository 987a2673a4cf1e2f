"""What would run: plain data."""

from __future__ import annotations

from dataclasses import dataclass

from qebgate.ir.pair import Pair
from qebgate.ir.tensor import Array
from qebgate.policy.model import CheckSpec, ModelSpec
from qebgate.properties import Property
from qebgate.regions import Cell, InputCodec, Preprocess
from qebgate.result import CheckError, RuntimeInfo
from qebgate.runtimes.profiles import Runtime
from qebgate.task import Budget, Sampling
from qebgate.verdict import Require

EFFORT: dict[str, Budget] = {
    "quick": Budget(enumerate=1 << 14, dra=2e10, slopes=0, cells=256, split=64, falsify=1 << 12, branch=0, milp=0),
    "standard": Budget(),
    "deep": Budget(
        enumerate=1 << 24, dra=2e12, lp=300, cells=1 << 16, split=1 << 15, falsify=1 << 18, branch=1 << 16, milp=1 << 14
    ),
}
"""Deterministic work limits of the policy's `effort`."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One task, still without its compared outputs: ``outputs`` None means the class predicted at the centre.

    Holds everything a worker process needs.  ``blocked`` says that the region leaves the input's range
    and the policy forbids it: such a task fails without running.  ``keep``: the best witness is part of the
    result even where it does not break the limit.
    """

    check: str
    pair: Pair
    cell: Cell
    codec: InputCodec
    prop: Property
    outputs: tuple[int, ...] | None
    runtime: Runtime
    info: RuntimeInfo
    float_semantics: str
    preprocess: Preprocess
    require: Require
    engines: tuple[str, ...] | None
    budget: Budget
    blocked: bool
    keep: bool = False
    sampling: Sampling | None = None
    waived: float | None = None
    """The limit of a waiver, tried where the check's own is not met."""


@dataclass(frozen=True, slots=True, eq=False)
class PlannedCheck:
    """A check with its jobs, one per region instance and runtime."""

    spec: CheckSpec
    model: ModelSpec
    pair: Pair
    jobs: tuple[Job, ...]
    assumptions: tuple[str, ...]
    rows: tuple[Cell, ...] = ()
    """Of a region made from data rows."""
    labels: Array | None = None
    """The true class of each row."""
    region_key: str = ""
    question_key: str = ""
    """Digests of the region in real units, and of what is asked about it: bounds of the same two can be compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What would run, and the checks that cannot."""

    checks: tuple[PlannedCheck, ...]
    errors: tuple[CheckError, ...]

    @property
    def tasks(self) -> int:
        return sum(len(c.jobs) for c in self.checks)
