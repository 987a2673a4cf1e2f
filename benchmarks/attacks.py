"""Attacks on the verifier: planted counterexamples, disguised networks, broken numbers, failing solvers.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.attacks [--pairs N] [--write docs/benchmarks.md]

Every pair of ``qebgate/planted.py`` has 65,536 inputs, all executed here (the float side in float32, of `roundoff`
in LiteRT too), and the worst input replayed in LiteRT.  Then every engine alone, all of them without those that
execute every input, and the whole chain are asked at 0.999 and 0.5 times that truth, with `require: proof` and
`proof_or_solver`: a PASS is wrong, and so is a bound that excludes a gap that was executed.  Asked at 1.02 times the
truth, a FAIL is wrong.  Exits 1 if anything is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.tables import write_part
from qebgate.engines import portfolio
from qebgate.engines.concrete import Inputs, Session, real_values
from qebgate.errors import InternalError, ModelError, QebgateError
from qebgate.evidence import Bound, Evidence
from qebgate.gate import check
from qebgate.ir.graph import Graph
from qebgate.ir.pair import Pair
from qebgate.ir.tensor import Array
from qebgate.milp.mathopt import Ending, Raw
from qebgate.numerics.rounding import F64
from qebgate.planted import LEAST, MOST, Planted, disguised, planted
from qebgate.policy import parse_policy
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.selftest import EXECUTING, all_gaps, policy, written
from qebgate.semantics.execute import run_float
from qebgate.task import Budget, Task
from qebgate.verdict import judge

NODES: Any = 0.3
"""Of the milp's budget: less than one, as programs so small get nodes in proportion."""
BUDGET = Budget(
    enumerate=1 << 17, slopes=10, cells=64, split=64, falsify=1 << 10, branch=8, milp=NODES, seconds=60.0,
    memory=4 << 30,
)  # fmt: skip
ALONE = tuple(dict.fromkeys(e.name for e in portfolio.ORDER if e.name not in ("segment", "probe", "statistical")))
BOUNDING = tuple(n for n in ALONE if n not in EXECUTING)
CHAINS: dict[str, tuple[str, ...] | None] = {**{n: (n,) for n in ALONE}, "all but executing": BOUNDING, "all": None}
SUBTRACTION = 2.0**-52
"""Relative error of a computed gap."""


@dataclass(frozen=True)
class Truth:
    """A planted pair on all its inputs: smallest and largest gap [K] that were executed; the worst one in LiteRT."""

    pair: Pair
    task: Task
    least: F64
    most: F64
    worst: float


@dataclass
class Tally:
    """Answers to the questions below the truth, by the engines that were asked; ``wrong`` says what was."""

    pairs: int = 0
    answers: dict[str, Counter[str]] = field(default_factory=lambda: {n: Counter() for n in CHAINS})
    wrong: list[str] = field(default_factory=list)


class Direct(Session):
    """A session whose interpreters live in this process: the models are our own, and there are hundreds of them."""

    def outputs(self, graph: Graph, x: Array, runtime: Runtime) -> F64:
        from ai_edge_litert import interpreter as litert

        kind = getattr(litert.OpResolverType, runtime.resolver)
        content = Path(graph.source.path).read_bytes()
        it = litert.Interpreter(model_content=content, experimental_op_resolver_type=kind, num_threads=1)
        it.allocate_tensors()
        source: Any = it.get_input_details()[0]
        target: Any = it.get_output_details()[0]["index"]
        y: list[Array] = []
        for row in x.astype(source["dtype"]):
            it.set_tensor(source["index"], row.reshape(source["shape"]))
            it.invoke()
            y.append(it.get_tensor(target)[0])
        return real_values(graph, np.stack(y))


def truth(p: Planted, runtime: Runtime, folder: Path, session: Session) -> Truth:
    """Execute everything."""
    pair = written(p, folder)
    codec = InputCodec.of(pair.quantized)
    side = np.arange(LEAST, MOST + 1, dtype=np.int32)
    codes = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 1, 2)
    lo, hi = np.full((1, 2), LEAST, np.int32), np.full((1, 2), MOST, np.int32)
    real = lambda c: codec.grid(c).astype(np.float64)  # noqa: E731
    cell = Cell(real(lo), real(hi), (lo, hi), 0, real(0 * lo))
    k = pair.float.output.size
    task = Task(pair, cell, codec, Property("max_abs", 1.0), tuple(range(k)), runtime)
    gaps = [all_gaps(pair, runtime, np.float32)]
    if p.kind == "roundoff":  # what is left depends on the order of sums
        x = codec.grid(codes)
        ours = run_float(pair.float, x, dtype=np.float32)[pair.float.outputs[0]].reshape(len(x), -1)
        gaps.insert(0, gaps[0] + ours.astype(np.float64) - session.outputs(pair.float, x, runtime))
    row = int(np.argmax(np.abs(gaps[0]).max(axis=1)))
    seen = session.witness(task, Inputs.of_codes(task, codes[row : row + 1]), "truth")
    least = np.minimum(np.min([g.min(axis=0) for g in gaps], axis=0), seen.gap)
    most = np.maximum(np.max([g.max(axis=0) for g in gaps], axis=0), seen.gap)
    return Truth(pair, task, least, most, float(np.abs(seen.gap).max()))


def excluded(t: Truth, evidence: Sequence[Evidence]) -> list[Bound]:
    """Bounds that exclude a gap that was executed."""
    return [
        b
        for b in evidence
        if isinstance(b, Bound)
        and (
            (b.lower > t.least + SUBTRACTION * np.abs(t.least)) | (b.upper < t.most - SUBTRACTION * np.abs(t.most))
        ).any()
    ]


def ask(
    name: str,
    t: Truth,
    kind: str,
    tally: Tally,
    session: Session,
    chains: Sequence[str] = tuple(CHAINS),
    thorough: bool = True,
) -> None:
    """All questions about one pair; not ``thorough``: no branch and bound alone, nothing at half the truth or above."""
    tally.pairs += 1
    for chain in chains:
        if chain == "branch" and not thorough:
            continue
        for factor in (0.999, 0.5) if chain == "all but executing" and thorough else (0.999,):
            task = replace(t.task, prop=Property("max_abs", factor * t.worst))
            found = portfolio.run(task, BUDGET, CHAINS[chain], session=session)
            for b in excluded(t, found):
                tally.wrong.append(f"{kind} {name}: a bound of {b.engine} ({b.trust}) excludes an executed gap")
            verdicts = {r: judge(task.prop, r, found).verdict for r in ("proof", "proof_or_solver")}
            for require, verdict in verdicts.items():
                if verdict == "pass":
                    tally.wrong.append(f"{kind} {name}: {chain} passes at {factor} of the truth ({require})")
            if factor == 0.999:
                tally.answers[chain][verdicts["proof_or_solver"]] += 1
    if not thorough or kind == "roundoff":  # no bound comes so near there
        return
    for chain in [c for c in chains if c.startswith("all")]:
        task = replace(t.task, prop=Property("max_abs", 1.02 * float(max(-t.least.min(), t.most.max(), t.worst))))
        verdict = judge(task.prop, "proof", portfolio.run(task, BUDGET, CHAINS[chain], session=session)).verdict
        tally.answers[chain][f"{verdict} above"] += 1
        if verdict == "fail":
            tally.wrong.append(f"{kind} {name}: {chain} fails at 1.02 of the truth")


def pieces(n: int) -> list[tuple[str, str, Planted]]:
    """``n`` planted pairs of every kind, and disguises by all powers of two from -40 to 50 (some, where n is small)."""
    kinds = [
        ((seed + 0.5) / n, kind, f"seed {seed}", planted(kind, 1000 + seed))
        for kind in ("trigger", "roundoff", "ties")
        for seed in range(n)
    ]
    powers = range(-40, 51, max(1, 30 // n))
    for i, k in enumerate(powers):
        base = planted("ties" if i % 2 else "trigger", 5000 + i)
        other = int(np.random.default_rng(i).integers(-40, 51))
        p = disguised(base, [k, other] if i % 3 else [k, k])
        kinds.append(((i + 0.5) / len(powers), "disguised", f"2^{k}, 2^{other}", p))
    return [(kind, label, p) for _, kind, label, p in sorted(kinds, key=lambda x: x[0])]  # a part of them is balanced


def attack(
    n: int,
    chains: Sequence[str] = tuple(CHAINS),
    minutes: float = float("inf"),
    progress: Callable[[str], None] = print,
) -> dict[str, Tally]:
    """Attack with every kind of planted pair; every fifth pair thoroughly."""
    tallies = {kind: Tally() for kind in ("trigger", "roundoff", "ties", "disguised")}
    end = time.monotonic() + 60 * minutes
    for i, (kind, label, p) in enumerate(pieces(n)):
        if time.monotonic() > end:
            progress(f"time is up after {i} pairs")
            break
        tally = tallies[kind]
        with tempfile.TemporaryDirectory() as folder, Direct() as session:
            t = truth(p, DEPLOYED[i % len(DEPLOYED)], Path(folder), session)
            if t.worst > 0:
                ask(label, t, kind, tally, session, chains, i % 5 == 0)
        if i % 10 == 0:
            progress(f"{i}: {kind} {label}: {sum(len(v.wrong) for v in tallies.values())} wrong so far")
    return tallies


BAD = (np.nan, np.inf, -np.inf, 1e-40, -1e-44, 3e38)
"""No number, infinite, denormal, and large enough to overflow."""


def broken(seed: int = 0) -> Iterator[tuple[str, bytes, bytes]]:
    """Pairs with such numbers in weights, biases and scales: what is broken, and both models."""
    p = planted("trigger", seed)
    for value in BAD:
        for i, y in enumerate(p.layers):
            w, b, s = y.weights.copy(), y.bias.copy(), y.scale.copy()
            w[0, 0] = b[0] = s[0] = value

            def with_(layer: Any, i: int = i) -> Planted:
                return replace(p, layers=tuple(layer if j == i else x for j, x in enumerate(p.layers)))

            yield f"weight {value} in layer {i}", with_(replace(y, weights=w)).float_model(), p.quantized_model()
            yield f"bias {value} in layer {i}", with_(replace(y, bias=b)).float_model(), p.quantized_model()
            yield f"weight scale {value} in layer {i}", p.float_model(), with_(replace(y, scale=s)).quantized_model()
            yield f"step {value} of layer {i}", p.float_model(), with_(replace(y, step=value)).quantized_model()
        yield f"input step {value}", p.float_model(), replace(p, step=value).quantized_model()


def numbers(every: int = 1) -> tuple[Counter[str], list[str]]:
    """What becomes of them: how often which error or verdict; and what is wrong."""
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    for i, (what, float_model, quantized_model) in enumerate(broken()):
        if i % every:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "float.tflite").write_bytes(float_model)
            (folder / "int8.tflite").write_bytes(quantized_model)
            asked = policy(1e-3, DEPLOYED[i % len(DEPLOYED)], effort="quick", require="proof_or_solver")
            try:
                report = check(parse_policy(asked, "attack", folder))
            except QebgateError as e:
                wrong.append(f"{what}: {e.code} stops the run")
                continue
            for e in report.errors:
                seen[f"refused ({e.error.code})"] += 1
                if not isinstance(e.error, ModelError):
                    wrong.append(f"{what}: {e.error.code} is no error of a model")
            for c in report.checks:
                seen[c.verdict] += 1
                if c.verdict == "pass":
                    wrong.append(f"{what}: pass")
    return seen, wrong


def _raw(ending: Ending, dual: float) -> Callable[..., Raw]:
    return lambda *_args, **_options: Raw(ending, "injected", None, None, dual, 0.0)


def _raises(*_args: object, **_options: object) -> None:
    raise RuntimeError("injected")


RAISES = "raises"
SOLVERS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    RAISES: lambda: mock.patch("ortools.math_opt.python.mathopt.solve", _raises),
    "time is up, no bound": lambda: mock.patch("qebgate.milp.mathopt.run", _raw(Ending.LIMIT, np.inf)),
    "error": lambda: mock.patch("qebgate.milp.mathopt.run", _raw(Ending.OTHER, 0.0)),
    "infeasible": lambda: mock.patch("qebgate.milp.mathopt.run", _raw(Ending.INFEASIBLE, -np.inf)),
    "optimal without a solution": lambda: mock.patch("qebgate.milp.mathopt.run", _raw(Ending.OPTIMAL, 0.0)),
    "bound is no number": lambda: mock.patch("qebgate.milp.mathopt.run", _raw(Ending.LIMIT, np.nan)),
    "bound below what was executed": lambda: mock.patch("qebgate.milp.mathopt.run", _raw(Ending.LIMIT, -1e9)),
    "none (as it is)": nullcontext,
}
"""What is injected into the solver."""


def solvers(seeds: Sequence[int]) -> tuple[dict[str, Counter[str]], list[str]]:
    """The chain without executing engines, and the MILP alone, with a solver that fails in all ways.

    An exception of the solver must stop the run with QEB916; every other failure must leave an answer.
    """
    seen: dict[str, Counter[str]] = {name: Counter() for name in SOLVERS}
    wrong: list[str] = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder, Direct() as session:
            t = truth(planted("trigger" if seed % 2 else "ties", 7000 + seed), Runtime.REFERENCE, Path(folder), session)
            task = replace(t.task, prop=Property("max_abs", 0.999 * t.worst))
            for name, inject in SOLVERS.items():
                for chain in (("milp",), ("dra", "milp")):
                    try:
                        with inject():
                            found = portfolio.run(task, BUDGET, chain, session=session)
                    except InternalError as e:
                        seen[name][f"error ({e.code})"] += 1
                        if (name, e.code) != (RAISES, "QEB916"):
                            wrong.append(f"solver {name}, seed {seed}, {chain}: {e.code} stops the run")
                        continue
                    if name == RAISES:
                        wrong.append(f"solver {name}, seed {seed}, {chain}: the exception is lost")
                    verdict = judge(task.prop, "proof_or_solver", found).verdict
                    seen[name][verdict] += 1
                    if verdict == "pass" or excluded(t, found):
                        wrong.append(f"solver {name}, seed {seed}, {chain}: {verdict} below the truth")
    return seen, wrong


ABOUT = """\
Measured with `python -m benchmarks.attacks --pairs {n} --write docs/benchmarks.md` ({seconds:.0f} s).
{pairs} pairs with a planted counterexample, every one with 65,536 inputs, all executed; disguises by 2^k, k from -40 to
50. Asked just below the truth (0.999 of it; both ways of requiring a proof), every engine alone and the chain of all.
The table has the share that is found to FAIL; the rest is UNKNOWN. A PASS, or a bound that excludes an executed gap, is
wrong. Every fifth pair is asked more: branch and bound alone, half of the truth, and 1.02 of it (last columns), where
the chain should pass and a FAIL is wrong."""


def page(n: int, tallies: dict[str, Tally], extra: list[str], wrong: list[str], seconds: float) -> list[str]:
    """The table for the documentation."""
    rows = [
        "## Attacks on the verifier",
        "",
        ABOUT.format(n=n, seconds=seconds, pairs=sum(t.pairs for t in tallies.values())),
        "",
        f"**Wrong answers: {len(wrong)}.**",
        "",
        "| planted | pairs | " + " | ".join(CHAINS) + " | all but executing, above: pass | all, above: pass |",
        "|---" * (len(CHAINS) + 4) + "|",
    ]
    for kind, t in tallies.items():
        cells = [
            f"{t.answers[c]['fail']} of {sum(t.answers[c][v] for v in ('fail', 'unknown', 'pass'))}" for c in CHAINS
        ]
        asked = {c: sum(t.answers[c][f"{v} above"] for v in ("pass", "fail", "unknown")) for c in CHAINS}
        above = [
            f"{t.answers[c]['pass above']} of {asked[c]}" if asked[c] else "-" for c in ("all but executing", "all")
        ]
        rows.append(f"| {kind} | {t.pairs} | " + " | ".join([*cells, *above]) + " |")
    return [*rows, "", *extra]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=55, help="planted pairs of each kind")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no further pair after so long")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    start = time.perf_counter()
    tallies = attack(args.pairs, minutes=args.minutes, progress=lambda line: print(line, flush=True))
    seen, bad_numbers = numbers()
    failing, bad_solvers = solvers(range(max(1, args.pairs // 10)))
    wrong = [w for t in tallies.values() for w in t.wrong] + bad_numbers + bad_solvers
    extra = [
        "Models with a number that is none, infinite, denormal or overflows, in a weight, a bias or a scale "
        f"({sum(seen.values())} pairs): " + ", ".join(f"{k} {v}" for k, v in sorted(seen.items())) + ".",
        "",
        "Failures injected into the MILP's solver, below the truth, with `require: proof_or_solver`: "
        + "; ".join(f"{k}: " + ", ".join(f"{n} {v}" for v, n in sorted(c.items())) for k, c in failing.items()) + ".",
    ]  # fmt: skip
    lines = page(args.pairs, tallies, extra, wrong, time.perf_counter() - start)
    print("\n".join(lines))
    for w in wrong:
        print(f"WRONG {w}")
    if args.write:
        write_part(args.write, "attacks", lines)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
