"""Boxes of few free inputs with too many points, bounded by affine forms and bisection: how tight, how long.

    QEBGATE_DATA=... OPENBLAS_NUM_THREADS=1 python -m benchmarks.forms [--runtime R] [--pair NAME] [--cells N]
                                                                     [--write docs/few-directions.md]

The first input of the pairs, 8 inputs (drawn at random, seed 0) free, against the exact real float network.  The limit
is 2 percent above the largest gap found, so the bisection stops there or when its cells are used up.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks import few_directions
from benchmarks.tables import write_part
from qebgate.engines.concrete import Session
from qebgate.engines.falsify import Falsify
from qebgate.engines.forms.engine import Forms
from qebgate.evidence import Bound, Evidence, Witness
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.task import Budget, Task

PAIRS = [n for n, (_, _, free) in few_directions.PAIRS.items() if free == 8]
KINDS = (("grid", 3), ("grid", 8), ("real", 1))

HEAD = """\
## More points than are executed

The same regions bounded by affine forms of the free inputs (`qebgate/engines/forms`): *root* for the whole region as
one cell, then after bisection, whose small cells are executed. Also regions of 8 codes each way (7e9 points), and
real-valued ones of 1 code each way, where inputs between two codes are rounded. *Witnessed* is the largest gap found,
against the exact real float network. The limit is 2 percent above it: the bisection stops there, or after {cells:,}
cells. Measured with `{command}`
({machine}, one thread, numpy {numpy}, {runtime} semantics). Seconds of processor time.

| pair | region | witnessed | root | ratio | seconds | bisected | ratio | seconds |
|---|---|---|---|---|---|---|---|---|
"""


def figure(found: Sequence[Evidence]) -> float:
    """The proven bound."""
    (bound,) = (e for e in found if isinstance(e, Bound))
    return float(np.maximum(-bound.lower, bound.upper).max())


def seen(found: Sequence[Evidence]) -> float:
    """The largest gap witnessed."""
    return max((float(np.abs(e.gap).max()) for e in found if isinstance(e, Witness)), default=0.0)


def region(folder: Path, name: str, runtime: Runtime, kind: str, radius: int) -> Task:
    """The question."""
    few_directions.RADIUS = radius
    t = replace(few_directions.task(folder, name, runtime), float_semantics="real")
    return t if kind == "grid" else replace(t, cell=replace(t.cell, codes=None))


def measure(folder: Path, name: str, runtime: Runtime, kind: str, radius: int, cells: int) -> str:
    """One row."""
    t = region(folder, name, runtime, kind, radius)
    few = Budget(enumerate=1, cells=0, seconds=3600.0)
    with Session() as session:
        witnessed = seen(Falsify().run(t, [], few, session))
        start = time.process_time()
        root = figure(Forms().run(replace(t, prop=replace(t.prop, limit=1e30)), [], few, session))
        first = time.process_time() - start
        seconds, proven = first, root
        for _ in range(4):
            limit = 1.02 * witnessed
            start = time.process_time()
            found = Forms().run(
                replace(t, prop=replace(t.prop, limit=limit)), [], replace(few, cells=cells), session
            )  # fmt: skip
            seconds, proven = time.process_time() - start, figure(found)
            if seen(found) <= limit:
                break
            witnessed = seen(found)
        witnessed = max(witnessed, seen(found))
    return (
        f"| {name} | {kind}, {radius} | {witnessed:.4f} | {root:.4f} | {root / witnessed:.2f} | {first:.1f} | "
        f"{proven:.4f} | {proven / witnessed:.2f} | {seconds:.1f} |"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print, and perhaps write, the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=[r.value for r in DEPLOYED], default=Runtime.XNNPACK.value)
    parser.add_argument("--pair", choices=PAIRS, action="append")
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args(argv)
    data = os.environ.get("QEBGATE_DATA")
    if data is None:
        sys.stderr.write("QEBGATE_DATA is not set: nothing to measure\n")
        return 2
    rows: list[str] = []
    for name in args.pair or PAIRS:
        for kind, radius in KINDS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                job = (Path(data) / "tflite", name, Runtime(args.runtime), kind, radius, args.cells)
                rows.append(pool.submit(measure, *job).result())
            sys.stdout.write(rows[-1] + "\n")
            sys.stdout.flush()
    if args.write is not None:
        command = (
            f"OPENBLAS_NUM_THREADS=1 python -m benchmarks.forms --runtime {args.runtime} --cells {args.cells} "
            f"--write {args.write}"
        )
        head = HEAD.format(
            command=command, machine=platform.machine(), numpy=np.__version__, runtime=args.runtime, cells=args.cells
        )
        write_part(args.write, "forms", (head + "\n".join(rows)).splitlines())
    return 0


if __name__ == "__main__":
    sys.exit(main())
