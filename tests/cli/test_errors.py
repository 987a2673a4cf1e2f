"""Wrong command lines and files: the documented exit code, a coded message, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qebgate.cli import run
from qebgate.errors import ExitCode, InternalError, ReplayError

Shell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Run a command line in an empty folder: exit code, output, error output."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object) -> tuple[int, str, str]:
        code = run([str(a) for a in args])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def policy(models: Path, **changes: str) -> str:
    fields = {
        "float": f"{models}/dense_4.float.tflite",
        "quantized": f"{models}/dense_4.int8.tflite",
        "model": "input_quantization: nearest",
        "region": "kind: ball, data: x.npy, radius: 0.01",
        "property": "kind: max_abs, limit: 10",
        "check": "",
        **changes,
    }
    return f"""\
version: 1
models:
  m: {{float: "{fields["float"]}", quantized: "{fields["quantized"]}", {fields["model"]}}}
regions:
  r: {{{fields["region"]}}}
checks:
  - {{id: c, model: m, region: r, property: {{{fields["property"]}}}{fields["check"]}}}
"""


@pytest.fixture
def write(tmp_path: Path, models: Path) -> Callable[..., Path]:
    """Write a policy for the tiny models and its data; returns its path."""

    def go(**changes: str) -> Path:
        from qebgate.adapters import load_model

        shape = load_model(models / "dense_4.int8.tflite").input.shape
        np.save(tmp_path / "x.npy", np.zeros((3, *shape[1:]), np.float32))
        path = tmp_path / "qebgate.yaml"
        path.write_text(policy(models, **changes))
        return path

    return go


USAGE = [
    ([], ""),
    (["chek"], "No such command"),
    (["check", "--nope"], "No such option"),
    (["check", "--jobs", "0"], "jobs"),
    (["check", "--jobs", "many"], "jobs"),
    (["check", "a.yaml", "b.yaml"], "unexpected extra argument"),
    (["check", "--check"], "requires an argument"),
    (["check", "--format", "jsn"], "did you mean 'json'?"),
    (["check", "--format", "pdf"], "QEB220"),
    (["check", "--format", "juint=x.xml"], "junit"),
    (["check", "--format", "json="], "QEB220"),
    (["check", "--format", "json", "--format", "markdown"], "QEB220"),
    (["check", "missing.yaml"], "QEB201"),
    (["check", "."], "a folder"),
    (["check", "--root", "nowhere", "missing.yaml"], "QEB223"),
    (["compare", "a.tflite", "b.tflite"], "--data"),
    (["compare", "a.tflite", "b.tflite", "--data", "x.npz"], "QEB221"),
    (["compare", "a.tflite", "b.tflite", "--data", "x.npz", "--max-abs", "1", "--max-lsb", "1"], "QEB221"),
    (["compare", "a.tflite", "b.tflite", "--data", "x.npz", "--max-abs", "-1"], "QEB208"),
    (["compare", "a.tflite", "b.tflite", "--data", "x.npz", "--max-abs", "nan"], "QEB208"),
    (["compare", "a.tflite", "b.tflite", "--data", "x.npz", "--max-abs", "one"], "max-abs"),
    (["compare", "a.tflite", "b.tflite", "--data", "x.npz", "--max-abs", "1", "--radius", "2 quanta"], "QEB221"),
    (["compare", "a.tflite", "b.tflite", "--data", "x.npz", "--max-abs", "1", "--runtime", "tflite"], "QEB212"),
    (["compare", "a.tflite", "b.tflite", "--data", "x.npz", "--max-abs", "1", "--runtime", "litert-arm"], "QEB212"),
    (
        ["compare", "a.tflite", "b.tflite", "--data", "x.npz", "--max-abs", "1", "--tensor", "logit"],
        "did you mean 'logits'?",
    ),
    (
        ["compare", "a.tflite", "b.tflite", "--data", "x.npz", "--max-abs", "1", "--domain", "gird"],
        "did you mean 'grid'?",
    ),
    (["compare", "a.tflite", "b.pb", "--data", "x.npz", "--max-abs", "1"], "QEB"),
    (["inspect"], "MODEL"),
    (["inspect", "a", "b", "c"], "QEB222"),
    (["schema", "extra"], "unexpected extra argument"),
]


@pytest.mark.parametrize(("args", "message"), USAGE, ids=[" ".join(a) for a, _ in USAGE])
def test_usage_errors(shell: Shell, args: list[str], message: str) -> None:
    code, out, err = shell(*args)
    assert code == ExitCode.USAGE
    assert message in err.replace("\n", " ") + out


def test_no_policy_anywhere(shell: Shell, tmp_path: Path) -> None:
    if any((p / "qebgate.yaml").exists() for p in tmp_path.parents):
        pytest.skip("a policy lies above the temporary folder")
    code, _, err = shell("check")
    assert code == 2 and "QEB202" in err


GATE = [
    # name, changes of the policy, exit code, error code
    ("unknown check", {}, 2, "QEB218", ["--check", "d"]),
    ("unknown model in --set", {}, 2, "QEB217", ["--set", "models.n.quantized=x"]),
    ("quantization missing", {"model": ""}, 2, "QEB245", []),
    ("quantization not allowed", {"quantized": "{models}/dense_4.float_io.tflite"}, 2, "QEB244", []),
    ("output out of range", {"property": "kind: max_abs, limit: 1, outputs: [999]"}, 2, "QEB247", []),
    ("sample too large", {"region": "kind: points, data: x.npy, sample: 99"}, 2, "QEB248", []),
    ("box of a wrong size", {"region": "kind: box, lower: [0, 0, 0, 0, 0], upper: 1"}, 2, "QEB243", []),
    ("integers that do not say what they are", {"region": "kind: points, data: i.npy"}, 2, "QEB241", []),
    ("codes in floats", {"region": "kind: points, data: x.npy, values: codes"}, 4, "QEB457", []),
    ("codes out of range", {"region": "kind: points, data: i.npy, values: codes"}, 4, "QEB455", []),
    (
        "preprocess per channel",
        {"model": "input_quantization: nearest, preprocess: {std: [1, 2, 3, 4, 5, 6]}"},
        2,
        "QEB240",
        [],
    ),
    ("empty region", {"region": "kind: points, data: x.npy, clip: [5, 6]"}, 4, "QEB452", []),
    ("missing model", {"float": "missing.tflite"}, 4, "QEB40", []),
    ("missing data", {"region": "kind: points, data: missing.npz"}, 4, "QEB4", []),
    ("data of another shape", {"region": "kind: points, data: wide.npy"}, 4, "QEB441", []),
    ("pickled data", {"region": "kind: points, data: evil.npy"}, 4, "QEB44", []),
    ("not finite data", {"region": "kind: points, data: nan.npy"}, 4, "QEB44", []),
    ("no rows", {"region": "kind: points, data: none.npy"}, 4, "QEB450", []),
    ("no such array", {"region": "kind: points, data: x.npy, array: y"}, 4, "QEB446", []),
    ("empty model", {"quantized": "empty.tflite"}, 4, "QEB40", []),
    ("text as model", {"quantized": "text.tflite"}, 4, "QEB40", []),
    ("git lfs pointer", {"quantized": "lfs.tflite"}, 4, "lfs", []),
    ("folder as model", {"quantized": "."}, 4, "QEB40", []),
    (
        "models swapped",
        {"float": "{models}/dense_4.int8.tflite", "quantized": "{models}/dense_4.float.tflite"},
        4,
        "QEB46",
        [],
    ),
    ("float twice", {"quantized": "{models}/dense_4.float.tflite"}, 4, "QEB46", []),
    ("another network", {"quantized": "{models}/dense_8_8.int8.tflite"}, 4, "QEB46", []),
]


@pytest.mark.parametrize(("changes", "code", "message", "args"), [g[1:] for g in GATE], ids=[g[0] for g in GATE])
def test_gate_errors(
    shell: Shell,
    write: Callable[..., Path],
    tmp_path: Path,
    models: Path,
    changes: dict[str, str],
    code: int,
    message: str,
    args: list[str],
) -> None:
    path = write(**{k: v.replace("{models}", str(models)) for k, v in changes.items()})
    x = np.load(tmp_path / "x.npy")
    np.save(tmp_path / "i.npy", np.full(x.shape, 300, np.int32))
    np.save(tmp_path / "wide.npy", np.zeros((2, 77), np.float32))
    np.save(tmp_path / "nan.npy", np.full_like(x, np.nan))
    np.save(tmp_path / "none.npy", x[:0])
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "empty.tflite").write_bytes(b"")
    (tmp_path / "text.tflite").write_bytes(b"hello, this is no model at all" * 10)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    (tmp_path / "lfs.tflite").write_bytes(pointer)
    got, out, err = shell("check", path, *args)
    assert got == code, out + err
    assert message in out + err
    assert "PASS" not in out


def test_a_broken_check_does_not_hide_the_others(shell: Shell, write: Callable[..., Path], models: Path) -> None:
    """Exit 4 beats 1, and the failure is still shown."""
    path = write(region="kind: points, data: x.npy", property="kind: max_abs, limit: 0, outputs: all")
    text = path.read_text()
    text += "  - {id: d, model: n, region: r, property: {kind: max_abs, limit: 0}}\n"
    text = text.replace(
        "regions:", f'  n: {{float: "{models}/dense_4.float.tflite", quantized: gone.tflite}}\nregions:'
    )
    path.write_text(text)
    code, out, _ = shell("check", path)
    assert code == 4
    assert "could not run" in out and "gone.tflite" in out
    assert "FAIL" in out and "--check c" in out and "--check d" in out


def test_nothing_to_check(shell: Shell, write: Callable[..., Path]) -> None:
    path = write()
    path.write_text(path.read_text().split("checks:")[0] + "checks: []\n")
    code, _, err = shell("check", path)
    assert code == ExitCode.NOTHING and "QEB500" in err


@pytest.mark.parametrize(
    "error", [ValueError("boom\x1b[31m"), MemoryError(), RecursionError(), ImportError("no module"), OSError(5)]
)
def test_uncaught_exceptions_are_bugs(
    shell: Shell, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("qebgate.plan.planner.load_model", crash)
    code, out, err = shell("check", write())
    assert code == ExitCode.BUG
    assert "bug" in err and err.count("\n") == 1 and "\x1b" not in err
    assert "PASS" not in out


@pytest.mark.parametrize("error", [InternalError("QEB999", "invariant"), ReplayError("QEB999", "the runtime died")])
def test_internal_errors_are_bugs(
    shell: Shell, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("qebgate.running.run_job", crash)
    code, _, err = shell("check", write())
    assert code == ExitCode.BUG and "QEB999" in err and "report" in err


def test_debug_prints_the_traceback(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise ValueError("boom")

    monkeypatch.setattr("qebgate.plan.planner.load_model", crash)
    assert run(["check", str(write()), "--debug"]) == ExitCode.BUG
    assert "Traceback" in capsys.readouterr().err


def test_an_interruption_exits_130(shell: Shell, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qebgate.plan.planner.load_model", stop)
    code, out, _ = shell("check", write())
    assert code == ExitCode.INTERRUPTED and "INTERRUPTED" in out and "PASS" not in out


def test_a_report_that_cannot_be_written(shell: Shell, write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = shell("check", write(), "--format", "json=file/x.json")
    assert code == 2 and "QEB224" in err


def test_an_old_verdict_does_not_survive_an_error(shell: Shell, write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"schema": 1, "verdict": "pass"}')
    (tmp_path / "mine.json").write_text('{"mine": 1}')
    code, _, _ = shell("check", write(model=""), "--format", "json=r.json")
    assert code == 2 and json.loads((tmp_path / "r.json").read_text())["verdict"] is None
    (tmp_path / "r.json").write_text('{"schema": 1, "verdict": "pass"}')
    code, _, _ = shell("check", "missing.yaml", "--format", "json=r.json", "--format", "json=mine.json")
    assert code == 2 and not (tmp_path / "r.json").exists()
    assert (tmp_path / "mine.json").exists()


def test_names_that_the_terminal_cannot_show(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(quantized="m\u00f6del\u2603.tflite")
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    words = [sys.executable, "-m", "qebgate", "check", str(path)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 4 and "m\\xf6del" in done.stdout


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    script = (
        "import sys, time\nfrom qebgate.cli import run\ncode = run(['--help'])\n"
        "names = ('tensorflow', 'ortools', 'ai_edge_litert', 'scipy', 'numpy', 'pydantic')\n"
        "heavy = [m for m in names if m in sys.modules]\n"
        "print('RESULT', code, heavy, time.process_time())\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    _, code, heavy, seconds = out.splitlines()[-1].split()
    assert (code, heavy) == ("0", "[]")
    assert float(seconds) < 0.5


def test_python_m_qebgate() -> None:
    done = subprocess.run([sys.executable, "-m", "qebgate", "--version"], capture_output=True, text=True, check=True)
    from qebgate import __version__

    assert done.stdout.strip() == f"qebgate {__version__}"
    assert subprocess.run([sys.executable, "-m", "qebgate", "chek"], capture_output=True, check=False).returncode == 2


def test_a_missing_package_is_no_verdict(tmp_path: Path) -> None:
    """Even where an import fails, the exit code is 70 and there is one line, no traceback."""
    (tmp_path / "pydantic.py").write_text("raise ImportError('broken installation')")
    first = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    script = f"{first}; from qebgate.cli import run; sys.exit(run(['check', 'x.yaml']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 70 and "broken installation" in done.stderr and "Traceback" not in done.stderr
