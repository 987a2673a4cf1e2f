"""Tiny int8 networks whose every input is executed: verdicts on both sides of the truth.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.tiny [--networks 500] [--first 0] [--write docs/benchmarks.md]

Random int8 TFLite networks (convolutions, pools, residuals, dense layers, tanh; int8, uint8 and float inputs), each
with a box of at most 65,536 inputs, in one of the three installed runtimes, against the float network in float32 or
real arithmetic.  *enumerate* gives the truth: it must pass at the figure that it proves, and fail one float step below
the figure that it witnesses.  Then falsify, dra, split and branch, without *enumerate*: PASS at 1.02 times, FAIL at
0.98 times the truth, and never a bound below it.  *CP-SAT*: the integer maximum of the first quantized output equals
the executed one.

Needs the test folder.  Exits 1 if anything contradicts the truth.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.tables import write_part
from qebgate.adapters.tflite.reader import read_tflite
from qebgate.engines import portfolio
from qebgate.engines.concrete import Inputs, Session, quantized_outputs
from qebgate.engines.enumerate import all_codes
from qebgate.engines.milp_integer import integer_maximum
from qebgate.evidence import Evidence
from qebgate.ir.align import align
from qebgate.properties import Property
from qebgate.runtimes.profiles import DEPLOYED
from qebgate.task import Budget, Task
from qebgate.verdict import TaskVerdict, judge
from tests.engines.test_reached import few_free
from tests.laws.pairs import Twins, codec_of, float_twin, load, random_pair, task_of
from tests.semantics.cases import codes, pick
from tests.semantics.networks import _Net

MOST = 1 << 16
SIZES = (256, 4096, MOST)
ENGINES = ("falsify", "dra", "split", "branch")
LIMITS = Budget(enumerate=MOST, split=1 << 12, branch=256, seconds=300.0)
LEAST = 1e-6
"""Smaller gaps are roundoff: there is no question to ask."""


@dataclass
class Tally:
    """Counts of one group of networks."""

    networks: int = 0
    at_truth: int = 0
    below_truth: int = 0
    passed: int = 0
    failed: int = 0
    too_low: int = 0
    contradicted: int = 0
    equal: int = 0
    no_program: int = 0
    unequal: int = 0
    seconds: list[float] = field(default_factory=list[float])

    @property
    def cells(self) -> list[str]:
        s = f"{np.median(self.seconds):.2f} / {max(self.seconds):.1f}" if self.seconds else "-"
        return [str(v) for v in (
            self.networks, self.at_truth, self.below_truth, self.passed, self.failed, self.too_low, self.contradicted,
            self.equal, self.no_program, self.unequal, s,
        )]  # fmt: skip

    @property
    def wrong(self) -> int:
        return self.too_low + self.contradicted + self.unequal + 2 * self.networks - self.at_truth - self.below_truth


HEAD = (
    "| inputs at most | networks | enumerate: PASS at the truth | FAIL one step below | PASS at 1.02 | FAIL at 0.98 "
    "| bounds below the truth | verdicts against it | CP-SAT equal | no integer program | unequal | s, median / most |"
)


def plain_pair(seed: int) -> Twins:
    """A network that CP-SAT can be asked about too: convolutions, dense layers, ReLUs and max pools alone."""
    rng = np.random.default_rng(seed)
    net = _Net(rng)
    shape = (1, *(int(v) for v in rng.integers(2, 5, 2)), int(rng.integers(1, 3)))
    source = net.tensor(shape, float(rng.uniform(0.005, 0.05)), int(pick(rng, -128, 0, 3, 127)))
    for _ in range(int(rng.integers(0, 3))):
        pick(
            rng, lambda: net.conv(int(rng.integers(1, 4)), 3, 1, same=True), net.relu, lambda: net.pool("MAX_POOL_2D")
        )()
    size, target = int(np.prod(net.shape)), net.b.tensor((2,), "int32", data=[1, int(np.prod(net.shape))])
    x = net.at
    net.b.op("RESHAPE", [x, target], [net.tensor((1, size), net.scale, net.zero)])
    for _ in range(int(rng.integers(1, 3))):
        m = int(rng.integers(1, 9))
        net.linear("FULLY_CONNECTED", np.maximum(codes(rng, (m, net.shape[1])), -127), 0, (1, m))
    model = net.b.build([source], [net.at])
    return load(float_twin(model, rng), model)


def tiny_task(seed: int, folder: Path) -> Task | None:
    """One network, its models in a folder, and its box; None where the box is too large or a point."""
    rng = np.random.default_rng(seed)
    twins = plain_pair(seed) if seed % 4 == 0 else random_pair(seed)
    paths = folder / "float.tflite", folder / "quantized.tflite"
    for path, content in zip(paths, (twins.float, twins.quantized), strict=True):
        path.write_bytes(content)
    pair = align(*(read_tflite(p) for p in paths)).at("logits")
    cell = few_free(pair, rng, int(rng.integers(1, 5)))
    if cell.count is None or cell.count > MOST or cell.is_point:
        return None
    floats = ("float32", "real")[seed % 2]
    return task_of(pair, cell, codec_of(pair), DEPLOYED[seed % 3], floats)  # type: ignore[arg-type]


def verdict(task: Task, limit: float, engines: Sequence[str], session: Session) -> TaskVerdict:
    question = replace(task, prop=Property("max_abs", limit))
    found: list[Evidence] = portfolio.run(question, LIMITS, engines, session=session)
    return judge(question.prop, "proof", found)


def ask(task: Task, tally: Tally, session: Session) -> None:
    truth = verdict(task, 0.0, ("enumerate",), session)
    assert truth.proven is not None and truth.witnessed is not None
    if truth.proven < LEAST:
        return
    most, least = truth.proven, truth.witnessed
    tally.networks += 1
    tally.at_truth += verdict(task, most, ("enumerate",), session).verdict == "pass"
    tally.below_truth += verdict(task, float(np.nextafter(least, 0.0)), ("enumerate",), session).verdict == "fail"
    for factor in (1.02, 0.98):
        start = time.process_time()
        v = verdict(task, factor * (most if factor > 1 else least), ENGINES, session)
        tally.seconds.append(time.process_time() - start)
        tally.too_low += v.proven is not None and v.proven < least
        if factor > 1:
            tally.passed += v.verdict == "pass"
            tally.contradicted += v.verdict == "fail"
        else:
            tally.failed += v.verdict == "fail"
            tally.contradicted += v.verdict == "pass"
    found = integer_maximum(task, task.outputs[0], 1, work=10.0, seconds=60.0)
    if found.result.trouble is not None or not found.exact or found.best is None:
        tally.no_program += 1
        print(f"{task.pair.quantized.source.label}: {found.result}", file=sys.stderr, flush=True)
        return
    parts = [quantized_outputs(task, Inputs.of_codes(task, c))[:, 0].max() for c in all_codes(task.cell, 4096)]
    same = found.best == max(parts)
    tally.equal += same
    tally.unequal += not same


def run(first: int, networks: int) -> tuple[list[str], int]:
    groups = {size: Tally() for size in SIZES}
    seed, done = first, 0
    while done < networks:
        with TemporaryDirectory() as folder, Session() as session:
            task = tiny_task(seed, Path(folder))
            seed += 1
            if task is None:
                continue
            tally = groups[next(size for size in SIZES if (task.cell.count or 0) <= size)]
            before = tally.networks
            ask(task, tally, session)
        done += tally.networks - before
        if tally.wrong:
            print(f"seed {seed - 1}: {tally}", file=sys.stderr, flush=True)
        if done % 50 == 0:
            print(done, *(t.cells for t in groups.values()), file=sys.stderr, flush=True)
    lines = [HEAD, "|" + "---|" * 12]
    lines += [f"| {' | '.join([f'{size:,}', *t.cells])} |" for size, t in groups.items()]
    return lines, sum(t.wrong for t in groups.values())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="seed of the first network")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    with threadpool_limits(limits=1):
        lines, wrong = run(args.first, args.networks)
    text = [
        "## Tiny networks, on both sides of the truth",
        "",
        f"`OPENBLAS_NUM_THREADS=1 python -m benchmarks.tiny --networks {args.networks} --write docs/benchmarks.md`",
        "",
        (__doc__ or "").split("\n\n")[2].replace("\n", " ").replace(".  ", ". "),
        "",
        *lines,
    ]
    if args.write:
        write_part(args.write, "tiny", text)
    else:
        print("\n".join(text))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
