"""Reading untrusted files: regular files only, once, up to a size."""

from __future__ import annotations

import stat
from pathlib import Path

from qebgate.errors import QebgateError, printable

_LFS = b"version https://git-lfs.github.com/spec/"


def check_file(path: Path, limit: int, error: type[QebgateError]) -> int:
    """Size of a regular file; raises ``error`` QEB400, QEB401 or QEB406.

    Pipes, sockets and devices are refused: opening or reading one may never return.
    """
    where = printable(path)
    try:
        info = path.stat()
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        raise error("QEB400", "the file cannot be read", where=where, found=_reason(e), fix="check the path") from None
    if not stat.S_ISREG(info.st_mode):
        kind = "a directory" if stat.S_ISDIR(info.st_mode) else "not a regular file"
        raise error("QEB400", "the file cannot be read", where=where, found=kind, fix="name a file")
    if info.st_size == 0:
        raise error("QEB401", "the file is empty", where=where)
    if info.st_size > limit:
        raise error("QEB406", "the file is too large", where=where, found=f"{info.st_size} bytes, at most {limit}")
    return info.st_size


def read_file(path: Path, limit: int, error: type[QebgateError]) -> bytes:
    """All bytes of a regular file; raises ``error`` as :func:`check_file`, and QEB402 for a Git LFS pointer.

    The bytes are read once, so that what is hashed is what is analysed even if the file changes meanwhile.
    """
    size = check_file(path, limit, error)
    where = printable(path)
    try:
        with path.open("rb") as f:
            data = f.read(size + 1)
    except OSError as e:
        raise error("QEB400", "the file cannot be read", where=where, found=_reason(e)) from None
    if len(data) != size:
        raise error("QEB400", "the file changed while it was read", where=where, fix="run again when it is complete")
    refuse_lfs(data, path, error)
    return data


def refuse_lfs(start: bytes, path: Path, error: type[QebgateError]) -> None:
    """Raise ``error`` QEB402 where a file starts like a Git LFS pointer."""
    if start.startswith(_LFS):
        raise error(
            "QEB402",
            "the file is a Git LFS pointer, not the file itself",
            where=printable(path),
            fix="run `git lfs pull` (in GitHub Actions: `lfs: true` for actions/checkout)",
        )


def zip_directory(data: bytes) -> int | None:
    """Size in bytes of the directory that a zip archive claims; None where it is not where plain writers put it.

    ``zipfile`` builds an object for every entry of the directory, so it must be small before it is read.
    """
    end = len(data) - 22
    plain = end >= 0 and data[end : end + 4] == b"PK\x05\x06" and data[-2:] == b"\0\0"
    if not plain or data[max(0, end - 20) :].startswith(b"PK\x06\x07"):
        return None
    return int.from_bytes(data[end + 12 : end + 16], "little")


def _reason(e: Exception) -> str:
    return printable((e.strerror if isinstance(e, OSError) else None) or str(e))
