"""Train the digits example: an MLP and a small CNN, converted to float and int8 .tflite files.

    python examples/digits/train.py              # needs: pip install 'qebgate[tfmot]' scikit-learn

The data are the 1,797 handwritten digits that ship with scikit-learn (8x8 pixels, divided by 16).
Each network is quantized after training; the MLP also by TF-MOT's quantization-aware training, with a
float reference that holds the very weights which that training ended with.
"""

import argparse
import os
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent
SEED = 7
GOLDEN_ROWS = 200


def load():
    """Train and test images [N, 64] in [0, 1] and their labels."""
    digits = load_digits()
    x = (digits.data / 16).astype(np.float32)
    return train_test_split(x, digits.target, test_size=0.25, random_state=SEED, stratify=digits.target)


def mlp():
    """64-32-16-10; its output are the logits."""
    decay = keras.regularizers.l2(1e-3)
    return keras.Sequential(
        [
            keras.layers.Input((64,), name="x"),
            keras.layers.Dense(32, activation="relu", kernel_regularizer=decay, name="hidden_1"),
            keras.layers.Dense(16, activation="relu", kernel_regularizer=decay, name="hidden_2"),
            keras.layers.Dense(10, kernel_regularizer=decay, name="logits"),
        ],
        name="mlp",
    )


def cnn():
    """Convolution, depthwise convolution, average pool, dense, softmax."""
    decay = keras.regularizers.l2(1e-3)
    return keras.Sequential(
        [
            keras.layers.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(
                8, 3, strides=2, padding="same", activation="relu", kernel_regularizer=decay, name="conv"
            ),
            keras.layers.DepthwiseConv2D(
                3, padding="same", activation="relu", depthwise_regularizer=decay, name="depthwise"
            ),
            keras.layers.Conv2D(12, 1, activation="relu", kernel_regularizer=decay, name="pointwise"),
            keras.layers.AveragePooling2D(2, name="pool"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(10, kernel_regularizer=decay, name="logits"),
            keras.layers.Softmax(name="probabilities"),
        ],
        name="cnn",
    )


def fit(model, x, y, *, from_logits, epochs, rate):
    """Train with decaying Adam."""
    steps = epochs * -(-len(x) // 32)
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits),
        metrics=["accuracy"],
    )
    model.fit(x, y, epochs=epochs, batch_size=32, verbose=0)


def convert_float(model):
    """The float .tflite of a Keras model."""
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def convert_int8(model, calibration=None, *, io=tf.int8):
    """The full int8 .tflite; ``calibration`` is None for a model that knows its ranges (TF-MOT)."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if calibration is not None:
        converter.representative_dataset = lambda: ([row[None]] for row in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = io
    converter.inference_output_type = io
    return converter.convert()


def quantization_aware(model, x, y):
    """Fine-tune with fake quantization; returns the annotated model and a float model with its weights.

    TF-MOT keeps the range of the weights as they were *before* the last update.  One more forward pass
    in training mode sets ``kernel_min`` and ``kernel_max`` to the final weights, so that the integers
    of the converted file are these very weights, rounded to nearest.
    """
    aware = tfmot.quantization.keras.quantize_model(model)
    # the ranges of activations are slow moving averages: fewer steps leave them at their start, -6 to 6
    fit(aware, x, y, from_logits=True, epochs=80, rate=1e-3)
    aware(x, training=True)
    reference = mlp()
    for layer in reference.layers:
        wrapped = aware.get_layer(f"quant_{layer.name}")
        named = {w.name.split("/")[-1].split(":")[0]: w.numpy() for w in wrapped.weights}
        layer.set_weights([named["kernel"], named["bias"]])
        if not np.abs(named["kernel"]).max() <= max(-named["kernel_min"], named["kernel_max"]) * (1 + 1e-6):
            msg = f"the stored range of {layer.name} does not cover its weights"
            raise ValueError(msg)
    return aware, reference


def accuracy(model, x, y):
    """Share of right answers of a .tflite model, through the LiteRT interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(model_content=model)
    net.allocate_tensors()
    i, o = net.get_input_details()[0], net.get_output_details()[0]
    right = 0
    if i["dtype"] is not np.float32:
        scale, zero = i["quantization"]
        x = np.clip(np.rint(x / scale + zero), -128, 127).astype(i["dtype"])
    for row, label in zip(x, y, strict=True):
        net.set_tensor(i["index"], row[None])
        net.invoke()
        right += int(net.get_tensor(o["index"]).argmax() == label)
    return right / len(x)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder that gets models/ and data/ (default: this one)")
    out = parser.parse_args().out
    (out / "models").mkdir(parents=True, exist_ok=True)
    (out / "data").mkdir(parents=True, exist_ok=True)

    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    x, x_test, y, y_test = load()
    images, images_test = x.reshape(-1, 8, 8, 1), x_test.reshape(-1, 8, 8, 1)

    dense, conv = mlp(), cnn()
    fit(dense, x, y, from_logits=True, epochs=40, rate=3e-3)
    fit(conv, images, y, from_logits=False, epochs=80, rate=3e-3)
    files = {
        "mlp_float": (convert_float(dense), x_test),
        "mlp_int8": (convert_int8(dense, x[:200]), x_test),
        "mlp_int8_float_io": (convert_int8(dense, x[:200], io=tf.float32), x_test),
        "cnn_float": (convert_float(conv), images_test),
        "cnn_int8": (convert_int8(conv, images[:200]), images_test),
    }
    aware, reference = quantization_aware(dense, x, y)
    files["mlp_qat_float"] = (convert_float(reference), x_test)
    files["mlp_qat_int8"] = (convert_int8(aware), x_test)

    for name, (content, inputs) in files.items():
        (out / "models" / f"{name}.tflite").write_bytes(content)
        print(f"{name:18} {len(content):6} bytes, accuracy {accuracy(content, inputs, y_test):.3f}")
    rows = slice(GOLDEN_ROWS)
    np.savez_compressed(
        out / "data" / "golden.npz", x=x_test[rows], image=images_test[rows], y=y_test[rows].astype(np.int64)
    )


if __name__ == "__main__":
    main()
