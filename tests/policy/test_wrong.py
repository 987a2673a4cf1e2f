"""Wrong policies and command lines: each with its code, its place, what to do about it, and its exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from qebgate.cli import run
from qebgate.policy import load_policy
from qebgate.policy.document import read_document
from qebgate.policy.schema import policy_schema

SHA = "0123456789abcdef" * 4
GOOD = f"""\
version: 1
models:
  digits: {{float: float.tflite, quantized: int8.tflite, runtime: [litert-builtin, litert-xnnpack]}}
  small: {{float: float.npz, quantized: small.tflite, input_quantization: nearest}}
regions:
  near: {{kind: ball, data: x.npz, array: x, labels: y, radius: 0.02, domain: grid}}
  rows: {{kind: points, data: x.npz, array: x, limit: 50}}
  line: {{kind: segment, data: x.npz, direction: ones, range: [-0.1, 0.1]}}
  file: {{kind: vnnlib, file: prop.vnnlib}}
checks:
  - {{id: abs, model: digits, region: near, property: {{kind: max_abs, limit: 0.25}}}}
  - {{id: rel, model: digits, region: near, property: {{kind: max_rel, limit: 0.1, floor: 0.5}}}}
  - {{id: top, model: digits, region: rows, property: {{kind: same_top1, margin: 0.1}}, require: tested}}
  - {{id: l2, model: small, region: file, property: {{kind: max_l2, limit: 1.0}}, require: proof_or_solver}}
  - id: rare
    model: small
    region: near
    property: {{kind: max_abs, limit: 0.5}}
    require: {{statistical: {{confidence: 0.999, max_failure_rate: 1.0e-4, distribution: uniform, seed: 7}}}}
    engines: [execute, probe, statistical]
    effort: deep
    on_unknown: warn
on_unknown: fail
guard: {{per_task: 120s, total: 30m, memory: 8GiB}}
baseline: {{file: base.json, max_increase: 5%}}
waivers:
  - {{check: abs, model_sha256: "{SHA}", limit: 0.4, owner: "@ml", reason: "#412", expires: 2027-01-31}}
evidence: {{inputs: omit}}
"""

TWICE = "limit: 0.5, owner: a, reason: b, expires: 2027-01-31"

WRONG: list[tuple[str, str, str, str, str]] = [
    # what to replace, by what, code, line:column, what the suggestion says
    ("on_unknown: fail\n", "on_unknwon: fail\n", "QEB209", "23:1", "did you mean 'on_unknown'?"),
    ("baseline:", "base_line:", "QEB209", "25:1", "did you mean 'baseline'?"),
    ("waivers:", "waiver:", "QEB209", "26:1", "did you mean 'waivers'?"),
    ("evidence:", "evidences:", "QEB209", "28:1", "did you mean 'evidence'?"),
    ("inputs: omit", "input: omit", "QEB209", "28:12", "did you mean 'inputs'?"),
    ("inputs: omit", "inputs: hide", "QEB212", "28:20", "one of: include, omit"),
    ("inputs: omit", "inputs: omitt", "QEB212", "28:20", "did you mean 'omit'?"),
    ("max_increase: 5%", "max_increse: 5%", "QEB209", "25:29", "did you mean 'max_increase'?"),
    ("max_increase: 5%", "max_increase: 0.05", "QEB211", "25:43", ""),
    ("max_increase: 5%", "max_increase: 5", "QEB211", "25:43", ""),
    ("max_increase: 5%", "max_increase: -5%", "QEB211", "25:43", ""),
    ("file: base.json", "file: 7", "QEB211", "25:18", ""),
    ("check: abs", "check: asb", "QEB213", "27:13", "did you mean 'abs'?"),
    ("check: abs", "chek: abs", "QEB209", "27:6", "did you mean 'check'?"),
    ("limit: 0.4, owner", "limit: 0.2, owner", "QEB230", "27:107", "above the check's own"),
    ("limit: 0.4, owner", "limit: 0.25, owner", "QEB230", "27:107", "above the check's own"),
    (', owner: "@ml"', "", "QEB210", "27:5", "add `owner:`"),
    (', reason: "#412"', "", "QEB210", "27:5", "add `reason:`"),
    (", expires: 2027-01-31", "", "QEB210", "27:5", "add `expires:`"),
    ("2027-01-31", "31.1.2027", "QEB211", "27:151", ""),
    ("2027-01-31", "2027-02-30", "QEB211", "27:151", ""),
    ("2027-01-31", "20270131", "QEB211", "27:151", ""),
    (SHA, SHA[:-1], "QEB211", "27:32", ""),
    (SHA, SHA.upper(), "QEB211", "27:32", ""),
    ("2027-01-31}", f"2027-01-31}}\n  - {{check: abs, model_sha256: '{SHA}', {TWICE}}}", "QEB231", "28:5", "keep one"),
    ("kind: max_rel, limit: 0.1, floor: 0.5", "kind: max_rel, limit: 0.1", "QEB210", "12:44", "add `floor:`"),
    ("floor: 0.5", "floor: 0", "QEB208", "12:89", ""),
    ("floor: 0.5", "flor: 0.5", "QEB209", "12:82", "did you mean 'floor'?"),
    ("kind: max_abs, limit: 0.25", "kind: max_abs, limit: 0.25, floor: 1.0", "QEB209", "11:83", "one of: "),
    ("margin: 0.1", "margin: -0.1", "QEB208", "13:80", ""),
    ("margin: 0.1", "limit: 0.1", "QEB209", "13:72", "margin"),
    ("margin: 0.1", "margin: 0.1, outputs: predicted", "QEB215", "13:54", "leave `outputs` out"),
    ("kind: same_top1", "kind: same_top", "QEB212", "13:61", "did you mean 'same_top1'?"),
    ("kind: max_l2", "kind: l2", "QEB212", "14:59", "max_l2"),
    ("require: proof_or_solver", "require: proof_or_solvr", "QEB212", "14:89", "did you mean 'proof_or_solver'?"),
    ("require: tested", "require: test", "QEB212", "13:95", "did you mean 'tested'?"),
    ("statistical: {", "statistics: {", "QEB209", "19:15", "did you mean 'statistical'?"),
    ("confidence: 0.999", "confidence: 1.0", "QEB208", "19:41", ""),
    ("confidence: 0.999", "confidence: 99.9", "QEB208", "19:41", ""),
    ("confidence: 0.999", "confidnce: 0.999", "QEB209", "19:29", "did you mean 'confidence'?"),
    ("max_failure_rate: 1.0e-4", "max_failure_rate: 1e-4", "QEB207", "19:66", "decimal number"),
    ("max_failure_rate: 1.0e-4", "max_failure_rate: 0", "QEB208", "19:66", ""),
    ("distribution: uniform", "distribution: unifrom", "QEB212", "19:88", "did you mean 'uniform'?"),
    ("distribution: uniform", "distribution: gaussian", "QEB212", "19:88", "one of: uniform, rows"),
    ("seed: 7}}", "seed: -7}}", "QEB208", "19:103", ""),
    ("seed: 7}}", "samples: 0}}", "QEB208", "19:106", ""),
    ("[execute, probe, statistical]", "[execute, prob, statistical]", "QEB212", "20:24", "did you mean 'probe'?"),
    ("[execute, probe, statistical]", "[execute, statistics]", "QEB212", "20:24", "did you mean 'statistical'?"),
    ("effort: deep", "effort: deeep", "QEB212", "21:13", "did you mean 'deep'?"),
    ("on_unknown: warn", "on_unknown: warning", "QEB212", "22:17", "did you mean 'warn'?"),
    ("kind: vnnlib", "kind: vnlib", "QEB212", "9:16", "did you mean 'vnnlib'?"),
    ("file: prop.vnnlib", "fiel: prop.vnnlib", "QEB209", "9:24", "did you mean 'file'?"),
    ("kind: vnnlib, file: prop.vnnlib", "kind: vnnlib", "QEB210", "9:3", "add `file:`"),
    ("file: prop.vnnlib", 'file: "a\\0b"', "QEB211", "9:30", ""),
    ("labels: y", "lables: y", "QEB209", "6:45", "did you mean 'labels'?"),
    ("labels: y", "labels: [1, 2]", "QEB211", "6:53", ""),
    ("region: file", "region: fiel", "QEB213", "14:36", "did you mean 'file'?"),
    ("model: small, region", "model: smal, region", "QEB213", "14:21", "did you mean 'small'?"),
    ("id: rel", "id: abs", "QEB214", "12:10", ""),
    ("memory: 8GiB", "memory: 8Gib", "QEB211", "24:45", ""),
    ("range: [-0.1, 0.1]", "range: [0.1, -0.1]", "QEB215", "8:9", ""),
    ("direction: ones, ", "", "QEB210", "8:3", "add `direction:`"),
    ("limit: 50}", "limit: 50, radius: 1}", "QEB209", "7:58", "one of: "),
    ("runtime: [litert-builtin, litert-xnnpack]", "runtime: litert-xnnpak", "QEB212", "3:66", "'litert-xnnpack'?"),
    ("version: 1", "version: 3", "QEB212", "1:10", "one of: 1"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "code", "place", "fix"), WRONG, ids=[f"{w[1]} {w[2]}"[:60] for w in WRONG])
def test_wrong_policies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, code: str, place: str, fix: str
) -> None:
    assert old in GOOD
    path = tmp_path / "qebgate.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    assert run(["check", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.findall(r"error (QEB\d+)", err) == [code], err
    assert f"{path}:{place}\n" in err, err
    assert re.search(r"fix: .*\S", err), err
    assert fix in err.partition("fix: ")[2], err


COMMANDS: list[tuple[list[str], str, str, int]] = [
    # arguments after the policy, code, what the message says, exit code
    (["--check", "asb"], "QEB218", "did you mean 'abs'?", 2),
    (["--check", "digits"], "QEB218", "one of: abs, rel, top", 2),
    (["--set", "models.digts.quantized=x"], "QEB217", "did you mean 'digits'?", 2),
    (["--set", "models.digits.quantised=x"], "QEB217", "quantized", 2),
    (["--set", "model.digits.quantized=x"], "QEB217", "models.NAME.KEY=VALUE", 2),
    (["--set", "models.digits.quantized"], "QEB217", "models.NAME.KEY=VALUE", 2),
    (["--set", "models.digits.quantized="], "QEB217", "models.NAME.KEY=VALUE", 2),
    (["--set", "checks.0.property.limit=9"], "QEB217", "models.NAME.KEY=VALUE", 2),
    (["--set", "models.digits.runtime=litert"], "QEB212", "did you mean 'litert-", 2),
    (["--set", "models.digits.float_semantics=float"], "QEB212", "did you mean 'float32'?", 2),
    (["--root", "nowhere"], "QEB223", "--root nowhere", 2),
    (["--format", "jsn"], "QEB220", "did you mean 'json'?", 2),
    (["--format", "markdwn=x.md"], "QEB220", "did you mean 'markdown'?", 2),
    (["--format", "json="], "QEB220", "empty path", 2),
    (["--format", "json", "--format", "html"], "QEB220", "=PATH", 2),
    (["--jobs", "0"], "", "--jobs", 2),
    (["--depth", "9"], "", "No such option", 2),
    (["--chek", "abs"], "", "--check", 2),
]


@pytest.mark.parametrize(("args", "code", "words", "exit_code"), COMMANDS, ids=[" ".join(c[0]) for c in COMMANDS])
def test_wrong_command_lines(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    code: str,
    words: str,
    exit_code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qebgate.yaml").write_text(GOOD)
    for verb in (["check"], ["baseline", "diff"]) if args[0] in ("--check", "--set", "--root") else (["check"],):
        assert run([*verb, *args]) == exit_code
        out, err = capsys.readouterr()
        assert code in err and words in err.replace("\n", " ") and "PASS" not in out


def test_the_baseline_needs_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["baseline"]) == 2
    assert run(["baseline", "updte"]) == 2
    assert "update" in capsys.readouterr().err


def test_the_good_policy_is_good(tmp_path: Path) -> None:
    """And says the same to the published schema, so that editors accept it."""
    path = tmp_path / "qebgate.yaml"
    path.write_text(GOOD)
    source = load_policy(path)
    assert source.policy.checks[4].level == "statistical" and source.policy.evidence.inputs == "omit"
    assert source.policy.waivers[0].last_day.year == 2027 and source.policy.baseline is not None
    assert source.policy.baseline.percent == "5"
    jsonschema.validate(read_document(GOOD.encode(), "x").data, policy_schema())


def test_the_schema_refuses_what_the_reader_refuses(tmp_path: Path) -> None:
    """Wherever a mistake is one of form, an editor shows it too."""
    validator = jsonschema.Draft202012Validator(policy_schema())
    found = 0
    for old, new, code, _, _ in WRONG:
        if code in ("QEB209", "QEB210", "QEB212", "QEB208"):
            document = read_document(GOOD.replace(old, new, 1).encode(), "x")
            assert list(validator.iter_errors(document.data)), new
            found += 1
    assert found >= 40


def test_every_policy_of_the_repository_is_valid(root: Path) -> None:
    validator = jsonschema.Draft202012Validator(policy_schema())
    found = [
        p
        for folder in ("examples", "templates")
        for p in (root / folder).rglob("*.yaml")
        if b"checks:" in p.read_bytes()
    ]
    assert len(found) >= 2
    for path in found:
        document = read_document(path.read_bytes(), path.name)
        assert not document.errors
        validator.validate(document.data)


def test_schemas_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == policy_schema()
    assert run(["schema", "--result"]) == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))
