"""``.keras`` files: a zip of ``config.json``, ``metadata.json`` and ``model.weights.h5``, never extracted."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from io import BytesIO

from qebgate.adapters.files import zip_directory
from qebgate.errors import ModelError, printable

LIMITS = {"config.json": 16 << 20, "metadata.json": 1 << 20, "model.weights.h5": 192 << 20}
"""The members, and how large each may be."""
MAX_RATIO = 16
"""Uncompressed size of the weights, in units of the file's: Keras does not compress, and weights hardly shrink."""
MAX_DIRECTORY = 1 << 16

_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError, LookupError,
    OverflowError, NotImplementedError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Archive:
    """The members of a file; ``metadata`` names the version of Keras."""

    config: bytes
    weights: bytes
    metadata: bytes | None


def read_archive(data: bytes, where: str) -> Archive:
    """Read a ``.keras`` file's bytes; raises ModelError QEB475 or QEB406."""
    _check_directory(data, where)
    try:
        with zipfile.ZipFile(BytesIO(data)) as z:
            entries = z.infolist()
            _check_members(entries, len(data), where)
            read = {e.filename: z.read(e) for e in entries}
    except _ERRORS as e:
        raise _damaged(where, printable(e)) from None
    return Archive(read["config.json"], read["model.weights.h5"], read.get("metadata.json"))


def _check_members(entries: list[zipfile.ZipInfo], size: int, where: str) -> None:
    names = [e.filename for e in entries]
    others = sorted(set(names) - set(LIMITS))
    if others or len(set(names)) < len(names) or not {"config.json", "model.weights.h5"} <= set(names):
        shown = ", ".join(printable(n, 60) for n in (others or names)[:10])
        raise ModelError(
            "QEB475",
            "the .keras file does not hold what Keras writes",
            where=where,
            found=f"members: {shown}",
            fix="save the model again with model.save('model.keras'); layers with assets and sharded weights are not "
            "supported",
        )
    for e in entries:
        if e.flag_bits & 1 or e.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _damaged(where, f"{e.filename} is encrypted or compressed in an unknown way")
        limit = LIMITS[e.filename]
        if e.filename == "model.weights.h5":
            limit = min(limit, MAX_RATIO * size)
        if e.file_size > limit:
            raise ModelError(
                "QEB406",
                "a part of the .keras file is too large",
                where=f"{where}: {e.filename}",
                found=f"{e.file_size} bytes, at most {limit}",
            )


def _check_directory(data: bytes, where: str) -> None:
    size = zip_directory(data)
    if size is None or size > MAX_DIRECTORY:
        raise _damaged(where, "no zip directory at its end" if size is None else "a zip directory of too many entries")


def _damaged(where: str, found: str) -> ModelError:
    return ModelError(
        "QEB475", "the .keras file is damaged or truncated", where=where, found=found, fix="save the model again"
    )
