"""What a replayed witness gives: a table for people, JSON for programs."""

from __future__ import annotations

import json
import math

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qebgate.errors import printable
from qebgate.replay import Replay, Replayed
from qebgate.report import text


def render_replay(found: Replay, console: Console) -> None:
    """One line per runtime: the worst output there, its gap, and the figure beside the limit."""
    console.print(
        Text(f"Witness of {printable(found.check)}, row {found.row}, found in {printable(found.found_in, 60)}"),
        soft_wrap=True,
    )
    for side in found.changed:
        line = f"the {side} model is not the one that the witness was found on: it has changed since"
        console.print(Text(line, style="bold yellow"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("runtime", "output", "quantized", "float there", "float64", "gap", found.kind, "limit", ""):
        table.add_column(name, justify="left" if name in ("runtime", "") else "right", no_wrap=name != "runtime")
    for r in found.runs:
        k = _worst(r)
        beyond = not r.figure <= found.limit
        table.add_row(
            Text(printable(r.runtime)),
            str(found.outputs[k]),
            f"{r.quantized[k]:.9g}",
            f"{r.quantized[k] - r.gap[k]:.9g}",
            f"{r.reference[k]:.9g}",
            f"{r.gap[k]:.9g}",
            text.witnessed(r.figure, found.limit),
            text.number(found.limit),
            Text("beyond the limit" if beyond else "within", style="bold red" if beyond else "green"),
        )
    console.print(table)
    if not all(r.agrees for r in found.runs):
        console.print(Text("a runtime does not compute what qebgate does: please report it", style="bold red"))
    beyond = sum(not r.figure <= found.limit for r in found.runs)
    words = f"beyond the limit in {beyond} of {len(found.runs)} runtimes" if beyond else "within the limit everywhere"
    console.print(Text(words, style="bold red" if beyond else "bold green"))


def replay_json(found: Replay) -> str:
    """The same as one line of JSON."""
    runs = [
        {
            "runtime": {"name": r.runtime.name, "version": r.runtime.version},
            "figure": _number(r.figure),
            "beyond": not r.figure <= found.limit,
            "gap": [_number(v) for v in r.gap.tolist()],
            "quantized": [_number(v) for v in r.quantized.tolist()],
            "reference": [_number(v) for v in r.reference.tolist()],
            "executed_alike": r.agrees,
        }
        for r in found.runs
    ]
    about = {
        "schema": 1,
        "check": found.check,
        "row": found.row,
        "property": found.kind,
        "limit": found.limit,
        "outputs": list(found.outputs),
        "claimed": None if found.claimed is None else _number(found.claimed),
        "changed": list(found.changed),
        "runs": runs,
        "exit_code": int(found.exit_code),
    }
    return json.dumps(about, ensure_ascii=True, allow_nan=False) + "\n"


def _number(v: float) -> float | None:
    return v if math.isfinite(v) else None


def _worst(r: Replayed) -> int:
    return int(np.argmax(np.abs(r.gap)))
