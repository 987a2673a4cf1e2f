"""Models of several inputs: all of them as one flat input, which is taken apart again by the first nodes.

So regions, engines and bounds know one input only.  The joined input ``[1, n]`` holds the quantized model's inputs
in its file's order, and the corresponding inputs of the float model in the same places.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qebgate.errors import AlignmentError, UnsupportedError
from qebgate.ir.graph import INPUT_PART, Graph, InputPart, Node
from qebgate.ir.tensor import DType, Tensor

MOST_INPUTS = 64
MOST_ORDERS = 24
"""Ways to match inputs that have no names in common, tried one by one."""


@dataclass(frozen=True, slots=True)
class PartAttrs:
    """Entries ``[start, start + size)`` of the joined input; ``position`` of the input in the file."""

    start: int
    size: int
    position: int


def join(graph: Graph, order: Sequence[int]) -> Graph:
    """The same network with one input: its inputs in this order (positions in the file), flattened one after another.

    Raises UnsupportedError where they are not all float32, or all codes.
    """
    given = [graph.tensors[i] for i in graph.inputs]
    kinds = {t.dtype for t in given}
    if len(given) > MOST_INPUTS:
        raise UnsupportedError("QEB413", f"the model has {len(given)} inputs", where=graph.source.label)
    if kinds != {DType.FLOAT32} and not all(k.is_code for k in kinds):
        raise UnsupportedError(
            "QEB427",
            "the inputs of a model of several must all be float32, or all be codes",
            where=graph.source.label,
            found=", ".join(f"{t.label}: {t.dtype.value}" for t in given[:5]),
            fix="convert the model with one type for all inputs",
        )
    starts = dict(zip(order, itertools.accumulate((given[k].size for k in order), initial=0), strict=False))
    total = sum(t.size for t in given)
    dtype = given[0].dtype if len(kinds) == 1 else DType.INT16
    names = graph.input_names
    at = len(graph.tensors)
    parts = tuple(InputPart(names[k], given[k].shape, starts[k], k, graph.inputs[k]) for k in order)
    nodes = tuple(
        Node(INPUT_PART, (at,), (i,), PartAttrs(starts[k], given[k].size, k), k) for k, i in enumerate(graph.inputs)
    )
    whole = Tensor("inputs", (1, total), dtype)
    return replace(graph, tensors=(*graph.tensors, whole), nodes=(*nodes, *graph.nodes), inputs=(at,), parts=parts)


def orders(f: Graph, q: Graph) -> list[tuple[int, ...]]:
    """Which float input each of the quantized model's inputs may be: positions, in the quantized file's order.

    One where signatures (or Keras layers) name them; else every order in which the shapes fit, that of equal tensor
    names first.  Raises AlignmentError.
    """
    shapes = [[g.tensors[i].shape for i in g.inputs] for g in (f, q)]
    if Counter(shapes[0]) != Counter(shapes[1]):
        raise _error(f, q, "QEB463", "the two models have other inputs", f"{_inputs(f)} and {_inputs(q)}")
    names = f.input_names, q.input_names
    named = tuple(names[0].index(n) for n in names[1]) if set(names[0]) == set(names[1]) else None
    fits = named is not None and all(shapes[0][a] == s for a, s in zip(named, shapes[1], strict=True))
    if named is not None and _named(f) and _named(q):
        if fits:
            return [named]
        found = f"{_inputs(f)} and {_inputs(q)}"
        raise _error(f, q, "QEB463", "inputs of the same name have different shapes", found)
    possible: list[tuple[int, ...]] = []
    left: list[tuple[int, ...]] = [()]
    while left and len(possible) <= MOST_ORDERS:
        some = left.pop()
        if len(some) == len(shapes[1]):
            possible.append(some)
            continue
        wanted = shapes[1][len(some)]
        left += [(*some, k) for k, s in enumerate(shapes[0]) if s == wanted and k not in some]
    if len(possible) > MOST_ORDERS:
        raise ambiguous(f, q)
    return sorted(possible, key=lambda order: order != named)


def same_names(f: Graph, q: Graph, order: Sequence[int]) -> bool:
    """Whether an order maps inputs to those of the same names."""
    return tuple(f.input_names[k] for k in order) == q.input_names


def _named(graph: Graph) -> bool:
    """Whether the inputs' names are meant for users, and not only a converter's names of tensors."""
    return graph.source.format != "tflite" or {i for _, i in graph.input_signature} == set(graph.inputs)


def ambiguous(f: Graph, q: Graph) -> AlignmentError:
    """That several orders of the inputs make the two models the same network."""
    return AlignmentError(
        "QEB428",
        "which input of the float model is which of the quantized one cannot be told",
        where=f"{f.source.label} and {q.source.label}",
        found=f"{_inputs(f)} and {_inputs(q)}",
        fix="give the inputs the same names in both (keras.Input(..., name=...)) and convert again",
    )


def _inputs(graph: Graph) -> str:
    named = zip((graph.tensors[i] for i in graph.inputs), graph.input_names, strict=True)
    return ", ".join(f"{replace(t, name=n, const=None).label} {t.shape}" for t, n in itertools.islice(named, 5))


def _error(f: Graph, q: Graph, code: str, message: str, found: str) -> AlignmentError:
    return AlignmentError(
        code,
        f"not the same network: {message}",
        where=f"{f.source.label} and {q.source.label}",
        found=found,
        fix="compare a quantized model with the float model that it was converted from",
    )
