"""Where a bound comes from, as tables for people and as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qebgate.errors import printable
from qebgate.explain import Explanation, Source
from qebgate.report import text

SCHEMA_VERSION = 1
CHANNELS = 10
"""Channels that are shown."""
LEAST = 5e-4
"""Share of the bound below which a source has no column."""

WORDS: dict[Source, str] = {
    "weights": "weight rounding",
    "biases": "bias rounding",
    "rounding": "activation rounding",
    "saturation": "saturation",
    "input": "input quantization",
    "unstable": "unstable neurons",
    "float32": "float32 evaluation of the reference",
    "intervals": "bounded by intervals only",
    "region": "inputs' freedom beyond the centre",
    "roundoff": "our own outward rounding",
    "tightening": "won by other bounds of the same output",
}


def render_explanation(e: Explanation, console: Console) -> None:
    """Print the worst task, its bound by layer and source, the largest channels, the noise floor, and advice."""
    c, t = e.check, e.task
    _line(
        console,
        f"{printable(c.id)}: {text.MARK[c.verdict]}; its worst task is row {t.index}, {printable(t.runtime)}: "
        f"{text.MARK[t.verdict]}, witnessed {text.witnessed(t.witnessed, c.limit)}, proven "
        f"{text.proven(t.proven, c.limit)}{f' ({printable(t.engine)})' if t.engine else ''}, limit "
        f"{text.number(c.limit)}{' lsb' if c.property == 'max_lsb' else ''}",
        "bold",
    )
    if e.parts is None:
        _line(console, f"The analysis was stopped, so no bound can be taken apart: {printable(e.stopped or '')}")
    else:
        what = "input {} of the final softmax or sigmoid" if e.curve else "output {}"
        sign = "quantized - float" if e.parts.side == "upper" else "float - quantized"
        _line(console, f"Of {what.format(e.parts.entry)}, in real units: {sign} <= {text.proven(e.parts.bound)}")
        console.print()
        console.print(_layers(e))
        console.print()
        console.print(_channels(e))
    console.print()
    _line(console, _noise_words(e))
    if e.advice:
        console.print()
        _line(console, "What would help, most first:" if len(e.advice) > 1 else "What would help:", "bold")
        for a in e.advice:
            line = f"  - {printable(a.text, 2000)}"
            if a.effect is not None and e.parts is not None:
                line += f" [{_share(min(1.0, a.effect / e.parts.bound))} of the bound]"
            _line(console, line)


def _line(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style=style), soft_wrap=True)


def _share(x: float) -> str:
    return f"{100 * x:.1f} %" if abs(x) < 10 else f"{x:.0f} times"


def _amount(x: float, bound: float) -> str:
    return "" if abs(x) < LEAST * bound / 10 else f"{x:.4g}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for k, name in enumerate(columns):
        table.add_column(name, justify="left" if k == 0 else "right", overflow="fold")
    return table


def _layers(e: Explanation) -> Table:
    parts = e.parts
    assert parts is not None
    shown: list[Source] = [s for s in WORDS if any(abs(x.of(s)) >= LEAST * parts.bound for x in parts.shares)]
    table = _table("layer", *shown, "sum", "share")
    for x in parts.shares:
        cells = [_amount(x.of(s), parts.bound) for s in shown]
        if not any(cells):
            continue
        share = _share(x.total / parts.bound) if parts.bound > 0 else "-"
        table.add_row(Text(printable(x.label, 60)), *cells, _amount(x.total, parts.bound), share)
    sums = [_amount(parts.of(s), parts.bound) for s in shown]
    table.add_row(Text("all"), *sums, text.proven(parts.bound), "100.0 %", style="bold")
    return table


def top_channels(e: Explanation, n: int = CHANNELS) -> list[tuple[str, int, float, Source]]:
    """Layer, channel, amount and main source of the channels that add most."""
    found: list[tuple[str, int, float, Source]] = []
    for x in () if e.parts is None else (*e.parts.layers, e.parts.region):
        if not x.parts:
            continue
        total = x.channels
        for k in np.argsort(-total, kind="stable")[:n].tolist():
            main = max(x.parts, key=lambda s: float(x.parts[s][k]))
            found.append((x.label, int(k), float(total[k]), main))
    return sorted((f for f in found if f[2] > 0), key=lambda f: -f[2])[:n]


def _channels(e: Explanation) -> Table:
    assert e.parts is not None
    table = _table("channels that add most", "channel", "sum", "share", "mostly")
    for label, k, amount, main in top_channels(e):
        row = (str(k), f"{amount:.4g}", _share(amount / e.parts.bound), WORDS[main])
        table.add_row(Text(printable(label, 60)), *row)
    return table


def _noise_words(e: Explanation) -> str:
    what = "inputs of the final softmax or sigmoid" if e.curve else "outputs"
    against = "" if e.limit is None else f" and the limit of {e.limit:.6g}"
    return (
        f"Noise floor (every rounding as free noise, at the region's centre): {e.noise.worst:.4g}, against a range of "
        f"{e.noise.span:.4g} between the {what}{against}."
    )


def explanation_json(e: Explanation) -> str:
    """The same as one line of JSON."""
    return json.dumps(to_json(e), ensure_ascii=True, allow_nan=False) + "\n"


def _number(x: float | None) -> float | None:
    return float(x) if x is not None and math.isfinite(x) else None


def to_json(e: Explanation) -> dict[str, Any]:
    """The explanation as plain data.  All parts are there, so that they add up to ``bound``."""
    c, t = e.check, e.task
    return {
        "schema": SCHEMA_VERSION,
        "kind": "explanation",
        "tool": {"name": "qebgate", "version": e.report.version},
        "policy_sha256": e.report.policy_sha256,
        "check": c.id,
        "verdict": c.verdict,
        "exit_code": int(e.report.exit_code),
        "property": c.property,
        "limit": c.limit,
        "task": {
            "index": t.index,
            "runtime": {"name": t.runtime.name, "version": t.runtime.version},
            "verdict": t.verdict,
            "reason": t.reason,
            "witnessed": _number(t.witnessed),
            "proven": _number(t.proven),
            "engine": t.engine,
        },
        "of": "input of the final curve" if e.curve else "output",
        "stopped": e.stopped,
        "parts": None if e.parts is None else _parts_json(e),
        "noise_floor": {
            "floor": _number(e.noise.worst),
            "span": _number(e.noise.span),
            "limit": _number(e.limit),
            "layers": [{"layer": name, "floor": _number(v)} for name, v in e.noise.layers],
        },
        "advice": [{"text": a.text, "effect": _number(a.effect)} for a in e.advice],
    }


def _parts_json(e: Explanation) -> dict[str, Any]:
    parts = e.parts
    assert parts is not None
    return {
        "entry": parts.entry,
        "side": parts.side,
        "bound": _number(parts.bound),
        "layers": [
            {
                "layer": x.label,
                "sum": _number(x.total),
                "sources": {s: _number(x.of(s)) for s in x.parts},
                "channels": [_number(v) for v in x.channels.tolist()] if x.parts else [],
            }
            for x in parts.shares
        ],
        "sources": {s: _number(parts.of(s)) for s in WORDS if parts.of(s) != 0},
    }
