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


EXTRAS = {
    "h5py": "keras",
    "PIL": "images",
    "tensorflow": "tensorflow",
    "keras": "tensorflow",
    "tf_keras": "tensorflow",
    "tensorflow_model_optimization": "tfmot",
}
EVERY_MODULE = """
import importlib, importlib.util, pkgutil, sys
blocked = set(sys.argv[1].split(","))
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name.partition(".")[0] in blocked else find(name, *a)
sys.meta_path.insert(0, Absent())
import qebgate
for m in pkgutil.walk_packages(qebgate.__path__, "qebgate.", onerror=lambda name: None):
    if m.name.startswith(("qebgate.adapters", "qebgate.integrations", "qebgate.api")):
        try:
            importlib.import_module(m.name)
            print(m.name)
        except ImportError as e:
            print(m.name, "|", str(e).replace(chr(10), " // "))
"""


@pytest.mark.parametrize(
    "absent", ["tensorflow", "h5py,PIL,keras,tf_keras,tensorflow_model_optimization", ",".join(EXTRAS)]
)
def test_importing_any_adapter_says_in_one_line_which_extra_it_needs(absent: str) -> None:
    """All adapters read their files without the packages that wrote them; only the callback needs TensorFlow itself."""
    done = run(EVERY_MODULE, absent)
    assert done.returncode == 0, done.stderr
    found = dict(line.partition(" | ")[::2] for line in done.stdout.splitlines())
    assert {"qebgate.adapters.keras.reader", "qebgate.adapters.saved_model.reader", "qebgate.api"} <= set(found)
    refused = {name.strip(): words for name, words in found.items() if words}
    if "tensorflow" in absent.split(","):
        assert set(refused) == {"qebgate.integrations.keras"}, refused
    for words in refused.values():
        assert "pip install 'qebgate[tensorflow]'" in words and "//" not in words
    assert refused or "tensorflow" not in absent.split(",")


def test_images_without_pillow(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    done = run(COMMAND, "PIL", "data", "pack", tmp_path / "a.png", "--output", tmp_path / "x.npz")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert sum("pip install 'qebgate[images]'" in line for line in done.stderr.splitlines()) == 1, done.stderr


def test_doctor_names_what_is_missing() -> None:
    """Packages are looked up by their metadata: nothing is imported for it."""
    from qebgate.doctor import Package

    assert Package("h5py", None, "keras", "x").fix == "pip install 'qebgate[keras]'"
    assert Package("h5py", "3.1", "keras", "x").fix is None
    assert Package("numpy", None, "", "x").fix == "pip install --force-reinstall qebgate"
