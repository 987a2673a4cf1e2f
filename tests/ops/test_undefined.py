"""Regions in which a model divides by 0 or takes the root of nothing: never a pass, and no crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qebgate.gate import check
from qebgate.policy import parse_policy
from tests.support.tflite_builder import Builder


def model(op: str, form: str) -> bytes:
    """The operator alone: float, in float32 between codes, or on codes."""
    b = Builder()
    if form == "codes":
        zero = 0 if op == "DIV" else -128
        x, y = b.tensor((1, 4), "int8", scale=0.1, zero_point=zero), b.tensor((1, 4), "int8", scale=1 / 140)
        b.op(op, [x, x] if op == "DIV" else [x], [y], version=2)
        return b.build([x], [y])
    x, y = b.tensor((1, 4)), b.tensor((1, 4))
    at = x
    if form == "between":
        q, at = b.tensor((1, 4), "int8", scale=0.1), b.tensor((1, 4))
        b.op("QUANTIZE", [x], [q], version=2)
        b.op("DEQUANTIZE", [q], [at], version=2)
    b.op(op, [at, at] if op == "DIV" else [at], [y])
    return b.build([x], [y])


@pytest.mark.parametrize(
    ("op", "form", "upper"),
    [("DIV", "between", 0.2), ("DIV", "codes", 0.2), ("RSQRT", "between", 0.0), ("RSQRT", "codes", 0.1)],
)
def test_nothing_is_said(op: str, form: str, upper: float, tmp_path: Path) -> None:
    (tmp_path / "f.tflite").write_bytes(model(op, "float"))
    (tmp_path / "q.tflite").write_bytes(model(op, form))
    region = {"kind": "box", "lower": 0.0, "upper": upper, **({"domain": "grid"} if form == "codes" else {})}
    policy = {
        "version": 1,
        "models": {"m": {"float": "f.tflite", "quantized": "q.tflite"}},
        "regions": {"r": region},
        "checks": [{"id": "c", "model": "m", "region": "r", "property": {"kind": "max_abs", "limit": 1e6}}],
    }
    with np.errstate(all="ignore"):
        report = check(parse_policy(policy, "p.yaml", tmp_path))
    (result,) = report.checks
    assert result.verdict == "unknown" and not report.errors
