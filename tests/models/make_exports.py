"""Small Keras models of functions that exports need, converted: tests/models/exports (needs TensorFlow).

python -m tests.models.make_exports
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

FOLDER = Path(__file__).with_name("exports")
K, L = tf.keras, tf.keras.layers


def applied(f):
    """A layer of a function."""
    return type("Applied", (L.Layer,), {"call": lambda self, x: f(x)})()


def rms(x):
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + 1e-3)


MODELS = {
    "layernorm": [L.Dense(6), L.LayerNormalization(), L.Dense(3)],
    "divlive": [L.Dense(6), applied(lambda x: x / (1.0 + tf.abs(x))), L.Dense(3)],
    "l2norm": [L.Dense(6), applied(rms), L.Dense(3)],
    "std": [L.Dense(6), applied(lambda x: tf.sqrt(tf.math.squared_difference(x, 0.5) + 0.1)), L.Dense(3)],
    "logsoftmax": [L.Dense(6, activation="relu"), L.Dense(4), applied(tf.nn.log_softmax)],
    "softargmax": [
        L.Dense(6, activation="relu"),
        L.Dense(4, activation="softmax"),
        applied(lambda x: tf.argmax(x, -1, output_type=tf.int32)),
    ],
}


def main() -> None:
    rng = np.random.default_rng(0)
    for name, layers in MODELS.items():
        model = K.Sequential([K.Input((8,)), *layers])
        for quantized in (False, True):
            converter = tf.lite.TFLiteConverter.from_keras_model(model)
            if quantized:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.representative_dataset = lambda: (
                    [rng.uniform(-1, 1, (1, 8)).astype(np.float32)] for _ in range(50)
                )
                converter.inference_input_type = tf.int8
            file = FOLDER / f"{name}.{'int8' if quantized else 'float'}.tflite"
            file.write_bytes(converter.convert())


if __name__ == "__main__":
    main()
