"""Workflow commands that GitHub Actions turns into annotations on the policy's lines.

Source: GitHub's documentation of workflow commands (``::error file=,line=,col=,title=::message``).
"""

from __future__ import annotations

import os
from pathlib import Path

from qebgate.errors import PolicyError, QebgateError, printable
from qebgate.report import text
from qebgate.result import CheckError, CheckResult, Report

WORST = 10
"""GitHub shows ten annotations of each kind and step."""
LENGTH = 4000


def render_github(report: Report) -> str:
    """The worst ten checks that did not pass, and the verdict of the run."""
    lines = [_error(e, report) for e in report.errors]
    lines += [_check(c, report) for c in text.worst_checks(report)]
    more = len(lines) - WORST
    lines = lines[:WORST]
    if more > 0:
        lines.append(command("notice", f"{more} more checks did not pass; the job summary has them all", "qebgate"))
    lines.append(command("notice", text.summary(report), "qebgate"))
    return "".join(line + "\n" for line in lines)


def render_policy_error(error: PolicyError) -> str:
    """A policy that could not be read: every error at its place."""
    found = [error, *error.related][:WORST]
    return "".join(_coded("error", e, "qebgate: policy") + "\n" for e in found)


def command(level: str, message: str, title: str, place: tuple[str, int, int] | None = None) -> str:
    """One workflow command; whatever the message holds, it stays one line."""
    properties = {"title": title}
    if place is not None:
        properties |= {"file": _in_workspace(place[0]), "line": str(place[1]), "col": str(place[2])}
    inner = ",".join(f"{k}={_property(v)}" for k, v in properties.items())
    return f"::{level} {inner}::{_data(printable(message, LENGTH))}"


def _check(c: CheckResult, report: Report) -> str:
    level = "error" if c.verdict == "fail" or c.on_unknown == "fail" else "warning"
    return command(level, text.check_words(c), f"qebgate: {c.id} {text.MARK[c.verdict]}", text.place(report, c.id))


def _error(e: CheckError, report: Report) -> str:
    return _coded("error", e.error, f"qebgate: {e.check} could not run", text.place(report, e.check))


def _coded(level: str, e: QebgateError, title: str, place: tuple[str, int, int] | None = None) -> str:
    parts = [f"{e.code}: {e.message}", *(f"{k}: {v}" for k, v in (("where", e.where), ("found", e.found)) if v)]
    if e.fix:
        parts.append(f"fix: {e.fix}")
    return command(level, "; ".join(parts), title, place or text.parse_place(e.where))


def _in_workspace(file: str) -> str:
    """A path as the repository sees it, which is how annotations find their file."""
    workspace = os.environ.get("GITHUB_WORKSPACE")
    path = Path(file)
    if workspace:
        try:
            return path.absolute().relative_to(Path(workspace).absolute()).as_posix()
        except ValueError:
            pass
    return path.as_posix()


def _data(s: str) -> str:
    return s.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(s: str) -> str:
    return _data(printable(s, 300)).replace(":", "%3A").replace(",", "%2C")
