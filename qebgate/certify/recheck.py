"""Yes, or no and why: whether a bundle proves what it says about these very models."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from qebgate.adapters import load_dense, load_model
from qebgate.adapters.files import read_file
from qebgate.adapters.fixed_point import FixedPoint, build
from qebgate.certify.bundle import File, LeafPart, Statement, hints_of, read
from qebgate.certify.check import Question, bounds, hull, program_of, shape_of
from qebgate.certify.cover import covers
from qebgate.certify.errors import EvidenceError
from qebgate.errors import printable
from qebgate.ir.align import align
from qebgate.ir.pair import Pair
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64, passes
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import Runtime

MAX_FILE = 512 << 20
SLACK = 1e-9
"""Relative: what a claim allows for another order of summation on another machine."""
LOOSE = 1e-6
"""Relative: a claim that is wider than the checker's own bounds by more is not what the evidence shows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether the evidence proves what it says, and why, in a sentence; ``notes`` are what was not compared."""

    yes: bool
    why: str
    notes: tuple[str, ...] = ()


def recheck(path: Path, root: Path | None = None) -> Answer:
    """Check a bundle again.  EvidenceError where it is damaged or not of these files, ModelError for the models."""
    statement, arrays, folder = read(path)
    base = root if root is not None else folder / statement.models.root
    pair = _pair(statement, base).at(statement.question.tensor)
    notes = _policy(statement, base)
    question = question_of(statement, pair)
    return _answer(statement, question, dict(arrays), notes)


def question_of(statement: Statement, pair: Pair) -> Question:
    """What the bundle claims something about; EvidenceError where it does not fit the models."""
    q, graph = statement.question, pair.quantized
    fixed = statement.models.fixed_point is not None
    try:
        runtime = Runtime(q.runtime)
    except ValueError:
        raise _mismatch("the runtime is not known", printable(q.runtime)) from None
    if len(runtime.members) > 1 or (runtime is Runtime.FIXED_POINT) != fixed:
        raise _mismatch("the runtime does not execute such models", runtime.value)
    if not graph.every_engine:
        raise _mismatch("the checker knows networks of 8-bit integers only")
    if graph.parts:
        raise _mismatch("the checker knows models with one input only")
    codec = InputCodec.of(graph, q.input_quantization)
    if codec.in_model and q.input_quantization is not None:
        raise _mismatch("the model quantizes its input itself")
    if sorted(set(q.outputs)) != q.outputs or q.outputs[-1] >= pair.float.output.size:
        raise _mismatch("the outputs are not those of the model")
    if not len(q.outputs) == len(statement.claim.lower) == len(statement.claim.upper):
        raise _mismatch("the claim does not have a bound for each output")
    cell = _cell(statement, codec, graph.input.shape)
    if cell.codes is None and fixed:
        raise _mismatch("a network in fixed point reads integers")
    return Question(pair, cell, codec, tuple(q.outputs), runtime, q.float_semantics == "float32")


def _answer(statement: Statement, question: Question, arrays: dict[str, Array], notes: tuple[str, ...]) -> Answer:
    cell, leaves = question.cell, statement.leaves
    cells = [cell]
    if any(x.restrictions for x in leaves) or len(leaves) > 1:
        ends = cell.codes or (cell.lower, cell.upper)
        lower, upper = (e.ravel().astype(np.float64) for e in ends)
        parts = [_restricted(x, lower, upper, whole=cell.codes is not None) for x in leaves]
        if not covers(parts, lower, upper, 0.0 if cell.codes is None else 0.5):
            return Answer(False, "the leaves of the tree do not cover the region")
        cells = [part_of(question, *p) for p in parts]
    own: dict[str, dict[str, Array]] = {f"leaf{k}": {} for k in range(len(leaves))}
    for name, a in arrays.items():
        leaf = name.partition(".")[0]
        if leaf not in own:
            raise EvidenceError("QEB481", "the evidence is damaged: there are hints that belong to nothing")
        own[leaf][name] = a
    found: list[tuple[F64, F64]] = []
    for k, part in enumerate(cells):
        inside = replace(question, cell=part)
        program = program_of(inside)
        found.append(bounds(inside, hints_of(statement, own[f"leaf{k}"], k, shape_of(program)), program))
    lower, upper = hull(found)
    return _compare(statement, question, lower, upper, notes)


def part_of(question: Question, lower: F64, upper: F64) -> Cell:
    """A part of the question's region, from its ends [n]: codes, or real values."""
    shape = question.cell.lower.shape
    lower, upper = lower.reshape(shape), upper.reshape(shape)
    if question.cell.codes is None:
        return Cell(lower, upper, None, 0, lower.copy())
    return _grid_cell(question.codec, lower, upper)


def _restricted(leaf: LeafPart, lower: F64, upper: F64, *, whole: bool) -> tuple[F64, F64]:
    """The ends of a leaf; EvidenceError where nothing is left, an input does not exist, or a code is not whole."""
    lo, hi = lower.copy(), upper.copy()
    for r in leaf.restrictions:
        if r.input >= lo.size:
            raise EvidenceError("QEB481", "the evidence is damaged: a leaf restricts an input that does not exist")
        if whole and any(e is not None and e % 1.0 for e in (r.at_least, r.at_most)):
            raise EvidenceError("QEB481", "the evidence is damaged: a leaf ends between two codes")
        if r.at_least is not None:
            lo[r.input] = max(lo[r.input], r.at_least)
        if r.at_most is not None:
            hi[r.input] = min(hi[r.input], r.at_most)
    if (lo > hi).any():
        raise EvidenceError("QEB481", "the evidence is damaged: a leaf is empty")
    return lo, hi


def _compare(statement: Statement, question: Question, lower: F64, upper: F64, notes: tuple[str, ...]) -> Answer:
    claim, q = statement.claim, statement.question
    given = np.array(claim.lower), np.array(claim.upper)
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        return Answer(False, "the hints prove no finite bound")
    k = int(np.argmax(np.maximum(given[0] - lower, upper - given[1])))
    if not ((given[0] <= lower) & (upper <= given[1])).all():
        have = f"[{lower[k]!r}, {upper[k]!r}], claimed are [{claim.lower[k]!r}, {claim.upper[k]!r}]"
        return Answer(False, f"the claimed bound does not follow: at output {q.outputs[k]} the evidence shows {have}")
    room = LOOSE * np.maximum(np.abs(lower), np.abs(upper)) + LOOSE * 1e-6
    if ((lower - given[0] > room) | (given[1] - upper > room)).any():
        return Answer(False, "the claimed bound is not the one that the evidence shows: it was made wider")
    prop = property_of(statement, question.pair)
    proven = prop.of_box(*given)
    if proven != claim.proven:
        return Answer(False, f"the claimed figure {claim.proven!r} is not that of the claimed bound, {proven!r}")
    if not passes(proven, prop.limit):
        return Answer(False, f"the proven figure {proven:.6g} is beyond the limit {prop.limit:.6g}")
    why = f"for every input of the region, {prop.kind} is at most {proven:.6g}, within the limit {prop.limit:.6g}"
    return Answer(True, why, notes)


def claim_of(lower: F64, upper: F64) -> tuple[F64, F64]:
    """The claim that a bundle makes of the checker's own bounds: with room for another order of summation."""
    room = SLACK * np.maximum(np.abs(lower), np.abs(upper)) + SLACK * 1e-6
    return lower - room, upper + room


def property_of(statement: Statement, pair: Pair) -> Property:
    """The property, with the output's quantum where it counts in quanta."""
    q = statement.question
    if q.property == "max_abs":
        return Property("max_abs", q.limit)
    out = pair.quantized.output
    if not out.dtype.is_code:
        node = pair.quantized.producer.get(pair.quantized.outputs[0])
        out = pair.quantized.tensors[node.inputs[0]] if node is not None and node.op == "DEQUANTIZE" else out
    if out.quant is None or not out.dtype.is_code:
        raise _mismatch("the model's output has no quanta")
    return Property("max_lsb", q.limit, out.q.s)


def _pair(statement: Statement, base: Path) -> Pair:
    m = statement.models
    if (m.quantized_file is None) == (m.fixed_point is None):
        raise _mismatch("it names no quantized model, or two")
    if m.quantized_file is not None:
        files = ((m.float_file, False), (m.quantized_file, True))
        graphs = [load_model(_inside(base, f), quantized=q) for f, q in files]
        for g, f in zip(graphs, (m.float_file, m.quantized_file), strict=True):
            _same(g.source.sha256, f)
        return align(*graphs)
    assert m.fixed_point is not None
    net = load_dense(_inside(base, m.float_file))
    _same(net.sha256, m.float_file)
    fields = m.fixed_point.model_dump()
    scale = fields.pop("float_scale")
    how = FixedPoint(*(fields[k] for k in FixedPoint.__slots__))
    limits = (2 <= how.bits <= 16, how.input_bits in (8, 16), *(abs(v) <= 64 for v in fields.values()))
    if not all(limits):
        raise _mismatch("the fixed-point scheme is not one that can be built")
    return align(*build(net, how, None if scale is None else Fraction(*scale)))


def _inside(base: Path, f: File) -> Path:
    if "\0" in f.path:
        raise _mismatch("a path holds a NUL character")
    return base / f.path


def _same(sha256: str, f: File) -> None:
    if sha256 != f.sha256:
        raise EvidenceError(
            "QEB482",
            "the evidence is about another file",
            where=printable(f.path),
            found=f"sha256 {sha256[:16]}…, the evidence says {f.sha256[:16]}…",
            fix="check the very files that the evidence was made for, or make it again",
        )


def _policy(statement: Statement, base: Path) -> tuple[str, ...]:
    """The policy's hash is compared where the file is at hand; its meaning is what the statement repeats."""
    f = statement.policy
    if f is None:
        return ()
    path = _inside(base, f)
    if not path.is_file():
        return (f"the policy {printable(f.path)} is not at hand: its hash was not compared",)
    _same(hashlib.sha256(read_file(path, 1 << 20, EvidenceError)).hexdigest(), f)
    return ()


def _cell(statement: Statement, codec: InputCodec, shape: tuple[int, ...]) -> Cell:
    r = statement.question.region
    lower, upper = np.array(r.lower), np.array(r.upper)
    if not lower.size == upper.size == int(np.prod(shape)) or not (lower <= upper).all():
        raise _mismatch("the region is empty, or not of the model's input")
    lower, upper = lower.reshape(shape), upper.reshape(shape)
    if r.domain == "real":
        if not codec.in_model and codec.mode is None:
            raise _mismatch("it does not say how real inputs become codes")
        return Cell(lower, upper, None, 0, lower.copy())
    least, most = codec.dtype.code_range
    if (lower != np.rint(lower)).any() or (upper != np.rint(upper)).any() or lower.min() < least or upper.max() > most:
        raise _mismatch("the region is not made of codes of the model's input")
    return _grid_cell(codec, lower, upper)


def _grid_cell(codec: InputCodec, lower: Array, upper: Array) -> Cell:
    codes = lower.astype(np.int32), upper.astype(np.int32)
    ends = [codec.grid(c).astype(np.float64) for c in codes]
    return Cell(ends[0], ends[1], codes, 0, ends[0].copy())


def _mismatch(what: str, found: str | None = None) -> EvidenceError:
    return EvidenceError("QEB483", f"the evidence does not fit the models: {what}", found=found)
