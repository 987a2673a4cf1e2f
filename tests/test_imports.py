"""What is loaded when: no heavy package before it is needed, and TensorFlow never for .tflite files."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("tensorflow", "tf_keras", "keras", "ortools", "ai_edge_litert", "tensorflow_model_optimization")

REPORT = """
import atexit, json, os, sys
names = sys.argv.pop(1).split(",")
def report():
    with open(os.environ["LOADED"], "w") as f:
        json.dump([n for n in names if n in sys.modules], f)
atexit.register(report)
"""


def loaded(
    code: str, *arguments: str, root: Path, folder: Path, names: tuple[str, ...] = HEAVY
) -> tuple[int, list[str], str]:
    """Exit code of some code, which of the packages it had imported at the end, and its output."""
    said = folder / "loaded.json"
    env = {**os.environ, "PYTHONPATH": str(root), "LOADED": str(said)}
    command = [sys.executable, "-c", REPORT + code, ",".join(names), *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, json.loads(said.read_text()), done.stdout + done.stderr


MAIN = "from qebgate.cli import main\nsys.exit(main())\n"


def test_import_loads_nothing(root: Path, tmp_path: Path) -> None:
    code, found, _ = loaded("import qebgate", root=root, folder=tmp_path, names=(*HEAVY, "numpy", "scipy", "pydantic"))
    assert (code, found) == (0, [])


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("check", "--help")])
def test_help_loads_no_heavy_package(arguments: tuple[str, ...], root: Path, tmp_path: Path) -> None:
    code, found, said = loaded(MAIN, *arguments, root=root, folder=tmp_path)
    assert code == 0, said
    assert found == []
    assert said.strip()


def test_help_is_quick(root: Path, tmp_path: Path) -> None:
    """Under 0.5 s of CPU on an idle machine; the best of three tries and a margin of two for a busy one."""
    env = {**os.environ, "PYTHONPATH": str(root)}
    best = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-c", "import sys\n" + MAIN, "--help"],
            cwd=tmp_path,
            env=env,
            check=True,
            capture_output=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert best < 1.0


def test_check_of_tflite_files_never_imports_tensorflow(root: Path, digits: Path, tmp_path: Path) -> None:
    """TensorFlow cannot even be found: the import would fail, in child processes too."""
    for name in HEAVY:
        if name not in ("ortools", "ai_edge_litert"):
            (tmp_path / "block" / name).mkdir(parents=True)
            (tmp_path / "block" / name / "__init__.py").write_text("raise ImportError('not for .tflite files')\n")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path / 'block'}:{root}"}
    command = [sys.executable, "-c", "import sys\n" + MAIN, "check", str(digits / "failing.yaml")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "not for .tflite files" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["check", "inspect"])
def test_tensorflow_is_not_loaded(command: str, root: Path, digits: Path, tmp_path: Path) -> None:
    arguments = [str(digits / "failing.yaml")]
    if command == "inspect":
        arguments = [str(digits / "models" / f"cnn_{kind}.tflite") for kind in ("float", "int8")]
    names = tuple(n for n in HEAVY if n not in ("ortools", "ai_edge_litert"))
    code, found, said = loaded(MAIN, command, *arguments, root=root, folder=tmp_path, names=names)
    assert code == (1 if command == "check" else 0), said
    assert found == []
