"""The result file: floats read back exactly, what was not established is null."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from qebgate.errors import printable
from qebgate.report.text import bad_checks, reproduce
from qebgate.result import CheckError, CheckResult, Report, TaskResult

SCHEMA_VERSION = 1


def render_json(report: Report) -> str:
    """The result as one line of JSON (bounds of many outputs would make millions of lines)."""
    return json.dumps(to_json(report), ensure_ascii=True, allow_nan=False) + "\n"


def to_json(report: Report) -> dict[str, Any]:
    """The result as plain data (:data:`RESULT_SCHEMA`)."""
    bad = bad_checks(report)
    return {
        "schema": SCHEMA_VERSION,
        "tool": {"name": "qebgate", "version": report.version},
        "policy_sha256": report.policy_sha256,
        "verdict": report.verdict,
        "exit_code": int(report.exit_code),
        "interrupted": report.interrupted,
        "seconds": report.seconds,
        "reproduce": None if report.verdict == "pass" else reproduce(report, bad),
        "notes": list(report.notes),
        "checks": [_check(c) for c in report.checks],
        "errors": [_error(e) for e in report.errors],
    }


def _number(x: float | None) -> float | None:
    return float(x) if x is not None and math.isfinite(x) else None


def _numbers(a: Any) -> list[float | None] | None:
    return None if a is None else [_number(v) for v in a.ravel().tolist()]


def _check(c: CheckResult) -> dict[str, Any]:
    return {
        "id": c.id,
        "verdict": c.verdict,
        "reason": c.reason,
        "limit": c.limit,
        "property": c.property,
        "require": c.require,
        "on_unknown": c.on_unknown,
        "witnessed": _number(c.witnessed),
        "proven": _number(c.proven),
        "evidence": c.evidence,
        "model": {"name": c.model, "float_sha256": c.float_sha256, "quantized_sha256": c.quantized_sha256},
        "region": c.region,
        "complete": c.complete,
        "waiver": None if c.waiver is None else asdict(c.waiver),
        "baseline": None if c.baseline is None else asdict(c.baseline),
        "data": None if c.data is None else asdict(c.data),
        "tasks": [_task(t) for t in c.tasks],
        "assumptions": list(c.assumptions),
    }


def _task(t: TaskResult) -> dict[str, Any]:
    w = t.witness
    return {
        "index": t.index,
        "runtime": {"name": t.runtime.name, "version": t.runtime.version},
        "verdict": t.verdict,
        "reason": t.reason,
        "witnessed": _number(t.witnessed),
        "proven": _number(t.proven),
        "outputs": list(t.outputs),
        "lower": _numbers(t.lower),
        "upper": _numbers(t.upper),
        "evidence": t.evidence,
        "engine": t.engine,
        "seconds": t.seconds,
        "from_cache": t.from_cache,
        "statistics": None if t.statistics is None else asdict(t.statistics),
        "waived": t.waived,
        "noise_floor": None
        if t.noise_floor is None
        else {"floor": _number(t.noise_floor[0]), "span": _number(t.noise_floor[1])},
        "witness": None
        if w is None
        else {
            "figure": _number(w.figure),
            "gap": _numbers(w.gap),
            "engine": w.engine,
            "classes": None if w.classes is None else [t.outputs[k] for k in w.classes],
            "input": _numbers(w.x) if w.x.size <= 4096 and not w.omitted else None,
            "inputs": [{"name": printable(p.name, 200), "shape": list(p.shape)} for p in w.parts] or None,
            "codes": None if w.codes is None or w.codes.size > 4096 else [int(q) for q in w.codes.ravel()],
            "file": w.file,
        },
    }


def _error(e: CheckError) -> dict[str, Any]:
    x = e.error
    shown = {
        k: None if v is None else printable(v, 2000)
        for k, v in (("where", x.where), ("found", x.found), ("fix", x.fix))
    }
    return {"check": e.check, "code": x.code, "message": printable(x.message, 2000), **shown}


def _nullable(*types: str) -> dict[str, Any]:
    return {"type": [*types, "null"]}


def _enum(*values: str | None) -> dict[str, Any]:
    return {"enum": list(values)}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _maybe(**properties: Any) -> dict[str, Any]:
    return {"anyOf": [{"type": "null"}, _object(**properties)]}


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT, _NUMBER, _INTEGER = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_MAYBE_NUMBER = _nullable("number")
_MAYBE_NUMBERS = {"anyOf": [_list(_MAYBE_NUMBER), {"type": "null"}]}
_VERDICT = _enum("pass", "fail", "unknown")
_REASON = _enum(None, "refuted", "regressed", "waiver_expired", "out_of_range", "effort", "guard_time", "guard_memory")
_EVIDENCE = _enum(None, "certified", "solver", "exhaustive", "statistical", "tested")

RESULT_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "qebgate result",
    **_object(
        schema={"const": SCHEMA_VERSION},
        tool=_object(name={"const": "qebgate"}, version=_TEXT),
        policy_sha256=_nullable("string"),
        verdict=_enum("pass", "fail", "unknown", "skipped", None),
        exit_code=_INTEGER,
        interrupted={"type": "boolean"},
        seconds=_NUMBER,
        reproduce=_nullable("string"),
        notes=_list(_TEXT),
        checks=_list(
            _object(
                id=_TEXT,
                verdict=_VERDICT,
                reason=_REASON,
                limit=_NUMBER,
                property=_enum("max_abs", "max_lsb", "max_rel", "same_top1", "max_l2"),
                require=_enum("proof", "proof_or_solver", "proof_or_statistical", "tested", "statistical"),
                on_unknown=_enum("fail", "warn"),
                witnessed=_MAYBE_NUMBER,
                proven=_MAYBE_NUMBER,
                evidence=_EVIDENCE,
                model=_object(name=_TEXT, float_sha256=_TEXT, quantized_sha256=_TEXT),
                region=_TEXT,
                complete={"type": "boolean"},
                waiver=_maybe(
                    limit=_NUMBER,
                    owner=_TEXT,
                    reason=_TEXT,
                    expires=_TEXT,
                    state=_enum("used", "unused", "expired", "other_model"),
                ),
                baseline=_maybe(
                    state=_enum("compared", "not_compared", "none"),
                    proven=_MAYBE_NUMBER,
                    allowed=_MAYBE_NUMBER,
                    note=_TEXT,
                ),
                data=_maybe(
                    rows=_INTEGER,
                    agree=_INTEGER,
                    float_right=_nullable("integer"),
                    quantized_right=_nullable("integer"),
                ),
                tasks=_list(
                    _object(
                        index=_INTEGER,
                        runtime=_object(name=_TEXT, version=_nullable("string")),
                        verdict=_VERDICT,
                        reason=_REASON,
                        witnessed=_MAYBE_NUMBER,
                        proven=_MAYBE_NUMBER,
                        outputs=_list(_INTEGER),
                        lower=_MAYBE_NUMBERS,
                        upper=_MAYBE_NUMBERS,
                        evidence=_EVIDENCE,
                        engine=_nullable("string"),
                        seconds=_NUMBER,
                        from_cache={"type": "boolean"},
                        statistics=_maybe(
                            n=_INTEGER,
                            failures=_INTEGER,
                            confidence=_NUMBER,
                            max_failure_rate=_NUMBER,
                            upper=_NUMBER,
                            distribution=_enum("uniform", "rows"),
                            seed=_INTEGER,
                        ),
                        waived={"type": "boolean"},
                        noise_floor={"anyOf": [{"type": "null"}, _object(floor=_MAYBE_NUMBER, span=_MAYBE_NUMBER)]},
                        witness={
                            "anyOf": [
                                {"type": "null"},
                                _object(
                                    figure=_MAYBE_NUMBER,
                                    gap=_MAYBE_NUMBERS,
                                    engine=_TEXT,
                                    classes={"anyOf": [_list(_INTEGER), {"type": "null"}]},
                                    input=_MAYBE_NUMBERS,
                                    inputs={
                                        "anyOf": [_list(_object(name=_TEXT, shape=_list(_INTEGER))), {"type": "null"}]
                                    },
                                    codes={"anyOf": [_list(_INTEGER), {"type": "null"}]},
                                    file=_nullable("string"),
                                ),
                            ]
                        },
                    )
                ),
                assumptions=_list(_TEXT),
            )
        ),
        errors=_list(
            _object(
                check=_TEXT,
                code=_TEXT,
                message=_TEXT,
                where=_nullable("string"),
                found=_nullable("string"),
                fix=_nullable("string"),
            )
        ),
    ),
}
"""JSON schema (draft 2020-12) of the result file.  ``verdict`` is null where errors left none to give."""
