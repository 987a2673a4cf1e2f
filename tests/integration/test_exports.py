"""Converted models of functions that exports need: executed bit for bit, and bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.engines.dra.analysis import Settings
from qebgate.ir.align import align
from qebgate.runtimes.profiles import DEPLOYED
from qebgate.semantics.execute import exact, run_int
from tests.laws.contain import Seen, check, samples
from tests.laws.pairs import codec_of, grid_cell, task_of
from tests.semantics.compare import interpret

EXPORTS = {
    "divlive": {"ABS", "ADD", "DIV"},
    "layernorm": {"MEAN", "MUL", "NEG", "RSQRT", "SQUARED_DIFFERENCE"},
    "l2norm": {"MEAN", "MUL", "RSQRT", "SQUARE"},
    "std": {"SQRT", "SQUARED_DIFFERENCE"},
    "logsoftmax": {"LOG_SOFTMAX"},
    "softargmax": {"ARG_MAX"},
}


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_exported(name: str, root: Path) -> None:
    files = [root / "tests" / "models" / "exports" / f"{name}.{kind}.tflite" for kind in ("float", "int8")]
    plain, quantized = (read_tflite(f) for f in files)
    assert {n.op for n in quantized.nodes} >= EXPORTS[name] and exact(quantized)
    pair, rng, seen = align(plain, quantized), np.random.default_rng(0), Seen()
    pair = pair.at("logits")
    codec = codec_of(pair)
    for k, runtime in enumerate(DEPLOYED):
        x = rng.integers(-128, 128, (100, 1, 8)).astype(np.int8)
        theirs, _ = interpret(files[1].read_bytes(), x, runtime)
        np.testing.assert_array_equal(run_int(quantized, x, runtime)[quantized.outputs[0]], theirs)
        task = task_of(pair, grid_cell(pair, codec, rng), codec, runtime, "real" if k % 2 else "float32")
        check(task, samples(task, rng, 40), Settings(), seen)
    assert not seen.violations and seen.values > 500
