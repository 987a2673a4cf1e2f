"""Regions of models with several inputs: expanded input by input, then joined."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.errors import DataError, PolicyError
from qebgate.ir.graph import InputPart
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64
from qebgate.regions.cell import Cell, InputCodec, JoinedCodec
from qebgate.regions.expand import Instance, Region, expand


def expand_several(
    regions: Sequence[Region], codec: JoinedCodec, rows: Sequence[Array | None], indices: Sequence[int] = ()
) -> list[Instance]:
    """Cells of a region over the joined input: every combination of what each input's own region holds.

    ``regions`` and ``rows [N, *shape]`` (None for boxes) are one for each of ``codec.parts``.  Errors as for
    :func:`expand`, naming the input.
    """
    found = [_own(*one, indices) for one in zip(codec.parts, codec.each, regions, rows, strict=True)]
    return [_joined(each) for each in zip(*found, strict=True)]


def _own(
    part: InputPart, codec: InputCodec, region: Region, rows: Array | None, indices: Sequence[int]
) -> list[Instance]:
    try:
        return expand(region, codec, part.shape, rows, indices)
    except (DataError, PolicyError) as e:
        e.where = f"input {part.label}" + (f": {e.where}" if e.where else "")
        raise


def _joined(each: Sequence[Instance]) -> Instance:
    cells = [i.cell for i in each]
    flat = lambda arrays: np.concatenate([a.ravel() for a in arrays])[None]  # noqa: E731
    lower: F64 = flat([c.lower for c in cells])
    upper: F64 = flat([c.upper for c in cells])
    centre: F64 = flat([c.centre for c in cells])
    boxes = [c.codes for c in cells if c.codes is not None]
    codes = None
    if len(boxes) == len(cells):
        codes = flat([lo for lo, _ in boxes]), flat([hi for _, hi in boxes])
    return Instance(Cell(lower, upper, codes, cells[0].index, centre), max(i.excess for i in each))
