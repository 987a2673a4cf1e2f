"""Layers that put values together, and the shapes that come of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.adapters.keras.call import Build, Call
from qebgate.semantics.base import Activation
from qebgate.semantics.moves import ConcatenationAttrs


def joined(shapes: Sequence[tuple[int, ...]], axis: int) -> tuple[int, ...] | None:
    """The shape of values side by side along an axis; None where they do not fit."""
    first = shapes[0]
    if not 0 < axis < len(first) or any(len(s) != len(first) for s in shapes):
        return None
    if any(s[a] != n for s in shapes for a, n in enumerate(first) if a != axis):
        return None
    return (*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :])


def join(op: str, attrs: object, *, many: bool = True) -> Build:
    """Two inputs or more, in order."""

    def build(c: Call) -> int:
        if len(c.x) < 2 or (len(c.x) > 2 and not many):
            raise c.refuse(f"{len(c.x)} inputs")
        y = c.x[0]
        for x in c.x[1:]:
            shapes = c.shape(y), c.shape(x)
            if len(shapes[0]) != len(shapes[1]):
                raise c.refuse(f"inputs of shapes {shapes[0]} and {shapes[1]}")
            try:
                shape = np.broadcast_shapes(*shapes)
            except ValueError:
                raise c.refuse(f"inputs of shapes {shapes[0]} and {shapes[1]}") from None
            y = c.emit(op, (y, x), shape, attrs)
        return y

    return build


def concatenate(c: Call) -> int:
    """Inputs side by side."""
    axis = c.s.get("axis", -1)
    rank = len(c.shape(c.x[0])) if c.x else 0
    shape = joined([c.shape(x) for x in c.x], axis % rank) if type(axis) is int and -rank <= axis < rank else None
    if shape is None or len(c.x) < 2:
        raise c.refuse(f"inputs of shapes {[c.shape(x) for x in c.x][:5]} along axis {axis}")
    return c.emit("CONCATENATION", c.x, shape, ConcatenationAttrs(axis % rank, Activation.NONE))
