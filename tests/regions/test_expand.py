"""Regions are exactly what the contract defines: float32 corners and codes without tolerance."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qebgate.errors import DataError, PolicyError
from qebgate.ir.tensor import DType
from qebgate.regions import InputCodec, Preprocess, Region, expand
from qebgate.regions.float32 import ball32, ceil32, floor32

f32 = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)
radii = st.one_of(st.floats(0, 2.0**60), st.floats(0, 1), st.sampled_from([0.0, 0.02, 0.1, 1e-45, 1e-300, 2.0**-24]))
SCALE = float(np.float32(1 / 255))


def codec(
    scale: float = SCALE, zero: int = -128, dtype: DType = DType.INT8, mode: str | None = "nearest"
) -> InputCodec:
    return InputCodec(scale, zero, dtype, in_model=mode is None, mode=mode)  # type: ignore[arg-type]


def above(x: float) -> float:
    return float(np.nextafter(np.float32(x), np.float32(np.inf)))


def one(region: Region, row: object, c: InputCodec | None = None, pre: Preprocess | None = None):
    rows = np.asarray(row)[None]
    return expand(region, c or codec(), rows.shape[1:], rows, [0], pre or Preprocess())[0]


@given(st.floats(-(2.0**120), 2.0**120), st.floats(-(2.0**60), 2.0**60))
def test_floor_and_ceil_are_the_outermost_float32(hi: float, lo: float) -> None:
    exact = Fraction(hi) + Fraction(lo)
    f, c = float(floor32(hi, lo)), float(ceil32(hi, lo))
    assert float(np.float32(f)) == f and float(np.float32(c)) == c
    assert Fraction(f) <= exact < Fraction(above(f))
    assert Fraction(c) >= exact > -Fraction(above(-c))


@given(f32, radii)
def test_real_ball_is_exact(centre: float, radius: float) -> None:
    lo, hi = (float(v) for v in ball32(np.array(centre), radius))
    for edge, sign in ((lo, -1), (hi, 1)):
        assert sign * (Fraction(edge) - Fraction(centre)) <= Fraction(radius)
        outside = sign * above(sign * edge)
        assert sign * (Fraction(outside) - Fraction(centre)) > Fraction(radius)


@given(f32, st.integers(0, 64), st.floats(2.0**-20, 16.0, width=32))
def test_real_ball_in_quanta_is_exact(centre: float, quanta: int, scale: float) -> None:
    cell = one(Region("ball", radius=quanta, unit="lsb"), np.array([centre], np.float32), codec(scale)).cell
    assert (
        Fraction(cell.upper[0]) - Fraction(centre)
        <= quanta * Fraction(scale)
        < Fraction(above(cell.upper[0])) - Fraction(centre)
    )


@given(f32, st.floats(0, 4.0), st.floats(-2, 2), st.floats(0, 2))
def test_clip_is_exact(centre: float, radius: float, low: float, width: float) -> None:
    a, b = float(np.float32(low)), float(np.float32(low + width))
    region = Region("ball", radius=radius, clip=(low, low + width))
    try:
        cell = one(region, np.array([centre], np.float32)).cell
    except DataError:
        lo, hi = (float(v) for v in ball32(np.array(centre), radius))
        assert max(lo, a) > min(hi, b)
        return
    assert a <= cell.lower[0] <= cell.upper[0] <= b
    assert cell.upper[0] == b or Fraction(above(cell.upper[0])) - Fraction(centre) > Fraction(radius)
    assert (cell.lower <= cell.centre).all() and (cell.centre <= cell.upper).all()


@given(
    st.floats(-4, 4, width=32),
    st.floats(0, 0.5),
    st.floats(-2, 2).filter(lambda v: abs(v) > 1e-3),
    st.floats(-2, 2),
    st.floats(0.01, 4),
    st.floats(0, 1),
)
def test_preprocessed_inputs_lie_in_the_cell(
    x: float, r: float, scale: float, mean: float, std: float, t: float
) -> None:
    pre = Preprocess((scale,), (mean,), (std,))
    cell = one(Region("ball", radius=r), np.array([x], np.float32), pre=pre).cell
    lo, hi = (float(v) for v in ball32(np.array(x), r))
    raw = np.float32(np.clip(np.float32(lo + t * (hi - lo)), lo, hi))
    for value in (raw, np.float32(lo), np.float32(hi), np.float32(x)):
        single = (value * np.float32(scale) - np.float32(mean)) / np.float32(std)
        double = np.float32((float(value) * scale - mean) / std)
        assert cell.lower[0] <= min(single, double) and max(single, double) <= cell.upper[0]
    assert cell.centre[0] == float(pre.apply(np.array([x]))[0])


def brute_codes(c: InputCodec, keep) -> tuple[int, int]:
    lo, hi = c.dtype.code_range
    ok = [q for q in range(lo, hi + 1) if keep(q, Fraction(float(c.grid(np.array([q]))[0])))]
    return min(ok), max(ok)


@given(
    st.floats(-1, 2, width=32),
    st.one_of(st.floats(0, 0.3), st.integers(0, 9).map(lambda n: n * SCALE)),
    st.sampled_from([DType.INT8, DType.UINT8]),
    st.sampled_from(["nearest", "truncate", None]),
)
def test_real_radius_on_the_grid_is_brute_force(x: float, r: float, dtype: DType, mode: str | None) -> None:
    c = codec(zero=dtype.code_range[0] + 20, dtype=dtype, mode=mode)
    y = np.float32(x) / np.float32(c.scale) + np.float32(c.zero_point)
    assume(abs(y - np.trunc(y)) != 0.5)
    cell = one(Region("ball", radius=r, domain="grid"), np.array([x], np.float32), c).cell
    centre = Fraction(float(c.grid(c.encode(np.array([x])))[0]))
    want = brute_codes(c, lambda q, v: abs(v - centre) <= Fraction(r))
    assert cell.codes is not None
    assert (int(cell.codes[0][0]), int(cell.codes[1][0])) == want
    assert cell.lower[0] == float(c.grid(cell.codes[0])[0]) and cell.upper[0] == float(c.grid(cell.codes[1])[0])


@given(st.integers(-128, 127), st.floats(0, 300), st.floats(-0.1, 1.1), st.floats(0, 1))
def test_codes_radius_and_clip_on_the_grid(q: int, radius: float, a: float, width: float) -> None:
    c = codec()
    region = Region("ball", radius=radius, unit="lsb", domain="grid", values="codes", clip=(a, a + width))
    low, high = Fraction(float(np.float32(a))), Fraction(float(np.float32(a + width)))

    def keep(k: int, v: Fraction) -> bool:
        return abs(k - q) <= radius and low <= v <= high

    try:
        want = brute_codes(c, keep)
    except ValueError:
        assert not low <= Fraction(float(c.grid(np.array([q]))[0])) <= high
        with pytest.raises((DataError, PolicyError)):
            one(region, np.array([q], np.int8), c)
        return
    cell = one(region, np.array([q], np.int8), c).cell
    assert cell.codes is not None and (int(cell.codes[0][0]), int(cell.codes[1][0])) == want


def test_grid_ball_is_cut_at_the_representable_range() -> None:
    cell = one(
        Region("ball", radius=3, unit="lsb", domain="grid", values="codes"), np.array([-128, 0, 127], np.int8)
    ).cell
    assert cell.codes is not None
    assert cell.codes[0].tolist() == [-128, -3, 124] and cell.codes[1].tolist() == [-125, 3, 127]
    assert cell.count == 4 * 7 * 4


def test_a_tie_holds_both_roundings() -> None:
    """2.5 quanta: numpy rounds to 2, C's round() to 3; the region holds the balls around both."""
    c = codec(scale=0.5, zero=0)
    cell = one(Region("ball", radius=1, unit="lsb", domain="grid"), np.array([1.25, -1.25], np.float32), c).cell
    assert cell.codes is not None
    assert cell.codes[0].tolist() == [1, -4] and cell.codes[1].tolist() == [4, -1]
    point = one(Region("points", domain="grid"), np.array([1.25, 1.0], np.float32), c).cell
    assert point.codes is not None and (point.codes[0].tolist(), point.codes[1].tolist()) == ([2, 2], [3, 2])
    trunc = one(
        Region("points", domain="grid"), np.array([1.25, -1.25], np.float32), codec(0.5, 0, mode="truncate")
    ).cell
    assert trunc.codes is not None and trunc.codes[0].tolist() == trunc.codes[1].tolist() == [2, -2]


def test_a_row_in_the_clip_is_never_lost_to_rounding() -> None:
    """1.0 in [0, 1] is nearest to a code whose value is above 1: the region keeps the last code inside."""
    c = codec(scale=0.3, zero=0)
    cell = one(Region("points", domain="grid", clip=(0.0, 1.1)), np.array([1.1], np.float32), c).cell
    assert cell.codes is not None and int(cell.codes[0][0]) == int(cell.codes[1][0]) == 3


def test_points_are_points() -> None:
    x = np.array([[0.1, 0.25]], np.float64)
    cell = one(Region("points"), x).cell
    assert cell.is_point and cell.count == 1
    assert cell.lower.tolist() == x.astype(np.float32).astype(np.float64).tolist()
    codes = one(Region("points", domain="grid", values="codes"), np.array([3, 4], np.int32)).cell
    assert codes.count == 1 and codes.lower.tolist() == codec().grid(np.array([3, 4])).astype(np.float64).tolist()
    real = one(Region("points", values="codes"), np.array([3, 4], np.int32)).cell
    assert real.codes is None and real.lower.tolist() == codes.lower.tolist()


def test_box() -> None:
    (inst,) = expand(Region("box", lower=(-0.1,), upper=(0.1, 0.2)), codec(0.01, 0), (1, 2))
    assert inst.cell.lower.tolist() == [[float(ceil32(-0.1))] * 2]
    assert inst.cell.upper.tolist() == [[float(floor32(0.1)), float(floor32(0.2))]]
    (grid,) = expand(Region("box", lower=(-0.1,), upper=(0.1, 0.2), domain="grid"), codec(0.0625, 0), (1, 2))
    assert grid.cell.codes is not None
    assert grid.cell.codes[0].tolist() == [[-1, -1]] and grid.cell.codes[1].tolist() == [[1, 3]]
    assert grid.cell.count == 3 * 5


def test_box_preprocess_flips_with_a_negative_scale() -> None:
    (inst,) = expand(
        Region("box", lower=(0.0,), upper=(1.0,)), codec(1.0, 0), (2,), preprocess=Preprocess((-2.0,), (1.0,), (0.5,))
    )
    assert inst.cell.lower.tolist() == [-6.0, -6.0] and inst.cell.upper.tolist() == [-2.0, -2.0]


def test_out_of_range() -> None:
    region = Region("ball", radius=0.25)
    assert one(region, np.array([0.5], np.float32)).excess == 0.0
    assert one(region, np.array([0.9], np.float32)).excess == pytest.approx(0.15)
    assert one(region, np.array([0.1], np.float32)).excess == pytest.approx(0.15)
    # half a quantum is what rounding moves anyway
    assert one(Region("points"), np.array([1.0 + 0.4 * SCALE], np.float32)).excess == 0.0
    assert one(Region("points"), np.array([1.0 + 0.6 * SCALE], np.float32)).excess > 0.0
    assert one(Region("points", domain="grid"), np.array([1.5], np.float32)).excess == pytest.approx(0.5)
    assert one(Region("ball", radius=9, unit="lsb", domain="grid"), np.array([1.0], np.float32)).excess == 0.0


def test_per_channel_preprocess() -> None:
    pre = Preprocess((1.0,), (0.5, 0.25), (0.5, 0.125))
    cell = one(Region("points"), np.array([[0.5, 0.5], [1.0, 0.25]], np.float32), codec(0.1, 0), pre).cell
    assert cell.lower.tolist() == [[0.0, 2.0], [1.0, 0.0]]
    with pytest.raises(PolicyError):
        one(Region("points"), np.zeros((2, 3), np.float32), pre=pre)


@pytest.mark.parametrize(
    ("region", "row", "code"),
    [
        (Region("points"), np.array([1, 2], np.uint8), "QEB241"),
        (Region("points", values="codes"), np.array([1.0, 2.0]), "QEB457"),
        (Region("points", values="codes"), np.array([1, 200]), "QEB455"),
        (Region("points"), np.array([np.nan]), "QEB456"),
        (Region("points"), np.array([1e300]), "QEB456"),
        (Region("ball", radius=1e39), np.array([0.0]), None),
        (Region("points", clip=(0.0, 1.0)), np.array([2.0]), "QEB452"),
        (Region("points", domain="grid", clip=(0.001, 0.002)), np.array([0.0015]), "QEB242"),
        (Region("box", lower=(0.0, 0.0, 0.0), upper=(1.0,)), np.array([0.0, 0.0]), "QEB243"),
        (Region("box", lower=(2.0,), upper=(1.0,)), np.array([0.0, 0.0]), "QEB452"),
        (Region("box", lower=(0.001,), upper=(0.0012,), domain="grid"), np.array([0.0, 0.0]), "QEB452"),
    ],
)
def test_wrong_regions(region: Region, row: np.ndarray, code: str | None) -> None:
    if code is None:
        cell = one(region, row).cell
        assert cell.upper[0] == float(np.finfo(np.float32).max) == -cell.lower[0]
        return
    with pytest.raises((DataError, PolicyError)) as e:
        one(region, row)
    assert e.value.code == code
