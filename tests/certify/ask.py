"""Questions for the checker, and hints of every quality."""

from __future__ import annotations

import numpy as np

from qebgate.certificates import hints_of
from qebgate.certify.box import Box
from qebgate.certify.check import Hints, Question, program_of, shape_of
from qebgate.certify.forms import Targets
from qebgate.certify.walk import Walk
from qebgate.engines.dra.certificate import certificate
from qebgate.task import Budget, Task
from tests.semantics.cases import Rng


def question_of(task: Task) -> Question:
    return Question(task.pair, task.cell, task.codec, task.outputs, task.runtime, task.float_semantics == "float32")


def engine_hints(task: Task, budget: Budget | None = None) -> Hints:
    return hints_of(certificate(task, budget or Budget()), shape_of(program_of(question_of(task))))


def garbage(question: Question, rng: Rng) -> Hints:
    """Slopes and multipliers that mean nothing, for layers and targets at random."""
    program = program_of(question)
    sizes = shape_of(program).lines
    wild = lambda *shape: rng.normal(size=shape) * 10.0 ** rng.uniform(-4, 3, shape) * (rng.random(shape) < 0.8)  # noqa: E731
    slopes = {v: wild(10, m) for v, m in sizes.items()}
    refine = {v: int(rng.integers(1, 3)) for v in sizes if rng.random() < 0.7}
    targets = []
    widths = {x.output: x.m for x in program.layers}
    for _ in range(int(rng.integers(0, 5))):
        kind = ("z", "q", "d", "gap")[int(rng.integers(4))]
        value = program.output if kind == "gap" else int(rng.choice(list(sizes) or [program.output]))
        count = int(rng.integers(1, 5))
        multipliers = {v: wild(2, count, m) for v, m in widths.items() if rng.random() < 0.7}
        entries = rng.integers(0, widths[value], count)
        targets.append(Targets(value, kind, entries, rng.choice([-1.0, 1.0], count), multipliers))
    return Hints(slopes, refine, targets)


def walked(question: Question, hints: Hints) -> Walk:
    cell = question.cell
    program = program_of(question)
    with np.errstate(over="ignore", invalid="ignore"):
        return Walk(
            program, Box(cell.lower.ravel(), cell.upper.ravel()), hints.slopes, hints.refine, hints.targets
        ).run()
