"""What is wrong with a policy, in words: pydantic's errors with line, column and a suggestion."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, cast

from pydantic import ValidationError

from qebgate.errors import PolicyError, printable
from qebgate.policy.document import Document
from qebgate.policy.document import Path as Place


def kind_of(value: Any) -> str:
    """What a value of a policy is, in a user's words."""
    if isinstance(value, bool):
        return "truth value"
    for cls, name in ((dict, "mapping"), (list, "list"), (str, "text"), ((int, float), "number")):
        if isinstance(value, cls):
            return name
    return "nothing"


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"a {kind_of(value)}"
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


def translated(doc: Document, errors: ValidationError) -> Iterator[tuple[Place, PolicyError]]:
    """Each of pydantic's errors as one of ours, and the place in the policy that it is about."""
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
