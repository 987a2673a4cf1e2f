"""Real float/int8 pairs: what is proven beside what is found, for every kind of question.

    QEBGATE_DATA=... OPENBLAS_NUM_THREADS=1 python -m benchmarks.pairs [--pair NAME] [--write docs/benchmarks.md]

Around the first stored input of every pair, at the logits, as litert-xnnpack computes them, against the exact
real float network: the point itself; segments of 8 codes each way along (1, ..., 1), on the grid and
real-valued; 8 inputs free by 3 codes; all inputs free by 1, 3 and 8 codes and more.  Each question in a process of its
own, on one core, within 5 minutes and 4 GiB.  Engines are run by themselves, so that a figure is an engine's.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.few_directions import PAIRS
from benchmarks.segments import segment
from benchmarks.tables import write_part
from qebgate.engines.base import Engine
from qebgate.engines.concrete import Session
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.engine import Dra
from qebgate.engines.dra.program import direct, program
from qebgate.engines.enumerate import Enumerate
from qebgate.engines.execute import Execute
from qebgate.engines.falsify import Falsify
from qebgate.engines.forms.engine import Forms
from qebgate.engines.guard import GuardedStop
from qebgate.engines.noise_floor import steer
from qebgate.engines.segment import Segment
from qebgate.evidence import Bound, Evidence, Stopped, Witness
from qebgate.plan import make_plan
from qebgate.policy import parse_policy
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import Runtime
from qebgate.task import Budget, Task

SECONDS, MEMORY = 300.0, 4 << 30
LIMITS = Budget(enumerate=1 << 23, seconds=SECONDS, memory=MEMORY)
FURTHER = {"sl_autoencoder_ecg": (16, 20), "sl_micro_speech": (12, 16), "sl_kws_on_off": (5,)}
"""Radii beyond those that every pair is asked for."""
POINT, GRID, REAL, FEW = "point", "segment, integer", "segment, real", "8 inputs, 3 codes"


@dataclass(frozen=True)
class Answer:
    """One row: figures are largest absolute gaps, None for what was not established."""

    pair: str
    question: str
    witnessed: float | None
    proven: float | None
    engine: str
    naive: float | None
    span: float
    seconds: float
    memory: int
    note: str = ""

    @property
    def row(self) -> str:
        ratio = self.proven / self.witnessed if self.proven is not None and self.witnessed else None
        proven = "no useful bound" if self.proven is not None and self.proven > self.span else figure(self.proven)
        return (
            f"| {self.pair} | {self.question} | {figure(self.witnessed)} | {proven} "
            f"| {'-' if ratio is None or proven.startswith('no') else f'{ratio:.3f}'} | {self.engine} "
            f"| {figure(self.naive)} "
            f"| {self.seconds:.2f} | {self.memory / 2**20:.0f} | {self.note} |"
        )


def figure(x: float | None) -> str:
    return "-" if x is None else f"{x:.4g}"


def region_task(folder: Path, name: str, region: dict[str, object]) -> Task:
    """The task of a policy's region around the first stored input."""
    f, q, _ = PAIRS[name]
    policy = {
        "version": 1,
        "models": {
            "m": {
                "float": f"{name}/{f}.tflite",
                "quantized": f"{name}/{q}.tflite",
                "runtime": Runtime.XNNPACK.value,
                "float_semantics": "real",
            }
        },
        "regions": {"r": {"data": f"{name}/inputs.npy", "limit": 1, "out_of_range": "allow", **region}},
        "checks": [
            {
                "id": "c",
                "model": "m",
                "region": "r",
                "property": {"kind": "max_abs", "limit": 1.0, "tensor": "logits"},
            }
        ],
    }
    codes = np.load(folder / name / "inputs.npy", mmap_mode="r").dtype.kind == "i"
    policy["regions"]["r"]["values"] = "codes" if codes else "real"  # type: ignore[index]
    plan = make_plan(parse_policy(policy, "benchmark", folder))
    for e in plan.errors:
        raise e.error
    (check,) = plan.checks
    (job,) = check.jobs
    assert job.outputs is not None
    return Task(job.pair, job.cell, job.codec, job.prop, job.outputs, job.runtime, "real")


def few_inputs(folder: Path, name: str, free: int, radius: int) -> Task:
    """Some inputs, drawn at random (seed 0) from those with room, free by ``radius`` codes each way."""
    t = region_task(folder, name, {"kind": "points", "domain": "grid"})
    assert t.cell.codes is not None
    centre = t.cell.codes[0]
    least, most = t.codec.dtype.code_range
    room = np.flatnonzero((centre.ravel() - radius >= least) & (centre.ravel() + radius <= most))
    by = np.zeros(centre.size, np.int32)
    by[np.random.default_rng(0).choice(room, free, replace=False)] = radius
    codes = centre - by.reshape(centre.shape), centre + by.reshape(centre.shape)
    lower, upper = (t.codec.grid(c).astype(np.float64) for c in codes)
    return replace(t, cell=Cell(lower, upper, codes, t.cell.index, t.cell.centre))


def question_task(folder: Path, name: str, question: str) -> Task:
    if question == POINT:
        return region_task(folder, name, {"kind": "points", "domain": "grid"})
    if question == FEW:
        return few_inputs(folder, name, 8, 3)
    if question in (GRID, REAL):
        t = region_task(folder, name, {"kind": "points", "domain": "grid"})
        t = replace(t, codec=InputCodec.of(t.pair.quantized, "nearest"))
        return segment(t, "grid" if question == GRID else "real")
    radius = int(question.split()[2])
    return region_task(folder, name, {"kind": "ball", "radius": radius, "unit": "lsb", "domain": "grid"})


def engines(name: str, question: str) -> Sequence[type[Engine]]:
    """What is run on a question; searches first."""
    if question == POINT:
        return (Execute,)
    if question in (GRID, REAL):
        return (Segment,)
    if question == FEW:
        deep = name in ("mlperf_ic01", "mlperf_vww01")
        return (Falsify, Dra, Forms) if deep else (Falsify, Enumerate)
    return (Falsify, Dra)


def measure(folder: Path, name: str, question: str) -> Answer:
    """Ask one question."""
    t = question_task(folder, name, question)
    grid = t.pair.quantized.output
    span = 255 * grid.q.s if grid.dtype.is_code else np.inf
    start = time.process_time()
    note, found = "", list[Evidence]()
    chosen = engines(name, question)
    if question.startswith("all"):
        floor, hopeless = steer(replace(t, prop=Property("max_abs", 0.0)))
        if hopeless:
            note, chosen = f"noise floor {floor.worst:.3g} of {floor.span:.3g}", (Falsify,)
    budget = replace(LIMITS, falsify=LIMITS.falsify // 8) if note else LIMITS
    if Enumerate not in chosen:
        budget = replace(budget, enumerate=1 << 20)
    with Session() as session:
        for engine in chosen:
            # a search must not stop at a limit, and a bound must be as tight as it can
            limit = 1e300 if engine is Falsify else 0.0
            try:
                found += engine().run(replace(t, prop=Property("max_abs", limit)), found, budget, session)
            except GuardedStop as stop:
                found.append(Stopped(engine.name, stop.reason, stop.detail))
    seconds = time.process_time() - start
    bounds = [e for e in found if isinstance(e, Bound)]
    best = min(bounds, key=largest, default=None)
    stopped = [e for e in found if isinstance(e, Stopped)]
    if stopped and best is None:
        note = "; ".join([note, *(e.detail for e in stopped)]).strip("; ")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    naive = None
    if not t.cell.is_point:
        p = direct(program(t))
        gap = Analysis(p.layers, p.box, Settings(refine=False)).run().states[p.output].delta
        naive = float(np.maximum(-gap.lo, gap.hi)[list(t.outputs)].max())
    return Answer(
        name, question, witnessed(found), None if best is None else largest(best),
        "none" if best is None else best.engine, naive, span, seconds, memory, note,
    )  # fmt: skip


def largest(b: Bound) -> float:
    return float(np.maximum(-b.lower, b.upper).max())


def witnessed(found: Sequence[Evidence]) -> float | None:
    seen = [float(np.abs(e.gap).max()) for e in found if isinstance(e, Witness) and e.replayed]
    return max(seen, default=None)


HEAD = [
    "| pair | question | witnessed | proven | proven / witnessed | engine | naive intervals | CPU s | peak MiB | |",
    "|---|---|---|---|---|---|---|---|---|---|",
]


def main(argv: Sequence[str] | None = None) -> int:
    """Print, and perhaps write, the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=list(PAIRS), action="append")
    parser.add_argument("--question", action="append", help="as in the table's second column")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args(argv)
    data = os.environ.get("QEBGATE_DATA")
    if data is None:
        sys.stderr.write("QEBGATE_DATA is not set: nothing to measure\n")
        return 2
    rows: list[str] = []
    for name in args.pair or PAIRS:
        radii = (1, 3, 8, *FURTHER.get(name, ()))
        for question in args.question or (POINT, GRID, REAL, FEW, *(f"all inputs, {r} codes" for r in radii)):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                answer = pool.submit(measure, Path(data) / "tflite", name, question).result()
            rows.append(answer.row)
            sys.stdout.write(answer.row + "\n")
            sys.stdout.flush()
    if args.write is not None:
        command = f"OPENBLAS_NUM_THREADS=1 python -m benchmarks.pairs --write {args.write}"
        write_part(args.write, "pairs", [*TEXT.format(command=command).splitlines(), "", *HEAD, *rows])
    return 0


TEXT = """\
## Real pairs

`{command}` (one core)

Around the first stored input of each pair, at the logits, litert-xnnpack, against the exact real float network.
*Witnessed* is the largest gap that was found and replayed in the installed runtime, *proven* the bound; *naive
intervals* is what plain interval arithmetic says about the same region. A bound beyond everything that the quantized
outputs can be is "no useful bound". Seconds are processor time of the engines, search included; memory is the whole
process, models and interpreters included. Where the noise floor is beyond the outputs' range, bounds over all inputs
are not tried (see [explain](explain.md))."""

if __name__ == "__main__":
    sys.exit(main())
