"""Run by test_tfmot.py in a process of its own: quantization-aware models in memory against TensorFlow's converter."""

import os
import sys
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

from qebgate.adapters import load_model
from qebgate.adapters.keras import read_live
from qebgate.errors import UnsupportedError
from tests.support.same import differences

k = keras.layers
quantizers = tfmot.quantization.keras.quantizers


class Config(tfmot.quantization.keras.QuantizeConfig):
    """A configuration of one's own: weights per channel, 8 bits."""

    bits = 8

    def get_weights_and_quantizers(self, layer):
        how = quantizers.LastValueQuantizer(num_bits=self.bits, symmetric=True, narrow_range=True, per_axis=False)
        return [(layer.kernel, how)]

    def get_activations_and_quantizers(self, layer):
        how = quantizers.MovingAverageQuantizer(num_bits=8, symmetric=False, narrow_range=False, per_axis=False)
        return [(layer.activation, how)]

    def set_quantize_weights(self, layer, quantize_weights):
        layer.kernel = quantize_weights[0]

    def set_quantize_activations(self, layer, quantize_activations):
        layer.activation = quantize_activations[0]

    def get_output_quantizers(self, layer):
        return []

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class Four(Config):
    """The same with 4 bits, which is no int8 file."""

    bits = 4


def network():
    layers = [
        keras.Input((6, 6, 1), name="x"),
        k.Conv2D(3, 3, activation="relu", name="conv"),
        k.Flatten(name="flat"),
        k.Dense(5, activation="relu", name="mine"),
        k.Dense(3, name="out"),
    ]
    return keras.Sequential(layers, name="annotated")


def aware(config):
    """By annotation, with one configuration of its own."""
    annotate = tfmot.quantization.keras.quantize_annotate_layer

    def each(layer):
        return annotate(layer, config()) if layer.name == "mine" else annotate(layer)

    model = keras.models.clone_model(network(), clone_function=each)
    with tfmot.quantization.keras.quantize_scope({c.__name__: c for c in (Config, Four)}):
        return tfmot.quantization.keras.quantize_apply(model)


def main(out):
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(3)
    model = aware(Config)
    model.compile("adam", "mse")
    model.fit(rng.uniform(-1, 1, (64, 6, 6, 1)), rng.uniform(-1, 1, (64, 3)), epochs=2, verbose=0)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    (out / "converted.tflite").write_bytes(converter.convert())
    found = differences(read_live(model, quantized=True), load_model(out / "converted.tflite"))
    assert not found.words and found.compared > 250, found
    assert not read_live(model).is_quantized
    model.save(out / "custom.h5", include_optimizer=False)
    for read in (lambda: load_model(out / "custom.h5", quantized=True), lambda: read_live(aware(Four), quantized=True)):
        try:
            read()
        except UnsupportedError as e:
            assert e.code == "QEB488", e
        else:
            raise AssertionError("read")
    print(f"{found.compared} integers and {found.scales} scales are the same")


main(Path(sys.argv[1]))
