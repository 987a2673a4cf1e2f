"""Make the small Keras models of this folder's ``keras/``: python tests/models/make_keras.py [NAME]...

Needs the [tensorflow] extra.  The same networks with the same random weights, saved by Keras 3 and by
Keras 2 (tf_keras), as .keras and as .h5; a float and an int8 .tflite file of each; and ``rows.npz``
with inputs and what both predict.  The files are committed, so most tests need no TensorFlow.
"""

import json
import os
import sys
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "0"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras as keras3
import numpy as np
import tensorflow as tf
import tf_keras as keras2
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

OUT = Path(__file__).resolve().parent / "keras"
ROWS = 24
BOTH = ("keras3.keras", "keras3.h5", "keras2.keras", "keras2.h5")
TWO = ("keras3.keras", "keras2.h5")
FILES = {
    "dense": BOTH,
    "image": BOTH,
    "shapes": TWO,
    "sequence": TWO,
    "branches": TWO,
    "nested": BOTH,
    "joins": TWO,
    "signal": TWO,
    "digits": TWO,
    "decoder": TWO,
    "scaled": ("keras3.keras", "keras3.h5"),
    "nearest": ("keras2.h5",),
    "groups": TWO,
}
CONVERTED = {"nearest": "keras2"}
"""Which version's model is converted, where it is not Keras 3: the two have operators of their own for a layer."""
VERSIONS = ("keras3", "keras2")
SAVED = {"digits": VERSIONS, "image": VERSIONS, "sequence": VERSIONS, "decoder": VERSIONS, "scaled": ("keras3",)}
"""Networks that are also saved as folders, and by which version."""


def dense(keras):
    k = keras.layers
    return keras.Sequential(
        [
            keras.Input((4,), name="x"),
            k.Dense(8, activation="relu", name="first"),
            k.Dropout(0.3, name="dropout"),
            k.Dense(6, activation="relu", use_bias=False, name="second"),
            k.Dense(3, name="logits"),
        ],
        name="dense",
    )


def image(keras):
    """Branches, batch normalization after every kind of layer with weights, padding, pools, softmax."""
    k = keras.layers
    i = k.Input((6, 6, 2), name="image")
    x = k.Conv2D(4, 3, strides=2, padding="same", use_bias=False, name="conv")(i)
    x = k.ReLU(6.0, name="six")(k.BatchNormalization(name="norm_1")(x))
    y = k.SeparableConv2D(4, 3, padding="same", name="separable")(x)
    y = k.BatchNormalization(scale=False, name="norm_2")(y)
    x = k.ReLU(name="sum_relu")(k.Add(name="sum")([x, y]))
    x = k.ZeroPadding2D(((0, 1), (1, 0)), name="zeros")(x)
    x = k.DepthwiseConv2D(2, depth_multiplier=2, use_bias=False, name="depthwise")(x)
    x = k.Activation("relu", name="after")(k.BatchNormalization(center=False, epsilon=0.01, name="norm_3")(x))
    x = k.AveragePooling2D(2, strides=1, padding="same", name="average")(x)
    x = k.MaxPooling2D(2, strides=1, name="max")(x)
    x = k.GlobalAveragePooling2D(name="global")(x)
    x = k.BatchNormalization(name="norm_4")(k.Dense(5, name="hidden")(x))
    x = k.Dense(3, activation="softmax", name="classes")(k.Activation("relu", name="hidden_relu")(x))
    return keras.Model(i, x, name="image")


def shapes(keras):
    """Movements of values, a shared layer, and the other activations."""
    k = keras.layers
    i = k.Input((16,), name="signal")
    x = k.Reshape((4, -1, 1), name="square")(i)
    x = k.MaxPooling2D((2, 1), name="pool")(k.Conv2D(3, 2, dilation_rate=2, activation="tanh", name="dilated")(x))
    x = k.Flatten(name="flat")(x)
    shared = k.Dense(6, activation="sigmoid", name="shared")
    x = shared(shared(k.Dense(6, name="narrow")(x)))
    return keras.Model(i, k.Dense(2, name="out")(x), name="shapes")


def sequence(keras):
    """One axis of time."""
    k = keras.layers
    i = k.Input((8, 2), name="time")
    x = k.Conv1D(4, 3, padding="causal", name="causal")(i)
    x = k.Activation("relu", name="relu")(k.BatchNormalization(name="norm")(x))
    x = k.Conv1D(3, 2, strides=2, padding="same", activation="relu", name="strided")(x)
    x = k.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(i, k.Dense(2, activation="sigmoid", name="out")(x), name="sequence")


def branches(keras):
    """Two convolutions of one tensor, which Keras lists in another order than a converter does."""
    k = keras.layers
    i = k.Input((4, 4, 2), name="branched")
    x = k.MaxPooling2D(2, name="first")(i)
    short = k.BatchNormalization(name="norm_short")(k.Conv2D(4, 1, name="short")(x))
    y = k.Conv2D(3, 1, activation="relu", name="long_1")(x)
    y = k.Activation("relu", name="sum_relu")(k.Add(name="sum")([short, k.Conv2D(4, 1, name="long_2")(y)]))
    return keras.Model(i, k.Dense(2, name="out")(k.Flatten(name="flat")(y)), name="branches")


def nested(keras):
    """Models inside models, one of them called twice."""
    k = keras.layers
    i = k.Input((4, 4, 2), name="outer")
    block = k.Input((4, 4, 2), name="inner")
    y = k.BatchNormalization(name="norm")(k.Conv2D(2, 3, padding="same", name="conv")(block))
    twice = keras.Model(block, k.ReLU(name="relu")(k.Add(name="sum")([block, y])), name="twice")
    layers = [k.Input((32,)), k.Dense(6, activation="relu", name="hidden"), k.Dense(3, name="conv")]
    head = keras.Sequential(layers, name="head")
    x = twice(twice(i))
    return keras.Model(i, k.Softmax(name="soft")(head(k.Flatten(name="flat")(x))), name="nested")


def joins(keras):
    """Layers that put values together, and functions of one value."""
    k = keras.layers
    i = k.Input((4, 4, 2), name="joined")
    x = k.Rescaling(1.0 / 4.0, offset=-0.5, name="scaled")(i)
    a = k.LeakyReLU(0.2, name="leaky")(k.Conv2D(4, 3, padding="same", name="conv_a")(x))
    b = k.PReLU(shared_axes=[1, 2], name="prelu")(k.Conv2D(4, 2, padding="same", name="conv_b")(x))
    c = k.Multiply(name="product")([a, b])
    d = k.Subtract(name="difference")([a, c])
    x = k.Concatenate(name="together")([k.Maximum(name="larger")([a, b]), d])
    x = k.ELU(name="elu")(k.SeparableConv2D(4, 3, padding="same", name="separable")(x))
    x = k.GlobalMaxPooling2D(name="global")(x)
    return keras.Model(i, k.Dense(3, name="out")(x), name="joins")


def signal(keras):
    """Layers over one axis."""
    k = keras.layers
    i = k.Input((12, 2), name="sampled")
    x = k.ZeroPadding1D((1, 2), name="zeros")(i)
    x = k.Conv1D(4, 3, name="conv")(x)
    x = k.MaxPooling1D(2, name="max")(x)
    x = k.Conv1D(4, 2, activation="tanh", name="second")(x)
    x = k.AveragePooling1D(2, name="average")(k.SpatialDropout1D(0.2, name="drop")(x))
    x = k.GlobalMaxPooling1D(name="global")(x)
    return keras.Model(i, k.Dense(2, name="out")(x), name="signal")


def digits(keras):
    """Trained on scikit-learn's digits."""
    k = keras.layers
    layers = [
        keras.Input((64,), name="pixels"),
        k.Dense(24, activation="relu", name="first"),
        k.Dense(16, activation="relu", name="second"),
        k.Dense(10, name="logits"),
    ]
    return keras.Sequential(layers, name="digits")


def decoder(keras):
    """Layers that make images larger."""
    k = keras.layers
    i = k.Input((3, 3, 2), name="small")
    x = k.Conv2DTranspose(3, 3, strides=2, padding="same", activation="relu", name="larger")(i)
    x = k.Conv2DTranspose(2, (2, 3), strides=(1, 2), use_bias=False, name="largest")(x)
    x = k.UpSampling2D((2, 1), interpolation="bilinear", name="smooth")(k.BatchNormalization(name="norm")(x))
    x = k.Conv2DTranspose(2, 1, strides=2, padding="same", output_padding=0, name="gaps")(x)
    x = k.Flatten(name="flat")(k.AveragePooling2D((7, 13), name="means")(x))
    return keras.Model(i, k.Dense(3, name="out")(x), name="decoder")


def scaled(keras):
    """Normalization with what it was adapted to, and entries repeated."""
    k = keras.layers
    i = k.Input((4, 4, 2), name="raw")
    x = k.Conv2D(3, 3, activation="relu", name="conv")(k.Normalization(name="standard")(i))
    x = k.Conv2D(2, 2, name="after")(k.UpSampling2D((2, 3), name="repeated")(x))
    return keras.Model(i, k.Dense(3, name="out")(k.Flatten(name="flat")(x)), name="scaled")


def nearest(keras):
    """Normalization with stated numbers along two axes, and the nearest entries."""
    k = keras.layers
    i = k.Input((3, 2, 2), name="raw")
    mean, variance = [[0.1, -0.2], [0.3, 0.0]], [[0.5, 1.0], [2.0, 0.25]]
    x = k.Normalization(axis=(2, 3), mean=mean, variance=variance, name="stated")(i)
    x = k.Conv2D(2, 2, activation="relu", name="conv")(k.UpSampling2D(2, name="nearest")(x))
    return keras.Model(i, k.Dense(3, name="out")(k.Flatten(name="flat")(x)), name="nearest")


def groups(keras):
    """Convolutions in groups of channels."""
    k = keras.layers
    i = k.Input((4, 4, 4), name="grouped")
    x = k.Conv2D(6, 3, groups=2, activation="relu", name="two")(i)
    x = k.BatchNormalization(name="norm")(k.Conv2D(3, 1, groups=3, use_bias=False, name="three")(x))
    return keras.Model(i, k.Dense(2, name="out")(k.Flatten(name="flat")(x)), name="groups")


def train(models):
    """Train the first, and give its weights to the others; returns the rows."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16.0).astype(np.float32)
    first, *others = models
    first.compile("adam", keras3.losses.SparseCategoricalCrossentropy(from_logits=True))
    first.fit(x[:1400], y[:1400], epochs=30, batch_size=32, verbose=0)
    for model in others:
        model.set_weights(first.get_weights())
    return x[1400:1600]


NETS = {
    "dense": dense,
    "image": image,
    "shapes": shapes,
    "sequence": sequence,
    "branches": branches,
    "nested": nested,
    "joins": joins,
    "signal": signal,
    "digits": digits,
    "decoder": decoder,
    "scaled": scaled,
    "nearest": nearest,
    "groups": groups,
}


def remove(path):
    """A part of a saved folder that serving does not need."""
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)


def leaves(model):
    """Layers, those of nested models in their place."""
    for layer in model.layers:
        yield from leaves(layer) if hasattr(layer, "layers") else [layer]


def fill(model, seed):
    """Random weights; variances and factors of batch normalization are positive."""
    rng = np.random.default_rng(seed)
    for layer in leaves(model):
        values = []
        for variable in layer.weights:
            shape, name = tuple(variable.shape), variable.name.split("/")[-1].split(":")[0]
            if name in ("gamma", "moving_variance", "variance"):
                values.append(rng.uniform(0.5, 1.5, shape))
            elif name == "count":
                values.append(np.zeros(shape))
            elif len(shape) == 1:
                values.append(rng.normal(0.0, 0.3, shape))
            else:
                values.append(rng.normal(0.0, 1.0 / np.sqrt(np.prod(shape[:-1])), shape))
        layer.set_weights([v.astype(np.float32) for v in values])
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def convert(model, rows, *, quantize):
    """A .tflite file for a batch of one."""
    spec = tf.TensorSpec((1, *rows.shape[1:]), tf.float32, name="x")
    call = tf.function(lambda x: model(x, training=False), input_signature=[spec])
    constant = convert_variables_to_constants_v2(call.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([constant], model)
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([row[None]] for row in rows)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def main():
    OUT.mkdir(exist_ok=True)
    only = sys.argv[1:] or list(NETS)
    arrays = dict(np.load(OUT / "rows.npz")) if sys.argv[1:] else {}
    for seed, (name, build) in enumerate(NETS.items()):
        if name not in only:
            continue
        models = {"keras3": build(keras3), "keras2": build(keras2)}
        for model in models.values():
            fill(model, seed)
        rng = np.random.default_rng(100 + seed)
        rows = rng.uniform(-1.0, 1.0, (200, *models["keras3"].input_shape[1:])).astype(np.float32)
        if name == "digits":
            rows = train(list(models.values()))
        for file in FILES[name]:
            models[file.split(".")[0]].save(OUT / f"{name}.{file}")
        saved = SAVED.get(name, ())
        if "keras3" in saved:
            models["keras3"].export(OUT / f"{name}.keras3.saved_model", verbose=False)
        if "keras2" in saved:
            models["keras2"].save(OUT / f"{name}.keras2.saved_model", save_format="tf")
        if saved:
            for extra in ("keras_metadata.pb", "fingerprint.pb", "assets"):
                for folder in OUT.glob(f"{name}.*.saved_model"):
                    remove(folder / extra)
        arrays[f"{name}_x"] = rows[:ROWS]
        for key, model in models.items():
            arrays[f"{name}_{key}"] = np.asarray(model.predict(rows[:ROWS], verbose=0))
        source = models[CONVERTED.get(name, "keras3")]
        (OUT / f"{name}.float.tflite").write_bytes(convert(source, rows, quantize=False))
        (OUT / f"{name}.int8.tflite").write_bytes(convert(source, rows, quantize=True))
    np.savez(OUT / "rows.npz", **arrays)
    versions = {"tensorflow": tf.__version__, "keras3": keras3.__version__, "keras2": keras2.__version__}
    manifest = {"made_by": "make_keras.py", **versions, "files": FILES, "saved": SAVED}
    (OUT / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
