"""The files that users copy: they run, and they are valid."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qebgate.policy.load import load_policy


@pytest.fixture
def environment(root: Path, tmp_path: Path) -> dict[str, str]:
    """A PATH with a `qebgate` on it."""
    command = tmp_path / "bin" / "qebgate"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nimport sys\nfrom qebgate.cli import main\nsys.exit(main())\n")
    command.chmod(0o755)
    return {**os.environ, "PYTHONPATH": str(root), "PATH": f"{command.parent}:{os.environ['PATH']}"}


def predeploy(root: Path, env: dict[str, str], cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = root / "templates" / "predeploy.sh"
    return subprocess.run([script, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)


@pytest.fixture
def example(digits: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "digits"
    shutil.copytree(digits, folder)
    return folder


def test_predeploy_passes(root: Path, environment: dict[str, str], example: Path) -> None:
    done = predeploy(root, environment, example)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((example / "qebgate-result.json").read_text())["verdict"] == "pass"
    assert "predeploy: passed" in done.stdout


def test_predeploy_stops_a_bad_model(root: Path, environment: dict[str, str], example: Path) -> None:
    done = predeploy(root, environment | {"QEBGATE_RESULT": "r.json"}, example, "failing.yaml")
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads((example / "r.json").read_text())["verdict"] == "fail"
    assert "not deploying" in done.stderr


def test_predeploy_checks_the_file_that_is_shipped(root: Path, environment: dict[str, str], example: Path) -> None:
    other = "models.mlp.quantized=models/mlp_qat_int8.tflite"
    done = predeploy(root, environment | {"QEBGATE_SET": other}, example, "failing.yaml")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "not deploying" in done.stderr


def test_predeploy_without_a_policy(root: Path, environment: dict[str, str], tmp_path: Path) -> None:
    done = predeploy(root, environment, tmp_path, "absent.yaml")
    assert done.returncode == 2, done.stdout + done.stderr


def test_starting_policy_is_valid(root: Path) -> None:
    policy = load_policy(root / "templates" / "qebgate.yaml").policy
    assert [c.id for c in policy.checks] == ["logits-near-golden"]
