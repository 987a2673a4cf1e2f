"""What `qebgate doctor` found, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qebgate.doctor import Comparison, Diagnosis
from qebgate.errors import ExitCode


def render_diagnosis(d: Diagnosis, console: Console) -> None:
    """Tables of packages and runtimes, then what to do."""
    console.print(Text(f"qebgate {d.version}, Python {d.python}, {d.machine}", style="bold"), soft_wrap=True)
    packages = _table("package", "version", "for")
    for p in d.packages:
        packages.add_row(p.name, p.version or "missing", p.purpose + (f" (extra [{p.extra}])" if p.extra else ""))
    console.print(packages)
    runtimes = _table("runtime", "version", "self-test")
    for r in d.runtimes:
        runtimes.add_row(r.runtime, r.version or "missing", _verdict(r))
    console.print(runtimes)
    for line in d.advice:
        console.print(f"- {line}", soft_wrap=True)
    whole = d.exit_code is ExitCode.PASS
    end = "ready" if whole else "not ready: verdicts cannot be given, or not be relied on"
    console.print(Text(f"{end}; {d.seconds:.1f} s", style="bold green" if whole else "bold red"))


def diagnosis_json(d: Diagnosis) -> str:
    """The same as data."""
    return json.dumps({"doctor": 1, **asdict(d), "exit_code": int(d.exit_code)}, indent=1) + "\n"


def _verdict(r: Comparison) -> str:
    if r.problem is not None:
        return r.problem
    return f"{r.mismatches} mismatches in {r.compared} outputs"


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for n in names:
        table.add_column(n, overflow="fold")
    return table
