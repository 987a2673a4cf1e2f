"""Keras files through the gate: the same answers as from the converted file of the same network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qebgate.adapters import load_model
from qebgate.gate import check
from qebgate.policy import parse_policy
from qebgate.result import Report
from qebgate.semantics.execute import run_float

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "models" / "keras"
MANIFEST: dict[str, list[str]] = json.loads((FOLDER / "manifest.json").read_text())["files"]
POINTS = {"kind": "points"}
GRID = {"kind": "ball", "radius": 1, "unit": "lsb", "domain": "grid"}
REAL = {"kind": "ball", "radius": 0.01}


def ask(name: str, file: str, region: dict[str, Any], limit: float, **model: Any) -> Report:
    pair = {"float": f"{name}.{file}", "quantized": f"{name}.int8.tflite", "input_quantization": "nearest", **model}
    data = {
        "version": 1,
        "models": {"m": pair},
        "regions": {"r": {**region, "data": "rows.npz", "array": f"{name}_x", "limit": 2, "out_of_range": "allow"}},
        "checks": [{"id": "c", "model": "m", "region": "r", "property": {"kind": "max_abs", "limit": limit}}],
    }
    report = check(parse_policy(data, "test", FOLDER))
    assert not report.errors, str(report.errors[0].error)
    return report


REGIONS = {"points": POINTS, "grid": GRID, "real": REAL}
ALL = ("dense", "image", "shapes", "sequence", "branches")
CASES = [(n, "float32", r) for n in ALL for r in REGIONS] + [("image", "real", r) for r in REGIONS]
CASES += [("nested", "float32", "grid"), ("signal", "float32", "grid"), ("joins", "float32", "points")]
"""Digits: test_formats.  What converters make of `joins` computes partly in float."""


def usual(name: str, where: str) -> bool:
    """Every network on the grid; one of them, and those that are there once, everywhere."""
    return name in ("image", "joins") or where == "grid"


@pytest.mark.parametrize(
    ("name", "semantics", "where"),
    [c if usual(c[0], c[2]) else pytest.param(*c, marks=pytest.mark.slow) for c in CASES],
)
def test_the_answers_are_those_of_the_converted_file(name: str, semantics: str, where: str) -> None:
    """Verdicts are equal; bounds up to the roundoff of the two references, which fold at different places."""
    region = REGIONS[where]
    reports = [ask(name, f, region, 0.1, float_semantics=semantics) for f in ("float.tflite", MANIFEST[name][0])]
    a, b = (r.checks[0] for r in reports)
    assert a.verdict == b.verdict == "pass"
    for s, t in zip(a.tasks, b.tasks, strict=True):
        assert (s.index, s.verdict, s.evidence) == (t.index, t.verdict, t.evidence)
        assert s.proven is not None and t.proven is not None and abs(s.proven - t.proven) < 1e-5
        assert s.witnessed is not None and t.witnessed is not None
        assert t.witnessed <= t.proven and t.witnessed <= s.proven + 2e-5 and s.witnessed <= t.proven + 2e-5
        if region is POINTS:  # elsewhere a search may end at another input
            assert abs(s.witnessed - t.witnessed) < 2e-5


def test_all_formats_give_the_same_bounds() -> None:
    tasks = [ask("image", f, GRID, 0.1).checks[0].tasks for f in MANIFEST["image"]]
    for other in tasks[1:]:
        assert [(t.proven, t.witnessed) for t in other] == [(t.proven, t.witnessed) for t in tasks[0]]


def test_a_failure_holds_for_every_evaluation_of_the_reference() -> None:
    """Below the truth by less than the reference's roundoff, nothing is certain: unknown, not fail."""
    passed = ask("image", "keras3.keras", POINTS, 0.1).checks[0]
    worst = max(passed.tasks, key=lambda t: t.witnessed or 0.0)
    assert worst.witnessed is not None and worst.proven is not None and worst.witnessed < worst.proven
    certain = ask("image", "keras3.keras", POINTS, worst.witnessed * 0.999).checks[0]
    assert certain.verdict == "fail"
    between = ask("image", "keras3.keras", POINTS, (worst.witnessed + worst.proven) / 2).checks[0]
    assert between.verdict == "unknown"


def test_the_report_says_what_a_witness_means() -> None:
    words = " ".join(ask("dense", "keras2.h5", POINTS, 0.1).checks[0].assumptions)
    assert "no runtime evaluates the float reference" in words
    assert "no runtime" not in " ".join(ask("dense", "float.tflite", POINTS, 0.1).checks[0].assumptions)


def test_logits_before_a_softmax() -> None:
    data = {
        "version": 1,
        "models": {"m": {"float": "image.keras3.keras", "quantized": "image.int8.tflite"}},
        "regions": {"r": {**GRID, "data": "rows.npz", "array": "image_x", "limit": 1}},
        "checks": [
            {"id": "c", "model": "m", "region": "r", "property": {"kind": "max_abs", "limit": 0.5, "tensor": "logits"}}
        ],
    }
    assert check(parse_policy(data, "test", FOLDER)).checks[0].verdict == "pass"


# -- fixed point ----------------------------------------------------------------------------------

FIXED = {
    "bits": 6, "weight_int_bits": 2, "bias_int_bits": 2, "activation_int_bits": 2,
    "input": {"bits": 8, "signed": True, "int_bits": 0},
}  # fmt: skip


def test_fixed_point_from_keras_is_that_from_npz(tmp_path: Path) -> None:
    from qebgate.adapters import load_dense

    layers = load_dense(FOLDER / "dense.keras3.keras").layers
    np.savez(
        tmp_path / "dense.npz", **{f"{k}{i}": a for i, (w, b) in enumerate(layers) for k, a in (("w", w.T), ("b", b))}
    )
    np.savez(tmp_path / "rows.npz", x=np.array([[10, -20, 30, 40], [0, 127, -128, 5]], np.int8))
    found = []
    for file in (tmp_path / "dense.npz", *(FOLDER / f"dense.{f}" for f in MANIFEST["dense"])):
        data = {
            "version": 1,
            "models": {
                "m": {"float": {"file": str(file), "input_scale": "1/128"}, "quantized": {"fixed_point": FIXED}}
            },
            "regions": {"r": {**GRID, "radius": 2, "data": "rows.npz", "array": "x", "values": "codes"}},
            "checks": [
                {"id": c, "model": "m", "region": "r", "property": {"kind": "max_abs", "limit": v}, "engines": e}
                for c, v, e in (("wide", 5.0, "auto"), ("bounds", 5.0, ["dra"]), ("tight", 0.001, "auto"))
            ],
        }
        report = check(parse_policy(data, "test", tmp_path))
        assert not report.errors, str(report.errors[0].error)
        found.append([(c.verdict, [(t.verdict, t.proven, t.witnessed) for t in c.tasks]) for c in report.checks])
    assert [v for v, _ in found[0]] == ["pass", "pass", "fail"]
    assert all(f == found[0] for f in found[1:])


# -- the command line -----------------------------------------------------------------------------


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "qebgate", *(str(a) for a in arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=FOLDER, timeout=300, check=False)


def test_inspect() -> None:
    done = run("inspect", "image.keras3.keras", "image.int8.tflite")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same network" in done.stdout and "batch normalization folded" in done.stdout
    assert "depthwise" in done.stdout and "parameters" not in done.stderr
    one = run("inspect", "dense.keras2.h5")
    assert one.returncode == 0 and f"{4 * 8 + 8 + 8 * 6 + 6 * 3 + 3} weights and biases" in one.stdout
    wrong = run("inspect", "shapes.keras3.keras", "dense.int8.tflite")
    assert wrong.returncode == 4 and "QEB463" in wrong.stderr
    assert run("inspect", "rows.npz").returncode == 4
    net = run("inspect", ROOT / "tests" / "fixed_point" / "net.npz")
    assert net.returncode == 0 and "22 weights and biases" in net.stdout


def test_compare() -> None:
    done = run(
        "compare", "dense.keras3.keras", "dense.int8.tflite", "--data", "rows.npz", "--array", "dense_x",
        "--limit", 2, "--radius", "1lsb", "--max-abs", 0.2,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.tensorflow
def test_live_models_and_what_keras_itself_computes(tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    command = [sys.executable, str(Path(__file__).with_name("keras_live.py")), str(out)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    count = sum(len(f) for f in MANIFEST.values())
    assert f"{count} models" in done.stdout
    said = np.load(out)
    for name, files in MANIFEST.items():
        for file in files:
            graph = load_model(FOLDER / f"{name}.{file}")
            x, y = said[f"{name}.{file}/x"], said[f"{name}.{file}/y"]
            ours = run_float(graph, x.reshape(len(x), *graph.input.shape))[graph.outputs[0]].reshape(y.shape)
            assert np.abs(ours - y).max() < 1e-6 * max(1.0, float(np.abs(y).max()))


LOADED = """
import sys
from qebgate.cli import run
code = run(["inspect", "image.keras3.keras", "image.int8.tflite"])
print(code, sorted({"tensorflow", "keras", "tf_keras", "h5py"} & set(sys.modules)))
"""


def test_neither_keras_nor_the_hdf5_library_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, cwd=FOLDER, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr
