"""Whole converted models, final outputs and logits, against the interpreter in its child process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.bit_exactness import inputs_of, logits_of
from qebgate.adapters.tflite.reader import read_tflite
from qebgate.ir.graph import Scheme
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.runtimes.replay import Replayer
from qebgate.semantics.execute import run_int

ROOT = Path(__file__).resolve().parents[2]
DIGITS = sorted((ROOT / "examples" / "digits" / "models").glob("*int8*.tflite"))
TINY = sorted((ROOT / "tests" / "models").glob("*.int8.tflite"))[::3]
DATA = (
    "mlperf_ad01/ad01_int8",
    "mlperf_ic01/pretrainedResnet_quant",
    "mlperf_kws01/kws_ref_model",
    "mlperf_vww01/vww_96_int8",
    "sl_autoencoder_ecg/autoencoder_example",
    "sl_kws_on_off/keyword_spotting_on_off",
    "sl_magic_wand/tflite_micro_magic_wand",
    "sl_micro_speech/tflite_micro_speech",
    "tflm_mnist_lstm/trained_lstm_int8",
)


def _same(path: Path, inputs: int, runtime: Runtime) -> None:
    graph = read_tflite(path)
    x = inputs_of(path, graph, inputs)
    for head in {None, logits_of(graph)}:
        with Replayer(path, runtime, head) as r:
            theirs = r.run(x)
        cut = graph if head is None else graph.cut(head)
        np.testing.assert_array_equal(run_int(cut, x, runtime)[cut.outputs[0]], theirs)


@pytest.mark.parametrize("runtime", DEPLOYED)
@pytest.mark.parametrize("path", DIGITS + TINY, ids=lambda p: p.stem)
def test_models_of_the_repository(path: Path, runtime: Runtime) -> None:
    _same(path, 40, runtime)


@pytest.mark.data
@pytest.mark.parametrize("runtime", DEPLOYED)
@pytest.mark.parametrize("name", DATA)
def test_models_of_the_benchmark(name: str, runtime: Runtime, benchmark_data: Path) -> None:
    _same(benchmark_data / "tflite" / f"{name}.tflite", 12, runtime)


@pytest.mark.data
def test_other_schemes_are_named(benchmark_data: Path) -> None:
    wanted = {
        "aeq_mnist/mnist_quantized": Scheme.WEIGHT_ONLY,
        "mlperf_kws01/kws_ref_model_float32": Scheme.DYNAMIC_RANGE,
    }
    for name, scheme in wanted.items():
        assert read_tflite(benchmark_data / "tflite" / f"{name}.tflite").scheme is scheme
