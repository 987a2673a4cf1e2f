"""One network in every format of a float reference: the same verdicts and bounds against the same int8 file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qebgate.adapters import load_dense, load_model
from qebgate.gate import check
from qebgate.policy import parse_policy

FOLDER = Path(__file__).resolve().parents[1] / "models" / "keras"
ROUNDOFF = 2e-5
"""Relative: what float32 may lose in the reference is bounded a little differently where a runtime evaluates it."""


def test_digits_in_every_format(tmp_path: Path) -> None:
    """Files only; models in memory need TensorFlow (see below)."""
    rows = np.load(FOLDER / "rows.npz")["digits_x"]
    np.savez(tmp_path / "rows.npz", x=rows)
    layers = load_dense(FOLDER / "digits.keras3.keras").layers
    arrays = {f"{k}{i}": a for i, (w, b) in enumerate(layers) for k, a in (("w", w.T), ("b", b))}
    np.savez(tmp_path / "digits.npz", **arrays)
    files = json.loads((FOLDER / "manifest.json").read_text())["files"]["digits"]
    floats = {f: FOLDER / f"digits.{f}" for f in files}
    floats |= {f: FOLDER / f"digits.{f}" for f in ("keras3.saved_model", "keras2.saved_model", "float.tflite")}
    floats["npz"] = tmp_path / "digits.npz"
    quantized = str(FOLDER / "digits.int8.tflite")
    models = {n: {"float": str(p), "quantized": quantized} for n, p in floats.items()}
    region = {"kind": "ball", "radius": 1, "unit": "lsb", "domain": "grid", "data": "rows.npz", "limit": 2}
    limits = {"wide": 30.0, "narrow": 0.01}
    checks = [
        {"id": f"{n} {word}", "model": n, "region": "r", "property": {"kind": "max_abs", "limit": limit},
         "effort": "quick", "engines": ["execute", "falsify", "dra"]}
        for n in models for word, limit in limits.items()
    ]  # fmt: skip
    data = {"version": 1, "models": models, "regions": {"r": region}, "checks": checks}
    report = check(parse_policy(data, "test", tmp_path))
    assert not report.errors, str(report.errors[0].error)
    found = {c.id: c for c in report.checks}
    first = next(iter(models))
    for name in models:
        for word, verdict in (("wide", "pass"), ("narrow", "fail")):
            mine, other = found[f"{name} {word}"], found[f"{first} {word}"]
            assert mine.verdict == verdict
            for a, b in zip(mine.tasks, other.tasks, strict=True):
                assert a.verdict == b.verdict
                if a.proven is not None or b.proven is not None:
                    assert a.proven is not None and b.proven is not None
                    assert abs(a.proven - b.proven) <= ROUNDOFF * b.proven
                if a.witnessed is not None and b.witnessed is not None:
                    assert abs(a.witnessed - b.witnessed) <= 5e-4


@pytest.mark.tensorflow
def test_digits_in_every_format_and_in_memory() -> None:
    """``.keras``, ``.h5``, SavedModel, float ``.tflite``, a ``keras.Model`` and a ``tf_keras.Model``: one answer."""
    root = FOLDER.parents[2]
    command = [sys.executable, "-m", "tests.integration.digits_live"]
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=root, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 6
    files = {"keras3.keras", "keras2.h5", "keras3.saved_model", "float.tflite"}
    for a, b in ((found["keras3.keras"], found[n]) for n in found):
        assert [v for v, _ in a] == [v for v, _ in b] == ["pass", "fail"]
        for (_, mine), (_, other) in zip(a, b, strict=True):
            for (v, proven, seen), (w, bound, gap) in zip(mine, other, strict=True):
                assert v == w and (proven is None) == (bound is None) and seen is not None and gap is not None
                assert abs(seen - gap) <= 5e-4
                if proven is not None:
                    assert abs(proven - bound) <= ROUNDOFF * proven
    for name in set(found) - files:  # they are read as their files are: not one bit differs
        assert found[name] == found["keras3.keras"]


def test_it_reads_as_one_network() -> None:
    """Weights and biases, bit for bit."""
    graphs = [
        load_model(FOLDER / f"digits.{f}")
        for f in ("keras3.keras", "keras2.h5", "keras3.saved_model", "keras2.saved_model", "float.tflite")
    ]
    constants = [
        [g.tensors[i].const for n in g.nodes for i in n.inputs[1:] if n.op == "FULLY_CONNECTED"] for g in graphs
    ]
    for found in constants:
        assert len(found) == 6 and all(np.array_equal(a, b) for a, b in zip(found, constants[0], strict=True))
