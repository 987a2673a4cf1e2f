"""Networks in fixed point from the policy to the verdict, and what is refused on the way."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from qebgate.adapters.npz import read_npz
from qebgate.errors import PolicyError, QebgateError
from qebgate.gate import check
from qebgate.plan import make_plan
from qebgate.policy import load_policy, parse_policy
from qebgate.policy.schema import policy_schema
from qebgate.report.json import RESULT_SCHEMA
from tests.fixed_point.slow import Net

HERE = Path(__file__).resolve().parent
TEXT = (HERE / "qebgate.yaml").read_text()
HOW: dict[str, Any] = {
    "bits": 6,
    "weight_int_bits": 1,
    "bias_int_bits": 2,
    "activation_int_bits": 2,
    "input": {"bits": 8, "signed": False, "int_bits": 0},
}


def net() -> Net:
    from qebgate.adapters.fixed_point import FixedPoint

    return Net(read_npz(HERE / "net.npz"), FixedPoint(6, 1, 2, 2, 8, False, 0), Fraction(1, 255))


def test_a_whole_check(tmp_path: Path) -> None:
    """The command line, against the truth in exact fractions."""
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "qebgate", "check", str(HERE / "qebgate.yaml"), "--format", f"json={out}"]
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    result = json.loads(out.read_text())
    jsonschema.validate(result, RESULT_SCHEMA)
    tight, wide = result["checks"]
    assert (tight["verdict"], tight["reason"], wide["verdict"]) == ("fail", "refuted", "pass")
    rows = np.load(HERE / "rows.npz")["x"]
    for t in wide["tasks"]:
        row = rows[t["index"]].astype(int)
        lo, hi = np.maximum(row - 3, 0).tolist(), np.minimum(row + 3, 255).tolist()
        predicted = int(np.argmax([float(v) for v in net().float(tuple(row.tolist()))]))
        assert t["outputs"] == [predicted]
        low, high = net().truth(tuple(lo), tuple(hi))
        assert Fraction(t["lower"][0]) <= low[predicted] and high[predicted] <= Fraction(t["upper"][0])
        assert t["runtime"]["name"] == "fixed-point" and "qebgate" in t["runtime"]["version"]
    words = " ".join(wide["assumptions"])
    assert "no deployed runtime" in words and "exact evaluator" in words and "1/255" in words and "1/256" in words
    assert "processor" not in words
    worst = next(t for t in tight["tasks"] if t["verdict"] == "fail")
    w = worst["witness"]
    codes = np.asarray(w["codes"]).ravel().tolist() if "codes" in w else np.asarray(w["x"], int).ravel().tolist()
    k = worst["outputs"][0]
    true = float(net().quantized(tuple(codes))[k] - net().float(tuple(codes))[k])
    assert abs(true) > 0.01 and abs(abs(true) - worst["witnessed"]) < 1e-5


def test_the_same_in_several_processes_and_in_real_arithmetic() -> None:
    from qebgate.gate import Options

    data = HERE / "qebgate.yaml"
    one, two = (check(load_policy(data), Options(jobs=n, only=("wide",))) for n in (1, 2))
    for a, b in zip(one.checks[0].tasks, two.checks[0].tasks, strict=True):
        assert (a.verdict, a.proven, a.witnessed) == (b.verdict, b.proven, b.witnessed)
    real = load_policy(data, sets=["models.net.float_semantics=real"])
    for a, b in zip(check(real, Options(only=("wide",))).checks[0].tasks, one.checks[0].tasks, strict=True):
        assert a.proven is not None and b.proven is not None and a.proven <= b.proven + 1e-12


def test_hashes_name_the_file_and_the_scheme() -> None:
    a = make_plan(load_policy(HERE / "qebgate.yaml")).checks[0].pair
    other = TEXT.replace("bits: 6", "bits: 8")
    b = make_plan(parse(other)).checks[0].pair
    assert a.float.source.sha256 == b.float.source.sha256
    assert a.quantized.source.sha256 != b.quantized.source.sha256


def parse(text: str) -> Any:
    from ruamel.yaml import YAML

    return parse_policy(YAML(typ="safe", pure=True).load(text), "test", HERE)


def test_without_input_scale_both_read_the_same_reals() -> None:
    plan = make_plan(parse(TEXT.replace("{file: net.npz, input_scale: 1/255}", "net.npz")))
    assert plan.checks[0].pair.float.nodes[0].attrs == plan.checks[0].pair.quantized.nodes[0].attrs
    plan = make_plan(parse(TEXT.replace("1/255", "0.25")))
    assert plan.checks[0].pair.float.nodes[0].attrs.scale == Fraction(1, 4)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("input_scale: 1/255", "input_scale: 1/0", "QEB211", "1/255"),
        ("input_scale: 1/255", 'input_scale: "-1/255"', "QEB211", "1/255"),
        ("input_scale: 1/255", "input_scale: 0", "QEB208", "input_scale"),
        ("input_scale: 1/255", "scale: 1", "QEB209", "input_scale"),
        ("file: net.npz, ", "", "QEB210", "file"),
        ("bits: 6", "bits: 1", "QEB208", "at least 2"),
        ("bits: 6", "bits: 17", "QEB208", "at most 16"),
        ("bits: 6", "bits: eight", "QEB211", "whole number"),
        ("bits: 6, ", "", "QEB210", "bits"),
        ("weight_int_bits: 1", "weight_int_bits: 7", "QEB208", "weight_int_bits"),
        ("weight_int_bits: 1", "weight_ints: 1", "QEB209", "weight_int_bits"),
        ("bits: 8, signed", "bits: 4, signed", "QEB212", "bits"),
        ("int_bits: 0}", "int_bits: 9}", "QEB208", "int_bits"),
        ("signed: false", "signed: 0", "QEB211", "signed"),
        ("    quantized:", "    runtime: litert-xnnpack\n    quantized:", "QEB215", "runtime"),
        ("    quantized:", "    input_quantization: nearest\n    quantized:", "QEB215", "input_quantization"),
        ("    quantized:", "    preprocess: {scale: 2.0}\n    quantized:", "QEB215", "preprocess"),
        ("net.npz", "net.pb", "QEB216", "pb"),
        ("fixed_point:", "fixed_pint:", "QEB209", "fixed_point"),
    ],
)
def test_policies_that_are_refused(tmp_path: Path, old: str, new: str, code: str, words: str) -> None:
    assert old in TEXT
    path = tmp_path / "qebgate.yaml"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(PolicyError) as e:
        load_policy(path)
    errors = e.value.related or (e.value,)
    found = [x for x in errors if x.code == code and words in f"{x.message} {x.fix} {x.where}"]
    assert found, [(x.code, x.message, x.fix) for x in errors]
    assert re.search(r"qebgate\.yaml:[0-9]+:[0-9]+$", found[0].where or "")


def test_regions_of_reals_are_refused() -> None:
    for text in (TEXT.replace("    domain: grid\n", ""), TEXT.replace("domain: grid", "domain: real")):
        (first, _) = make_plan(parse(text)).errors
        assert first.error.code == "QEB249" and "domain: grid" in (first.error.fix or "")


def test_max_lsb_is_refused() -> None:
    plan = make_plan(parse(TEXT.replace("max_abs", "max_lsb")))
    assert {e.error.code for e in plan.errors} == {"QEB246"}


def test_the_schema_accepts_the_policy() -> None:
    from ruamel.yaml import YAML

    jsonschema.validate(YAML(typ="safe", pure=True).load(TEXT), policy_schema())


# -- the float network's file ---------------------------------------------------------------------

W, B = np.ones((2, 3), np.float32), np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({"w0": W}, "QEB472"),
        ({"w0": W, "b0": B, "extra": B}, "QEB472"),
        ({"w0": W, "b1": B}, "QEB472"),
        ({"w0": W, "b0": np.ones(2, np.float32)}, "QEB472"),
        ({"w0": W.ravel(), "b0": B}, "QEB472"),
        ({"w0": W, "b0": B, "w1": W, "b1": B}, "QEB472"),
        ({"w0": W.astype(np.float64), "b0": B}, "QEB414"),
        ({"w0": W.astype(np.int8), "b0": B}, "QEB414"),
        ({"w0": W * np.nan, "b0": B}, "QEB448"),
        ({"w0": W * np.float32(1e-40), "b0": B}, "QEB418"),
        ({"w0": np.zeros((0, 3), np.float32), "b0": B}, "QEB450"),
        ({"w0": np.ones((1 << 16) + 1, np.float32)[:, None], "b0": np.ones(1, np.float32)}, "QEB406"),
        ({f"{k}{i}": np.ones((1, 1) if k == "w" else 1, np.float32) for i in range(65) for k in "wb"}, "QEB447"),
    ],
)
def test_files_that_are_no_network(tmp_path: Path, arrays: dict[str, np.ndarray], code: str) -> None:
    np.savez(tmp_path / "n.npz", **arrays)
    with pytest.raises(QebgateError) as e:
        read_npz(tmp_path / "n.npz")
    assert e.value.code == code
    assert e.value.exit_code == 4


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    np.savez(tmp_path / "n.npz", w0=np.array([Bomb()], object), b0=B)
    with pytest.raises(QebgateError) as e:
        read_npz(tmp_path / "n.npz")
    assert e.value.code == "QEB444"
    (tmp_path / "n.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(QebgateError):
        read_npz(tmp_path / "n.npz")
    assert not (tmp_path / "exploded").exists()


def test_half_precision_is_exact(tmp_path: Path) -> None:
    np.savez(tmp_path / "n.npz", w0=W.astype(np.float16) / 3, b0=B)
    (w, b) = read_npz(tmp_path / "n.npz").layers[0]
    assert w.dtype == np.float32 and (w == (W.astype(np.float16) / 3).T).all() and (b == B).all()
    assert not w.flags.writeable
