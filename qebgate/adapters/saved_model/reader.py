"""SavedModel folders -> :class:`~qebgate.ir.graph.Graph`.

The graph of one signature is followed through its functions, all of whose nodes must be operations of
:data:`OPS`; variables are arrays of the checkpoint.  TensorFlow is not needed, and nothing is executed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from qebgate.adapters.files import read_file
from qebgate.adapters.keras.draft import Draft
from qebgate.adapters.saved_model.checkpoint import Checkpoint, read_checkpoint
from qebgate.adapters.saved_model.nodes import Function, Node, index
from qebgate.adapters.saved_model.ops import OPS
from qebgate.adapters.saved_model.step import Step
from qebgate.adapters.saved_model.values import Constant, Handle, Live, Value
from qebgate.adapters.saved_model.wire import Message, damaged
from qebgate.errors import ModelError, UnsupportedError, printable
from qebgate.ir.graph import Graph, Source

MAX_BYTES = 64 << 20
MAX_DEPTH = 32
MAX_STEPS = 100_000
_SERVE = "serve"
_DEFAULT = "serving_default"
_CALLS = ("StatefulPartitionedCall", "PartitionedCall")
_READER = frozenset({*_CALLS, "Const", "NoOp", "ReadVariableOp", "VarHandleOp", "Placeholder"})
"""Operations of the reader itself; with :data:`OPS` all that a signature may use."""


def read_saved_model(folder: Path) -> Graph:
    """The float network of a folder's ``serving_default`` signature, in the normal form of converted files.

    Raises ModelError QEB493 for a damaged folder, UnsupportedError QEB494 that names every operation that
    is not read, and QEB495 for one that is used in a way that is not.
    """
    path = folder / "saved_model.pb"
    data = read_file(path, MAX_BYTES, ModelError)
    where = printable(folder)
    metas = Message.parse(data, where).messages(2)
    serving = [m for m in metas if _SERVE in m.message(1).texts(4)]
    if len(serving) != 1:
        damaged(where, f"{len(serving)} graphs for serving")
    meta = serving[0]
    checkpoint = read_checkpoint(folder / "variables")
    digest = hashlib.sha256(data)
    for part in (checkpoint.index, *checkpoint.shards):
        digest.update(hashlib.sha256(part).digest())
    source = Source(str(folder), digest.hexdigest(), "saved_model")
    return _Reader.of(meta, checkpoint, source).graph(_signature(meta, where))


def _signature(meta: Message, where: str) -> Message:
    found = {k: v for k, v in meta.mapping(5).items() if not k.startswith("__")}
    if _DEFAULT in found:
        return found[_DEFAULT]
    if len(found) == 1:
        return next(iter(found.values()))
    raise UnsupportedError(
        "QEB495", "the SavedModel has no serving_default signature", where=where,
        found=", ".join(printable(k, 40) for k in list(found)[:10]) or "none",
        fix="save it with model.export(folder)",
    )  # fmt: skip


@dataclass(slots=True)
class _Reader:
    main: dict[str, Node]
    functions: dict[str, Message]
    restore: str
    checkpoint: Checkpoint
    source: Source
    draft: Draft
    read: dict[str, Function] = field(default_factory=dict[str, Function])
    steps: int = 0

    @classmethod
    def of(cls, meta: Message, checkpoint: Checkpoint, source: Source) -> _Reader:
        graph, where = meta.message(2), source.label
        main = index([Node.of(m, where) for m in graph.messages(1)], where)
        functions = {m.message(1).text(1): m for m in graph.message(2).messages(1)}
        restore = meta.message(3).text(3)
        return cls(main, functions, restore, checkpoint, source, Draft(where))

    # -- the signature --------------------------------------------------------------------------

    def graph(self, signature: Message) -> Graph:
        given, wanted = (dict(sorted(signature.mapping(k).items())) for k in (1, 2))
        if not given or not wanted:
            self._damaged("a signature without inputs or outputs")
        values: dict[str, list[Value]] = {}
        inputs: list[int] = []
        for name, info in given.items():
            node, at = self._split(info.text(1))
            if at or node not in self.main or self.main[node].op != "Placeholder" or node in values:
                self._damaged(f"input {printable(name, 60)} is no placeholder")
            inputs.append(self.draft.value(name, self._input_shape(info, name)))
            values[node] = [Live(inputs[-1])]
        keys = self._variables()
        for name, key in keys.items():
            values[name] = [Handle(key)]
        ends = [self._split(info.text(1)) for info in wanted.values()]
        self._check(self._reached([n for n, _ in ends], values))
        outputs: list[int] = []
        for (node, at), name in zip(ends, wanted, strict=True):
            value = self._main(node, at, values)
            if not isinstance(value, Live):
                self._damaged(f"output {printable(name, 60)} does not depend on the input")
            outputs.append(value.index)
        return self.draft.finish(tuple(inputs), tuple(outputs), self.source)

    def _input_shape(self, info: Message, name: str) -> tuple[int, ...]:
        dims = [d.integer(1) for d in info.message(3).messages(2)]
        place = f"{self.source.label}: input {printable(name, 60)}"
        if info.integer(2) != 1:
            raise UnsupportedError("QEB414", "the input is not float32", where=place, found=f"type {info.integer(2)}")
        if not dims or len(dims) > 6 or not all(0 < d < 1 << 31 for d in dims[1:]):
            raise UnsupportedError(
                "QEB416", "the shape of the model's input is not known", where=place, found=str(dims[:8]),
                fix="export the model for a fixed input shape; only the batch may vary",
            )  # fmt: skip
        if dims[0] not in (-1, 1):
            found = str(dims)
            raise UnsupportedError(
                "QEB419", "the model's input does not have a batch of 1, or one that may vary", place, found
            )
        return (1, *dims[1:])

    # -- variables ------------------------------------------------------------------------------

    def _variables(self) -> dict[str, str]:
        """Variables of the main graph and their names in the checkpoint, as restoring would assign them."""
        if not self.restore:
            return {}
        node = self.main.get(self._split(self.restore)[0])
        if node is None or node.op not in _CALLS:
            self._damaged("nothing restores the variables")
        function = self._function(node.function(), node)
        if len(function.arguments) != len(node.inputs):
            self._damaged("the function that restores variables is called wrongly")
        handles = dict(zip(function.arguments, node.inputs, strict=True))
        out: dict[str, str] = {}
        for n in function.nodes.values():
            if n.op != "AssignVariableOp":
                continue
            name = handles.get(n.inputs[0]) if len(n.inputs) == 2 else None
            key = self._restored(function, n)
            if name is None or self.main.get(name) is None or self.main[name].op != "VarHandleOp" or name in out:
                self._damaged(f"a variable is restored in an unknown way: {printable(n.name, 60)}")
            out[name] = key
        return self._shared(out)

    def _shared(self, keys: dict[str, str]) -> dict[str, str]:
        """Variables of one shared name are one variable."""
        place = {n.name: n.text("shared_name") or n.name for n in self.main.values() if n.op == "VarHandleOp"}
        known: dict[str, str] = {}
        for name, key in keys.items():
            if known.setdefault(place[name], key) != key:
                self._damaged(f"variable {printable(place[name], 60)} is restored twice")
        return {name: known[shared] for name, shared in place.items() if shared in known}

    def _restored(self, function: Function, assign: Node) -> str:
        """The name that an assignment's value has in the checkpoint."""
        name, at = assign.inputs[1].split(":")[0], assign.inputs[1]
        for _ in range(3):
            node = function.nodes.get(name)
            if node is None:
                break
            if node.op == "RestoreV2":
                names = function.nodes.get(node.inputs[1].split(":")[0]) if len(node.inputs) == 3 else None
                k = at.rsplit(":", 1)[-1]
                texts = [] if names is None else names.texts()
                if k.isascii() and k.isdigit() and int(k) < len(texts):
                    return texts[int(k)]
                break
            if node.op != "Identity" or not node.inputs:
                break
            name, at = node.inputs[0].split(":")[0], node.inputs[0]
        return self._damaged(f"a variable is restored in an unknown way: {printable(assign.name, 60)}")

    # -- what may be there ----------------------------------------------------------------------

    def _reached(self, names: list[str], given: dict[str, list[Value]]) -> list[Node]:
        """All nodes that the outputs need, and everything in the functions that are called."""
        todo, seen, out = list(names), set[str](), list[Node]()
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            node = self.main.get(name)
            if node is None:
                self._damaged(f"no node {printable(name, 60)}")
            out.append(node)
            if name not in given:
                todo += [self._split(i)[0] for i in node.inputs] + list(node.control)
        called, pending = set[str](), [n for n in out if n.op in _CALLS]
        while pending:
            node = pending.pop()
            name = node.function()
            if name in called:
                continue
            called.add(name)
            inside = list(self._function(name, node).nodes.values())
            out += inside
            pending += [n for n in inside if n.op in _CALLS]
        return out

    def _check(self, nodes: list[Node]) -> None:
        unknown: dict[str, Node] = {}
        for n in nodes:
            if n.op not in OPS and n.op not in _READER:
                unknown.setdefault(n.op, n)
        if not unknown:
            return
        problems = tuple(
            UnsupportedError("QEB494", f"operation {printable(op, 60)} is not supported", where=n.label)
            for op, n in sorted(unknown.items())[:50]
        )
        message = "operations of the SavedModel are not supported; nothing of it was executed"
        raise UnsupportedError(
            "QEB494", message, self.source.label, ", ".join(printable(op, 60) for op in sorted(unknown)[:20]),
            "convert the model to .tflite, or save it as .keras", problems,
        )  # fmt: skip

    # -- evaluation -----------------------------------------------------------------------------

    def _main(self, name: str, at: int, values: dict[str, list[Value]]) -> Value:
        """A tensor of the main graph; what it needs first, without recursion."""
        todo = [name]
        while todo:
            node = self.main[todo[-1]]
            missing = [i for i in (self._split(r)[0] for r in node.inputs) if i not in values]
            if node.name in values or not missing:
                todo.pop()
                if node.name not in values:
                    found = [values[n][k] for n, k in map(self._split, node.inputs) if k < len(values[n])]
                    values[node.name] = self._step(node, tuple(found), 0)
                continue
            if len(todo) > MAX_STEPS or missing[0] in todo[-MAX_DEPTH:]:
                self._damaged("the graph has a cycle")
            todo.append(missing[0])
        return values[name][at] if at < len(values[name]) else self._damaged(f"no output {at} of {printable(name, 60)}")

    def _call(self, name: str, arguments: tuple[Value, ...], caller: Node, depth: int) -> list[Value]:
        if depth > MAX_DEPTH:
            self._damaged("functions call each other too deeply")
        function = self._function(name, caller)
        if len(function.arguments) != len(arguments):
            self._damaged(f"function {printable(name, 60)} is called with {len(arguments)} arguments")
        values: dict[str, list[Value]] = {a: [v] for a, v in zip(function.arguments, arguments, strict=True)}
        waiting = list(function.nodes.values())
        while waiting:
            later: list[Node] = []
            for node in waiting:
                parts = [r.split(":") for r in node.inputs]
                if all(p[0] in values for p in parts):
                    values[node.name] = self._step(node, tuple(self._inner(p, values) for p in parts), depth)
                else:
                    later.append(node)
            if len(later) == len(waiting):
                self._damaged(f"function {printable(name, 60)} reads what nothing computes")
            waiting = later
        missing = [r for r in function.results if r.split(":")[0] not in values]
        if missing:
            self._damaged(f"function {printable(name, 60)} returns what nothing computes")
        return [self._inner(r.split(":"), values) for r in function.results]

    def _inner(self, parts: list[str], values: dict[str, list[Value]]) -> Value:
        """``node:output:k`` or an argument; operations have one output here, calls have several."""
        found = values[parts[0]]
        k = parts[-1] if len(parts) > 1 else "0"
        first = len(parts) < 3 or parts[1] in _OUTPUTS
        if not first or not k.isascii() or not k.isdigit() or int(k) >= len(found):
            self._damaged(f"no tensor {printable(':'.join(parts), 80)}")
        return found[int(k)]

    def _step(self, node: Node, x: tuple[Value, ...], depth: int) -> list[Value]:
        self.steps += 1
        if self.steps > MAX_STEPS or len(x) != len(node.inputs):
            self._damaged("too many operations" if self.steps > MAX_STEPS else f"inputs of {printable(node.name, 60)}")
        if node.op in _CALLS:
            return self._call(node.function(), x, node, depth + 1)
        if node.op == "NoOp":
            return []
        if node.op == "Const":
            found = node.tensor()
            return [] if found is None else [Constant.of(found)]
        if node.op == "ReadVariableOp":
            handle = x[0] if x else None
            if not isinstance(handle, Handle):
                node.refuse("a variable that is not restored from the checkpoint")
            return [Constant.of(self.checkpoint.array(handle.key))]
        if node.op == "VarHandleOp":
            node.refuse("a variable that is not restored from the checkpoint: save with model.export(folder)")
        if node.op not in OPS:
            node.refuse("it has no value here")
        return [OPS[node.op](Step(node, x, self.draft))]

    def _function(self, name: str, caller: Node) -> Function:
        if name not in self.read:
            if name not in self.functions:
                self._damaged(f"{printable(caller.name, 60)} calls {printable(name, 60)}, which does not exist")
            self.read[name] = Function.of(self.functions[name], self.source.label)
        return self.read[name]

    def _split(self, reference: str) -> tuple[str, int]:
        """``name`` or ``name:k`` of the main graph."""
        name, colon, k = reference.partition(":")
        if colon and not (k.isascii() and k.isdigit() and len(k) < 6):
            self._damaged(f"tensor {printable(reference, 60)}")
        return name, int(k or 0)

    def _damaged(self, found: str) -> NoReturn:
        damaged(self.source.label, found)


_OUTPUTS = frozenset({"output", "y", "z", "value", "activations", "softmax", "result", "product", "sum"}) | {
    "resized_images"
}
"""Names that operations give to their first output."""
