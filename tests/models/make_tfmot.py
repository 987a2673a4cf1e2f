"""Make the quantization-aware models of this folder's ``tfmot/``: python tests/models/make_tfmot.py

Needs the [tfmot] extra and scikit-learn.  Each network is trained for a few steps, saved as .h5 before its conversion
and converted; ``rows.npz`` has inputs and what Keras' fake-quantized inference makes of them.
"""

import json
import os
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras import quantize_aware_activation

# TF-MOT 0.7.3 cannot read back what it wrote with newer tf_keras, which it does to quantize a convolution before
# batch normalization: the class has no from_config
quantize_aware_activation.NoOpActivation.from_config = classmethod(lambda cls, config: cls())

OUT = Path(__file__).resolve().parent / "tfmot"
ROWS = 24
k = keras.layers


def digits():
    """Dense layers with their activations: one scale per tensor."""
    layers = [
        keras.Input((64,), name="pixels"),
        k.Dense(24, activation="relu", name="first"),
        k.Dense(16, activation="relu", name="second"),
        k.Dense(10, name="logits"),
    ]
    return keras.Sequential(layers, name="digits")


def conv():
    """Convolutions with and without batch normalization, of negative factors too; a sum, maxima, softmax."""
    i = k.Input((8, 8, 1), name="image")
    x = k.Conv2D(4, 3, padding="same", strides=2, use_bias=False, name="conv")(i)
    x = k.ReLU(6.0, name="six")(k.BatchNormalization(name="norm")(x))
    y = k.BatchNormalization(name="norm_2")(k.DepthwiseConv2D(3, padding="same", name="depthwise")(x))
    y = k.Conv2D(4, 1, name="pointwise")(k.Activation("relu", name="relu")(y))
    x = k.MaxPooling2D(2, name="max")(k.Add(name="sum")([x, y]))
    x = k.Dropout(0.3, name="drop")(k.Flatten(name="flat")(k.Conv2D(6, 2, activation="relu", name="last")(x)))
    return keras.Model(i, k.Dense(10, activation="softmax", name="out")(x), name="conv")


def joined():
    """A concatenation of values with different scales, zeros around an image, a mean, an activation of its own."""
    i = k.Input((8, 8, 1), name="image")
    x = k.ZeroPadding2D(((0, 1), (0, 1)), name="zeros")(i)
    x = k.ReLU(name="relu")(k.BatchNormalization(name="norm")(k.Conv2D(4, 3, strides=2, name="conv")(x)))
    y = k.SeparableConv2D(4, 3, padding="same", activation="relu", name="separable")(x)
    x = k.GlobalAveragePooling2D(name="mean")(k.Concatenate(name="both")([x, y]))
    x = k.ReLU(name="hidden_relu")(k.Dense(8, name="hidden")(x))
    return keras.Model(i, k.Dense(10, name="out")(x), name="joined")


NETS = {"digits": digits, "conv": conv, "joined": joined}


def main():
    from sklearn.datasets import load_digits

    OUT.mkdir(exist_ok=True)
    x, y = load_digits(return_X_y=True)
    arrays = {}
    keras.utils.set_random_seed(1)
    for name, build in NETS.items():
        model = build()
        rows = (x / 16.0).astype(np.float32).reshape(-1, *model.input_shape[1:])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=name != "conv")
        model.compile("adam", loss)
        model.fit(rows[:1400], y[:1400], epochs=10, verbose=0)
        aware = tfmot.quantization.keras.quantize_model(model)
        aware.compile("adam", loss)
        aware.fit(rows[:1400], y[:1400], epochs=4, verbose=0)
        for variable in aware.weights:
            if "gamma" in variable.name:
                signs = np.ones(variable.shape, np.float32)
                signs[0] = -1.0
                variable.assign(variable * signs)
        aware.save(OUT / f"{name}.h5", include_optimizer=False)
        converter = tf.lite.TFLiteConverter.from_keras_model(aware)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        (OUT / f"{name}.int8.tflite").write_bytes(converter.convert())
        arrays[f"{name}_x"] = rows[1400 : 1400 + ROWS]
        arrays[f"{name}_fake"] = np.asarray(aware.predict(rows[1400 : 1400 + ROWS], verbose=0))
    np.savez(OUT / "rows.npz", **arrays)
    versions = {"tensorflow": tf.__version__, "tf_keras": keras.__version__, "tfmot": tfmot.__version__}
    (OUT / "manifest.json").write_text(
        json.dumps({"made_by": "make_tfmot.py", **versions, "nets": list(NETS)}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
