"""The Keras callback in a real training run on the digits, with tf_keras and with Keras 3."""

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
keras_name = sys.argv[1]
if keras_name == "tf_keras":
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tf_keras as keras
else:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
from qebgate.integrations.keras import QuantizationGate, QuantizationGateError

data = np.load(sys.argv[2])
x, y = data["x"], data["y"]
keras.utils.set_random_seed(1)
model = keras.Sequential([keras.layers.Input((64,)), keras.layers.Dense(12, activation="relu"), keras.layers.Dense(10)])
model.compile(optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
gate = QuantizationGate(x[:3], limit=5.0, radius=0.002, representative=x)
seen = {}
after = keras.callbacks.LambdaCallback(on_train_end=lambda logs: seen.update(logs or {}))
history = model.fit(x, y, epochs=3, batch_size=20, verbose=0, callbacks=[gate, after]).history
names = "qebgate_verdict", "qebgate_gap_proven", "qebgate_gap_witnessed"

strict = QuantizationGate(x[:3], limit=1e-6, representative=x, raise_on_fail=True)
try:
    model.fit(x, y, epochs=1, verbose=0, callbacks=[strict])
    raised = None
except QuantizationGateError as e:
    raised = str(e)
print(json.dumps({
    "logs": {k: seen.get(k) for k in names},
    "history": {k: history.get(k) for k in names},
    "losses": len(history["loss"]),
    "result": [gate.result.verdict, gate.result.proven, gate.result.witnessed],
    "strict": strict.result.verdict,
    "raised": raised,
}))
"""


@pytest.mark.tensorflow
@pytest.mark.parametrize("keras", ["tf_keras", "keras"])
def test_callback_in_fit(keras: str, root: Path, digits: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", TRAIN, keras, str(digits / "data" / "golden.npz")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    verdict, proven, witnessed = said["result"]
    assert verdict == "pass"
    assert 0 < witnessed <= proven <= 5.0
    assert said["logs"] == {
        "qebgate_verdict": verdict,
        "qebgate_gap_proven": proven,
        "qebgate_gap_witnessed": witnessed,
    }
    assert said["history"] == {k: [v] for k, v in said["logs"].items()}
    assert said["losses"] == 3
    assert said["strict"] == "fail"
    assert "not within 1e-06" in said["raised"]
    assert math.isfinite(proven)


def test_import_without_tensorflow_names_the_extra(root: Path) -> None:
    code = "import sys; sys.modules['tensorflow'] = None; import qebgate.integrations.keras"
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == "ImportError: qebgate.integrations.keras needs TensorFlow: pip install 'qebgate[tensorflow]'"
