"""The pytest plugin in a project of its own, run for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = """
import numpy as np
import pytest
from qebgate import QebgateError, ball, box, points, segment

X = np.load("rows.npy")


def test_within(qebgate):
    asked = qebgate.assert_within("float.tflite", "int8.tflite", region=ball(X[:2], 1, unit="lsb"), max_abs=100.0,
                                  effort="quick")
    assert asked.checks[0].evidence in ("certified", "exhaustive") and len(asked.checks[0].tasks) == 2


def test_bytes_points_and_lsb(qebgate):
    with open("float.tflite", "rb") as f, open("int8.tflite", "rb") as q:
        qebgate.assert_within(f.read(), q.read(), region=points(X, domain="grid"), max_lsb=255.0)


def test_segments(qebgate):
    region = segment(X[:1], (-2, 2), unit="lsb", domain="grid")
    qebgate.assert_within("float.tflite", "int8.tflite", region=region, property={"kind": "max_abs", "limit": 100.0})


def test_too_tight(qebgate):
    qebgate.assert_within("float.tflite", "int8.tflite", region=points(X, domain="grid"), max_abs=1e-9)


def test_two_limits(qebgate):
    with pytest.raises(QebgateError, match="one limit"):
        qebgate.assert_within("a", "b", region=box(0.0, 1.0), max_abs=1.0, max_lsb=1.0)


@pytest.mark.qebgate("qebgate.yaml")
def test_gate(qebgate_check):
    qebgate_check.assert_passes()


def test_policy(qebgate):
    qebgate.assert_policy("qebgate.yaml", check="wide")
"""
POLICY = """version: 1
models: {m: {float: float.tflite, quantized: int8.tflite}}
regions: {r: {kind: points, data: rows.npy, domain: grid}}
checks:
  - {id: wide, model: m, region: r, property: {kind: max_abs, limit: 100}}
  - {id: tight, model: m, region: r, property: {kind: max_abs, limit: 1.0e-9}}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    from qebgate.adapters import load_model

    folder = tmp_path_factory.mktemp("project")
    shutil.copy(models / "dense_8_8.float.tflite", folder / "float.tflite")
    shutil.copy(models / "dense_8_8.int8.tflite", folder / "int8.tflite")
    shape = load_model(folder / "float.tflite").input.shape[1:]
    np.save(folder / "rows.npy", np.random.default_rng(0).uniform(-1, 1, (3, *shape)).astype(np.float32))
    (folder / "test_it.py").write_text(TESTS)
    (folder / "qebgate.yaml").write_text(POLICY)
    return folder


def pytest_in(folder: Path, root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(root), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "qebgate.integrations.pytest_plugin", "-p", "no:cacheprovider"]
    return subprocess.run([*command, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def test_a_project_with_the_plugin(project: Path, root: Path) -> None:
    done = pytest_in(project, root, "-rA", "-q")
    out = done.stdout
    assert done.returncode == 1 and "2 failed, 6 passed" in out, out + done.stderr
    for name in ("test_too_tight", "test_gate[tight]"):
        assert f"FAILED test_it.py::{name}" in out
    assert "PASSED test_it.py::test_gate[wide]" in out
    assert "a replayed input is beyond the limit" in out and "quantized - float" in out
    assert "Traceback" not in out and "pytest_plugin.py" not in out  # the explanation, not our insides


def test_a_missing_policy_is_a_usage_error(project: Path, root: Path) -> None:
    (project / "test_other.py").write_text(
        "import pytest\n@pytest.mark.qebgate('missing.yaml')\ndef test_gate(qebgate_check): pass\n"
    )
    done = pytest_in(project, root, "test_other.py")
    assert done.returncode != 0 and "QEB201" in done.stdout + done.stderr and "passed" not in done.stdout


def test_the_plugin_loads_nothing_heavy(root: Path) -> None:
    heavy = "('numpy', 'ortools', 'tensorflow')"
    code = f"import sys, qebgate.integrations.pytest_plugin; print([m for m in sys.modules if m in {heavy}])"
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
