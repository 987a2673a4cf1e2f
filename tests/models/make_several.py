"""Make the small networks of several inputs.

    python tests/models/make_several.py          # needs the [tensorflow] extra

Random weights, the real TFLite converter.  The inputs have different ranges, and so different scales; every variant
(``int8``: integer inputs, ``float_io``: float ones) comes with the float model, as .tflite and as Keras 2 saves it.
The files are committed, so tests need no TensorFlow.
"""

import json
import os
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf
import tf_keras as keras

FOLDER = Path(__file__).resolve().parent / "several"
K = keras.layers


def sensors(x):
    """Two inputs of two entries each; dense branches that meet in an ADD."""
    a = K.Dense(6, activation="relu")(x["pressure"])
    b = K.Dense(6)(x["angle"])
    return K.Dense(3)(K.Dense(5, activation="relu")(K.Add()([a, b])))


def image(x):
    """A small image and two numbers beside it."""
    h = K.Conv2D(3, 3, padding="same", activation="relu")(x["image"])
    h = K.Flatten()(K.MaxPooling2D(2)(h))
    return K.Dense(2)(K.Concatenate()([h, K.Dense(4, activation="relu")(x["position"])]))


NETS = {
    "sensors": (sensors, {"pressure": ((2,), 0.0, 4.0), "angle": ((2,), -0.5, 0.5)}),
    "image": (image, {"position": ((2,), -3.0, 3.0), "image": ((4, 4, 1), 0.0, 1.0)}),
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    manifest = {}
    for seed, (name, (build, spans)) in enumerate(NETS.items()):
        rng = np.random.default_rng(seed)
        keras.backend.clear_session()
        inputs = {n: keras.Input(shape, name=n) for n, (shape, _, _) in spans.items()}
        model = keras.Model(list(inputs.values()), build(inputs), name=name)
        for layer in model.layers:
            layer.set_weights([
                rng.normal(0, 0.2 if w.ndim == 1 else 1.6 / np.sqrt(max(1, np.prod(w.shape[:-1]))), w.shape)
                for w in layer.get_weights()
            ])  # fmt: skip
        rows = {n: rng.uniform(lo, hi, (200, *s)).astype(np.float32) for n, (s, lo, hi) in spans.items()}
        (FOLDER / f"{name}.float.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
        model.save(FOLDER / f"{name}.h5")
        for variant, kind in (("int8", tf.int8), ("float_io", tf.float32)):
            converter = tf.lite.TFLiteConverter.from_keras_model(model)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda r=rows: ([v[k : k + 1] for v in r.values()] for k in range(200))
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = kind
            (FOLDER / f"{name}.{variant}.tflite").write_bytes(converter.convert())
        np.savez_compressed(FOLDER / f"{name}.rows.npz", **{n: v[:8] for n, v in rows.items()})
        manifest[name] = {n: list(s) for n, (s, _, _) in spans.items()}
    (FOLDER / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
