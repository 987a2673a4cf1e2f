"""One question about two models, asked from Python: what the callback, the converter hook and the pytest plugin share.

Models are files or the bytes of .tflite files; regions are made by :func:`points`, :func:`ball`, :func:`box` and
:func:`segment` from arrays.  Everything goes through a policy, as on the command line.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qebgate.gate import Options, check
from qebgate.policy import PolicyFile, load_policy, parse_policy
from qebgate.report import text
from qebgate.result import CheckResult, Report

Model = str | Path | bytes
"""A model's file, or what is in a .tflite file."""
EXPLAINING = 20.0
"""Seconds for finding out where a bound that is not good enough comes from."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A region in the policy's words, and the arrays that it names."""

    words: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])


def points(x: ArrayLike, **words: Any) -> Region:
    """The rows of ``x`` [N, *input shape] themselves.  ``words`` are further keys of the policy's region."""
    return _region({"kind": "points", **words}, x=x)


def ball(x: ArrayLike, radius: float, **words: Any) -> Region:
    """Everything within ``radius`` of a row of ``x``, in every element; ``unit="lsb"`` counts input quanta."""
    grid = {"domain": "grid"} if words.get("unit") == "lsb" else {}
    return _region({"kind": "ball", "radius": float(radius), **grid, **words}, x=x)


def box(lower: float | Sequence[float], upper: float | Sequence[float], **words: Any) -> Region:
    """Everything between two corners: a number each, or one for every element of the input."""
    return Region({"kind": "box", "lower": lower, "upper": upper, **words})


def segment(x: ArrayLike, ends: tuple[float, float], direction: ArrayLike | None = None, **words: Any) -> Region:
    """``row + t * direction`` for every row of ``x`` and t between ``ends``; all ones without a direction."""
    words = {"kind": "segment", "range": [float(t) for t in ends], **words}
    if direction is None:
        return _region({**words, "direction": "ones"}, x=x)
    return _region({**words, "direction": "d"}, x=x, d=direction)


def _region(words: dict[str, Any], **arrays: ArrayLike) -> Region:
    return Region({**words, "array": "x"}, {k: np.asarray(a) for k, a in arrays.items()})


@dataclass(frozen=True, slots=True)
class Asked:
    """A report, and the policy that it answers."""

    report: Report
    source: PolicyFile

    @property
    def check(self) -> CheckResult:
        """The first check's result; raises the error of a check that could not run."""
        for e in self.report.errors:
            raise e.error
        return self.report.checks[0]

    @property
    def passed(self) -> bool:
        """Whether the gate is open: the exit code 0."""
        return int(self.report.exit_code) == 0

    def explanation(self, seconds: float = EXPLAINING) -> str:
        """What did not pass, and what would help."""
        return explanation(self.report, self.source, seconds)


def ask(
    float_model: Model,
    quantized: Model,
    region: Region,
    prop: Mapping[str, Any],
    folder: Path,
    *,
    runtime: str | Sequence[str] = "litert-xnnpack",
    input_quantization: str | None = None,
    require: Any = "proof",
    effort: str = "standard",
    jobs: int = 1,
) -> Asked:
    """Ask whether two models satisfy a property on a region.

    ``prop`` is the policy's ``property``; ``folder`` gets what is not a file yet.  Raises QebgateError where the
    models or the data cannot be used, never because of a verdict.
    """
    if region.arrays:
        np.savez(folder / "data.npz", **dict(region.arrays))  # pyright: ignore[reportArgumentType]
    data = {"data": str(folder / "data.npz")} if region.arrays else {}
    model: dict[str, Any] = {
        "float": str(as_file(float_model, folder / "float.tflite")),
        "quantized": str(as_file(quantized, folder / "quantized.tflite")),
        "runtime": [runtime] if isinstance(runtime, str) else list(runtime),
    }
    if input_quantization is not None:
        model["input_quantization"] = input_quantization
    asked = {"id": "quantization", "model": "model", "region": "region", "property": dict(prop)}
    policy = {
        "version": 1,
        "models": {"model": model},
        "regions": {"region": {**region.words, **data}},
        "checks": [{**asked, "require": require, "effort": effort}],
    }
    source = parse_policy(policy, "qebgate.integrations", Path())
    return Asked(check(source, Options(jobs=jobs)), source)


def ask_policy(
    policy: str | Path,
    *,
    only: Sequence[str] = (),
    models: Mapping[str, str | Path] | None = None,
    root: Path | None = None,
    jobs: int = 1,
) -> Asked:
    """Run a policy file; ``models`` replaces its quantized models by name."""
    sets = [f"models.{name}.quantized={path}" for name, path in (models or {}).items()]
    source = load_policy(Path(policy), root=root, sets=sets)
    return Asked(check(source, Options(tuple(only), jobs)), source)


def as_file(model: Model, place: Path) -> Path:
    """The file of a model, absolute; bytes are written to ``place``."""
    if isinstance(model, bytes):
        place.write_bytes(model)
        return place.absolute()
    return Path(model).absolute()


@contextmanager
def working_folder(keep: str | Path | None) -> Generator[Path, None, None]:
    """A folder that stays, or a temporary one."""
    if keep is not None:
        Path(keep).mkdir(parents=True, exist_ok=True)
        yield Path(keep)
        return
    with TemporaryDirectory(prefix="qebgate-") as folder:
        yield Path(folder)


def explanation(report: Report, source: PolicyFile, seconds: float = EXPLAINING) -> str:
    """The checks that did not pass, their worst inputs, and what would help most, as plain text."""
    from qebgate.explain import explain_all

    lines = [text.summary(report)]
    found = explain_all(source, report, seconds)
    for c in text.worst_checks(report):
        lines.append(f"{c.id}: {text.check_words(c)}")
        e = found.get(c.id)
        if e is not None and e.advice:
            lines += ["  what would help, most first:", *(f"  - {a.text}" for a in e.advice[:3])]
    lines += [f"{e.check}: could not run: {e.error}" for e in report.errors]
    return "\n".join(lines)
