"""``qebgate data pack``: rows for policies from folders of images or arrays."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import numpy as np

from qebgate.adapters.pack import Packing, pack
from qebgate.cli.commands import console
from qebgate.errors import PolicyError, printable


def data_pack(sources: list[Path], output: Path, how: Packing) -> int:
    """Write ``x`` (and ``labels``, where folders are classes) and say what they hold."""
    from qebgate.report.witness import write_file

    made = pack(sources, how)
    arrays = {"x": made.x} if made.labels is None else {"x": made.x, "labels": made.labels}
    out = BytesIO()
    np.savez_compressed(out, **arrays)
    try:
        write_file(output, out.getvalue())
    except OSError as e:
        raise PolicyError("QEB224", "the file cannot be written", where=printable(output), found=e.strerror) from None
    screen = console()
    screen.print(f"{printable(output)}: x {made.x.dtype} {list(made.x.shape)} from {made.files} files; {how.words}")
    screen.print(f"values from {made.x.min():.6g} to {made.x.max():.6g}")
    if made.labels is not None:
        names = ", ".join(f"{k} {printable(n, 60)}" for k, n in enumerate(made.names[:50]))
        screen.print(f"labels: {names}", soft_wrap=True)
    return 0


def parse_size(text: str | None) -> tuple[int, int] | None:
    """``HxW``."""
    if text is None:
        return None
    m = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if m is None:
        raise PolicyError("QEB237", "the size is not HxW", where=f"--size {printable(text)}", fix="such as 28x28")
    return int(m[1]), int(m[2])


def parse_scale(text: str) -> float:
    """A number, or a fraction such as 1/255."""
    m = re.fullmatch(r"([0-9.]+)(?:/([0-9.]+))?", text)
    try:
        assert m is not None
        return float(m[1]) / float(m[2] or 1)
    except (AssertionError, ValueError, ZeroDivisionError):
        raise PolicyError(
            "QEB237", "the scale is not a number", where=f"--scale {printable(text)}", fix="such as 1/255"
        ) from None
