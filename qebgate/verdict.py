"""The judge: from evidence to verdicts.  Pure, and the only place where PASS and FAIL are said.

PASS only if an admitted bound, finite, is within the limit (or, where the policy asks for tests only,
if a search ran and found nothing).  FAIL only on a witness that the installed runtime replayed.
Evidence that contradicts itself is a bug and raises InternalError: no verdict is then worth anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from qebgate.errors import ExitCode, InternalError, QebgateError
from qebgate.evidence import Bound, Evidence, Range, Sampled, Stopped, Witness
from qebgate.numerics.rounding import F64, passes
from qebgate.properties import Property
from qebgate.task import proven, witnessed

Verdict = Literal["pass", "fail", "unknown"]
Require = Literal["proof", "proof_or_solver", "proof_or_statistical", "tested", "statistical"]
EvidenceClass = Literal["exhaustive", "certified", "solver", "statistical", "tested"]
VerdictReason = Literal[
    "refuted", "regressed", "waiver_expired", "out_of_range", "guard_time", "guard_memory", "effort"
]

TRUST: tuple[EvidenceClass, ...] = ("exhaustive", "certified", "solver", "statistical", "tested")
"""Classes of evidence in falling order of trust."""
SEVERITY: tuple[VerdictReason, ...] = (
    "refuted", "regressed", "waiver_expired", "out_of_range", "guard_time", "guard_memory", "effort"
)  # fmt: skip
"""Which reason a check gives when its tasks give several."""

SEARCHES = ("execute", "segment", "falsify", "probe")
"""Engines that run inputs: where a guard stops one, nothing counts as tested."""

_ADMITTED: dict[Require, tuple[EvidenceClass, ...]] = {
    "proof": ("exhaustive", "certified"),
    "proof_or_solver": ("exhaustive", "certified", "solver"),
    "proof_or_statistical": ("exhaustive", "certified"),
    "tested": ("exhaustive", "certified"),
    "statistical": (),  # the task stands for more regions than the one that its bounds would be about
}


class NothingCheckedError(QebgateError):
    """There was nothing to check (exit 5)."""

    exit_code: ClassVar[ExitCode] = ExitCode.NOTHING


@dataclass(frozen=True, slots=True, eq=False)
class TaskVerdict:
    """A verdict and what it rests on.

    ``witnessed`` is the largest figure on a replayed input and ``proven`` the figure of ``lower``,
    ``upper`` [K]; None for what was not established.  ``evidence`` is the class of the proven bound
    (``tested`` for a pass without one).  ``witness`` is the replayed input with the largest figure.
    """

    verdict: Verdict
    reason: VerdictReason | None
    witnessed: float | None
    proven: float | None
    lower: F64 | None
    upper: F64 | None
    evidence: EvidenceClass | None
    engine: str | None
    witness: Witness | None
    sampled: Sampled | None = None


def judge(
    prop: Property, require: Require, evidence: Sequence[Evidence], max_failure_rate: float | None = None
) -> TaskVerdict:
    """The verdict on one task.  Raises InternalError where the evidence contradicts itself.

    ``max_failure_rate`` is what statistical evidence has to show.  Where the policy asks for nothing more
    (``statistical``), it decides both ways: inputs beyond the limit are then expected, as long as they are rare.
    """
    sampled = next((e for e in evidence if isinstance(e, Sampled)), None)
    bounds = [e for e in evidence if isinstance(e, Bound)]
    witnesses = [e for e in evidence if isinstance(e, Witness)]
    _check_consistent(bounds, witnesses)
    worst = max((w for w in witnesses if w.replayed), key=lambda w: witnessed(prop, w), default=None)
    seen = None if worst is None else witnessed(prop, worst)
    best = _best(prop, bounds, _ADMITTED[require])
    refuted = seen is not None and seen > prop.limit
    proved = best is not None and passes(best.proven, prop.limit)
    if refuted and proved:
        raise InternalError("QEB905", "a task is proved and refuted at once", found=f"{seen!r} beyond {prop.limit!r}")
    if seen is not None and best is not None and seen > best.proven:
        raise InternalError("QEB904", "a witness exceeds the proven bound", found=f"{seen!r} > {best.proven!r}")
    if require == "statistical":
        return _statistical(sampled, max_failure_rate, seen, worst, evidence)

    verdict: Verdict = "fail" if refuted else "pass" if proved else "unknown"
    reason: VerdictReason | None = "refuted" if refuted else None
    if verdict == "unknown" and require == "tested" and _tested(prop, witnesses, evidence):
        return TaskVerdict("pass", None, seen, None, None, None, "tested", worst.engine if worst else None, worst)
    if verdict == "unknown" and require == "proof_or_statistical" and _rare(sampled, max_failure_rate):
        assert sampled is not None
        return TaskVerdict("pass", None, seen, None, None, None, "statistical", sampled.engine, worst, sampled)
    if verdict == "unknown":
        reason = _why(evidence)
    if best is None:
        engine = worst.engine if worst is not None else None
        return TaskVerdict(verdict, reason, seen, None, None, None, None, engine, worst, sampled)
    engine = worst.engine if refuted and worst is not None else best.engine
    return TaskVerdict(verdict, reason, seen, best.proven, best.lower, best.upper, best.trust, engine, worst, sampled)


def _rare(sampled: Sampled | None, rate: float | None) -> bool:
    """Whether inputs beyond the limit are as rare as asked."""
    return sampled is not None and rate is not None and sampled.upper <= rate


def _statistical(
    sampled: Sampled | None, rate: float | None, seen: float | None, worst: Witness | None, evidence: Sequence[Evidence]
) -> TaskVerdict:
    """Nothing but the sample counts: a single input beyond the limit refutes no rate."""
    if _rare(sampled, rate):
        assert sampled is not None
        return TaskVerdict("pass", None, seen, None, None, None, "statistical", sampled.engine, worst, sampled)
    engine = None if sampled is None else sampled.engine
    if sampled is not None and rate is not None and sampled.lower > rate and worst is not None:
        return TaskVerdict("fail", "refuted", seen, None, None, None, None, engine, worst, sampled)
    return TaskVerdict("unknown", _why(evidence), seen, None, None, None, None, engine, worst, sampled)


@dataclass(frozen=True, slots=True, eq=False)
class _Best:
    lower: F64
    upper: F64
    proven: float
    trust: EvidenceClass
    engine: str


def _best(prop: Property, bounds: Sequence[Bound], admitted: Sequence[EvidenceClass]) -> _Best | None:
    """The bound to report: of the most trusted class that decides; else the tightest."""
    best: _Best | None = None
    for k, trust in enumerate(admitted):
        usable = [b for b in bounds if b.trust in admitted[: k + 1]]
        if not any(b.trust == trust for b in usable):
            continue
        lower = np.max([b.lower for b in usable], axis=0)
        upper = np.min([b.upper for b in usable], axis=0)
        all_of = Bound(lower, upper, "certified", "", 0.0, _values(usable), _figure(usable))
        figure = proven(prop, all_of)
        if not np.isfinite(figure):
            continue
        if best is None or figure < best.proven:
            engine = min(usable, key=lambda b: (proven(prop, b), TRUST.index(b.trust))).engine
            best = _Best(lower, upper, figure, trust, engine)
        if passes(best.proven, prop.limit):
            break
    return best


def _values(bounds: Sequence[Bound]) -> tuple[Range, Range] | None:
    """What all of them together say of the outputs themselves."""
    known = [b.values for b in bounds if b.values is not None]
    if not known:
        return None
    f, q = (
        (np.max([v[side][0] for v in known], axis=0), np.min([v[side][1] for v in known], axis=0)) for side in (0, 1)
    )
    return f, q


def _figure(bounds: Sequence[Bound]) -> float | None:
    return min((b.figure for b in bounds if b.figure is not None), default=None)


def _check_consistent(bounds: Sequence[Bound], witnesses: Sequence[Witness]) -> None:
    """Every pair of bounds intersects and every replayed witness lies in every bound: zero tolerance."""
    sizes = {b.lower.shape for b in bounds} | {b.upper.shape for b in bounds} | {w.gap.shape for w in witnesses}
    if len(sizes) > 1:
        raise InternalError("QEB903", "engines disagree on the number of outputs", found=str(sorted(sizes)))
    for w in witnesses:
        if np.isnan(w.gap).any():
            raise InternalError("QEB906", f"engine {w.engine} returned a gap that is not a number")
    if not bounds:
        return
    lower = np.max([b.lower for b in bounds], axis=0)
    upper = np.min([b.upper for b in bounds], axis=0)
    if (lower > upper).any():
        k = int(np.argmax(lower - upper))
        raise InternalError(
            "QEB904", "two bounds exclude each other", where=f"output {k}", found=f"[{lower[k]!r}, {upper[k]!r}]"
        )
    for w in witnesses:
        out = (w.gap + w.slack < lower) | (w.gap - w.slack > upper)
        if w.replayed and out.any():
            k = int(np.argmax(out))
            raise InternalError(
                "QEB904",
                f"a witness of {w.engine} exceeds the proven bound",
                where=f"output {k}",
                found=f"{w.gap[k]!r} not in [{lower[k]!r}, {upper[k]!r}]",
            )
    values = _values(bounds)
    for w in witnesses:
        if values is None or w.values is None or not w.replayed:
            continue
        ((f, q), (seen, given)) = values, w.values
        if ((seen[1] < f[0]) | (seen[0] > f[1]) | (given < q[0]) | (given > q[1])).any():
            raise InternalError("QEB904", f"a witness of {w.engine} has outputs beyond the proven ones")


def _tested(prop: Property, witnesses: Sequence[Witness], evidence: Sequence[Evidence]) -> bool:
    """Whether a search ran to its end, its best input was replayed, and nothing it saw is beyond the limit."""
    searched = any(w.replayed for w in witnesses)
    clean = all(witnessed(prop, w) <= prop.limit for w in witnesses)
    cut = any(
        isinstance(e, Stopped) and e.engine in SEARCHES and e.reason in ("guard_time", "guard_memory") for e in evidence
    )
    return searched and clean and not cut


def _why(evidence: Sequence[Evidence]) -> VerdictReason:
    given = {e.reason for e in evidence if isinstance(e, Stopped)}
    if "guard_time" in given:
        return "guard_time"
    return "guard_memory" if "guard_memory" in given else "effort"


@dataclass(frozen=True, slots=True)
class CheckVerdict:
    """The verdict on a check: the worst of its tasks, and the figures over all of them."""

    verdict: Verdict
    reason: VerdictReason | None
    witnessed: float | None
    proven: float | None
    evidence: EvidenceClass | None


def check_verdict(tasks: Sequence[TaskVerdict]) -> CheckVerdict:
    """Fail if any task fails, else unknown if any is, else pass.  Raises NothingCheckedError without tasks.

    ``proven`` is None unless every task has a proven figure; ``evidence`` is the least trusted one.
    """
    if not tasks:
        raise NothingCheckedError("QEB501", "a check has no task", fix="check the region's data, `limit` and `sample`")
    verdicts = {t.verdict for t in tasks}
    verdict: Verdict = "fail" if "fail" in verdicts else "unknown" if "unknown" in verdicts else "pass"
    reasons: list[VerdictReason] = [t.reason for t in tasks if t.verdict == verdict and t.reason is not None]
    reason: VerdictReason | None = min(reasons, key=SEVERITY.index, default=None)
    seen = [t.witnessed for t in tasks if t.witnessed is not None]
    proven = [t.proven for t in tasks]
    classes: list[EvidenceClass] = [t.evidence for t in tasks if t.evidence is not None]
    weakest: EvidenceClass | None = max(classes, key=TRUST.index, default=None)
    return CheckVerdict(
        verdict,
        reason,
        max(seen, default=None),
        None if any(p is None for p in proven) else max(p for p in proven if p is not None),
        weakest if len(classes) == len(tasks) else None,
    )
