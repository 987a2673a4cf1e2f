"""HDF5 files, read in a child process with limits; nothing but plain arrays and names comes out."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qebgate.errors import ModelError, printable
from qebgate.ir.tensor import Array
from qebgate.runtimes._child import receive

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MEMORY = 1 << 30
"""Address space of the child."""
SECONDS = 120.0
_ROOT = Path(__file__).resolve().parents[3]

_WORDS = {
    "damaged": "the HDF5 file is damaged",
    "large": "the HDF5 file is too large, or claims to be",
    "link": "the HDF5 file has a link to another place, which is never followed",
    "shared": "the HDF5 file holds one object under two names",
    "type": "the HDF5 file has something that is neither a group nor an array of plain numbers",
    "external": "the HDF5 file keeps an array in another file, which is never opened",
    "virtual": "the HDF5 file has a virtual array, made of parts of other files",
    "filter": "the HDF5 file has a compressed array",
    "size": "an array of the HDF5 file does not have the size that its header claims",
}


@dataclass(frozen=True, slots=True, eq=False)
class Hdf5:
    """``attributes`` of every group by path (the root's is ""), ``arrays`` by path."""

    attributes: Mapping[str, Mapping[str, Any]]
    arrays: Mapping[str, Array]
    where: str

    def names(self, group: str, key: str) -> list[str]:
        """A list of names; long ones are stored in pieces ``key0``, ``key1``, ..."""
        found = self.attributes.get(group, {})
        if key in found:
            return list(found[key])
        return [n for k in range(len(found)) for n in found.get(f"{key}{k}", [])]


def read_hdf5(data: bytes, where: str) -> Hdf5:
    """Everything in a file but its training state.

    Raises ModelError QEB474 where h5py is missing, QEB476 for what Keras does not write, QEB406 for
    files that are too large.
    """
    if importlib.util.find_spec("h5py") is None:
        raise ModelError("QEB474", "Keras files need the package h5py", where=where, fix="pip install 'qebgate[keras]'")
    if not data.startswith(SIGNATURE):
        raise ModelError("QEB476", "the file is not an HDF5 file", where=where)
    frames = io.BytesIO(_run(data, where))
    try:
        kind, payload = receive(frames)
        head: dict[str, Any] = json.loads(payload) if kind == b"J" else {}
    except EOFError:
        raise _failed(where, "no answer") from None
    if "error" in head:
        inner = printable(head["where"], 120)
        raise ModelError(
            "QEB406" if head["error"] == "large" else "QEB476",
            _WORDS.get(str(head["error"]), _WORDS["damaged"]),
            where=f"{where}: {inner}" if inner else where,
            found=printable(head["found"]) or None,
            fix="save the model again with Keras",
        )
    return Hdf5(head["attributes"], _arrays(frames, head["arrays"], where), where)


def _arrays(frames: io.BytesIO, index: list[dict[str, Any]], where: str) -> dict[str, Array]:
    out: dict[str, Array] = {}
    for entry in index:
        try:
            _, payload = receive(frames)
        except EOFError:
            raise _failed(where, f"array {entry['path']}") from None
        dtype, shape = np.dtype(str(entry["dtype"])), tuple(int(n) for n in entry["shape"])
        if len(payload) != math.prod(shape) * dtype.itemsize:
            raise _failed(where, f"array {entry['path']}")
        out[str(entry["path"])] = np.frombuffer(payload, dtype).reshape(shape)
    return out


def _run(data: bytes, where: str) -> bytes:
    """The child's whole answer."""
    dropped = ("PYTHONSTARTUP", "PYTHONINSPECT", "HDF5_PLUGIN_PATH", "HDF5_DRIVER", "HDF5_DRIVER_CONFIG")
    env = {k: v for k, v in os.environ.items() if k not in dropped}
    env |= {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # "::" is no plugin
    command = [sys.executable, "-m", "qebgate.runtimes._hdf5_child", str(MEMORY), str(SECONDS)]
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        file.seek(0)
        try:
            done = subprocess.run(
                command, stdin=file, capture_output=True, cwd=_ROOT, env=env, timeout=2 * SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise _failed(where, f"no answer within {2 * SECONDS:g} seconds") from None
    if done.returncode:
        tail = done.stderr[-200:].decode(errors="replace").strip()
        raise _failed(where, f"exit {done.returncode}; {tail}")
    return done.stdout


def _failed(where: str, found: str) -> ModelError:
    return ModelError("QEB476", "the HDF5 library failed on the file", where=where, found=printable(found))
