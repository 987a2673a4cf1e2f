"""One network in every format of a float reference: the same verdicts and bounds against the same int8 file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from qebgate.adapters import load_dense, load_model
from qebgate.gate import check
from qebgate.policy import parse_policy

FOLDER = Path(__file__).resolve().parents[1] / "models" / "keras"
ROUNDOFF = 2e-5
"""Relative: what float32 may lose in the reference is bounded a little differently where a runtime evaluates it."""


def test_digits_in_every_format(tmp_path: Path) -> None:
    """Models in memory are the same graphs as the files: test_keras_files shows it with Keras itself."""
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
