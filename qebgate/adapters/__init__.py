"""Files -> graphs and arrays.  Nothing that is read is trusted, executed or unpickled."""

from __future__ import annotations

from pathlib import Path

from qebgate.adapters.tflite import read_tflite
from qebgate.errors import ModelError, printable
from qebgate.ir.graph import Graph


def load_model(path: Path) -> Graph:
    """Read a model of any supported format, chosen by the file's suffix; raises ModelError."""
    if path.suffix.lower() == ".tflite":
        return read_tflite(path)
    what = "a folder (SavedModel)" if path.is_dir() else f"suffix {printable(path.suffix)!r}"
    raise ModelError(
        "QEB404",
        "models of this format are not supported in this version",
        where=printable(path),
        found=what,
        fix="convert the model to .tflite: tf.lite.TFLiteConverter.from_keras_model(model).convert()",
    )
