"""``qebgate doctor``: what it says, and that it notices an executor that is wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from qebgate import doctor
from qebgate.cli import run
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.registry import SEMANTICS


def test_this_installation_is_ready(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["doctor", "--format", "rich", "--format", f"json={tmp_path / 'd.json'}"]) == 0
    said = capsys.readouterr().out
    assert "ready" in said and "0 mismatches" in said and "emulated" in said
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["doctor"] == 1 and found["exit_code"] == 0
    by = {r["runtime"]: r for r in found["runtimes"]}
    assert {r.value for r in DEPLOYED} <= set(by) and {"tflm", "tflm-single-rounding", "envelope"} <= set(by)
    assert all(by[r.value]["compared"] > 1000 and by[r.value]["mismatches"] == 0 for r in DEPLOYED)
    names = {p["name"] for p in found["packages"]}
    assert {"numpy", "ortools", "ai-edge-litert", "h5py", "tensorflow-model-optimization"} <= names


def test_formats_that_make_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--format", "sarif"]) == 2
    assert "QEB220" in capsys.readouterr().err


def test_a_wrong_executor_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copy(doctor.MODELS / "dense_deep.tflite", tmp_path)
    good = doctor.compare(Runtime.REFERENCE, tmp_path)
    assert good.right and good.compared > 0
    layer = type(SEMANTICS["FULLY_CONNECTED"])
    exact = layer.run_int
    monkeypatch.setattr(layer, "run_int", lambda *a: exact(*a) ^ 1)
    bad = doctor.compare(Runtime.REFERENCE, tmp_path)
    assert not bad.right and bad.mismatches > 0
    found = doctor.Diagnosis("0", "3.11.0", "x", (), (good, bad), (), 0.0)
    assert found.exit_code == 70 and replace(found, runtimes=(good,)).exit_code == 0


def test_a_runtime_that_fails_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "broken.tflite").write_bytes(b"no model")
    found = doctor.compare(Runtime.BUILTIN, tmp_path)
    assert not found.right and found.problem is not None and found.problem.startswith("QEB")
    missing = doctor.Package("ortools", None, "", "bounds")
    d = doctor.Diagnosis("0", "3.11.0", "x", (missing,), (), (), 0.0)
    assert d.exit_code == 70
