"""Make the tiny networks that the soundness tests enumerate: at most two int8 inputs, 65,536 grid points.

    python tests/models/make.py                  # needs the [tensorflow] extra

Random weights, the real TFLite converter.  No convolution of height 2 with padding SAME on 2x1
images: there the calibration of TensorFlow 2.21 is not reproducible (ranges up to 1e28 were
seen).  Every network has a float .tflite and one or more quantized ones; ``manifest.json`` lists them.
The files are committed, so tests need no TensorFlow.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter, OpResolverType

HERE = Path(__file__).resolve().parent
K = keras.layers
Build = Callable[[Any], Any]


@dataclass(frozen=True)
class Net:
    """``span`` is the inputs' range in calibration; ``gain`` scales the random weights, ``bias`` the random biases."""

    name: str
    shape: tuple[int, ...]
    build: Build
    variants: tuple[str, ...] = ("int8",)
    span: tuple[float, float] = (-1.0, 1.0)
    gain: float = 1.0
    bias: float = 0.3
    calibration: float = 1.0
    """Share of the span that calibration really sees: below 1, large inputs saturate."""


def dense(*widths: int, activation: str = "relu", last: str | None = None, use_bias: bool = True) -> Build:
    def build(x):
        for w in widths[:-1]:
            x = K.Dense(w, activation=activation, use_bias=use_bias)(x)
        return K.Dense(widths[-1], activation=last, use_bias=use_bias)(x)

    return build


def residual(x):
    h = K.Dense(6, activation="relu")(x)
    return K.Dense(2)(K.Add()([h, K.Dense(6)(K.Dense(5, activation="relu")(h))]))


def residual_relu(x):
    h = K.Dense(4)(x)
    return K.Dense(1)(K.ReLU()(K.Add()([h, K.Dense(4, activation="relu")(h)])))


def conv(x):
    x = K.Conv2D(4, 3, padding="same", activation="relu")(x)
    return K.Dense(2)(K.Flatten()(x))


def conv_stride(x):
    x = K.Conv2D(6, (1, 2), strides=(1, 2), activation="relu6")(x)
    return K.Dense(3)(K.Flatten()(K.Conv2D(4, 1, activation="relu")(x)))


def depthwise(x):
    x = K.DepthwiseConv2D(3, padding="same", depth_multiplier=5, activation="relu")(x)
    x = K.Conv2D(3, 1, activation="relu")(x)
    return K.Dense(2)(K.Flatten()(x))


def average_pool(x):
    x = K.Conv2D(4, (3, 1), padding="same", activation="relu")(x)
    return K.Dense(2)(K.Flatten()(K.AveragePooling2D((2, 1))(x)))


def max_pool(x):
    x = K.Conv2D(4, (3, 1), padding="same")(x)
    return K.Dense(2)(K.Flatten()(K.MaxPooling2D((2, 1))(x)))


def mean(x):
    x = K.Conv2D(5, (3, 1), padding="same", activation="relu")(x)
    return K.Dense(2)(K.GlobalAveragePooling2D()(x))


def padded(x):
    x = K.ZeroPadding2D(((1, 1), (0, 2)))(x)
    x = K.Conv2D(4, 3, activation="relu")(x)
    return K.Dense(1)(K.Flatten()(x))


ALL = ("int8", "float_io", "per_tensor", "uint8")
NETS = (
    Net("linear", (2,), dense(1), ALL),
    Net("dense_4", (2,), dense(4, 1), ALL),
    Net("dense_8_8", (2,), dense(8, 8, 3), ("int8", "float_io", "per_tensor")),
    Net("dense_deep", (2,), dense(12, 12, 12, 12, 2), ("int8", "per_tensor")),
    Net("dense_wide", (2,), dense(48, 1), ("int8", "float_io"), span=(0.0, 1.0), gain=0.3),
    Net("dense_large", (2,), dense(6, 6, 2), ("int8", "per_tensor"), span=(-3.0, 0.1), gain=8.0, bias=5.0),
    Net("dense_small", (2,), dense(6, 6, 2), ("int8", "per_tensor"), span=(0.001, 0.003), gain=0.05, bias=0.0001),
    Net("dense_relu6", (2,), dense(7, 5, 2, activation="relu6"), ("int8", "float_io"), span=(-4.0, 4.0), gain=2.0),
    Net("dense_no_bias", (2,), dense(9, 4, 1, use_bias=False), ("int8", "per_tensor")),
    Net("dense_relu_out", (2,), dense(5, 2, last="relu")),
    Net("dense_one_input", (1,), dense(8, 8, 1), ("int8", "float_io")),
    Net("dense_saturating", (2,), dense(8, 4, 2), ("int8", "float_io"), calibration=0.5),
    Net("residual", (2,), residual, ("int8", "per_tensor")),
    Net("residual_relu", (2,), residual_relu),
    Net("softmax", (2,), dense(6, 3, last="softmax"), ("int8", "float_io"), gain=2.0),
    Net("logistic", (2,), dense(6, 1, last="sigmoid"), gain=2.0),
    Net("tanh", (2,), dense(6, 4, 2, activation="tanh"), gain=2.0),
    Net("conv", (1, 2, 1), conv, ("int8", "float_io", "per_tensor")),
    Net("conv_stride", (1, 2, 1), conv_stride, span=(-4.0, 4.0), gain=2.0),
    Net("depthwise", (1, 1, 2), depthwise, ("int8", "per_tensor")),
    Net("average_pool", (2, 1, 1), average_pool),
    Net("max_pool", (2, 1, 1), max_pool, ("int8", "float_io")),
    Net("mean", (2, 1, 1), mean),
    Net("padded", (1, 2, 1), padded),
)


def make(net: Net, seed: int) -> keras.Model:
    """The network with random weights: normal, scaled by the fan-in and ``gain``."""
    rng = np.random.default_rng(seed)
    keras.backend.clear_session()
    x = keras.Input(net.shape, name="x")
    model = keras.Model(x, net.build(x), name=net.name)
    for layer in model.layers:
        values = []
        for w in layer.get_weights():
            fan_in = max(1, int(np.prod(w.shape[:-1])))
            values.append(
                rng.normal(0, net.bias if w.ndim == 1 else net.gain / np.sqrt(fan_in), w.shape).astype(np.float32)
            )
        layer.set_weights(values)
    return model


def convert(model: keras.Model, net: Net, variant: str, seed: int) -> bytes:
    """One .tflite file: ``float``, or full int8 of some kind."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if variant == "float":
        return converter.convert()
    lo, hi = net.span
    middle, half = (lo + hi) / 2, (hi - lo) / 2 * net.calibration
    rng = np.random.default_rng(seed)
    rows = rng.uniform(middle - half, middle + half, (300, *net.shape)).astype(np.float32)
    rows[0], rows[1] = middle - half, middle + half
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([r[None]] for r in rows)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    io = {"float_io": tf.float32, "uint8": tf.uint8}.get(variant, tf.int8)
    converter.inference_input_type = converter.inference_output_type = io
    if variant == "per_tensor":
        converter._experimental_disable_per_channel = True
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    return converter.convert()


def describe(content: bytes) -> dict:
    """Operators, and type, shape, scale and zero point of input and output."""
    net = Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    net.allocate_tensors()

    def io(detail):
        scale, zero = detail["quantization"]
        shape = [int(n) for n in detail["shape"]]
        return {"dtype": np.dtype(detail["dtype"]).name, "shape": shape, "scale": float(scale), "zero_point": int(zero)}

    return {
        "operators": [o["op_name"] for o in net._get_ops_details()],
        "input": io(net.get_input_details()[0]),
        "output": io(net.get_output_details()[0]),
    }


def main() -> None:
    pairs = []
    for old in HERE.glob("*.tflite"):
        old.unlink()
    for seed, net in enumerate(NETS):
        model = make(net, seed)
        name = f"{net.name}.float.tflite"
        (HERE / name).write_bytes(convert(model, net, "float", seed))
        for variant in net.variants:
            content = convert(model, net, variant, seed)
            quantized = f"{net.name}.{variant}.tflite"
            (HERE / quantized).write_bytes(content)
            about = describe(content)
            pairs.append(
                {
                    "name": f"{net.name}-{variant}",
                    "float": name,
                    "quantized": quantized,
                    "variant": variant,
                    "span": net.span,
                    **about,
                }
            )
            print(f"{quantized:32} {len(content):5} {' '.join(about['operators'])}")
    (HERE / "manifest.json").write_text(
        json.dumps({"made_by": "make.py", "tensorflow": tf.__version__, "pairs": pairs}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
