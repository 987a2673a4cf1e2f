"""Segments of real pairs: executed on the grid, walked over the reals: time, pieces, how exact, memory.

    QEBGATE_DATA=... OPENBLAS_NUM_THREADS=1 python -m benchmarks.segments [--runtime R] [--pair NAME]
                                                                        [--write docs/few-directions.md]

The first input of every pair, moved by up to 8 codes either way along (1, ..., 1), at the logits, against the
exact real float network.  Each pair in a process of its own; seconds of processor time, everything but
reading the models included.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.few_directions import PAIRS
from benchmarks.few_directions import task as ball
from benchmarks.tables import write_part
from qebgate.engines.concrete import Session
from qebgate.engines.segment import Segment
from qebgate.evidence import Bound, Witness
from qebgate.regions import Region, expand
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.task import Budget, Task

RADIUS = 8.0

HEAD = """\
## Segments

One direction only: a row moved along a line. On the grid a segment is a list of code vectors, and all are executed.
Over the reals the quantized network is constant between the points where codes change, and the float one is piecewise
linear: the walk (`qebgate/engines/segment_walk.py`) cuts the line wherever a neuron switches and bounds the float
outputs on every piece with all roundoff charged, so the result is exact up to roundoff.
Measured with `{command}`
({machine}, one thread, numpy {numpy}, {runtime} semantics).

The first input of each pair, moved by up to 8 codes either way along (1, ..., 1), compared at the logits with the exact
real float network. *Proven* and *witnessed* (replayed in the installed runtime) are largest gaps. A real segment's gaps
are larger: just before their codes change, inputs are half a quantum away from what the quantized network is given.

| pair | executed | seconds | proven | witnessed | pieces | seconds | proven | witnessed | ratio | peak memory |
|---|---|---|---|---|---|---|---|---|---|---|
"""

TAIL = """
Left: on the grid; right: real-valued, with proven over witnessed. The memory is that of the whole process,
interpreters and models included.

In a policy:

```yaml
regions:
  brightness:
    kind: segment            # x0 + t * direction, for every row x0
    data: data/golden.npz
    array: x
    direction: ones          # or an array of the data file: the input's shape, or one direction for each row
    range: [-0.1, 0.1]       # of t, which counts in
    unit: real               # raw values, or in quanta of the quantized input (lsb)
    domain: real             # every point of the line; or grid: the code vectors that it rounds to
    clip: [0.0, 1.0]         # entries that would leave it stay at its ends
```

What a real-valued segment is, exactly: the points are the real numbers of the line. Their codes are those of exact
division by the scale, rounded as `input_quantization` says; a point between two codes counts as both, for all entries
at once. Entries that change within 2^-12 quanta of each other (of the fastest one) change at once: an application
evaluates the line in float32 and orders such changes in some way of its own, and the few inputs in between, where one
entry has changed and another has not, are no part of the region. With `float_semantics: float32` the bound also covers
the rounding of the points themselves to float32.
"""


@dataclass(frozen=True)
class Half:
    """One kind of segment of one pair."""

    count: int
    seconds: float
    proven: float
    witnessed: float


def segment(t: Task, domain: Literal["real", "grid"]) -> Task:
    """The segment around a task's centre."""
    centre = t.codec.encode(t.cell.centre)
    region = Region("segment", 0.0, "lsb", domain, "codes", None, span=(-RADIUS, RADIUS))
    (instance,) = expand(region, t.codec, centre.shape, centre[None], [0])
    return replace(t, cell=instance.cell, float_semantics="real")


def measure(folder: Path, name: str, runtime: Runtime) -> tuple[Half, Half, int]:
    """Both segments of a pair, and the peak memory of this process in bytes."""
    halves: list[Half] = []
    domains: tuple[Literal["grid", "real"], ...] = ("grid", "real")
    base = ball(folder, name, runtime)
    for domain in domains:
        t = segment(base, domain)
        assert t.cell.line is not None
        with Session() as session:
            start = time.process_time()
            engine = Segment()
            bound, witness = engine.run(t, [], Budget(seconds=3600.0), session)
            seconds = time.process_time() - start
        assert isinstance(bound, Bound)
        assert isinstance(witness, Witness)
        count = t.cell.line.count if domain == "grid" else engine.pieces
        proven = float(np.maximum(-bound.lower, bound.upper).max())
        halves.append(Half(count, seconds, proven, float(np.abs(witness.gap).max())))
    return halves[0], halves[1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def row(name: str, grid: Half, real: Half, memory: int) -> str:
    """A line of the table."""
    return (
        f"| {name} | {grid.count} | {grid.seconds:.2f} | {grid.proven:.5f} | {grid.witnessed:.5f} | {real.count:,} | "
        f"{real.seconds:.2f} | {real.proven:.5f} | {real.witnessed:.5f} | {real.proven / real.witnessed:.5f} | "
        f"{memory / 2**20:.0f} MiB |"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print, and perhaps write, the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=[r.value for r in DEPLOYED], default=Runtime.XNNPACK.value)
    parser.add_argument("--pair", choices=list(PAIRS), action="append")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args(argv)
    data = os.environ.get("QEBGATE_DATA")
    if data is None:
        sys.stderr.write("QEBGATE_DATA is not set: nothing to measure\n")
        return 2
    rows: list[str] = []
    for name in args.pair or PAIRS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found = pool.submit(measure, Path(data) / "tflite", name, Runtime(args.runtime)).result()
        rows.append(row(name, *found))
        sys.stdout.write(rows[-1] + "\n")
        sys.stdout.flush()
    if args.write is not None:
        command = f"OPENBLAS_NUM_THREADS=1 python -m benchmarks.segments --runtime {args.runtime} --write {args.write}"
        head = HEAD.format(command=command, machine=platform.machine(), numpy=np.__version__, runtime=args.runtime)
        write_part(args.write, "segments", (head + "\n".join(rows) + "\n" + TAIL).splitlines())
    return 0


if __name__ == "__main__":
    sys.exit(main())
