"""Segments: which code vectors a line becomes, against exact fractions."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from qebgate.errors import DataError, PolicyError
from qebgate.ir.tensor import DType
from qebgate.regions import Cell, InputCodec, Line, Preprocess, Region, expand
from qebgate.regions.line import TOGETHER

SHAPE = (1, 3)
SCALE = float(np.float32(0.0173))


def codec(mode: str | None = "nearest", *, in_model: bool = False, zero: int = -7, scale: float = SCALE) -> InputCodec:
    return InputCodec(scale, zero, DType.INT8, in_model, None if in_model else mode)  # type: ignore[arg-type]


def one(region: Region, c: InputCodec, row: np.ndarray, direction: np.ndarray | None = None) -> Cell:
    (instance,) = expand(region, c, SHAPE, row.reshape(1, *SHAPE), [0], directions=direction)
    return instance.cell


def segment(
    domain: str, span: tuple[float, float], unit: str = "lsb", clip: tuple[float, float] | None = None
) -> Region:
    codes = "codes" if domain == "grid" else "real"
    return Region("segment", 0.0, unit, domain, codes, clip, span=span)  # type: ignore[arg-type]


def vectors(line: Line) -> list[tuple[int, ...]]:
    return [tuple(v) for t in line.tracks for p in t.parts(3) for v in p.codes.tolist()]


def round_exact(y: Fraction, way: int) -> int:
    """To nearest; ties down (way -1) or up (+1)."""
    two = 2 * y
    if two.denominator == 1 and two.numerator % 2:
        return int((y - Fraction(1, 2)) if way < 0 else (y + Fraction(1, 2)))
    return int((y + Fraction(1, 2)).__floor__())


def truncate_exact(y: Fraction) -> int:
    return int(y.__floor__()) if y >= 0 else int(y.__ceil__())


def test_ones_are_the_integers_of_the_range() -> None:
    row = np.array([5, -100, 120], np.int32)
    cell = one(segment("grid", (-8.0, 8.0)), codec(), row)
    assert cell.line is not None
    assert cell.count == 17
    expected = [tuple(np.clip(row + k, -128, 127).tolist()) for k in range(-8, 9)]
    assert vectors(cell.line) == expected
    assert cell.codes is not None
    assert np.array_equal(cell.codes[0].ravel(), [-3, -108, 112])
    assert np.array_equal(cell.codes[1].ravel(), [13, -92, 127])
    assert (cell.lower == codec().grid(cell.codes[0])).all()
    assert np.array_equal(cell.centre.ravel(), codec().grid(row).astype(float))


@pytest.mark.parametrize("span", [(-0.5, 0.5), (0.5, 0.5), (-0.49, 0.49), (1.0, 2.6)])
def test_ends_between_two_codes_count_as_both(span: tuple[float, float]) -> None:
    row = np.zeros(3, np.int32)
    cell = one(segment("grid", span), codec(), row)
    reached = {round_exact(Fraction(t), w) for t in (*span, *np.linspace(*span, 9)) for w in (-1, 1)}
    expected = [(k, k, k) for k in sorted(reached)]
    if len(expected) == 1:
        assert cell.line is None and cell.is_point and cell.count == 1
    else:
        assert cell.line is not None and vectors(cell.line) == expected and cell.count == len(expected)


@pytest.mark.parametrize("seed", range(25))
def test_grid_lists_exactly_what_the_line_rounds_to(seed: int) -> None:
    rng = np.random.default_rng(seed)
    row = rng.integers(-128, 128, 3).astype(np.int32)
    d = rng.choice([-2.5, -1.0, -0.375, 0.0, 0.25, 0.75, 1.0, 3.0], 3)
    a = float(rng.uniform(-9, 3))
    b = a + float(rng.choice([0.0, 0.4, 3.0, 9.0]))
    cell = one(segment("grid", (a, b)), codec(), row, d)
    # exact: all switch times in the range, and the vectors at them (both ways) and between them
    times = {Fraction(a), Fraction(b)}
    for x, s in zip(row.tolist(), d.tolist(), strict=True):
        if s:
            ties = [(Fraction(2 * k + 1, 2) - x) / Fraction(s) for k in range(-128, 127)]
            times |= {t for t in ties if a <= t <= b}
    ordered = sorted(times)
    between = [(u + v) / 2 for u, v in itertools.pairwise(ordered)]
    expected = set()
    for t in [*ordered, *between]:
        y = [x + t * Fraction(s) for x, s in zip(row.tolist(), d.tolist(), strict=True)]
        for way in (-1, 1):  # a tie before and after it is passed
            v = [round_exact(yi, way if s >= 0 else -way) for yi, s in zip(y, d, strict=True)]
            expected.add(tuple(min(127, max(-128, k)) for k in v))
    found = [tuple(cell.codes[0].ravel().tolist())] if cell.line is None else vectors(cell.line)  # type: ignore[index]
    assert len(found) == len(set(found)) == cell.count
    assert set(found) == expected


@pytest.mark.parametrize("how", ["nearest", "truncate", "in_model"])
@pytest.mark.parametrize("seed", range(12))
def test_real_points_have_the_codes_of_exact_division(how: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    c = codec(how, in_model=how == "in_model")
    row = rng.uniform(-2.4, 2.4, 3).astype(np.float32)
    d = rng.choice([-2.5, -1.0, -0.01, 0.0, 0.3, 1.0], 3)
    span = (float(rng.uniform(-0.3, 0.0)), float(rng.uniform(0.0, 0.3)))
    clip = (-1.0, 1.5) if seed % 3 == 0 else None
    cell = one(segment("real", span, "real", clip), c, row, d)
    if cell.line is None:
        assert (d == 0).all() or clip is not None
        return
    assert cell.count is None and cell.codes is None
    parts = [p for t in cell.line.tracks for p in t.parts(5)]
    codes = np.concatenate([p.codes for p in parts])
    begin, end = np.concatenate([p.begin for p in parts]), np.concatenate([p.end for p in parts])
    assert begin[0] == span[0] and end[-1] == span[1]
    step = TOGETHER * cell.line.quantum(c.scale)
    seen = 0
    for t in [*rng.uniform(*span, 300), *span, *begin, *end]:
        exact = [Fraction(float(x)) + Fraction(float(t)) * Fraction(float(s)) for x, s in zip(row, d, strict=True)]
        if clip is not None:
            exact = [min(max(x, Fraction(clip[0])), Fraction(clip[1])) for x in exact]
        assert all(lo <= x <= hi for lo, x, hi in zip(cell.lower.ravel(), exact, cell.upper.ravel(), strict=True))
        y = [x / Fraction(c.scale) + c.zero_point for x in exact]
        vs = {
            tuple(min(127, max(-128, (truncate_exact(v) if how == "truncate" else round_exact(v, w)))) for v in y)
            for w in (-1, 1)
        }
        here = {tuple(v) for v in codes[(begin <= t) & (t <= end)].tolist()}
        close = np.abs(t - np.concatenate([begin[1:], end[:-1]])).min(initial=np.inf) <= step
        assert vs & here if close else vs <= here
        seen += not close
    assert seen > 200


def test_entries_that_stay_between_two_codes_may_be_either() -> None:
    c = codec(zero=0, scale=0.25)
    row = np.array([0.375, 0.125, 0.0], np.float32)  # the first two are ties
    cell = one(segment("real", (0.0, 0.6), "real"), c, row, np.array([0.0, 0.0, 1.0]))
    assert cell.line is not None
    assert set(vectors(cell.line)) == {(a, b, k) for a, b in ((1, 0), (2, 1)) for k in (0, 1, 2)}


def test_an_entry_that_a_clip_holds_between_two_codes_may_be_either() -> None:
    c = codec(zero=0, scale=0.25)
    cell = one(segment("real", (0.0, 0.6), "real", (-1.0, 0.375)), c, np.zeros(3, np.float32))
    assert cell.line is not None
    assert set(vectors(cell.line)) == {(k, k, k) for k in (0, 1, 2)}
    late = [p.codes[(p.begin <= 0.6) & (p.end >= 0.6)] for t in cell.line.tracks for p in t.parts(9)]
    assert {int(v) for part in late for v in part.ravel()} >= {1, 2}


def test_rows_between_two_codes_are_quantized_every_way() -> None:
    c = codec(zero=0, scale=0.25)
    region = Region("segment", 0.0, "lsb", "grid", "real", None, span=(0.0, 1.0))
    row = np.array([0.375, 0.125, -0.625], np.float32)
    cell = one(region, c, row)
    assert cell.line is not None
    starts = {(1, 0, -3), (2, 1, -2), (2, 0, -2), (2, 1, -3)}
    expected = {tuple(v + k for v in s) for s in starts for k in (0, 1)}
    found = vectors(cell.line)
    assert set(found) == expected and len(found) == len(expected) == cell.count


def test_clip_holds_codes_and_points() -> None:
    c = codec(zero=0, scale=0.25)
    grid = one(segment("grid", (-3.0, 3.0), clip=(0.0, 0.5)), c, np.array([0, 1, 2], np.int32))
    assert grid.line is not None
    assert vectors(grid.line) == [(0, 0, 0), (0, 0, 1), (0, 1, 2), (1, 2, 2), (2, 2, 2)]
    real = one(segment("real", (-1.0, 1.0), "real", (0.0, 0.5)), c, np.array([0.0, 0.2, 0.5], np.float32))
    assert real.line is not None
    assert (real.lower == 0).all() and (real.upper == 0.5).all()
    x = real.line.at(np.linspace(-1, 1, 9))
    assert (x >= 0).all() and (x <= 0.5).all()


def test_preprocessing_moves_start_and_direction() -> None:
    c = codec()
    pre = Preprocess(scale=(0.5,), mean=(1.0,), std=(1.0, 2.0, -4.0))
    region = segment("real", (0.0, 1.0), "real")
    row = np.array([[[2.0, 4.0, 6.0]]], np.float32)
    (instance,) = expand(region, c, SHAPE, row.reshape(1, *SHAPE), [0], pre)
    assert instance.cell.line is not None
    assert np.allclose(instance.cell.line.start.ravel(), [0.0, 0.5, -0.5])
    assert np.allclose(instance.cell.line.direction.ravel(), [0.5, 0.25, -0.125])


def test_no_direction_is_a_point() -> None:
    row = np.array([0.1, 0.2, 0.3], np.float32)
    cell = one(segment("real", (-1.0, 1.0), "real"), codec(), row, np.zeros(3))
    assert cell.line is None and cell.is_point
    assert np.array_equal(cell.lower.ravel(), row.astype(float))


def test_one_direction_for_each_row() -> None:
    rows = np.zeros((2, *SHAPE), np.int32)
    d = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    a, b = expand(segment("grid", (0.0, 2.0)), codec(), SHAPE, rows, [4, 9], directions=d)
    assert a.cell.line is not None and b.cell.line is not None
    assert vectors(a.cell.line) == [(k, 0, 0) for k in range(3)]
    assert vectors(b.cell.line) == [(0, 0, -k) for k in range(3)]
    assert (a.cell.index, b.cell.index) == (4, 9)


def test_wrong_segments() -> None:
    rows = np.zeros((2, *SHAPE), np.int32)
    with pytest.raises(PolicyError) as e:
        expand(segment("grid", (0.0, 1.0)), codec(), SHAPE, rows, [0, 1], directions=np.ones(4))
    assert e.value.code == "QEB250"
    with pytest.raises(DataError) as f:
        one(segment("real", (0.0, 1e30), "real"), codec(), np.ones(3, np.float32), np.full(3, 1e300))
    assert f.value.code == "QEB451"
    big = (1, 1 << 16)
    with pytest.raises(PolicyError) as g:
        expand(segment("grid", (-300.0, 300.0)), codec(), big, np.zeros((1, *big), np.int32), [0])
    assert g.value.code == "QEB251"


@pytest.mark.parametrize("domain", ["grid", "real"])
def test_samples_are_of_the_segment(domain: str) -> None:
    c, rng = codec(), np.random.default_rng(3)
    d = np.array([1.0, -0.5, 0.1])
    row = np.array([3, -20, 40], np.int32) if domain == "grid" else rng.uniform(-1, 1, 3).astype(np.float32)
    cell = one(segment(domain, (-9.0, 9.0)), c, row, d)
    assert cell.line is not None
    for most in (1, 7, 1000):
        x = cell.line.some(c, most)
        assert 0 < len(x) <= most + 3
        codes = x if domain == "grid" else c.encode(x)
        assert {tuple(v) for v in codes.tolist()} <= set(vectors(cell.line))
    assert len(cell.line.some(c, 10_000)) >= cell.line.count
