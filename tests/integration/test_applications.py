"""The benchmark of keras.applications, on a small network in the place of an export."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.applications import LIMITS, row, table
from qebgate.adapters import load_model

MODELS = Path(__file__).resolve().parents[1] / "models"


@pytest.mark.slow
def test_one_row(tmp_path: Path) -> None:
    folder = tmp_path / "Small-as_it_is"
    folder.mkdir()
    for kind in ("float", "int8"):
        shutil.copy(MODELS / f"residual.{kind}.tflite", folder / f"{kind}.tflite")
    shape = load_model(folder / "float.tflite").input.shape
    np.save(folder / "inputs.npy", np.random.default_rng(0).uniform(-1, 1, (4, *shape[1:])).astype(np.float32))
    cells = [c.strip() for c in row("Small", "as it is", 6, tmp_path).strip("|").split("|")]
    assert len(cells) == table([], 6)[-2].count("|") - 1
    assert cells[0] == "Small, as it is" and int(cells[1]) > 2
    assert all(c.startswith("0 of ") for c in cells[2:5])
    witnessed, proven = cells[5].split(" to ")
    assert 0 < float(witnessed) <= float(proven) < 1
    assert float(cells[6]) < LIMITS[0] and float(cells[7]) < LIMITS[1]
