"""The whole truth about the tiny converted models: every grid input executed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pytest

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.engines.concrete import Inputs, quantized_outputs
from qebgate.engines.enumerate import all_codes
from qebgate.ir.align import align
from qebgate.ir.pair import Pair
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.execute import run_float
from qebgate.task import FloatSemantics, Task
from tests.laws.pairs import task_of
from tests.semantics.cases import Rng
from tests.semantics.compare import interpret

MODELS = Path(__file__).resolve().parents[1] / "models"
ENTRIES = {e["name"]: e for e in json.loads((MODELS / "manifest.json").read_text())["pairs"]}
RUNTIMES = DEPLOYED
VARIANTS = (
    *("conv-float_io", "dense_8_8-float_io", "dense_large-int8", "dense_one_input-float_io", "dense_relu6-float_io"),
    *("dense_saturating-float_io", "dense_small-int8", "dense_wide-float_io", "dense_wide-int8", "linear-float_io"),
    *("linear-int8", "max_pool-float_io", "residual-int8", "softmax-float_io"),
)
"""Models that differ from others in their sizes or in the type of their inputs only."""
NAMES = sorted(n for n in ENTRIES if not n.endswith("per_tensor"))
USUAL = [pytest.param(n, marks=pytest.mark.slow) if n in VARIANTS else n for n in NAMES]
"""What tests of every model are parametrized with: the variants are for slow runs."""


@dataclass(frozen=True)
class Tiny:
    """A pair whose input has one or two entries."""

    name: str
    pair: Pair

    @property
    def codec(self) -> InputCodec:
        return InputCodec.of(self.pair.quantized, "nearest")

    @property
    def side(self) -> int:
        return self.pair.quantized.input.size

    def cell(self, lo: np.ndarray, hi: np.ndarray) -> Cell:
        """A box of codes."""
        c = self.codec
        shape = self.pair.quantized.input.shape
        lo, hi = (np.asarray(v, np.int32).reshape(shape) for v in (lo, hi))
        return Cell(
            c.grid(lo).astype(np.float64), c.grid(hi).astype(np.float64), (lo, hi), 0, c.grid(lo).astype(np.float64)
        )

    @property
    def whole(self) -> Cell:
        lo, hi = self.codec.dtype.code_range
        return self.cell(np.full(self.side, lo), np.full(self.side, hi))

    def box(self, rng: Rng) -> Cell:
        """A random box, often small, sometimes a point or a segment."""
        least, most = self.codec.dtype.code_range
        centre = rng.integers(least, most + 1, self.side)
        r = rng.choice([0, 1, 3, 10, 40, 120], self.side)
        return self.cell(np.maximum(centre - r, least), np.minimum(centre + r, most))

    def task(self, cell: Cell, runtime: Runtime, floats: FloatSemantics = "float32", limit: float = 1.0) -> Task:
        return task_of(self.pair, cell, self.codec, runtime, floats, limit)

    @cached_property
    def inputs(self) -> Inputs:
        """All inputs of the grid, in mixed-radix order."""
        (codes,) = all_codes(self.whole, 1 << 17)
        return Inputs.of_codes(self.task(self.whole, Runtime.REFERENCE), codes)

    @cached_property
    def _quantized(self) -> dict[Runtime, np.ndarray]:
        return {}

    def quantized(self, runtime: Runtime) -> np.ndarray:
        """Of all inputs; executed once."""
        if runtime not in self._quantized:
            q = quantized_outputs(self.task(self.whole, runtime), self.inputs)
            q.setflags(write=False)
            self._quantized[runtime] = q
        return self._quantized[runtime]

    @cached_property
    def float32(self) -> np.ndarray:
        y = run_float(self.pair.float, self.inputs.x, dtype=np.float32)[self.pair.float.outputs[0]]
        return y.reshape(len(y), -1).astype(np.longdouble)

    @cached_property
    def real(self) -> np.ndarray:
        """In 80-bit arithmetic."""
        y = run_float(self.pair.float, self.inputs.x, dtype=np.longdouble)  # type: ignore[arg-type]
        return y[self.pair.float.outputs[0]].reshape(len(self.inputs), -1)

    def litert(self, runtime: Runtime) -> np.ndarray:
        """The float model in the installed runtime, on the whole grid."""
        y, _ = interpret((MODELS / ENTRIES[self.name]["float"]).read_bytes(), self.inputs.x, runtime)
        return y.reshape(len(y), -1).astype(np.longdouble)

    def rows(self, cell: Cell) -> np.ndarray:
        """Which rows of the tables are in a box."""
        assert cell.codes is not None
        least, most = self.codec.dtype.code_range
        width = most - least + 1
        lo, hi = (c.ravel().astype(np.int64) - least for c in cell.codes)
        index = np.zeros(1, np.int64)
        for k in range(self.side):
            index = (index[:, None] + width**k * np.arange(lo[k], hi[k] + 1)).ravel()
        return index


@cache
def tiny(name: str) -> Tiny:
    e = ENTRIES[name]
    return Tiny(name, align(read_tflite(MODELS / e["float"]), read_tflite(MODELS / e["quantized"])))


def outside(lower: np.ndarray, upper: np.ndarray, gap: np.ndarray, error: float = 0.0) -> int:
    """How many gaps ``[B, K]`` are not within the bound."""
    return int(((gap + error < lower) | (gap - error > upper)).sum())
