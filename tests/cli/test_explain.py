"""``qebgate explain``: the parts add up to the proven figure, the words name what is wrong, exit codes hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qebgate.cli import run
from qebgate.errors import ExitCode
from qebgate.explain import one_scale
from tests.engines.tiny import tiny


def explained(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict]:
    code = run(["explain", *(str(a) for a in args), "--format", "json"])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, json.loads(out)


def sums(e: dict) -> float:
    return sum(x["sum"] for x in e["parts"]["layers"])


def test_parts_add_up_to_the_proven_figure(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, e = explained(capsys, "mlp-logits", digits / "qebgate.yaml")
    assert code == e["exit_code"] == ExitCode.PASS and e["verdict"] == "pass"
    assert e["task"]["engine"] == "dra"
    assert e["parts"]["bound"] == pytest.approx(e["task"]["proven"], rel=1e-9)
    assert sums(e) == pytest.approx(e["parts"]["bound"], rel=1e-9)
    assert sum(e["parts"]["sources"].values()) == pytest.approx(e["parts"]["bound"], rel=1e-9)
    for x in e["parts"]["layers"]:
        assert sum(x["sources"].values()) == pytest.approx(x["sum"], rel=1e-9, abs=1e-15)
        assert sum(x["channels"]) == pytest.approx(x["sum"], rel=1e-9, abs=1e-15)


def test_a_failing_check_exits_1_and_says_what_would_help(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = digits / "failing.yaml"
    code, e = explained(capsys, "mlp-logits-too-tight", policy)
    assert code == ExitCode.FAIL and e["task"]["verdict"] == "fail"
    assert e["noise_floor"]["floor"] > e["noise_floor"]["limit"] == 0.1
    assert "points" in e["advice"][0]["text"]
    assert run(["explain", "mlp-logits-too-tight", str(policy), "--exit-zero"]) == ExitCode.PASS
    out = capsys.readouterr().out
    assert "rounding" in out and "What would help" in out and "100.0 %" in out


def test_a_saturating_layer_is_named(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, e = explained(capsys, "qat-logits", digits / "qebgate.yaml")
    assert e["parts"]["sources"]["saturation"] > 0.5 * e["parts"]["bound"]
    assert "saturate" in e["advice"][0]["text"] and "wider" in e["advice"][0]["text"]


POLICY = """version: 1
models: {{m: {{float: {models}/softmax.float.tflite, quantized: {models}/softmax.int8.tflite}}}}
regions: {{r: {{kind: ball, data: x.npy, radius: 3, unit: lsb, domain: grid}}}}
checks:
  - {{id: c, model: m, region: r, property: {{kind: max_abs, limit: 0.9}}, engines: [dra]}}
"""


def test_a_softmax_is_explained_by_its_inputs(
    models: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "qebgate.yaml"
    policy.write_text(POLICY.format(models=models.relative_to(root)).replace("x.npy", f'"{tmp_path}/x.npy"'))
    np.save(tmp_path / "x.npy", np.zeros((1, 2), np.float32))
    _, e = explained(capsys, "c", policy, "--root", root)
    assert e["of"] == "input of the final curve" and e["noise_floor"]["limit"] is None
    assert e["parts"]["sources"].get("rounding", 0) > 0
    assert sums(e) == pytest.approx(e["parts"]["bound"], rel=1e-9)
    assert any("logits" in a["text"] for a in e["advice"])


def test_one_scale_for_all_weights_is_recognised() -> None:
    for name, one in (("dense_large-per_tensor", True), ("dense_large-int8", False)):
        pair = tiny(name).pair
        found = [one_scale(pair, s.output) for s in pair.steps if s.op == "FULLY_CONNECTED"]
        assert found and any(found) == one


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["no-such-check", "POLICY"], ExitCode.USAGE, "QEB218"),
        (["mlp-logits", "POLICY", "--format", "markdown"], ExitCode.USAGE, "QEB220"),
        (["mlp-logits", "POLICY", "--format", "sarif"], ExitCode.USAGE, "QEB220"),
        (["mlp-logits", "missing.yaml"], ExitCode.USAGE, "QEB"),
        (["bad\x1b[31m\n::error::", "POLICY"], ExitCode.USAGE, "x1b[31m"),
    ],
)
def test_wrong_command_lines(
    digits: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: ExitCode, says: str
) -> None:
    assert run(["explain", *(a.replace("POLICY", str(digits / "qebgate.yaml")) for a in args)]) == code
    out, err = capsys.readouterr()
    assert says in err and out == ""
    assert "\x1b" not in err and "\n::" not in err


def test_written_to_files(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_file, rich_file = tmp_path / "e.json", tmp_path / "e.txt"
    code = run(
        ["explain", "mlp-logits", str(digits / "qebgate.yaml"), "--format", f"json={json_file}", "--format",
         f"rich={rich_file}"]
    )  # fmt: skip
    assert code == ExitCode.PASS
    assert json.loads(json_file.read_text())["kind"] == "explanation"
    assert "layer" in rich_file.read_text() and "layer" in capsys.readouterr().out


def test_a_stopped_analysis_still_has_a_noise_floor(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "qebgate.yaml"
    text = (digits / "qebgate.yaml").read_text()
    policy.write_text(text + "\nguard: { memory: 1MiB }\n")
    args = ["--root", str(digits)]
    code, e = explained(capsys, "mlp-logits", policy, *args)
    assert code == ExitCode.UNKNOWN and e["parts"] is None and "MiB" in e["stopped"]
    assert e["noise_floor"]["floor"] > 0
    assert run(["explain", "mlp-logits", str(policy), *args]) == ExitCode.UNKNOWN
    assert "stopped" in capsys.readouterr().out
