"""Wrong policies: every mistake has a code, a place and a fix, and none slips through."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qebgate.errors import ExitCode, PolicyError
from qebgate.policy import find_policy, load_policy, parse_policy
from qebgate.policy.document import read_document
from qebgate.policy.schema import policy_schema

GOOD = """\
version: 1
models:
  digits:
    float: models/float.tflite
    quantized: models/int8.tflite
    runtime: litert-xnnpack
    float_semantics: float32
    input_quantization: nearest
    preprocess: {scale: 0.00392156862745098, mean: 0.0, std: 1.0}
regions:
  near:
    kind: ball
    data: data/golden.npz
    array: x
    values: real
    limit: 50
    radius: 0.02
    unit: real
    domain: real
    clip: [0.0, 1.0]
    out_of_range: fail
  here:
    kind: points
    data: data/golden.npz
    sample: 5
    seed: 7
  everywhere: {kind: box, lower: [-1.0, -1], upper: 1.0, domain: grid}
checks:
  - id: digits-logits
    model: digits
    region: near
    property: {kind: max_abs, limit: 0.25, outputs: all, tensor: logits}
    require: proof
    effort: standard
    engines: auto
    on_unknown: warn
  - id: digits-label
    model: digits
    region: here
    property: {kind: max_lsb, limit: 2, outputs: [0, 3]}
    engines: [execute, dra]
on_unknown: fail
guard: {per_task: 120s, total: 30m, memory: 8GiB}
"""


def load(tmp_path: Path, text: str | bytes, **kwargs: object):
    path = tmp_path / "qebgate.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_policy(path, **kwargs)  # type: ignore[arg-type]


def flat(e: PolicyError) -> list[PolicyError]:
    return list(e.related) or [e]  # type: ignore[arg-type]


def test_a_good_policy(tmp_path: Path) -> None:
    source = load(tmp_path, GOOD)
    p = source.policy
    assert p.models["digits"].runtimes == ["litert-xnnpack"]
    assert source.resolve(p.models["digits"].float_file) == tmp_path / "models/float.tflite"
    assert p.guard.per_task_seconds == 120 and p.guard.total_seconds == 1800 and p.guard.memory_bytes == 8 << 30
    assert p.on_unknown_of(p.checks[0]) == "warn" and p.on_unknown_of(p.checks[1]) == "fail"
    assert source.where("checks", 1, "id").endswith("qebgate.yaml:37:9")
    assert len(source.sha256) == 64


def test_paths_are_relative_to_the_root(tmp_path: Path) -> None:
    source = load(tmp_path, GOOD, root=tmp_path / "elsewhere")
    assert source.resolve("a.tflite") == tmp_path / "elsewhere" / "a.tflite"
    assert source.resolve("/abs.tflite") == Path("/abs.tflite")


WRONG: list[tuple[str, str, str, str, str]] = [
    # name, what to replace, by what, code, line:column
    ("unknown top key", "on_unknown: fail\n", "on_unknow: fail\n", "QEB209", "42:1"),
    ("unknown model key", "float_semantics", "float_semantic", "QEB209", "7:5"),
    ("unknown region key", "    unit: real", "    units: real", "QEB209", "18:5"),
    ("unknown check key", "require: proof", "requires: proof", "QEB209", "33:5"),
    ("unknown property key", "tensor: logits", "tensr: logits", "QEB209", "32:58"),
    ("unknown guard key", "per_task:", "per_tsk:", "QEB209", "43:9"),
    ("unknown preprocess key", "mean: 0.0", "men: 0.0", "QEB209", "9:46"),
    ("radius of points", "    seed: 7", "    seed: 7\n    radius: 1", "QEB209", "27:5"),
    ("duplicate key", "    unit: real", "    unit: real\n    unit: lsb", "QEB206", "19:5"),
    ("duplicate key in a flow", "mean: 0.0", "scale: 0.0", "QEB206", "9:46"),
    ("duplicate model", "regions:", "  digits: {float: a, quantized: b}\nregions:", "QEB206", "10:3"),
    ("alias", "    radius: 0.02", "    radius: *r", "QEB205", "17:13"),
    ("anchor", "    radius: 0.02", "    radius: &r 0.02", "QEB205", "17:13"),
    ("merge key", "    radius: 0.02", "    radius: 0.02\n    <<: {unit: real}", "QEB205", "18:5"),
    ("tag", "    radius: 0.02", "    radius: !!float 0.02", "QEB205", "17:13"),
    ("python tag", "version: 1", "version: !!python/object/apply:os.system [ls]", "QEB205", "1:10"),
    ("second document", "on_unknown: fail\n", "---\nversion: 1\n", "QEB205", "42:1"),
    ("1e-3", "limit: 0.25", "limit: 1e-3", "QEB207", "32:38"),
    ("1.0e3", "limit: 0.25", "limit: 1.0e3", "QEB207", "32:38"),
    ("quoted number", "limit: 0.25", 'limit: "0.25"', "QEB211", "32:38"),
    ("octal", "    limit: 50", "    limit: 0x10", "QEB207", "16:12"),
    ("leading zero", "    limit: 50", "    limit: 012", "QEB207", "16:12"),
    ("underscore", "    limit: 50", "    limit: 1_000", "QEB207", "16:12"),
    ("sexagesimal", "    limit: 50", "    limit: 1:30", "QEB207", "16:12"),
    ("nan", "limit: 0.25", "limit: .nan", "QEB208", "32:38"),
    ("inf", "limit: 0.25", "limit: .inf", "QEB208", "32:38"),
    ("nan spelt out", "limit: 0.25", "limit: nan", "QEB207", "32:38"),
    ("overflow", "limit: 0.25", "limit: 1.0e+999", "QEB208", "32:38"),
    ("negative limit", "limit: 0.25", "limit: -0.25", "QEB208", "32:38"),
    ("negative radius", "    radius: 0.02", "    radius: -0.02", "QEB208", "17:13"),
    ("zero rows", "    limit: 50", "    limit: 0", "QEB208", "16:12"),
    ("half a row", "    limit: 50", "    limit: 1.5", "QEB211", "16:12"),
    ("truth as number", "limit: 0.25", "limit: true", "QEB211", "32:38"),
    ("version", "version: 1", "version: 2", "QEB212", "1:10"),
    ("version as text", "version: 1", 'version: "1"', "QEB212", "1:10"),
    ("no version", "version: 1\n", "", "QEB210", "1:1"),
    ("no checks", GOOD[GOOD.index("checks:") : GOOD.index("on_unknown: fail\n")], "", "QEB210", "1:1"),
    ("no radius", "    radius: 0.02\n", "", "QEB210", "11:3"),
    ("no kind", "    kind: ball\n", "", "QEB210", "11:3"),
    ("no id", "  - id: digits-logits\n    model: digits", "  - model: digits", "QEB210", "29:5"),
    ("unknown runtime", "runtime: litert-xnnpack", "runtime: litert-xnpack", "QEB212", "6:14"),
    ("unknown runtime in a list", "runtime: litert-xnnpack", "runtime: [litert-builtin, tflite]", "QEB212", "6:31"),
    ("no runtime", "runtime: litert-xnnpack", "runtime: []", "QEB211", "6:14"),
    ("unknown engine", "engines: [execute, dra]", "engines: [execute, dda]", "QEB212", "41:24"),
    ("engines as text", "engines: auto", "engines: dra", "QEB212", "35:14"),
    ("unknown kind of region", "kind: ball", "kind: sphere", "QEB212", "12:11"),
    ("unknown property", "kind: max_abs", "kind: max_abss", "QEB212", "32:22"),
    ("unknown unit", "    unit: real", "    unit: LSB", "QEB212", "18:11"),
    ("unknown require", "require: proof", "require: prof", "QEB212", "33:14"),
    ("unknown effort", "effort: standard", "effort: high", "QEB212", "34:13"),
    ("unknown on_unknown", "on_unknown: warn", "on_unknown: ignore", "QEB212", "36:17"),
    ("unknown quantization", "input_quantization: nearest", "input_quantization: floor", "QEB212", "8:25"),
    ("outputs text", "outputs: all", "outputs: first", "QEB212", "32:53"),
    ("outputs negative", "outputs: [0, 3]", "outputs: [0, -3]", "QEB208", "40:54"),
    ("outputs empty", "outputs: [0, 3]", "outputs: []", "QEB211", "40:50"),
    (
        "model as text",
        "preprocess: {scale: 0.00392156862745098, mean: 0.0, std: 1.0}",
        "preprocess: yes",
        "QEB211",
        "9:17",
    ),
    ("scale 0", "scale: 0.00392156862745098", "scale: 0", "QEB208", "9:17"),
    ("std negative", "std: 1.0", "std: -1.0", "QEB208", "9:17"),
    ("clip of three", "clip: [0.0, 1.0]", "clip: [0.0, 1.0, 2.0]", "QEB211", "20:11"),
    ("clip reversed", "clip: [0.0, 1.0]", "clip: [1.0, 0.0]", "QEB215", "12:5"),
    ("limit and sample", "    sample: 5", "    sample: 5\n    limit: 5", "QEB215", "23:5"),
    ("seed alone", "    sample: 5\n", "", "QEB215", "23:5"),
    ("box reversed", "upper: 1.0", "upper: -2.0", "QEB215", "27:15"),
    ("box lengths", "upper: 1.0", "upper: [1.0, 1.0, 1.0]", "QEB215", "27:15"),
    ("missing model", "    model: digits\n    region: near", "    model: digit\n    region: near", "QEB213", "30:12"),
    ("missing region", "region: here", "region: hree", "QEB213", "39:13"),
    ("same id", "id: digits-label", "id: digits-logits", "QEB214", "37:9"),
    ("id with a newline", "id: digits-label", 'id: "a\\nb"', "QEB211", "37:9"),
    ("guard without unit", "per_task: 120s", "per_task: 120", "QEB211", "43:19"),
    ("guard of nothing", "per_task: 120s", "per_task: 0s", "QEB211", "43:19"),
    ("guard unit", "memory: 8GiB", "memory: 8Gb", "QEB211", "43:45"),
    ("nul in a path", "data: data/golden.npz\n    array", 'data: "a\\0b"\n    array', "QEB211", "13:11"),
    ("empty path", "float: models/float.tflite", 'float: ""', "QEB211", "4:12"),
    # parts of the language that later versions will have
    ("saved model", "models/float.tflite", "models/float.pb", "QEB216", "4:5"),
    ("scale of a file", "float: models/float.tflite", "float: {file: a.tflite}", "QEB215", "4:5"),
    ("array and arrays", "    array: x", "    array: x\n    arrays: {a: x}", "QEB215", "12:5"),
    # not YAML
    ("tab", "    radius: 0.02", "\tradius: 0.02", "QEB204", "17:1"),
    ("unclosed", "clip: [0.0, 1.0]", "clip: [0.0, 1.0", "QEB204", "21:17"),
    ("control character", "array: x", "array: \x07", "QEB204", "qebgate.yaml"),
]


@pytest.mark.parametrize(("old", "new", "code", "place"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_policies(tmp_path: Path, old: str, new: str, code: str, place: str) -> None:
    assert old in GOOD
    with pytest.raises(PolicyError) as e:
        load(tmp_path, GOOD.replace(old, new, 1))
    errors = flat(e.value)
    assert [x.code for x in errors] == [code], str(e.value)
    assert (errors[0].where or "").endswith(place)
    assert e.value.exit_code is ExitCode.USAGE
    assert "\n" not in errors[0].message


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "QEB211"),
        (b"# nothing\n", "QEB211"),
        (b"- 1\n- 2\n", "QEB211"),
        (b"just text", "QEB211"),
        (b"\xff\xfe\x00", "QEB203"),
        (b"a: " + b"x" * (1 << 20), "QEB203"),
        (b"[" * 5000, "QEB205"),
        (b"a: &a [x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n", "QEB200"),
        (b"? [a, b]\n: 1\n", "QEB200"),
        (b"%YAML 9.9\n---\na: 1", None),
        (b"a: \x00", "QEB204"),
    ],
)
def test_files_that_are_no_policy(tmp_path: Path, text: bytes, code: str | None) -> None:
    with pytest.raises(PolicyError) as e:
        load(tmp_path, text)
    assert code is None or e.value.code == code


def test_all_errors_come_together_in_the_files_order(tmp_path: Path) -> None:
    text = (
        GOOD.replace("    unit: real", "    unt: real")
        .replace("limit: 0.25", "limit: 1e-3")
        .replace("region: here", "region: x")
    )
    with pytest.raises(PolicyError) as e:
        load(tmp_path, text)
    assert e.value.code == "QEB200"
    assert [x.code for x in e.value.related] == ["QEB209", "QEB207", "QEB213"]
    lines = [int((x.where or "").split(":")[-2]) for x in e.value.related]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("require: proof", "requrie: proof", "require"),
        ("litert-xnnpack", "litert-xnnpak", "litert-xnnpack"),
        ("region: here", "region: heer", "here"),
        ("kind: ball", "kind: bal", "ball"),
        ("[execute, dra]", "[exceute, dra]", "execute"),
    ],
)
def test_suggestions(tmp_path: Path, old: str, new: str, hint: str) -> None:
    with pytest.raises(PolicyError) as e:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert e.value.fix == f"did you mean {hint!r}?"


def test_names_cannot_forge_output(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as e:
        load(tmp_path, GOOD.replace("region: here", 'region: "x\\e[31m\\nPASS"'))
    assert "\x1b" not in str(e.value) and "\nPASS" not in str(e.value)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("models.digits.quantized=x.tflite", None),
        ("models.digits.runtime=litert-builtin", None),
        ("models.digits.runtime=litert", "QEB212"),
        ("models.digts.quantized=x.tflite", "QEB217"),
        ("models.digits.quantised=x.tflite", "QEB217"),
        ("models.digits.quantized=", "QEB217"),
        ("models.digits.quantized", "QEB217"),
        ("checks.0.limit=1", "QEB217"),
        ("quantized=x", "QEB217"),
        ("models.digits.quantized=x.npz", "QEB216"),
    ],
)
def test_set(tmp_path: Path, text: str, code: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    if code is None:
        model = load(tmp_path, GOOD, sets=[text]).policy.models["digits"]
        assert (model.quantized == str(cwd / "x.tflite")) == ("quantized" in text)
        return
    with pytest.raises(PolicyError) as e:
        load(tmp_path, GOOD, sets=[text])
    assert e.value.code == code and (e.value.where or "").startswith("--set")


def test_find_policy_walks_up(tmp_path: Path) -> None:
    (tmp_path / "qebgate.yaml").write_text(GOOD)
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert find_policy(deep) == (tmp_path / "qebgate.yaml").resolve()


def test_find_policy_says_where_it_looked(tmp_path: Path) -> None:
    if any((p / "qebgate.yaml").exists() for p in tmp_path.parents):
        pytest.skip("a policy lies above the temporary folder")
    with pytest.raises(PolicyError) as e:
        find_policy(tmp_path)
    assert e.value.code == "QEB202" and str(tmp_path) in (e.value.where or "")


def test_policies_that_are_no_files(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path, tmp_path / "missing.yaml", fifo, tmp_path / ("x" * 300), Path("/dev/null")):
        with pytest.raises(PolicyError) as e:
            load_policy(path)
        assert e.value.code == "QEB201"


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text(GOOD)
    (tmp_path / "link.yaml").symlink_to("real.yaml")
    assert load_policy(tmp_path / "link.yaml").policy.version == 1


def test_names_of_runtimes_and_engines_are_those_that_exist() -> None:
    from typing import get_args

    from qebgate.engines.portfolio import ORDER
    from qebgate.policy.model import EngineName, RuntimeName
    from qebgate.runtimes.profiles import Runtime

    assert set(get_args(RuntimeName)) == {r.value for r in Runtime} - {Runtime.FIXED_POINT.value}
    assert set(get_args(EngineName)) == {engine.name for engine in ORDER}


def test_schema_accepts_what_the_loader_accepts(tmp_path: Path) -> None:
    import jsonschema

    schema = policy_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = read_document(GOOD.encode(), "good").data
    assert list(validator.iter_errors(good)) == []
    assert load(tmp_path, GOOD).policy.checks[0].id == "digits-logits"
    for name, old, new, code, _ in WRONG:
        if code in ("QEB209", "QEB210", "QEB212"):  # the others are about YAML itself or several keys at once
            wrong = read_document(GOOD.replace(old, new, 1).encode(), "wrong").data
            assert list(validator.iter_errors(wrong)), name


def test_a_policy_from_a_program(tmp_path: Path) -> None:
    data = read_document(GOOD.encode(), "x").data
    assert parse_policy(data, "program", tmp_path).policy == load(tmp_path, GOOD).policy
    with pytest.raises(PolicyError) as e:
        parse_policy({**data, "version": 3}, "program", tmp_path)
    assert e.value.where == "program"


JUNK = [
    *["", "[", "{}", "[]", "- 1", "? a", "one: 1", "many: []", "null", "a: {b: [1, {c: 2}]}", ": x", "'", "&a", "~"],
    *["kind: points", "version: 1", "ball: 1", "float: 3", "checks: 5", "models: []", "- {}", "\u00e9\u2028"],
    "regions: {a: 3, b: {kind: [1]}}",
]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_policies_raise_nothing_but_coded_errors(data: st.DataObject) -> None:
    """Random edits of a good policy either load or give a PolicyError."""
    from qebgate.policy.load import _finish

    lines = GOOD.splitlines()
    junk = st.sampled_from(JUNK)
    for _ in range(data.draw(st.integers(1, 4))):
        k = data.draw(st.integers(0, len(lines) - 1))
        indent = len(lines[k]) - len(lines[k].lstrip())
        how = data.draw(st.sampled_from(["drop", "swap", "insert", "value"]))
        if how == "drop" and len(lines) > 1:
            del lines[k]
        elif how == "swap":
            m = data.draw(st.integers(0, len(lines) - 1))
            lines[k], lines[m] = lines[m], lines[k]
        elif how == "insert":
            lines.insert(k, " " * indent + data.draw(junk))
        else:
            lines[k] = lines[k].split(":")[0] + ": " + data.draw(junk)
    try:
        doc = read_document("\n".join(lines).encode(), "x")
        _finish(doc, None, Path(), "", ())
    except PolicyError as e:
        assert all(x.code.startswith("QEB2") for x in flat(e))


def test_reading_a_policy_imports_nothing_heavy() -> None:
    import subprocess

    heavy = ("tensorflow", "ortools", "ai_edge_litert", "scipy", "rich")
    code = f"import sys, qebgate.policy; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
