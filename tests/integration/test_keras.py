"""The Keras callback in a real training run on the digits, with tf_keras and with Keras 3."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = """
import os, sys, json
import numpy as np
how = sys.argv[1]
if how == "keras":
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
else:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tf_keras as keras
from qebgate.integrations.keras import QuantizationGate, QuantizationGateError

data = np.load(sys.argv[2])
x, y = data["x"], data["y"]
keras.utils.set_random_seed(1)
model = keras.Sequential([keras.layers.Input((64,)), keras.layers.Dense(12, activation="relu"), keras.layers.Dense(10)])
if how == "tfmot":
    import tensorflow_model_optimization as tfmot
    model = tfmot.quantization.keras.quantize_model(model)
model.compile(optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
fit = lambda n, *c: model.fit(x, y, epochs=n, batch_size=20, verbose=0, callbacks=list(c)).history

gate = QuantizationGate(x[:2], limit=5.0, radius=0.002, representative=x, every=2)
seen = {}
after = keras.callbacks.LambdaCallback(on_train_end=lambda logs: seen.update(logs or {}))
history = fit(3, gate, after)
names = "qebgate_passed", "qebgate_gap_proven", "qebgate_gap_witnessed"
said = {
    "logs": {k: seen.get(k) for k in names},
    "history": {k: history.get(k) for k in names},
    "result": [gate.result.verdict, gate.result.proven, gate.result.witnessed],
}
at_end = QuantizationGate(x[:1], limit=5.0, representative=x)
said["at_end"] = {k: fit(1, at_end).get(k) for k in names}
early = keras.callbacks.EarlyStopping(monitor="qebgate_gap_proven", mode="min", min_delta=1e9, patience=1)
said["early"] = len(fit(9, QuantizationGate(x[:1], limit=5.0, representative=x, every=1), early)["loss"])
stop = QuantizationGate(x[:1], limit=1e-6, representative=x, every=1, on_fail="stop")
said["stopped"] = len(fit(9, stop)["loss"])
try:
    fit(1, QuantizationGate(x[:1], limit=1e-6, representative=x, on_fail="raise"))
    said["raised"] = None
except QuantizationGateError as e:
    said["raised"] = str(e)
print(json.dumps(said))
"""


@pytest.mark.tensorflow
# tfmot trains with tf_keras too
@pytest.mark.parametrize("how", [pytest.param("tf_keras", marks=pytest.mark.slow), "keras", "tfmot"])
def test_callback_in_fit(how: str, root: Path, digits: Path, tmp_path: Path) -> None:
    if how == "tfmot" and importlib.util.find_spec("tensorflow_model_optimization") is None:
        pytest.skip("needs the [tfmot] extra")
    env = {**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", TRAIN, how, str(digits / "data" / "golden.npz")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    verdict, proven, witnessed = said["result"]
    assert verdict == "pass"
    assert 0 < witnessed <= proven <= 5.0
    assert said["logs"] == {
        "qebgate_passed": 1.0,
        "qebgate_gap_proven": proven,
        "qebgate_gap_witnessed": witnessed,
    }
    # after epoch 1 nothing is known, after 2 and 3 what was found after 2; the end of training is checked once more
    passed, gaps, seen = (said["history"][k] for k in said["logs"])
    assert passed == [0.0, 1.0, 1.0] and math.isinf(gaps[0]) and math.isinf(seen[0])
    assert gaps[1] == gaps[2] != proven and 0 < seen[1] <= gaps[1]
    assert [len(v) for v in said["at_end"].values()] == [1, 1, 1]
    assert said["early"] == 2 and said["stopped"] == 1
    assert "not within 1e-06" in said["raised"] and "a replayed input is beyond the limit" in said["raised"]


def test_no_hook_is_called_for_batches(root: Path) -> None:
    """Steps that do not check cost nothing: Keras skips the batch hooks of callbacks that say that they have none."""
    source = (root / "integrations" / "keras.py").read_text()
    assert source.count("def on_") == 4
    for hook in ("_implements_train_batch_hooks", "_implements_test_batch_hooks", "_implements_predict_batch_hooks"):
        assert hook in source


def test_import_without_tensorflow_names_the_extra(root: Path) -> None:
    code = "import sys; sys.modules['tensorflow'] = None; import qebgate.integrations.keras"
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == "ImportError: qebgate.integrations.keras needs TensorFlow: pip install 'qebgate[tensorflow]'"
