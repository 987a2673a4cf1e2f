"""What a run would do."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qebgate.errors import printable
from qebgate.plan import Plan


def render_plan(plan: Plan, console: Console) -> None:
    """Print one line per check: its models, region, runtimes and tasks."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("check", "model", "region", "limit", "runtimes", "effort", "tasks"):
        table.add_column(name, overflow="fold")
    for c in plan.checks:
        s = c.spec
        limit = f"{s.property.kind} {s.property.limit:g}"
        row = (s.id, s.model, s.region, limit, ", ".join(c.model.runtimes), s.effort, str(len(c.jobs)))
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)
    console.print(f"{plan.tasks} tasks in {len(plan.checks)} checks")
