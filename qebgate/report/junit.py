"""JUnit XML: a test suite for each check, a test case for each task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qebgate.errors import printable
from qebgate.report import text
from qebgate.result import CheckError, CheckResult, Report, TaskResult

if TYPE_CHECKING:
    from junitparser import TestCase


def render_junit(report: Report) -> str:
    """The report as JUnit XML; a task that stays open fails where the policy says so, else it is skipped."""
    from junitparser import JUnitXml, TestSuite

    xml = JUnitXml("qebgate")
    for c in report.checks:
        suite = TestSuite(printable(c.id))
        suite.add_property("evidence", c.evidence or "none")
        suite.add_property("limit", repr(c.limit))
        suite.add_testcases([_case(c, t) for t in c.tasks] or [_alone(c)])
        xml.add_testsuite(suite)
    for e in report.errors:
        suite = TestSuite(printable(e.check))
        suite.add_testcase(_error(e))
        xml.add_testsuite(suite)
    xml.update_statistics()
    return xml.tostring().decode() + "\n"


def _case(c: CheckResult, t: TaskResult) -> TestCase:
    from junitparser import Failure, Skipped, TestCase

    case = TestCase(f"row {t.index}, {printable(t.runtime)}", classname=printable(c.id), time=t.seconds)
    if t.verdict == "pass":
        return case
    figures = f"witnessed {text.witnessed(t.witnessed, c.limit)}, proven {text.proven(t.proven, c.limit)}"
    words = f"{text.REASON[t.reason]}: {figures}, limit {text.number(c.limit)}"
    warns = t.verdict == "unknown" and c.on_unknown == "warn"
    found = Skipped(words) if warns else Failure(words, t.reason or t.verdict)
    note = "; ".join(n for n in (text.gap_words(t), text.noise_words(t)) if n)
    if note:
        found.text = printable(note, 2000)
    case.result = [found]
    return case


def _alone(c: CheckResult) -> TestCase:
    from junitparser import Skipped, TestCase

    case = TestCase("no task was finished", classname=printable(c.id))
    case.result = [Skipped("interrupted")]
    return case


def _error(e: CheckError) -> TestCase:
    from junitparser import Error, TestCase

    case = TestCase("could not run", classname=printable(e.check))
    x = e.error
    found = Error(printable(x.message, 2000), x.code)
    lines = [f"{k}: {printable(v, 2000)}" for k, v in (("where", x.where), ("found", x.found), ("fix", x.fix)) if v]
    found.text = "\n".join(lines)
    case.result = [found]
    return case
