"""``qebgate selftest``: planted counterexamples, run through the installed tool and the installed runtime.

The truth about every pair is known by executing all of its inputs, without any engine.  Asked below it, the gate must
not pass, whatever engines it may use; where all inputs can be executed it must fail.  Asked above it, it must pass.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qebgate.adapters import load_model
from qebgate.engines.portfolio import ORDER
from qebgate.gate import check
from qebgate.ir.align import align
from qebgate.ir.pair import Pair
from qebgate.numerics.rounding import F64
from qebgate.planted import LEAST, MOST, Planted, planted
from qebgate.policy import parse_policy
from qebgate.regions.cell import InputCodec
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.execute import run_float, run_int
from qebgate.verdict import Verdict

PIECES = (("trigger", 1), ("roundoff", 0), ("ties", 1), ("disguised", 2))
"""Kind and seed of the pairs that ``qebgate selftest`` runs."""
EXECUTING = ("execute", "enumerate")
"""Engines that run every input, where there are not too many."""
BELOW, JUST_BELOW, ABOVE = 0.5, 0.999, 1.02
"""Limits, as parts of the truth."""

Expected = Literal["fail", "not pass", "pass"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One question about a planted pair, the right answer, and what the gate said."""

    kind: str
    seed: int
    question: str
    limit: float
    expected: Expected
    verdict: Verdict | None
    seconds: float

    @property
    def right(self) -> bool:
        return self.verdict == self.expected or (self.expected == "not pass" and self.verdict in ("fail", "unknown"))


def written(p: Planted, folder: Path) -> Pair:
    """Both models of a planted pair as ``float.tflite`` and ``int8.tflite``, read again."""
    (folder / "float.tflite").write_bytes(p.float_model())
    (folder / "int8.tflite").write_bytes(p.quantized_model())
    return align(load_model(folder / "float.tflite"), load_model(folder / "int8.tflite"))


def all_gaps(pair: Pair, runtime: Runtime, dtype: type[np.float32 | np.float64] = np.float64) -> F64:
    """Quantized minus float [65536, K], at every input of two int8 codes; the first code counts slowest."""
    side = np.arange(LEAST, MOST + 1)
    codes = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 1, 2)
    floats = run_float(pair.float, InputCodec.of(pair.quantized).grid(codes), dtype=dtype)[pair.float.outputs[0]]
    out = pair.quantized.output
    real = out.q.dequantize(run_int(pair.quantized, codes, runtime)[pair.quantized.outputs[0]])
    return real.reshape(len(codes), -1) - floats.reshape(len(codes), -1).astype(np.float64)


def policy(limit: float, runtime: Runtime, **more: Any) -> dict[str, Any]:
    """A policy about the models that :func:`written` wrote, over all of their inputs."""
    model = {"float": "float.tflite", "quantized": "int8.tflite", "runtime": runtime.value}
    ask = {"id": "planted", "model": "m", "region": "all", "property": {"kind": "max_abs", "limit": limit}, **more}
    box = {"kind": "box", "lower": -1e30, "upper": 1e30, "domain": "grid"}
    return {"version": 1, "models": {"m": model}, "regions": {"all": box}, "checks": [ask]}


def trials(pieces: Sequence[tuple[str, int]] = PIECES) -> Iterator[Trial]:
    """Ask the gate about planted pairs, one question after the other."""
    bounding = [n for n in dict.fromkeys(e.name for e in ORDER) if n not in EXECUTING]
    for kind, seed in pieces:
        runtime = (Runtime.REFERENCE, Runtime.BUILTIN, Runtime.XNNPACK)[seed % 3]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            pair = written(planted(kind, seed), folder)
            single = kind == "roundoff"  # what its float32 leaves depends on the order of its sums
            truth = float(np.abs(all_gaps(pair, runtime, np.float32 if single else np.float64)).max())
            weak = {"engines": bounding, "require": "proof_or_solver", "effort": "quick"}
            hurry = {"effort": "quick"} if single else {}
            questions: list[tuple[str, float, Expected, dict[str, Any]]] = [
                ("any engine, half the truth", BELOW * truth, "not pass" if single else "fail", hurry),
                ("without execution, just below the truth", JUST_BELOW * truth, "not pass", weak),
            ]
            if not single:
                questions.append(("any engine, above the truth", ABOVE * truth, "pass", {}))
            for words, limit, expected, more in questions:
                report = check(parse_policy(policy(limit, runtime, **more), "selftest", folder))
                for e in report.errors:
                    raise e.error
                yield Trial(kind, seed, words, limit, expected, report.verdict, report.seconds)
