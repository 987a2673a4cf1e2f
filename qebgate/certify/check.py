"""What slopes prove of one region: bounds of the gap at the compared outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qebgate.certify.box import Box
from qebgate.certify.cover import is_tree
from qebgate.certify.execute import executed
from qebgate.certify.forms import Form, Slopes, Targets
from qebgate.certify.rows import Program, rows_of
from qebgate.certify.walk import Walk
from qebgate.ir.pair import Pair
from qebgate.numerics.rounding import F64
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import Runtime


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A pair that ends at the compared tensor, a region, outputs, the runtime, and the float side's arithmetic."""

    pair: Pair
    cell: Cell
    codec: InputCodec
    outputs: tuple[int, ...]
    runtime: Runtime
    float32: bool


@dataclass(frozen=True, slots=True, eq=False)
class Hints:
    """How the engine found its bound: slopes of every layer, layers refined, and targets with multipliers."""

    slopes: Slopes
    refine: Mapping[int, int] = field(default_factory=dict[int, int])
    targets: Sequence[Targets] = ()


def program_of(question: Question) -> Program:
    """The question's layers; raises EvidenceError for operators that this checker does not know."""
    q = question
    return rows_of(q.pair, q.cell, q.codec, q.runtime, float32=q.float32)


def bounds(question: Question, hints: Hints | None, program: Program | None = None) -> tuple[F64, F64]:
    """``lower <= quantized - float <= upper`` at the outputs, for every input of the region, by the checker's own work.

    Without hints every input is executed.  Sound whatever the hints are; infinite or NaN where nothing can be said.
    Raises EvidenceError.
    """
    cell = question.cell
    p = program or program_of(question)
    if hints is None:
        return executed(question.pair, cell, question.codec, question.runtime, question.outputs, p)
    box = Box(cell.lower.ravel().astype(np.float64), cell.upper.ravel().astype(np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        w = Walk(p, box, hints.slopes, hints.refine, hints.targets).run()
        index, size = np.asarray(question.outputs, np.intp), w.values[p.output].d.lo.size
        one = np.zeros((index.size, size))
        one[np.arange(index.size), index] = 1.0
        both = np.concatenate([one, -one])
        known = w.values[p.output].d
        upper = np.concatenate([known.hi[index], -known.lo[index]])
        upper = np.minimum(upper, w.upper(p.output, Form(d=both)))
        upper = np.minimum(upper, w.upper(p.output, Form(h=-both, g=both)))
        row = np.full(size, -1)
        row[index] = np.arange(index.size)
        for group in hints.targets:
            if group.kind == "gap" and group.value == p.output and (not group.splits or is_tree(group)):
                at = row[group.entries]
                here, found = np.where(group.signs > 0, at, at + index.size), w.gaps(group)
                if group.splits:  # leaves of one target
                    at, here, found = at[:1], here[:1], found.max(keepdims=True)
                np.minimum.at(upper, here[at >= 0], found[at >= 0])
    return -upper[index.size :], upper[: index.size]


@dataclass(frozen=True, slots=True)
class Shape:
    """What hints must fit: value -> neurons of every layer, those that have lines, and the compared value."""

    layers: Mapping[int, int]
    lines: Mapping[int, int]
    output: int


def shape_of(p: Program) -> Shape:
    """The shape of the hints of a program."""
    return Shape({x.output: x.m for x in p.layers}, {x.output: x.m for x in p.layers if not x.exact}, p.output)


def hull(parts: Sequence[tuple[F64, F64]]) -> tuple[F64, F64]:
    """Bounds that hold wherever one of several regions is."""
    return np.min([p[0] for p in parts], axis=0), np.max([p[1] for p in parts], axis=0)
