"""Keras files made by hand: what Keras writes, as far as the reader looks at it, and what it never writes."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

METADATA = {"keras_version": "3.15.1", "date_saved": "2026-01-01@00:00:00"}
Arrays = list[np.ndarray]


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    """A layer's entry in a configuration."""
    return {"module": "keras.layers", "class_name": kind, "config": {"name": name, **config}, "registered_name": None}


def start(*shape: int) -> dict[str, Any]:
    return layer("InputLayer", "x", batch_shape=[None, *shape], dtype="float32", sparse=False)


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    config = {"name": "net", "trainable": True, "layers": list(layers)}
    return {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None}


def weights(groups: dict[str, Arrays]) -> bytes:
    """``model.weights.h5`` with ``layers/<group>/vars/<k>``."""
    raw = io.BytesIO()
    with h5py.File(raw, "w") as f:
        f.create_group("layers")
        for group, arrays in groups.items():
            g = f.create_group(f"layers/{group}/vars")
            for k, a in enumerate(arrays):
                g.create_dataset(str(k), data=a)
    return raw.getvalue()


def archive(config: dict[str, Any] | bytes, h5: bytes, **more: bytes) -> bytes:
    """A ``.keras`` file; ``more`` are further members, with ``__`` for ``/``."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as z:
        z.writestr("metadata.json", json.dumps(METADATA))
        z.writestr("config.json", config if isinstance(config, bytes) else json.dumps(config))
        z.writestr("model.weights.h5", h5)
        for name, data in more.items():
            z.writestr(name.replace("__", "/"), data)
    return raw.getvalue()


def legacy(config: dict[str, Any], groups: dict[str, dict[str, np.ndarray]]) -> bytes:
    """An ``.h5`` file as Keras 2 writes it: ``groups`` has the named variables of each layer."""
    raw = io.BytesIO()
    with h5py.File(raw, "w") as f:
        f.attrs["model_config"] = json.dumps(config)
        f.attrs["keras_version"] = "2.15.0"
        for name, arrays in groups.items():
            g = f.create_group(f"model_weights/{name}")
            g.attrs["weight_names"] = [f"{name}/{k}:0".encode() for k in arrays]
            for k, a in arrays.items():
                g.create_dataset(f"{name}/{k}:0", data=a)
    return raw.getvalue()


def one_dense(**config: Any) -> tuple[dict[str, Any], dict[str, Arrays]]:
    """A network of one dense layer, 2 to 3."""
    w, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32)
    return sequential(start(2), layer("Dense", "d", **{"units": 3, "activation": "linear", **config})), {
        "dense": [w, b]
    }


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
