"""SavedModel folders: read as what Keras saved them from; hostile ones are refused and nothing is executed."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qebgate.adapters import load_model
from qebgate.adapters.saved_model.wire import Message
from qebgate.errors import ModelError, QebgateError, UnsupportedError
from qebgate.ir.align import align
from qebgate.ir.graph import Graph
from qebgate.semantics.execute import run_float

FOLDER = Path(__file__).resolve().parents[1] / "models" / "keras"
SAVED = json.loads((FOLDER / "manifest.json").read_text())["saved"]
ROWS = np.load(FOLDER / "rows.npz")
BOTH = [f"{name}.{version}" for name, versions in SAVED.items() for version in versions]


def form(graph: Graph) -> list[tuple[object, ...]]:
    return [(n.op, n.attrs, [graph.tensors[o].shape for o in n.outputs]) for n in graph.nodes if n.op != "RESHAPE"]


def by_size(graph: Graph) -> list[np.ndarray]:
    """Weights and biases in an order that both have."""
    arrays = [t.const for t in graph.tensors if t.const is not None and t.const.dtype.kind == "f"]
    return sorted(arrays, key=lambda a: (a.shape, float(np.abs(a).sum()).hex()[:12]))


@pytest.mark.parametrize("which", BOTH)
def test_it_is_the_network_of_the_other_files(which: str) -> None:
    """Operators, attributes, weights, values; and it lines up with the int8 file."""
    name, version = which.split(".")
    graph = load_model(FOLDER / f"{which}.saved_model")
    other = load_model(FOLDER / (f"{name}.keras3.keras" if version == "keras3" else f"{name}.keras2.h5"))
    assert graph.source.format == "saved_model" and len(graph.source.sha256) == 64
    assert sorted(map(repr, form(graph))) == sorted(map(repr, form(other)))
    for ours, theirs in zip(*(by_size(g) for g in (graph, other)), strict=True):
        assert ours.shape == theirs.shape and np.allclose(
            ours, theirs, rtol=1e-6, atol=1e-9
        )  # epsilon is a float32 number there
    x = ROWS[f"{name}_x"].reshape(-1, *graph.input.shape)
    for dtype in (np.float64, np.float32):
        y = run_float(graph, x, dtype=dtype)[graph.outputs[0]]
        said = ROWS[f"{name}_{version}"].reshape(y.shape)
        assert np.abs(y - said).max() < 1e-6 * max(1.0, float(np.abs(said).max()))
    pair = align(graph, load_model(FOLDER / f"{name}.int8.tflite"))
    assert pair.agreements and max(a.worst for a in pair.agreements) <= 0.5001


# -- what is refused ------------------------------------------------------------------------------


def copied(tmp_path: Path, which: str = "digits.keras3") -> Path:
    path = tmp_path / "model"
    shutil.copytree(FOLDER / f"{which}.saved_model", path)
    return path


def replaced(path: Path, old: bytes, new: bytes) -> None:
    """Bytes of the graph, of the same length."""
    file = path / "saved_model.pb"
    data = file.read_bytes()
    assert len(old) == len(new) and old in data
    file.write_bytes(data.replace(old, new))


def python_code(path: Path) -> None:
    replaced(path, b"\x12\x06MatMul", b"\x12\x06PyFunc")


def custom_operation(path: Path) -> None:
    replaced(path, b"\x12\x04Relu", b"\x12\x04Evil")


def writes_a_file(path: Path) -> None:
    replaced(path, b"\x12\x07BiasAdd", b"\x12\x07SaveV22")


def no_variables(path: Path) -> None:
    (path / "variables" / "variables.index").unlink()


def no_data(path: Path) -> None:
    (path / "variables" / "variables.data-00000-of-00001").write_bytes(b"x")


def huge_variable(path: Path) -> None:
    """A shape of terabytes in the index."""
    file = path / "variables" / "variables.index"
    data = file.read_bytes()
    at = data.index(b"\x12\x02\x08\x40")  # dimension 64
    file.write_bytes(data[:at] + b"\x12\x02\x08\x7f" + data[at + 4 :])


def truncated(path: Path) -> None:
    file = path / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:-100])


def empty(path: Path) -> None:
    (path / "saved_model.pb").write_bytes(b"")


def text(path: Path) -> None:
    (path / "saved_model.pb").write_bytes(b"no such thing")


def index_of_nothing(path: Path) -> None:
    (path / "variables" / "variables.index").write_bytes(bytes(40) + struct.pack("<Q", 0xDB4775248B80FB57))


def pipe(path: Path) -> None:
    import os

    (path / "saved_model.pb").unlink()
    os.mkfifo(path / "saved_model.pb")


CHANGES: list[tuple[Callable[[Path], None], str, str]] = [
    (python_code, "QEB494", "PyFunc"),
    (custom_operation, "QEB494", "Evil"),
    (writes_a_file, "QEB494", "SaveV22"),
    (no_variables, "QEB400", "variables.index"),
    (no_data, "QEB493", "not where the index says"),
    (huge_variable, "QEB493", "bytes"),
    (truncated, "QEB493", "damaged"),
    (empty, "QEB401", "empty"),
    (text, "QEB493", "damaged"),
    (index_of_nothing, "QEB493", "variables"),
    (pipe, "QEB400", "regular"),
]


@pytest.mark.parametrize(("change", "code", "words"), CHANGES, ids=[c[0].__name__ for c in CHANGES])
def test_hostile_folders(tmp_path: Path, change: Callable[[Path], None], code: str, words: str) -> None:
    path = copied(tmp_path)
    change(path)
    with pytest.raises(ModelError) as e:
        load_model(path)
    assert e.value.code == code and words in str(e.value), str(e.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_a_custom_operation_is_named_with_its_node(tmp_path: Path) -> None:
    path = copied(tmp_path)
    replaced(path, b"\x12\x04Relu", b"\x12\x04\x1b[2J")
    with pytest.raises(UnsupportedError) as e:
        load_model(path)
    assert "nothing of it was executed" in str(e.value) and all(c.isprintable() or c == "\n" for c in str(e.value))


def test_operations_that_nobody_asked_for_are_refused_too(tmp_path: Path) -> None:
    """Everything in a function that is called counts, not only what its result needs."""
    path = copied(tmp_path)
    replaced(path, b"\x12\x04NoOp", b"\x12\x04Evil")
    with pytest.raises(UnsupportedError) as e:
        load_model(path)
    assert e.value.code == "QEB494"


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as e:
        load_model(tmp_path)
    assert e.value.code == "QEB400"


def test_flipped_bytes(tmp_path: Path) -> None:
    """A graph or a coded error, whatever byte is wrong."""
    rng = np.random.default_rng(5)
    outcomes = {"read": 0, "refused": 0}
    path = copied(tmp_path)
    files = [path / "saved_model.pb", path / "variables" / "variables.index"]
    good = [f.read_bytes() for f in files]
    for k in range(120):
        which = k % 2
        data = bytearray(good[which])
        for at in rng.integers(0, len(data), 1 + int(rng.integers(6))):
            data[at] = int(rng.integers(256))
        files[which].write_bytes(bytes(data))
        try:
            load_model(path)
        except QebgateError as e:
            assert e.exit_code == 4, str(e)
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
        files[which].write_bytes(good[which])
    assert min(outcomes.values()) > 0


def test_lengths_are_checked_before_anything_is_read() -> None:
    for data in (b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 11, b"\x0b", b"\x0d\x00", b"\x02\x01a"):
        with pytest.raises(ModelError) as e:
            Message.parse(data, "x")
        assert e.value.code == "QEB493"
