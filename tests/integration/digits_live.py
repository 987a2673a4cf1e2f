"""Run by test_formats.py in a process of its own: the digits network in every format, and in memory.

Prints each one's verdicts, bounds and largest gaps, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "0"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras as keras3
import numpy as np
import tf_keras as keras2

import qebgate
from qebgate.adapters import load_model
from qebgate.adapters.keras import read_live
from tests.integration.keras_live import same

FOLDER = Path(__file__).resolve().parents[1] / "models" / "keras"
FILES = ("keras3.keras", "keras2.h5", "keras3.saved_model", "float.tflite")


def main() -> None:
    live = {
        "keras.Model": keras3.models.load_model(FOLDER / "digits.keras3.keras", compile=False),
        "tf_keras.Model": keras2.models.load_model(FOLDER / "digits.keras2.h5", compile=False),
    }
    for model in live.values():
        assert same(read_live(model), load_model(FOLDER / "digits.keras3.keras"))
    region = qebgate.ball(np.load(FOLDER / "rows.npz")["digits_x"][:2], 1, unit="lsb")
    found: dict[str, list[object]] = {}
    for name, model in {**{f: FOLDER / f"digits.{f}" for f in FILES}, **live}.items():
        found[name] = []
        for limit in (30.0, 0.01):
            answer = qebgate.compare(
                model, FOLDER / "digits.int8.tflite", region=region, max_abs=limit, effort="quick",
                runtime="litert-reference",
            )  # fmt: skip
            tasks = answer.checks[0].tasks
            found[name].append([answer.verdict, [(t.verdict, t.proven, t.witnessed) for t in tasks]])
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
