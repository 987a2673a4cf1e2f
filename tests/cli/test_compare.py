"""One question without a policy file: every property can be asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from qebgate.cli import run


@pytest.fixture
def words(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for name in ("float", "usual"):
        shutil.copy(models / "ratchet" / f"{name}.tflite", tmp_path)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(-1, 1, (2, 4)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    return ["compare", "float.tflite", "usual.tflite", "--data", "x.npy", "--domain", "grid"]


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (["--max-abs", "1"], 0),
        (["--max-lsb", "50"], 0),
        (["--max-rel", "1", "--floor", "0.5"], 0),
        (["--max-rel", "0.000001", "--floor", "0.5"], 1),
        (["--max-rel", "1"], 2),  # relative to what, near 0?
        (["--max-abs", "1", "--floor", "0.5"], 2),
        (["--max-l2", "1"], 0),
        (["--max-l2", "0.000001"], 1),
        (["--same-top1", "0.5"], 0),
        (["--max-abs", "1", "--max-l2", "1"], 2),
        ([], 2),
    ],
)
def test_properties(words: list[str], ask: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, *ask]) == code
    out, err = capsys.readouterr()
    assert ("PASS: 1 passed" in out) == (code == 0) and ("QEB" in err) == (code == 2)
