"""From a policy file to a validated :class:`Policy`, or to one error that holds all of its errors."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ValidationError

from qebgate.errors import PolicyError, printable
from qebgate.policy.document import MAX_BYTES, MAX_ERRORS, Document, read_document
from qebgate.policy.later import later_features
from qebgate.policy.messages import did_you_mean, kind_of, translated
from qebgate.policy.model import Policy

FILE_NAME = "qebgate.yaml"
Effort = Literal["quick", "standard", "deep"]
SETTABLE = ("float", "quantized", "runtime", "float_semantics", "input_quantization")


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy and where it came from.  ``root`` is what its paths are relative to."""

    policy: Policy
    path: Path | None
    root: Path
    sha256: str
    document: Document = field(repr=False)

    def where(self, *place: str | int) -> str:
        """``file:line:column`` of a part of the policy."""
        return self.document.where(place)

    def places(self) -> dict[str, tuple[int, int]]:
        """Line and column of every check; nothing where a program made the policy."""
        marks = self.document.values
        found = ((c.id, marks.get(("checks", k))) for k, c in enumerate(self.policy.checks))
        return {name: mark for name, mark in found if mark is not None}

    def resolve(self, path: str) -> Path:
        """A path of the policy as a path of the file system."""
        return self.root / path


def find_policy(start: Path) -> Path:
    """``qebgate.yaml`` in a folder or the nearest one above it; PolicyError where there is none."""
    here = start.resolve()
    for folder in (here, *here.parents):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    raise PolicyError(
        "QEB202",
        f"there is no {FILE_NAME} here or in any folder above",
        where=printable(here),
        fix="name the policy on the command line, or write one",
    )


def load_policy(
    path: Path, *, root: Path | None = None, sets: Sequence[str] = (), effort: Effort | None = None
) -> PolicyFile:
    """Read and validate a policy file.

    ``root`` replaces the file's own folder as what paths are relative to; ``sets`` are overrides
    ``models.NAME.KEY=VALUE``, whose paths are relative to the working directory; ``effort`` replaces that of every
    check.  Raises one PolicyError for all that is wrong.
    """
    data = _read(path)
    doc = read_document(data, printable(path))
    changes = [*sets] if effort is None else [*sets, f"effort={effort}"]
    made = _finish(doc, path, root if root is not None else path.parent, _identity(data, changes), sets)
    if effort is None:
        return made
    checks = [c.model_copy(update={"effort": effort}) for c in made.policy.checks]
    return replace(made, policy=made.policy.model_copy(update={"checks": checks}))


def parse_policy(data: dict[str, Any], name: str, root: Path) -> PolicyFile:
    """Validate a policy that a program made (the command line, a callback); ``name`` stands for the file in errors."""
    doc = Document(name, data)
    return _finish(doc, None, root, hashlib.sha256(repr(data).encode()).hexdigest(), ())


def _identity(data: bytes, sets: Sequence[str]) -> str:
    """SHA-256 of a policy: of its file, and of overrides that change the question.

    A quantized model named on the command line is none: results hold that model's own hash.
    """
    changed = sorted(s for s in sets if not s.partition("=")[0].endswith(".quantized"))
    return hashlib.sha256(b"\0".join([data, *(s.encode() for s in changed)])).hexdigest()


def _read(path: Path) -> bytes:
    where = printable(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise PolicyError("QEB201", "the policy file cannot be read", where=where, found=reason) from None
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            found = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise PolicyError("QEB201", "the policy is not a file", where, found, fix=f"name the {FILE_NAME} itself")
        with os.fdopen(fd, "rb", closefd=False) as f:
            return f.read(MAX_BYTES + 1)
    finally:
        os.close(fd)


def _finish(doc: Document, path: Path | None, root: Path, sha256: str, sets: Sequence[str]) -> PolicyFile:
    errors = list(doc.errors)
    data: Any = doc.data
    if not isinstance(data, dict):
        if errors:
            raise _joined(doc, errors)
        found = "an empty file" if data is None else f"a {kind_of(data)}"
        errors.append(
            PolicyError("QEB211", "a policy is a mapping of keys", doc.name, found, "start it with `version: 1`")
        )
        raise _joined(doc, errors)
    for text in sets:
        _override(doc, text, errors)
    raw = cast("dict[str, Any]", data)
    later = list(later_features(raw))
    errors += [
        PolicyError("QEB216", f"{what} is not supported in this version", doc.where(p, key=True), fix="leave it out")
        for p, _, what in later
    ]
    policy = None
    try:
        policy = Policy.model_validate(raw)
    except ValidationError as e:
        scopes = [scope for _, scope, _ in later]
        errors += [
            x
            for place, x in translated(doc, e)
            if not any(place[: len(s)] == s for s in scopes) and not any(b[: len(place)] == place for b in doc.bad)
        ]
    errors = [*_without_misspelt(errors), *_references(doc, raw)]
    if errors or policy is None:
        raise _joined(doc, errors)
    return PolicyFile(policy, path, root, sha256, doc)


def _without_misspelt(errors: Sequence[PolicyError]) -> list[PolicyError]:
    """Without the keys that are missing only because they are misspelt: the other error says so already."""
    hints = {e.fix for e in errors if e.code == "QEB209"}
    return [
        e
        for e in errors
        if e.code != "QEB210" or f"did you mean {e.message.removesuffix(' is missing')[1:-1]!r}?" not in hints
    ]


def _joined(doc: Document, errors: Sequence[PolicyError]) -> PolicyError:
    """One error: itself where it is alone, else an error that holds all, in the file's order."""
    if len(errors) == 1:
        return errors[0]
    ordered = sorted(errors, key=lambda e: _line(doc, e))
    more = len(ordered) - MAX_ERRORS
    message = f"the policy has {len(ordered)} errors" + (
        f", the first {MAX_ERRORS} of which follow" if more > 0 else ""
    )
    return PolicyError("QEB200", message, where=doc.name, related=tuple(ordered[:MAX_ERRORS]))


def _line(doc: Document, e: PolicyError) -> tuple[int, int]:
    tail = (e.where or "").removeprefix(doc.name + ":").split(":")
    return (int(tail[0]), int(tail[1])) if len(tail) == 2 and all(t.isdigit() for t in tail) else (0, 0)


def _override(doc: Document, text: str, errors: list[PolicyError]) -> None:
    place, eq, value = text.partition("=")
    where = f"--set {printable(text)}"
    head, _, key = place.rpartition(".")
    models: Any = doc.data.get("models")
    if not eq or not head.startswith("models.") or key not in SETTABLE or not value:
        fix = f"models.NAME.KEY=VALUE, with a KEY of {', '.join(SETTABLE)}"
        errors.append(PolicyError("QEB217", "--set does not name a setting of a model", where, fix=fix))
        return
    name = head.removeprefix("models.")
    if not isinstance(models, dict) or not isinstance(cast("dict[str, Any]", models).get(name), dict):
        known = [str(k) for k in cast("dict[str, Any]", models)] if isinstance(models, dict) else []
        fix = did_you_mean(name, known)
        errors.append(PolicyError("QEB217", f"the policy has no model {printable(name)!r}", where, fix=fix))
        return
    if key in ("float", "quantized"):
        value = str(Path(value).absolute())
    cast("dict[str, Any]", models)[name][key] = value
    doc.overrides["models", name, key] = where


def _references(doc: Document, raw: dict[str, Any]) -> Iterator[PolicyError]:
    """Checks that name what is not there, and two of one name."""
    checks = raw.get("checks")
    seen: dict[str, int] = {}
    for k, item in enumerate(cast("list[Any]", checks) if isinstance(checks, list) else []):
        if not isinstance(item, dict):
            continue
        check = cast("dict[str, Any]", item)
        for key in ("model", "region"):
            table, name = raw.get(f"{key}s"), check.get(key)
            if isinstance(table, dict) and isinstance(name, str) and name and name not in table:
                known = [str(n) for n in cast("dict[str, Any]", table)]
                yield PolicyError(
                    "QEB213",
                    f"the policy has no {key} {printable(name, 80)!r}",
                    doc.where(("checks", k, key)),
                    fix=did_you_mean(name, known),
                )
        ident = check.get("id")
        if isinstance(ident, str):
            if ident in seen:
                first = doc.where(("checks", seen[ident], "id"))
                where = doc.where(("checks", k, "id"))
                yield PolicyError(
                    "QEB214",
                    "two checks have the same id",
                    where,
                    f"{printable(ident)!r}, first at {first}",
                    "give each check an id of its own",
                )
            seen.setdefault(ident, k)
    yield from _waived(doc, raw, seen)


def _waived(doc: Document, raw: dict[str, Any], checks: dict[str, int]) -> Iterator[PolicyError]:
    """Waivers of checks that are not there, that allow nothing, or that say the same thing twice."""
    waivers = raw.get("waivers")
    given: dict[tuple[Any, Any], int] = {}
    for k, item in enumerate(cast("list[Any]", waivers) if isinstance(waivers, list) else []):
        if not isinstance(item, dict):
            continue
        waiver = cast("dict[str, Any]", item)
        name, sha256 = waiver.get("check"), waiver.get("model_sha256")
        if not isinstance(name, str):
            continue
        if name not in checks:
            fix = did_you_mean(name, list(checks))
            where = doc.where(("waivers", k, "check"))
            yield PolicyError("QEB213", f"the policy has no check {printable(name, 80)!r}", where, fix=fix)
            continue
        prop = raw["checks"][checks[name]].get("property")
        limit = prop.get("limit", prop.get("margin", 0.0)) if isinstance(prop, dict) else None
        wider = waiver.get("limit")
        if isinstance(limit, (int, float)) and isinstance(wider, (int, float)) and wider <= limit:
            where = doc.where(("waivers", k, "limit"))
            found = f"{wider!r}; the check's own limit is {limit!r}"
            fix = "a limit above the check's own, or no waiver"
            yield PolicyError("QEB230", "a waiver allows nothing that its check does not", where, found, fix)
        if isinstance(sha256, str) and (name, sha256) in given:
            first = doc.where(("waivers", given[name, sha256]))
            where = doc.where(("waivers", k))
            found = f"{printable(name)!r}, first at {first}"
            yield PolicyError("QEB231", "two waivers are about the same check and model", where, found, "keep one")
        elif isinstance(sha256, str):
            given[name, sha256] = k
