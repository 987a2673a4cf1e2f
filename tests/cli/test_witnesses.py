"""``qebgate falsify`` and ``qebgate replay``: witnesses that are written, run again, moved, changed and forged."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qebgate.adapters import load_model
from qebgate.cli import run
from qebgate.errors import ExitCode
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.runtimes.replay import Replayer
from tests.support.interrupt import interrupted

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


POLICY = """version: 1
models: {{m: {{float: {name}.float.tflite, quantized: {name}.{how}.tflite{more}}}}}
regions: {{r: {{kind: ball, data: x.npy, {region}}}}}
checks: [{{id: c, model: m, region: r, property: {{kind: {kind}, limit: {limit}}}, effort: quick}}]
"""
GRID = "radius: 3, unit: lsb, domain: grid"


@pytest.fixture
def setup(models: Path, tmp_path: Path) -> Callable[..., None]:
    """A policy about copies of tiny models, in the working folder."""

    def go(limit: float = 1e9, name: str = "dense_8_8", how: str = "int8", region: str = GRID, kind: str = "max_abs",
           more: str = "") -> None:  # fmt: skip
        for suffix in ("float", how):
            shutil.copy(models / f"{name}.{suffix}.tflite", tmp_path)
        shape = load_model(tmp_path / f"{name}.{how}.tflite").input.shape
        np.save(tmp_path / "x.npy", np.full((2, *shape[1:]), 0.25, np.float32))
        text = POLICY.format(name=name, how=how, region=region, limit=limit, kind=kind, more=more)
        (tmp_path / "qebgate.yaml").write_text(text)

    return go


def written(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / ".qebgate" / "witnesses").glob("*.json"))


def litert(tmp_path: Path, w: Path, runtime: Runtime, name: str = "dense_8_8", how: str = "int8") -> np.ndarray:
    """The gap of a witness as the installed interpreter gives it, computed here."""
    arrays = np.load(w.with_suffix(".npz"), allow_pickle=False)
    q = load_model(tmp_path / f"{name}.{how}.tflite")
    with Replayer(tmp_path / f"{name}.float.tflite", runtime) as r:
        f = r.run(arrays["x"][None])[0].ravel()
    with Replayer(tmp_path / f"{name}.{how}.tflite", runtime) as r:
        y = r.run((arrays["codes"] if "codes" in arrays else arrays["x"])[None])[0].ravel()
    return (y if not q.output.dtype.is_code else (y.astype(np.float64) - q.output.q.z) * q.output.q.s) - f


@pytest.mark.parametrize(
    ("name", "how", "region", "more"),
    [
        ("dense_8_8", "int8", GRID, ""),
        ("conv", "int8", "radius: 0.05, out_of_range: allow", ", input_quantization: nearest"),
        ("dense_4", "float_io", "radius: 0.05, out_of_range: allow", ""),
        pytest.param("dense_4", "float_io", GRID, "", marks=pytest.mark.slow),
        ("dense_4", "uint8", GRID, ""),
    ],
)
def test_a_witness_gives_the_same_gap_again(
    shell: Shell, setup: Callable[..., None], tmp_path: Path, name: str, how: str, region: str, more: str
) -> None:
    setup(name=name, how=how, region=region, more=more)
    code, out, _ = shell("falsify", "--format", "json=r.json")
    assert code == ExitCode.PASS and "no counterexample in 2 tasks" in out and "proves nothing" in out
    tasks = json.loads((tmp_path / "r.json").read_text())["checks"][0]["tasks"]
    files = written(tmp_path)
    assert len(files) == len(tasks) == 2
    for file, t in zip(files, tasks, strict=True):
        assert t["evidence"] == "tested" and t["engine"] == "falsify" and t["proven"] is None
        assert t["witness"]["file"] == str(file.with_suffix(".npz").relative_to(tmp_path))
        code, text, _ = shell("replay", file, "--format", "json")
        found = json.loads(text)
        assert code == found["exit_code"] == 0 and found["changed"] == []
        assert [r["runtime"]["name"] for r in found["runs"]] == [r.value for r in DEPLOYED]
        by_name = {r["runtime"]["name"]: r for r in found["runs"]}
        assert by_name["litert-xnnpack"]["gap"] == t["witness"]["gap"]
        assert by_name["litert-xnnpack"]["figure"] == t["witnessed"] == found["claimed"]
        for runtime in DEPLOYED:
            r = by_name[runtime.value]
            assert r["executed_alike"]
            assert r["gap"] == litert(tmp_path, file, runtime, name, how)[found["outputs"]].tolist()
            assert np.abs(np.array(r["quantized"]) - r["reference"] - r["gap"]).max() < 1e-4


def test_beyond_the_limit_in_one_runtime_only(shell: Shell, setup: Callable[..., None], tmp_path: Path) -> None:
    """The exit code is 1 as soon as one runtime is beyond; the table shows which."""
    setup()
    shell("falsify")
    for file in written(tmp_path)[:1]:
        figures = {r: float(np.abs(litert(tmp_path, file, r)).max()) for r in DEPLOYED}
        for limit, beyond in ((min(figures.values()), None), (max(figures.values()), 0), (0.0, 3)):
            about = json.loads(file.read_text())
            about["property"]["limit"] = limit
            file.write_text(json.dumps(about))
            expected = sum(v > limit for v in figures.values())
            assert beyond is None or expected == beyond
            code, out, _ = shell("replay", file.with_suffix(".npz"))
            assert code == (1 if expected else 0)
            assert out.count("beyond the limit\n") + out.count("beyond the limit ") >= (expected > 0)
            assert ("within the limit everywhere" in out) == (expected == 0)


def test_a_counterexample_fails_and_its_command_repeats_it(
    shell: Shell, setup: Callable[..., None], tmp_path: Path
) -> None:
    setup(limit=0.0, kind="max_lsb")
    code, out, _ = shell("falsify", "--check", "c", "--format", "json")
    assert code == ExitCode.FAIL
    found = json.loads(out)
    assert found["verdict"] == "fail" and found["reproduce"] == "qebgate falsify --check c"
    assert shell("falsify", "--exit-zero")[0] == 0
    code, out, _ = shell("replay", written(tmp_path)[0])
    assert code == 1 and "max_lsb" in out and "beyond the limit in" in out
    assert shell("check")[0] == 1
    assert shell("replay", written(tmp_path)[0])[0] == 1


def test_witnesses_of_networks_made_on_the_fly(shell: Shell, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "net.npz",
        **{f"{k}{i}": rng.normal(0, 0.4, s).astype(np.float32)
           for i, (a, b) in enumerate([(5, 4), (4, 2)]) for k, s in (("w", (a, b)), ("b", (b,)))},
    )  # fmt: skip
    np.save(tmp_path / "x.npy", rng.integers(0, 256, (1, 5)).astype(np.uint8))
    how = "bits: 4, weight_int_bits: 1, bias_int_bits: 2, activation_int_bits: 2"
    (tmp_path / "qebgate.yaml").write_text(f"""version: 1
models:
  m:
    float: {{file: net.npz, input_scale: 1/255}}
    quantized: {{fixed_point: {{{how}, input: {{bits: 8, signed: false, int_bits: 0}}}}}}
regions: {{r: {{kind: ball, data: x.npy, values: codes, radius: 3, unit: lsb, domain: grid}}}}
checks: [{{id: c, model: m, region: r, property: {{kind: max_abs, limit: 0, outputs: predicted}}, effort: quick}}]
""")
    assert shell("falsify")[0] == 1
    (file,) = written(tmp_path)
    code, out, _ = shell("replay", file, "--format", "json")
    found = json.loads(out)
    assert code == 1 and [r["runtime"]["name"] for r in found["runs"]] == ["fixed-point"]
    assert found["runs"][0]["figure"] == found["claimed"] and len(found["outputs"]) == 1
    code, _, err = shell("replay", file, "--quantized", "net.npz")
    assert code == 2 and "QEB225" in err


def test_a_changed_model_is_said(shell: Shell, setup: Callable[..., None], tmp_path: Path, models: Path) -> None:
    setup()
    shell("falsify")
    file = written(tmp_path)[0]
    code, out, _ = shell("replay", file, "--quantized", models / "dense_8_8.per_tensor.tflite")
    assert code == 0 and "the quantized model is not the one" in out and "the float model" not in out
    shutil.copy(models / "dense_8_8.per_tensor.tflite", tmp_path / "dense_8_8.int8.tflite")
    assert "the quantized model is not the one" in shell("replay", file)[1]
    assert json.loads(shell("replay", file, "--format", "json")[1])["changed"] == ["quantized"]
    code, _, err = shell("replay", file, "--float", models / "conv.float.tflite")
    assert code == 4 and "QEB4" in err
    (tmp_path / "dense_8_8.int8.tflite").unlink()
    assert shell("replay", file)[0] == 4


def test_witnesses_move_with_their_models(shell: Shell, setup: Callable[..., None], tmp_path: Path) -> None:
    setup()
    shell("falsify")
    (tmp_path / "else").mkdir()
    for name in (".qebgate", "dense_8_8.float.tflite", "dense_8_8.int8.tflite"):
        shutil.move(tmp_path / name, tmp_path / "else" / name)
    file = next((tmp_path / "else" / ".qebgate" / "witnesses").glob("*.json"))
    assert shell("replay", file)[0] == 0
    assert str(tmp_path) not in file.read_text()


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def edited(file: Path, **changes: Any) -> None:
    about = json.loads(file.read_text())
    for key, value in changes.items():
        place, *rest = key.split("__")
        if rest:
            about[place][rest[0]] = value
        else:
            about[place] = value
    file.write_text(json.dumps(about))


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"witness": 2}, "QEB459"),
    ({"witness": None}, "QEB459"),
    ({"arrays": None}, "QEB458"),
    ({"arrays__file": "../x.npz"}, "QEB458"),
    ({"arrays__file": "/etc/passwd"}, "QEB458"),
    ({"arrays__file": "other.npz"}, "QEB400"),
    ({"arrays__sha256": "00"}, "QEB460"),
    ({"domain": "anything"}, "QEB458"),
    ({"domain": "real"}, "QEB245"),
    ({"model__runtime": "fixed-point"}, "QEB458"),
    ({"model__preprocess": {"scale": 0.0, "mean": 0.0, "std": 1.0}}, "QEB458"),
    ({"model__float": "/dev/zero"}, "QEB404"),
    ({"model__quantized": "/dev/stdin.tflite"}, "QEB400"),
    ({"model__surprise": 1}, "QEB458"),
    ({"model": []}, "QEB458"),
    ({"property__limit": -1}, "QEB458"),
    ({"property__limit": "1e999"}, "QEB458"),
    ({"property__outputs": [10**9]}, "QEB247"),
    ({"property__outputs": [-1]}, "QEB458"),
    ({"property__outputs": "predicted"}, "QEB458"),
    ({"property__tensor": "../.."}, "QEB458"),
    ({"sha256": 7}, "QEB458"),
    ({"runtime": "x"}, "QEB458"),
]


@pytest.mark.parametrize(("changes", "code"), HOSTILE, ids=[f"{k}-{c}" for k, (_, c) in enumerate(HOSTILE)])
def test_forged_witnesses_are_refused(
    shell: Shell, setup: Callable[..., None], tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    setup()
    shell("falsify")
    file = written(tmp_path)[0]
    edited(file, **changes)
    exit_code, _, err = shell("replay", file)
    assert exit_code in (2, 4) and code in err


def test_files_that_are_no_witnesses(shell: Shell, setup: Callable[..., None], tmp_path: Path) -> None:
    setup()
    shell("falsify")
    file = written(tmp_path)[0]
    good = file.read_bytes()
    nested = b"[" * 100_000
    huge = b'{"witness": 1, "check": "' + b"x" * (5 << 20) + b'"}'
    for content, code in (
        (b"", "QEB401"),
        (b"\xff\xfe", "QEB458"),
        (b"[]", "QEB458"),
        (b"{", "QEB458"),
        (nested, "QEB458"),
        (huge, "QEB406"),
        (good.replace(b'"figure": ', b'"figure": NaN, "x": '), "QEB458"),
        (pickle.dumps(Bomb()), "QEB458"),
    ):
        file.write_bytes(content)
        exit_code, _, err = shell("replay", file)
        assert exit_code == 4 and code in err, (content[:20], err)
    assert not (tmp_path / "exploded").exists()
    assert shell("replay", "nothing.json")[0] == 4
    assert shell("replay")[0] == 2
    assert shell("replay", file, "--format", "markdown")[0] == 2


def test_arrays_are_never_unpickled(shell: Shell, setup: Callable[..., None], tmp_path: Path) -> None:
    import hashlib

    setup()
    shell("falsify")
    file = written(tmp_path)[0]
    npz = file.with_suffix(".npz")
    bomb = np.empty(1, object)
    bomb[0] = Bomb()
    np.savez(npz, x=bomb, codes=bomb)
    edited(file, arrays__sha256=hashlib.sha256(npz.read_bytes()).hexdigest())
    code, _, err = shell("replay", file)
    assert code == 4 and "QEB444" in err and not (tmp_path / "exploded").exists()
    with zipfile.ZipFile(npz, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("codes.npy", b"\0" * (600 << 20))
    edited(file, arrays__sha256=hashlib.sha256(npz.read_bytes()).hexdigest())
    code, _, err = shell("replay", file)
    assert code == 4 and "QEB44" in err


def test_the_two_inputs_of_a_witness_cannot_disagree(shell: Shell, setup: Callable[..., None], tmp_path: Path) -> None:
    """The float input is derived from the codes again: a forged one changes nothing."""
    import hashlib

    setup()
    shell("falsify")
    file = written(tmp_path)[0]
    before = json.loads(shell("replay", file, "--format", "json")[1])
    npz = file.with_suffix(".npz")
    arrays = dict(np.load(npz))
    arrays["x"] = arrays["x"] + 100
    np.savez(npz, **arrays)
    edited(file, arrays__sha256=hashlib.sha256(npz.read_bytes()).hexdigest())
    after = json.loads(shell("replay", file, "--format", "json")[1])
    assert [r["gap"] for r in after["runs"]] == [r["gap"] for r in before["runs"]]


def test_a_crashing_search_exits_70(
    shell: Shell, setup: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An exception is a bug, never UNKNOWN, and no verdict is printed."""
    setup()
    monkeypatch.setattr("qebgate.engines.search.gaps", lambda *_: 1 / 0)
    code, out, err = shell("falsify", "--format", "json")
    assert code == ExitCode.BUG and "ZeroDivisionError" in err and out == ""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupted_search_says_what_it_knows(jobs: str, tmp_path: Path, root: Path) -> None:
    """Ctrl-C after the first tasks: exit 130, their witnesses written and printed, nothing left running."""
    rng = np.random.default_rng(0)
    sizes = [(784, 100), (100, 100), (100, 10)]
    layers = {
        f"{k}{i}": rng.normal(0, 0.1, s).astype(np.float32)
        for i, (a, b) in enumerate(sizes)
        for k, s in (("w", (a, b)), ("b", (b,)))
    }
    np.savez(tmp_path / "net.npz", **layers)
    np.save(tmp_path / "x.npy", rng.integers(0, 256, (200, 784)).astype(np.uint8))
    how = "bits: 4, weight_int_bits: 1, bias_int_bits: 2, activation_int_bits: 2"
    (tmp_path / "qebgate.yaml").write_text(f"""version: 1
models: {{m: {{float: net.npz, quantized: {{fixed_point: {{{how}, input: {{bits: 8, signed: false, int_bits: 0}}}}}}}}}}
regions: {{r: {{kind: ball, data: x.npy, values: codes, radius: 3, unit: lsb, domain: grid}}}}
checks: [{{id: c, model: m, region: r, property: {{kind: max_abs, limit: 1000}}, effort: quick}}]
""")
    env = {**os.environ, "PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"}
    code, out, err = interrupted(tmp_path, env, "falsify", "--jobs", jobs)
    assert code == 130, err
    assert "INTERRUPTED" in out and "no counterexample in" in out and "Traceback" not in err
    done = written(tmp_path)
    assert done and out.count("input written to") == min(10, len(done))
