"""How far the gate still decides on real pairs: the largest radius that passes, and the smallest that fails.

    QEBGATE_DATA=... OPENBLAS_NUM_THREADS=1 python -m benchmarks.radii [--pair NAME]... [--write docs/benchmarks.md]

Balls of a whole number of codes around the first row of every pair, all inputs free, on the grid, at the logits, as
litert-xnnpack computes them, against every float32 evaluation of the reference, `require: proof`.  Two limits for each
pair: 1.5 times what a search finds at radius 2, and a tenth of the span of the float model's logits on the stored rows.
The analysis (DRA) alone, and the whole chain at effort `standard`; every question within 60 s.  Passing is monotone in
the radius, so few are asked.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.few_directions import PAIRS
from benchmarks.tables import write_part
from qebgate.adapters.data import load_rows
from qebgate.engines import portfolio
from qebgate.engines.concrete import Session
from qebgate.evidence import Witness
from qebgate.plan import EFFORT, make_plan
from qebgate.policy import parse_policy
from qebgate.properties import Property
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.execute import run_float
from qebgate.task import Task
from qebgate.verdict import judge

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 64
"""Codes; a quarter of an int8 input's range."""
STEPS = 5
"""Radii that the chain is asked for between what the analysis passes and what a search fails."""
SEARCHING = ("execute", "enumerate", "falsify")


@dataclass(frozen=True)
class Source:
    """Where a pair is: paths below ``folder``."""

    folder: Path
    float_model: str
    quantized_model: str
    data: str
    array: str | None = None


def sources() -> dict[str, Source]:
    """The digits example, and three pairs of the benchmark data where there is any."""
    digits = ROOT / "examples" / "digits"
    found = {
        f"digits_{n}": Source(digits, f"models/{n}_float.tflite", f"models/{n}_int8.tflite", "data/golden.npz", array)
        for n, array in (("mlp", "x"), ("cnn", "image"))
    }
    if "QEBGATE_DATA" in os.environ:
        data = Path(os.environ["QEBGATE_DATA"]) / "tflite"
        for name in ("sl_autoencoder_ecg", "sl_micro_speech", "sl_magic_wand"):
            f, q, _ = PAIRS[name]
            found[name] = Source(data / name, f"{f}.tflite", f"{q}.tflite", "inputs.npy")
    return found


@dataclass
class Questions:
    """The questions about one pair at one limit; answers are kept."""

    source: Source
    limit: float
    seconds: float
    session: Session
    asked: dict[tuple[int, str], str] = field(default_factory=dict)

    def verdict(self, radius: int, engines: Sequence[str] | None, falsify: int | None = None) -> str:
        key = radius, ",".join(engines or ("all",))
        if key not in self.asked:
            t = replace(task(self.source, radius), prop=Property("max_abs", self.limit))
            budget = replace(EFFORT["standard"], seconds=self.seconds, memory=6 << 30)
            budget = budget if falsify is None else replace(budget, falsify=falsify)
            evidence = portfolio.run(t, budget, engines, session=self.session)
            self.asked[key] = judge(t.prop, "proof", evidence).verdict
        return self.asked[key]


def task(source: Source, radius: int) -> Task:
    """All inputs of the first row free by so many codes."""
    region: dict[str, object] = {"kind": "ball", "radius": radius, "unit": "lsb", "domain": "grid", "limit": 1}
    rows = load_rows(source.folder / source.data, source.array)
    region |= {"data": source.data, "out_of_range": "allow", "values": "codes" if rows.dtype.kind == "i" else "real"}
    region |= {} if source.array is None else {"array": source.array}
    model = {"float": source.float_model, "quantized": source.quantized_model, "runtime": Runtime.XNNPACK.value}
    prop = {"kind": "max_abs", "limit": 1.0, "tensor": "logits"}
    ask = {"id": "c", "model": "m", "region": "r", "property": prop}
    policy = {"version": 1, "models": {"m": model}, "regions": {"r": region}, "checks": [ask]}
    plan = make_plan(parse_policy(policy, "benchmark", source.folder))
    for e in plan.errors:
        raise e.error
    ((job,),) = (c.jobs for c in plan.checks)
    assert job.outputs is not None
    return Task(job.pair, job.cell, job.codec, job.prop, job.outputs, job.runtime)


def limits(source: Source, session: Session) -> dict[str, float]:
    """1.5 times what a search finds at radius 2, and a tenth of the logits' span on the stored rows."""
    t = task(source, 2)
    t = replace(t, prop=Property("max_abs", 1e30))
    found = portfolio.run(t, replace(EFFORT["standard"], falsify=1 << 13), SEARCHING, session=session)
    gap = max(float(np.abs(e.gap).max()) for e in found if isinstance(e, Witness))
    rows = load_rows(source.folder / source.data, source.array)[:64].reshape(-1, *t.cell.lower.shape)
    x = t.codec.grid(rows) if rows.dtype.kind == "i" else rows.astype(np.float32)
    y = run_float(t.pair.float, x)[t.pair.float.outputs[0]]
    return {"1.5 x the gap found at radius 2": 1.5 * gap, "a tenth of the logits' span": 0.1 * float(np.ptp(y))}


def last(holds: Callable[[int], bool], below: int, above: int, steps: int = 99) -> int:
    """The largest radius from ``below`` on (where it holds) for which it holds, under ``above`` (where it does not).

    Steps of 1, 2, 4, ... until it does not, then halves; at most so many questions.
    """
    stride = 1
    while above - below > 1 and steps:
        middle = below + stride if below + stride < above else (below + above) // 2
        if holds(middle):
            below, stride = middle, 2 * stride
        else:
            above, stride = middle, above
        steps -= 1
    return below


@dataclass(frozen=True)
class Row:
    """``fails``: the smallest radius that is known to fail (None: none is); -1: not even radius 0 passes."""

    pair: str
    inputs: int
    limit: str
    value: float
    alone: int
    chain: int
    fails: int | None
    seconds: float

    @property
    def text(self) -> str:
        def radius(r: int) -> str:
            return "-" if r < 0 else f"{r}" if r < LARGEST else f"{r} or more"

        fails = "-" if self.fails is None else str(self.fails)
        end = self.fails if self.fails is not None else LARGEST + 1
        open_ = max(0, end - self.chain - 1)
        about = f"| {self.pair} | {self.inputs} | {self.limit} ({self.value:.4g}) "
        return f"{about}| {radius(self.alone)} | {radius(self.chain)} | {fails} | {open_} | {self.seconds:.0f} |"


def measure(name: str, source: Source, seconds: float, largest: int = LARGEST, steps: int = STEPS) -> list[Row]:
    """Both limits of one pair."""
    rows: list[Row] = []
    with Session() as session:
        for words, limit in limits(source, session).items():
            start = time.perf_counter()
            q = Questions(source, limit, seconds, session)
            size = task(source, 0).cell.lower.size

            def searched(r: int, q: Questions = q) -> bool:
                return q.verdict(r, SEARCHING, 1 << 13) != "fail"

            if not searched(0):
                rows.append(Row(name, size, words, limit, -1, -1, 0, time.perf_counter() - start))
                continue
            fails = last(searched, 0, largest + 1) + 1
            alone = last(lambda r, q=q: q.verdict(r, ("execute", "dra")) == "pass", 0, min(fails, largest + 1))
            state = [fails]

            def passes(r: int, q: Questions = q, state: list[int] = state) -> bool:
                verdict = "unknown" if r >= state[0] else q.verdict(r, None)
                state[0] = min(state[0], r) if verdict == "fail" else state[0]
                return verdict == "pass"

            chain = last(passes, alone, fails, steps)
            known = state[0] if state[0] <= largest else None
            rows.append(Row(name, size, words, limit, alone, chain, known, time.perf_counter() - start))
            print(rows[-1].text, flush=True)
    return rows


ABOUT = """\
Measured with `QEBGATE_DATA=... python -m benchmarks.radii --write docs/benchmarks.md` ({seconds:.0f} s on shared
cores). Balls around the first row of each pair, all inputs free by a whole number of codes, on the grid, at the logits,
litert-xnnpack, any float32 evaluation, `require: proof`, {each:.0f} s a question. Limits: 1.5 times the gap that a
search finds at radius 2, and a tenth of the span of the float logits on the stored rows. *DRA alone* and *whole chain*:
the largest radius (codes, up to {largest}) that passes; *fails from*: the smallest that a replayed input refutes.
*Open*: radii in between. The chain was asked for at most {steps} radii beyond the analysis, so it may pass further."""


def page(rows: Sequence[Row], seconds: float, each: float) -> list[str]:
    """The table for the documentation."""
    return [
        "## How far the gate decides",
        "",
        ABOUT.format(seconds=seconds, each=each, largest=LARGEST, steps=STEPS),
        "",
        "| pair | inputs | limit | DRA alone | whole chain | fails from | open | seconds |",
        "|---|---|---|---|---|---|---|---|",
        *(r.text for r in rows),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sources()
    parser.add_argument("--pair", action="append", choices=known, help="only this pair; repeatable")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each question")
    parser.add_argument("--largest", type=int, default=LARGEST)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args(argv)
    start = time.perf_counter()
    rows = [r for n in args.pair or known for r in measure(n, known[n], args.seconds, args.largest)]
    lines = page(rows, time.perf_counter() - start, args.seconds)
    print("\n".join(lines))
    if args.write:
        write_part(args.write, "radii", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
