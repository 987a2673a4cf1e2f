"""The mixed-integer programs of tasks that the analysis leaves open: bounds and time, by encoding and solver.

    OPENBLAS_NUM_THREADS=1 QEBGATE_DATA=... python -m benchmarks.milp [--seconds 60] [--write docs/benchmarks.md]

QEBVerif's MNIST networks as in :mod:`benchmarks.verify`, radius 3, the predicted class, the worse side of the gap.
Encodings: rounding as free noise, or integer codes.  ``--seconds`` are of the wall clock, for each solver; the table
has the processor seconds that it got of them.  Exits 1 where a bound and a solution contradict each other.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.qebverif import pair_of, predicted, task_of
from benchmarks.tables import write_part
from qebgate.engines.concrete import Session
from qebgate.engines.dra.engine import Dra
from qebgate.engines.dra.program import direct, program
from qebgate.engines.falsify import Falsify
from qebgate.engines.milp import CUT_OFF, SOLVERS, real_bound
from qebgate.engines.milp_encoding import Encoded, Encoding
from qebgate.evidence import Bound, Witness
from qebgate.milp import mathopt
from qebgate.milp.mathopt import Limits, Result
from qebgate.properties import Property
from qebgate.regions import InputCodec, Region, expand
from qebgate.task import Budget, Task

COMMAND = "OPENBLAS_NUM_THREADS=1 python -m benchmarks.milp"
NAMES = {1: "mnist_1blk_100", 2: "mnist_2blk_100_100", 3: "mnist_3blk_100_100_100"}
TASKS = (
    (3, 8, 3236, 1.0),
    (2, 8, 7098, 1.0),
    (2, 6, 7098, 2.0),
    (2, 4, 3236, 6.0),
    (2, 4, 7219, 4.0),
    (1, 4, 3236, 2.0),
    (1, 4, 5656, 2.0),
    (2, 6, 3236, 1.0),
    (2, 4, 5656, 4.0),
    (1, 4, 7219, 2.0),
)
"""Hidden layers, bits, sample, limit."""
HEAD = [
    "| layers, bits, sample, limit | DRA | seen | encoding | rows | columns | entries | 0-1 | SCIP | s | HiGHS | s |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
]


@dataclass(frozen=True)
class Case:
    """One program, both solvers' bounds of ``sign`` times the gap in real units (None: none) and processor seconds."""

    label: str
    sign: int
    dra: float
    seen: float
    exact: bool
    encoded: Encoded
    results: tuple[tuple[Result, float | None, float], ...]
    limit: float

    @property
    def wrong(self) -> bool:
        """Whether a bound is below what was executed, or one solver's solution beyond the other one's bound."""
        bounds = [b for _, b, _ in self.results if b is not None]
        solutions = [r.primal for r, _, _ in self.results if r.primal is not None]
        duals = [r.dual for r, _, _ in self.results if r.dual is not None]
        return any(b < self.seen for b in bounds) or any(p > d + 1e-4 for p in solutions for d in duals)

    def row(self) -> str:
        m, e = self.encoded.model, self.encoded
        cells = [self.label, f"{self.dra:.3f}", f"{self.seen:.3f}", "integer codes" if self.exact else "free rounding"]
        cells += [*map(str, m.matrix.shape), f"{m.matrix.nnz:,}", f"{e.binaries} + {e.integers}"]
        for _, bound, seconds in self.results:
            said = "none" if bound is None else f"{bound:.3f}"
            cells += [f"**{said}**" if bound is not None and bound <= self.limit else said, f"{seconds:.0f}"]
        return f"| {' | '.join(cells)} |"


def published(data: Path, key: tuple[int, int, int, float]) -> Task:
    """One of the published tasks."""
    layers, bits, sample, limit = key
    samples = np.load(data / "mnist_samples.npz", allow_pickle=False)
    row = samples["x"][samples["index"].tolist().index(sample)]
    pair = pair_of(data / f"{NAMES[layers]}.npz", bits, acas=False)
    (i,) = expand(
        Region("ball", 3.0, "lsb", "grid", "codes"), InputCodec.of(pair.quantized), (1, 784), row[None, None], [0]
    )
    return replace(task_of(pair, i.cell, predicted(pair, i.cell)), prop=Property("max_abs", limit))


def cases(task: Task, label: str, seconds: float) -> Iterator[Case]:
    """Both encodings of one task about one output."""
    limit = task.prop.limit
    with Session() as session:
        known = Falsify().run(task, [], Budget(falsify=1 << 13), session)
        known += Dra().run(task, known, Budget(), session)
        a = session.analysis_of(task)
    assert a is not None
    (bound,) = (b for b in known if isinstance(b, Bound))
    sign = 1 if bound.upper[0] > -bound.lower[0] else -1
    ends = sorted((sign * float(bound.lower[0]), sign * float(bound.upper[0])))
    found = [w for w in known if isinstance(w, Witness)]
    seen = max((sign * float(w.gap[0]) for w in found), default=-np.inf)
    at = np.asarray(found[0].x, dtype=np.float64).ravel() if found else None
    for exact in (False, True):
        p = direct(program(task))
        e = Encoding(p, a, task.outputs[0], exact, sign, (ends[0], ends[1]), CUT_OFF * limit, at).run()
        results: list[tuple[Result, float | None, float]] = []
        for solver in SOLVERS:
            r, spent = solve(e, solver, seconds)
            results.append((r, None if r.dual is None else real_bound(e, e.model, r.dual), spent))
        yield Case(label, sign, ends[1], seen, exact, e, tuple(results), limit)


def solve(e: Encoded, solver: mathopt.Solver, seconds: float) -> tuple[Result, float]:
    """One solver's answer after so many seconds of the wall clock, and the processor seconds it got of them."""
    start = time.process_time()
    r = mathopt.maximize(e.model, Limits(seconds), solver=solver, hint=e.hint)
    return r, time.process_time() - start


def main(argv: Sequence[str] | None = None) -> int:
    """Solve, print, and perhaps write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--tasks", type=int, default=len(TASKS), help="only the first so many")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args(argv)
    if not os.environ.get("QEBGATE_DATA"):
        sys.stderr.write("QEBGATE_DATA is not set: nothing to measure\n")
        return 2
    data = Path(os.environ["QEBGATE_DATA"]) / "qebverif"
    rows: list[str] = []
    wrong = 0
    for key in TASKS[: args.tasks]:
        for case in cases(published(data, key), "{}, {}, {}, {:g}".format(*key), args.seconds):
            rows.append(case.row())
            wrong += case.wrong
            sys.stderr.write(rows[-1] + "\n")
            sys.stderr.flush()
    option = "" if args.tasks == len(TASKS) else f" --tasks {args.tasks}"
    text = [
        "## Mixed-integer programs of open tasks",
        "",
        f"`{COMMAND} --seconds {args.seconds:g}{option} --write docs/benchmarks.md`",
        "",
        "Upper bounds of the worse side of the gap; *DRA*: where the programs begin; *seen*: the largest gap that a",
        f"short search found. In bold: within the limit (programs are cut off at {CUT_OFF} of it). *s*: processor",
        "seconds, on a machine that others used too: the wall clock stops the solvers.",
        f"Contradictions: {wrong}.",
        "",
        *HEAD,
        *rows,
    ]
    if args.write is not None:
        write_part(args.write, "milp", text)
    sys.stdout.write("\n".join(text) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
