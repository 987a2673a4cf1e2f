"""``qebgate baseline update`` and ``diff``: the ratchet from the command line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qebgate.cli.commands import CheckArgs, console, load, repeating
from qebgate.errors import ExitCode, PolicyError, printable
from qebgate.result import CheckResult, Report


def update(args: CheckArgs) -> int:
    """Run the gate without the ratchet and record what its passes have proven; other checks keep what they had."""
    from qebgate.baseline import Entry, entry_of, path_of, read_baseline, updated
    from qebgate.cli.progress import watching
    from qebgate.gate import Options, check
    from qebgate.plan import make_plan
    from qebgate.report.terminal import render_error
    from qebgate.report.witness import write_file

    source, err = load(args), console(stderr=True)
    path = path_of(source)
    old = read_baseline(path)
    command = ("qebgate", "baseline", "update", *repeating(args)[2:])
    with watching(err) as observer:
        report = check(source, Options(tuple(args.checks), args.jobs, command, observer, ratchet=False))
    planned = {c.spec.id: c for c in make_plan(source, args.checks).checks}
    entries: dict[str, Entry] = {}
    for c in report.checks:
        entry = entry_of(planned[c.id], c) if c.id in planned else None
        if entry is not None:
            entries[c.id] = entry
    out = console()
    for e in report.errors:
        render_error(e.error, err)
    if entries:
        try:
            write_file(path, updated(old, entries, [c.id for c in source.policy.checks]).encode())
        except OSError as e:
            raise PolicyError(
                "QEB233", "the baseline cannot be written", where=printable(path), found=e.strerror
            ) from None
    for c in report.checks:
        was = old.checks.get(c.id)
        before = "" if was is None else f" (was {max(r.proven for r in was.runtimes.values()):.6g})"
        if c.id in entries:
            words = f"{c.proven:.6g}{before}"
        else:
            words = f"not recorded: {c.verdict}, {_why(c)}" + (f"; still {before[6:-1]}" if before else "")
        out.print(Text(f"{printable(c.id)}: {words}"), soft_wrap=True)
    out.print(Text(f"{len(entries)} of {len(report.checks)} checks recorded in {printable(path)}"), soft_wrap=True)
    complete = entries and len(entries) == len(report.checks) and not report.errors
    return int(ExitCode.PASS if complete else report.exit_code)


def _why(c: CheckResult) -> str:
    if any(t.waived for t in c.tasks):
        return "by a waiver"
    return "without a proven bound" if c.verdict == "pass" else c.reason or "not complete"


def diff(args: CheckArgs) -> int:
    """Run the gate and show each bound beside the baseline's; the gate's exit code."""
    from qebgate.cli.progress import watching
    from qebgate.gate import Options, check
    from qebgate.policy.demands import BaselineSpec

    source = load(args)
    if source.policy.baseline is None:
        policy = source.policy.model_copy(update={"baseline": BaselineSpec()})
        source = type(source)(policy, source.path, source.root, source.sha256, source.document)
    command = ("qebgate", "baseline", "diff", *repeating(args)[2:])
    with watching(console(stderr=True)) as observer:
        report = check(source, Options(tuple(args.checks), args.jobs, command, observer))
    render(report, console())
    return int(report.exit_code)


def render(report: Report, out: Console) -> None:
    """A line for every check: the baseline's bound, the bound now, what it may be."""
    from qebgate.report.terminal import render_error

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    columns: Sequence[str] = ("check", "verdict", "baseline", "now", "change", "allowed", "limit", "")
    for name in columns:
        table.add_column(name, overflow="fold")
    for c in report.checks:
        b = c.baseline
        was = None if b is None else b.proven
        change = "-"
        if b is not None and b.state == "compared" and was is not None and c.proven is not None:
            change = "0 %" if c.proven == was else f"{100 * (c.proven / was - 1):+.3g} %" if was > 0 else "from 0"
        words = c.verdict + (f", {c.reason}" if c.reason else "")
        note = "" if b is None or b.state == "compared" else b.note
        cells = (c.id, words, _number(was), _number(c.proven), change, _number(None if b is None else b.allowed))
        table.add_row(*(Text(printable(x, 400)) for x in (*cells, f"{c.limit:g}", note)))
    out.print(table)
    for e in report.errors:
        render_error(e.error, out)


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.6g}"
