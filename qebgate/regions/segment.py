"""From a segment of the policy to cells: lines through the data rows.

Definitions: ``t`` counts units of ``direction``, which are raw values (``unit: real``) or quanta of the
quantized input (``lsb``).

- *real* domain: the real points ``clip(x0 + t * direction)``; x0 is the row as the model reads it, and
  the preprocessing's slope turns the direction into the model's units.
- *grid* domain: the row is quantized first, and the region is the list of distinct code vectors that
  ``x0 + t * direction`` rounds to; an entry between two codes counts as both.
- ``clip`` holds entries at its ends: a row that is brightened saturates.
"""

from __future__ import annotations

import numpy as np

from qebgate.errors import DataError, PolicyError
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64, U64, down, up
from qebgate.regions.cell import Cell, InputCodec
from qebgate.regions.float32 import MAX32, ceil32, floor32
from qebgate.regions.line import Codes, Line, grid_tracks, real_tracks


def fit_directions(directions: Array, shape: tuple[int, ...], rows: int) -> F64:
    """Directions ``[N, *shape]`` from an array that holds one for all rows, or one for each; raises PolicyError."""
    d = np.asarray(directions, np.float64)
    inner = shape[1:] if shape[:1] == (1,) else shape
    if d.shape in (shape, inner):
        return np.broadcast_to(d.reshape(shape), (rows, *shape))
    if d.shape in ((rows, *shape), (rows, *inner)):
        return d.reshape(rows, *shape)
    raise PolicyError(
        "QEB250",
        "`direction` does not fit the model's input",
        found=f"an array of shape {list(d.shape)} for an input of shape {list(shape)} and {rows} rows",
        fix="give one number per element of the input, or that for every row of the data",
    )


def real_segment(
    codec: InputCodec, start: F64, direction: F64, clip: tuple[F64, F64], span: tuple[float, float], index: int
) -> Cell:
    """The real points of a line; arrays ``[*shape]`` in the model's units (``clip``: anything that broadcasts)."""
    shape = start.shape
    low, high = (np.broadcast_to(c, shape).astype(np.float64) for c in clip)
    with np.errstate(over="ignore", invalid="ignore"):
        ends = np.stack([start + t * direction for t in span])
    if not (np.abs(ends) <= MAX32).all():
        raise DataError("QEB451", "a region has a bound that is not finite", where=f"row {index}")
    # every real point of the line, and its nearest float32 number
    slack = 4 * U64 * (np.abs(start) + max(abs(t) for t in span) * np.abs(direction))
    lower, upper = floor32(down(ends.min(axis=0) - slack)), ceil32(up(ends.max(axis=0) + slack))
    still = direction == 0
    lower, upper = (np.clip(np.where(still, start, e), low, high) for e in (lower, upper))
    middle = np.clip(start + float(np.clip(0.0, *span)) * direction, lower, upper).astype(np.float32)
    centre = middle.astype(np.float64).clip(lower, upper)
    if (lower == upper).all():
        return Cell(lower, lower, None, index, lower)
    flat = [a.ravel() for a in (start, direction, low, high)]
    tracks = real_tracks(flat[0], flat[1], flat[2], flat[3], span, codec)
    return Cell(lower, upper, None, index, centre, Line(start, direction, low, high, span, False, tracks))


def grid_segment(
    codec: InputCodec,
    starts: list[Codes],
    rate: F64,
    limits: tuple[Array, Array],
    span: tuple[float, float],
    index: int,
) -> Cell:
    """The code vectors that a line of codes rounds to; ``rate [*shape]`` in codes per unit of t, ``limits`` codes."""
    shape = rate.shape
    least, most = (np.broadcast_to(c, shape).astype(np.float64).ravel() for c in limits)
    flat = list({s.tobytes(): s.ravel() for s in starts}.values())
    slope = rate.ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        if not all(np.isfinite(t * slope).all() for t in span):
            raise DataError("QEB451", "a region has a bound that is not finite", where=f"row {index}")
    tracks = grid_tracks(flat, slope, least, most, span, codec)
    real = lambda c: codec.grid(c).astype(np.float64)  # noqa: E731
    low, high = (real(c.reshape(shape)) for c in (least, most))
    start = real(flat[0].reshape(shape))
    line = Line(start, rate * codec.scale, low, high, span, True, tracks)
    lo, hi = line.box
    centre = real(np.clip(np.rint(flat[0] + np.clip(0.0, *span) * slope), least, most).reshape(shape))
    cell = Cell(real(lo), real(hi), (lo, hi), index, centre, line)
    return cell if line.count > 1 else Cell(real(lo), real(hi), (lo, hi), index, real(lo))
