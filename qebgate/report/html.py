"""One self-contained HTML file: no script, nothing loaded from anywhere, readable in light and dark.

The page is a Jinja2 template with autoescaping; this module prepares what it shows.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qebgate.errors import printable
from qebgate.explain import Explanation
from qebgate.ir.tensor import Array
from qebgate.report import text
from qebgate.report.explain import WORDS, top_channels
from qebgate.result import CheckResult, Report, TaskResult, WitnessResult

TASKS = 50
"""Tasks shown for one check, the worst first."""
OUTPUTS = 40
"""Outputs drawn for a witness, those with the largest gap."""
LAYERS = 60
"""Layers drawn: the last ones, where there are more."""
IMAGE_SIDE = (6, 1024)
"""Sides of what is shown as an image."""
HEADROOM = 1.25


@dataclass(frozen=True, slots=True)
class Bar:
    """A check's figures on one scale, in per cent of the width; None where there is no figure."""

    limit: float
    witnessed: float | None
    proven: float | None
    cut: bool
    """Whether the bound lies beyond the end of the scale."""


@dataclass(frozen=True, slots=True)
class OutputBar:
    """One output at a witness: both networks' values, and the gap as a bar from the middle, in per cent."""

    index: int
    reference: float
    quantized: float
    gap: float
    start: float
    width: float
    worst: bool


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer's gap over the region, its share of the bound, and its neurons; ``width`` in per cent."""

    label: str
    neurons: int
    gap: str
    width: float
    unstable: int
    quantized: int
    saturated: int
    share: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A witness's input as an image."""

    uri: str
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class WitnessView:
    """A witness as the page shows it."""

    task: TaskResult
    witness: WitnessResult
    outputs: Sequence[OutputBar]
    hidden: int
    picture: Picture | None
    inputs: str


@dataclass(frozen=True, slots=True, eq=False)
class CheckView:
    """A check as the page shows it."""

    check: CheckResult
    words: str
    bar: Bar | None
    tasks: Sequence[TaskResult]
    more: int
    witness: WitnessView | None
    explanation: Explanation | None
    layers: Sequence[LayerRow]
    sources: Sequence[tuple[str, str]]
    channels: Sequence[tuple[str, int, str, str]]


def render_html(report: Report, explanations: Mapping[str, Explanation] | None = None) -> str:
    """The report as a page; with ``explanations`` also where the bounds come from."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    env = Environment(
        loader=PackageLoader("qebgate.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["p"] = printable
    found = explanations or {}
    order = {"fail": 0, "unknown": 1, "pass": 2}
    views = [_check(c, found.get(c.id)) for c in sorted(report.checks, key=lambda c: order[c.verdict])]
    template = env.get_template("report.html.j2")
    notes = list(dict.fromkeys(a for c in report.checks for a in c.assumptions))
    bad = text.bad_checks(report)
    command = text.reproduce(report, bad[:20]) if report.verdict != "pass" else None
    return template.render(report=report, views=views, text=text, notes=notes, command=command)


def _check(c: CheckResult, e: Explanation | None) -> CheckView:
    tasks = text.worst(c, TASKS)
    seen = next((t for t in tasks if t.witness is not None), None)
    return CheckView(
        c,
        text.check_words(c),
        _bar(c),
        tasks,
        len(c.tasks) - len(tasks),
        None if seen is None else _witness(seen),
        e,
        () if e is None else _layers(e),
        () if e is None else _sources(e),
        () if e is None or e.parts is None else [(n, k, f"{v:.4g}", WORDS[s]) for n, k, v, s in top_channels(e, 8)],
    )


def _bar(c: CheckResult) -> Bar | None:
    if not (math.isfinite(c.limit) and c.limit > 0):
        return None
    figures = [v for v in (c.limit, c.witnessed, c.proven) if v is not None and math.isfinite(v)]
    end = min(max(figures) * HEADROOM, 4 * c.limit)

    def at(v: float | None) -> float | None:
        return None if v is None else round(100 * min(1.0, max(0.0, v) / end), 2)

    beyond = c.proven is not None and not c.proven <= end
    return Bar(round(100 * c.limit / end, 2), at(c.witnessed), at(c.proven), beyond)


def _witness(t: TaskResult) -> WitnessView:
    w = t.witness
    assert w is not None
    bars = _outputs(t, w)
    if w.omitted:
        return WitnessView(t, w, bars, w.gap.size - len(bars), None, "left out: the policy says `inputs: omit`")
    if w.omitted:
        return WitnessView(t, w, bars, w.gap.size - len(bars), None, "left out, as the policy says")
    shown = w.raw if w.raw is not None else w.x
    each = [(f"{p.label}: ", p.of(shown)) for p in w.parts[:8]] or [("", shown)]
    inputs = "; ".join(name + _values(x) for name, x in each) + ("; …" if len(w.parts) > 8 else "")
    shot = next((p for p in (picture(x) for _, x in each) if p is not None), None)
    return WitnessView(t, w, bars, w.gap.size - len(bars), shot, inputs)


def _values(x: Array) -> str:
    values = np.asarray(x, np.float64).ravel()
    return ", ".join(f"{v:.6g}" for v in values[:64]) + (", …" if values.size > 64 else "")


def _outputs(t: TaskResult, w: WitnessResult) -> list[OutputBar]:
    if w.reference is None or w.reference.size != w.gap.size or not np.isfinite([w.reference, w.gap]).all():
        return []
    sizes = np.abs(w.gap)
    scale = 50 / (float(sizes.max(initial=0.0)) or 1.0)
    largest: list[int] = np.argsort(-sizes, kind="stable")[:OUTPUTS].tolist()
    rows: list[OutputBar] = []
    for k in sorted(largest):
        f, gap = float(w.reference[k]), float(w.gap[k])
        start = round(50 + scale * min(0.0, gap), 2)
        rows.append(OutputBar(t.outputs[k], f, f + gap, gap, start, round(scale * abs(gap), 2), k == largest[0]))
    return rows


def _layers(e: Explanation) -> list[LayerRow]:
    gaps = [s.gap for s in e.states if math.isfinite(s.gap)]
    top = max(gaps, default=0.0) or 1.0
    share = {x.label: x.total for x in e.parts.layers} if e.parts is not None else {}
    bound = e.parts.bound if e.parts is not None else 0.0

    def percent(label: str) -> str:
        return f"{100 * share[label] / bound:.1f} %" if label in share and bound > 0 else ""

    return [
        LayerRow(
            s.label,
            s.neurons,
            text.proven(s.gap),
            round(100 * min(1.0, s.gap / top), 2) if math.isfinite(s.gap) else 100.0,
            s.unstable,
            s.quantized,
            s.saturated,
            percent(s.label),
        )
        for s in e.states[-LAYERS:]
    ]


def _sources(e: Explanation) -> list[tuple[str, str]]:
    if e.parts is None or not e.parts.bound > 0:
        return []
    found = [(WORDS[s], e.parts.of(s) / e.parts.bound) for s in WORDS]
    return [(name, f"{100 * v:.1f} %") for name, v in sorted(found, key=lambda x: -x[1]) if abs(v) >= 5e-4]


def picture(x: Array) -> Picture | None:
    """An input ``[H, W]`` or ``[H, W, 1 or 3]`` as a PNG, its smallest value black and its largest white."""
    a = np.asarray(x, np.float64)
    if a.ndim == 4 and a.shape[0] == 1:
        a = a[0]
    if a.ndim == 2:
        a = a[:, :, None]
    if a.ndim != 3 or a.shape[2] not in (1, 3) or not np.isfinite(a).all():
        return None
    if not all(IMAGE_SIDE[0] <= n <= IMAGE_SIDE[1] for n in a.shape[:2]):
        return None
    lo, hi = float(a.min()), float(a.max())
    pixels = np.rint(255 * (a - lo) / ((hi - lo) or 1.0)).astype(np.uint8)
    return Picture("data:image/png;base64," + base64.b64encode(png(pixels)).decode(), lo, hi)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels ``[H, W, 1 or 3]`` as a PNG file (ISO/IEC 15948: grey or RGB, 8 bits, no filter)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    h, w, channels = pixels.shape
    rows = np.concatenate([np.zeros((h, 1), np.uint8), pixels.reshape(h, w * channels)], axis=1)
    header = struct.pack(">IIBBBBB", w, h, 8, 0 if channels == 1 else 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
        + chunk(b"IEND", b"")
    )
