"""The report for people at a terminal (and in logs: no colour, no cursor movement there)."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qebgate.errors import QebgateError, printable
from qebgate.report import text
from qebgate.result import CheckResult, Report

STYLE = {"pass": "bold green", "fail": "bold red", "unknown": "bold yellow", None: "bold red"}


def render_terminal(report: Report, console: Console) -> None:
    """Print the checks, the worst tasks of those that did not pass, a line of summary, and how to repeat a failure."""
    if report.checks:
        console.print(_table(report))
    for c in report.checks:
        if c.verdict != "pass":
            _details(c, console)
    for e in report.errors:
        console.print()
        console.print(Text(f"{printable(e.check)}: could not run", style="bold red"))
        render_error(e.error, console)
    for c in report.checks:
        words = text.beside(c)
        if words and c.verdict == "pass":
            console.print()
            _line(console, f"{printable(c.id)}:")
        if c.verdict == "pass":
            for w in words:
                _line(console, f"  {w}")
    notes = list(dict.fromkeys(a for c in report.checks for a in c.assumptions))
    if notes:
        console.print()
        console.print(Text("What the verdicts rest on:", style="dim"))
        for n in notes:
            _line(console, f"  - {printable(n, 1000)}", "dim")
    console.print()
    for n in report.notes:
        _line(console, f"note: {printable(n, 400)}")
    _line(console, text.summary(report), STYLE[report.verdict])
    if report.verdict != "pass":
        _line(console, f"To reproduce: {text.reproduce(report, text.bad_checks(report)[:20])}")


def _line(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style=style), soft_wrap=True)


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name, justify in (
        ("check", "left"),
        ("verdict", "left"),
        ("witnessed", "right"),
        ("proven", "right"),
        ("limit", "right"),
        ("evidence", "left"),
        ("tasks", "left"),
        ("time", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=name not in ("check", "tasks"), overflow="fold")  # type: ignore[arg-type]
    for c in report.checks:
        table.add_row(
            Text(printable(c.id)),
            Text(text.MARK[c.verdict], style=STYLE[c.verdict]),
            Text(text.witnessed(c.witnessed, c.limit)),
            Text(text.proven(c.proven, c.limit)),
            Text(text.limit_words(c)),
            Text(c.evidence or "-"),
            Text(text.counts(c)),
            Text(f"{sum(t.seconds for t in c.tasks):.2f} s"),
        )
    return table


def _details(c: CheckResult, console: Console, n: int = 5) -> None:
    console.print()
    title = f"{printable(c.id)}: {text.MARK[c.verdict]}"
    if c.reason:
        title += f", {text.REASON[c.reason]}"
    if not c.complete:
        title += " (interrupted)"
    if c.verdict == "unknown" and c.on_unknown == "warn":
        title += " (the policy only warns)"
    _line(console, title, STYLE[c.verdict])
    shown = [t for t in text.worst(c, n) if t.verdict != "pass"]
    for t in shown:
        figures = f"witnessed {text.witnessed(t.witnessed, c.limit)}, proven {text.proven(t.proven, c.limit)}"
        words = (
            f"  row {t.index}, {printable(t.runtime)}: {t.reason or t.verdict}; {figures}, limit {text.number(c.limit)}"
        )
        _line(console, words + (f" ({printable(t.engine)})" if t.engine else ""))
        if text.noise_words(t):
            _line(console, f"    {text.noise_words(t)}")
        if t.witness is not None:
            _line(console, f"    {text.class_words(c, t) or text.gap_words(t)}")
            if t.witness.file is not None:
                _line(console, f"    input written to {printable(t.witness.file, 4000)}")
    more = sum(t.verdict != "pass" for t in c.tasks) - len(shown)
    if more > 0:
        _line(console, f"  and {more} more")
    for w in text.beside(c):
        _line(console, f"  {w}")
    if c.verdict == "unknown" and c.reason == "effort":
        _line(console, "  a higher `effort`, a smaller region or a larger limit can decide it", "dim")


def render_error(e: QebgateError, console: Console) -> None:
    """Print a coded error with all that belongs to it."""
    _line(console, f"error {e.code}: {printable(e.message, 2000)}", "red")
    for label, value in (("where", e.where), ("found", e.found), ("fix", e.fix)):
        if value:
            _line(console, f"  {label}: {printable(value, 2000)}")
    for r in e.related:
        render_error(r, console)
