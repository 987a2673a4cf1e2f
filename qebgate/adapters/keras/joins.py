"""Shapes of values that are put together."""

from __future__ import annotations

from collections.abc import Sequence


def joined(shapes: Sequence[tuple[int, ...]], axis: int) -> tuple[int, ...] | None:
    """The shape of values side by side along an axis; None where they do not fit."""
    first = shapes[0]
    if not 0 < axis < len(first) or any(len(s) != len(first) for s in shapes):
        return None
    if any(s[a] != n for s in shapes for a, n in enumerate(first) if a != axis):
        return None
    return (*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :])
