"""What a run would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qebgate.errors import printable
from qebgate.plan import Plan


@dataclass(frozen=True, slots=True)
class Before:
    """What earlier runs left, by the check's id: how many tasks are ``stored``; tasks and seconds of the last run."""

    stored: Mapping[str, int]
    last: Mapping[str, tuple[int, float]]


def render_plan(plan: Plan, console: Console, before: Before) -> None:
    """Print one line per check: its models, region, runtimes and tasks, and how long they took last time."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("check", "model", "region", "limit", "runtimes", "effort", "tasks", "in the cache", "last time"):
        table.add_column(name, overflow="fold")
    for c in plan.checks:
        s = c.spec
        limit = f"{s.property.kind} {s.property.limit:g}"
        row = (s.id, s.model, s.region, limit, ", ".join(c.model.runtimes), s.effort, str(len(c.jobs)))
        tasks, seconds = before.last.get(s.id, (0, 0.0))
        row += (str(before.stored.get(s.id, 0)), f"{seconds:.1f} s for {tasks}" if tasks else "-")
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)
    ids = [c.spec.id for c in plan.checks]
    stored = sum(before.stored.get(i, 0) for i in ids)
    words = f"{plan.tasks} tasks in {len(plan.checks)} checks"
    if stored:
        words += f", {stored} of them in the cache"
    known = [before.last[i] for i in ids if i in before.last]
    if known:
        words += f"; last time {sum(n for n, _ in known)} tasks took {sum(s for _, s in known):.1f} s of computing"
    console.print(words, soft_wrap=True)
