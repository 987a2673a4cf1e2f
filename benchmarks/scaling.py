"""What a question costs: processor time against depth, width and number of free inputs.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.scaling [--write docs/benchmarks.md]

Random dense networks (He's initialisation, seed 0, 64 inputs) in fixed point with 8 bits, inputs free by 3
codes around a random centre, one output.  Each figure is the median of three runs.  Needs the extra `bench`
(matplotlib); the plot goes beside the page, as scaling.svg.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tables import write_part
from qebgate.adapters.fixed_point import FixedPoint, build
from qebgate.adapters.npz import DenseNetwork
from qebgate.engines.base import Engine
from qebgate.engines.concrete import Session
from qebgate.engines.dra.engine import Dra
from qebgate.engines.enumerate import Enumerate
from qebgate.engines.forms.engine import Forms
from qebgate.ir.align import align
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import Runtime
from qebgate.task import Budget, Task

RADIUS, RUNS = 3, 3
DEPTHS, WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16), (32, 64, 128, 256, 512, 1024)
FREE = (1, 2, 4, 6, 8, 12, 16, 32, 64)
MOST = 7**7
"""Inputs executed at most."""


def task(depth: int, width: int, free: int, inputs: int = 64) -> Task:
    """Hidden layers of one width, and one output; the first ``free`` inputs vary."""
    rng = np.random.default_rng(0)
    sizes = [inputs, *[width] * depth, 1]
    layers = tuple(
        ((rng.standard_normal((m, n)) * np.sqrt(2 / n)).astype(np.float32), np.zeros(m, np.float32))
        for n, m in itertools.pairwise(sizes)
    )
    pair = align(*build(DenseNetwork(layers, "random.npz", "0"), FixedPoint(8, 2, 2, 4, 8, False, 0), None))
    codec = InputCodec.of(pair.quantized)
    centre = rng.integers(RADIUS, 256 - RADIUS, inputs).astype(np.int32)
    by = np.where(np.arange(inputs) < free, RADIUS, 0).astype(np.int32)
    codes = tuple(c.reshape(pair.quantized.input.shape) for c in (centre - by, centre + by, centre))
    lower, upper, middle = (codec.grid(c).astype(np.float64) for c in codes)
    cell = Cell(lower, upper, (codes[0], codes[1]), 0, middle)
    return Task(pair, cell, codec, Property("max_abs", 0.0), (0,), Runtime.FIXED_POINT, "real")


def seconds(engine: type[Engine], t: Task, budget: Budget) -> float:
    """Median processor time."""
    times: list[float] = []
    with Session() as session:
        for _ in range(RUNS):
            start = time.process_time()
            engine().run(t, [], budget, session)
            times.append(time.process_time() - start)
    return float(np.median(times))


@dataclass(frozen=True)
class Curve:
    label: str
    x: Sequence[int]
    y: Sequence[float]


@dataclass(frozen=True)
class Panel:
    title: str
    axis: str
    curves: Sequence[Curve]


BUDGETS: dict[str, tuple[type[Engine], Budget]] = {
    "DRA, fast": (Dra, Budget(slopes=0, seconds=600.0)),
    "DRA, default": (Dra, Budget(seconds=600.0)),
    "forms": (Forms, Budget(enumerate=0, seconds=600.0)),
    "every input executed": (Enumerate, Budget(enumerate=MOST, seconds=600.0)),
}


def panels() -> list[Panel]:
    """All measurements."""

    def curve(name: str, xs: Sequence[int], make: Callable[[int], Task]) -> Curve:
        engine, budget = BUDGETS[name]
        return Curve(name, xs, [seconds(engine, make(x), budget) for x in xs])

    slow, fast = "DRA, default", "DRA, fast"
    return [
        Panel(
            "64 free inputs, layers of 128",
            "hidden layers",
            [curve(n, DEPTHS, lambda d: task(d, 128, 64)) for n in (fast, slow)],
        ),
        Panel(
            "64 free inputs, 2 hidden layers",
            "width",
            [curve(n, WIDTHS, lambda w: task(2, w, 64)) for n in (fast, slow)],
        ),
        Panel(
            "2 hidden layers of 128",
            "free inputs, 3 codes each way",
            [
                *(curve(n, FREE, lambda k: task(2, 128, k)) for n in (fast, slow)),
                curve("forms", [k for k in FREE if k <= 16], lambda k: task(2, 128, k)),
                curve("every input executed", [k for k in FREE if 7**k <= MOST], lambda k: task(2, 128, k)),
            ],
        ),
    ]


def draw(found: Sequence[Panel], path: Path) -> None:
    """The plot, as an SVG file."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "qebgate"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(4 * len(found), 3.4), sharey=True, layout="constrained")
    for axis, panel in zip(axes, found, strict=True):
        for c in panel.curves:
            axis.plot(c.x, c.y, marker="o", markersize=3, label=c.label)
        axis.set(title=panel.title, xlabel=panel.axis, xscale="log", yscale="log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set_ylabel("seconds of one core")
    figure.savefig(path, metadata={"Date": None})


def table(found: Sequence[Panel]) -> list[str]:
    """The plotted figures."""
    lines: list[str] = []
    for panel in found:
        lines += ["", f"{panel.title}:", "", f"| {panel.axis} | " + " | ".join(c.label for c in panel.curves) + " |"]
        lines.append("|---" * (1 + len(panel.curves)) + "|")
        for x in panel.curves[0].x:
            cells = [f"{dict(zip(c.x, c.y, strict=True))[x]:.3f}" if x in c.x else "-" for c in panel.curves]
            lines.append(f"| {x} | " + " | ".join(cells) + " |")
    return lines


TEXT = """\
## Cost against depth, width and number of free inputs

`OPENBLAS_NUM_THREADS=1 python -m benchmarks.scaling --write docs/benchmarks.md` (one core)

Random dense networks in fixed point with 8 bits; seconds of processor time, medians of three. *Forms* bisects
until its deterministic limit, so its time is what it is allowed, not what it needs.

![seconds against hidden layers, width and free inputs](scaling.svg)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args(argv)
    found = panels()
    lines = [*TEXT.splitlines(), *table(found)]
    if args.write is not None:
        draw(found, args.write.with_name("scaling.svg"))
        write_part(args.write, "scaling", lines)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
