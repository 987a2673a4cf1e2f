"""Without an optional package: one line says which extra installs it, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERAS = ROOT / "tests" / "models" / "keras"
TFMOT = ROOT / "tests" / "models" / "tfmot"

BLOCKED = """
import sys
for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None
"""
COMMAND = BLOCKED + "from qebgate.cli import main\nsys.exit(main())\n"


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=300, check=False)


@pytest.mark.parametrize("file", [KERAS / "digits.keras3.keras", TFMOT / "digits.h5"], ids=lambda p: p.name)
def test_keras_files_without_h5py(file: Path) -> None:
    done = run(COMMAND, "h5py", "inspect", file)
    assert done.returncode == 4
    lines = [line for line in done.stderr.splitlines() if "pip install 'qebgate[keras]'" in line]
    assert len(lines) == 1 and "QEB474" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_other_formats_need_no_extra() -> None:
    blocked = "h5py,tensorflow,keras,tf_keras,tensorflow_model_optimization"
    done = run(COMMAND, blocked, "inspect", KERAS / "digits.keras3.saved_model", KERAS / "digits.int8.tflite")
    assert done.returncode == 0 and "the same network" in done.stdout, done.stderr


def test_the_callback_without_tensorflow() -> None:
    done = run(BLOCKED + "import qebgate.integrations.keras", "tensorflow,keras,tf_keras")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "pip install 'qebgate[tensorflow]'" in last, done.stderr


def test_doctor_names_what_is_missing() -> None:
    """Packages are looked up by their metadata: nothing is imported for it."""
    from qebgate.doctor import Package

    assert Package("h5py", None, "keras", "x").fix == "pip install 'qebgate[keras]'"
    assert Package("h5py", "3.1", "keras", "x").fix is None
    assert Package("numpy", None, "", "x").fix == "pip install --force-reinstall qebgate"
