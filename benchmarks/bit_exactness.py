"""Counts outputs that differ between our integer execution and the installed interpreter.

    python -m benchmarks.bit_exactness [--outputs N] [--inputs N] [--write docs/bit-exactness.md]

First every operator alone, in each runtime, until at least N outputs were compared (random models with
ties, near ties, saturation, all paddings and strides: tests/semantics/cases.py), then random networks,
then whole models: those of the repository and, where QEBGATE_DATA names the benchmark data, its int8
models, N inputs each, final outputs and logits.  Exits 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.errors import ModelError
from qebgate.ir.graph import Graph
from qebgate.ir.pair import FINAL
from qebgate.ir.tensor import DType
from qebgate.runtimes.profiles import DEPLOYED
from qebgate.runtimes.replay import Limits, Replayer, cpu_features, runtime_version
from qebgate.semantics.execute import exact, run_int
from qebgate.semantics.moves import Move
from qebgate.semantics.registry import SEMANTICS
from tests.semantics.cases import CASES, codes
from tests.semantics.compare import ABSENT, compare, interpret, load
from tests.semantics.more_cases import FLOAT_ONLY
from tests.semantics.networks import network

ROOT = Path(__file__).resolve().parent.parent
FIRST_SEED = 1_000_000  # none of the tests' seeds


@dataclass
class Row:
    """A line of a table."""

    name: str
    models: int = 0
    outputs: tuple[int, int, int] = (0, 0, 0)
    mismatches: tuple[int, int, int] = (0, 0, 0)
    delegated: str = ""
    note: str = ""

    def add(self, outputs: list[int], mismatches: list[int]) -> None:
        self.models += 1
        self.outputs = tuple(a + b for a, b in zip(self.outputs, outputs, strict=True))
        self.mismatches = tuple(a + b for a, b in zip(self.mismatches, mismatches, strict=True))


def operators(outputs: int) -> list[Row]:
    rows = []
    for op, make in sorted(CASES.items()):
        if op in FLOAT_ONLY:
            continue
        present = [(op, r) not in ABSENT for r in DEPLOYED]
        row, seed, taken, wrong = Row(op), FIRST_SEED, 0, 0
        while min(n for n, here in zip(row.outputs, present, strict=True) if here) < outputs or row.models < 100:
            case = make(np.random.default_rng(seed))
            seed += 1
            try:
                load(case.model)
                results = [compare(case, r) if here else None for r, here in zip(DEPLOYED, present, strict=True)]
            except ModelError:
                continue  # an ADD whose sum would overflow is refused, and what one of the runtimes does not have
            row.add([r.outputs if r else 0 for r in results], [r.mismatches if r else 0 for r in results])
            taken += bool(results[2] and results[2].delegated)
            wrong += not all(r is None or r.delegation_agrees for r in results)
        row.delegated = "always" if taken == row.models else "never" if not taken else f"{taken} of {row.models}"
        if wrong and not isinstance(SEMANTICS[op], Move):  # whose kernel moves entries says nothing
            row.note = f"delegation predicted wrongly {wrong} times"
        rows.append(row)
        print(row, flush=True)
    return rows


def networks(count: int) -> Row:
    row = Row("random networks")
    seed = FIRST_SEED
    while row.models < count:
        case = network(np.random.default_rng(seed))
        seed += 1
        try:
            graph = load(case.model)
        except ModelError:
            continue  # the generator pooled or strode an image away
        theirs = [interpret(case.model, case.x, r)[0] for r in DEPLOYED]
        ours = [run_int(graph, case.x, r)[graph.outputs[0]] for r in DEPLOYED]
        row.add([t.size for t in theirs], [int((a != t).sum()) for a, t in zip(ours, theirs, strict=True)])
    print(row, flush=True)
    return row


def inputs_of(path: Path, graph: Graph, n: int) -> np.ndarray:
    """Half random (uniform and extreme), half plausible ones with a little noise, as the model takes them."""
    t, rng = graph.input, np.random.default_rng(0)
    file = path.parent / "inputs.npy"
    real = np.load(file, allow_pickle=False) if file.exists() else np.zeros((0,))
    if t.dtype is DType.FLOAT32:
        lo, hi = (float(real.min()), float(real.max())) if real.size else (0.0, 1.0)
        x = rng.uniform(lo, hi, (n, *t.shape)).astype(np.float32)
    else:
        x = np.concatenate([codes(rng, (1, *t.shape), t.dtype.value) for _ in range(n)])
    if real.size and real[0].size == t.size:
        rows = real.reshape(-1, *t.shape)[rng.integers(0, len(real), n // 2)].astype(np.float64)
        if t.dtype is DType.FLOAT32:
            x[: n // 2] = rows * rng.uniform(0.95, 1.05, rows.shape)
        else:
            q = np.rint(rows / t.q.s) + t.q.z + rng.integers(-2, 3, rows.shape)
            x[: n // 2] = np.clip(q, *t.dtype.code_range)
    return x


def logits_of(graph: Graph) -> int | None:
    """The tensor before a final softmax or sigmoid."""
    for node in reversed(graph.nodes):
        if node.op in FINAL:
            return node.inputs[0]
        if node.op not in ("QUANTIZE", "DEQUANTIZE", "RESHAPE"):
            return None
    return None


def whole_model(path: Path, graph: Graph, n: int, label: str) -> Row:
    row = Row(label)
    x = inputs_of(path, graph, n)
    outputs, mismatches = [], []
    seconds = 0.0
    for runtime in DEPLOYED:
        size = bad = 0
        for head in (None, logits_of(graph)):
            if head is None and size:
                continue
            g = graph if head is None else graph.cut(head)
            with Replayer(path, runtime, head, Limits(seconds=1800.0)) as r:
                theirs = r.run(x)
            start = time.perf_counter()
            ours = run_int(g, x, runtime)[g.outputs[0]]
            seconds += time.perf_counter() - start
            size, bad = size + theirs.size, bad + int((ours != theirs).sum())
        outputs.append(size)
        mismatches.append(bad)
    row.add(outputs, mismatches)
    row.note = f"{len(x)} inputs" + ("" if logits_of(graph) is None else ", outputs and logits") + f", {seconds:.0f} s"
    print(row, flush=True)
    return row


def models(n: int) -> tuple[list[Row], list[str]]:
    rows, left_out = [], []
    folders = [ROOT / "tests" / "models", ROOT / "examples" / "digits" / "models"]
    if os.environ.get("QEBGATE_DATA"):
        folders += sorted(p for p in (Path(os.environ["QEBGATE_DATA"]) / "tflite").iterdir() if p.is_dir())
    for path in (p for folder in folders for p in sorted(folder.glob("*.tflite"))):
        label = f"{path.parent.name if path.parent.name != 'models' else path.parent.parent.name}/{path.name}"
        try:
            graph = read_tflite(path)
        except ModelError as error:
            left_out.append(f"`{label}`: {error.related[0].message if error.related else error.message}")
            continue
        if graph.is_quantized and not exact(graph):
            left_out.append(f"`{label}`: {graph.scheme.value}, computes in float32 in part (see quantization schemes)")
        elif graph.is_quantized:
            rows.append(whole_model(path, graph, n, label))
    return _merged(rows, "tests/"), left_out


def _merged(rows: list[Row], prefix: str) -> list[Row]:
    """The many tiny models of the tests in one row."""
    tiny = [r for r in rows if r.name.startswith(prefix)]
    row = Row(f"{prefix}models/*.tflite", note=f"{tiny[0].note.split(',')[0]} each" if tiny else "")
    for r in tiny:
        row.add(list(r.outputs), list(r.mismatches))
    return [row, *(r for r in rows if not r.name.startswith(prefix))]


def table(rows: list[Row], last: str) -> str:
    lines = [
        f"| | models | outputs: reference / builtin / xnnpack | different | {last} |",
        "|---|---|---|---|---|",
    ]
    for r in rows:
        sizes = " / ".join(f"{v:,}" for v in r.outputs) if len(set(r.outputs)) > 1 else f"{r.outputs[0]:,} each"
        bad = " / ".join(str(v) for v in r.mismatches) if any(r.mismatches) else "0"
        extra = ", ".join(v for v in (r.delegated, r.note) if v)
        lines.append(f"| {r.name} | {r.models} | {sizes} | {bad} | {extra} |")
    return "\n".join(lines)


def report(ops: list[Row], nets: Row, whole: list[Row], left_out: list[str], command: str) -> str:
    """The page of the documentation: the hand-written part, and these tables."""
    text = (ROOT / "docs" / "bit-exactness.md").read_text() if (ROOT / "docs" / "bit-exactness.md").exists() else ""
    marker = "<!-- measured -->"
    head = text.split(marker)[0] if marker in text else "# Bit-exactness\n\n"
    where = f"ai-edge-litert {runtime_version()}, {', '.join(cpu_features())}, numpy {np.__version__}"
    parts = [
        head + marker,
        f"Measured with `{command}` ({where}).",
        "## Operators alone\n\n" + table([*ops, nets], "taken by the delegate"),
        "## Whole models\n\n" + table(whole, "inputs, time of our execution"),
    ]
    if left_out:
        parts.append("Not compared, and why:\n\n" + "\n".join(f"- {line}" for line in left_out))
    return "\n\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=int, default=100_000, help="outputs per operator and runtime")
    parser.add_argument("--networks", type=int, default=300)
    parser.add_argument("--inputs", type=int, default=1000, help="inputs per whole model")
    parser.add_argument("--write", type=Path, help="write the page to this file")
    args = parser.parse_args()
    ops, nets = operators(args.outputs), networks(args.networks)
    whole, left_out = models(args.inputs)
    command = "python -m benchmarks.bit_exactness " + " ".join(sys.argv[1:])
    page = report(ops, nets, whole, left_out, command.strip())
    if args.write:
        args.write.write_text(page)
    different = sum(sum(r.mismatches) for r in [*ops, nets, *whole])
    predicted = all("wrongly" not in r.note for r in ops)
    print(f"{different} outputs differ; delegation {'as' if predicted else 'NOT as'} predicted")
    return int(bool(different) or not predicted)


if __name__ == "__main__":
    sys.exit(main())
