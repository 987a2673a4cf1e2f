"""Make the small networks of every quantization scheme: dense, and convolutional with a softmax.

    python tests/models/make_schemes.py          # needs the [tensorflow] extra

Random weights, the real TFLite converter; the partly quantized files come from its quantization debugger
(selective quantization).  The converter does not write weight-only files: they are the float files with int8
weights and a DEQUANTIZE each, put in by hand.  The files are committed, so tests need no TensorFlow.
"""

import json
import os
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import flatbuffers
import numpy as np
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert import schema_py_generated as schema

FOLDER = Path(__file__).resolve().parent / "schemes"
K = keras.layers
LITE = tf.lite.OpsSet
WEIGHTED = {
    schema.BuiltinOperator.FULLY_CONNECTED: 0,
    schema.BuiltinOperator.CONV_2D: 0,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: 3,
}
"""Operators with weights, and the axis of their output channels."""


def dense(x):
    x = K.Dense(40, activation="relu")(x)  # the converter leaves weights of fewer than 1024 numbers as they are
    x = K.Dense(32, activation="relu")(x)
    return K.Dense(3)(x)


def conv(x):
    x = K.Conv2D(16, 3, strides=2, padding="same", activation="relu6")(x)
    x = K.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    x = K.AveragePooling2D(2)(K.Conv2D(10, 1, activation="relu")(x))
    x = K.Dense(28, activation="relu")(K.Flatten()(x))
    return K.Dense(4, activation="softmax")(x)


def branches(x):
    a = K.Dense(24, activation="relu")(x)
    b = K.Dense(24)(a)
    return K.Dense(2)(K.ReLU()(K.Add()([a, b])))


NETS = {"dense": (dense, (32,)), "conv": (conv, (8, 8, 8)), "branches": (branches, (8,))}
VARIANTS = {
    "dense": (
        "float32_float32", "int8_float32", "float32_int8", "uint8_uint8", "uint8_float32", "float32_uint8",
        "per_tensor", "dynamic_range", "float16", "weight_only", "int16x8_float32", "int16x8_int16",
    ),
    "conv": ("float32_float32", "uint8_uint8", "dynamic_range", "float16", "weight_only", "int16x8_int16", "partly"),
    "branches": ("int8_int8", "float16", "weight_only", "int16x8_int16", "partly"),
}  # fmt: skip


def make(name: str, seed: int) -> keras.Model:
    """Random weights, scaled by the fan-in."""
    build, shape = NETS[name]
    rng = np.random.default_rng(seed)
    keras.backend.clear_session()
    x = keras.Input(shape, name="x")
    model = keras.Model(x, build(x), name=name)
    for layer in model.layers:
        layer.set_weights([
            rng.normal(0, 0.2 if w.ndim == 1 else 1.6 / np.sqrt(max(1, np.prod(w.shape[:-1]))), w.shape)
            for w in layer.get_weights()
        ])  # fmt: skip
    return model


def convert(model: keras.Model, variant: str, seed: int) -> bytes:
    """One .tflite file."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if variant == "float":
        return converter.convert()
    if variant == "weight_only":
        return weight_only(converter.convert())
    rows = np.random.default_rng(seed).uniform(-1, 1, (200, *model.input_shape[1:])).astype(np.float32)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if variant == "dynamic_range":
        return converter.convert()
    if variant == "float16":
        converter.target_spec.supported_types = [tf.float16]
        return converter.convert()
    converter.representative_dataset = lambda: ([r[None]] for r in rows)
    if variant == "partly":
        return partly(converter, model.name)
    if variant.startswith("int16x8"):
        converter.target_spec.supported_ops = [LITE.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8]
        io = {"float32": tf.float32, "int16": tf.int16}[variant.split("_")[1]]
        converter.inference_input_type = converter.inference_output_type = io
        return converter.convert()
    converter.target_spec.supported_ops = [LITE.TFLITE_BUILTINS_INT8]
    if variant == "per_tensor":
        converter._experimental_disable_per_channel = True
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
        variant = "int8_int8"
    types = {"float32": tf.float32, "int8": tf.int8, "uint8": tf.uint8}
    source, target = variant.split("_")
    converter.inference_input_type, converter.inference_output_type = types[source], types[target]
    return converter.convert()


def partly(converter: tf.lite.TFLiteConverter, name: str) -> bytes:
    """Selective quantization: some operators stay float32."""
    kinds = {"conv": ["CONV_2D", "SOFTMAX"], "branches": ["ADD"]}[name]
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=converter.representative_dataset,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=kinds),
    )
    return debugger.get_nondebug_quantized_model()


def weight_only(content: bytes) -> bytes:
    """The float model with int8 weights, one scale per output channel, and a DEQUANTIZE before each use."""
    m = schema.ModelT.InitFromPackedBuf(content, 0)
    g = m.subgraphs[0]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    code.version = 2
    m.operatorCodes.append(code)
    operators = []
    for op in g.operators:
        c = m.operatorCodes[op.opcodeIndex]
        kind = max(c.builtinCode, c.deprecatedBuiltinCode)
        if kind in WEIGHTED:
            t, axis = g.tensors[op.inputs[1]], WEIGHTED[kind]
            w = np.frombuffer(bytes(m.buffers[t.buffer].data), np.float32).reshape(tuple(t.shape))
            shape = [1] * w.ndim
            shape[axis] = -1
            scale = np.abs(w).max(axis=tuple(a for a in range(w.ndim) if a != axis)).astype(np.float32) / np.float32(
                127
            )
            q = np.clip(np.rint(w / scale.reshape(shape)), -127, 127).astype(np.int8)
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(q.tobytes(), np.uint8)
            m.buffers.append(buffer)
            packed = schema.TensorT()
            packed.name, packed.shape, packed.type = t.name + b"_int8", t.shape, schema.TensorType.INT8
            packed.buffer = len(m.buffers) - 1
            packed.quantization = schema.QuantizationParametersT()
            packed.quantization.scale, packed.quantization.quantizedDimension = scale, axis
            packed.quantization.zeroPoint = np.zeros(len(scale), np.int64)
            t.buffer = 0
            g.tensors.append(packed)
            step = schema.OperatorT()
            step.opcodeIndex = len(m.operatorCodes) - 1
            step.inputs = np.array([len(g.tensors) - 1], np.int32)
            step.outputs = np.array([op.inputs[1]], np.int32)
            operators.append(step)
        operators.append(op)
    g.operators = operators
    builder = flatbuffers.Builder(1024)
    builder.Finish(m.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.tflite"):
        old.unlink()
    pairs = []
    for seed, (name, variants) in enumerate(VARIANTS.items()):
        model = make(name, seed)
        for variant in ("float", *variants):
            try:
                content = convert(model, variant, seed)
            except Exception as e:
                print("FAILED", name, variant, repr(e)[:300])
                continue
            (FOLDER / f"{name}.{variant}.tflite").write_bytes(content)
            print(f"{name}.{variant:20} {len(content):6}")
            if variant != "float":
                pairs.append({"name": name, "variant": variant})
    about = {"made_by": "make_schemes.py", "tensorflow": tf.__version__, "pairs": pairs}
    (FOLDER / "manifest.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
