"""Make small recurrent networks: LSTMs as converters fuse them, float, float16 and full int8.

    python tests/models/make_recurrent.py        # needs the [tensorflow] extra

Random weights, the real TFLite converter.  Keras 3 models convert to a WHILE loop instead, which no scheme quantizes;
tf_keras is fused into UNIDIRECTIONAL_SEQUENCE_LSTM.  The files are committed, so tests need no TensorFlow.
"""

import os
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf
import tf_keras as keras

FOLDER = Path(__file__).resolve().parent / "recurrent"
K = keras.layers


def last(x):
    """The state after the last step, and a dense layer."""
    return K.Dense(3)(K.LSTM(5)(x))


def steps(x):
    """Two LSTMs on each other, all their steps."""
    return K.LSTM(3, return_sequences=True)(K.LSTM(6, return_sequences=True)(x))


NETS = {"last": (last, (6, 4), 1.5), "steps": (steps, (4, 2), 3.0)}
"""Function, steps and channels, and what the random weights are multiplied with (with 3 the cells saturate)."""


def model_of(name: str) -> keras.Model:
    build, shape, gain = NETS[name]
    keras.utils.set_random_seed(len(name))
    inputs = keras.Input(batch_shape=(1, *shape))
    model = keras.Model(inputs, build(inputs))
    rng = np.random.default_rng(7)
    model.set_weights([gain * w + (rng.normal(0, 0.3, w.shape) if w.ndim == 1 else 0.0) for w in model.get_weights()])
    return model


def convert(model: keras.Model, kind: str) -> bytes:
    shape = model.input_shape
    # a plain Keras model is saved first, which leaves the loop as it is
    function = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec(shape, tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    if kind != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8":
        rng = np.random.default_rng(1)
        converter.representative_dataset = lambda: ([rng.uniform(-1, 1, shape).astype(np.float32)] for _ in range(80))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in NETS:
        model = model_of(name)
        for kind in ("float", "float16", "int8"):
            (FOLDER / f"{name}.{kind}.tflite").write_bytes(convert(model, kind))


if __name__ == "__main__":
    main()
