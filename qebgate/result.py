"""What a run of the gate found: plain data for the reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from qebgate.errors import PRECEDENCE, ExitCode, QebgateError
from qebgate.ir.graph import InputPart
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64
from qebgate.verdict import EvidenceClass, Verdict, VerdictReason

WITNESS_VERSION = 1
"""Of the JSON files that describe witnesses."""


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """A runtime profile and the version of the package that was installed; None where there is none."""

    name: str
    version: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True, eq=False)
class WitnessResult:
    """A replayed input, one that breaks a limit unless others were asked for.

    ``x`` is for the float model, ``codes`` for the quantized one, ``raw`` the input before the policy's preprocessing
    (None without one); ``gap`` [K] is quantized minus float; ``figure`` the property's figure there; ``file`` where it
    was written; ``reference`` [K] what the float model gives, to be shown beside the gap.
    """

    x: Array
    codes: Array | None
    raw: F64 | None
    gap: F64
    figure: float
    engine: str
    file: str | None = None
    reference: F64 | None = None
    classes: tuple[int, int] | None = None
    """Which of the compared outputs the float model and the quantized one choose; None where that was not asked."""
    omitted: bool = False
    """The policy keeps inputs out of reports: ``x`` is empty then, ``codes`` and ``raw`` are None."""
    parts: tuple[InputPart, ...] = ()
    """Of a model of several inputs: where each of them is in ``x`` and ``codes`` ``[1, n]``."""


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What a sample says: ``failures`` of ``n`` inputs were beyond the limit, so with ``confidence`` at most ``upper``.

    ``distribution``: ``uniform`` on the region, or the ``rows`` of the data as a sample.
    """

    n: int
    failures: int
    confidence: float
    max_failure_rate: float
    upper: float
    distribution: Literal["uniform", "rows"]
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class TaskResult:
    """The answer to one task: ``index`` is the data row; ``lower``, ``upper`` [K] belong to ``outputs`` [K]."""

    check: str
    index: int
    runtime: RuntimeInfo
    verdict: Verdict
    reason: VerdictReason | None
    witnessed: float | None
    proven: float | None
    outputs: tuple[int, ...]
    lower: F64 | None
    upper: F64 | None
    evidence: EvidenceClass | None
    engine: str | None
    seconds: float
    witness: WitnessResult | None = None
    noise_floor: tuple[float, float] | None = None
    """An estimate of what rounding alone may cost, and the span of the outputs; None where nobody asked."""
    statistics: Statistics | None = None
    """Of a sample; None where none was asked for, or a proof made it needless."""
    waived: bool = False
    """Whether it passes within the limit of a waiver only."""
    from_cache: bool = False
    """Whether an earlier run computed it, in ``seconds`` then."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What a check asks of its models, in the policy's own words, so that a witness can be run again.

    ``model`` and ``property`` are those of the policy, as plain data; its paths are relative to ``root``.
    """

    model: dict[str, Any]
    property: dict[str, Any]
    domain: Literal["real", "grid"]
    root: str


@dataclass(frozen=True, slots=True)
class WaiverResult:
    """A waiver of the policy, and whether it made the difference; ``other_model``: its hash is another model's."""

    limit: float
    owner: str
    reason: str
    expires: str
    state: Literal["used", "unused", "expired", "other_model"]


@dataclass(frozen=True, slots=True)
class BaselineResult:
    """A check's proven figure in the baseline, the most that it may be now, and in words how they compare."""

    state: Literal["compared", "not_compared", "none"]
    proven: float | None
    allowed: float | None
    note: str


@dataclass(frozen=True, slots=True)
class DataFigures:
    """On how many of ``rows`` data rows the models choose the same class, and each the right one (None: no labels)."""

    rows: int
    agree: int
    float_right: int | None
    quantized_right: int | None


@dataclass(frozen=True, slots=True, eq=False)
class CheckResult:
    """The answer to one check and what it rests on."""

    id: str
    verdict: Verdict
    reason: VerdictReason | None
    property: str
    limit: float
    require: str
    on_unknown: Literal["fail", "warn"]
    witnessed: float | None
    proven: float | None
    evidence: EvidenceClass | None
    model: str
    region: str
    float_sha256: str
    quantized_sha256: str
    tasks: tuple[TaskResult, ...]
    assumptions: tuple[str, ...]
    complete: bool = True
    """Whether every task of the check was run (False after an interruption)."""
    waiver: WaiverResult | None = None
    baseline: BaselineResult | None = None
    data: DataFigures | None = None
    question: Question | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CheckError:
    """A check that could not be run: a model, data or policy error."""

    check: str
    error: QebgateError


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """A whole run.  ``command`` is the command line that repeats it, without a ``--check``.

    ``places``: line and column (from 1) of every check in the file ``policy``.
    """

    version: str
    policy: str | None
    policy_sha256: str | None
    checks: tuple[CheckResult, ...]
    errors: tuple[CheckError, ...]
    command: tuple[str, ...]
    seconds: float
    interrupted: bool = False
    notes: tuple[str, ...] = ()
    """What a user may want to do next; no part of any verdict."""
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    @property
    def verdict(self) -> Verdict | None:
        """Of the checks that were run; None (not established) where errors left no failure to report."""
        verdicts = {c.verdict for c in self.checks}
        if "fail" in verdicts:
            return "fail"
        if self.errors or not verdicts:
            return None
        return "unknown" if "unknown" in verdicts or self.interrupted else "pass"

    @property
    def exit_code(self) -> ExitCode:
        """The most severe that applies."""
        if self.interrupted:
            return ExitCode.INTERRUPTED
        codes = {e.error.exit_code for e in self.errors}
        for c in self.checks:
            if c.verdict == "fail":
                codes.add(ExitCode.FAIL)
            elif c.verdict == "unknown" and c.on_unknown == "fail":
                codes.add(ExitCode.UNKNOWN)
            else:
                codes.add(ExitCode.PASS)
        if not codes:
            return ExitCode.NOTHING
        return min(codes, key=PRECEDENCE.index)
