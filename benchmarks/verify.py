"""QEBVerif's published verification tasks through the whole chain of engines, beside the published verdicts.

    OPENBLAS_NUM_THREADS=1 QEBGATE_DATA=... python -m benchmarks.verify [--images 15] [--write docs/benchmarks.md]

The tasks of ``qebverif/published_dev.json``: MNIST networks, all 784 inputs free by 3 codes, the predicted class, five
limits.  Each task by itself, as the gate asks it, within 60 s of wall-clock time.  Exits 1 on a contradiction to a
published verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.falsify import published
from benchmarks.qebverif import pair_of, predicted, task_of
from benchmarks.tables import write_part
from qebgate.engines import portfolio
from qebgate.plan import EFFORT
from qebgate.properties import Property
from qebgate.regions import InputCodec, Region, expand
from qebgate.verdict import Require, judge

COMMAND = "OPENBLAS_NUM_THREADS=1 python -m benchmarks.verify"
SECONDS = 60.0
WANTED: tuple[Require, ...] = ("proof", "proof_or_solver")
Key = tuple[str, int, float, int]


@dataclass(frozen=True)
class Answer:
    """Verdicts with ``require: proof`` and ``proof_or_solver``, who gave the second one, and seconds."""

    key: Key
    verdicts: tuple[str, str]
    engine: str
    seconds: float


def ask(data: Path, key: Key) -> Answer:
    """One task."""
    name, bits, limit, sample = key
    samples = np.load(data / "mnist_samples.npz", allow_pickle=False)
    row = samples["x"][samples["index"].tolist().index(sample)]
    pair = pair_of(data / f"{name}.npz", bits, acas=False)
    region = Region("ball", 3.0, "lsb", "grid", "codes")
    (i,) = expand(region, InputCodec.of(pair.quantized), (1, 784), row[None, None], [0])
    task = replace(task_of(pair, i.cell, predicted(pair, i.cell)), prop=Property("max_abs", limit))
    start = time.monotonic()
    found = portfolio.run(task, replace(EFFORT["standard"], seconds=SECONDS))
    seconds = time.monotonic() - start
    verdicts = [judge(task.prop, require, found) for require in WANTED]
    return Answer(key, (verdicts[0].verdict, verdicts[1].verdict), verdicts[1].engine or "none", seconds)


def contradicts(a: Answer, said: str) -> bool:
    """Whether a verdict and a published one exclude each other."""
    return any((v, said) in (("pass", "F"), ("fail", "T")) for v in a.verdicts)


def row(label: str, answers: Sequence[Answer], said: dict[Key, str]) -> str:
    decided = [sum(a.verdicts[k] != "unknown" for a in answers) for k in (0, 1)]
    engines = Counter(a.engine for a in answers if a.verdicts[1] != "unknown")
    by = ", ".join(f"{e} {n}" for e, n in engines.most_common())
    before = sum(said[a.key] != "?" for a in answers)
    total = sum(a.seconds for a in answers)
    median = float(np.median([a.seconds for a in answers]))
    return f"| {label} | {len(answers)} | {before} | {decided[0]} | {decided[1]} | {by} | {median:.2f} | {total:.0f} |"


HEAD = [
    "| network, bits | tasks | published decided | decided: proof | proof or solver | by | median s | total s |",
    "|---|---|---|---|---|---|---|---|",
]


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, print, and perhaps write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=15)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args(argv)
    if not os.environ.get("QEBGATE_DATA"):
        sys.stderr.write("QEBGATE_DATA is not set: nothing to measure\n")
        return 2
    data = Path(os.environ["QEBGATE_DATA"]) / "qebverif"
    said = published(json.loads((data / "published_dev.json").read_text())["verify"])
    kept = np.load(data / "mnist_samples.npz", allow_pickle=False)["index"].tolist()[: args.images]
    keys = sorted(k for k in said if k[3] in kept)
    answers: list[Answer] = []
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        for a in pool.map(ask, [data] * len(keys), keys):
            answers.append(a)
            sys.stderr.write(f"{a.key} {a.verdicts} {a.engine} {a.seconds:.1f} s, published {said[a.key]}\n")
            sys.stderr.flush()
    wrong = sum(contradicts(a, said[a.key]) for a in answers)
    groups = sorted({k[:2] for k in keys})
    lines = [row(f"{n}, {b}", [a for a in answers if a.key[:2] == (n, b)], said) for n, b in groups]
    lines.append(row("all", answers, said))
    option = "" if args.images == 15 else f" --images {args.images}"
    how = f"{args.jobs} processes, effort `standard`, {SECONDS:.0f} s a task"
    about = (
        "*Published decided*: by the best published methods together, with 24 threads and up to 3,600 s a task. "
        f"Contradictions to published verdicts: {wrong}. Seconds are wall-clock time."
    )
    command = f"`{COMMAND}{option} --write docs/benchmarks.md` ({how})"
    text = ["## QEBVerif's published verification tasks", "", command, "", about, "", *HEAD, *lines]
    if args.write is not None:
        write_part(args.write, "verify", text)
    sys.stdout.write("\n".join(text) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
