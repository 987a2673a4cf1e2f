"""``.tflite`` -> :class:`~qebgate.ir.graph.Graph`.

Slots are those of tensorflow/lite/schema/schema.fbs, version 3.  A file is damaged (QEB405: no writer
makes it), wrong (other QEB4xx) or unsupported; everything unsupported is reported together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from qebgate.adapters.files import read_file
from qebgate.adapters.tflite.constants import folded
from qebgate.adapters.tflite.flatbuffer import FlatBuffer, Table, TableOptions
from qebgate.adapters.tflite.opcodes import CUSTOM, OPTIONS_TYPE, operator_name
from qebgate.adapters.tflite.schemes import SCHEME, find_schemes, fold_constants
from qebgate.adapters.tflite.tensors import Buffers, located, read_tensor
from qebgate.errors import ModelError, UnsupportedError, printable
from qebgate.ir.graph import Graph, Node, Source
from qebgate.ir.tensor import Tensor
from qebgate.semantics.registry import IN_FILES
from qebgate.semantics.unidirectional_sequence_lstm import CELL, STATE, UnidirectionalSequenceLstm

MAX_BYTES = 512 << 20
MAX_TENSORS = 32_768
MAX_OPERATORS = 16_384
MAX_REPORTED = 50
LSTM = UnidirectionalSequenceLstm.name


def read_tflite(path: Path) -> Graph:
    """Read a model; its nodes are known operators that passed their own checks.

    Raises ModelError for a file that is not a model or is inconsistent, and one UnsupportedError that
    lists (as ``related``) everything in it that is not analysed.
    """
    data = read_file(path, MAX_BYTES, ModelError)
    source = Source(str(path), hashlib.sha256(data).hexdigest(), "tflite")
    fb = FlatBuffer(data, source.label)
    if data[4:8] != b"TFL3":
        raise ModelError(
            "QEB403",
            "the file is not a TensorFlow Lite model",
            where=source.label,
            found=f"identifier {printable(data[4:8])}, expected b'TFL3'" if len(data) >= 8 else f"{len(data)} bytes",
        )
    return _read_model(fb, fb.root(), source)


@dataclass(frozen=True, slots=True)
class _Code:
    """An entry of the table of operator codes; ``name`` is safe to print."""

    op: str
    name: str
    version: int

    @property
    def problem(self) -> str | None:
        """Why operators of this code cannot be analysed."""
        if self.op == "SHAPE":  # folded, or refused where its value is used otherwise
            return None
        if self.op not in IN_FILES:
            return f"{self.name} is not supported"
        newest = IN_FILES[self.op].max_version
        if not 1 <= self.version <= newest:
            return f"{self.name} of version {self.version} is not supported (1 to {newest} are)"
        return None


def _read_model(fb: FlatBuffer, model: Table, source: Source) -> Graph:
    version = model.integer(0, "I")
    if version != 3:
        raise UnsupportedError(
            "QEB407", "unknown version of the file format", where=fb.label, found=f"{version}, expected 3"
        )
    subgraphs = model.count(2)
    if subgraphs != 1:
        names = ", ".join(printable(g.text(4) or "?", 40) for _, g in zip(range(5), model.tables(2), strict=False))
        raise UnsupportedError(
            "QEB408",
            "models with several subgraphs (control flow, several signatures) are not supported"
            if subgraphs
            else "the model has no graph",
            where=fb.label,
            found=f"{subgraphs} subgraphs" + (f": {names}" if names else ""),
            fix="convert one signature without control flow" if subgraphs else None,
        )
    graph = next(model.tables(2))
    for slot, limit, what in ((0, MAX_TENSORS, "tensors"), (3, MAX_OPERATORS, "operators")):
        if graph.count(slot) > limit:
            raise UnsupportedError(
                "QEB406",
                f"the model has too many {what}",
                where=fb.label,
                found=f"{graph.count(slot)}, at most {limit}",
            )
    problems: list[ModelError] = []
    nodes, unfit = _read_operators(fb, model, graph, problems)
    inputs, outputs = graph.integers(1), graph.integers(2)
    read = {*inputs, *outputs, *(i for n in nodes for i in (*n.inputs, *n.outputs))}
    tensors = _read_tensors(fb, model, graph, problems, {i for n in nodes for i in n.intermediates} - read)
    _check_indices(fb, nodes, inputs, outputs, graph.count(0))
    if len(tensors) < graph.count(0):
        raise _summary(problems, fb.label)
    nodes, tensors = fold_constants(nodes, tensors)
    schemes, mixed = find_schemes(nodes, tensors)
    problems = schemes + problems
    _check_ends(fb, tensors, inputs, outputs, problems)
    _check_states(nodes, tensors, problems)
    unfit |= mixed
    tensors, nodes = folded(tensors, nodes, unfit)
    nodes = _arranged(fb, nodes, tensors, unfit, problems)
    names = _signature(model, 0, inputs), _signature(model, 1, outputs)
    result = Graph(tensors, nodes, inputs, outputs, source, input_signature=names[0], signature=names[1])
    for node in nodes:
        if node.index not in unfit:
            _check_node(fb, node, result, problems)
    if problems:
        raise _summary(problems, fb.label)
    return result


def _signature(model: Table, slot: int, ends: tuple[int, ...]) -> tuple[tuple[str, int], ...]:
    """Names of the inputs (slot 0) or outputs (1), from the only signature.

    None where there are several, or they do not fit.
    """
    if model.count(7) != 1:
        return ()
    signature = next(model.tables(7))
    if signature.count(slot) > len(ends):
        return ()
    named = tuple((t.text(0) or "", t.integer(1, "I")) for t in signature.tables(slot))
    fits = len({n for n, _ in named}) == len(named) and all(i in ends for _, i in named)
    return named if fits else ()


def _check_live(node: Node, tensors: tuple[Tensor, ...]) -> None:
    """Refuse an operator on constants only: its value would have no batch, and converters fold it."""
    if all(i < 0 or tensors[i].is_const for i in node.inputs):
        raise UnsupportedError(
            "QEB434", "an operator computes a constant from constants", fix="convert the model again"
        )


def _read_codes(model: Table) -> list[_Code]:
    codes: list[_Code] = []
    for t in model.tables(1):
        number = max(t.integer(0, "b"), t.integer(3, "i"))  # files older than schema 3a have the first only
        op = operator_name(number)
        name = f"{op} {printable(t.text(1) or '', 80)!r}" if number == CUSTOM else op
        codes.append(_Code(op, name, t.integer(2, "i", 1)))
    return codes


def _read_operators(
    fb: FlatBuffer, model: Table, graph: Table, problems: list[ModelError]
) -> tuple[tuple[Node, ...], set[int]]:
    """All operators, and the positions of those that are not supported (their ``attrs`` are None)."""
    codes = _read_codes(model)
    nodes: list[Node] = []
    unsupported: dict[str, list[int]] = {}
    unfit: set[int] = set()
    for k, t in enumerate(graph.tables(3)):
        number = t.integer(0, "I")
        if number >= len(codes):
            fb.damaged(f"operator code {number} of {len(codes)}", f"operator #{k}")
        code = codes[number]
        attrs: object = None
        if code.problem is not None:
            unsupported.setdefault(code.problem, []).append(k)
            unfit.add(k)
        else:
            try:
                if code.op in IN_FILES:
                    attrs = IN_FILES[code.op].parse(_options(fb, t, code.op, k))
            except UnsupportedError as e:
                problems.append(located(e, f"operator #{k} {code.op}"))
                unfit.add(k)
        scales = t.integers(8) if code.op == LSTM else ()
        nodes.append(Node(code.op, t.integers(1), t.integers(2), attrs, k, code.version, intermediates=scales))
    problems += [
        UnsupportedError("QEB430", text, where=_operators(positions)) for text, positions in unsupported.items()
    ]
    return tuple(nodes), unfit


def _operators(positions: list[int]) -> str:
    shown = ", ".join(f"#{k}" for k in positions[:5])
    more = f" and {len(positions) - 5} more" if len(positions) > 5 else ""
    return ("operators " if len(positions) > 1 else "operator ") + shown + more


def _arranged(
    fb: FlatBuffer, nodes: tuple[Node, ...], tensors: tuple[Tensor, ...], unfit: set[int], problems: list[ModelError]
) -> tuple[Node, ...]:
    """The nodes with their inputs in the order that operators of a kind share; ``unfit`` grows by the others."""

    def arranged(node: Node) -> Node:
        if node.op not in IN_FILES or node.index in unfit:
            return node
        try:
            return IN_FILES[node.op].arrange(node, tensors)
        except UnsupportedError as e:
            problems.append(located(e, f"{fb.label}: {node.origin}"))
            unfit.add(node.index)
            return node

    return tuple(arranged(n) for n in nodes)


def _check_node(fb: FlatBuffer, node: Node, graph: Graph, problems: list[ModelError]) -> None:
    try:
        _check_live(node, graph.tensors)
        if node.op not in IN_FILES:
            raise UnsupportedError("QEB430", f"{node.op} is supported in arithmetic on shapes only")
        IN_FILES[node.op].check(node, graph)
    except ModelError as e:
        problems.append(located(e, f"{fb.label}: {node.origin}"))


def _options(fb: FlatBuffer, operator: Table, op: str, k: int) -> TableOptions:
    kind = operator.integer(3, "B")
    if op not in OPTIONS_TYPE or kind == 0:
        return TableOptions(None)
    if kind != OPTIONS_TYPE[op]:
        fb.damaged(f"options of type {kind} for {op}, expected {OPTIONS_TYPE[op]}", f"operator #{k}")
    return TableOptions(operator.table(4))


def _read_tensors(
    fb: FlatBuffer, model: Table, graph: Table, problems: list[ModelError], scales: Collection[int]
) -> tuple[Tensor, ...]:
    """All tensors; fewer than the file has where some are not supported.  Those in ``scales`` may be empty."""
    buffers = Buffers(fb, model)
    tensors: list[Tensor] = []
    for k, t in enumerate(graph.tables(0)):
        tensor = read_tensor(t, k, buffers, empty=k in scales)
        if isinstance(tensor, UnsupportedError):
            problems.append(tensor)
        else:
            tensors.append(tensor)
    return tuple(tensors)


def _check_indices(
    fb: FlatBuffer, nodes: tuple[Node, ...], inputs: tuple[int, ...], outputs: tuple[int, ...], count: int
) -> None:
    """Every tensor that is named exists; -1 stands for an optional input, never for one of the first two."""
    for what, ends in (("input", inputs), ("output", outputs)):
        if not ends:
            fb.damaged(f"a model without an {what}")
        if len(set(ends)) < len(ends) or any(not 0 <= i < count for i in ends):
            fb.damaged(f"{what}s {ends[:10]} of {count} tensors")
    for n in nodes:
        bad = [i for i in n.inputs if not -1 <= i < count]
        bad += [o for o in (*n.outputs, *n.intermediates) if not 0 <= o < count]
        if bad:
            fb.damaged(f"tensor {bad[0]} of {count}", n.origin)
        if not n.outputs or len(set(n.outputs)) < len(n.outputs):
            fb.damaged(f"outputs {n.outputs[:10]}", n.origin)
        needed = 1 if n.op == LSTM else 2
        if n.op in IN_FILES and (not n.inputs or -1 in n.inputs[:needed]):
            fb.damaged(f"inputs {n.inputs[:10]}", n.origin)


def _check_ends(
    fb: FlatBuffer,
    tensors: tuple[Tensor, ...],
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    problems: list[ModelError],
) -> None:
    for o in outputs:
        if o in inputs or tensors[o].is_const:
            fb.damaged("an output of the model that no operator writes", f"tensor {tensors[o].label}")
    for i in inputs:
        t = tensors[i]
        if t.is_const:
            fb.damaged("an input of the model that is a constant", f"tensor {t.label}")
        if t.shape[:1] != (1,):
            problems.append(
                UnsupportedError(
                    "QEB419",
                    "the model's input does not have a batch of 1",
                    where=f"tensor {t.label}",
                    found=str(t.shape),
                    fix="convert the model with a batch of 1 (the first axis)",
                )
            )


def _check_states(nodes: Sequence[Node], tensors: Sequence[Tensor], problems: list[ModelError]) -> None:
    """Variable tensors are the state of one LSTM each: nothing else here knows that they change."""
    uses: dict[int, list[bool]] = {i: [] for i, t in enumerate(tensors) if t.variable}
    for n in nodes:
        if any(o in uses for o in n.outputs):
            message = "a variable tensor that an operator writes is not supported"
            raise UnsupportedError("QEB415", message, where=n.origin)
        for place, i in enumerate(n.inputs):
            if i in uses:
                uses[i].append(n.op == LSTM and place in (STATE, CELL))
    problems += [
        UnsupportedError(
            "QEB415",
            "variable tensors (state kept between calls) are supported as the state of one LSTM only",
            where=f"tensor {tensors[i].label}",
        )
        for i, places in uses.items()
        if places not in ([], [True])
    ]


def _summary(problems: list[ModelError], label: str) -> ModelError:
    """One error for all problems; the problem itself where there is only one."""
    if len(problems) == 1:
        return located(problems[0], label)
    first = problems[0]
    message = first.message if first.code == SCHEME else f"{len(problems)} things in the model are not supported"
    cut = f"{len(problems)} problems, the first {MAX_REPORTED} are listed"
    return UnsupportedError(
        first.code,
        message,
        where=label,
        found=cut if len(problems) > MAX_REPORTED else None,
        fix=next((p.fix for p in problems if p.fix), None),
        related=tuple(problems[:MAX_REPORTED]),
    )
