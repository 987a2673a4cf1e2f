"""The noise floor against finite differences, and against the figures measured on real pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.domains.gap import Interval
from qebgate.domains.layers import ROOT, Affine, CodeGrid
from qebgate.domains.linear_map import Dense
from qebgate.engines import portfolio
from qebgate.engines.dra.program import Program, program
from qebgate.engines.noise_floor import NoiseFloor, noise_floor, steer
from qebgate.evidence import Bound, Stopped
from qebgate.ir.align import align
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.task import Budget, Task
from qebgate.verdict import judge
from tests.engines.tiny import ENTRIES, tiny
from tests.laws.pairs import float_twin, task_of
from tests.support.tflite_builder import Builder


def test_two_layers_by_hand() -> None:
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(size=(6, 3)), rng.normal(size=(2, 6))
    zero = lambda n: np.zeros(n)  # noqa: E731
    half = lambda n, u: np.full(n, u / 2)  # noqa: E731
    inf, first, second = np.inf, half(6, 0.1), half(2, 0.2)
    a, b = CodeGrid(0.1, 0, 0, 255), CodeGrid(0.2, 0, -128, 127)
    layers = (
        Affine("a", (ROOT,), 0, (Dense(w1),), (Dense(w1),), zero(6), zero(6), (0.0, inf), first, first, a),
        Affine("b", (0,), 1, (Dense(w2),), (Dense(w2),), zero(2), zero(2), (-inf, inf), second, second, b),
    )
    p = Program(layers, Interval(-np.ones(3), 3 * np.ones(3)), 1)
    live = w1 @ np.ones(3) > 0
    want = np.abs(w2)[:, live].sum(1) * 0.05 + 0.1
    got = noise_floor(p, (0, 1))
    np.testing.assert_allclose(got.floor, want, rtol=1e-12)
    assert [name for name, _ in got.layers] == ["a", "b"]
    assert sum(v for _, v in got.layers) == pytest.approx(got.worst) == pytest.approx(want.max())
    assert got.span == pytest.approx(np.ptp(w2 @ np.maximum(w1 @ np.ones(3), 0)))


@pytest.mark.parametrize("name", ENTRIES)
def test_every_converted_model_has_one(name: str) -> None:
    t = tiny(name)
    task = t.task(t.box(np.random.default_rng(3)), Runtime.REFERENCE)
    got = noise_floor(program(task), task.outputs)
    assert np.isfinite(got.floor).all() and (got.floor >= 0).all() and got.worst > 0
    assert sum(v for _, v in got.layers) == pytest.approx(got.worst)


def real_pair(folder: Path, float_name: str, quantized_name: str, outputs: slice) -> NoiseFloor:
    """Of a real pair's logits at the first of its inputs."""
    pair = align(read_tflite(folder / f"{float_name}.tflite"), read_tflite(folder / f"{quantized_name}.tflite"))
    pair = pair.at("logits")
    codec = InputCodec.of(pair.quantized, "nearest")
    codes = codec.encode(np.load(folder / "inputs.npy")[0].reshape(pair.quantized.input.shape))
    x = codec.grid(codes).astype(np.float64)
    task = task_of(pair, Cell(x, x.copy(), (codes, codes.copy()), 0, x.copy()), codec, Runtime.REFERENCE)
    return noise_floor(program(task), task.outputs[outputs])


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "float_name", "quantized_name", "outputs", "floor", "span"),
    [
        ("sl_micro_speech", "micro_speech_h5_float_from_h5", "tflite_micro_speech", slice(None), 1.3, 66),
        ("sl_kws_on_off", "on_off_float_from_h5", "keyword_spotting_on_off", slice(None), 4.4, 44),
        ("sl_magic_wand", "magic_wand_float_from_h5", "tflite_micro_magic_wand", slice(None), 8.2, 54),
        ("mlperf_ad01", "ad01_fp32", "ad01_int8", slice(0, 640, 40), 4.8, 56),
        ("mlperf_ic01", "pretrainedResnet", "pretrainedResnet_quant", slice(None), 51, 9.7),
        ("mlperf_vww01", "vww_96_float", "vww_96_int8", slice(None), 9.8, 1.5),
    ],
)
def test_figures_of_real_pairs(
    benchmark_data: Path, folder: str, float_name: str, quantized_name: str, outputs: slice, floor: float, span: float
) -> None:
    """Computed independently with TensorFlow's gradients (of every 40th output for the anomaly detector)."""
    got = real_pair(benchmark_data / "tflite" / folder, float_name, quantized_name, outputs)
    assert got.worst == pytest.approx(floor, rel=0.02)
    assert got.span == pytest.approx(span, rel=0.02)


def noisy_task(folder: Path, runtime: Runtime, radius: int) -> Task:
    """Two coarse hidden layers of 12 without an activation, whose roundings add up in narrow outputs."""
    rng, b = np.random.default_rng(0), Builder()
    x = at = b.tensor((1, 20), "int8", scale=0.02)
    inputs = 20
    for size, scale in ((12, 1.0), (12, 1.0), (3, 0.09)):
        w = b.tensor((size, inputs), "int8", data=rng.choice([-100, 100], (size, inputs)), scale=0.01)
        y = b.tensor((1, size), "int8", scale=scale)
        b.op("FULLY_CONNECTED", [at, w, -1], [y], version=4)
        at, inputs = y, size
    model = b.build([x], [at])
    files = folder / "float.tflite", folder / "int8.tflite"
    for file, content in zip(files, (float_twin(model, rng), model), strict=True):
        file.write_bytes(content)
    pair = align(*(read_tflite(f) for f in files))
    codec = InputCodec.of(pair.quantized, "nearest")
    middle = np.full(pair.quantized.input.shape, 0, np.int32)
    lo, hi = middle - radius, middle + radius
    low, high, centre = (codec.grid(c).astype(np.float64) for c in (lo, hi, middle))
    return task_of(pair, Cell(low, high, (lo, hi), 0, centre), codec, runtime)


@pytest.mark.parametrize("runtime", DEPLOYED)
def test_where_rounding_alone_is_too_much_the_answer_comes_at_once(tmp_path: Path, runtime: Runtime) -> None:
    task = noisy_task(tmp_path, runtime, 4)
    floor, hopeless = steer(task)
    assert hopeless and floor.worst > floor.span > 0
    budget = Budget(falsify=64, enumerate=64, milp=0)
    found = portfolio.run(replace(task, prop=Property("max_abs", 23.0)), budget)
    verdict = judge(Property("max_abs", 23.0), "proof", found)
    assert (verdict.verdict, verdict.reason, verdict.proven) == ("unknown", "effort", None)
    assert {e.engine for e in found if isinstance(e, Stopped)} >= {"dra", "milp"}
    # engines that the policy names are run all the same
    assert [type(e) for e in portfolio.run(task, budget, engines=("dra",))] == [Bound]
    # a limit above the floor is worth trying, and so is a region that fixes most codes
    assert not steer(replace(task, prop=Property("max_abs", 100.0)))[1]
    assert not steer(noisy_task(tmp_path, runtime, 0))[1]
