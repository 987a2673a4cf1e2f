"""Hostile Keras files: refused with a code, nothing executed, soon and with little memory."""

from __future__ import annotations

import base64
import io
import json
import marshal
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from qebgate.adapters import load_model
from qebgate.errors import QebgateError
from tests.support.keras_files import archive, layer, legacy, one_dense, sequential, start, weights, write

ROOT = Path(__file__).resolve().parents[2]
NET, ARRAYS = one_dense()
GROUPS = {"d": {"kernel": ARRAYS["dense"][0], "bias": ARRAYS["dense"][1]}}
PLACE = "layers/dense/vars"


def hdf5(change: Callable[[Any, Path], None], folder: Path) -> bytes:
    """The weights of one dense layer, changed."""
    raw = io.BytesIO(weights(ARRAYS))
    with h5py.File(raw, "r+") as f:
        change(f, folder)
    return raw.getvalue()


def other_file(folder: Path) -> Path:
    path = folder / "other.h5"
    with h5py.File(path, "w") as f:
        f["secret"] = np.ones((2, 3), np.float32)
    return path


def external_link(f: Any, folder: Path) -> None:
    del f[f"{PLACE}/0"]
    f[f"{PLACE}/0"] = h5py.ExternalLink(str(other_file(folder)), "/secret")


def soft_link(f: Any, folder: Path) -> None:
    del f[f"{PLACE}/0"]
    f["hidden"] = np.ones((2, 3), np.float32)
    f[f"{PLACE}/0"] = h5py.SoftLink("/hidden")


def virtual(f: Any, folder: Path) -> None:
    del f[f"{PLACE}/0"]
    layout = h5py.VirtualLayout((2, 3), np.float32)
    layout[:] = h5py.VirtualSource(str(other_file(folder)), "secret", (2, 3))
    f.create_virtual_dataset(f"{PLACE}/0", layout)


def external_storage(f: Any, folder: Path) -> None:
    (folder / "raw").write_bytes(np.ones(6, np.float32).tobytes())
    del f[f"{PLACE}/0"]
    f.create_dataset(f"{PLACE}/0", (2, 3), np.float32, external=[(str(folder / "raw"), 0, 24)])


def compressed(f: Any, folder: Path) -> None:
    del f[f"{PLACE}/0"]
    f.create_dataset(f"{PLACE}/0", data=np.ones((2, 3), np.float32), compression="gzip")


def terabytes(f: Any, folder: Path) -> None:
    del f[f"{PLACE}/0"]
    f.create_dataset(f"{PLACE}/0", (1 << 20, 1 << 20), np.float32)


def chunked_terabytes(f: Any, folder: Path) -> None:
    del f[f"{PLACE}/0"]
    f.create_dataset(f"{PLACE}/0", (1 << 20, 1 << 20), np.float32, chunks=(1 << 10, 1 << 10), fillvalue=1.0)


def one_chunk(f: Any, folder: Path) -> None:
    chunked_terabytes(f, folder)
    f[f"{PLACE}/0"][0, 0] = 1.0


def strings(f: Any, folder: Path) -> None:
    del f[f"{PLACE}/0"]
    f.create_dataset(f"{PLACE}/0", data=["a", "b"], dtype=h5py.string_dtype())


def references(f: Any, folder: Path) -> None:
    del f[f"{PLACE}/0"]
    f.create_dataset(f"{PLACE}/0", data=np.array([f.ref, f.ref], dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)


def compound(f: Any, folder: Path) -> None:
    del f[f"{PLACE}/0"]
    f.create_dataset(f"{PLACE}/0", data=np.zeros(3, [("a", "<f4"), ("b", "<i4")]))


def pickled(f: Any, folder: Path) -> None:
    del f[f"{PLACE}/0"]
    f.create_dataset(f"{PLACE}/0", data=np.void(pickle.dumps(Bomb(folder / "canary"))))


def loop(f: Any, folder: Path) -> None:
    f["layers/again"] = f["layers"]


def deep(f: Any, folder: Path) -> None:
    f.create_group("/".join("a" * 200))


def crowd(f: Any, folder: Path) -> None:
    for k in range(21_000):
        f.create_group(f"g{k}")


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (Path.touch, (self.canary,))


CHANGES: list[tuple[Any, str, str]] = [
    (external_link, "QEB476", "ExternalLink"),
    (soft_link, "QEB476", "SoftLink"),
    (virtual, "QEB476", "virtual"),
    (external_storage, "QEB476", "another file"),
    (compressed, "QEB476", "compressed"),
    (terabytes, "QEB476", "size"),
    (chunked_terabytes, "QEB476", "size"),
    (one_chunk, "QEB476", "size"),
    (strings, "QEB476", "plain numbers"),
    (references, "QEB476", "plain numbers"),
    (compound, "QEB476", "plain numbers"),
    (pickled, "QEB476", "plain numbers"),
    (loop, "QEB476", "two names"),
    (deep, "QEB406", "depth"),
    (crowd, "QEB406", "members"),
]


@pytest.mark.parametrize(("change", "code", "words"), CHANGES, ids=[c[0].__name__ for c in CHANGES])
def test_parts_of_hdf5_that_keras_does_not_write(tmp_path: Path, change: Any, code: str, words: str) -> None:
    with pytest.raises(QebgateError) as e:
        load_model(write(tmp_path / "n.keras", archive(NET, hdf5(change, tmp_path))))
    assert e.value.code == code and words in str(e.value), str(e.value)
    assert not (tmp_path / "canary").exists()


def test_the_training_state_is_never_opened(tmp_path: Path) -> None:
    """It may hold anything; nothing of it is read."""

    def change(f: Any, folder: Path) -> None:
        f["optimizer/vars/0"] = np.ones(3)
        f["optimizer/secret"] = h5py.ExternalLink(str(other_file(folder)), "/secret")

    assert len(load_model(write(tmp_path / "n.keras", archive(NET, hdf5(change, tmp_path)))).nodes) == 1


# -- archives -------------------------------------------------------------------------------------


def bomb() -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("config.json", json.dumps(NET))
        with z.open("model.weights.h5", "w") as f:
            for _ in range(150):
                f.write(bytes(1 << 20))
    return raw.getvalue()


def liar() -> bytes:
    """A member whose directory entry claims 100 bytes of a 20 MB bomb."""
    raw = bytearray(io.BytesIO(bomb()).getvalue())
    size = (150 << 20).to_bytes(4, "little")
    return bytes(raw).replace(size, (100).to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (bomb, "QEB406"),
        (liar, "QEB475"),
        (lambda: archive(NET, weights(ARRAYS), **{"..__..__evil": b"x"}), "QEB475"),
        (lambda: archive(NET, weights(ARRAYS), __etc__evil=b"x"), "QEB475"),
        (lambda: archive(NET, weights(ARRAYS), assets__words=b"x"), "QEB475"),
        (lambda: archive(NET, weights(ARRAYS))[:-30], "QEB475"),
        (lambda: archive(NET, b"not hdf5"), "QEB476"),
        (lambda: archive(NET, weights(ARRAYS)[:700]), "QEB476"),
        (lambda: archive(b"[" * 3_000_000, weights(ARRAYS)), "QEB477"),
        (lambda: archive(b'{"config":' * 500_000, weights(ARRAYS)), "QEB477"),
        (lambda: archive(b'{"a": 1' + b"0" * 100_000 + b"}", weights(ARRAYS)), "QEB477"),
        (lambda: archive(b"\xff\xfe\x00", weights(ARRAYS)), "QEB477"),
        (lambda: archive(b"3", weights(ARRAYS)), "QEB477"),
        (lambda: archive(b" " * (17 << 20), weights(ARRAYS)), "QEB406"),
        (lambda: b"PK\x03\x04" + bytes(100), "QEB475"),
        (lambda: b"\x80\x04pickle", "QEB475"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "QEB402"),
        (lambda: b"", "QEB401"),
    ],
)
def test_archives(tmp_path: Path, data: Callable[[], bytes], code: str) -> None:
    with pytest.raises(QebgateError) as e:
        load_model(write(tmp_path / "n.keras", data()))
    assert e.value.code == code, str(e.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["n.keras"]


def nested(depth: int) -> dict[str, Any]:
    value: Any = 1.0
    for _ in range(depth):
        value = [value]
    return sequential(start(2), layer("Dense", "d", units=3, activation=value))


def test_deep_settings_are_printed_briefly(tmp_path: Path) -> None:
    with pytest.raises(QebgateError) as e:
        load_model(write(tmp_path / "n.keras", archive(nested(400), weights(ARRAYS))))
    assert e.value.code == "QEB479" and len(str(e.value)) < 1000


# -- code -----------------------------------------------------------------------------------------


def code_of(canary: Path) -> dict[str, Any]:
    """The configuration of a Lambda layer as Keras writes it: marshalled code that makes a file."""
    source = f"lambda x: __import__('pathlib').Path({str(canary)!r}).touch() or x"
    code = base64.b64encode(marshal.dumps(eval(source).__code__)).decode()
    function = {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}
    return {**layer("Lambda", "evil", function=function, arguments={}), "module": "keras.layers"}


def test_code_is_never_executed(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    files: list[Path] = []
    for k, entry in enumerate((code_of(canary), {**code_of(canary), "class_name": "Dense"})):
        net = sequential(start(2), entry, layer("Dense", "d", units=3))
        files.append(write(tmp_path / f"{k}.keras", archive(net, weights(ARRAYS))))
        files.append(write(tmp_path / f"{k}.h5", legacy(net, GROUPS)))
    entry = layer("Dense", "d", units=3, kernel_initializer=code_of(canary), activation=code_of(canary))
    files.append(write(tmp_path / "a.keras", archive(sequential(start(2), entry), weights(ARRAYS))))
    for path in files:
        with pytest.raises(QebgateError) as e:
            load_model(path)
        assert e.value.code in ("QEB478", "QEB479")
    assert not canary.exists()
    legacy_path = write(tmp_path / "good.h5", legacy(NET, GROUPS))
    assert len(load_model(legacy_path).nodes) == 1


def test_names_cannot_forge_output(tmp_path: Path) -> None:
    net = sequential(start(2), layer("Evil\x1b[2J\nPASS", "l\x1b[31m\nqebgate: PASS"))
    with pytest.raises(QebgateError) as e:
        load_model(write(tmp_path / "n.keras", archive(net, weights(ARRAYS))))
    assert all(line.isprintable() for line in str(e.value).splitlines())
    assert not any(line.lstrip().startswith(("PASS", "qebgate")) for line in str(e.value).splitlines())


# -- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_flipped_bytes(tmp_path: Path, kind: str) -> None:
    """Whatever is read was checked; everything else is a coded error, crashes of the library included."""
    good = weights(ARRAYS) if kind == "keras" else legacy(NET, GROUPS)
    rng = np.random.default_rng(11)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(20):
        data = bytearray(good)
        for at in rng.integers(0, len(good), 1 + int(rng.integers(4))):
            data[at] = int(rng.integers(256))
        try:
            whole = archive(NET, bytes(data)) if kind == "keras" else bytes(data)  # the archive itself has checksums
            graph = load_model(write(tmp_path / f"n.{kind}", whole))
        except QebgateError as e:
            assert e.exit_code == 4
            outcomes["refused"] += 1
        else:
            assert all(np.isfinite(t.const).all() for t in graph.tensors if t.const is not None)
            outcomes["read"] += 1
    assert min(outcomes.values()) > 0


MEASURE = """
import resource, sys
from pathlib import Path
from qebgate.adapters import load_model
from qebgate.errors import QebgateError
for path in sys.argv[1:]:
    try:
        load_model(Path(path))
    except QebgateError:
        pass
    else:
        raise SystemExit(f"{path} was read")
# not RUSAGE_SELF, which counts what this process was before it became an interpreter of its own
peak = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
print(int(peak.split()[1]) + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_memory_stays_small(tmp_path: Path) -> None:
    """Under 1 GiB, in the process and in its child together."""
    contents = [bomb(), liar(), archive(b"[" * 10_000_000, weights(ARRAYS))]
    contents += [archive(NET, hdf5(c, tmp_path)) for c in (terabytes, one_chunk, loop)]
    files = [str(write(tmp_path / f"{k}.keras", data)) for k, data in enumerate(contents)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *files], capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) * 1024 < 1 << 30
