"""Reading a result file back: what was written is what is read, and anything else is a coded error.

A result file says what a gate found; it proves nothing to whoever did not run the gate.  It is data from a file:
limited in size, every value of the kind and from the set that the schema allows.
"""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from qebgate.errors import DataError, ModelError, PolicyError, QebgateError, printable
from qebgate.numerics.rounding import F64
from qebgate.report.json import SCHEMA_VERSION
from qebgate.report.text import bad_checks
from qebgate.result import (
    BaselineResult,
    CheckError,
    CheckResult,
    DataFigures,
    Report,
    RuntimeInfo,
    Statistics,
    TaskResult,
    WaiverResult,
    WitnessResult,
)
from qebgate.verdict import EvidenceClass, NothingCheckedError, Verdict, VerdictReason

MAX_BYTES = 1 << 30


def read_result(path: Path) -> Report:
    """The report that a result file (``--format json``) holds; DataError for a file that is none."""
    where = printable(path)
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise DataError("QEB497", "no result file", where, "a folder, nothing, or too large", "check the path")
        data = path.read_bytes()
    except OSError as e:
        raise DataError("QEB497", "a result file cannot be read", where, e.strerror, "check the path") from None
    try:
        return from_json(json.loads(data, parse_constant=_refuse))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as e:
        found = f"{type(e).__name__}: {printable(e, 200)}"
        fix = "give a file that `qebgate check --format json=PATH` of this version wrote"
        raise DataError("QEB497", "the result file is damaged, or of another version", where, found, fix) from None


def _refuse(name: str) -> float:
    raise ValueError(name)


def from_json(data: Any) -> Report:
    """A report from the plain data of :func:`qebgate.report.json.to_json`; ValueError and its like where it is not."""
    if data["schema"] != SCHEMA_VERSION or data["tool"]["name"] != "qebgate":
        raise ValueError(f"schema {printable(data['schema'], 40)}")
    report = Report(
        version=_text(data["tool"]["version"]),
        policy=None,
        policy_sha256=_maybe(data["policy_sha256"], _text),
        checks=tuple(_check(c) for c in data["checks"]),
        errors=tuple(_error(e) for e in data["errors"]),
        command=("qebgate", "check"),
        seconds=_number(data["seconds"]),
        interrupted=_of(data["interrupted"], bool),
        notes=tuple(_text(n) for n in data["notes"]),
    )
    if data["reproduce"] is None:
        return report
    words = shlex.split(_text(data["reproduce"]))
    named = sum((["--check", c] for c in bad_checks(report)), list[str]())
    own = words[: len(words) - len(named)] if named and words[-len(named) :] == named else words
    return replace(report, command=tuple(own))


def _check(c: Any) -> CheckResult:
    tasks = tuple(_task(t, _text(c["id"])) for t in c["tasks"])
    return CheckResult(
        id=_text(c["id"]),
        verdict=_one(c["verdict"], Verdict),
        reason=_maybe(c["reason"], lambda v: _one(v, VerdictReason)),
        property=_text(c["property"]),
        limit=_number(c["limit"]),
        require=_text(c["require"]),
        on_unknown="warn" if c["on_unknown"] == "warn" else "fail",
        witnessed=_maybe(c["witnessed"], _number),
        proven=_maybe(c["proven"], _number),
        evidence=_maybe(c["evidence"], lambda v: _one(v, EvidenceClass)),
        model=_text(c["model"]["name"]),
        region=_text(c["region"]),
        float_sha256=_text(c["model"]["float_sha256"]),
        quantized_sha256=_text(c["model"]["quantized_sha256"]),
        tasks=tasks,
        assumptions=tuple(_text(a) for a in c["assumptions"]),
        complete=_of(c["complete"], bool),
        waiver=_maybe(c["waiver"], _waiver),
        baseline=_maybe(c["baseline"], _baseline),
        data=_maybe(c["data"], _figures),
    )


def _task(t: Any, check: str) -> TaskResult:
    floor = t["noise_floor"]
    return TaskResult(
        check=check,
        index=_of(t["index"], int),
        runtime=RuntimeInfo(_text(t["runtime"]["name"]), _maybe(t["runtime"]["version"], _text)),
        verdict=_one(t["verdict"], Verdict),
        reason=_maybe(t["reason"], lambda v: _one(v, VerdictReason)),
        witnessed=_maybe(t["witnessed"], _number),
        proven=_maybe(t["proven"], _number),
        outputs=tuple(_of(k, int) for k in t["outputs"]),
        lower=_maybe(t["lower"], lambda v: _array(v, -np.inf)),
        upper=_maybe(t["upper"], lambda v: _array(v, np.inf)),
        evidence=_maybe(t["evidence"], lambda v: _one(v, EvidenceClass)),
        engine=_maybe(t["engine"], _text),
        seconds=_number(t["seconds"]),
        witness=_maybe(t["witness"], lambda w: _witness(w, t["outputs"])),
        noise_floor=None if floor is None else (_finite(floor["floor"]), _finite(floor["span"])),
        statistics=_maybe(t["statistics"], _statistics),
        waived=_of(t["waived"], bool),
        from_cache=_of(t["from_cache"], bool),
    )


def _waiver(w: Any) -> WaiverResult:
    state = _one(w["state"], Literal["used", "unused", "expired", "other_model"])
    return WaiverResult(_number(w["limit"]), _text(w["owner"]), _text(w["reason"]), _text(w["expires"]), state)


def _baseline(b: Any) -> BaselineResult:
    state = _one(b["state"], Literal["compared", "not_compared", "none"])
    return BaselineResult(state, _maybe(b["proven"], _number), _maybe(b["allowed"], _number), _text(b["note"]))


def _figures(d: Any) -> DataFigures:
    right = (_maybe(d[k], lambda v: _of(v, int)) for k in ("float_right", "quantized_right"))
    return DataFigures(_of(d["rows"], int), _of(d["agree"], int), *right)


def _statistics(s: Any) -> Statistics:
    return Statistics(
        n=_of(s["n"], int),
        failures=_of(s["failures"], int),
        confidence=_number(s["confidence"]),
        max_failure_rate=_number(s["max_failure_rate"]),
        upper=_number(s["upper"]),
        distribution=_one(s["distribution"], Literal["uniform", "rows"]),
        seed=_of(s["seed"], int),
    )


def _finite(value: Any) -> float:
    return math.inf if value is None else _number(value)


def _witness(w: Any, outputs: list[int]) -> WitnessResult:
    """Inputs are flat; one that the file leaves out is empty."""
    return WitnessResult(
        x=np.zeros(0) if w["input"] is None else _array(w["input"], np.nan),
        codes=_maybe(w["codes"], lambda v: np.asarray([_of(q, int) for q in v], np.int64)),
        raw=None,
        gap=_array(w["gap"], np.nan),
        figure=np.inf if w["figure"] is None else _number(w["figure"]),
        engine=_text(w["engine"]),
        file=_maybe(w["file"], _text),
        classes=_maybe(w["classes"], lambda v: (outputs.index(v[0]), outputs.index(v[1]))),
        omitted=w["input"] is None,
    )


_KINDS: dict[str, type[QebgateError]] = {"2": PolicyError, "4": DataError, "5": NothingCheckedError}


def _error(e: Any) -> CheckError:
    code = _text(e["code"])
    kind = ModelError if code.startswith(("QEB41", "QEB42", "QEB43")) else _KINDS.get(code[3:4], DataError)
    rest = (_maybe(e[k], _text) for k in ("where", "found", "fix"))
    return CheckError(_text(e["check"]), kind(code, _text(e["message"]), *rest))


def _of(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{printable(value, 40)} instead of {kind.__name__}")
    return value


def _text(value: Any) -> str:
    return _of(value, str)


def _number(value: Any) -> float:
    return float(_of(value, int) if type(value) is int else _of(value, float))


def _array(values: Any, missing: float) -> F64:
    return np.asarray([missing if v is None else _number(v) for v in _of(values, list)], np.float64)


def _one(value: Any, literal: Any) -> Any:
    if value not in get_args(literal):
        raise ValueError(f"{printable(value, 40)} is none of {', '.join(get_args(literal))}")
    return value


def _maybe(value: Any, read: Any) -> Any:
    return None if value is None else read(value)
