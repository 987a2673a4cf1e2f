"""What breaks inside a task is an error with exit code 70: never UNKNOWN, no verdict, in one process or several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qebgate.cli import run
from qebgate.engines import portfolio
from qebgate.engines.base import Engine
from qebgate.errors import ExitCode
from qebgate.gate import check
from qebgate.plan import make_plan
from qebgate.policy import find_policy, load_policy
from qebgate.task import Budget, Task

POLICY = """version: 1
models: {{m: {{float: "{models}/dense_4.float.tflite", quantized: "{models}/dense_4.int8.tflite"}}}}
regions: {{r: {{kind: ball, data: x.npy, radius: 20, unit: lsb, domain: grid}}}}
checks: [{{id: c, model: m, region: r, property: {{kind: max_abs, limit: 1000}}}}]
"""


@pytest.fixture
def folder(tmp_path: Path, models: Path) -> Path:
    np.save(tmp_path / "x.npy", np.zeros((6, 2), np.float32))
    (tmp_path / "qebgate.yaml").write_text(POLICY.format(models=models))
    return tmp_path


@pytest.mark.parametrize("engine", portfolio.ORDER, ids=lambda e: e.name)
def test_an_exception_in_an_engine_is_no_answer(
    engine: type[Engine], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_plan(load_policy(folder / "qebgate.yaml")).checks[0].jobs[0]
    task = Task(job.pair, job.cell, job.codec, job.prop, (0,), job.runtime)
    monkeypatch.setattr(engine, "run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        portfolio.run(task, Budget(), [engine.name])


def test_a_run_with_a_crash_ends_with_70(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("qebgate.engines.enumerate.Enumerate.run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        check(load_policy(find_policy(folder)))
    code = run(["check", "--format", "json=r.json"])
    out, err = capsys.readouterr()
    assert code == ExitCode.BUG and "ZeroDivisionError" in err and out == "" and not (folder / "r.json").exists()


PLANT = """
import os, signal, sys
class Plant:
    def find_spec(self, name, path=None, target=None):
        if name == "qebgate.engines.portfolio":
            {action}
if "--multiprocessing-fork" in sys.orig_argv:
    sys.meta_path.insert(0, Plant())
"""


@pytest.mark.parametrize(
    ("action", "said"),
    [("raise RuntimeError('planted')", "planted"), ("os.kill(os.getpid(), signal.SIGKILL)", "QEB914")],
    ids=["raises", "killed"],
)
def test_a_worker_that_dies_ends_the_run_with_70(action: str, said: str, folder: Path, root: Path) -> None:
    """Also where the system kills it, as it does when memory runs out."""
    (folder / "sitecustomize.py").write_text(PLANT.format(action=action))
    env = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{root}"}
    words = [sys.executable, "-m", "qebgate", "check", "--jobs", "2", "--format", "json=r.json"]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 70 and said in done.stderr and done.stdout == ""
    assert not (folder / "r.json").exists()
