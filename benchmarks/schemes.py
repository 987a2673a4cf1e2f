"""Every quantization scheme against the installed interpreter: outputs that differ, and bounds that are left.

    python -m benchmarks.schemes [--models N] [--inputs N] [--points N] [--write docs/bit-exactness.md]

Kernels alone: hybrid dense layers and int16 operators bit for bit, hybrid convolutions beside their envelope, TFLM's
shared kernels beside LiteRT's reference kernels.  Then converted models, those of the repository and (where
QEBGATE_DATA names the benchmark data) real ones: exact ones bit for bit, the others' gaps beside the bounds at points.
Exits 1 if anything differs or leaves its bound.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from benchmarks.bit_exactness import inputs_of
from benchmarks.tables import write_part
from qebgate.adapters.tflite.reader import read_tflite
from qebgate.engines.concrete import Session
from qebgate.engines.dra.engine import Dra
from qebgate.errors import QebgateError, UnsupportedError
from qebgate.evidence import Bound
from qebgate.ir.align import align
from qebgate.ir.graph import Scheme
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.emulation import EMULATED, check_runtime
from qebgate.semantics.execute import exact, run_int
from qebgate.semantics.hybrid import hybrid_error
from qebgate.semantics.registry import SEMANTICS
from qebgate.task import Budget, Task
from tests.semantics.cases import CASES
from tests.semantics.compare import interpret, load
from tests.semantics.test_int16 import LINEAR, _linear
from tests.semantics.test_schemes import _hybrid

ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "tests" / "models" / "schemes"
PAIRS = (
    ("aeq_mnist/conv_fc_mnist", "aeq_mnist/mnist_quantized"),
    ("aeq_mnist/conv_fc_mnist", "aeq_mnist/partly_quantized_mnist"),
    ("mlperf_ad01/ad01_fp32", "mlperf_ad01/model_ToyCar_quant"),
)
"""Float and quantized models of the benchmark data."""


class Table:
    """Lines of a table, and what went wrong."""

    def __init__(self, *columns: str) -> None:
        self.lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        self.wrong = 0

    def add(self, wrong: int, *cells: object) -> None:
        self.wrong += wrong
        self.lines.append("| " + " | ".join(str(c) for c in cells) + " |")
        print(self.lines[-1], flush=True)


def kernels(count: int) -> Table:
    """Operators alone."""
    table = Table("kernels alone", "models", "outputs in each runtime", "different", "largest share of the envelope")
    for label, op, kinds in (
        ("dynamic range FULLY_CONNECTED", "FULLY_CONNECTED", [(c, a) for c in (True, False) for a in (True, False)]),
        ("dynamic range CONV_2D", "CONV_2D", ((True, True), (False, True))),
        ("dynamic range DEPTHWISE_CONV_2D", "DEPTHWISE_CONV_2D", ((True, True),)),
    ):
        outputs = wrong = 0
        worst = 0.0
        for seed in range(count):
            per_channel, asymmetric = kinds[seed % len(kinds)]
            rng = np.random.default_rng(50_000 + seed)
            model, x = _hybrid(rng, op, per_channel=per_channel, asymmetric=asymmetric)
            graph = load(model)
            node = graph.nodes[0]
            real = SEMANTICS[op].run_float(node, graph, [x.astype(np.float64), None, None])
            for runtime in DEPLOYED:
                theirs, _ = interpret(model, x, runtime)
                if op == "FULLY_CONNECTED":
                    wrong += int((run_int(graph, x, runtime)[graph.outputs[0]] != theirs).sum())
                for row, ideal, y in zip(x.astype(np.float64), real, theirs, strict=True):
                    share = np.abs(y - ideal) / np.maximum(hybrid_error(node, graph, row, row), 1e-300)
                    worst = max(worst, float(share.max()))
            outputs += theirs.size
        outside = int(worst > 1)
        different = wrong if op == "FULLY_CONNECTED" else "-"
        table.add(wrong + outside, label, count, f"{outputs:,}", different, f"{worst:.3f}")
    for op in LINEAR:
        outputs = wrong = 0
        for seed in range(count):
            model, x = _linear(np.random.default_rng(60_000 + seed), op, ties=seed % 3 == 0)
            graph = load(model)
            for runtime in DEPLOYED:
                theirs, _ = interpret(model, x, runtime)
                wrong += int((run_int(graph, x, runtime)[graph.outputs[0]] != theirs).sum())
            outputs += theirs.size
        table.add(wrong, f"int16 {op}", count, f"{outputs:,}", wrong, "-")
    outputs = wrong = seed = models = 0
    ops = sorted(EMULATED - {"FULLY_CONNECTED"})
    while models < count:
        case = CASES[ops[seed % len(ops)]](np.random.default_rng(70_000 + seed))
        seed += 1
        try:
            graph = load(case.model)
            check_runtime(graph, Runtime.TFLM)
        except UnsupportedError:
            continue
        theirs, _ = interpret(case.model, case.x, Runtime.REFERENCE)
        wrong += int((run_int(graph, case.x, Runtime.TFLM)[graph.outputs[0]] != theirs).sum())
        outputs, models = outputs + theirs.size, models + 1
    table.add(wrong, f"`tflm` beside litert-reference, {len(ops)} operators", models, f"{outputs:,}", wrong, "-")
    return table


def pairs() -> list[tuple[str, Path, Path]]:
    """Label, float file, quantized file."""
    found = [
        (q.stem, OWN / f"{q.name.split('.')[0]}.float.tflite", q)
        for q in sorted(OWN.glob("*.tflite"))
        if ".float." not in q.name
    ]
    if os.environ.get("QEBGATE_DATA"):
        data = Path(os.environ["QEBGATE_DATA"]) / "tflite"
        found += [(q, data / f"{f}.tflite", data / f"{q}.tflite") for f, q in PAIRS]
    return found


def models(inputs: int, points: int) -> Table:
    """Converted models."""
    table = Table("model", "scheme", "outputs in each runtime", "different", "gap at points: witnessed / proven")
    for label, float_path, path in pairs():
        try:
            graph = read_tflite(path)
        except QebgateError as e:
            table.add(0, f"`{label}`", "refused", "-", "-", (e.related[0] if e.related else e).message)
            continue
        x = inputs_of(path, graph, inputs)
        size, different, wrong = "-", "-", 0
        if exact(graph):
            for runtime in DEPLOYED:
                theirs, _ = interpret(path.read_bytes(), x, runtime)
                wrong += int((run_int(graph, x, runtime)[graph.outputs[0]] != theirs).sum())
            size, different = f"{theirs.size:,}", str(wrong)
        try:
            outside, figures = _points(float_path, path, x[:points])
        except QebgateError as e:
            outside, figures = 0, e.message
        table.add(wrong + outside, f"`{label}`", graph.scheme.value, size, different, figures)
    return table


def _points(float_path: Path, path: Path, x: np.ndarray) -> tuple[int, str]:
    """How many measured gaps leave the bounds of the analysis, and the largest of both."""
    pair = align(read_tflite(float_path), read_tflite(path))
    codec = InputCodec.of(pair.quantized)
    outputs = tuple(range(pair.quantized.output.size))
    outside, witnessed, proven = 0, 0.0, 0.0
    files = float_path.read_bytes(), path.read_bytes()
    with Session() as session:
        for row in x:
            codes = None if codec.in_model else (row.astype(np.int32), row.astype(np.int32))
            at = row if codec.in_model else codec.grid(row)
            real = at.astype(np.float64)
            cell, prop = Cell(real, real, codes, 0, real), Property("max_abs", 1.0)
            for runtime in DEPLOYED if pair.quantized.in_integers else (Runtime.XNNPACK,):
                task = Task(pair, cell, codec, prop, outputs, runtime)
                (bound,) = Dra().run(task, [], Budget(slopes=0), session)
                assert isinstance(bound, Bound)
                for measured in (runtime,) if pair.quantized.in_integers else DEPLOYED:
                    h, _ = interpret(files[0], at[None].astype(np.float32), measured)
                    q, _ = interpret(files[1], row[None], measured)
                    out = pair.quantized.output
                    y = out.q.dequantize(q) if out.dtype.is_code else q.astype(np.float64)
                    gap = (y.reshape(-1) - h.reshape(-1).astype(np.float64))[list(outputs)]
                    outside += int(((gap < bound.lower) | (gap > bound.upper)).sum())
                    witnessed = max(witnessed, float(np.abs(gap).max()))
                proven = max(proven, float(np.maximum(-bound.lower, bound.upper).max()))
    return outside, f"{witnessed:.4g} / {proven:.4g}" + (f", {outside} OUTSIDE" if outside else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=60, help="random models per kernel")
    parser.add_argument("--inputs", type=int, default=500, help="inputs per converted model")
    parser.add_argument("--points", type=int, default=4, help="points per converted model")
    parser.add_argument("--write", type=Path, help="write the part of this page")
    args = parser.parse_args()
    alone, whole = kernels(args.models), models(args.inputs, args.points)
    if args.write:
        command = "python -m benchmarks.schemes " + " ".join(sys.argv[1:])
        head = ["## Quantization schemes", "", f"Measured with `{command.strip()}`.", ""]
        write_part(args.write, "schemes", [*head, *alone.lines, "", *whole.lines])
    wrong = alone.wrong + whole.wrong
    print(f"{wrong} outputs differ or leave their bound; {Scheme.INT8.value} is measured by benchmarks.bit_exactness")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
