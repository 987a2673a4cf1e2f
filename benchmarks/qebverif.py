"""DRA on the networks of the QEBVerif paper, against published intervals and the enumerated truth.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.qebverif [--part mnist acas] [--write docs/benchmarks.md]

Reads QEBGATE_DATA.  MNIST: the 15 development images of each network, all inputs free by 3 codes, the
predicted class; width of the proven interval over that of the narrowest published one.  *fast* has no
slope optimisation.  *products* are the dense matrix products that the back-substitution of the fast
configuration made, and nothing else, timed with numpy in the same run.  ACAS Xu: boxes of 0.01 around
the five fixpoints, every integer input executed.  The float networks are taken in real arithmetic, as
in the paper.  Exits 1 if an interval does not contain the truth.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from unittest import mock

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.tables import write_part
from qebgate.adapters.fixed_point import FixedPoint, build
from qebgate.adapters.npz import read_npz
from qebgate.domains.linear_map import Dense
from qebgate.engines.concrete import Session
from qebgate.engines.dra.engine import Dra
from qebgate.engines.enumerate import Enumerate
from qebgate.evidence import Bound
from qebgate.ir.align import align
from qebgate.ir.pair import Pair
from qebgate.properties import Property
from qebgate.regions import Cell, InputCodec, Region, expand
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.execute import run_float
from qebgate.task import Budget, Task

MNIST = ("mnist_1blk_100", "mnist_2blk_100_100", "mnist_3blk_100_100_100", "mnist_2blk_512_512")
FIXPOINTS = (
    (0, 0, 0, 0, 0),
    (0.2, -0.1, 0, -0.3, 0.4),
    (0.45, -0.23, -0.4, 0.12, 0.33),
    (-0.2, -0.25, -0.5, -0.3, -0.44),
    (0.61, 0.36, 0, 0, -0.24),
)
RANGE = np.array([[-0.32842, 0.67986], *[[-0.5, 0.5]] * 4])
FAST, DEFAULT = Budget(slopes=0), Budget()


def pair_of(path: Path, bits: int, *, acas: bool) -> Pair:
    how = FixedPoint(bits, 2 if acas else 1, 2, 2, 8, acas, 0)
    return align(*build(read_npz(path), how, Fraction(1, 255)))


def task_of(pair: Pair, cell: Cell, output: int) -> Task:
    codec = InputCodec.of(pair.quantized)
    return Task(pair, cell, codec, Property("max_abs", 0.0), (output,), Runtime.FIXED_POINT, "real")


def predicted(pair: Pair, cell: Cell) -> int:
    return int(run_float(pair.float, cell.centre[None])[pair.float.outputs[0]].argmax())


@dataclass
class Timed:
    bound: Bound
    seconds: float

    @property
    def width(self) -> float:
        return float(self.bound.upper[0] - self.bound.lower[0])


def prove(task: Task, budget: Budget, session: Session) -> Timed:
    start = time.process_time()
    (bound,) = Dra().run(task, [], budget, session)
    seconds = time.process_time() - start
    assert isinstance(bound, Bound)
    return Timed(bound, seconds)


@contextmanager
def logged(shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> Iterator[None]:
    """Shapes of all dense products of the back-substitution."""
    original = Dense.back

    def back(self: Dense, y: np.ndarray) -> np.ndarray:
        shapes.append((y.shape, self.w.shape))
        return original(self, y)

    with mock.patch.object(Dense, "back", back):
        yield


def products(shapes: list[tuple[tuple[int, ...], tuple[int, ...]]], repeat: int = 3) -> float:
    """Seconds of the same products on random numbers, the fastest of a few runs."""
    rng = np.random.default_rng(0)
    pool = {s: rng.standard_normal(s) for pair in shapes for s in pair}
    times = []
    for _ in range(repeat):
        start = time.process_time()
        for y, w in shapes:
            pool[y] @ pool[w]
        times.append(time.process_time() - start)
    return min(times)


def geometric(v: list[float]) -> float:
    return float(np.exp(np.mean(np.log(v))))


def mnist(data: Path, all_bits: list[int], images: int) -> list[str]:
    samples = np.load(data / "mnist_samples.npz")
    published: dict[tuple[str, int, int], float] = {}
    for r in json.loads((data / "published_dev.json").read_text())["dra"]:
        key = (r["net"], r["bits"], r["sample"])
        published[key] = min(published.get(key, np.inf), r["width"])
    lines = [
        "| network | bits | fast: width ratio | max | fast s | products s | default: width ratio | max | default s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    totals: tuple[list[float], list[float]] = ([], [])
    with Session() as session:
        for name in MNIST:
            for bits in all_bits:
                pair = pair_of(data / f"{name}.npz", bits, acas=False)
                codec = InputCodec.of(pair.quantized)
                region = Region("ball", 3.0, "lsb", "grid", "codes")
                rows = samples["x"][:images, None, :]
                ratios: tuple[list[float], list[float]] = ([], [])
                seconds: tuple[list[float], list[float]] = ([], [])
                bare = []
                for i in expand(region, codec, (1, 784), rows, range(len(rows))):
                    task = task_of(pair, i.cell, predicted(pair, i.cell))
                    best = published[name, bits, int(samples["index"][i.cell.index])]
                    for k, budget in enumerate((FAST, DEFAULT)):
                        t = prove(task, budget, session)
                        ratios[k].append(t.width / best)
                        seconds[k].append(t.seconds)
                    if len(bare) < 3:
                        shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
                        with logged(shapes):
                            prove(task, FAST, session)
                        bare.append(products(shapes))
                for k in (0, 1):
                    totals[k].extend(ratios[k])
                fast, default = (
                    [f"{geometric(r):.3f}", f"{max(r):.3f}", f"{np.median(s):.3f}"]
                    for r, s in zip(ratios, seconds, strict=True)
                )
                cells = [name, str(bits), *fast, f"{np.median(bare):.3f}", *default]
                lines.append(f"| {' | '.join(cells)} |")
                print(lines[-1], file=sys.stderr, flush=True)
    wider = [sum(r > 1 for r in t) for t in totals]
    lines += [
        "",
        (
            f"All {len(totals[0])} instances: geometric mean {geometric(totals[0]):.3f} (fast), "
            f"{geometric(totals[1]):.3f} (default); wider than the best published interval: {wider[0]} (fast), "
            f"{wider[1]} (default)."
        ),
    ]
    return lines


def acas(data: Path, all_bits: list[int], every: int) -> tuple[list[str], int]:
    lines = ["| bits | boxes | points at most | fast: median width ratio | default | not containing the truth |"]
    lines.append("|---|---|---|---|---|---|")
    wrong_in_all = 0
    names = [f"acasxu_{i}_{j}" for i in range(1, 6) for j in range(1, 10)][::every]
    with Session() as session:
        for bits in all_bits:
            ratios: tuple[list[float], list[float]] = ([], [])
            wrong, most = 0, 0
            for name in names:
                pair = pair_of(data / f"{name}.npz", bits, acas=True)
                codec = InputCodec.of(pair.quantized)
                for v in FIXPOINTS:
                    ends = [np.rint(256 * np.clip(np.array(v) + e, *RANGE.T)).clip(-128, 127) for e in (-0.01, 0.01)]
                    region = Region("box", domain="grid", lower=tuple(ends[0]), upper=tuple(ends[1]))
                    (instance,) = expand(region, codec, (1, 5))
                    task = task_of(pair, instance.cell, 0)
                    most = max(most, instance.cell.count or 0)
                    truth = Enumerate().run(task, [], Budget(), session)[0]
                    assert isinstance(truth, Bound)
                    lo, hi = float(truth.lower[0]), float(truth.upper[0])
                    for k, budget in enumerate((FAST, DEFAULT)):
                        t = prove(task, budget, session)
                        slack = 1e-9 * max(1.0, abs(lo), abs(hi))  # the truth is itself an enclosure
                        wrong += not (t.bound.lower[0] <= lo + slack and hi - slack <= t.bound.upper[0])
                        ratios[k].append(t.width / (hi - lo))
            cells = [str(bits), str(len(ratios[0])), f"{most:,}", *(f"{np.median(r):.2f}" for r in ratios), str(wrong)]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr, flush=True)
            wrong_in_all += wrong
    return lines, wrong_in_all


COMMAND = "OPENBLAS_NUM_THREADS=1 python -m benchmarks.qebverif"
HEAD = {
    "mnist": f"""## The networks of the QEBVerif paper: MNIST

`{COMMAND} --part mnist --write docs/benchmarks.md` (one core; radius 3, all 784 inputs free, the predicted class)

Width of the proven interval of the gap over the narrowest of the published variants, geometric mean and worst of the
images; processor seconds are medians of one DRA, outward rounding included. `products`: numpy's time for the fast
configuration's dense matrix products alone, in the same run. fast: no optimisation; default: with it.
""",
    "acas": f"""## The networks of the QEBVerif paper: ACAS Xu

`{COMMAND} --part acas --write docs/benchmarks.md` (boxes of 0.01 around the five fixpoints, output 0)

Width of the proven interval over the true one, known from executing every integer input of the box.
""",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=["mnist", "acas"], nargs="+", default=["mnist", "acas"])
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 6, 8, 10])
    parser.add_argument("--images", type=int, default=15)
    parser.add_argument("--every", type=int, default=1, help="every n-th of the 45 ACAS Xu networks")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    if not os.environ.get("QEBGATE_DATA"):
        sys.exit("QEBGATE_DATA does not name the benchmark data's folder")
    data = Path(os.environ["QEBGATE_DATA"]) / "qebverif"
    wrong = 0
    for part in args.part:
        with threadpool_limits(limits=1):
            if part == "mnist":
                lines = mnist(data, args.bits, args.images)
            else:
                lines, wrong = acas(data, [b for b in args.bits if b >= 8], args.every)
        text = [*HEAD[part].splitlines(), "", *lines]
        if args.write:
            write_part(args.write, f"qebverif {part}", text)
        else:
            print("\n".join(text))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
