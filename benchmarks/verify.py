"""QEBVerif's published verification tasks through the whole chain of engines, beside the published verdicts.

    OPENBLAS_NUM_THREADS=1 QEBGATE_DATA=... python -m benchmarks.verify [--images 15] [--solver] \\
        [--write docs/benchmarks.md]

The tasks of ``qebverif/published_dev.json``: MNIST networks, all 784 inputs free by 3 codes, the predicted class, five
limits.  Each task by itself, as the gate asks it with ``require: proof`` and ``effort: deep``, within 60 s of one
core: guards count the process' own processor time, so that a busy machine changes nothing.  ``--solver`` then gives
the tasks that are still open to the mixed-integer engines, as ``require: proof_or_solver`` does, for up to 60 s of
one more core.  Results are appended to ``--results`` as they come; what is there already is not run again.  Exits 1 on
a contradiction to a published verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.falsify import published
from benchmarks.qebverif import pair_of, predicted, task_of
from benchmarks.tables import write_part
from qebgate.engines import guard, portfolio
from qebgate.engines.concrete import Inputs, Session
from qebgate.errors import QebgateError
from qebgate.evidence import Bound, Evidence, Witness
from qebgate.ir.pair import Pair
from qebgate.plan import EFFORT
from qebgate.properties import Property
from qebgate.regions import InputCodec, Region, expand
from qebgate.task import Task, witnessed
from qebgate.verdict import Require, judge

COMMAND = "OPENBLAS_NUM_THREADS=1 python -m benchmarks.verify"
SECONDS = 60.0
PUBLISHED_LIMIT = 3600.0
SOLVERS = frozenset({"milp", "cpsat", "cp-sat"})
"""Engines of the second stage."""
Key = tuple[str, int, float, int]


@dataclass(frozen=True)
class Answer:
    """What one stage made of a task; bounds and the best witness' codes serve the next stage."""

    key: Key
    stage: Require
    verdict: str
    engine: str
    seconds: float
    lower: float | None
    upper: float | None
    witness: list[int] | None

    @classmethod
    def read(cls, line: str) -> Answer:
        fields = json.loads(line)
        name, bits, limit, sample = fields.pop("key")
        return cls((name, bits, limit, sample), **fields)


@cache
def pair_at(path: Path, bits: int) -> Pair:
    return pair_of(path, bits, acas=False)


def task_at(data: Path, key: Key) -> Task:
    """One published task."""
    name, bits, limit, sample = key
    samples = np.load(data / "mnist_samples.npz", allow_pickle=False)
    row = samples["x"][samples["index"].tolist().index(sample)]
    pair = pair_at(data / f"{name}.npz", bits)
    region = Region("ball", 3.0, "lsb", "grid", "codes")
    (i,) = expand(region, InputCodec.of(pair.quantized), (1, 784), row[None, None], [0])
    return replace(task_of(pair, i.cell, predicted(pair, i.cell)), prop=Property("max_abs", limit))


def processor_time() -> None:
    """Guards of this process count its own processor time from now on."""
    clock = SimpleNamespace(monotonic=time.process_time)
    guard.time = portfolio.time = clock  # type: ignore[assignment]


@contextmanager
def crossing(key: Key) -> Iterator[None]:
    """Coded errors do not pickle: as one that does."""
    try:
        yield
    except QebgateError as e:
        raise RuntimeError(f"{key} {e.code}: {e.message} {e.found or ''}") from None


def prove(data: Path, seconds: float, key: Key) -> Answer:
    """The first stage: everything but solvers."""
    task = task_at(data, key)
    start = time.process_time()
    with crossing(key):
        found = portfolio.run(task, replace(EFFORT["deep"], seconds=seconds, milp=0))
        return answer(key, "proof", task, found, time.process_time() - start)


def solve(data: Path, seconds: float, before: Answer) -> Answer:
    """The second stage: mixed-integer engines, told what the first one knows."""
    task = task_at(data, before.key)
    start = time.process_time()
    found: list[Evidence] = []
    budget = replace(EFFORT["deep"], seconds=seconds)
    with crossing(before.key), Session() as session:
        if before.lower is not None and before.upper is not None:
            found.append(Bound(np.array([before.lower]), np.array([before.upper]), "certified", before.engine, 0.0))
        if before.witness is not None:
            codes = np.array(before.witness, np.int32).reshape(1, *task.cell.lower.shape)
            found.append(session.witness(task, Inputs.of_codes(task, codes), "falsify"))
        for engine in portfolio.ORDER:
            if engine.name in SOLVERS and not decided(judge(task.prop, "proof_or_solver", found).verdict):
                found += engine().run(task, found, budget, session)
        return answer(before.key, "proof_or_solver", task, found, time.process_time() - start)


def answer(key: Key, stage: Require, task: Task, found: Sequence[Evidence], seconds: float) -> Answer:
    v = judge(task.prop, stage, found)
    worst = max((e for e in found if isinstance(e, Witness)), key=lambda w: witnessed(task.prop, w), default=None)
    codes = None if worst is None or worst.codes is None else worst.codes.ravel().tolist()
    ends = (None if x is None else float(x[0]) for x in (v.lower, v.upper))
    return Answer(key, stage, v.verdict, v.engine or "none", round(seconds, 3), *ends, codes)


def decided(verdict: str) -> bool:
    return verdict != "unknown"


def contradicts(a: Answer, said: str) -> bool:
    """Whether a verdict and a published one exclude each other."""
    return (a.verdict, said) in (("pass", "F"), ("fail", "T"))


@dataclass(frozen=True)
class Published:
    """Verdicts of the published methods together, and seconds of the best one (its limit where it was open)."""

    verdict: dict[Key, str]
    seconds: dict[Key, float]

    @classmethod
    def read(cls, path: Path) -> Published:
        entries = json.loads(path.read_text())["verify"]
        seconds: dict[Key, float] = {}
        for e in entries:
            if e["method"] != "DRA+MILP":
                key = e["net"], e["bits"], e["limit"], e["sample"]
                spent = PUBLISHED_LIMIT if e["seconds"] is None else e["seconds"]
                seconds[key] = spent if e["method"] == "DRA+MILP+Diff" else seconds.get(key, spent)
        return cls(published(entries), seconds)


def row(label: str, keys: Sequence[Key], by: dict[tuple[Key, str], Answer], said: Published) -> str:
    """One line of the table."""
    first = [by[k, "proof"] for k in keys]
    last = [by.get((k, "proof_or_solver"), by[k, "proof"]) for k in keys]
    proof, either = (sum(decided(a.verdict) for a in x) for x in (first, last))
    engines = Counter(a.engine for a in last if decided(a.verdict))
    share = ", ".join(f"{e} {100 * n / len(keys):.1f} %" for e, n in engines.most_common())
    before = sum(said.verdict[k] != "?" for k in keys)
    wrong = sum(contradicts(a, said.verdict[a.key]) for a in (*first, *last))
    seconds = [sum(a.seconds for a in first), sum(by[k, s].seconds for k, s in by if k in set(keys))]
    median = float(np.median([a.seconds for a in first]))
    old = sum(said.seconds.get(k, PUBLISHED_LIMIT) for k in keys)
    of = lambda n: f"{n} ({100 * n / len(keys):.1f} %)"  # noqa: E731
    return (
        f"| {label} | {len(keys)} | {of(before)} | {of(proof)} | {of(either)} | {share} | {wrong} | {median:.2f} "
        f"| {seconds[0]:.0f} | {seconds[1]:.0f} | {old:.0f} |"
    )


HEAD = [
    (
        "| network, bits | tasks | published decided | decided: proof | proof or solver | by engine | contradictions "
        "| median s | total s: proof | with solver | published s |"
    ),
    "|---|---|---|---|---|---|---|---|---|---|---|",
]
ABOUT = (
    "*Published decided*: by the best published methods together; *published s*: wall-clock seconds of the best one "
    "on 24 threads, 3,600 where it stopped undecided. Ours are processor seconds: those of the proof engines, and, on "
    "another core, for the solvers on what is open."
)


def run(pool: ProcessPoolExecutor, jobs: Sequence[tuple[object, ...]], into: Path, said: Published) -> Iterator[Answer]:
    """Do all jobs, telling and keeping each result when it is there."""
    for done in as_completed([pool.submit(*job) for job in jobs]):  # type: ignore[arg-type]
        try:
            a: Answer = done.result()
        except RuntimeError as e:  # told, and not kept: the next run asks again
            sys.stderr.write(f"ERROR {e}\n")
            continue
        with into.open("a") as file:
            file.write(json.dumps(asdict(a)) + "\n")
        ends = "" if a.lower is None or a.upper is None else f"[{a.lower:.3f}, {a.upper:.3f}]"
        name, bits, limit, sample = a.key
        sys.stderr.write(
            f"{name} {bits} {limit} {sample}: {a.verdict} by {a.engine} {ends} {a.seconds:.1f} s, "
            f"published {said.verdict[a.key]}{' CONTRADICTION' if contradicts(a, said.verdict[a.key]) else ''}\n"
        )
        sys.stderr.flush()
        yield a


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, print, and perhaps write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=15, help="the first so many images")
    parser.add_argument("--nets", nargs="*", help="names of networks, or parts of them (1blk, 2blk, 3blk)")
    parser.add_argument("--bits", type=int, nargs="*")
    parser.add_argument("--limits", type=float, nargs="*")
    parser.add_argument("--solver", action="store_true", help="then the mixed-integer engines on open tasks")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of one core, for each task and stage")
    parser.add_argument("--known", action="store_true", help="run nothing: the table of the results that are there")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path("build/verify.jsonl"))
    parser.add_argument("--write", type=Path)
    args = parser.parse_args(argv)
    if not os.environ.get("QEBGATE_DATA"):
        sys.stderr.write("QEBGATE_DATA is not set: nothing to measure\n")
        return 2
    data = Path(os.environ["QEBGATE_DATA"]) / "qebverif"
    said = Published.read(data / "published_dev.json")
    kept = np.load(data / "mnist_samples.npz", allow_pickle=False)["index"].tolist()[: args.images]
    keys = [
        k
        for k in sorted(said.verdict)
        if k[3] in kept
        and (not args.nets or any(part in k[0] for part in args.nets))
        and (not args.bits or k[1] in args.bits)
        and (not args.limits or k[2] in args.limits)
    ]
    keys.sort(key=lambda k: (kept.index(k[3]), k))  # image by image: a run that was cut off has some of everything
    args.results.parent.mkdir(parents=True, exist_ok=True)
    lines = args.results.read_text().splitlines() if args.results.exists() else []
    by = {(a.key, a.stage): a for a in map(Answer.read, lines)}
    if args.known:  # before anything runs
        keys = [k for k in keys if (k, "proof") in by]
        if not keys:
            sys.stderr.write("no results yet\n")
            return 2
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn"), initializer=processor_time) as pool:
        todo = [(prove, data, args.seconds, k) for k in keys if (k, "proof") not in by]
        for a in run(pool, todo, args.results, said):
            by[a.key, a.stage] = a
        still = [
            by[k, "proof"]
            for k in keys
            if args.solver and not args.known and (k, "proof") in by and not decided(by[k, "proof"].verdict)
        ]
        more = [(solve, data, args.seconds, a) for a in still if (a.key, "proof_or_solver") not in by]
        for a in run(pool, more, args.results, said):
            by[a.key, a.stage] = a
    failed = [k for k in keys if (k, "proof") not in by]
    if failed:
        sys.stderr.write(f"{len(failed)} tasks ended with an error\n")
        return 1
    text = report(keys, by, said, args)
    if args.write is not None:
        write_part(args.write, "verify", text)
    sys.stdout.write("\n".join(text) + "\n")
    return 1 if any(contradicts(a, said.verdict[a.key]) for (k, _), a in by.items() if k in set(keys)) else 0


def report(
    keys: Sequence[Key], by: dict[tuple[Key, str], Answer], said: Published, args: argparse.Namespace
) -> list[str]:
    """The part of the page."""
    groups = sorted({k[:2] for k in keys}, key=lambda g: (g[0], g[1]))
    table = [row(f"{n}, {b}", [k for k in keys if k[:2] == (n, b)], by, said) for n, b in groups]
    table.append(row("all", keys, by, said))
    option = "".join(
        f" --{name} {' '.join(map(str, v)) if isinstance(v, list) else v}"
        for name, v, usual in (
            ("images", args.images, 15),
            ("nets", args.nets, None),
            ("bits", args.bits, None),
            ("limits", args.limits, None),
        )
        if v != usual
    ) + (" --solver" if args.solver else "")
    command = f"`{COMMAND}{option} --write docs/benchmarks.md` (effort `deep`, {args.seconds:.0f} s of one core a task)"
    return ["## QEBVerif's published verification tasks", "", command, "", ABOUT, "", *HEAD, *table]


if __name__ == "__main__":
    sys.exit(main())
