"""Nodes and functions of a SavedModel's graph."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from qebgate.adapters.saved_model.checkpoint import DTYPES, shape_of
from qebgate.adapters.saved_model.wire import Message, damaged
from qebgate.errors import ModelError, UnsupportedError, printable
from qebgate.ir.tensor import Array

MAX_NODES = 50_000
MAX_CONSTANT = 1 << 26


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One node; ``inputs`` are references to tensors, without control inputs."""

    name: str
    op: str
    inputs: tuple[str, ...]
    control: tuple[str, ...]
    attrs: dict[str, Message]
    where: str

    @classmethod
    def of(cls, m: Message, where: str) -> Node:
        inputs = m.texts(3)
        return cls(
            m.text(1),
            m.text(2),
            tuple(i for i in inputs if not i.startswith("^")),
            tuple(i[1:] for i in inputs if i.startswith("^")),
            m.mapping(5),
            where,
        )

    @property
    def label(self) -> str:
        return f"{self.where}: node {printable(self.name, 80)} ({printable(self.op, 40)})"

    def text(self, key: str, default: str = "") -> str:
        return self.attrs[key].text(2) if key in self.attrs else default

    def integer(self, key: str, default: int = 0) -> int:
        return self.attrs[key].integer(3, 0) if key in self.attrs else default

    def flag(self, key: str, default: bool = False) -> bool:
        return bool(self.attrs[key].integer(5, 0)) if key in self.attrs else default

    def real(self, key: str) -> float:
        found = self.attrs[key].floats(4) if key in self.attrs else []
        return found[0] if found else 0.0

    def integers(self, key: str) -> list[int]:
        return self.attrs[key].message(1).integers(3) if key in self.attrs else []

    def kind(self, key: str) -> int:
        return self.attrs[key].integer(6, 0) if key in self.attrs else 0

    def function(self) -> str:
        return self.attrs["f"].message(10).text(1) if "f" in self.attrs else ""

    def tensor(self) -> Array | None:
        """A constant's value; None for texts."""
        return constant(self.attrs["value"].message(8), self.label) if "value" in self.attrs else None

    def texts(self) -> list[str]:
        """A constant's texts; none for anything else."""
        return self.attrs["value"].message(8).texts(8) if self.op == "Const" and "value" in self.attrs else []

    def refuse(self, found: str) -> NoReturn:
        raise UnsupportedError(
            "QEB495", "an operation of the SavedModel is used in a way that is not supported", where=self.label,
            found=found, fix="convert the model to .tflite",
        )  # fmt: skip

    def only(self, key: str, *allowed: str) -> str:
        """A text attribute that must have one of a few values, or be left out (the first)."""
        found = self.text(key, allowed[0])
        if found not in allowed:
            self.refuse(f"{key} {printable(found, 40)}")
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """``arguments`` in order; ``results`` are references to tensors inside, in order."""

    name: str
    arguments: tuple[str, ...]
    results: tuple[str, ...]
    nodes: dict[str, Node] = field(repr=False)

    @classmethod
    def of(cls, m: Message, where: str) -> Function:
        signature = m.message(1)
        name = signature.text(1)
        ret = {e.text(1): e.text(2) for e in m.messages(4)}
        wanted = [a.text(1) for a in signature.messages(3)]
        if any(w not in ret for w in wanted):
            damaged(where, f"function {printable(name, 60)} does not return what it says")
        nodes = [Node.of(n, where) for n in m.messages(3)]
        arguments = tuple(a.text(1) for a in signature.messages(2))
        return cls(name, arguments, tuple(ret[w] for w in wanted), index(nodes, where))


def index(nodes: list[Node], where: str) -> dict[str, Node]:
    """Nodes by name, all different."""
    if len(nodes) > MAX_NODES:
        raise ModelError("QEB406", "the model has too many nodes", where=where, found=f"{len(nodes)}")
    out = {n.name: n for n in nodes}
    if len(out) < len(nodes):
        damaged(where, "two nodes have the same name")
    return out


def constant(m: Message, where: str) -> Array | None:
    """A TensorProto's array; None for texts and other types that no shape or weight has."""
    kind = m.integer(1)
    dtype = DTYPES.get(kind)
    if dtype is None:
        return None
    shape = shape_of(m.message(2), where)
    size = math.prod(shape)
    if size > MAX_CONSTANT:
        damaged(where, f"a constant of shape {shape}")
    content = m.blob(4)
    if content:
        if len(content) != size * dtype.itemsize:
            damaged(where, f"a constant of shape {shape} has {len(content)} bytes")
        return np.frombuffer(content, dtype).reshape(shape)
    values: list[float] | list[int] = {1: m.floats(5)}.get(kind, m.integers({3: 7, 9: 10, 10: 11}.get(kind, 99)))
    if len(values) > size or (size and not values and kind not in (1, 3, 9, 10)):
        damaged(where, f"a constant of shape {shape} has {len(values)} values")
    # the last value stands for all that are left out, zero where there is none
    out = np.zeros(size, dtype)
    out[: len(values)] = values
    if values:
        out[len(values) :] = values[-1]
    return out.reshape(shape)
