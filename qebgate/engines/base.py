"""The contract of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qebgate.engines.concrete import Session
from qebgate.evidence import Evidence
from qebgate.task import Budget, Task


class Engine(Protocol):
    """``run`` adds facts about a task to those already known; an empty list says that it does not apply.

    It raises only coded errors and bugs: giving up is a ``Stopped``.
    """

    name: str

    def run(self, task: Task, known: Sequence[Evidence], budget: Budget, session: Session) -> list[Evidence]: ...
