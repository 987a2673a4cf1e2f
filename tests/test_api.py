"""The Python interface: the same answers as the command line's, files kept as long as they are needed."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qebgate
from qebgate.errors import PolicyError, QebgateError

FLOAT, INT8 = "models/mlp_float.tflite", "models/mlp_int8.tflite"
QUICK = {"runtime": "litert-reference", "effort": "quick"}


@pytest.fixture
def rows(digits: Path) -> np.ndarray:
    with np.load(digits / "data/golden.npz", allow_pickle=False) as f:
        return f["x"][:2]


def test_the_names_are_all_there() -> None:
    for name in qebgate.__all__:
        assert getattr(qebgate, name) is not None
        assert name in dir(qebgate)
    with pytest.raises(AttributeError, match="nothing"):
        qebgate.nothing  # noqa: B018


def test_compare_is_what_the_command_line_answers(root: Path, digits: Path, rows: np.ndarray, tmp_path: Path) -> None:
    region = qebgate.ball(rows, 1, unit="lsb")
    answer = qebgate.compare(digits / FLOAT, digits / INT8, region=region, max_abs=0.5, **QUICK)
    command = [
        sys.executable, "-m", "qebgate", "compare", str(digits / FLOAT), str(digits / INT8), "--radius", "1lsb",
        "--data", str(digits / "data/golden.npz"), "--array", "x", "--limit", "2", "--max-abs", "0.5",
        "--runtime", "litert-reference", "--effort", "quick", "--no-cache", "--format", f"json={tmp_path / 'r.json'}",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads((tmp_path / "r.json").read_text())["checks"][0]
    assert (answer.verdict, answer.proven, answer.witnessed) == (said["verdict"], said["proven"], said["witnessed"])
    assert answer.passed
    mine = json.loads(answer.rendered("json"))
    for a, b in zip(mine["checks"][0]["tasks"], said["tasks"], strict=True):
        assert (a["lower"], a["upper"]) == (b["lower"], b["upper"])


def test_files_live_as_long_as_the_answer(digits: Path, rows: np.ndarray) -> None:
    content = (digits / INT8).read_bytes()
    answer = qebgate.compare(digits / FLOAT, content, region=qebgate.points(rows, domain="grid"), max_abs=1e-9, **QUICK)
    assert (answer.verdict, answer.passed) == ("fail", False)
    assert answer.witnessed is not None
    assert answer.witnessed > 1e-9
    made = Path(answer.source.policy.models["pair"].quantized)
    assert made.is_file()
    assert "litert-reference" in answer.rendered("markdown")
    assert "FAIL" in answer.explanation(1.0)
    del answer
    gc.collect()
    assert not made.parent.exists()


def test_a_folder_is_kept(digits: Path, rows: np.ndarray, tmp_path: Path) -> None:
    region = qebgate.points(rows, domain="grid")
    for _ in range(2):
        qebgate.compare(digits / FLOAT, digits / INT8, region=region, max_abs=10.0, folder=tmp_path / "kept", **QUICK)
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["data.npz"]


def test_check_runs_a_policy(digits: Path) -> None:
    answer = qebgate.check(digits / "failing.yaml", effort="quick")
    assert answer.verdict == "fail"
    assert [c.id for c in answer.checks] == ["mlp-logits-too-tight"]
    other = {"models.mlp.quantized": (digits / "models/cnn_int8.tflite").read_bytes()}
    mixed = qebgate.check(digits / "failing.yaml", overrides=other)
    assert mixed.verdict is None
    assert not mixed.passed
    with pytest.raises(QebgateError):
        _ = mixed.checks
    with pytest.raises(QebgateError, match="QEB"):
        qebgate.check(digits / "failing.yaml", only=["nothing"])


def test_other_properties_and_outputs(digits: Path, rows: np.ndarray) -> None:
    def ask(**words: object) -> qebgate.Answer:
        region = qebgate.points(rows[:1], domain="grid")
        return qebgate.compare(digits / FLOAT, digits / INT8, region=region, **QUICK, **words)  # type: ignore[arg-type]

    assert ask(same_top1=0.0, tensor="logits").passed
    assert ask(max_rel=10.0, floor=1.0).passed
    assert ask(max_l2=10.0).passed
    (found,) = ask(max_lsb=100.0, outputs="predicted").checks
    assert len(found.tasks[0].outputs) == 1
    assert ask(property={"kind": "max_abs", "limit": 10.0, "outputs": [1, 3]}).checks[0].tasks[0].outputs == (1, 3)


def test_wrong_questions(digits: Path, rows: np.ndarray) -> None:
    region = qebgate.points(rows, domain="grid")
    with pytest.raises(PolicyError, match="one limit"):
        qebgate.compare("a", "b", region=region)
    with pytest.raises(PolicyError, match="one limit"):
        qebgate.compare("a", "b", region=region, max_abs=1.0, max_lsb=1.0)
    with pytest.raises(TypeError, match="not both"):
        qebgate.compare("a", "b", region=region, max_abs=1.0, property={"kind": "max_abs", "limit": 1.0})
    with pytest.raises(TypeError, match="a model is"):
        qebgate.compare(3, "b", region=region, max_abs=1.0)  # type: ignore[arg-type]
    with pytest.raises(QebgateError, match="QEB4"):
        qebgate.compare(digits / "nothing.tflite", digits / INT8, region=region, max_abs=1.0)
