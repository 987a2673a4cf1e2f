"""Writing witnesses where the user can run them again: arrays as ``.npz``, all that they are about as JSON beside them.

The JSON file states the question in the policy's own words (:data:`WITNESS_VERSION`); ``qebgate replay`` reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from qebgate.errors import printable
from qebgate.ir.tensor import Array
from qebgate.report.text import worst
from qebgate.result import WITNESS_VERSION, CheckResult, Report, TaskResult, WitnessResult

MAX_FILES = 20
"""Most counterexamples written for one check; the worst come first."""


def save_witnesses(report: Report, folder: Path) -> tuple[Report, list[str]]:
    """Write each task's witness as ``folder/CHECK-rowN-RUNTIME.npz`` and ``.json``.

    Returns the report with the files' names in it, and warnings: a folder that cannot be written must
    not hide a verdict.
    """
    warnings: list[str] = []
    checks: list[CheckResult] = []
    for c in report.checks:
        written: dict[int, TaskResult] = {}
        for t in worst(c, MAX_FILES):
            if t.witness is None or t.witness.omitted:
                continue
            slug = re.sub(r"[^A-Za-z0-9_.-]", "_", c.id).lstrip(".")
            stem = f"{slug}-row{t.index}-{t.runtime.name}"
            path = folder / f"{stem}.npz"
            arrays = _npz(t)
            text = json.dumps(_about(report, c, t, arrays, path), indent=1, allow_nan=False)
            try:
                write_file(path, arrays)
                write_file(folder / f"{stem}.json", f"{text}\n".encode())
            except OSError as e:
                warnings.append(f"a counterexample could not be written to {printable(path)}: {e.strerror}")
                continue
            written[id(t)] = replace(t, witness=replace(t.witness, file=str(path)))
        checks.append(replace(c, tasks=tuple(written.get(id(t), t) for t in c.tasks)))
    return replace(report, checks=tuple(checks)), warnings


def _npz(t: TaskResult) -> bytes:
    w = t.witness
    assert w is not None
    arrays: dict[str, Array] = {"gap": w.gap, "outputs": np.asarray(t.outputs, np.int64)}
    if w.parts:
        for part, entry in zip(w.parts, input_arrays(w), strict=True):
            arrays[entry["x"]] = part.of(w.x)
            if w.codes is not None:
                arrays[entry["codes"]] = part.of(w.codes)
    else:
        arrays["x"] = w.x
        if w.codes is not None:
            arrays["codes"] = w.codes
    if w.raw is not None:
        arrays["raw"] = w.raw
    out = BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def input_arrays(w: WitnessResult) -> list[dict[str, str]]:
    """Of several inputs: each one's name, and what the arrays of its real values and of its codes are called."""
    out: list[dict[str, str]] = []
    for k, part in enumerate(w.parts):
        slug = re.sub(r"[^A-Za-z0-9_.-]", "_", part.name)[:80]
        unique = slug if [re.sub(r"[^A-Za-z0-9_.-]", "_", p.name)[:80] for p in w.parts].count(slug) == 1 else str(k)
        entry = {"name": part.name, "x": f"x.{unique}"}
        out.append(entry if w.codes is None else {**entry, "codes": f"codes.{unique}"})
    return out


def _about(report: Report, c: CheckResult, t: TaskResult, arrays: bytes, path: Path) -> dict[str, Any]:
    """Everything but the arrays, as plain data; paths are relative to the file's folder, so that both can move."""
    w, q = t.witness, c.question
    assert w is not None
    model: dict[str, Any] = {} if q is None else dict(q.model)
    if q is not None:
        for key in ("float", "quantized"):
            value = model.get(key)
            if isinstance(value, str):
                model[key] = _relative(Path(q.root) / value, path.parent)
            elif isinstance(value, dict) and "file" in value:
                model[key] = {**value, "file": _relative(Path(q.root) / str(value["file"]), path.parent)}
    finite = math.isfinite(w.figure)
    return {
        "witness": WITNESS_VERSION,
        "tool": {"name": "qebgate", "version": report.version},
        "check": c.id,
        "row": t.index,
        "runtime": {"name": t.runtime.name, "version": t.runtime.version},
        "engine": w.engine,
        "figure": w.figure if finite else None,
        "model": model,
        "property": {} if q is None else {**q.property, "outputs": [int(k) for k in t.outputs]},
        "domain": "real" if q is None else q.domain,
        **({"inputs": input_arrays(w)} if w.parts else {}),
        "arrays": {"file": path.name, "sha256": hashlib.sha256(arrays).hexdigest()},
        "sha256": {"float": c.float_sha256, "quantized": c.quantized_sha256},
    }


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path.absolute(), folder.absolute())


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
