"""Writing counterexamples where the user can run them again."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np

from qebgate.errors import printable
from qebgate.ir.tensor import Array
from qebgate.report.text import worst
from qebgate.result import CheckResult, Report, TaskResult

MAX_FILES = 20
"""Most counterexamples written for one check; the worst come first."""


def save_witnesses(report: Report, folder: Path) -> tuple[Report, list[str]]:
    """Write each failing task's input as ``folder/CHECK-rowN-RUNTIME.npz``.

    Returns the report with the files' names in it, and warnings: a folder that cannot be written must
    not hide a verdict.
    """
    warnings: list[str] = []
    checks: list[CheckResult] = []
    for c in report.checks:
        written: dict[int, TaskResult] = {}
        for t in worst(c, MAX_FILES):
            if t.witness is None:
                continue
            slug = re.sub(r"[^A-Za-z0-9_.-]", "_", c.id).lstrip(".")
            path = folder / f"{slug}-row{t.index}-{t.runtime.name}.npz"
            try:
                write_file(path, _npz(t))
            except OSError as e:
                warnings.append(f"a counterexample could not be written to {printable(path)}: {e.strerror}")
                continue
            written[id(t)] = replace(t, witness=replace(t.witness, file=str(path)))
        checks.append(replace(c, tasks=tuple(written.get(id(t), t) for t in c.tasks)))
    return replace(report, checks=tuple(checks)), warnings


def _npz(t: TaskResult) -> bytes:
    w = t.witness
    assert w is not None
    arrays: dict[str, Array] = {"x": w.x, "gap": w.gap, "outputs": np.asarray(t.outputs, np.int64)}
    if w.codes is not None:
        arrays["codes"] = w.codes
    if w.raw is not None:
        arrays["raw"] = w.raw
    out = BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(data)
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
