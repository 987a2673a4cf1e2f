"""Run by test_keras_files.py in a process of its own, because TensorFlow and LiteRT cannot share one.

Reads the committed files with the real Keras, and the live models with qebgate: both must be the same
network, and what Keras predicts on fresh inputs is saved for the caller.
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

from qebgate.adapters.keras import read_keras, read_live
from qebgate.errors import UnsupportedError
from qebgate.ir.graph import Graph

FOLDER = Path(__file__).resolve().parents[1] / "models" / "keras"


def same(a: Graph, b: Graph) -> bool:
    """Whether two graphs have the same operators and constants."""
    nodes = all(
        m.op == n.op and m.inputs == n.inputs and m.attrs == n.attrs for m, n in zip(a.nodes, b.nodes, strict=True)
    )
    tensors = all(
        s.shape == t.shape
        and (s.const is None) == (t.const is None)
        and (s.const is None or (s.const == t.const).all())
        for s, t in zip(a.tensors, b.tensors, strict=True)
    )
    return nodes and tensors and (a.inputs, a.outputs) == (b.inputs, b.outputs)


def refused(model) -> str:
    try:
        read_live(model)
    except UnsupportedError as e:
        return f"{e.code} {e}"
    return "read"


def main() -> None:
    out: dict[str, np.ndarray] = {}
    checked = 0
    for name, files in json.loads((FOLDER / "manifest.json").read_text())["files"].items():
        rng = np.random.default_rng(len(name))
        for file in files:
            keras = keras3 if file.startswith("keras3") else keras2
            path = FOLDER / f"{name}.{file}"
            model = keras.models.load_model(path, compile=False)
            live, read = read_live(model), read_keras(path)
            assert same(live, read), path
            assert live.source.format == "keras-live" and len(live.source.sha256) == 64
            x = rng.uniform(-2.0, 2.0, (12, *model.input_shape[1:])).astype(np.float32)
            out[f"{path.name}/x"] = x
            out[f"{path.name}/y"] = np.asarray(model.predict(x, verbose=0))
            checked += 1
            if name == "dense":
                before = live.source.sha256
                model.layers[-1].set_weights([a + 1 for a in model.layers[-1].get_weights()])
                assert read_live(model).source.sha256 != before and not same(read_live(model), read)
    for keras in (keras3, keras2):
        mine = keras.Sequential([keras.Input((2,)), type("Dense", (keras.layers.Dense,), {})(3)])
        assert refused(mine).startswith("QEB478"), refused(mine)
        code = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda v: v + 1)])
        assert "Lambda" in refused(code), refused(code)
    np.savez(sys.argv[1], **out)
    print(f"{checked} models")


if __name__ == "__main__":
    main()
