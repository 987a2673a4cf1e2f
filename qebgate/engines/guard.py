"""Wall-clock and memory guards around one task."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

from qebgate.task import Budget


class GuardedStop(Exception):  # noqa: N818  (ends an engine, is no error)
    """Raised inside an engine whose guard or effort was overtaken; the portfolio turns it into a ``Stopped``."""

    def __init__(self, reason: Literal["guard_time", "guard_memory", "effort"], detail: str) -> None:
        super().__init__(detail)
        self.reason: Literal["guard_time", "guard_memory", "effort"] = reason
        self.detail = detail


class Guard:
    """Call it often: raises GuardedStop once the budget's seconds or memory are used up."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._deadline = time.monotonic() + budget.seconds

    def __call__(self) -> None:
        if time.monotonic() > self._deadline:
            raise GuardedStop("guard_time", f"stopped after {self._budget.seconds:.3g} s")
        used = resident()
        if used > self._budget.memory:
            raise GuardedStop("guard_memory", f"stopped at {used / 2**20:.0f} MiB")


def resident() -> int:
    """Memory of this process in bytes; 0 where the system does not tell (no /proc)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
