"""What this machine cannot guard or was not measured on, in coded words."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path

STATM = Path("/proc/self/statm")
"""Where Linux tells a process its memory."""


def measured() -> bool:
    """Whether the runtimes' kernels were measured on machines of this kind: Linux on x86-64."""
    return platform.system() == "Linux" and platform.machine() in ("x86_64", "AMD64")


def shortcomings() -> tuple[str, ...]:
    """A line for everything that a run on Linux on x86-64 has and one on this machine has not."""
    machine = f"{platform.system()} on {platform.machine()}"
    found: list[str] = []
    if not measured():
        found.append(
            f"QEB930: only Linux on x86-64 was measured, and this is {machine}: the runtimes' kernels here may round "
            "otherwise than the ones that verdicts are about"
        )
    if importlib.util.find_spec("resource") is None:
        found.append(
            f"QEB931: {platform.system()} cannot limit the memory and the processor time of the processes that run "
            "models: check models of strangers on Linux only"
        )
    if not STATM.exists():
        found.append(
            f"QEB932: {platform.system()} does not tell a process its memory: `guard.memory` is not enforced; "
            "end the job from outside where memory is short"
        )
    return tuple(found)
