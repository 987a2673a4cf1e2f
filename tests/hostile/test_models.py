"""Hostile models of every format at once: refused with a code, nothing executed, little memory."""

from __future__ import annotations

import base64
import builtins
import io
import marshal
import pickle
import shutil
import struct
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from qebgate.adapters import load_model
from qebgate.errors import QebgateError
from tests.hostile.test_keras import GROUPS, MEASURE, ROOT, Bomb, bomb, code_of, external_link, hdf5, terabytes
from tests.support.keras_files import archive, layer, legacy, one_dense, sequential, start, weights

NET, ARRAYS = one_dense()
SAVED = ROOT / "tests" / "models" / "keras" / "digits.keras3.saved_model"


def npz(**members: bytes) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in members.items():
            z.writestr(f"{name}.npy", data)
    return raw.getvalue()


def npy(shape: str, body: bytes, descr: str = "<f4") -> bytes:
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + body


def claiming(data: bytes) -> bytes:
    """An archive whose only member says that it unpacks to more than a gigabyte."""
    size = ((1 << 20) + 128).to_bytes(4, "little")
    assert data.count(size) == 2
    return data.replace(size, (1_200_000_128).to_bytes(4, "little"))


def objects(folder: Path) -> bytes:
    raw = io.BytesIO()
    np.save(raw, np.array([Bomb(folder / "canary")], dtype=object), allow_pickle=True)
    return raw.getvalue()


def nested(depth: int) -> dict[str, Any]:
    """Models in models, each called twice: 2**depth layers."""
    model = sequential(start(2), layer("Dense", "d", units=2))
    for k in range(depth):
        inner = {**model, "config": {**model["config"], "name": f"m{k}"}, "name": f"m{k}"}
        ends = {"input_layers": [["x", 0, 0]], "output_layers": [[f"m{k}", 1, 0]], "name": f"f{k}"}
        given = {**start(2), "name": "x", "inbound_nodes": []}
        inner["inbound_nodes"] = [[["x", 0, 0, {}]], [[f"m{k}", 0, 0, {}]]]
        config = {**ends, "layers": [given, inner]}
        model = {"module": "keras", "class_name": "Functional", "config": config, "registered_name": None}
    return model


def huge_constant(folder: Path) -> Path:
    path = folder / "huge"
    shutil.copytree(SAVED, path)
    file = path / "variables" / "variables.index"
    data = file.read_bytes()
    at = data.index(b"\x12\x02\x08\x40")
    file.write_bytes(data[:at] + b"\x12\x02\x08\x7f" + data[at + 4 :])
    return path


def custom_operation(folder: Path) -> Path:
    path = folder / "custom"
    shutil.copytree(SAVED, path)
    file = path / "saved_model.pb"
    file.write_bytes(file.read_bytes().replace(b"\x12\x06MatMul", b"\x12\x06PyFunc"))
    return path


def old_weights(folder: Path, kernel: h5py.ExternalLink | None) -> bytes:
    """A legacy file whose kernel is a link, or claims to be of terabytes."""
    raw = io.BytesIO(legacy(NET, GROUPS))
    with h5py.File(folder / "other.h5", "w") as f:
        f["secret"] = np.ones((2, 3), np.float32)
    with h5py.File(raw, "r+") as f:
        group = f["model_weights/d/d"]
        del group["kernel:0"]
        if kernel is None:
            group.create_dataset("kernel:0", (1 << 20, 1 << 20), np.float32)
        else:
            group["kernel:0"] = kernel
    return raw.getvalue()


def hostile(folder: Path) -> dict[str, tuple[Path, str]]:
    """Models by name, and the code that refuses each."""
    code = sequential(start(2), code_of(folder / "canary"), layer("Dense", "d", units=3))
    files: dict[str, tuple[bytes, str]] = {
        "lambda.keras": (archive(code, weights(ARRAYS)), "QEB478"),
        "lambda.h5": (legacy(code, GROUPS), "QEB478"),
        "pickled.npz": (npz(w0=objects(folder), b0=npy("(1,)", bytes(4))), "QEB444"),
        "pickle.npz": (pickle.dumps(Bomb(folder / "canary")), "QEB444"),
        "bomb.keras": (bomb(), "QEB406"),
        "bomb.npz": (claiming(npz(w0=npy("(30000, 10000)", bytes(1 << 20)))), "QEB447"),
        "terabytes.npz": (npz(w0=npy("(1000000, 1000000)", b"x"), b0=npy("(1,)", bytes(4))), "QEB4"),
        "terabytes.keras": (archive(NET, hdf5(terabytes, folder)), "QEB476"),
        "link.keras": (archive(NET, hdf5(external_link, folder)), "QEB476"),
        "link.h5": (old_weights(folder, h5py.ExternalLink(str(folder / "other.h5"), "/secret")), "QEB476"),
        "terabytes.h5": (old_weights(folder, None), "QEB476"),
        "nested.keras": (archive(nested(40), weights(ARRAYS)), "QEB4"),
    }
    out: dict[str, tuple[Path, str]] = {}
    for name, (data, code_wanted) in files.items():
        path = folder / name
        path.write_bytes(data)
        out[name] = path, code_wanted
    out["huge variable"] = huge_constant(folder), "QEB493"
    out["custom operation"] = custom_operation(folder), "QEB494"
    return out


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    return hostile(tmp_path_factory.mktemp("hostile"))


def test_each_is_refused_by_a_code(models: dict[str, tuple[Path, str]]) -> None:
    for name, (path, code) in models.items():
        with pytest.raises(QebgateError) as e:
            load_model(path)
        assert e.value.code.startswith(code) and e.value.exit_code == 4, (name, str(e.value))
    folder = next(iter(models.values()))[0].parent
    assert not (folder / "canary").exists()


def test_the_canaries_are_alive(tmp_path: Path) -> None:
    """What the files carry does make a file where somebody executes it."""
    np.load(io.BytesIO(objects(tmp_path)), allow_pickle=True)
    assert (tmp_path / "canary").exists()
    other = tmp_path / "other"
    code = marshal.loads(base64.b64decode(code_of(other)["config"]["function"]["config"]["code"]))
    types.FunctionType(code, {"__builtins__": builtins})(1)
    assert other.exists()


def test_memory_stays_below_a_gibibyte(models: dict[str, tuple[Path, str]]) -> None:
    files = [str(path) for path, _ in models.values()]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *files], capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) * 1024 < 1 << 30
    assert not (Path(files[0]).parent / "canary").exists()
