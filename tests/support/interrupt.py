"""Ctrl-C at a moment that does not depend on the machine's speed: once the first task is finished."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

DRIVER = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "import qebgate.cli.progress as progress; progress.HEARTBEAT = 0.0;"
    "from qebgate.cli import run; sys.exit(run(sys.argv[1:]))"
)
"""The command line, saying how many tasks are done after each of them instead of every half a minute.

A background job of a shell without job control starts with SIGINT ignored, and so do all processes below it: the
tests must be able to run there too, so the child takes the signal back.
"""
PATIENCE = 120.0
"""Seconds until the first task must be finished."""


def interrupted(folder: Path, env: Mapping[str, str], *words: str, tasks: int = 1) -> tuple[int, str, str]:
    """Run a command line and interrupt its process group after so many tasks: exit code, output, error output.

    Checks that nothing of the group is left running.
    """
    log = folder / "stderr.log"
    with log.open("w") as err, subprocess.Popen(
        [sys.executable, "-c", DRIVER, *words],
        cwd=folder, env=dict(env), stdout=subprocess.PIPE, stderr=err, text=True, start_new_session=True,
    ) as p:  # fmt: skip
        try:
            deadline = time.monotonic() + PATIENCE
            while max([0, *map(int, re.findall(r"(?m)^(\d+) of \d+ tasks done", log.read_text()))]) < tasks:
                assert p.poll() is None, f"the run ended before it could be interrupted: {log.read_text()}"
                assert time.monotonic() < deadline, "no task was finished in time"
                time.sleep(0.02)
            os.killpg(p.pid, signal.SIGINT)
            out, _ = p.communicate(timeout=60)
        except BaseException:
            os.killpg(p.pid, signal.SIGKILL)
            raise
    deadline = time.monotonic() + 10
    while True:
        try:
            os.killpg(p.pid, 0)
        except ProcessLookupError:
            return p.returncode, out, log.read_text()
        assert time.monotonic() < deadline, "processes were left behind"
        time.sleep(0.05)
