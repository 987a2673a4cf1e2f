"""Files -> graphs and arrays.  Nothing that is read is trusted, executed or unpickled."""

from __future__ import annotations

from pathlib import Path

from qebgate.adapters.dense import dense_graph, dense_network
from qebgate.adapters.keras import SUFFIXES as KERAS_SUFFIXES
from qebgate.adapters.keras import read_keras
from qebgate.adapters.npz import DenseNetwork, read_npz
from qebgate.adapters.saved_model import read_saved_model
from qebgate.adapters.tflite import read_tflite
from qebgate.errors import ModelError, printable
from qebgate.ir.graph import Graph


def load_model(path: Path, *, quantized: bool = False) -> Graph:
    """Read a model of any supported format, chosen by the file's suffix; raises ModelError.

    ``quantized``: which of its two networks a model of quantization-aware training stands for, the integer
    one or the float network of its weights.  Nothing else is changed by it.
    """
    suffix = path.suffix.lower()
    if suffix == ".tflite":
        return read_tflite(path)
    if suffix in KERAS_SUFFIXES:
        return read_keras(path, quantized=quantized)
    if suffix == ".npz":
        return dense_graph(read_npz(path))
    if path.is_dir():
        return read_saved_model(path)
    raise ModelError(
        "QEB404",
        "models of this format are not supported in this version",
        where=printable(path),
        found=f"suffix {printable(path.suffix)!r}",
        fix="convert the model to .tflite: tf.lite.TFLiteConverter.from_keras_model(model).convert()",
    )


def load_dense(path: Path) -> DenseNetwork:
    """Read a network of dense layers, from .npz or from a Keras file; raises ModelError."""
    return dense_network(read_keras(path)) if path.suffix.lower() in KERAS_SUFFIXES else read_npz(path)
