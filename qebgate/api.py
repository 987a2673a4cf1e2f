"""qebgate from Python: :func:`check` runs a policy, :func:`compare` asks one question about two models.

::

    import qebgate

    answer = qebgate.compare("float.tflite", "int8.tflite", region=qebgate.ball(x[:20], 2, unit="lsb"), max_abs=0.25)
    answer.verdict, answer.proven, answer.witnessed
    print(answer.explanation())

    assert qebgate.check("qebgate.yaml").passed

The command line asks in the same way: a policy is made or read, and :func:`qebgate.gate.check` runs it.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qebgate.cache import Cache
from qebgate.errors import ExitCode, PolicyError
from qebgate.explain import explain_all
from qebgate.gate import Options
from qebgate.gate import check as run_gate
from qebgate.policy import PolicyFile, find_policy, load_policy, parse_policy
from qebgate.report import text
from qebgate.report.render import EXPLAINING, Name, rendered
from qebgate.result import CheckResult, Report
from qebgate.verdict import Verdict

Effort = Literal["quick", "standard", "deep"]
KINDS = ("max_abs", "max_lsb", "max_rel", "max_l2", "same_top1")


class KerasModel(Protocol):
    """A model of Keras 3 or tf_keras in memory; it is saved, and its file is read like any other."""

    def save(self, filepath: str) -> Any:
        """Write the model into a file."""
        ...


Model = str | Path | bytes | KerasModel
"""A model's file, what is in a .tflite file, or a Keras model in memory."""
Rows = ArrayLike | Mapping[str, ArrayLike]
"""Inputs ``[N, *input shape]``; of a model of several inputs, such an array for each, by its name."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A region in the policy's words, and the arrays that it names."""

    words: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])


def points(x: Rows, **words: Any) -> Region:
    """The rows of ``x`` [N, *input shape] themselves.  ``words`` are further keys of the policy's region."""
    return _region({"kind": "points", **words}, x=x)


def ball(x: Rows, radius: float, **words: Any) -> Region:
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


def _region(words: dict[str, Any], x: Rows, **arrays: ArrayLike) -> Region:
    if isinstance(x, Mapping):
        names = {name: f"x{k}" for k, name in enumerate(x)}
        return Region({**words, "arrays": names}, {f"x{k}": np.asarray(a) for k, a in enumerate(x.values())})
    arrays = {"x": x, **arrays}
    return Region({**words, "array": "x"}, {k: np.asarray(a) for k, a in arrays.items()})


@dataclass(frozen=True, eq=False)
class Answer:
    """A report, and the policy that it answers.

    Files that were made for the question live as long as the answer.
    """

    report: Report
    source: PolicyFile
    files: object = field(default=None, repr=False)

    @property
    def passed(self) -> bool:
        """Whether the gate is open: the command line would exit with 0."""
        return self.report.exit_code == ExitCode.PASS

    @property
    def verdict(self) -> Verdict | None:
        """The worst of all checks; None where checks could not run and no other failed."""
        return self.report.verdict

    @property
    def checks(self) -> tuple[CheckResult, ...]:
        """Every check's result, as in the result file.  Raises the error of the first check that could not run."""
        for e in self.report.errors:
            raise e.error
        return self.report.checks

    @property
    def proven(self) -> float | None:
        """The largest figure that an input can have, over all checks; None where one has no proof."""
        figures = [c.proven for c in self.checks]
        return None if None in figures else max((p for p in figures if p is not None), default=None)

    @property
    def witnessed(self) -> float | None:
        """The largest figure seen on a replayed input."""
        return max((c.witnessed for c in self.checks if c.witnessed is not None), default=None)

    def explanation(self, seconds: float = EXPLAINING) -> str:
        """The checks that did not pass, their worst inputs, and what would help most, as plain text."""
        lines = [text.summary(self.report)]
        found = explain_all(self.source, self.report, seconds)
        for c in text.worst_checks(self.report):
            lines.append(f"{c.id}: {text.check_words(c)}")
            e = found.get(c.id)
            if e is not None and e.advice:
                lines += ["  what would help, most first:", *(f"  - {a.text}" for a in e.advice[:3])]
        lines += [f"{e.check}: could not run: {e.error}" for e in self.report.errors]
        return "\n".join(lines)

    def rendered(self, name: Name) -> str:
        """The report in one of the command line's formats."""
        return rendered(self.report, name, self.source)


def check(
    policy: str | Path | None = None,
    *,
    only: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    root: str | Path | None = None,
    effort: Effort | None = None,
    jobs: int = 1,
    cache: bool = False,
) -> Answer:
    """Run a policy file, or the nearest one above the working folder, as ``qebgate check`` does.

    ``only``: the checks to run, all where empty.  ``overrides``: values by their place, ``{"models.digits.quantized":
    path}``; a model may also be given as :data:`Model`.  ``root``: what the policy's paths are relative to.
    ``effort``: instead of the policy's.  ``jobs``: processes; with more than one, the calling script needs the usual
    ``if __name__ == "__main__"``.  ``cache``: take over results of earlier runs, and keep those of this one.

    Raises QebgateError where the policy is wrong or nothing was to be checked, never because of a verdict.
    """
    path = Path(policy) if policy is not None else find_policy(Path.cwd())
    folder = _Folder()
    sets = [f"{k}={folder.value(v, k)}" for k, v in (overrides or {}).items()]
    source = load_policy(path, root=None if root is None else Path(root), sets=sets, effort=effort)
    return _answer(source, Options(tuple(only), jobs, cache=Cache.open() if cache else None), folder)


def compare(
    float_model: Model,
    quantized: Model,
    *,
    region: Region,
    max_abs: float | None = None,
    max_lsb: float | None = None,
    max_rel: float | None = None,
    floor: float | None = None,
    max_l2: float | None = None,
    same_top1: float | None = None,
    property: Mapping[str, Any] | None = None,  # noqa: A002 - the policy's word
    outputs: Literal["all", "predicted"] | Sequence[int] | None = None,
    tensor: str | None = None,
    runtime: str | Sequence[str] = "litert-xnnpack",
    float_semantics: Literal["float32", "real"] | None = None,
    input_quantization: Literal["nearest", "truncate"] | None = None,
    require: Any = "proof",
    effort: Effort = "standard",
    jobs: int = 1,
    cache: bool = False,
    folder: str | Path | None = None,
) -> Answer:
    """Ask whether the gap between two models is within one limit on a whole region.

    One of ``max_abs`` (real units), ``max_lsb`` (quanta of the output), ``max_rel`` (with ``floor``), ``max_l2``,
    ``same_top1`` (the margin) and ``property`` (as in a policy).  ``region``: of :func:`points`, :func:`ball`,
    :func:`box` or :func:`segment`.  Everything else as in a policy.  ``folder`` keeps what is made for the question:
    the region's arrays, models that are not files, and ``data.npz``.

    Raises QebgateError where the models or the data cannot be used, never because of a verdict.
    """
    limits = {"max_abs": max_abs, "max_lsb": max_lsb, "max_rel": max_rel, "max_l2": max_l2, "same_top1": same_top1}
    if property is None:
        prop = property_of(limits, floor=floor)
    elif any(v is not None for v in (*limits.values(), floor)):
        raise TypeError("give one limit or `property`, not both")
    else:
        prop = dict(property)
    prop |= {k: v for k, v in (("outputs", outputs), ("tensor", tensor)) if v is not None}
    place = _Folder(folder)
    model: dict[str, Any] = {
        "float": place.model(float_model, "float"),
        "quantized": place.model(quantized, "quantized"),
        "runtime": [runtime] if isinstance(runtime, str) else list(runtime),
    }
    if float_semantics is not None:
        model["float_semantics"] = float_semantics
    if input_quantization is not None:
        model["input_quantization"] = input_quantization
    words = {**region.words, **place.data(region)}
    policy = one_check("comparison", model, words, prop, require, effort)
    source = parse_policy(policy, "qebgate.compare", Path())
    answer = _answer(source, Options(jobs=jobs, cache=Cache.open() if cache else None), place)
    for e in answer.report.errors:
        raise e.error
    return answer


def property_of(
    limits: Mapping[str, float | None], *, floor: float | None = None, where: str = "qebgate.compare", prefix: str = ""
) -> dict[str, Any]:
    """A policy's property with the one limit that is given; raises PolicyError unless there is exactly one."""
    given = [(k, v) for k, v in limits.items() if v is not None]
    if len(given) != 1:
        names = ", ".join(prefix + (k.replace("_", "-") if prefix else k) for k in KINDS)
        found = ", ".join(k for k, _ in given) or "none"
        raise PolicyError("QEB221", "give one limit", where=where, found=found, fix=names)
    ((kind, limit),) = given
    prop: dict[str, Any] = {"kind": kind, "margin" if kind == "same_top1" else "limit": limit}
    return prop if floor is None else {**prop, "floor": floor}


def one_check(
    name: str, model: Mapping[str, Any], region: Mapping[str, Any], prop: Mapping[str, Any], require: Any, effort: str
) -> dict[str, Any]:
    """A policy of one check, as data."""
    asked = {"id": name, "model": "pair", "region": "data", "property": dict(prop)}
    return {
        "version": 1,
        "models": {"pair": dict(model)},
        "regions": {"data": dict(region)},
        "checks": [{**asked, "require": require, "effort": effort}],
    }


def _answer(source: PolicyFile, options: Options, folder: _Folder) -> Answer:
    return Answer(run_gate(source, options), source, folder)


class _Folder:
    """Where things that are no files yet become files: a given folder, or one that is made when it is needed."""

    def __init__(self, keep: str | Path | None = None) -> None:
        self.path = None if keep is None else Path(keep)

    def place(self, name: str) -> Path:
        if self.path is None:
            self.path = Path(tempfile.mkdtemp(prefix="qebgate-"))
            weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path.absolute() / name

    def data(self, region: Region) -> dict[str, str]:
        if not region.arrays:
            return {}
        path = self.place("data.npz")
        np.savez(path, **dict(region.arrays))  # pyright: ignore[reportArgumentType]
        return {"data": str(path)}

    def model(self, model: Model, name: str) -> str:
        """The file of a model, absolute."""
        if isinstance(model, str | Path):
            return str(Path(model).absolute())
        if isinstance(model, bytes):
            path = self.place(f"{name}.tflite")
            path.write_bytes(model)
            return str(path)
        path = self.place(name + _suffix(model))
        model.save(str(path))
        return str(path)

    def value(self, value: Any, place: str) -> str:
        """A value of a policy as the command line writes it."""
        if isinstance(value, Path | bytes) or hasattr(value, "save"):
            return self.model(value, place)
        return str(value)


def _suffix(model: object) -> str:
    """The format that a Keras model in memory is saved in: tf_keras writes TF-MOT's layers into .h5 only."""
    families = {c.__module__.partition(".")[0] for c in type(model).__mro__}
    if "tf_keras" in families:
        return ".h5"
    if "keras" in families:
        return ".keras"
    raise TypeError(
        f"a model is a path, the bytes of a .tflite file, or a model of Keras 3 or tf_keras: {type(model).__qualname__}"
    )
