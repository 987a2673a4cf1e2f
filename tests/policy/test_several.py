"""Policies about models of several inputs: data by name, radii of their own, witnesses, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import qebgate
from qebgate.cache import Cache
from qebgate.errors import DataError, PolicyError, QebgateError
from qebgate.gate import Options, check
from qebgate.plan import make_plan
from qebgate.policy import parse_policy
from qebgate.replay import replay
from qebgate.report.json import RESULT_SCHEMA, render_json
from qebgate.report.witness import save_witnesses

MODELS = Path(__file__).resolve().parents[1] / "models" / "several"
ARRAYS = {"pressure": "pressure", "angle": "angle"}
BALL: dict[str, Any] = {"kind": "ball", "data": "sensors.rows.npz", "arrays": ARRAYS, "limit": 2}
LSB = BALL | {"radius": 1, "unit": "lsb", "domain": "grid"}


def policy(
    region: dict[str, Any],
    quantized: str = "sensors.int8",
    limit: float = 0.2,
    floats: str = "sensors.float",
    require: object = "proof",
    **model: Any,
):
    data = {
        "version": 1,
        "models": {"m": {"float": f"{floats}.tflite", "quantized": f"{quantized}.tflite", **model}},
        "regions": {"r": region},
        "checks": [
            {"id": "c", "model": "m", "region": "r", "property": {"kind": "max_abs", "limit": limit}}
            | {"require": require}
        ],
    }
    return parse_policy(data, "p.yaml", MODELS)


def cells(*args: Any, **model: Any):
    (planned,) = make_plan(policy(*args, **model)).checks
    return planned.jobs[0].codec, [j.cell for j in planned.jobs]


def test_every_input_has_the_radius_in_its_own_quanta() -> None:
    codec, found = cells(LSB)
    rows = np.load(MODELS / "sensors.rows.npz")
    for k, cell in enumerate(found):
        assert cell.codes is not None
        for part, own in zip(codec.parts, codec.each, strict=True):  # type: ignore[attr-defined]
            at = slice(part.start, part.start + part.size)
            middle = own.encode(rows[part.name][k])
            lo, hi = (c[0, at] for c in cell.codes)
            assert (lo == np.maximum(middle - 1, -128)).all() and (hi == np.minimum(middle + 1, 127)).all()
            assert (
                cell.lower[0, at] == (lo.astype(np.float64) - own.zero_point).astype(np.float32) * np.float32(own.scale)
            ).all()


def test_radius_and_clip_of_one_input() -> None:
    own = {"angle": {"radius": 0.25, "clip": [-0.125, 0.125]}}
    _, found = cells(BALL | {"radius": 0.5, "inputs": own, "out_of_range": "allow"}, "sensors.float_io")
    rows = np.load(MODELS / "sensors.rows.npz")
    for k, cell in enumerate(found):
        p, a = rows["pressure"][k].astype(np.float64), rows["angle"][k].astype(np.float64)
        assert np.abs(cell.lower[0, :2] - (p - 0.5)).max() < 1e-6 and np.abs(cell.upper[0, :2] - (p + 0.5)).max() < 1e-6
        assert np.abs(cell.lower[0, 2:] - np.maximum(a - 0.25, -0.125)).max() < 1e-6
        assert np.abs(cell.upper[0, 2:] - np.minimum(a + 0.25, 0.125)).max() < 1e-6


def test_a_box_of_each_input() -> None:
    own = {"pressure": {"lower": [1.0, 2.0], "upper": 2.5}}
    _, (cell,) = cells({"kind": "box", "lower": -0.25, "upper": 0.25, "inputs": own}, "sensors.float_io")
    assert cell.lower.tolist() == [[1.0, 2.0, -0.25, -0.25]] and cell.upper.tolist() == [[2.5, 2.5, 0.25, 0.25]]


@pytest.mark.parametrize(
    ("quantized", "region", "model"),
    [
        ("sensors.int8", LSB, {}),
        ("sensors.float_io", BALL | {"radius": 0.004, "out_of_range": "allow"}, {}),
        ("sensors.int8", BALL | {"radius": 0.004, "out_of_range": "allow"}, {"input_quantization": "nearest"}),
    ],
)
def test_a_counterexample_runs_again(
    quantized: str, region: dict[str, Any], model: dict[str, Any], tmp_path: Path
) -> None:
    """One array an input, fed to the interpreter by hand, gives the gap that the report states; so does replay."""
    report = check(policy(region, quantized, 0.01, **model))
    report, _ = save_witnesses(report, tmp_path)
    (c,) = report.checks
    assert c.verdict == "fail"
    w = c.tasks[0].witness
    assert w is not None and w.file is not None
    arrays = np.load(w.file)
    coded = quantized == "sensors.int8"
    given = [arrays[f"{'codes' if coded else 'x'}.{n}"] for n in ARRAYS]
    assert [a.shape for a in given] == [(1, 2), (1, 2)]

    def run(name: str, inputs: list[np.ndarray]) -> np.ndarray:
        i = Interpreter(str(MODELS / f"{name}.tflite"), num_threads=1)
        signature = i.get_signature_runner()
        out = signature(
            **{
                n: x.astype(np.int8 if name == "sensors.int8" else np.float32)
                for n, x in zip(ARRAYS, inputs, strict=True)
            }
        )
        (y,) = out.values()
        (d,) = i.get_output_details()
        s, z = d["quantization"]
        return (y.astype(np.float64) - z) * s if s else y.astype(np.float64)

    gap = run(quantized, given) - run("sensors.float", [arrays[f"x.{n}"] for n in ARRAYS])
    k = int(np.argmax(np.abs(w.gap)))
    assert abs(gap.ravel()[k] - w.gap[k]) < 1e-6 and abs(gap.ravel()[k]) > 0.01
    again = replay(Path(w.file))
    assert again.exit_code == 1 and all(r.agrees for r in again.runs)
    assert any(r.figure == w.figure for r in again.runs)
    result = json.loads(render_json(report))
    jsonschema.validate(result, RESULT_SCHEMA)
    shown = result["checks"][0]["tasks"][0]["witness"]
    assert shown["inputs"] == [{"name": "pressure", "shape": [1, 2]}, {"name": "angle", "shape": [1, 2]}]


def test_results_come_from_the_cache(tmp_path: Path) -> None:
    for limit, verdict in ((0.25, "pass"), (0.05, "fail")):
        for stored in (False, True):
            options = Options(cache=Cache.open(tmp_path / "cache"))
            (c,) = check(policy(LSB, limit=limit), options).checks
            assert c.verdict == verdict and all(t.from_cache == stored for t in c.tasks)


def test_arrays_in_memory() -> None:
    """The Python interface asks the same question."""
    rows = np.load(MODELS / "sensors.rows.npz")
    region = qebgate.ball({n: rows[n][:2] for n in ARRAYS}, 1, unit="lsb")
    answer = qebgate.compare(
        MODELS / "sensors.float.tflite", MODELS / "sensors.int8.tflite", region=region, max_abs=0.2
    )
    (c,) = check(policy(LSB)).checks
    assert answer.passed and answer.witnessed == c.witnessed and answer.proven == c.proven


def test_damaged_witnesses(tmp_path: Path) -> None:
    report, _ = save_witnesses(check(policy(LSB | {"limit": 1}, limit=0.01)), tmp_path)
    w = report.checks[0].tasks[0].witness
    assert w is not None and w.file is not None
    path = Path(w.file).with_suffix(".json")
    about = json.loads(path.read_text())
    one = {"name": "a", "x": "x.angle"}
    for inputs in ("x", [], [3], [{"name": "pressure"}], [one, one], [one] * 100, [{"name": "a", "x": "none"}]):
        path.write_text(json.dumps(about | {"inputs": inputs}))
        with pytest.raises(DataError) as error:
            replay(path)
        assert error.value.code == "QEB458"


WRONG = [
    (LSB | {"arrays": {"presure": "pressure", "angle": "angle"}}, {}, "QEB253", "did you mean 'pressure'?"),
    (LSB | {"arrays": {"angle": "angle"}}, {}, "QEB253", "arrays: {pressure: ARRAY, angle: ARRAY}"),
    ({k: v for k, v in LSB.items() if k != "arrays"} | {"array": "angle"}, {}, "QEB253", "arrays: {"),
    (LSB | {"arrays": {"pressure": "presure", "angle": "angle"}}, {}, "QEB446", ""),
    (LSB | {"inputs": {"angel": {"radius": 0}}}, {}, "QEB253", "did you mean 'angle'?"),
    (LSB | {"inputs": {"angle": {"lower": 0.0}}}, {}, "QEB254", ""),
    (LSB | {"arrays": {"pressure": "wide", "angle": "angle"}, "data": "DATA"}, {}, "QEB441", ""),
    (LSB | {"arrays": {"pressure": "few", "angle": "angle"}, "data": "DATA"}, {}, "QEB441", ""),
    (LSB | {"arrays": {"pressure": "whole", "angle": "angle"}, "data": "DATA"}, {}, "QEB241", ""),
    (BALL | {"kind": "segment", "direction": "ones", "range": [0, 1], "domain": "grid"}, {}, "QEB254", ""),
    ({"kind": "box", "lower": [0, 0, 0, 0], "upper": 1, "domain": "grid"}, {}, "QEB254", ""),
    (LSB, {"preprocess": {"scale": 0.5}}, "QEB254", ""),
]


@pytest.mark.parametrize(("region", "model", "code", "fix"), WRONG)
def test_wrong_policies(region: dict[str, Any], model: dict[str, Any], code: str, fix: str, tmp_path: Path) -> None:
    if region.get("data") == "DATA":
        rows = dict(np.load(MODELS / "sensors.rows.npz"))
        rows |= {"wide": np.zeros((8, 3)), "few": rows["pressure"][:5], "whole": np.zeros((8, 2), np.int32)}
        np.savez(tmp_path / "data.npz", **rows)
        region = region | {"data": str(tmp_path / "data.npz")}
    plan = make_plan(policy(region, **model))
    (error,) = plan.errors
    assert isinstance(error.error, QebgateError) and error.error.code == code
    assert fix in str(error.error.fix)


def test_one_input_has_no_names_to_give() -> None:
    one = {"kind": "points", "data": "x.npz", "arrays": {"a": "x", "b": "y"}}
    (error,) = make_plan(policy(one, "../dense_4.int8", floats="../dense_4.float", input_quantization="nearest")).errors
    assert error.error.code == "QEB253"
    with pytest.raises(PolicyError) as both:
        policy(BALL | {"array": "x", "radius": 1})
    assert both.value.code == "QEB215"


def test_statistics_draw_from_all_inputs() -> None:
    require = {"statistical": {"confidence": 0.95, "max_failure_rate": 0.05}}
    (c,) = check(policy(LSB | {"radius": 30}, limit=0.5, require=require)).checks
    assert c.verdict == "pass" and c.tasks[0].statistics is not None and c.tasks[0].statistics.n >= 59
