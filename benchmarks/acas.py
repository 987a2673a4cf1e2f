"""ACAS Xu networks of the QEBVerif paper: what is decided without executing everything, beside the whole truth.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.acas [--boxes 5 2] [--leaf 4096] [--certify] [--write PAGE]

Boxes of 0.01 and 0.025 around the fixpoints, networks 1_1, 1_5, 2_6 and 5_5 in fixed point of 6 to
10 bits, output 0, the float network in real arithmetic.  Every box is executed completely by *enumerate*: that is the
truth, and no other engine is told.  Then the engines falsify, dra, split and branch answer seven questions about it:
0.9 and 1.1 times the true largest gap, and the paper's limits .05, .1, .2, .3 and .4.  ``--boxes``: fixpoints for each
radius.  ``--leaf``: parts of a box with at most so many points may be executed (*split*).

With ``--certify``: what checking the trees of *split* costs, instead.  A pass is proved once more without keeping
anything (*proving*), with what a certificate needs, and that is checked as *recheck* does.

Reads QEBGATE_DATA.  Exits 1 if a verdict contradicts the truth.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.qebverif import FIXPOINTS, RANGE, pair_of, task_of
from benchmarks.tables import write_part
from qebgate.certificates import split_parts
from qebgate.certify.check import Question, bounds, hull
from qebgate.engines import bisection, portfolio
from qebgate.engines.concrete import Session
from qebgate.engines.enumerate import Enumerate
from qebgate.engines.guard import Guard
from qebgate.engines.split import tree
from qebgate.engines.split.engine import tree_of
from qebgate.evidence import Bound
from qebgate.ir.pair import Pair
from qebgate.properties import Property
from qebgate.regions import InputCodec, Region, expand
from qebgate.task import Budget, Task
from qebgate.verdict import judge

NETWORKS = ("1_1", "1_5", "2_6", "5_5")
BITS = (6, 7, 8, 9, 10)
RADII = (0.01, 0.025)
LIMITS = (0.05, 0.1, 0.2, 0.3, 0.4)
FACTORS = (0.9, 1.1)
ENGINES = ("falsify", "dra", "split", "branch")


@dataclass
class Tally:
    """What was asked of one group of boxes."""

    seconds: list[float] = field(default_factory=list[float])
    truth_seconds: list[float] = field(default_factory=list[float])
    engines: Counter[str] = field(default_factory=Counter)
    undecided: int = 0
    wrong: int = 0
    points: int = 0

    @property
    def cells(self) -> list[str]:
        n = len(self.seconds)
        return [
            str(len(self.truth_seconds)), f"{self.points:,}", str(n), f"{100 * (n - self.undecided) / n:.1f} %",
            *(str(self.engines[e]) for e in ENGINES), str(self.wrong),
            f"{np.median(self.seconds):.2f} / {max(self.seconds):.1f}", f"{np.median(self.truth_seconds):.2f}",
        ]  # fmt: skip


HEAD = (
    "| radius | bits | boxes | points at most | questions | decided | falsify | dra | split | branch | wrong "
    "| s, median / most | s to execute all |"
)


def box_task(pair: Pair, fixpoint: tuple[float, ...], radius: float) -> Task:
    """The task of one box, without a limit."""
    codec = InputCodec.of(pair.quantized)
    lower, upper = (np.rint(256 * np.clip(np.array(fixpoint) + e, *RANGE.T)).clip(-128, 127) for e in (-radius, radius))
    (instance,) = expand(Region("box", domain="grid", lower=tuple(lower), upper=tuple(upper)), codec, (1, 5))
    return task_of(pair, instance.cell, 0)


def ask(task: Task, session: Session, tally: Tally, budget: Budget) -> None:
    """All questions about one box."""
    start = time.process_time()
    truth = Enumerate().run(task, [], Budget(enumerate=1 << 24, seconds=600.0), session)[0]
    tally.truth_seconds.append(time.process_time() - start)
    assert isinstance(truth, Bound) and truth.trust == "exhaustive"
    most = task.prop.of_box(truth.lower, truth.upper)
    slack = 1e-9 * max(1.0, most)  # the truth is itself an enclosure
    tally.points = max(tally.points, task.cell.count or 0)
    for limit in (*(f * most for f in FACTORS), *LIMITS):
        question = replace(task, prop=Property("max_abs", limit))
        start = time.process_time()
        found = portfolio.run(question, budget, ENGINES, session=session)
        tally.seconds.append(time.process_time() - start)
        v = judge(question.prop, "proof", found)
        if v.verdict == "unknown":
            tally.undecided += 1
            continue
        tally.wrong += most - slack > limit if v.verdict == "pass" else most + slack <= limit
        by = v.engine if v.verdict == "pass" else None if v.witness is None else v.witness.engine
        tally.engines[by or "?"] += 1


def certify(task: Task, budget: Budget, most: float) -> list[list[str]]:
    """Rows: proving and checking 1.1 and 1.5 times the true gap of one box."""
    rows: list[list[str]] = []
    for factor in (1.1, 1.5):
        t = replace(task, prop=Property("max_abs", factor * most))
        start = time.process_time()
        search = tree_of(tree.Tree, t, [], budget, Guard(budget))
        search.run(budget.split, lambda _: None)
        proving = time.process_time() - start
        question = Question(t.pair, t.cell, t.codec, t.outputs, t.runtime, float32=False)
        parts = split_parts(t, budget, question)
        start = time.process_time()
        lower, upper = hull([bounds(replace(question, cell=x.cell), x.hints) for x in parts])
        checking = time.process_time() - start
        assert most - 1e-9 <= t.prop.of_box(lower, upper) <= t.prop.limit
        executed = sum(x.hints is None for x in parts)
        rows.append([
            f"{task.cell.count:,}", f"{factor:g}", str(search.done), str(len(parts)), str(executed), f"{proving:.2f}",
            f"{checking:.2f}", f"{checking / proving:.2f}",
        ])  # fmt: skip
    return rows


CERTIFY_HEAD = (
    "| network | bits | radius | points | limit / truth | parts bounded | leaves | executed | proving, s | checking, s "
    "| ratio |"
)


def run_certify(data: Path, boxes: dict[float, int], networks: list[str], all_bits: list[int]) -> list[str]:
    lines, budget = [CERTIFY_HEAD, "|" + "---|" * 11], Budget(split=1 << 14, seconds=600.0)
    with Session() as session, threadpool_limits(limits=1):
        for radius, count in boxes.items():
            for name in networks:
                for bits in all_bits:
                    pair = pair_of(data / f"acasxu_{name}.npz", bits, acas=True)
                    for k in range(count):
                        task = box_task(pair, FIXPOINTS[(k + 1) % len(FIXPOINTS)], radius)
                        truth = Enumerate().run(task, [], Budget(enumerate=1 << 24), session)[0]
                        assert isinstance(truth, Bound)
                        for row in certify(task, budget, task.prop.of_box(truth.lower, truth.upper)):
                            lines.append(f"| {' | '.join([name, str(bits), f'{radius:g}', *row])} |")
                            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def run(
    data: Path, boxes: dict[float, int], networks: list[str], all_bits: list[int], budget: Budget
) -> tuple[list[str], int]:
    lines = [HEAD, "|" + "---|" * 13]
    wrong = 0
    with Session() as session, threadpool_limits(limits=1):
        for radius, count in boxes.items():
            for bits in all_bits:
                tally = Tally()
                for name in networks:
                    pair = pair_of(data / f"acasxu_{name}.npz", bits, acas=True)
                    for k in range(count):  # other fixpoints for every network
                        which = FIXPOINTS[(k + networks.index(name)) % len(FIXPOINTS)]
                        ask(box_task(pair, which, radius), session, tally, budget)
                lines.append(f"| {' | '.join([f'{radius:g}', str(bits), *tally.cells])} |")
                print(lines[-1], file=sys.stderr, flush=True)
                wrong += tally.wrong
    return lines, wrong


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--boxes", type=int, nargs=2, default=[5, 2], help="fixpoints at 0.01 and at 0.025")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--bits", type=int, nargs="+", default=list(BITS))
    parser.add_argument("--leaf", type=int, default=bisection.LEAF)
    parser.add_argument("--certify", action="store_true")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    if not os.environ.get("QEBGATE_DATA"):
        sys.exit("QEBGATE_DATA does not name the benchmark data's folder")
    data = Path(os.environ["QEBGATE_DATA"]) / "qebverif"
    boxes = {r: n for r, n in zip(RADII, args.boxes, strict=True) if n}
    small = min(tree.SMALL, args.leaf)
    if args.certify:
        lines, wrong = run_certify(data, boxes, args.networks, args.bits), 0
        command = "OPENBLAS_NUM_THREADS=1 python -m benchmarks.acas " + " ".join(sys.argv[1:]).partition(" --write")[0]
        text = [
            "## ACAS Xu: what checking trees over the inputs costs",
            "",
            f"`{command}` (processor seconds)",
            "",
            *lines,
        ]
        if args.write:
            write_part(args.write, "acas certificates", text)
        else:
            print("\n".join(text))
        return
    with mock.patch.object(tree.Tree, "leaf", args.leaf), mock.patch.object(tree, "SMALL", small):
        lines, wrong = run(data, boxes, args.networks, args.bits, Budget(seconds=300.0, split=1 << 14))
    own = "" if args.leaf == bisection.LEAF else f" --leaf {args.leaf}"
    command = f"OPENBLAS_NUM_THREADS=1 python -m benchmarks.acas --boxes {' '.join(map(str, args.boxes))}{own}"
    text = [
        f"## ACAS Xu without enumeration{own and f', parts of at most {args.leaf} points executed'}",
        "",
        f"`{command} --write docs/benchmarks.md` (one core, processor seconds)",
        "",
        (__doc__ or "").split("\n\n")[2].replace("\n", " ").replace("``", "`").replace(".  ", ". "),
        "",
        *lines,
    ]
    if args.write:
        write_part(args.write, f"acas{own}", text)
    else:
        print("\n".join(text))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
