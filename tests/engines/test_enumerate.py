"""Regions far too large to enumerate are left alone, not a crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.engines.concrete import Session
from qebgate.engines.enumerate import Enumerate, about
from qebgate.evidence import Stopped
from qebgate.ir.align import align
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import Runtime
from qebgate.task import Budget
from tests.laws.pairs import float_twin, task_of
from tests.support.tiny import dense_int8


def test_counts_of_any_size_can_be_said() -> None:
    assert about(7) == "7"
    assert about(2**40 + 1) == "at least 2^40"
    assert about(3**30000) == "at least 2^47548"  # too many digits for str()


def test_more_inputs_than_a_float_can_count(tmp_path: Path) -> None:
    """200 inputs of 256 codes each: 2^1600."""
    b, x, y = dense_int8(inputs=200)
    content = b.build(x, y)
    (tmp_path / "q.tflite").write_bytes(content)
    (tmp_path / "f.tflite").write_bytes(float_twin(content, np.random.default_rng(0)))
    pair = align(read_tflite(tmp_path / "f.tflite"), read_tflite(tmp_path / "q.tflite"))
    codec = InputCodec.of(pair.quantized)
    lo, hi = (np.full(pair.quantized.input.shape, c, np.int32) for c in codec.dtype.code_range)
    cell = Cell(codec.grid(lo).astype(float), codec.grid(hi).astype(float), (lo, hi), 0, codec.grid(lo).astype(float))
    task = task_of(pair, cell, codec, Runtime.REFERENCE, "real")
    with Session() as session:
        (answer,) = Enumerate().run(task, [], Budget(), session)
    assert isinstance(answer, Stopped) and answer.reason == "effort" and "2^1600" in answer.detail
