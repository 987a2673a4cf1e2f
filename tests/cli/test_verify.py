"""``verify``: this very model passed this very policy, and everything that is not so is refused."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qebgate.adapters import load_model
from qebgate.cli import run
from qebgate.deploy import confirm
from qebgate.policy import load_policy

POLICY = """version: 1
models: {{m: {{float: float.tflite, quantized: int8.tflite, runtime: [litert-builtin, litert-xnnpack]}}}}
regions: {{r: {{kind: points, data: rows.npy, domain: grid}}}}
checks:
  - {{id: wide, model: m, region: r, property: {{kind: max_abs, limit: 100}}}}
  - {{id: other, model: m, region: r, property: {{kind: max_abs, limit: {limit:.12f}}}}}
{more}"""


@pytest.fixture
def folder(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(models / "dense_8_8.float.tflite", tmp_path / "float.tflite")
    shutil.copy(models / "dense_8_8.int8.tflite", tmp_path / "int8.tflite")
    shape = load_model(tmp_path / "float.tflite").input.shape[1:]
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def passed(folder: Path, limit: float = 100, more: str = "", *words: str) -> dict[str, Any]:
    (folder / "qebgate.yaml").write_text(POLICY.format(limit=limit, more=more))
    assert run(["check", "--evidence", "ev", *words]) == 0
    return json.loads((folder / "ev" / "result.json").read_text())


VERIFY = ["verify", "ev", "--model", "int8.tflite"]


def test_yes_in_under_a_second(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passed(folder)
    capsys.readouterr()
    start = time.process_time()
    assert run(VERIFY) == 0
    assert time.process_time() - start < 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "YES: this model passed this policy"
    assert "check wide: pass" in out and "sign it" in out and "litert-xnnpack 2" in out
    assert run([*VERIFY, "--runtime", "litert-builtin"]) == 0


def byte_changed(folder: Path) -> None:
    data = bytearray((folder / "int8.tflite").read_bytes())
    data[-1] ^= 1
    (folder / "int8.tflite").write_bytes(bytes(data))


def policy_changed(folder: Path) -> None:
    text = (folder / "qebgate.yaml").read_text()
    (folder / "qebgate.yaml").write_text(text.replace("limit: 100", "limit: 50", 1))


def float_changed(folder: Path) -> None:
    (folder / "float.tflite").write_bytes((folder / "int8.tflite").read_bytes())


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def go(folder: Path) -> None:
        path = folder / "ev" / "result.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return go


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (byte_changed, "no check in it is about this model"),
        (policy_changed, "answers another policy"),
        (float_changed, "another float reference"),
        (edited(lambda d: d["checks"].pop(1)), "check other was not run"),
        (edited(lambda d: d["checks"][1].update(verdict="unknown")), "check other did not pass"),
        (edited(lambda d: d["checks"][0]["tasks"][0].update(verdict="fail")), "check wide did not pass"),
        (edited(lambda d: d["checks"][0].update(complete=False)), "not run completely"),
        (edited(lambda d: d["checks"][0].update(tasks=[])), "not run completely"),
        (edited(lambda d: d["checks"][0]["tasks"].pop(1)), "not run for every runtime"),
        (edited(lambda d: d["checks"][0].update(tasks=d["checks"][0]["tasks"][:1])), "not run for every runtime"),
        (edited(lambda d: d["checks"][0]["tasks"][0].update(waived=True)), "waiver that has expired"),
        (edited(lambda d: d["checks"][0]["model"].update(quantized_sha256="0" * 64)), "on another model"),
        (edited(lambda d: d.update(interrupted=True)), "interrupted"),
        (edited(lambda d: d["errors"].append({})), "could not run"),
    ],
)
def test_no(folder: Path, change: Callable[[Path], None], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    passed(folder)
    change(folder)
    capsys.readouterr()
    assert run(VERIFY) == 1
    out = capsys.readouterr().out
    assert said in out and "YES" not in out


def test_a_runtime_that_was_not_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passed(folder)
    assert run([*VERIFY, "--runtime", "litert-reference"]) == 1
    assert run([*VERIFY, "--runtime", "litert-xnnpack 0.1"]) == 1
    assert "was not run for litert-xnnpack 0.1" in capsys.readouterr().out


def test_overrides_are_part_of_the_question(folder: Path) -> None:
    passed(folder, 100, "", "--set", "models.m.float_semantics=real")
    assert run(VERIFY) == 1
    assert run([*VERIFY, "--set", "models.m.float_semantics=real"]) == 0
    shutil.copy("int8.tflite", "built.tflite")
    passed(folder, 100, "", "--set", "models.m.quantized=built.tflite")
    assert run(["verify", "ev", "--model", "built.tflite"]) == 0


def test_a_waiver_lasts_until_its_last_day(folder: Path) -> None:
    import hashlib

    sha = hashlib.sha256((folder / "int8.tflite").read_bytes()).hexdigest()
    waiver = f'{{check: other, model_sha256: "{sha}", limit: 100, owner: me, reason: soon, expires: 2999-12-31}}'
    data = passed(folder, 1e-9, f"waivers:\n  - {waiver}\n")
    assert all(t["waived"] for t in data["checks"][1]["tasks"])
    policy = load_policy(folder / "qebgate.yaml")
    assert not confirm(folder / "ev", folder / "int8.tflite", policy, today=date(2999, 12, 31)).refused
    (why,) = confirm(folder / "ev", folder / "int8.tflite", policy, today=date(3000, 1, 1)).refused
    assert why == "check other passed by a waiver that has expired"


@pytest.mark.parametrize("data", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "schema": 1}', "[" * 100_000])
def test_damaged_evidence_is_an_error(folder: Path, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "qebgate.yaml").write_text(POLICY.format(limit=100, more=""))
    (folder / "r.json").write_text(data)
    assert run(["verify", "r.json", "--model", "int8.tflite"]) == 4
    assert "QEB" in capsys.readouterr().err
