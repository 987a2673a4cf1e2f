"""Regions of kind `segment` in the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qebgate.errors import PolicyError
from qebgate.plan import make_plan
from qebgate.policy import parse_policy


def plan(tmp_path: Path, models: Path, region: dict[str, Any], **model: Any):
    data = {
        "version": 1,
        "models": {
            "m": {
                "float": str(models / "dense_4.float.tflite"),
                "quantized": str(models / "dense_4.int8.tflite"),
                "input_quantization": "nearest",
                **model,
            }
        },
        "regions": {"r": {"kind": "segment", "data": "x.npz", "array": "x", **region}},
        "checks": [{"id": "c", "model": "m", "region": "r", "property": {"kind": "max_abs", "limit": 1.0}}],
    }
    return make_plan(parse_policy(data, "test", tmp_path))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    x = np.random.default_rng(0).uniform(-1, 1, (5, 2)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, one=np.array([1.0, -2.0]), each=x + 2, wrong=np.ones(3))
    return tmp_path


@pytest.mark.parametrize("domain", ["real", "grid"])
@pytest.mark.parametrize("direction", ["ones", "one", "each"])
def test_rows_get_their_directions(data: Path, models: Path, domain: str, direction: str) -> None:
    region = {"direction": direction, "range": [-2.0, 1.0], "unit": "lsb", "domain": domain, "sample": 3, "seed": 1}
    p = plan(data, models, region)
    assert p.errors == ()
    x = np.load(data / "x.npz")
    for job in p.checks[0].jobs:
        line = job.cell.line
        assert line is not None and line.grid == (domain == "grid") and line.range == (-2.0, 1.0)
        expected = {"ones": np.ones(2), "one": x["one"], "each": x["each"][job.cell.index]}[direction]
        assert np.allclose(line.direction.ravel(), expected * job.codec.scale)
    said = " ".join(p.checks[0].assumptions)
    assert ("every point of the lines" if domain == "real" else "code vector that the lines round to") in said


@pytest.mark.parametrize(
    ("region", "code"),
    [
        ({"direction": "ones", "range": [1.0, -1.0]}, "QEB215"),
        ({"direction": "ones"}, "QEB210"),
        ({"range": [0.0, 1.0]}, "QEB210"),
        ({"direction": "ones", "range": [0.0, 1.0, 2.0]}, "QEB211"),
        ({"direction": "ones", "range": [0.0, float("inf")]}, "QEB208"),
        ({"direction": [1.0, 2.0], "range": [0.0, 1.0]}, "QEB211"),
        ({"direction": "ones", "range": [0.0, 1.0], "radius": 2}, "QEB209"),
    ],
)
def test_wrong_segments(data: Path, models: Path, region: dict[str, Any], code: str) -> None:
    with pytest.raises(PolicyError) as e:
        plan(data, models, region)
    assert code in (e.value.code, *(c.code for c in getattr(e.value, "errors", ())))


@pytest.mark.parametrize(("direction", "code"), [("wrong", "QEB250"), ("none", "QEB446")])
def test_directions_that_do_not_fit(data: Path, models: Path, direction: str, code: str) -> None:
    p = plan(data, models, {"direction": direction, "range": [0.0, 1.0]})
    assert [e.error.code for e in p.errors] == [code]
    assert p.checks == ()


def test_a_real_segment_needs_to_know_the_rounding(data: Path, models: Path) -> None:
    p = plan(data, models, {"direction": "ones", "range": [0.0, 1.0]}, input_quantization=None)
    assert [e.error.code for e in p.errors] == ["QEB245"]
