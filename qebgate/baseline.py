"""The ratchet: proven bounds of an earlier run, and checks that fail because theirs rose.

A bound says something about another one only if both are about the same question: the same region in real units, the
same property, effort and engines, proven by the same version of the tool.  Everything else is not compared, and said.
The quantized model is what may change.

The file is data, read like any hostile file: limited in size, nothing but numbers and names in it, all of it checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qebgate._version import __version__
from qebgate.adapters.files import read_file
from qebgate.errors import PolicyError, printable
from qebgate.plan import PlannedCheck
from qebgate.policy import PolicyFile
from qebgate.result import BaselineResult, CheckResult

VERSION = 1
MAX_BYTES = 16 << 20

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Bound = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Text = Annotated[str, Field(min_length=1, max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RuntimeEntry(_Strict):
    """The largest proven and witnessed figure over a check's tasks in one runtime."""

    proven: _Bound
    witnessed: _Bound | None = None


class Entry(_Strict):
    """What a check had proven, and what that was about."""

    tool: _Text
    effort: Literal["quick", "standard", "deep"]
    engines: Literal["auto"] | list[_Text] = "auto"
    region: _Digest
    question: _Digest
    quantized_sha256: _Digest
    runtimes: dict[_Text, RuntimeEntry]


class _File(_Strict):
    qebgate_baseline: Literal[1]
    checks: Annotated[dict[_Text, Entry], Field(max_length=100_000)]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A baseline file's checks; ``exists`` is False before the first ``qebgate baseline update``."""

    path: Path
    checks: Mapping[str, Entry]
    exists: bool


def path_of(source: PolicyFile) -> Path:
    """Where the policy keeps its baseline."""
    from qebgate.policy.demands import BaselineSpec

    return source.resolve((source.policy.baseline or BaselineSpec()).file)


def read_baseline(path: Path) -> Baseline:
    """The baseline, empty where there is no file; PolicyError for one that is damaged."""
    where = printable(path)
    if not path.exists():
        return Baseline(path, {}, exists=False)
    data = read_file(path, MAX_BYTES, PolicyError)
    try:
        raw: object = json.loads(data, parse_constant=_refuse)
        found = _File.model_validate(raw)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        at = ".".join(printable(p, 60) for p in first["loc"])
        raise _damaged(where, f"{at}: {printable(first['msg'], 200)}") from None
    except (ValueError, RecursionError, MemoryError) as e:
        raise _damaged(where, f"no JSON: {printable(e, 200)}") from None
    return Baseline(path, found.checks, exists=True)


def _refuse(name: str) -> float:
    raise ValueError(name)


def _damaged(where: str, found: str) -> PolicyError:
    fix = "restore the file, or delete it and run `qebgate baseline update`"
    return PolicyError("QEB232", "the baseline file is damaged", where, found, fix)


def entry_of(planned: PlannedCheck, result: CheckResult) -> Entry | None:
    """What a check that passed has proven; None where a task has no proven bound, or a waiver made it pass."""
    if result.verdict != "pass" or not result.complete or any(t.waived for t in result.tasks):
        return None
    runtimes: dict[str, RuntimeEntry] = {}
    for name in dict.fromkeys(t.runtime.name for t in result.tasks):
        tasks = [t for t in result.tasks if t.runtime.name == name]
        bounds = [t.proven for t in tasks if t.proven is not None and math.isfinite(t.proven)]
        if len(bounds) < len(tasks):
            return None
        seen = [t.witnessed for t in tasks if t.witnessed is not None and math.isfinite(t.witnessed)]
        runtimes[name] = RuntimeEntry(proven=max(bounds), witnessed=max(seen, default=None))
    spec = planned.spec
    return Entry(
        tool=__version__,
        effort=spec.effort,
        engines="auto" if spec.engines == "auto" else [str(e) for e in spec.engines],
        region=planned.region_key,
        question=planned.question_key,
        quantized_sha256=result.quantized_sha256,
        runtimes=runtimes,
    )


def compared(result: CheckResult, planned: PlannedCheck, baseline: Baseline, percent: str) -> CheckResult:
    """The result beside the baseline's; a pass whose bound rose by more than ``percent`` fails as ``regressed``."""
    old, new = baseline.checks.get(result.id), entry_of(planned, result)
    if new is None:
        was = None if old is None else _worst(old)
        return replace(result, baseline=BaselineResult("not_compared", was, None, "no bound to compare"))
    if old is None:
        why = "the baseline does not have this check" if baseline.exists else "there is no baseline yet"
        return replace(result, baseline=BaselineResult("none", None, None, f"{why}: run `qebgate baseline update`"))
    why = incomparable(old, new)
    if why is not None:
        return replace(result, baseline=BaselineResult("not_compared", _worst(old), None, why))
    shared = [n for n in new.runtimes if n in old.runtimes]
    if not shared:
        return replace(result, baseline=BaselineResult("not_compared", _worst(old), None, "other runtimes"))
    risen = [n for n in shared if Fraction(new.runtimes[n].proven) > _allowed(old.runtimes[n], percent)]
    at = max(risen or shared, key=lambda n: _ratio(old.runtimes[n].proven, new.runtimes[n].proven))
    was, allowed = old.runtimes[at].proven, float(_allowed(old.runtimes[at], percent))
    note = f"{at}: {was:.6g}, now {new.runtimes[at].proven:.6g}; at most {allowed:.6g} is allowed"
    beside = replace(result, baseline=BaselineResult("compared", was, allowed, note))
    return replace(beside, verdict="fail", reason="regressed") if risen else beside


def incomparable(old: Entry, new: Entry) -> str | None:
    """Why two bounds say nothing about each other; None where they do."""
    differs = [
        ("the region, in real units", old.region != new.region),
        ("the property or how inputs are quantized", old.question != new.question),
        (f"the effort ({old.effort}, now {new.effort})", old.effort != new.effort),
        ("the engines", old.engines != new.engines),
        (f"the tool's version ({printable(old.tool, 40)}, now {new.tool})", old.tool != new.tool),
    ]
    what = [words for words, other in differs if other]
    return f"not compared: {', '.join(what)} changed since the baseline" if what else None


def _allowed(old: RuntimeEntry, percent: str) -> Fraction:
    return Fraction(old.proven) * (1 + Fraction(percent) / 100)


def _ratio(old: float, new: float) -> float:
    return new / old if old > 0 else math.inf if new > 0 else 1.0


def _worst(e: Entry) -> float | None:
    return max((r.proven for r in e.runtimes.values()), default=None)


def updated(baseline: Baseline, entries: Mapping[str, Entry], known: Sequence[str]) -> str:
    """The file's new text: ``entries`` replaced or added, checks that the policy no longer has left out."""
    kept = {k: e for k, e in baseline.checks.items() if k in known and k not in entries}
    checks: dict[str, Any] = {k: e.model_dump(mode="json") for k, e in sorted({**kept, **entries}.items())}
    return json.dumps({"qebgate_baseline": VERSION, "checks": checks}, indent=1, allow_nan=False) + "\n"
