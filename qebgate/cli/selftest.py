"""``qebgate selftest``."""

from __future__ import annotations

import sys

from qebgate._version import __version__
from qebgate.errors import ExitCode
from qebgate.runtimes.replay import runtime_version


def selftest() -> int:
    """Ask the gate about planted pairs; one line for each answer."""
    from qebgate.selftest import trials

    wrong = total = 0
    for t in trials():
        total += 1
        wrong += not t.right
        word = "ok   " if t.right else "WRONG"
        asked = f"{t.kind}: {t.question} (limit {t.limit:.6g})"
        sys.stdout.write(f"{word} {asked}: {t.verdict}, expected {t.expected}; {t.seconds:.1f} s\n")
        sys.stdout.flush()
    about = f"qebgate {__version__}, ai-edge-litert {runtime_version()}"
    sys.stdout.write(f"{total - wrong} of {total} answers about planted counterexamples are right ({about})\n")
    return int(ExitCode.BUG if wrong else ExitCode.PASS)
