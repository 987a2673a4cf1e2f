"""Progress on the error stream: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from qebgate.errors import printable
from qebgate.gate import Observer
from qebgate.plan import Plan
from qebgate.result import TaskResult

HEARTBEAT = 30.0
"""Seconds between lines in a log."""


@contextmanager
def watching(console: Console) -> Generator[Observer, None, None]:
    """An observer that shows a run's progress while the context lasts."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield _Bar(bar)


class _Lines:
    def __init__(self, console: Console) -> None:
        self.console = console
        self.last = time.monotonic()
        self.done = 0
        self.total = 0

    def planned(self, plan: Plan) -> None:
        self.total = plan.tasks

    def working(self, what: str, done: int, total: int | None) -> None:
        if time.monotonic() - self.last < HEARTBEAT:
            return
        self.last = time.monotonic()
        steps = f"{what} {done}" + (f" of {total}" if total is not None else "")
        self.console.print(f"{self.done} of {self.total} tasks done; {printable(steps)}", soft_wrap=True)

    def finished(self, result: TaskResult) -> None:
        self.done += 1
        self.working(f"after {result.check}, row", result.index, None)


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.tasks = bar.add_task("reading models", total=None)
        self.step = bar.add_task("", total=None, visible=False)

    def planned(self, plan: Plan) -> None:
        self.bar.update(self.tasks, description="tasks", total=plan.tasks)

    def working(self, what: str, done: int, total: int | None) -> None:
        self.bar.update(self.step, description=printable(what, 40), completed=done, total=total, visible=True)

    def finished(self, result: TaskResult) -> None:
        self.bar.update(self.step, visible=False)
        self.bar.update(self.tasks, description=printable(result.check, 40), advance=1)
