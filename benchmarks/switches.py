"""What every part of the analysis is worth: widths and seconds with each part left out.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.switches [--images 2] [--write docs/benchmarks.md]

Reads QEBGATE_DATA.  A fixed sample: the QEBVerif networks with layers of 100, at 4 to 10 bits, radius 3, two
images each; and four TFLite pairs around their first stored input, as litert-xnnpack computes them: all inputs
free by 1 code, and 8 inputs free by 3 codes.  The gap of one output, the predicted class.  Processor time.  Exits 1
if one of the executed inputs is outside a bound.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import few_directions
from benchmarks.qebverif import MNIST, geometric, pair_of, predicted, task_of
from benchmarks.tables import write_part
from qebgate.engines.concrete import Inputs, gaps
from qebgate.engines.dra import lp
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.program import direct, program
from qebgate.engines.dra.relaxation import ALL
from qebgate.plan import EFFORT
from qebgate.regions import Cell, InputCodec, Region, expand
from qebgate.runtimes.profiles import Runtime
from qebgate.task import Budget, Task

BITS = (4, 6, 8, 10)
TFLITE = ("sl_autoencoder_ecg", "sl_micro_speech", "sl_kws_on_off", "sl_magic_wand")
SEARCH, SOLVER = Budget().slopes, EFFORT["deep"].lp
DEFAULT = Settings()


@dataclass(frozen=True)
class Variant:
    """A way to run the analysis."""

    name: str
    settings: Settings = DEFAULT
    search: int = SEARCH
    lp: int = 0


def without(name: str, **parts: bool) -> Variant:
    return Variant(f"without {name}", Settings(parts=replace(ALL, **parts)))


VARIANTS = (
    Variant("default"),
    without("the staircase's hull", staircase=False),
    without("joint lines of the gap", joint=False),
    without("the grid of codes", grid=False),
    without("tightening z, zq, D by one another", tighten=False),
    without("plain intervals", plain=False),
    without("D as a difference of streams", apart=False),
    Variant("without receptive fields", Settings(crops=False)),
    Variant("without refined layers", Settings(refine=False)),
    Variant("without optimisation", search=0),
    Variant("with the linear program", lp=SOLVER),
)


def fixed_point(data: Path, images: int) -> Iterator[tuple[str, Task]]:
    samples = np.load(data / "mnist_samples.npz")
    for name in MNIST[:3]:
        for bits in BITS:
            pair = pair_of(data / f"{name}.npz", bits, acas=False)
            codec, region = InputCodec.of(pair.quantized), Region("ball", 3.0, "lsb", "grid", "codes")
            for i in expand(region, codec, (1, 784), samples["x"][:images, None, :], range(images)):
                yield name, task_of(pair, i.cell, predicted(pair, i.cell))


def few_inputs(data: Path) -> Iterator[tuple[str, Task]]:
    for name in TFLITE:
        t = few_directions.task(data, name, Runtime.XNNPACK)
        yield name, replace(t, outputs=(predicted(t.pair, t.cell),))


def all_inputs(data: Path) -> Iterator[tuple[str, Task]]:
    for name, t in few_inputs(data):
        assert t.cell.codes is not None
        lo, hi = t.cell.codes
        centre = lo + (hi - lo) // 2
        least, most = t.codec.dtype.code_range
        codes = np.maximum(centre - 1, least), np.minimum(centre + 1, most)
        real = [t.codec.grid(c).astype(np.float64) for c in (*codes, centre)]
        cell = Cell(real[0], real[1], codes, 0, real[2])
        yield name, replace(t, cell=cell)


def run(task: Task, v: Variant) -> tuple[float, float, float]:
    """The bound of the gap, and seconds."""
    start = time.process_time()
    p = direct(program(task))
    a = Analysis(p.layers, p.box, v.settings).run()
    index = np.asarray(task.outputs, dtype=np.intp)
    gap = a.gap(p.output, index)
    if v.search:
        gap = a.tuned(p.output, index, gap, -np.inf, v.search)
    if v.lp:
        gap = lp.improved(a.sharpest or a, (p.output, index), gap, -np.inf, v.lp, 600.0)
    return float(gap.lo[0]), float(gap.hi[0]), time.process_time() - start


def executed(task: Task, count: int = 64) -> tuple[float, float]:
    """Smallest and largest gap of a few executed inputs of the region."""
    codes = task.cell.codes
    assert codes is not None
    corners = np.random.default_rng(0).random((count, *codes[0].shape)) < 0.5
    gap = gaps(task, Inputs.of_codes(task, np.where(corners, codes[0], codes[1]).astype(np.int32)))
    return float(gap.min()), float(gap.max())


@dataclass
class Row:
    """Ratios to the default's width, and seconds, of one variant."""

    ratios: list[float]
    seconds: list[float]

    @property
    def cells(self) -> list[str]:
        return [f"{geometric(self.ratios):.3f}", f"{max(self.ratios):.3f}", f"{sum(self.seconds):.1f}"]


HEAD = """\
## What each part is worth

`OPENBLAS_NUM_THREADS=1 python -m benchmarks.switches --write docs/benchmarks.md` (one core)

Width of the proven interval of one output's gap over that of the default, geometric mean and largest of the tasks, and
processor seconds for all tasks, each part of the analysis left out by itself. *QEBVerif*: {0} tasks (layers of 100,
4 to 10 bits, radius 3). {1} TFLite pairs (ECG autoencoder, micro_speech, keyword spotting on/off, magic_wand): *all
inputs* free by 1 code, *8 inputs* by 3 codes. The linear program is only for dense networks. Refined layers are those
whose bounds are back-substituted. Near points the other engines take over; see the page on few directions.

| | QEBVerif: width | max | s | all inputs: width | max | s | 8 inputs: width | max | s |
|---|---|---|---|---|---|---|---|---|---|"""


def measure(tasks: list[tuple[str, Task]]) -> tuple[list[Row], int]:
    """Every variant on every task, and how many bounds exclude an executed input."""
    rows = [Row([], []) for _ in VARIANTS]
    wrong = 0
    for name, task in tasks:
        seen = executed(task)
        width = 1.0
        for v, row in zip(VARIANTS, rows, strict=True):
            lo, hi, seconds = run(task, v)
            width = hi - lo if v is VARIANTS[0] else width
            slack = 1e-9 * max(1.0, abs(seen[0]), abs(seen[1]))
            wrong += not (lo <= seen[0] + slack and seen[1] - slack <= hi)
            row.ratios.append((hi - lo) / width)
            row.seconds.append(seconds)
        print(name, [f"{r.ratios[-1]:.3f}" for r in rows], file=sys.stderr, flush=True)
    return rows, wrong


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    if not os.environ.get("QEBGATE_DATA"):
        sys.exit("QEBGATE_DATA does not name the benchmark data's folder")
    data = Path(os.environ["QEBGATE_DATA"])
    with threadpool_limits(limits=1):
        samples = [list(fixed_point(data / "qebverif", args.images))]
        samples += [list(make(data / "tflite")) for make in (all_inputs, few_inputs)]
        measured = [measure(tasks) for tasks in samples]
    lines = HEAD.format(*(len(tasks) for tasks in samples)).splitlines()
    for k, v in enumerate(VARIANTS):
        cells = [v.name, *(c for rows, _ in measured for c in rows[k].cells)]
        lines.append(f"| {' | '.join(cells)} |")
    if args.write:
        write_part(args.write, "switches", lines)
    else:
        print("\n".join(lines))
    sys.exit(1 if sum(wrong for _, wrong in measured) else 0)


if __name__ == "__main__":
    main()
