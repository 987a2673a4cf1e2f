"""Pages that benchmarks write: every part between its own markers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def write_part(path: Path, part: str, lines: Sequence[str]) -> None:
    """Replace a part of a page between its markers, or add it at the end."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    block = "\n".join([begin, *lines, end]) + "\n"
    old = path.read_text() if path.exists() else "# Benchmarks\n"
    if begin in old and end in old:
        head, rest = old.split(begin, 1)
        path.write_text(head + block + rest.split(end, 1)[1].removeprefix("\n"))
    else:
        path.write_text(old.rstrip("\n") + "\n\n" + block)
