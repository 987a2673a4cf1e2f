"""Quantization-aware models before their conversion: what is read is what the converter writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from qebgate.adapters import load_model
from qebgate.adapters.keras.fake import distance
from qebgate.errors import UnsupportedError
from qebgate.gate import check
from qebgate.ir.align import align
from qebgate.policy import parse_policy
from qebgate.runtimes.profiles import DEPLOYED
from qebgate.semantics.execute import run_int
from tests.support.same import differences

FOLDER = Path(__file__).resolve().parents[1] / "models" / "tfmot"
NETS = json.loads((FOLDER / "manifest.json").read_text())["nets"]
ROWS = np.load(FOLDER / "rows.npz")


@pytest.mark.parametrize("name", NETS)
def test_integers_scales_and_results_are_those_of_the_converted_file(name: str) -> None:
    ours = load_model(FOLDER / f"{name}.h5", quantized=True)
    file = load_model(FOLDER / f"{name}.int8.tflite")
    found = differences(ours, file)
    assert found.compared > 200 and found.scales > 10
    assert not found.words, found.words
    x = ROWS[f"{name}_x"].reshape(-1, *ours.input.shape)
    for runtime in DEPLOYED:
        a, b = (run_int(g, x, runtime)[g.outputs[0]] for g in (ours, file))
        assert np.array_equal(a, b)


@pytest.mark.parametrize("name", NETS)
def test_the_float_network_is_that_of_the_weights(name: str) -> None:
    """It lines up with what is read, and with the converted file."""
    reference = load_model(FOLDER / f"{name}.h5")
    assert not reference.is_quantized and reference.source.format == "keras"
    for quantized in (load_model(FOLDER / f"{name}.h5", quantized=True), load_model(FOLDER / f"{name}.int8.tflite")):
        pair = align(reference, quantized)
        assert pair.agreements and max(a.worst for a in pair.agreements) <= 1.0


@pytest.mark.parametrize("name", NETS)
def test_fake_quantized_inference_stays_within_what_is_said(name: str) -> None:
    graph = load_model(FOLDER / f"{name}.h5", quantized=True)
    x = ROWS[f"{name}_x"].reshape(-1, *graph.input.shape)
    fake = ROWS[f"{name}_fake"]
    said = distance(graph)
    assert said is not None and said > 0
    off = max(float(np.abs(run_int(graph, x, r)[graph.outputs[0]].reshape(fake.shape) - fake).max()) for r in DEPLOYED)
    assert off <= said + 1e-4
    about = " ".join(graph.notes)
    assert "fake-quantized inference is not the deployed function" in about
    trained = name != "joined"  # a dense layer before a ReLU layer: TF-MOT does not quantize its weights
    assert (f"at most {said:.6g}" in about) == trained and ("is not bounded here" in about) != trained


def test_a_policy_may_name_it_and_the_report_says_what_was_checked(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=ROWS["digits_x"][:2])
    region = {"kind": "ball", "radius": 1, "unit": "lsb", "domain": "grid", "data": "rows.npz", "limit": 1}
    file = str(FOLDER / "digits.h5")
    models = {
        "before": {"float": file, "quantized": file, "runtime": "litert-reference"},
        "after": {"float": file, "quantized": str(FOLDER / "digits.int8.tflite"), "runtime": "litert-reference"},
    }
    checks = [
        {"id": f"{m} {v}", "model": m, "region": "r", "property": {"kind": "max_abs", "limit": v}}
        for m in models
        for v in (50.0, 0.0001)
    ]
    data = {"version": 1, "models": models, "regions": {"r": region}, "checks": checks}
    report = check(parse_policy(data, "test", tmp_path))
    assert not report.errors
    by = {c.id: c for c in report.checks}
    assert [by[f"before {v}"].verdict for v in (50.0, 0.0001)] == ["pass", "fail"]
    for v in (50.0, 0.0001):
        before, after = by[f"before {v}"], by[f"after {v}"]
        assert before.tasks[0].proven == after.tasks[0].proven
        assert before.tasks[0].witnessed == after.tasks[0].witnessed
        assert "emulated" in str(before.tasks[0].runtime) and "emulated" not in str(after.tasks[0].runtime)
        words = " ".join(before.assumptions)
        assert "replayed in qebgate's exact evaluator" in words and "fake-quantized" in words


# -- what is refused ------------------------------------------------------------------------------


def changed(tmp_path: Path, change: Callable[[dict[str, Any], Any], None]) -> Path:
    path = tmp_path / "changed.h5"
    path.write_bytes((FOLDER / "digits.h5").read_bytes())
    with h5py.File(path, "r+") as f:
        config = json.loads(f.attrs["model_config"])
        change(config, f)
        f.attrs["model_config"] = json.dumps(config)
    return path


def wrapper(config: dict[str, Any], name: str) -> dict[str, Any]:
    return next(e["config"] for e in config["config"]["layers"] if e["config"]["name"] == name)


def custom(config: dict[str, Any], f: Any) -> None:
    wrapper(config, "quant_first")["quantize_config"] |= {"module": "mine", "class_name": "MyQuantizeConfig"}


def disguised(config: dict[str, Any], f: Any) -> None:
    wrapper(config, "quant_first")["quantize_config"]["registered_name"] = "mine>Default8BitQuantizeConfig"


def four_bits(config: dict[str, Any], f: Any) -> None:
    wrapper(config, "quantize_layer")["quantizer"]["config"]["num_bits"] = 4


def lopsided(config: dict[str, Any], f: Any) -> None:
    f["model_weights/quant_first/quant_first/kernel_min:0"][()] = -0.001


def no_output_range(config: dict[str, Any], f: Any) -> None:
    group = f["model_weights/quant_second"]
    group.attrs["weight_names"] = [n for n in group.attrs["weight_names"] if b"activation" not in bytes(n, "ascii")]


def half_a_range(config: dict[str, Any], f: Any) -> None:
    group = f["model_weights/quant_second"]
    group.attrs["weight_names"] = [n for n in group.attrs["weight_names"] if "activation_max" not in n]


def beyond_zero(config: dict[str, Any], f: Any) -> None:
    f["model_weights/quant_second/quant_second/post_activation_min:0"][()] = 0.5


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (custom, "QEB488"),
        (disguised, "QEB488"),
        (four_bits, "QEB488"),
        (lopsided, "QEB489"),
        (no_output_range, "QEB489"),
        (half_a_range, "QEB480"),
        (beyond_zero, "QEB480"),
    ],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_quantizers_that_are_not_known(tmp_path: Path, change: Any, code: str) -> None:
    from qebgate.errors import ModelError

    with pytest.raises(ModelError) as e:
        load_model(changed(tmp_path, change), quantized=True)
    assert e.value.code == code, str(e.value)
    assert "quant" in str(e.value)


def test_wrappers_are_read_from_h5_only(tmp_path: Path) -> None:
    """TF-MOT itself cannot read its models back from .keras files."""
    from tests.support.keras_files import archive, one_dense, weights, write

    net, arrays = one_dense()
    net["config"]["layers"][1] |= {"class_name": "QuantizeWrapperV2", "module": "tensorflow_model_optimization.x"}
    with pytest.raises(UnsupportedError) as e:
        load_model(write(tmp_path / "n.keras", archive(net, weights(arrays))))
    assert e.value.code == "QEB478"
