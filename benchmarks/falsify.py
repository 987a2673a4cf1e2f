"""The search for counterexamples on QEBVerif's published tasks: how many are refuted, and how fast.

    OPENBLAS_NUM_THREADS=1 QEBGATE_DATA=... python -m benchmarks.falsify [--write docs/benchmarks.md]

The tasks are those of ``qebverif/published_dev.json``: MNIST networks, all 784 inputs free by 3 codes, the
predicted class, five limits.  Each is asked on its own, as the gate would: the short search, the bound, and
the long search of the sides that the bound leaves open; nothing is shared between tasks.  Exits 1 where a
task is refuted whose bound is published as proven.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.qebverif import pair_of, predicted, task_of
from benchmarks.tables import write_part
from qebgate.engines.concrete import Session
from qebgate.engines.dra.engine import Dra
from qebgate.engines.falsify import Anneal, Falsify
from qebgate.engines.portfolio import answered
from qebgate.evidence import Evidence, Witness
from qebgate.ir.pair import Pair
from qebgate.plan import EFFORT
from qebgate.properties import Property
from qebgate.regions import InputCodec, Region, expand
from qebgate.task import Budget

COMMAND = "OPENBLAS_NUM_THREADS=1 python -m benchmarks.falsify --write docs/benchmarks.md"
HEADER = (
    "| network | bits | tasks | published false | refuted | short search | long search | published open, refuted "
    "| published false, not found | median s, refuted | median s, all | s, open: median / worst |"
)
HEAD = f"""\
## Counterexamples on QEBVerif's published tasks

`{COMMAND}` (one core, effort `{{effort}}`)

Each task on its own: the short search, the bound (not in the seconds), then the long search of the sides that it
leaves open. Contradictions to published verdicts: {{wrong}}. *open*: neither refuted nor proven by the bound. Seconds
are processor time, of one core."""
BEST = ("DRA+MILP+Diff", "DRA+MILP")


@dataclass
class Answer:
    """One task: seconds of the searches alone, by stage; who refuted it, and whether the bound proved it."""

    seconds: tuple[float, float]
    by: str | None
    proved: bool
    figure: float
    limit: float


def published(entries: list[dict]) -> dict[tuple[str, int, float, int], str]:
    """T proven, F refuted, ? open; of the published methods together."""
    seen: dict[tuple[str, int, float, int], dict[str, str]] = {}
    for e in entries:
        seen.setdefault((e["net"], e["bits"], e["limit"], e["sample"]), {})[e["method"]] = e["verdict"]
    out = {}
    for key, v in seen.items():
        said = [v.get(m) for m in BEST]
        proven = "True" in said or v.get("DRA") == "Proved"
        out[key] = "F" if "False" in said else "T" if proven else "?"
    return out


def ask(pair: Pair, row: np.ndarray, limit: float, budget: Budget, session: Session) -> Answer:
    codec = InputCodec.of(pair.quantized)
    (i,) = expand(Region("ball", 3.0, "lsb", "grid", "codes"), codec, (1, 784), row[None, None], [0])
    task = replace(task_of(pair, i.cell, predicted(pair, i.cell)), prop=Property("max_abs", limit))
    known: list[Evidence] = []
    spent = [0.0, 0.0]
    by, proved = None, False
    for stage, engine in ((0, Falsify()), (None, Dra()), (1, Anneal())):
        start = time.process_time()
        known += engine.run(task, known, budget, session)
        if stage is not None:
            spent[stage] = time.process_time() - start
        if answered(task.prop, known):
            proved = stage is None
            by = None if proved else ("short", "long")[stage]  # type: ignore[index]
            break
    figure = max(task.prop.of_gap(w.gap) for w in known if isinstance(w, Witness))
    return Answer((spent[0], spent[1]), by, proved, figure, limit)


def lines_of(name: str, bits: str, answers: list[Answer], said: list[str]) -> str:
    refuted = [a for a in answers if a.by]
    missed = [a for a, s in zip(answers, said, strict=True) if s == "F" and not a.by]
    total = [sum(a.seconds) for a in answers]
    open_ = [sum(a.seconds) for a in answers if not a.by and not a.proved]
    cells = [
        name,
        bits,
        str(len(answers)),
        str(sum(s == "F" for s in said)),
        str(len(refuted)),
        str(sum(a.by == "short" for a in refuted)),
        str(sum(a.by == "long" for a in refuted)),
        str(sum(s == "?" and a.by is not None for a, s in zip(answers, said, strict=True))),
        str(len(missed)) + (f" (best {max(a.figure / a.limit for a in missed):.3f})" if missed else ""),
        f"{np.median([sum(a.seconds) for a in refuted]):.2f}" if refuted else "-",
        f"{np.median(total):.2f}",
        f"{np.median(open_):.2f} / {max(open_):.2f}" if open_ else "-",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=15)
    parser.add_argument("--effort", choices=sorted(EFFORT), default="standard")
    parser.add_argument("--nets", nargs="*", help="only these networks")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    if not os.environ.get("QEBGATE_DATA"):
        sys.exit("QEBGATE_DATA does not name the benchmark data's folder")
    data = Path(os.environ["QEBGATE_DATA"]) / "qebverif"
    said = published(json.loads((data / "published_dev.json").read_text())["verify"])
    samples = np.load(data / "mnist_samples.npz")
    rows = dict(zip(samples["index"].tolist(), samples["x"], strict=True))
    kept = samples["index"].tolist()[: args.images]
    budget = EFFORT[args.effort]
    lines = [
        HEADER,
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    wrong, everything, all_said, text = 0, list[Answer](), list[str](), list[str]()
    with Session() as session, threadpool_limits(limits=1):
        for name, bits in sorted({(n, b) for n, b, _, _ in said}):
            if args.nets and name not in args.nets:
                continue
            pair = pair_of(data / f"{name}.npz", bits, acas=False)
            keys = sorted(k for k in said if k[:2] == (name, bits) and k[3] in kept)
            answers = [ask(pair, rows[k[3]], k[2], budget, session) for k in keys]
            verdicts = [said[k] for k in keys]
            wrong += sum(a.by is not None and s == "T" for a, s in zip(answers, verdicts, strict=True))
            wrong += sum(a.proved and s == "F" for a, s in zip(answers, verdicts, strict=True))
            lines.append(lines_of(name, str(bits), answers, verdicts))
            everything += answers
            all_said += verdicts
            table = [*lines, lines_of("all", "", everything, all_said)]
            text = [*HEAD.format(effort=args.effort, wrong=wrong).splitlines(), "", *table]
            print(lines[-1], file=sys.stderr, flush=True)
            if args.write:  # a long run that is stopped has written what it knows
                write_part(args.write, "falsify", text)
    print(Counter(all_said), f"contradictions: {wrong}", sep="\n", file=sys.stderr)
    if not args.write:
        print("\n".join(text))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
