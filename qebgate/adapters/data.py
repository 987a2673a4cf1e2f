"""Rows of inputs from .npy and .npz files.

numpy's own readers are not used: they unpickle or allocate what a header claims.  Here the header is
parsed, checked against the real size of the data, and only then is the data read.
"""

from __future__ import annotations

import ast
import math
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, cast

import numpy as np

from qebgate.adapters.files import read_file, zip_directory
from qebgate.errors import DataError, printable
from qebgate.ir.tensor import Array, frozen

MAX_BYTES = 512 << 20
"""Largest file and largest array."""
MAX_DIRECTORY = 1 << 20
MAX_HEADER = 4096
MAX_AXES = 16

_NPY = b"\x93NUMPY"
_DTYPE = re.compile(r"[<>|=]?(f[248]|[iu][1248])")
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    LookupError,
    OverflowError,
)


def load_rows(path: Path, array: str | None = None) -> Array:
    """A numeric array ``[N, ...]``, ``N >= 1``, read-only and finite.

    ``array`` names one of an .npz file's arrays and may be left out where there is only one.  Raises
    DataError.
    """
    data = read_file(path, MAX_BYTES, DataError)
    where = printable(path)
    if data.startswith(_NPY):
        if array is not None:
            raise DataError(
                "QEB446",
                "an .npy file holds one array, which has no name",
                where=where,
                found=f"array {printable(array)!r}",
                fix="leave out `array`, or save with numpy.savez",
            )
        return _checked(_read_npy(BytesIO(data), len(data), where), where)
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _from_npz(data, array, where)
    if data[:1] == b"\x80" or path.suffix.lower() in (".pkl", ".pickle"):
        raise _pickled(where)
    raise DataError(
        "QEB443", "the file is neither .npy nor .npz", where=where, fix="save it with numpy.save or numpy.savez"
    )


def fit_rows(rows: Array, shape: tuple[int, ...], where: str | None = None) -> Array:
    """Rows as ``[N, *shape]`` for an input tensor of ``shape`` (1, ...).

    ``rows`` may have the batch axis of 1 or not; no other reshaping is done.  Raises DataError.
    """
    if rows.shape[1:] == shape:
        return rows
    if shape[:1] == (1,) and rows.shape[1:] == shape[1:]:
        return rows.reshape(rows.shape[0], *shape)
    without = f" or {('N', *shape[1:])}" if shape[:1] == (1,) else ""
    raise DataError(
        "QEB441",
        "the data does not have the model's input shape",
        where=where,
        found=f"{rows.shape}, expected {('N', *shape)}{without}".replace("'N'", "N"),
        fix="the first axis counts the inputs; reshape the array before saving it",
    )


def load_arrays(data: bytes, where: str, most: int) -> dict[str, Array]:
    """All arrays of an .npz file's bytes, read-only and finite; raises DataError (also for more than ``most``)."""
    if data[:4] not in (b"PK\x03\x04", b"PK\x05\x06"):
        if data[:1] == b"\x80":
            raise _pickled(where)
        raise DataError("QEB443", "the file is not an .npz file", where=where, fix="save it with numpy.savez")
    _check_directory(data, where)
    try:
        with zipfile.ZipFile(BytesIO(data)) as z:
            names = [e.filename for e in z.infolist()]
            total = sum(e.file_size for e in z.infolist())
    except _ZIP_ERRORS as e:
        raise DataError("QEB449", "the .npz file is damaged", where=where, found=printable(e)) from None
    if len(names) > most or total > MAX_BYTES:
        found = f"{len(names)} arrays of {total} bytes; at most {most} of {MAX_BYTES}"
        raise DataError("QEB447", "the .npz file is too large", where=where, found=found)
    if not all(n.endswith(".npy") for n in names):
        raise DataError("QEB449", "the .npz file holds other files than arrays", where=where)
    return {n[:-4]: _from_npz(data, n[:-4], where) for n in names}


@dataclass(frozen=True, slots=True)
class _Header:
    dtype: np.dtype[np.generic]
    fortran: bool
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _from_npz(data: bytes, array: str | None, where: str) -> Array:
    _check_directory(data, where)
    try:
        with zipfile.ZipFile(BytesIO(data)) as z:
            info = _choose(z.infolist(), array, where)
            where = f"{where}: array {printable(info.filename[:-4], 80)}"
            if info.file_size > MAX_BYTES:
                raise DataError("QEB447", "an array is too large", where=where, found=f"{info.file_size} bytes")
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError("QEB449", "the array is encrypted or compressed in an unknown way", where=where)
            with z.open(info) as f:
                rows = _read_npy(f, info.file_size, where)
    except _ZIP_ERRORS as e:
        raise DataError(
            "QEB449", "the .npz file is damaged", where=where, found=printable(e), fix="save it again with numpy.savez"
        ) from None
    return _checked(rows, where)


def _check_directory(data: bytes, where: str) -> None:
    """Refuse archives whose directory is large or not where numpy writes it."""
    size = zip_directory(data)
    if size is None:
        raise DataError(
            "QEB449", "the .npz file is damaged or truncated", where=where, fix="save it again with numpy.savez"
        )
    if size > MAX_DIRECTORY:
        raise DataError("QEB447", "the .npz file has too many arrays", where=where)


def _choose(entries: list[zipfile.ZipInfo], array: str | None, where: str) -> zipfile.ZipInfo:
    arrays = {e.filename[:-4]: e for e in entries if e.filename.endswith(".npy")}
    if len(arrays) < sum(e.filename.endswith(".npy") for e in entries):
        raise DataError("QEB449", "the .npz file has two arrays of the same name", where=where)
    names = ", ".join(printable(n, 40) for n in sorted(arrays)[:20]) or "none"
    if len(arrays) > 20:
        names += f" and {len(arrays) - 20} more"
    if array is None:
        if len(arrays) != 1:
            raise DataError(
                "QEB446",
                "the .npz file does not hold exactly one array",
                where=where,
                found=f"arrays: {names}",
                fix="say which with `array`",
            )
        return next(iter(arrays.values()))
    if array not in arrays:
        raise DataError(
            "QEB446", f"the .npz file has no array {printable(array, 80)!r}", where=where, found=f"arrays: {names}"
        )
    return arrays[array]


def _read_npy(f: IO[bytes], size: int, where: str) -> Array:
    """The array of an .npy stream of ``size`` bytes; nothing is allocated before header and size agree."""
    start = f.read(8)
    if len(start) < 8 or not start.startswith(_NPY) or start[6] not in (1, 2, 3):
        raise DataError("QEB449", "the array's header is damaged", where=where)
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(f.read(width), "little")
    if length > MAX_HEADER:
        raise DataError("QEB449", "the array's header is too long", where=where, found=f"{length} bytes")
    header = _parse_header(f.read(length), where)
    left = size - 8 - width - length
    if header.nbytes != left:
        raise DataError(
            "QEB449",
            "the array's data does not have the size that its header claims",
            where=where,
            found=f"{left} bytes, {header.nbytes} for {header.shape} {header.dtype}",
        )
    data = f.read(left)
    if len(data) != left or f.read(1):
        raise DataError("QEB449", "the array's data ends too early or too late", where=where)
    flat = np.frombuffer(data, header.dtype)
    rows = flat.reshape(header.shape, order="F" if header.fortran else "C")
    return np.asarray(rows, header.dtype.newbyteorder("="), order="C")


def _parse_header(raw: bytes, where: str) -> _Header:
    damaged = DataError("QEB449", "the array's header is damaged", where=where)
    try:
        header: object = ast.literal_eval(raw.decode("latin-1").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise damaged from None
    if not isinstance(header, dict):
        raise damaged
    fields = cast("dict[object, object]", header)
    if set(fields) != {"descr", "fortran_order", "shape"}:
        raise damaged
    descr, fortran, dims = fields["descr"], fields["fortran_order"], fields["shape"]
    if not isinstance(fortran, bool) or not isinstance(dims, tuple):
        raise damaged
    shape = cast("tuple[object, ...]", dims)
    sizes = tuple(d for d in shape if isinstance(d, int) and not isinstance(d, bool) and 0 <= d < 2**48)
    if len(shape) > MAX_AXES or len(sizes) != len(shape):
        raise damaged
    if isinstance(descr, str) and descr.endswith("O"):
        raise _pickled(where)
    if not isinstance(descr, str) or not _DTYPE.fullmatch(descr):
        raise DataError(
            "QEB445", "the array does not hold plain numbers", where=where, found=f"dtype {printable(descr, 60)}"
        )
    return _Header(np.dtype(descr), fortran, sizes)


def _pickled(where: str) -> DataError:
    return DataError(
        "QEB444",
        "the file holds pickled Python objects, which are never loaded: they can run any program",
        where=where,
        fix="save numeric arrays with numpy.save or numpy.savez",
    )


def _checked(rows: Array, where: str) -> Array:
    if rows.ndim == 0 or rows.size == 0:
        raise DataError("QEB450", "the array has no rows", where=where, found=f"shape {rows.shape}")
    if np.issubdtype(rows.dtype, np.floating):
        for start in range(0, rows.shape[0], 1024):
            part = rows[start : start + 1024].reshape(len(rows[start : start + 1024]), -1)
            bad = ~np.isfinite(part)
            if bad.any():
                row, column = (int(i) for i in np.argwhere(bad)[0])
                raise DataError(
                    "QEB448",
                    "the array has values that are not finite",
                    where=where,
                    found=f"{part[row, column]} in row {start + row}",
                )
    return frozen(rows)
