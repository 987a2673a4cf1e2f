"""The contract of an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from qebgate.evidence import Evidence
from qebgate.task import Budget, Task

Progress = Callable[[str, int, int | None], None]
"""``progress(what, done, total)``: called from time to time by long work."""


def silent(what: str, done: int, total: int | None) -> None:
    """Progress that goes nowhere."""
    del what, done, total


class Engine(Protocol):
    """``run`` adds facts about a task to those already known.

    It raises only coded errors and bugs: giving up is a ``Stopped``.
    """

    name: str

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, progress: Progress = silent) -> list[Evidence]: ...
