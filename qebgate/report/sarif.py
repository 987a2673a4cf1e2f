"""SARIF 2.1.0 for code scanning: one result for each check that did not pass, on the policy's line.

Source: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0; the tests validate against its schema.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from qebgate.errors import printable
from qebgate.report import text
from qebgate.result import CheckError, CheckResult, Report

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
RULES = {
    "refuted": "An input of the region was replayed whose gap is beyond the limit",
    "regressed": "The proven bound rose beyond what the baseline allows",
    "waiver_expired": "The check is beyond its limit and its waiver has expired",
    "out_of_range": "The region leaves the range of the quantized input",
    "effort": "The check was neither proved nor refuted within its effort",
    "guard_time": "The check was stopped by the time guard",
    "guard_memory": "The check was stopped by the memory guard",
    "open": "The check stayed open",
    "error": "The check could not be run",
}


def render_sarif(report: Report) -> str:
    """The report as a SARIF log."""
    return json.dumps(to_sarif(report), ensure_ascii=True, allow_nan=False) + "\n"


def to_sarif(report: Report) -> dict[str, Any]:
    """The log as plain data."""
    results = [_check(c, report) for c in text.worst_checks(report)] + [_error(e, report) for e in report.errors]
    used = list(dict.fromkeys(r["ruleId"] for r in results))
    for r in results:
        r["ruleIndex"] = used.index(r["ruleId"])
    driver = {
        "name": "qebgate",
        "version": report.version,
        "rules": [{"id": r, "shortDescription": {"text": f"{RULES[r]}."}} for r in used],
    }
    ran = not report.errors and not report.interrupted
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": ran, "exitCode": int(report.exit_code)}],
        "results": results,
        "properties": {"verdict": report.verdict, "policySha256": report.policy_sha256},
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _check(c: CheckResult, report: Report) -> dict[str, Any]:
    level = "error" if c.verdict == "fail" or c.on_unknown == "fail" else "warning"
    figures = {"limit": c.limit, "property": c.property, "require": c.require, "evidence": c.evidence}
    figures |= {"witnessed": text.finite(c.witnessed), "proven": text.finite(c.proven)}
    return _result(c.reason or "open", level, c.id, text.check_words(c), report, figures)


def _error(e: CheckError, report: Report) -> dict[str, Any]:
    x = e.error
    words = "; ".join(
        [f"{x.code}: {x.message}", *(f"{k}: {v}" for k, v in (("where", x.where), ("found", x.found)) if v)]
    )
    return _result("error", "error", e.check, words, report, {"code": x.code})


def _result(
    rule: str, level: str, check: str, words: str, report: Report, properties: dict[str, Any]
) -> dict[str, Any]:
    name = printable(check)
    place = text.place(report, check)
    location: dict[str, Any] = {"logicalLocations": [{"name": name, "kind": "member"}]}
    if place is not None:
        file, line, column = place
        uri = {"uri": quote(PurePath(file).as_posix())}
        if not PurePath(file).is_absolute():
            uri["uriBaseId"] = "%SRCROOT%"
        region = {"startLine": line, "startColumn": column}
        location["physicalLocation"] = {"artifactLocation": uri, "region": region}
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": printable(f"{check}: {words}", 4000)},
        "locations": [location],
        "partialFingerprints": {"qebgate/v1": hashlib.sha256(f"{check}\0{rule}".encode()).hexdigest()},
        "properties": properties,
    }
