"""``init`` writes a policy that validates, passes with headroom, and says what each line means."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from qebgate import initial
from qebgate.cli import run
from qebgate.gate import check
from qebgate.initial import figure, nice, quote
from qebgate.policy import load_policy
from qebgate.policy.document import read_document


@pytest.fixture
def folder(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    models = root / "tests" / "models"
    shutil.copy(models / "dense_8_8.float.tflite", tmp_path / "a 'float\" #model.tflite")
    shutil.copy(models / "dense_8_8.int8.tflite", tmp_path / "int8.tflite")
    shape = (12, *shape_of(models / "dense_8_8.float.tflite"))
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(initial, "LARGEST", 1)
    monkeypatch.setattr(initial, "ROWS", 2)
    return tmp_path


def shape_of(model: Path) -> tuple[int, ...]:
    from qebgate.adapters import load_model

    return load_model(model).input.shape[1:]


WORDS = ["init", "a 'float\" #model.tflite", "int8.tflite", "--data", "rows.npy"]


def test_the_policy_passes_as_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(WORDS) == 0
    assert "PASS: 2 passed" in capsys.readouterr().out
    source = load_policy(folder / "qebgate.yaml")
    ids = [c.id for c in source.policy.checks]
    assert ids == ["gap-on-the-data", "gap-near-the-data"] and source.policy.on_unknown == "warn"
    report = check(source)
    assert [len(c.tasks) for c in report.checks] == [12, 2]
    for c in report.checks:
        assert c.verdict == "pass" and c.proven is not None and c.proven < c.limit <= 2 * initial.HEADROOM * c.proven


def test_an_existing_policy_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "qebgate.yaml").write_text("mine")
    assert run(WORDS) == 2
    assert "QEB236" in capsys.readouterr().err and (folder / "qebgate.yaml").read_text() == "mine"
    assert run([*WORDS, "--force", "--output", "other.yaml"]) == 0
    assert (folder / "qebgate.yaml").read_text() == "mine" and (folder / "other.yaml").is_file()


def test_what_cannot_be_proven_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit that no ball meets: the largest figures, and segments instead."""
    monkeypatch.setattr(initial, "_largest_ball", lambda *_: (None, "no useful bound was proven"))
    assert run(WORDS) == 0
    out = capsys.readouterr().out
    assert "No ball around the data can be proven usefully: no useful bound was proven" in out
    source = load_policy(folder / "qebgate.yaml")
    assert [c.id for c in source.policy.checks] == ["gap-on-the-data", "gap-when-brighter-or-darker"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (WORDS[:3], 2, "QEB235"),
        ([*WORDS[:3], "--data", "codes.npy"], 4, "QEB241"),
        ([*WORDS[:2], "missing.tflite", "--data", "rows.npy"], 4, "missing.tflite"),
        ([*WORDS[:3], "--data", "short.npy"], 4, "QEB4"),
    ],
)
def test_errors(folder: Path, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("codes.npy", np.zeros((3, *np.load("rows.npy").shape[1:]), np.int8))
    np.save("short.npy", np.zeros((3, 1), np.float32))
    assert run(words) == code
    assert said in capsys.readouterr().err and not (folder / "qebgate.yaml").exists()


@pytest.mark.parametrize(("x", "up"), [(0.1234, 0.13), (0.12, 0.12), (1.0, 1.0), (9.91, 10.0), (3e-7, 3e-7), (0, 1e-9)])
def test_nice_numbers_are_rounded_up(x: float, up: float) -> None:
    assert nice(x) == up >= x


@pytest.mark.parametrize("x", [1e-9, 3.4e-7, 0.25, 12.0, 1e30, 2.5e20])
def test_figures_are_numbers_of_the_policy_language(x: float) -> None:
    doc = read_document(f"x: {figure(x)}\ny: {quote(chr(34) + chr(10) + '#')}\n".encode(), "p")
    assert doc.data == {"x": x, "y": '"\n#'} and not doc.errors
