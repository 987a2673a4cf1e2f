"""Tries to refute the analysis: counts values that a bound excludes.

    python -m benchmarks.soundness [--networks N] [--inputs N] [--boxes N] [--write docs/soundness.md]

First random networks and every operator alone, in each runtime: a random region each (boxes of codes,
points, real-valued boxes with inputs at and next to ties of the input quantization), executed on N
inputs (corners and ties included), and every bound of every intermediate value compared: float,
quantized, gap, codes, and the final gap.  Then the tiny converted models of tests/models: the whole grid
executed, with the float model in LiteRT itself, against every engine and the verdict on both sides of the
truth; and the analysis on random boxes of it.  Exits 1 if anything is violated.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from qebgate.engines import portfolio
from qebgate.engines.concrete import Session
from qebgate.engines.dra.analysis import Settings
from qebgate.engines.dra.engine import Dra
from qebgate.engines.enumerate import Enumerate
from qebgate.evidence import Bound
from qebgate.ops.registry import LOWERINGS
from qebgate.runtimes.profiles import DEPLOYED
from qebgate.runtimes.replay import cpu_features, runtime_version
from qebgate.task import Budget
from qebgate.verdict import judge
from tests.engines.tiny import ENTRIES, outside, tiny
from tests.laws.contain import Seen, check, samples
from tests.laws.pairs import Twins, codec_of, grid_cell, one_operator, random_pair, real_cell, task_of
from tests.semantics.compare import runtimes_of

HEAD = """\
# Soundness

A wrong PASS is the worst that a gate can do. This page says how we try to catch the analysis at one, and with what
result. Measured with `{command} --write docs/soundness.md`
({runtime}; {seconds:.0f} s on one core).

**Violations: {total}.** Nothing here is compared with a tolerance. Quantized values are exact. Float values of
`float_semantics: float32` are float32 numbers: of two evaluations of our own, and of LiteRT itself for the outputs.
Those of `real` are executed in 80-bit arithmetic, and only an excess over that execution's own error (2^-58 of the
largest value) counts.

## Every bound of every value

Random networks (dense layers, convolutions, depthwise convolutions, residual sums, pools, means, padding, rescaling,
standalone ReLUs, sigmoids, softmax; int8, uint8 or float inputs; per-tensor and per-channel weights; float weights
within half a quantum of the quantized ones), and every operator alone. Each in all three runtimes, over one random
region each: boxes of codes, points, real-valued boxes. Executed are corners, ties of the input quantization and their
neighbours, and random inputs. Compared are the bounds of float value, quantized value, gap and codes of every
intermediate value, and the final bounds.

| | models | regions | inputs executed | values compared | violations |
|---|---|---|---|---|---|"""

GRIDS = """
## The whole truth about tiny models

Made by the real converter. All inputs of the grid are executed in each runtime, the float model by LiteRT itself.
`DRA` and `enumeration` are proven worst cases over the truth (the largest ratio of the three runtimes). The full
chain is asked at 1.02 and 0.98 times the truth in each runtime. The last columns: the analysis against the truth on
random boxes, segments and points of the grid.

| model | inputs | truth | DRA | enumeration | pass at 1.02, fail at 0.98 | boxes | violations |
|---|---|---|---|---|---|---|---|"""

TAIL = """

## Would the checks notice?

`tests/laws/test_mutants.py` makes some 30 mistakes on purpose in the analysis (a dropped rounding term, a chord on the
wrong side, a sign, inward rounding, another runtime's rounding, ...): each is caught. `tests/domains` compares the
relaxation of one neuron, and `tests/engines/test_exact.py` the whole analysis of dense networks, with rational
arithmetic. What the runtimes compute is a question of its own: [bit-exactness](bit-exactness.md).
"""

FIRST_SEED = 5_000_000  # none of the tests' seeds
RUNTIMES = DEPLOYED


@dataclass
class Part:
    """One table row: what was compared."""

    name: str
    models: int = 0
    tasks: int = 0
    inputs: int = 0
    seen: Seen = field(default_factory=Seen)
    seconds: float = 0.0


def contain(name: str, pairs: list[tuple[int, Twins]], inputs: int) -> Part:
    """Every pair in every runtime, one random region each."""
    part, start = Part(name), time.process_time()
    for seed, twins in pairs:
        part.models += 1
        for k, runtime in enumerate(runtimes_of(twins.pair.quantized)):
            rng = np.random.default_rng(3 * seed + k)
            codec = codec_of(twins.pair, rng)
            cell = (grid_cell if rng.random() < 0.6 else real_cell)(twins.pair, codec, rng)
            floats = "real" if rng.random() < 0.4 else "float32"
            task = task_of(twins.pair, cell, codec, runtime, floats)
            given = samples(task, rng, inputs)
            before = len(part.seen.violations)
            check(task, given, Settings(), part.seen, twins.float)
            for v in part.seen.violations[before:]:
                print(f"VIOLATION {name} seed {seed} {floats}: {v}")
            part.tasks += 1
            part.inputs += len(given)
    part.seconds = time.process_time() - start
    return part


@dataclass
class Grid:
    """A tiny model on its whole grid, per runtime."""

    name: str
    inputs: int
    truth: list[float] = field(default_factory=list)
    dra: list[float] = field(default_factory=list)
    enumerated: list[float] = field(default_factory=list)
    violations: int = 0
    boxes: int = 0
    verdicts: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        return sum(v != e for v, e in zip(self.verdicts, ("pass", "fail") * 3, strict=True))


def figure(b: Bound) -> float:
    return float(np.maximum(-b.lower, b.upper).max())


def exhaustive(name: str, boxes: int, session: Session) -> Grid:
    t = tiny(name)
    rng = np.random.default_rng(FIRST_SEED)
    row = Grid(name, len(t.inputs))
    for runtime in RUNTIMES:
        q = t.quantized(runtime).astype(np.longdouble)
        theirs = t.litert(runtime)
        gaps = (q - theirs, q - t.float32)
        truth = float(np.abs(gaps[0]).max())
        task = t.task(t.whole, runtime)
        bounds = [Dra().run(task, [], Budget(), session)[0], Enumerate().run(task, [], Budget(), session)[0]]
        for b in bounds:
            assert isinstance(b, Bound)
            row.violations += sum(outside(b.lower, b.upper, g) for g in gaps)
        row.truth.append(truth)
        row.dra.append(figure(bounds[0]))  # type: ignore[arg-type]
        row.enumerated.append(figure(bounds[1]))  # type: ignore[arg-type]
        for factor in (1.02, 0.98):
            ask = replace(task, prop=replace(task.prop, limit=factor * truth))
            row.verdicts.append(judge(ask.prop, "proof", portfolio.run(ask, Budget(), session=session)).verdict)
        for _ in range(boxes):
            cell = t.box(rng)
            rows = t.rows(cell)
            (b,) = Dra().run(t.task(cell, runtime), [], Budget(), session)
            assert isinstance(b, Bound)
            row.violations += sum(outside(b.lower, b.upper, g[rows]) for g in gaps)
            row.boxes += 1
    return row


def report(parts: list[Part], grids: list[Grid], args: argparse.Namespace, seconds: float) -> str:
    total = sum(len(p.seen.violations) for p in parts) + sum(g.violations + g.wrong for g in grids)
    command = f"python -m benchmarks.soundness --networks {args.networks} --inputs {args.inputs} --boxes {args.boxes}"
    runtime = f"ai-edge-litert {runtime_version()}, {', '.join(cpu_features())}"
    lines = [HEAD.format(command=command, runtime=runtime, seconds=seconds, total=total)]
    lines += [
        f"| {p.name} | {p.models} | {p.tasks} | {p.inputs:,} | {p.seen.values:,} | {len(p.seen.violations)} |"
        for p in parts
    ]
    lines.append(GRIDS)
    for g in grids:
        ratio = [max(b / t for b, t in zip(v, g.truth, strict=True)) for v in (g.dra, g.enumerated)]
        lines.append(
            f"| {g.name} | {g.inputs:,} | {max(g.truth):.4g} | {ratio[0]:.2f}x | {ratio[1]:.5f}x "
            f"| {6 - g.wrong} of 6 | {g.boxes} | {g.violations} |"
        )
    return "\n".join(lines) + TAIL


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--boxes", type=int, default=10, help="random boxes per tiny model and runtime")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    start = time.process_time()
    nets = [(s, random_pair(s)) for s in range(FIRST_SEED, FIRST_SEED + args.networks)]
    parts = [contain("random networks", nets, args.inputs)]
    each = max(1, args.networks // 20)
    ops = [(s, one_operator(op, s)) for op in sorted(LOWERINGS) for s in range(FIRST_SEED, FIRST_SEED + each)]
    parts.append(contain("one operator", ops, max(2, args.inputs // 10)))
    print(f"networks: {time.process_time() - start:.0f} s", flush=True)
    grids: list[Grid] = []
    with Session() as session:
        for name in sorted(ENTRIES):
            grids.append(exhaustive(name, args.boxes, session))
            print(f"{name}: {grids[-1].violations} violations, verdicts {grids[-1].verdicts}", flush=True)
    text = report(parts, grids, args, time.process_time() - start)
    print(text)
    if args.write:
        args.write.write_text(text)
    bad = sum(len(p.seen.violations) for p in parts) + sum(g.violations + g.wrong for g in grids)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
