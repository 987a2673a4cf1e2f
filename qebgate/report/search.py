"""The report of a search for counterexamples, which proves nothing."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from qebgate.errors import printable
from qebgate.report import text
from qebgate.report.terminal import render_error
from qebgate.result import Report

SHOWN = 10
"""Tasks shown of one check, the largest figures first."""


def render_search(report: Report, console: Console) -> None:
    """The largest gap found for each task, beside the limit, and where its input was written."""
    for c in report.checks:
        _line(console, f"{printable(c.id)}: limit {text.number(c.limit)}{' lsb' if c.property == 'max_lsb' else ''}")
        for t in text.worst(c, SHOWN):
            beyond = t.verdict == "fail"
            what = "beyond the limit" if beyond and t.reason == "refuted" else t.reason or "within the limit"
            line = f"  row {t.index}, {printable(t.runtime)}: {text.witnessed(t.witnessed, c.limit)}, {what}"
            _line(console, f"{line}; {t.seconds:.2f} s", "red" if beyond else "")
            if t.witness is not None:
                file = "" if t.witness.file is None else f"; input written to {printable(t.witness.file, 4000)}"
                _line(console, f"    {text.gap_words(t)}{file}")
        more = len(c.tasks) - SHOWN
        if more > 0:
            _line(console, f"  and {more} more")
    for e in report.errors:
        _line(console, f"{printable(e.check)}: could not run", "bold red")
        render_error(e.error, console)
    found = sum(t.verdict == "fail" for c in report.checks for t in c.tasks)
    tasks = sum(len(c.tasks) for c in report.checks)
    words = f"{found} of {tasks} tasks with a counterexample" if found else f"no counterexample in {tasks} tasks"
    state = "INTERRUPTED: " if report.interrupted else ""
    _line(console, f"{state}{words}; a search proves nothing; {report.seconds:.1f} s", "bold red" if found else "bold")


def _line(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style=style), soft_wrap=True)
