"""Whether an analysis contains what really happens, without tolerance.

Quantized values are exact.  Float values of ``float32`` semantics are float32 numbers (executed by numpy
in two ways, the final ones also by LiteRT); those of ``real`` semantics are executed in 80-bit arithmetic,
and only what lies outside by more than its own error (2**-58 of the largest number) is a violation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.engines.concrete import Inputs
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.dra.program import program
from qebgate.runtimes.profiles import DEPLOYED
from qebgate.semantics.execute import run_float, run_int
from qebgate.semantics.moves import Move
from qebgate.semantics.registry import ALL_SEMANTICS
from qebgate.task import Task
from tests.semantics.cases import Rng
from tests.semantics.compare import interpret

LONG = np.longdouble
ROUNDED_ONCE = frozenset(
    {"ABS", "ADD", "LEAKY_RELU", "MAXIMUM", "MAX_POOL_2D", "MINIMUM", "MUL", "PAD", "PRELU", "REDUCE_MAX", "REDUCE_MIN"}
) | {"RELU", "RELU6", "NEG", "RESHAPE", "SQUARE", "SUB"}
"""At most one operation of float32, whose result is the nearest number."""
OWN_ERROR = 2.0**-58


@dataclass
class Seen:
    """Violations found, and how much was compared."""

    values: int = 0
    violations: list[str] = field(default_factory=list)

    def check(self, what: str, bound: Interval, value: np.ndarray, error: np.ndarray | float = 0.0) -> None:
        v = value.reshape(len(value), -1)
        self.values += v.size
        bad = (v + error < bound.lo) | (v - error > bound.hi)
        if bad.any():
            row, k = np.argwhere(bad)[0]
            self.violations.append(
                f"{what}[{k}]: {v[row, k]!r} not in [{bound.lo[k]!r}, {bound.hi[k]!r}] ({int(bad.sum())} of {v.size})"
            )


def samples(task: Task, rng: Rng, count: int) -> Inputs:
    """Corners, ties of the input quantization and their neighbours, and random inputs of a task's region."""
    cell, n = task.cell, count // 2
    shape = cell.lower.shape
    corner = rng.random((n, *shape)) < rng.choice([0.0, 0.5, 0.9, 1.0], n).reshape(-1, *(1,) * len(shape))
    if cell.codes is not None:
        lo, hi = cell.codes
        inside = rng.integers(lo, hi, (count - n, *shape), endpoint=True)
        return Inputs.of_codes(task, np.concatenate([np.where(corner, lo, hi), inside]))
    lo, hi = cell.lower, cell.upper
    inside = lo + (hi - lo) * rng.random((count - n, *shape))
    codec = task.codec
    half = 0.5 if codec.in_model or codec.mode == "nearest" else 0.0
    tie = (np.floor(inside / codec.scale) + half) * codec.scale
    x = np.where(rng.random(inside.shape) < 0.5, tie, inside).astype(np.float32)
    step = rng.integers(-1, 2, x.shape)
    x = np.where(
        step < 0, np.nextafter(x, np.float32(-np.inf)), np.where(step > 0, np.nextafter(x, np.float32(np.inf)), x)
    )
    x = np.clip(x, lo.astype(np.float32), hi.astype(np.float32))
    return Inputs.of_reals(task, np.concatenate([np.where(corner, lo, hi).astype(np.float32), x]))


def analysed(task: Task, settings: Settings) -> Analysis:
    p = program(task)
    return Analysis(p.layers, p.box, settings).run()


def check(task: Task, inputs: Inputs, settings: Settings, seen: Seen, float_model: bytes | None = None) -> Analysis:
    """Compare every value of the pair, and the final bounds, with execution."""
    pair, p = task.pair, program(task)
    a = Analysis(p.layers, p.box, settings).run()
    keep_f = {v.float_tensor for v in pair.values}
    keep_q = {v.quantized_tensor for v in pair.values}
    given = inputs.x if inputs.codes is None else inputs.codes
    q = run_int(pair.quantized, given, task.runtime, keep=keep_q)
    q[pair.quantized.inputs[0]] = given
    runs = []
    if task.float_semantics == "real":
        runs.append(("real", run_float(pair.float, inputs.x, dtype=LONG, keep=keep_f)))  # type: ignore[arg-type]
    else:
        runs.append(("float32", run_float(pair.float, inputs.x, dtype=np.float32, keep=keep_f)))
        runs.append(("rounded", _rounded(pair.float, inputs.x, keep_f)))
    top = np.arange(a.states[p.output].size)
    final, final_h = a.gap(p.output, top), a.float_value(p.output, top)
    for name, f in runs:
        f[pair.float.inputs[0]] = inputs.x
        size = max(float(np.abs(v).max(initial=0.0)) for v in f.values())
        for k, v in enumerate(pair.values):
            if k not in a.states or pair.quantized.tensors[v.quantized_tensor].name == "inputs":
                continue
            s = a.states[k]
            t = pair.quantized.tensors[v.quantized_tensor]
            c = q[v.quantized_tensor].reshape(len(given), -1)
            real = (c.astype(np.float64) - t.q.z) * t.q.s if t.dtype.is_code else c.astype(np.float64)
            h = f[v.float_tensor].reshape(len(given), -1).astype(LONG)
            error = OWN_ERROR * size if name == "real" else 0.0
            where = f"{task.runtime.value} {name} value {k}"
            if t.dtype.is_code:
                assert s.codes is not None
                seen.check(f"{where} code", Interval(*(x.astype(np.float64) for x in s.codes)), c)
            seen.check(f"{where} float", s.float, h, error)
            seen.check(f"{where} quantized", s.quantized, real)
            seen.check(f"{where} delta", s.delta, real.astype(LONG) - h, error)
            if k == p.output or (
                v.float_tensor == pair.float.outputs[0] and v.quantized_tensor == pair.quantized.outputs[0]
            ):
                seen.check(f"{where} gap", final, real.astype(LONG) - h, error)
                seen.check(f"{where} reference", final_h, h, error)
                if float_model is not None and name == "float32":
                    few = slice(0, None, max(1, len(h) // 24))
                    y, _ = interpret(float_model, inputs.x[few], task.runtime)
                    theirs = y.reshape(len(y), -1).astype(LONG)
                    seen.check(f"{where} LiteRT", final_h, theirs)
                    seen.check(f"{where} LiteRT gap", final, real[few].astype(LONG) - theirs)
    return a


def _rounded(graph, x: np.ndarray, keep) -> dict[int, np.ndarray]:
    """Another legal float32 evaluation: every operator exact, each result rounded to float32 away from 0."""
    live: dict[int, np.ndarray] = {graph.inputs[0]: x.astype(np.float32)}
    for node in graph.nodes:
        args = [
            None if i < 0 else live[i].astype(np.float64) if i in live else graph.tensors[i].const for i in node.inputs
        ]
        y = ALL_SEMANTICS[node.op].run_float(node, graph, args)
        r = y.astype(np.float32)
        away = np.nextafter(r, np.where(y > 0, np.float32(np.inf), np.float32(-np.inf)))
        moves = node.op in ROUNDED_ONCE or isinstance(ALL_SEMANTICS[node.op], Move) or r.dtype != np.float32
        # a single product is rounded once, too
        alone = node.op in ("FULLY_CONNECTED", "TRANSPOSE_CONV") and len([i for i in node.inputs if i >= 0]) == 2
        moves = moves or (alone and graph.tensors[node.inputs[1]].shape[-1] == 1)
        inexact = np.abs(r.astype(np.float64)) < np.abs(y)
        live[node.outputs[0]] = r if moves else np.where(inexact, away, r)
    return {i: live[i] for i in (*graph.outputs, *keep) if i in live}


RUNTIMES = DEPLOYED
