"""The benchmarks of the solvers, on slices of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.milp import HEAD, cases
from benchmarks.tiny import run
from qebgate.properties import Property
from qebgate.runtimes.profiles import Runtime
from tests.engines.tiny import tiny


def test_programs_of_one_task() -> None:
    """Both encodings by both solvers: no bound is below the truth, and one that was would be told."""
    t = tiny("dense_4-int8")
    task = t.task(t.cell(np.full(t.side, -20), np.full(t.side, 20)), Runtime.BUILTIN)
    task = replace(task, outputs=(0,), prop=Property("max_abs", 1e-4))
    gap = (t.quantized(Runtime.BUILTIN) - t.float32)[t.rows(task.cell), 0]
    found = list(cases(task, "tiny", 1.0))
    assert [c.exact for c in found] == [False, True]
    for c in found:
        assert c.row().startswith("| tiny |")
        assert c.row().count("|") == HEAD[0].count("|")
        assert not c.wrong
        truth = (c.sign * gap).max()
        bounds = [b for _, b, _ in c.results if b is not None]
        assert bounds
        assert min(bounds) >= truth
        assert replace(c, seen=max(bounds) + 1.0).wrong


def test_tiny_networks() -> None:
    lines, wrong = run(0, 2)
    assert wrong == 0
    counts = np.array([[int(v) for v in line.split("|")[2:-2]] for line in lines[2:]]).sum(axis=0)
    assert counts.tolist() == [2, 2, 2, 2, 2, 0, 0, 2, 0, 0]
