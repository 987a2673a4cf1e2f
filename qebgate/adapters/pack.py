"""Folders of images or arrays as one .npz of rows, with what was done to them stated.

Images need Pillow (the ``[images]`` extra).  They come from strangers too: only formats whose decoders are
simple and well tested are opened, sizes are limited before anything is decoded, nothing else is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from qebgate.adapters.data import load_rows
from qebgate.adapters.files import read_file
from qebgate.errors import DataError, printable
from qebgate.ir.tensor import Array

if TYPE_CHECKING:
    from PIL import Image

MAX_FILES = 100_000
MAX_FILE = 64 << 20
MAX_PIXELS = 64 << 20
MAX_BYTES = 512 << 20
"""Largest array written, which is the largest that is read back."""
FORMATS = ("PNG", "JPEG", "BMP", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm")
ARRAYS = (".npy", ".npz")

Mode = Literal["gray", "rgb"]
Layout = Literal["nhwc", "nchw", "flat"]


@dataclass(frozen=True, slots=True)
class Packing:
    """How files become rows.

    ``size`` (height, width) of images; ``scale``, ``mean``, ``std`` as in the policy's ``preprocess``:
    ``(raw * scale - mean) / std``.  ``dtype`` uint8 keeps raw pixels and takes none of these.
    """

    size: tuple[int, int] | None = None
    mode: Mode = "rgb"
    layout: Layout = "nhwc"
    dtype: Literal["float32", "uint8"] = "float32"
    scale: float = 1.0
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        plain = (self.scale, self.mean, self.std) == (1.0, 0.0, 1.0)
        if self.dtype == "uint8" and not plain:
            raise DataError("QEB498", "uint8 rows hold raw pixels", fix="leave out --scale, --mean and --std")
        if not (np.isfinite([self.scale, self.mean, self.std]).all() and self.std != 0):
            raise DataError("QEB498", "scale, mean and std must be finite, and std not 0")

    @property
    def words(self) -> str:
        """What was done, in words."""
        if self.dtype == "uint8":
            return f"raw pixels, uint8, {self.mode}, {self.layout}"
        return f"(raw * {self.scale!r} - {self.mean!r}) / {self.std!r}, float32, {self.mode}, {self.layout}"


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Rows ``x [N, ...]``, their ``labels`` [N] (by folder; None without folders) and the folders' ``names``."""

    x: Array
    labels: Array | None
    names: tuple[str, ...]
    files: int


def pack(sources: Sequence[Path], how: Packing) -> Packed:
    """Read files, or folders whose sub-folders are classes; raises DataError."""
    groups = _groups(sources)
    files = [f for _, fs in groups for f in fs]
    if not files:
        raise DataError(
            "QEB498", "there is nothing to pack", where=printable(sources[0]), fix="images or .npy files, or folders"
        )
    if len(files) > MAX_FILES:
        raise DataError("QEB498", "there are too many files", found=f"{len(files)}, at most {MAX_FILES}")
    rows: list[Array] = []
    labels: list[int] = []
    total = 0
    for label, (_, members) in enumerate(groups):
        for path in members:
            for row in _rows(path, how):
                if rows and row.shape != rows[0].shape:
                    raise DataError(
                        "QEB498", "rows differ in shape", where=printable(path),
                        found=f"{row.shape}, before it {rows[0].shape}", fix="--size HxW brings images to one size",
                    )  # fmt: skip
                total += row.nbytes
                if total > MAX_BYTES:
                    raise DataError("QEB498", "the array would be too large", found=f"more than {MAX_BYTES} bytes")
                rows.append(row)
                labels.append(label)
    names = tuple(name for name, _ in groups)
    by_class = len(groups) > 1
    return Packed(np.stack(rows), np.asarray(labels, np.int64) if by_class else None, names, len(files))


def _groups(sources: Sequence[Path]) -> list[tuple[str, list[Path]]]:
    """Files by class: one folder with sub-folders has a class for each, everything else is one group."""
    if len(sources) == 1 and sources[0].is_dir():
        folders = sorted(p for p in sources[0].iterdir() if p.is_dir() and not p.name.startswith("."))
        if folders:
            return [(p.name, _files(p)) for p in folders]
    found: list[Path] = []
    for s in sources:
        found += _files(s) if s.is_dir() else [s]
    return [("", found)]


def _files(folder: Path) -> list[Path]:
    known = (*SUFFIXES, *ARRAYS)
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in known and p.is_file())


def _rows(path: Path, how: Packing) -> Iterator[Array]:
    if path.suffix.lower() in ARRAYS:
        for raw in load_rows(path):
            yield _scaled(raw, how, path)
        return
    yield _scaled(_arranged(_image(path, how), how), how, path)


def _scaled(raw: Array, how: Packing, path: Path) -> Array:
    if how.dtype == "uint8":
        if raw.dtype != np.uint8:
            raise DataError("QEB498", "the file holds no raw pixels", where=printable(path), found=f"dtype {raw.dtype}")
        return raw
    x = ((raw.astype(np.float64) * how.scale - how.mean) / how.std).astype(np.float32)
    if not np.isfinite(x).all():
        raise DataError("QEB498", "a row is not finite", where=printable(path))
    return x


def _arranged(pixels: Array, how: Packing) -> Array:
    """Pixels ``[H, W, C]`` in the layout asked for."""
    if how.layout == "flat":
        return pixels.ravel()
    return pixels.transpose(2, 0, 1) if how.layout == "nchw" else pixels


def _image(path: Path, how: Packing) -> Array:
    data = read_file(path, MAX_FILE, DataError)
    where = printable(path)
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise DataError(
            "QEB499", "images need the package Pillow", where=where, fix="pip install 'qebgate[images]'"
        ) from None
    from io import BytesIO

    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError("QEB498", "the image is too large", where, f"{image.width} x {image.height}")
            return _pixels(image, how)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise DataError("QEB498", "the image cannot be read", where, f"{type(e).__name__}: {printable(e)}") from None


def _pixels(image: Image.Image, how: Packing) -> Array:
    made = image.convert("L" if how.mode == "gray" else "RGB")
    if how.size is not None and (made.height, made.width) != how.size:
        made = made.resize((how.size[1], how.size[0]))  # Pillow's bicubic filter
    a = np.asarray(made, np.uint8)
    return a[:, :, None] if a.ndim == 2 else a
