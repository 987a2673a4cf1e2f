"""TF-MOT itself: models in memory, converted beside what is read from them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.tensorflow
def test_models_in_memory(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorflow_model_optimization") is None:
        pytest.skip("needs the [tfmot] extra")
    command = [sys.executable, str(Path(__file__).with_name("tfmot_live.py")), str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "scales are the same" in done.stdout
