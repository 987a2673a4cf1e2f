"""Requantization against plain integer arithmetic of any size."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qebgate.numerics.fixed_point import (
    Multiplier,
    activation_limit,
    multiply_double_rounding,
    multiply_ruy,
    multiply_single_rounding,
    requantize_xnnpack,
    round_double,
    round_half_away,
)
from qebgate.numerics.gemmlowp import exp_on_negative, reciprocal
from qebgate.numerics.libm import expf, tanhf

ACC = st.integers(-(2**23), 2**23)
REAL = st.floats(2.0**-20, 2.0**7)


def _away(x: Fraction) -> int:
    return int(math.copysign(math.floor(abs(x) + Fraction(1, 2)), x))


def _up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


def _parts(real: float) -> tuple[int, int, int]:
    m = Multiplier.of(real)
    return int(m.mantissa[0]), int(m.left[0]), int(m.right[0])


@given(REAL)
def test_multiplier_is_within_half_a_unit(real: float) -> None:
    q, left, right = _parts(real)
    assert 2**30 <= q < 2**31
    assert abs(Fraction(q, 2**31) * Fraction(2) ** (left - right) - Fraction(real)) <= Fraction(real) * Fraction(
        1, 2**31
    )


@given(ACC, REAL)
def test_the_three_roundings(acc: int, real: float) -> None:
    q, left, right = _parts(real)
    m, x = Multiplier.of(real), np.array([acc], np.int64)
    product = Fraction((acc << left) * q, 2**31)
    assert int(multiply_double_rounding(x, m)[0]) == _away(Fraction(_up(product), 2**right))
    assert int(multiply_ruy(x, m)[0]) == _up(Fraction(_up(product), 2**right))
    assert int(multiply_single_rounding(x, m)[0]) == _up(product / 2**right)


@given(ACC, REAL)
def test_deviation_is_what_the_docs_say(acc: int, real: float) -> None:
    """0.5 + 2**-(r+1) for two roundings, 0.5 for one; plus the multiplier's own error."""
    y = Fraction(acc) * Fraction(real)
    slack = abs(y) * Fraction(1, 2**30)
    _, _, right = _parts(real)
    second = Fraction(1, 2 ** (right + 1)) if right else Fraction(0)
    m, x = Multiplier.of(real), np.array([acc], np.int64)
    for f in (multiply_double_rounding, multiply_ruy):
        assert abs(int(f(x, m)[0]) - y) <= Fraction(1, 2) + second + slack
    assert abs(int(multiply_single_rounding(x, m)[0]) - y) <= Fraction(1, 2) + slack
    assert abs(int(round_double(x, np.array([real]))[0]) - y) <= Fraction(1, 2) + slack


def test_tiny_multipliers_are_flushed_to_zero() -> None:
    m = Multiplier.of(np.array([2.0**-33, 2.0**-32, 0.0, 1.0]))
    assert m.mantissa.tolist() == [0, 1 << 30, 0, 1 << 30]
    assert multiply_double_rounding(np.full(4, 1 << 20), m).tolist() == [0, 0, 0, 1 << 20]


def test_mantissa_that_rounds_up_to_the_next_power() -> None:
    q, left, right = _parts(1.0 - 2.0**-40)
    assert (q, left, right) == (1 << 30, 1, 0)


@pytest.mark.parametrize(
    ("value", "expected"), [(0.5, 1), (-0.5, -1), (1.5, 2), (2.5, 3), (-2.5, -3), (0.49999999999999994, 0)]
)
def test_half_away(value: float, expected: int) -> None:
    assert float(round_half_away(value)) == expected


def test_xnnpack_rounds_to_even_and_clamps() -> None:
    acc = np.array([1, 3, 5, -1, -3, 10**6, -(10**6)])
    assert requantize_xnnpack(acc, np.float32(0.5), 3, -128, 127).tolist() == [3, 5, 5, 3, 1, 127, -128]


def test_limits_of_activations() -> None:
    assert activation_limit(6.0, 4.0, -33, ties_even=False) == -31  # 1.5 away from zero
    assert activation_limit(6.0, 4.0, -33, ties_even=True) == -32  # -31.5 to even
    assert activation_limit(-1.0, 2.0, 0, ties_even=False) == -1
    assert activation_limit(-1.0, 2.0, 0, ties_even=True) == 0
    assert activation_limit(0.0, 0.1, 17, ties_even=True) == 17


def test_gemmlowp_exponential_is_close_to_exp() -> None:
    raw = -np.linspace(0, 31 * 2**26, 20001).astype(np.int64)
    got = exp_on_negative(raw, 5) / 2.0**31
    assert np.abs(got - np.exp(raw / 2.0**26)).max() < 2.0**-22


def test_gemmlowp_reciprocal() -> None:
    raw = np.concatenate([np.arange(2**19, 2**19 + 50), 2**19 * np.arange(1, 512), 2 ** np.arange(19, 28)])
    scale, over = reciprocal(raw.astype(np.int64), 12)
    np.testing.assert_allclose(scale / 2.0**31 / 2.0**over, 2.0**19 / raw, rtol=2e-8)


def test_libm_is_within_two_units() -> None:
    x = np.linspace(-20, 20, 4001).astype(np.float32)
    for ours, exact in ((expf, np.exp), (tanhf, np.tanh)):
        y = exact(x.astype(np.float64))
        assert (np.abs(ours(x) - y) <= 2.0 * np.spacing(np.abs(y).astype(np.float32))).all()
