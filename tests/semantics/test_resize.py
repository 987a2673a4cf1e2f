"""RESIZE_BILINEAR: what is refused, and the positions it is made of."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from qebgate.errors import ModelError
from qebgate.semantics.moves import ResizeAttrs
from qebgate.semantics.resize_bilinear import Taps
from tests.semantics.compare import load
from tests.support.tflite_builder import Builder


def resize(shape: tuple[int, int], size: tuple[int, int], corners: bool, centers: bool, scale: float = 0.5) -> bytes:
    b = Builder()
    x = b.tensor((1, *shape, 2), "int8", scale=0.5, zero_point=3)
    y = b.tensor((1, *size, 2), "int8", scale=scale, zero_point=3)
    n = b.tensor((2,), "int32", data=size)
    b.op("RESIZE_BILINEAR", [x, n], [y], version=3, align_corners=corners, half_pixel_centers=centers)
    return b.build([x], [y])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (resize((3, 3), (6, 6), True, True), "aligned corners together with centres"),
        (resize((3, 3), (6, 6), False, True, 0.25), "between different scales"),
        (resize((2, 2), (2, 65), False, False), "beyond the input"),
    ],
)
def test_what_is_refused(model: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(model)


def test_positions_against_rational_arithmetic() -> None:
    """Float32 positions of the kernels are within the stated slack of the exact ones, and so are XNNPACK's weights."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        n, m = (int(v) for v in rng.integers(1, 300, 2))
        corners = bool(rng.integers(2))
        how = ResizeAttrs(corners, not corners and bool(rng.integers(2)))
        a, b = (n - 1, m - 1) if corners and m > 1 else (n, m)
        half = Fraction(1, 2) if how.half_pixel_centers else Fraction(0)
        exact = [min(max((k + half) * Fraction(a, b) - half, Fraction(0)), Fraction(n - 1)) for k in range(m)]
        t = Taps.exact(n, m, how)
        assert [int(f) + Fraction(int(w), t.unit) for f, w in zip(t.first, t.weight, strict=True)] == exact
        slack, f = Taps.slack(n, m, how), np.float32
        at = (np.arange(m, dtype=f) + f(half)) * (f(a) / f(b)) - f(half)
        at = np.clip(at, f(0), f(n - 1)).astype(np.float64)
        truth = np.array([float(v) for v in exact])
        assert (np.abs(at - truth) <= slack).all()
        x = Taps.xnnpack(n, m, how)
        assert (np.abs(x.first + x.weight / x.unit - truth) <= slack + 2.0**-12 + 1e-12).all()
