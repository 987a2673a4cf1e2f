"""``data pack`` makes rows that policies can name, and refuses what it cannot read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qebgate.adapters.data import load_rows
from qebgate.cli import run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of 4x6 images."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(3):
            Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8)).save(tmp_path / "images" / name / f"{k}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_folders_are_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "pack", "images", "-o", "x.npz", "--scale", "1/255", "--mean", "0.5", "--std", "2"]) == 0
    x, labels = load_rows(folder / "x.npz", "x"), load_rows(folder / "x.npz", "labels")
    assert x.shape == (6, 4, 6, 3) and x.dtype == np.float32 and labels.tolist() == [0, 0, 0, 1, 1, 1]
    raw = pixels(folder / "images" / "dog" / "1.png").astype(np.float64)
    assert (x[4] == ((raw * (1 / 255) - 0.5) / 2).astype(np.float32)).all()
    out = capsys.readouterr().out
    assert "nhwc" in out and "0 cat, 1 dog" in out and "6 files" in out


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        (["--layout", "nchw"], (6, 3, 4, 6)),
        (["--layout", "flat", "--mode", "gray"], (6, 24)),
        (["--mode", "gray", "--size", "2x3"], (6, 2, 3, 1)),
        (["--dtype", "uint8"], (6, 4, 6, 3)),
    ],
)
def test_layouts(folder: Path, words: list[str], shape: tuple[int, ...]) -> None:
    assert run(["data", "pack", "images", "-o", "x.npz", *words]) == 0
    x = load_rows(folder / "x.npz", "x")
    assert x.shape == shape and x.dtype == (np.uint8 if "uint8" in words else np.float32)
    if "nchw" in words:
        assert (x[0] == pixels(folder / "images" / "cat" / "0.png").transpose(2, 0, 1)).all()


def test_arrays_are_stacked(folder: Path) -> None:
    np.save("a.npy", np.ones((2, 5), np.float32))
    np.save("b.npy", np.zeros((1, 5), np.float32))
    assert run(["data", "pack", "a.npy", "b.npy", "-o", "out/x.npz"]) == 0
    assert load_rows(folder / "out" / "x.npz", "x").tolist() == [[1.0] * 5, [1.0] * 5, [0.0] * 5]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["images", "--size", "28"], 2, "QEB237"),
        (["images", "--scale", "1/0"], 2, "QEB237"),
        (["images", "--scale", "ten"], 2, "QEB237"),
        (["images", "--std", "0"], 4, "QEB498"),
        (["images", "--dtype", "uint8", "--scale", "1/255"], 4, "QEB498"),
        (["empty"], 4, "nothing to pack"),
        (["not.png"], 4, "cannot be read"),
        (["cut.png"], 4, "cannot be read"),
        (["images/cat/0.png", "small.png"], 4, "differ in shape"),
        (["pickled.npy"], 4, "QEB4"),
    ],
)
def test_errors(folder: Path, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("not.png").write_bytes(b"GIF89a" + bytes(100))
    Path("cut.png").write_bytes(Path("images/cat/0.png").read_bytes()[:90])
    Image.new("RGB", (2, 2)).save("small.png")
    np.save("pickled.npy", np.array([{}], object), allow_pickle=True)
    assert run(["data", "pack", *words, "-o", "x.npz"]) == code
    assert said in capsys.readouterr().err and not Path("x.npz").exists()


def test_a_huge_image_is_not_decoded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A header of 100,000 x 100,000 pixels costs nothing."""
    import struct
    import zlib

    body = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    Path("huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + bytes(4))
    assert run(["data", "pack", "huge.png", "-o", "x.npz"]) == 4
    assert "QEB498" in capsys.readouterr().err
