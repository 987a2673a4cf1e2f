"""From a policy file to a validated :class:`Policy`, or to one error that holds all of its errors."""

from __future__ import annotations

import difflib
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
from qebgate.policy.document import Path as Place
from qebgate.policy.later import later_features
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
        found = "an empty file" if data is None else f"a {_kind(data)}"
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
            for place, x in _translate(doc, e)
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


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "truth value"
    for cls, name in ((dict, "mapping"), (list, "list"), (str, "text"), ((int, float), "number")):
        if isinstance(value, cls):
            return name
    return "nothing"


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"a {_kind(value)}"
    if value is None:
        return "nothing"
    return f"the text {printable(value, 80)!r}" if isinstance(value, str) else repr(value)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """What to write instead of an unknown word."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {printable(close[0], 80)!r}?"
    shown = ", ".join(printable(k, 60) for k in known[:20])
    return f"one of: {shown}" if shown else "there are none"


def _place(data: Any, loc: tuple[str | int, ...]) -> Place:
    """A validation error's location without the tags of unions that pydantic puts in between."""
    place: list[str | int] = []
    here = data
    for k, part in enumerate(loc):
        last = k == len(loc) - 1
        if (isinstance(here, dict) and part in here) or (isinstance(here, list) and isinstance(part, int)):
            items = cast("Any", here)
            place.append(part)
            here = items[part] if not isinstance(here, list) or part < len(items) else None
        elif part in ("[key]", "one", "many", "text", "number", "mapping"):
            continue
        elif last and isinstance(here, dict):
            place.append(part)
    return tuple(place)


def _get(data: Any, place: Place) -> Any:
    for part in place:
        data = data[part]
    return data


_TYPES = {
    "float_type": "a number is expected",
    "int_type": "a whole number is expected",
    "string_type": "text is expected",
    "dict_type": "a mapping is expected",
    "list_type": "a list is expected",
    "model_type": "a mapping is expected",
    "model_attributes_type": "a mapping is expected",
    "int_from_float": "a whole number is expected",
}


_FORMS = {
    "number": "a decimal number such as 0.5",
    "whole": "such as 1",
    "is": "text, in quotes where it could be a number",
    "mapping": "`key: value` pairs, in lines of their own or in { }",
    "list": "entries in lines that begin with `-`, or in [ ]",
}
_LENGTHS = {
    "too_short": "add entries, or leave the key out",
    "too_long": "remove entries",
    "string_too_short": "write something, or leave the key out",
    "string_too_long": "shorten it",
    "string_pattern_mismatch": "a name such as digits-logits",
}
_UNITS = {
    **dict.fromkeys(("`per_task`", "`total`", "`memory`"), "give a unit: 30s, 10m, 2h; 512MiB, 8GiB"),
    "`max_increase`": "a share in percent, such as 5%",
    "`expires`": "year, month and day, such as 2027-01-31",
}


def _translate(doc: Document, errors: ValidationError) -> Iterator[tuple[Place, PolicyError]]:
    for e in errors.errors(include_url=False):
        place = _place(doc.data, e["loc"])
        kind, ctx = e["type"], e.get("ctx", {})
        name = _label(place)
        where = doc.where(place)
        if kind == "extra_forbidden":
            known = _known_keys(doc.data, place)
            fix = did_you_mean(str(place[-1]), known)
            yield place, PolicyError("QEB209", f"{name} is not a known key", doc.where(place, key=True), fix=fix)
        elif kind in ("missing", "union_tag_not_found"):
            key = "kind" if kind == "union_tag_not_found" else e["loc"][-1]
            at = place if kind == "union_tag_not_found" else place[:-1]
            yield (
                place,
                PolicyError("QEB210", f"`{printable(key)}` is missing", doc.where(at, key=True), fix=f"add `{key}:`"),
            )
        elif kind in ("literal_error", "union_tag_invalid"):
            at = (*place, "kind") if kind == "union_tag_invalid" else place
            value = _get(doc.data, at)
            expected = str(ctx.get("expected", ctx.get("expected_tags", "")))
            known = [w.strip().strip("'") for w in expected.replace(" or ", ", ").split(",")]
            label = _label(at)
            fix = did_you_mean(str(value), known) if isinstance(value, str) else f"one of: {', '.join(known)}"
            yield (
                place,
                PolicyError("QEB212", f"{label} has a value that is not known", doc.where(at), _shown(value), fix),
            )
        elif kind.startswith("QEB"):
            found = _shown(e["input"]) if kind == "QEB211" else None
            yield place, PolicyError(kind, e["msg"], where, found, ctx.get("fix"))
        else:
            yield place, _wrong_value(kind, ctx, name, e, where)


def _label(place: Place) -> str:
    if not place:
        return "the policy"
    last = place[len(place) - 1]
    if isinstance(last, int):
        return f"entry {last + 1} of {_label(place[:-1])}"
    return f"`{printable(last, 60)}`"


def _wrong_value(kind: str, ctx: dict[str, Any], name: str, e: Any, where: str) -> PolicyError:
    value = e["input"]
    if kind in _TYPES:
        fix = _FORMS[_TYPES[kind].split()[1]]
        if kind in ("float_type", "int_type") and isinstance(value, str):
            fix = "write the number without quotes, as a decimal such as 0.001"
        elif name in _UNITS:
            fix = _UNITS[name]
        return PolicyError("QEB211", f"{name}: {_TYPES[kind]}", where, _shown(value), fix)
    limits = {
        "greater_than_equal": ("at least", "ge"),
        "greater_than": ("more than", "gt"),
        "less_than": ("less than", "lt"),
        "less_than_equal": ("at most", "le"),
    }
    if kind in limits:
        words, key = limits[kind]
        need = f"{words} {ctx[key]:g}"
        return PolicyError("QEB208", f"{name} must be {need}", where, _shown(value), f"a number of {need}")
    lengths = {
        "too_short": "needs at least {min_length} entries",
        "too_long": "has more than {max_length} entries",
        "string_too_short": "is empty",
        "string_too_long": "is longer than {max_length} characters",
        "string_pattern_mismatch": "holds characters that are not allowed (letters, digits and _ . : / + - are)",
    }
    if kind in lengths:
        fixes = {"`model_sha256`": "the 64 digits that `sha256sum` prints for the quantized model's file"}
        words = lengths[kind].format(**ctx)
        if kind == "string_pattern_mismatch" and name in fixes:
            words = "is no SHA-256 hash"
        fix = fixes.get(name, _LENGTHS.get(kind))
        return PolicyError("QEB211", f"{name} {words}", where, _shown(value), fix)
    if kind == "finite_number":
        return PolicyError("QEB208", f"{name} is not finite", where, _shown(value))
    return PolicyError("QEB211", f"{name}: {printable(e['msg'])}", where, _shown(value))


def _known_keys(data: Any, place: Place) -> list[str]:
    """Keys that the mapping around an unknown key may have."""
    from qebgate.policy import demands as d
    from qebgate.policy import model as m

    table: dict[int, Any] = {1: m.Policy}
    cls: Any = table.get(len(place))
    if cls is None and place[0] == "models":
        nested = {"float": m.FloatFile, "preprocess": m.PreprocessSpec}
        deep = {4: m.OnTheFly, 5: m.FixedPointSpec, 6: m.FixedPointInputSpec}
        cls = m.ModelSpec if len(place) == 3 else nested.get(str(place[2]), deep.get(len(place), m.OnTheFly))
    elif cls is None and place[0] == "regions":
        kinds: dict[Any, Any] = {"points": m.PointsSpec, "ball": m.BallSpec, "box": m.BoxSpec}
        kinds |= {"segment": m.SegmentSpec, "vnnlib": m.VnnlibSpec}
        cls = kinds.get(_get(data, place[:-1]).get("kind"), m.BallSpec)
    elif cls is None and place[0] == "checks":
        cls = m.CheckSpec if len(place) == 3 else _demanded(data, place)
    elif cls is None:
        cls = {"baseline": d.BaselineSpec, "waivers": d.WaiverSpec, "evidence": d.EvidenceSpec}.get(
            str(place[0]), m.GuardSpec
        )
    return [f.alias or n for n, f in cls.model_fields.items()]


def _demanded(data: Any, place: Place) -> Any:
    """The type of the mapping inside a check that holds an unknown key."""
    from qebgate.policy import demands as d

    if place[2] == "require":
        return d.StatisticalSpec if len(place) > 4 else d.StatisticalRequire
    kinds: dict[Any, Any] = {"max_rel": d.MaxRel, "same_top1": d.SameTop1}
    return kinds.get(_get(data, place[:-1]).get("kind"), d.MaxAbs)


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
