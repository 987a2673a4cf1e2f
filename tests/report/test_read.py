"""Result files round-trip: every number reads back exactly, and every example validates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qebgate.errors import DataError, QebgateError
from qebgate.gate import Options, check
from qebgate.policy import load_policy
from qebgate.report.json import RESULT_SCHEMA, render_json
from qebgate.report.read import read_result

POLICY = """\
version: 1
models:
  m: {float: float.tflite, quantized: usual.tflite, input_quantization: nearest, runtime: [litert-builtin]}
  gone: {float: float.tflite, quantized: gone.tflite}
regions:
  near: {kind: ball, data: x.npz, array: x, labels: y, radius: 0.05, domain: grid, out_of_range: allow}
  rows: {kind: points, data: x.npz, array: x, domain: grid, out_of_range: allow}
checks:
  - {id: good, model: m, region: near, property: {kind: max_abs, limit: 9.0}, effort: quick}
  - {id: bad, model: m, region: rows, property: {kind: max_rel, limit: 0.0001, floor: 0.1}}
  - {id: top, model: m, region: rows, property: {kind: same_top1}}
  - {id: open, model: m, region: near, property: {kind: max_l2, limit: 1.0e-9}, engines: [dra], on_unknown: warn}
  - id: rare
    model: m
    region: near
    property: {kind: max_abs, limit: 9.0}
    require: {statistical: {confidence: 0.9, max_failure_rate: 0.1}}
  - {id: broken, model: gone, region: rows, property: {kind: max_abs, limit: 1.0}}
baseline: {}
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, models: Path) -> str:
    """A result file with every kind of verdict and evidence."""
    folder = tmp_path_factory.mktemp("read")
    for name in ("float", "usual"):
        shutil.copy(models / "ratchet" / f"{name}.tflite", folder)
    x = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 4)).astype(np.float32)
    np.savez(folder / "x.npz", x=x, y=np.array([0, 1]))
    (folder / "qebgate.yaml").write_text(POLICY)
    source = load_policy(folder / "qebgate.yaml")
    return render_json(check(source, Options(command=("qebgate", "check", "a policy.yaml"))))


def test_what_was_written_is_what_is_read(written: str, tmp_path: Path) -> None:
    data = json.loads(written)
    assert {c["verdict"] for c in data["checks"]} == {"pass", "fail", "unknown"} and data["errors"]
    assert any(t["statistics"] for c in data["checks"] for t in c["tasks"])
    jsonschema.validate(data, RESULT_SCHEMA)
    path = tmp_path / "r.json"
    path.write_text(written)
    report = read_result(path)
    assert render_json(report) == written
    assert report.exit_code == 4 and report.verdict == "fail"
    for c in report.checks:
        for t in c.tasks:
            assert t.witnessed is None or t.proven is None or t.witnessed <= t.proven


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_change_is_read_or_refused(written: str, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """One value replaced by another one, anywhere: never a crash."""
    whole = json.loads(written)
    here: Any = whole
    for _ in range(8):
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if not isinstance(here[key], (dict, list)) or data.draw(st.booleans()):
            break
        here = here[key]
    here[key] = data.draw(st.sampled_from([None, 1, -1.5, "x", [], {}, True, 10**400, ["a"], {"b": 1}]))
    path = tmp_path_factory.mktemp("r") / "r.json"
    path.write_text(json.dumps(whole))
    try:
        read_result(path)
    except QebgateError as e:
        assert e.code == "QEB497"


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"schema": 2}', b"NaN", b"[" * 100_000, b"\xff"])
def test_files_that_are_no_results(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as e:
        read_result(path)
    assert e.value.code == "QEB497" and str(path) in (e.value.where or "")
