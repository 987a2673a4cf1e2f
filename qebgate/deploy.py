"""Whether this very model passed this very policy: a result file compared with both, without solving again.

The result file is as trustworthy as the place it comes from: nothing in it is recomputed here, and whoever can write
it can make it say anything.  Sign it (docs/deploy.md), or run the gate where you deploy.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qebgate.adapters.files import read_file
from qebgate.errors import DataError, ModelError, QebgateError, printable
from qebgate.policy import PolicyFile
from qebgate.policy.model import ModelSpec
from qebgate.waivers import expired, waiver_of

MAX_EVIDENCE = 1 << 29
MAX_MODEL = 1 << 31
RESULT_NAME = "result.json"
"""What a result file is called in a folder of evidence."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class _Runtime(_Part):
    name: str
    version: str | None


class _Task(_Part):
    runtime: _Runtime
    verdict: Literal["pass", "fail", "unknown"]
    waived: bool


class _Models(_Part):
    name: str
    float_sha256: str
    quantized_sha256: str


class _Check(_Part):
    id: str
    verdict: Literal["pass", "fail", "unknown"]
    complete: bool
    model: _Models
    tasks: list[_Task]


class _Tool(_Part):
    name: Literal["qebgate"]
    version: str


class _Result(_Part):
    number: Literal[1] = Field(alias="schema")
    tool: _Tool
    policy_sha256: str | None
    interrupted: bool
    checks: list[_Check]
    errors: list[Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """``refused``: why not, in words (nothing: yes).  ``facts``: what a yes is about, and what it is not."""

    refused: tuple[str, ...]
    facts: tuple[str, ...]


def confirm(
    evidence: Path, model: Path, policy: PolicyFile, runtimes: Sequence[str] = (), today: dt.date | None = None
) -> Answer:
    """Compare a result file (or a folder that holds one) with a quantized model and a policy.

    ``runtimes``, as ``NAME`` or ``NAME VERSION``, must all have been checked.  Raises DataError where the evidence
    is damaged and ModelError where the model cannot be read.
    """
    found = _read(evidence)
    sha = hashlib.sha256(read_file(model, MAX_MODEL, ModelError)).hexdigest()
    today = today or dt.datetime.now(dt.timezone.utc).date()
    refused: list[str] = []
    if found.policy_sha256 != policy.sha256:
        refused.append("it answers another policy, or one with other --set values than these")
    if found.interrupted or found.errors:
        refused.append("the run was interrupted, or some of its checks could not run")
    about = [c for c in found.checks if c.model.quantized_sha256 == sha]
    if not about:
        refused.append("no check in it is about this model: its SHA-256 is another")
    names = {c.model.name for c in about}
    facts = [f"{printable(model.name)}: SHA-256 {sha}", f"checked by qebgate {printable(found.tool.version)}"]
    for name in sorted(names & set(policy.policy.models)):
        refused += _checks_of(name, found, policy, sha, today, facts)
        refused += _float_of(name, found, policy, facts)
        refused += _runtimes_of(name, found, policy, runtimes, facts)
    if names - set(policy.policy.models):
        refused.append("the policy has no model of that name")
    facts.append("not compared: the policy's data files, and whether the result file is genuine (sign it)")
    return Answer(tuple(dict.fromkeys(refused)), tuple(facts))


def _read(evidence: Path) -> _Result:
    path = evidence / RESULT_NAME if evidence.is_dir() else evidence
    data = read_file(path, MAX_EVIDENCE, DataError)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({k for k, _ in pairs}) != len(pairs):
            raise ValueError("a key is given twice")
        return dict(pairs)

    try:
        return _Result.model_validate(json.loads(data, object_pairs_hook=once))
    except (ValidationError, ValueError, RecursionError) as e:
        reason = str(e).splitlines()[0]
        raise _damaged(path, reason) from None


def _damaged(path: Path, reason: str) -> QebgateError:
    return DataError(
        "QEB497", "the evidence is not a result file of `qebgate check --format json=...`", printable(path), reason
    )


def _checks_of(name: str, found: _Result, policy: PolicyFile, sha: str, today: dt.date, facts: list[str]) -> list[str]:
    refused: list[str] = []
    results = {c.id: c for c in found.checks}
    for spec in policy.policy.checks:
        if spec.model != name:
            continue
        label = f"check {printable(spec.id)}"
        c = results.get(spec.id)
        if c is None:
            refused.append(f"{label} was not run")
            continue
        if c.model.name != name or c.model.quantized_sha256 != sha:
            refused.append(f"{label} was run on another model")
        if not c.complete or not c.tasks:
            refused.append(f"{label} was not run completely")
        if c.verdict == "unknown" and policy.policy.on_unknown_of(spec) == "warn":
            facts.append(f"{label} is UNKNOWN, which the policy only warns about")
        elif c.verdict != "pass" or any(t.verdict != "pass" for t in c.tasks):
            refused.append(f"{label} did not pass")
        if any(t.waived for t in c.tasks):
            waiver = waiver_of(policy.policy.waivers, spec.id, sha)
            if waiver is None or expired(waiver, today):
                refused.append(f"{label} passed by a waiver that has expired")
            else:
                facts.append(f"{label} passes by a waiver until {waiver.expires}")
        facts.append(f"{label}: {c.verdict}")
    return refused


def _float_of(name: str, found: _Result, policy: PolicyFile, facts: list[str]) -> list[str]:
    """The float reference, where it is here to be compared."""
    path = policy.resolve(policy.policy.models[name].float_file)
    shas = {c.model.float_sha256 for c in found.checks if c.model.name == name}
    if not path.is_file():
        facts.append("the float reference is not here and was not compared")
        return []
    sha = hashlib.sha256(read_file(path, MAX_MODEL, ModelError)).hexdigest()
    return [] if shas == {sha} else ["it is about another float reference than the policy's"]


def _runtimes_of(name: str, found: _Result, policy: PolicyFile, wanted: Sequence[str], facts: list[str]) -> list[str]:
    refused: list[str] = []
    model: ModelSpec = policy.policy.models[name]
    for c in found.checks:
        if c.model.name != name:
            continue
        names = Counter(t.runtime.name for t in c.tasks)
        versions = {f"{t.runtime.name} {t.runtime.version}" for t in c.tasks}
        label = f"check {printable(c.id)}"
        if not set(model.runtimes) <= set(names) or len(set(names.values())) > 1:
            refused.append(f"{label} was not run for every runtime of the policy")
        refused += [f"{label} was not run for {printable(w)}" for w in wanted if w not in names and w not in versions]
        facts.append(f"{label} covers {', '.join(sorted(map(printable, versions)))}")
    return refused
