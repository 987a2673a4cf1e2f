"""``convert_checked`` and ``checked`` around the real converter, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
import numpy as np
import tensorflow as tf
from qebgate.errors import PolicyError
from qebgate import ball, points
from qebgate.integrations.tflite import NotWithinError, checked, convert_checked

tf.keras.utils.set_random_seed(1)
model = tf.keras.Sequential([tf.keras.layers.Input((8,)), tf.keras.layers.Dense(6, activation="relu"),
                             tf.keras.layers.Dense(3)])
x = np.random.default_rng(0).uniform(-1, 1, (20, 8)).astype(np.float32)
np.save("rows.npy", x)


def converter():
    c = tf.lite.TFLiteConverter.from_keras_model(model)
    c.optimizations = [tf.lite.Optimize.DEFAULT]
    c.representative_dataset = lambda: ([r[None]] for r in x)
    c.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    c.inference_input_type = c.inference_output_type = tf.int8
    return c


said = {}
c = converter()
settings = ("optimizations", "inference_input_type", "inference_output_type")
before = {k: repr(vars(c)[k]) for k in settings}
content = convert_checked(c, region=ball(x[:2], 1, unit="lsb", out_of_range="allow"), max_abs=5.0, effort="quick")
said["same"] = before == {k: repr(vars(c)[k]) for k in settings}
said["bytes"] = content == converter().convert()
try:
    convert_checked(converter(), region=points(x, domain="grid", out_of_range="allow"), max_abs=1e-9)
except NotWithinError as e:
    said["tight"] = [e.answer.verdict, str(e), len(e.content) > 0]

open("float.tflite", "wb").write(tf.lite.TFLiteConverter.from_keras_model(model).convert())
open("int8.tflite", "wb").write(b"not a model; replaced by the conversion")
open("qebgate.yaml", "w").write('''version: 1
models: {m: {float: float.tflite, quantized: int8.tflite}}
regions: {r: {kind: points, data: rows.npy, domain: grid, out_of_range: allow}}
checks: [{id: c, model: m, region: r, property: {kind: max_abs, limit: 5}}]
''')
said["policy"] = len(convert_checked(converter(), policy="qebgate.yaml")) > 0
try:
    convert_checked(converter(), policy="qebgate.yaml", model="other")
except PolicyError as e:
    said["other"] = e.code


@checked(float_model="float.tflite", region=points(x, domain="grid", out_of_range="allow"), max_abs=5.0)
def make(times):
    said["made"] = times
    return converter().convert()


said["decorated"] = [make.__name__, len(make(times=3)) > 0]
print(json.dumps(said))
"""


@pytest.mark.tensorflow
def test_conversions_are_checked(root: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["same"] and said["bytes"] and said["policy"]
    verdict, words, kept = said["tight"]
    assert verdict == "fail" and kept and "a replayed input is beyond the limit" in words
    assert said["other"] == "QEB238"
    assert said["decorated"] == ["make", True] and said["made"] == 3
