"""GitLab's code quality report: one issue for each check that did not pass, on the policy's line.

Source: GitLab's documentation of the code quality report format (a subset of Code Climate's).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePath
from typing import Any

from qebgate.errors import printable
from qebgate.report import text
from qebgate.result import Report


def render_codequality(report: Report) -> str:
    """The report as JSON."""
    return json.dumps(to_issues(report), ensure_ascii=True) + "\n"


def to_issues(report: Report) -> list[dict[str, Any]]:
    """The issues as plain data; a check that could not run blocks."""
    found = [
        _issue(report, c.id, text.check_words(c), "critical" if c.verdict == "fail" else _open(c.on_unknown))
        for c in text.worst_checks(report)
    ]
    return found + [
        _issue(report, e.check, f"could not run: {e.error.code}: {e.error.message}", "blocker") for e in report.errors
    ]


def _open(on_unknown: str) -> str:
    return "major" if on_unknown == "fail" else "minor"


def _issue(report: Report, check: str, words: str, severity: str) -> dict[str, Any]:
    place = text.place(report, check)
    file, line = (report.policy or "qebgate.yaml", 1) if place is None else place[:2]
    return {
        "description": printable(f"{check}: {words}", 4000),
        "check_name": "qebgate",
        "fingerprint": hashlib.sha256(f"{check}\0{severity}".encode()).hexdigest(),
        "severity": severity,
        "location": {"path": PurePath(file).as_posix(), "lines": {"begin": line}},
    }
