"""The job summary of a CI run."""

from __future__ import annotations

from qebgate.errors import printable
from qebgate.report import text
from qebgate.result import CheckError, CheckResult, Report, TaskResult

MAX_BYTES = 1_000_000
"""GitHub refuses a step summary above 1 MiB."""
ICON = {"pass": "✅", "fail": "❌", "unknown": "❔", None: "💥"}


def escape(value: object, limit: int = 200) -> str:
    """Text from a file as inert Markdown: everything that could be markup becomes an entity."""
    shown = printable(value, limit)
    inert = "".join(c if c.isalnum() or c in " ,;:.-=" or ord(c) > 126 else f"&#{ord(c)};" for c in shown)
    return inert.replace("www.", "www&#46;")


def render_markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown, cut to GitHub's limit."""
    head = [
        f"## {ICON[report.verdict]} qebgate: {escape(text.summary(report), 1000)}",
        "",
        "| check | verdict | witnessed | proven | limit | evidence | tasks |",
        "|---|---|---:|---:|---:|---|---|",
        *(_row(c) for c in report.checks),
        "",
    ]
    blocks = [_error(e) for e in report.errors]
    blocks += [_check(c) for c in report.checks if c.verdict != "pass"]
    blocks += [_beside(c) for c in report.checks if text.beside(c)]
    blocks += [f"- note: {escape(n, 400)}" for n in report.notes]
    blocks += [_assumptions(c) for c in report.checks]
    tail: list[str] = []
    bad = text.bad_checks(report)
    if report.verdict != "pass":
        tail = ["To reproduce:", "", f"<pre>{escape(text.reproduce(report, bad[:20]), 8000)}</pre>", ""]
    return _fit(head, blocks, tail)


def _fit(head: list[str], blocks: list[str], tail: list[str]) -> str:
    left = MAX_BYTES - len("\n".join(tail).encode()) - 200
    out: list[str] = []
    for k, line in enumerate([*head, *blocks]):
        left -= len(line.encode()) + 1
        if left < 0:
            out += [
                "",
                f"… {len(head) + len(blocks) - k} more parts were left out: the summary would be too large.",
                "",
            ]
            break
        out.append(line)
    return "\n".join([*out, *tail])


def _row(c: CheckResult) -> str:
    figures = f"{text.witnessed(c.witnessed, c.limit)} | {text.proven(c.proven, c.limit)} | {text.limit_words(c)}"
    evidence = c.evidence or "-"
    return f"| {escape(c.id)} | {ICON[c.verdict]} {text.MARK[c.verdict]} | {figures} | {evidence} | {text.counts(c)} |"


def _check(c: CheckResult) -> str:
    lines = [f"### {escape(c.id)}: {text.MARK[c.verdict]}", "", escape(text.REASON[c.reason]), ""]
    lines += [
        "| row | runtime | verdict | witnessed | proven | engine | |",
        "|---:|---|---|---:|---:|---|---|",
        *(_task(t, c) for t in text.worst(c, 10)),
        "",
    ]
    return "\n".join(lines)


def _task(t: TaskResult, c: CheckResult) -> str:
    figures = f"{text.witnessed(t.witnessed, c.limit)} | {text.proven(t.proven, c.limit)}"
    note = text.class_words(c, t) or text.gap_words(t) or text.noise_words(t)
    if t.witness is not None and t.witness.file is not None:
        note += f"; input in {t.witness.file}"
    return (
        f"| {t.index} | {escape(t.runtime)} | {text.MARK[t.verdict]} {t.reason or ''} | {figures} "
        f"| {escape(t.engine or '-')} | {escape(note, 400)} |"
    )


def _error(e: CheckError) -> str:
    lines = [f"### {escape(e.check)}: could not run", ""]
    x = e.error
    for label, value in (("", f"{x.code}: {x.message}"), ("where", x.where), ("found", x.found), ("fix", x.fix)):
        if value:
            lines.append(f"- {label + ': ' if label else ''}{escape(value, 1000)}")
    return "\n".join([*lines, ""])


def _beside(c: CheckResult) -> str:
    items = "\n".join(f"- {escape(w, 1000)}" for w in text.beside(c))
    return f"{escape(c.id)}:\n\n{items}\n"


def _assumptions(c: CheckResult) -> str:
    items = "\n".join(f"- {escape(a, 1000)}" for a in c.assumptions)
    return f"<details><summary>What the verdict on {escape(c.id)} rests on</summary>\n\n{items}\n\n</details>\n"
