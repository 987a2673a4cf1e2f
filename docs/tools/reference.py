"""The pages that are made from the program itself: every key of the policy, and every option of the command line.

python docs/tools/reference.py --write
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from qebgate.policy.schema import policy_schema

DOCS = Path(__file__).resolve().parents[1]
WRITTEN = "Written by `python docs/tools/reference.py --write`; a test keeps it up to date."
TITLES = {
    "ModelSpec": "models.NAME",
    "FloatFile": "models.NAME.float, as a mapping",
    "OnTheFly": "models.NAME.quantized, as a mapping",
    "FixedPointSpec": "models.NAME.quantized.fixed_point",
    "FixedPointInputSpec": "models.NAME.quantized.fixed_point.input",
    "PreprocessSpec": "models.NAME.preprocess",
    "PointsSpec": "regions.NAME, kind: points",
    "BallSpec": "regions.NAME, kind: ball",
    "BoxSpec": "regions.NAME, kind: box",
    "SegmentSpec": "regions.NAME, kind: segment",
    "VnnlibSpec": "regions.NAME, kind: vnnlib",
    "InputSpec": "regions.NAME.inputs, each",
    "CheckSpec": "checks, each",
    "MaxAbs": "checks.property, kind: max_abs",
    "MaxLsb": "checks.property, kind: max_lsb",
    "MaxRel": "checks.property, kind: max_rel",
    "SameTop1": "checks.property, kind: same_top1",
    "MaxL2": "checks.property, kind: max_l2",
    "OutputName": "checks.property.tensor, by name",
    "StatisticalRequire": "checks.require, as a mapping",
    "StatisticalSpec": "checks.require.statistical",
    "GuardSpec": "guard",
    "BaselineSpec": "baseline",
    "WaiverSpec": "waivers, each",
    "EvidenceSpec": "evidence",
}
"""Where each part of the schema stands in a policy, in the order of the page."""
COMMON = (
    (
        "regions.NAME, every kind",
        "What all regions have.",
        ("PointsSpec", "BallSpec", "BoxSpec", "SegmentSpec", "VnnlibSpec"),
    ),
    (
        "regions.NAME, made from rows of data",
        "What regions of kind `points`, `ball` and `segment` have besides.",
        ("PointsSpec", "BallSpec", "SegmentSpec"),
    ),
    (
        "checks.property, every kind",
        "What all properties have. What they mean: [the policy](policy.md#properties).",
        ("MaxAbs", "MaxLsb", "MaxRel", "SameTop1", "MaxL2"),
    ),
)
"""Keys of several parts, which are told once, before the first of them."""
EXAMPLES = {
    "Policy": "on_unknown: fail\nguard: {per_task: 120s, total: 30m, memory: 8GiB}",
    "ModelSpec": "models:\n  digits: {float: models/float.tflite, quantized: models/int8.tflite, "
    "input_quantization: nearest}",
    "FloatFile": "float: {file: network.npz, input_scale: 1/255}",
    "OnTheFly": "quantized:\n  fixed_point: {bits: 8, weight_int_bits: 1, bias_int_bits: 2, activation_int_bits: 2, "
    "input: {bits: 8, signed: false, int_bits: 0}}",
    "PreprocessSpec": "preprocess: {scale: 0.00392156862745098, mean: 0.0, std: 1.0}",
    "PointsSpec": "golden: {kind: points, data: golden.npz, array: x, domain: grid}",
    "BallSpec": "near: {kind: ball, data: golden.npz, array: x, limit: 20, radius: 2, unit: lsb, domain: grid}",
    "BoxSpec": "everything: {kind: box, lower: [-1.0, -1.0], upper: [1.0, 1.0]}",
    "SegmentSpec": "brighter: {kind: segment, data: golden.npz, array: x, direction: ones, range: [-0.1, 0.1]}",
    "VnnlibSpec": "acas: {kind: vnnlib, file: prop_1.vnnlib}",
    "InputSpec": "inputs: {left: {clip: [0.0, 1.0]}, right: {clip: [-1.0, 1.0]}}",
    "CheckSpec": "checks:\n  - {id: logits, model: digits, region: near, property: {kind: max_abs, limit: 0.5}}",
    "MaxAbs": "property: {kind: max_abs, limit: 0.25, tensor: logits}",
    "MaxLsb": "property: {kind: max_lsb, limit: 3, outputs: predicted}",
    "MaxRel": "property: {kind: max_rel, limit: 0.1, floor: 0.5}",
    "SameTop1": "property: {kind: same_top1, margin: 0.1, tensor: logits}",
    "MaxL2": "property: {kind: max_l2, limit: 1.0, outputs: [0, 1]}",
    "OutputName": "property: {kind: max_abs, limit: 0.25, tensor: {signature: scores}}",
    "StatisticalRequire": "require: {statistical: {confidence: 0.999, max_failure_rate: 0.0001}}",
    "BaselineSpec": "baseline: {file: .qebgate/baseline.json, max_increase: 5%}",
    "WaiverSpec": 'waivers:\n  - {check: logits, model_sha256: "' + "0" * 64 + '", limit: 0.6, owner: "@ml", '
    'reason: "#412", expires: 2027-01-31}',
    "EvidenceSpec": "evidence: {inputs: omit}",
}
"""How each part is written; all of them together are a policy, which a test reads."""


def anchor(title: str) -> str:
    """The anchor of a heading, on forges and on the site."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def link(ref: str) -> str:
    """A link to another part of the page."""
    name = ref.rsplit("/", 1)[-1]
    return f"[{TITLES[name]}](#{anchor(TITLES[name])})"


def kind(s: dict[str, Any]) -> str:
    """A type and what it allows, in words."""
    if "$ref" in s:
        return link(s["$ref"])
    for several in ("oneOf", "anyOf"):
        if several in s:
            return _either([x for x in s[several] if x.get("type") != "null"])
    if "const" in s:
        return f"`{_word(s['const'])}`"
    if "enum" in s:
        return ", ".join(f"`{_word(v)}`" for v in s["enum"])
    if s["type"] == "array":
        return ("two " if s.get("maxItems") == 2 == s.get("minItems") else "a list of ") + _plural(s["items"])
    if s["type"] == "object":
        return f"names, each of {kind(s['additionalProperties'])}"
    name = {"string": "text", "number": "a number", "integer": "a whole number", "boolean": "true or false"}[s["type"]]
    return name + span(s)


def _either(choices: list[dict[str, Any]]) -> str:
    if len(choices) == 2 and choices[1].get("items") == choices[0] and "enum" in choices[0]:
        return f"{kind(choices[0])}, or a list of them"
    return ", ".join(kind(c) for c in choices[:-1]) + (" or " if len(choices) > 1 else "") + kind(choices[-1])


def _plural(s: dict[str, Any]) -> str:
    if "$ref" in s or "enum" in s:
        return kind(s)
    return {"number": "numbers", "integer": "whole numbers", "string": "texts"}[s["type"]] + span(s)


def span(s: dict[str, Any]) -> str:
    """The numbers that are allowed."""
    ends = [
        f"{word} {_word(s[key])}"
        for key, word in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if key in s and s[key] != 2**63
    ]
    return f", {' and '.join(ends)}" if ends else ""


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def rows(part: dict[str, Any], keys: Iterable[str] | None = None) -> Iterator[str]:
    """The table of one part: its keys (or some of them), those that are required first."""
    required = part.get("required", [])
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    properties = {k: part["properties"][k] for k in (part["properties"] if keys is None else keys)}
    for key, s in sorted(properties.items(), key=lambda kv: kv[0] not in required):
        default = "required" if key in required else "" if s.get("default") is None else f"`{_word(s['default'])}`"
        about = s.get("description", "which kind it is" if key == "kind" else "")
        if not about:
            raise ValueError(f"{key} of {part['title']} says nothing about itself")
        samples = [f"`{_word(e)}`" for e in s.get("examples", [])]
        if samples:
            about += f" (such as {' or '.join(samples)})"
        yield f"| `{key}` | {kind(s)} | {default} | {about} |".replace("``", "`")


def policy_page() -> list[str]:
    """Every key of the policy."""
    schema = policy_schema()
    parts = {name: schema["$defs"][name] for name in TITLES if name in schema["$defs"]}
    if missing := set(schema["$defs"]) - set(parts):
        raise ValueError(f"no title for {sorted(missing)}")
    lines = [
        "# Every key of the policy",
        "",
        WRITTEN,
        "",
        "Made from the JSON schema that `qebgate schema` prints. Other keys are errors. What the keys mean together:",
        "[the policy](policy.md). Names have at most 200 characters, identifiers of checks at most 100, paths at most",
        "4,096. Paths are relative to the policy file, or to `--root`.",
        "",
        "## The file",
        "",
        *rows(schema),
        *example("Policy"),
    ]
    told: dict[str, set[str]] = {name: set() for name in parts}
    for name, part in parts.items():
        for common, about, members in COMMON:
            if name == members[0]:
                keys = [k for k in part["properties"] if k not in told[name] and _same(parts, members, k)]
                lines += ["", f"## {common}", "", about, "", *rows(part, keys)]
                for m in members:
                    told[m] |= set(keys)
        own = [k for k in part["properties"] if k not in told[name]]
        about = part.get("description", "").replace("``", "`").split("\n")[0]
        lines += ["", f"## {TITLES[name]}", "", about, "", *rows(part, own), *example(name)]
    return lines


def _same(parts: dict[str, Any], members: tuple[str, ...], key: str) -> bool:
    one = parts[members[0]]["properties"][key]
    return all(parts[m]["properties"].get(key) == one for m in members)


def example(name: str) -> list[str]:
    """A fenced example."""
    return ["", "```yaml", EXAMPLES[name], "```"] if name in EXAMPLES else []


def command_page() -> list[str]:
    """Every verb and option."""
    from qebgate.cli.app import app

    lines = [
        "# Command line",
        "",
        WRITTEN,
        "",
        "`qebgate --help` and `qebgate VERB --help` say the same. `--debug` prints tracebacks, with any verb, and",
        "`qebgate --version` the version. What a verb returns: [exit codes](errors.md).",
    ]
    for words, function in verbs("qebgate", app):
        arguments, options = parameters(function)
        usage = " ".join([words, *(["[OPTIONS]"] if options else []), *(a for a, _ in arguments)])
        lines += ["", f"## {words}", "", (inspect.getdoc(function) or "").split("\n")[0], "", f"`{usage}`"]
        if arguments or options:
            lines += ["", "| | |", "|---|---|", *(f"| `{a}` | {b} |" for a, b in (*arguments, *options))]
    return lines


def verbs(words: str, app: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every command with the words that call it."""
    for command in app.registered_commands:
        yield f"{words} {command.name or command.callback.__name__}", command.callback
    for group in app.registered_groups:
        yield from verbs(f"{words} {group.name}", group.typer_instance)


def parameters(function: Callable[..., Any]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Arguments and options of a command, each with what it says about itself."""
    from typer.models import ArgumentInfo

    hints = get_type_hints(function, include_extras=True)
    arguments: list[tuple[str, str]] = []
    options: list[tuple[str, str]] = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info = hints[name].__origin__, hints[name].__metadata__[-1]
        needed = parameter.default is inspect.Parameter.empty
        about = _said(info.help)
        if isinstance(info, ArgumentInfo):
            word = info.metavar or name.upper()
            arguments.append((word if needed else f"[{word}]", about))
            continue
        if needed:
            about += " Required."
        elif parameter.default not in (None, False) and "[default" not in about:
            about += f" Default: `{parameter.default}`."
        words = [w for w in (info.default, *(info.param_decls or ())) if isinstance(w, str) and w.startswith("-")]
        names = ", ".join(sorted(words, key=len) or [f"--{name.replace('_', '-')}"])
        options.append((f"{names}{_value(kind, info.metavar)}", about.strip()))
    return arguments, options


def _said(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").replace("|", "/").strip()


def _value(kind: Any, metavar: str | None) -> str:
    """What follows an option."""
    if kind is bool:
        return ""
    if metavar:
        return f" {metavar}"
    types = [kind] if get_origin(kind) is Literal else [a for a in get_args(kind) if a is not type(None)] or [kind]
    if get_origin(types[0]) is Literal:
        return " " + "/".join(get_args(types[0]))
    return " " + {"int": "N", "float": "X", "Path": "PATH"}.get(getattr(types[0], "__name__", ""), "TEXT")


PAGES = {"policy-reference.md": policy_page, "command-line.md": command_page}


def main() -> None:
    """Write or print the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    for name, page in PAGES.items():
        text = "\n".join(page()) + "\n"
        if write:
            (DOCS / name).write_text(text, "utf-8")
        else:
            print(text)


if __name__ == "__main__":
    main()
