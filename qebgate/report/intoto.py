"""An in-toto statement about the checked models, for signing (GitHub's ``actions/attest`` or cosign).

Sources: in-toto attestation framework, Statement v1; predicate "Test Result" v0.1.  The predicate is a summary; the
result file, which is signed as a subject of its own or kept beside it, has the figures.
"""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any

from qebgate.errors import printable
from qebgate.result import CheckResult, Report

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"


def render_intoto(report: Report) -> str:
    """The unsigned statement, as JSON."""
    return json.dumps(to_statement(report), ensure_ascii=True, allow_nan=False) + "\n"


def to_statement(report: Report) -> dict[str, Any]:
    """The statement as plain data: one subject for each quantized model."""
    subjects: dict[str, str] = {}
    for c in report.checks:
        subjects.setdefault(c.quantized_sha256, _name(c))
    return {
        "_type": STATEMENT,
        "subject": [{"name": n, "digest": {"sha256": sha}} for sha, n in subjects.items()],
        "predicateType": PREDICATE,
        "predicate": {
            "result": _result(report),
            "configuration": [_policy(report), *_references(report)],
            "passedTests": [printable(c.id) for c in report.checks if c.verdict == "pass"],
            "warnedTests": [printable(c.id) for c in report.checks if _warns(c)],
            "failedTests": [
                *(printable(c.id) for c in report.checks if c.verdict != "pass" and not _warns(c)),
                *(printable(e.check) for e in report.errors),
            ],
        },
    }


def _warns(c: CheckResult) -> bool:
    return c.verdict == "unknown" and c.on_unknown == "warn"


def _result(report: Report) -> str:
    if int(report.exit_code) != 0:
        return "FAILED"
    return "PASSED" if report.verdict == "pass" else "WARNED"


def _name(c: CheckResult) -> str:
    quantized = None if c.question is None else c.question.model.get("quantized")
    return printable(PurePath(quantized).name if isinstance(quantized, str) else c.model)


def _policy(report: Report) -> dict[str, Any]:
    name = "policy" if report.policy is None else PurePath(report.policy).name
    digest = {} if report.policy_sha256 is None else {"digest": {"sha256": report.policy_sha256}}
    return {"name": printable(name), **digest, "annotations": {"qebgate": report.version}}


def _references(report: Report) -> list[dict[str, Any]]:
    shas = dict.fromkeys(c.float_sha256 for c in report.checks)
    return [{"name": "float reference", "digest": {"sha256": s}} for s in shas]
