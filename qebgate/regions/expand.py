"""From a region of the policy to cells: one set of inputs per data row.

Definitions (all in exact arithmetic, no tolerance):

- data rows are rounded to float32 first.
- *real* domain: every float32 number of the region; corners are the outermost float32 numbers inside.
- *grid* domain: codes of the quantized input; the row is quantized first, then the radius counts codes.
  A row exactly between two codes may become either (applications break ties differently), so the
  region holds the balls around both.
- ``clip`` bounds raw values, its ends rounded to float32; ``preprocess`` maps raw values to the
  model's input, rounded outwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qebgate.errors import DataError, PolicyError
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64
from qebgate.regions.cell import Cell, InputCodec
from qebgate.regions.float32 import ball32, ceil32, floor32, split
from qebgate.regions.preprocess import IDENTITY, Preprocess
from qebgate.regions.segment import fit_directions, grid_segment, real_segment

Codes = NDArray[np.int32]
Kind = Literal["points", "ball", "box", "segment"]


@dataclass(frozen=True, slots=True)
class Region:
    """A region as the policy states it, without its data.

    ``radius`` in ``unit`` (0 for points); ``lower`` and ``upper`` of a box: one number, or one per
    element of the flattened input.  ``span`` of a segment: the range of t, whose direction counts in
    ``unit``.  ``values`` None means that the policy does not say.
    """

    kind: Kind
    radius: float = 0.0
    unit: Literal["real", "lsb"] = "real"
    domain: Literal["real", "grid"] = "real"
    values: Literal["real", "codes"] | None = None
    clip: tuple[float, float] | None = None
    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()
    span: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """A cell, and how far (model units) it reaches beyond what the quantized input can represent (0: it does not)."""

    cell: Cell
    excess: float


def expand(
    region: Region,
    codec: InputCodec,
    shape: tuple[int, ...],
    rows: Array | None = None,
    indices: Sequence[int] = (),
    preprocess: Preprocess = IDENTITY,
    directions: Array | None = None,
) -> list[Instance]:
    """Cells of a region, one per row of ``rows [N, *shape]`` (a box: one).

    ``indices`` number the rows in the data file; ``directions`` of a segment are one for all rows or one
    for each (None: all ones).
    Raises PolicyError for a region that does not fit the model and DataError for a row that is not
    finite, out of the codes' range, or whose region is empty.
    """
    preprocess.fit(shape)
    if not codec.has_grid:
        _check_floats(region)
    if region.kind == "box":
        return [_box(region, codec, shape, preprocess)]
    assert rows is not None
    codes = _check_values(region, rows, codec)
    if region.kind == "segment":
        along = fit_directions(np.ones(shape) if directions is None else directions, shape, len(rows))
        return [_segment(region, codec, preprocess, rows[k], along[k], codes, index) for k, index in enumerate(indices)]
    return [_row(region, codec, preprocess, rows[k], codes, index) for k, index in enumerate(indices)]


def _check_floats(region: Region) -> None:
    """PolicyError for what only an integer input has."""
    for wrong, found, fix in (
        (region.domain == "grid", "domain: grid", "use `domain: real`"),
        (region.unit == "lsb", "unit: lsb", "give the radius in real units"),
        (region.values == "codes", "values: codes", "give the inputs as real numbers"),
        (region.kind == "segment", "kind: segment", "use a ball, a box or points"),
    ):
        if wrong:
            raise PolicyError(
                "QEB252", "the quantized model computes on its float input: there are no codes", found=found, fix=fix
            )


def _check_values(region: Region, rows: Array, codec: InputCodec) -> bool:
    """Whether rows are codes; refuses integer arrays that do not say what they hold."""
    integers = bool(np.issubdtype(rows.dtype, np.integer))
    if region.values is None and integers:
        raise PolicyError(
            "QEB241",
            "the data holds integers and the region does not say what they are",
            found=f"dtype {rows.dtype}",
            fix="add `values: codes` (integers of the quantized input) or `values: real` to the region",
        )
    if region.values != "codes":
        return False
    if not integers:
        raise DataError("QEB457", "`values: codes` needs an integer array", found=f"dtype {rows.dtype}")
    lo, hi = codec.dtype.code_range
    if rows.size and (int(rows.min()) < lo or int(rows.max()) > hi):
        raise DataError(
            "QEB455",
            "the data has codes that the quantized input does not have",
            found=f"values from {int(rows.min())} to {int(rows.max())}; {codec.dtype.value} holds {lo} to {hi}",
        )
    return True


def _read(codec: InputCodec, pre: Preprocess, row: Array, is_codes: bool, index: int) -> tuple[Array | None, Array]:
    """A row's raw values (None where it holds codes), and the model's input, both in float32."""
    if is_codes:
        raw = None
        centre = codec.grid(row)
    else:
        with np.errstate(over="ignore"):
            raw = row.astype(np.float32)
        centre = pre.apply(raw)
    if not np.isfinite(centre).all():
        raise DataError("QEB456", "a data row is not finite as float32", where=f"row {index}")
    return raw, centre


def _segment(
    region: Region, codec: InputCodec, pre: Preprocess, row: Array, direction: F64, is_codes: bool, index: int
) -> Instance:
    _, centre = _read(codec, pre, row, is_codes, index)
    start = centre.astype(np.float64)
    slope = direction * codec.scale if region.unit == "lsb" else direction * pre.slope
    if region.domain == "grid":
        least, most = (np.asarray(v, np.int64) for v in codec.dtype.code_range)
        if region.clip is not None:
            least, most = _clip_codes(region, codec, pre)
        starts = [row.astype(np.int32)]
        if not is_codes:  # a row between two codes: all down, all up, to even, away from zero
            first, last = _quantize(codec, centre)
            starts = [first, last, codec.encode(centre), np.where(centre >= 0, last, first)]
        rate = direction if region.unit == "lsb" else slope / codec.scale
        return Instance(
            grid_segment(codec, starts, rate, (least, most), region.span, index), _excess(start, start, codec)
        )
    clip = (np.full(1, -np.inf), np.full(1, np.inf)) if region.clip is None else _clip(region, pre)
    cell = real_segment(codec, start, slope, clip, region.span, index)
    return Instance(cell, _excess(cell.lower, cell.upper, codec))


def _row(region: Region, codec: InputCodec, pre: Preprocess, row: Array, is_codes: bool, index: int) -> Instance:
    raw, centre = _read(codec, pre, row, is_codes, index)
    if region.domain == "grid":
        return _row_on_grid(region, codec, pre, row.astype(np.int32) if is_codes else None, centre, index)
    if region.unit == "real" and raw is not None:
        lower, upper = ball32(raw.astype(np.float64), region.radius)
        if region.clip is not None:
            lower, upper = np.maximum(lower, _f32(region.clip[0])), np.minimum(upper, _f32(region.clip[1]))
        _check_not_empty(lower, upper, index)
        lower, upper = pre.image(lower, upper)
    else:
        hi, lo = _model_radius(region, codec, pre)
        lower, upper = ball32(centre.astype(np.float64), hi, lo)
        if region.clip is not None:
            a, b = _clip(region, pre)
            lower, upper = np.maximum(lower, a), np.minimum(upper, b)
    _check_not_empty(lower, upper, index)
    if (lower == upper).all():  # one array for all three: data sets of points are large
        return Instance(Cell(lower, lower, None, index, lower), _excess(lower, lower, codec))
    middle = centre.astype(np.float64).clip(lower, upper)
    return Instance(Cell(lower, upper, None, index, middle), _excess(lower, upper, codec))


def _row_on_grid(
    region: Region, codec: InputCodec, pre: Preprocess, given: Codes | None, centre: Array, index: int
) -> Instance:
    first, last = (given, given) if given is not None else _quantize(codec, centre)
    table = _table(codec)
    base = codec.dtype.code_range[0]
    least, most = (np.asarray(v, np.int64) for v in codec.dtype.code_range)
    if region.clip is not None:
        a, b = _clip(region, pre)
        least, most = _clip_codes(region, codec, pre)
        # a row inside the clip whose nearest code lies just beyond it stays inside
        inside = (centre >= a) & (centre <= b)
        first = np.where(inside, first.clip(least, most), first).astype(np.int32)
        last = np.where(inside, last.clip(least, most), last).astype(np.int32)
    if region.unit == "lsb":
        n = min(math.floor(region.radius), 1 << 20)
        lo, hi = first.astype(np.int64) - n, last.astype(np.int64) + n
    else:
        r, rl = pre.radius(region.radius)
        lower, _ = ball32(codec.grid(first).astype(np.float64), r, rl)
        _, upper = ball32(codec.grid(last).astype(np.float64), r, rl)
        lo, hi = _codes_between(table, base, lower, upper)
    lo, hi = np.maximum(lo, least).astype(np.int32), np.minimum(hi, most).astype(np.int32)
    _check_not_empty(lo, hi, index)
    # quantizing saturates: say so where the row itself was beyond the grid
    excess = _excess(centre.astype(np.float64), centre.astype(np.float64), codec)
    return Instance(_grid_cell(codec, lo, hi, index, codec.grid(first.clip(lo, hi))), excess)


def _box(region: Region, codec: InputCodec, shape: tuple[int, ...], pre: Preprocess) -> Instance:
    size = math.prod(shape)
    sides: list[F64] = []
    for name, v in (("lower", region.lower), ("upper", region.upper)):
        if len(v) not in (1, size):
            raise PolicyError(
                "QEB243",
                f"`{name}` of a box does not fit the model's input",
                found=f"{len(v)} numbers for an input of shape {list(shape)} ({size} elements)",
                fix=f"give one number, or {size}",
            )
        side: F64 = np.full(size, v, np.float64)
        sides.append(side.reshape(shape))
    lower, upper = ceil32(sides[0]), floor32(sides[1])
    if region.clip is not None:
        lower, upper = np.maximum(lower, _f32(region.clip[0])), np.minimum(upper, _f32(region.clip[1]))
    _check_not_empty(lower, upper, 0)
    lower, upper = pre.image(lower, upper)
    if region.domain == "real":
        middle = floor32((lower + upper) / 2).clip(lower, upper)
        return Instance(Cell(lower, upper, None, 0, middle), _excess(lower, upper, codec))
    lo, hi = _codes_between(_table(codec), codec.dtype.code_range[0], lower, upper)
    _check_not_empty(lo, hi, 0)
    lo, hi = lo.astype(np.int32), hi.astype(np.int32)
    return Instance(_grid_cell(codec, lo, hi, 0, codec.grid((lo.astype(np.int64) + hi) // 2)), 0.0)


def _grid_cell(codec: InputCodec, lo: Codes, hi: Codes, index: int, centre: Array) -> Cell:
    with np.errstate(over="ignore"):
        lower, upper = codec.grid(lo).astype(np.float64), codec.grid(hi).astype(np.float64)
    return Cell(lower, upper, (lo, hi), index, centre.astype(np.float64))


def _check_not_empty(lower: Array, upper: Array, index: int) -> None:
    if not (lower <= upper).all():
        raise DataError(
            "QEB452",
            "a region is empty",
            where=f"row {index}",
            found=f"{int((lower > upper).sum())} of {lower.size} elements have no value",
            fix="check the row against `clip` and the box's bounds",
        )


def _quantize(codec: InputCodec, x: Array) -> tuple[Codes, Codes]:
    """Codes of real inputs, smallest and largest where the application's rounding of ties is not known."""
    q = codec.encode(x)
    if codec.mode == "truncate":
        return q, q
    with np.errstate(over="ignore"):
        y = x.astype(np.float32) / np.float32(codec.scale) + np.float32(codec.zero_point)
    tie = np.abs(y - np.trunc(y)) == 0.5
    lo, hi = codec.dtype.code_range
    return (
        np.where(tie, np.floor(y).clip(lo, hi), q).astype(np.int32),
        np.where(tie, np.ceil(y).clip(lo, hi), q).astype(np.int32),
    )


def _model_radius(region: Region, codec: InputCodec, pre: Preprocess) -> tuple[F64, F64]:
    if region.unit == "real":
        return pre.radius(region.radius)
    hi, lo = split(Fraction(region.radius) * Fraction(codec.scale))
    return np.array([hi]), np.array([lo])


def _clip(region: Region, pre: Preprocess) -> tuple[F64, F64]:
    """``clip`` in model units: scalars, or one per channel."""
    assert region.clip is not None
    return pre.image(np.atleast_1d(_f32(region.clip[0])), np.atleast_1d(_f32(region.clip[1])))


def _clip_codes(region: Region, codec: InputCodec, pre: Preprocess) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The codes inside ``clip``: scalars, or one per channel."""
    assert region.clip is not None
    least, most = _codes_between(_table(codec), codec.dtype.code_range[0], *_clip(region, pre))
    if (least > most).any():
        raise PolicyError(
            "QEB242", "`clip` holds no value of the quantized input's grid", found=f"clip {list(region.clip)}"
        )
    return least, most


def _f32(x: float) -> F64:
    """The float32 nearest to a number: what an application that clips to it holds.

    So a row of 0.1 is inside a clip at 0.1.
    """
    with np.errstate(over="ignore"):
        return np.asarray(np.float32(x), np.float64)


def _table(codec: InputCodec) -> F64:
    lo, hi = codec.dtype.code_range
    with np.errstate(over="ignore"):
        return codec.grid(np.arange(lo, hi + 1)).astype(np.float64)


def _codes_between(table: F64, base: int, lower: F64, upper: F64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last code whose grid value is in ``[lower, upper]``."""
    return (
        np.searchsorted(table, lower, side="left").astype(np.int64) + base,
        np.searchsorted(table, upper, side="right").astype(np.int64) - 1 + base,
    )


def _excess(lower: F64, upper: F64, codec: InputCodec) -> float:
    """How far a box reaches beyond the grid.

    0 within the half quantum (truncation: the quantum) by which rounding moves inputs anyway.
    The thousandth forgives the rounding of the scale itself to float32.
    """
    if not codec.has_grid:
        return 0.0
    slack = (1.0 if codec.mode == "truncate" else 0.501) * codec.scale
    table = _table(codec)
    beyond = max(float((table[0] - lower).max()), float((upper - table[-1]).max()))
    return beyond if beyond > slack else 0.0
