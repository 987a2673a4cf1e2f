"""Linear maps against dense matrices, exactly (small integers), for every kind and geometry."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from qebgate.domains.linear_map import Conv, Dense, Depthwise, Difference, LinearMap, Scale, Sparse, Transposed, gather
from qebgate.ops.windows import geometry, taps
from qebgate.semantics.conv_2d import correlate
from qebgate.semantics.depthwise_conv_2d import correlate_depthwise
from qebgate.semantics.windows import Stride, Window
from tests.semantics.cases import geometry as random_geometry


def integers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-9, 10, shape).astype(np.float64)


def window(rng: np.random.Generator) -> Window:
    while True:
        h, w, k, s, d, same = random_geometry(rng)
        if h * w <= 60:
            return Window.of((h, w), k, Stride(same, s, d))


def dense(seed: int, rows: int = 1) -> tuple[LinearMap, np.ndarray]:
    rng = np.random.default_rng(seed)
    w = integers(rng, int(rng.integers(1, 6)), int(rng.integers(1, 6)))
    return Dense(w, rows), np.kron(np.eye(rows), w)


def conv(seed: int) -> tuple[LinearMap, np.ndarray]:
    """The matrix is the semantics' own convolution of unit vectors."""
    rng = np.random.default_rng(seed)
    win, c, m = window(rng), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    kernel = integers(rng, m, *win.kernel, c)
    unit = np.eye(win.size[0] * win.size[1] * c).reshape(-1, *win.size, c)
    matrix = correlate(win, unit, kernel, None).reshape(len(unit), -1).T
    return Conv(np.ascontiguousarray(kernel.transpose(1, 2, 3, 0)), geometry(win)), matrix


def depthwise(seed: int) -> tuple[LinearMap, np.ndarray]:
    rng = np.random.default_rng(seed)
    win, c, m = window(rng), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    kernel = integers(rng, 1, *win.kernel, c * m)
    unit = np.eye(win.size[0] * win.size[1] * c).reshape(-1, *win.size, c)
    matrix = correlate_depthwise(win, unit, kernel, None).reshape(len(unit), -1).T
    return Depthwise(kernel[0].reshape(*win.kernel, c, m), geometry(win)), matrix


def transposed(seed: int) -> tuple[LinearMap, np.ndarray]:
    m, matrix = conv(seed)
    return Transposed(m), matrix.T


def scale(seed: int) -> tuple[LinearMap, np.ndarray]:
    n = 1 + seed % 7
    f = float((1.0, 0.0, -3.0, 2.0)[seed % 4])
    return Scale(f, n), f * np.eye(n)


def sparse(seed: int) -> tuple[LinearMap, np.ndarray]:
    rng = np.random.default_rng(seed)
    m = integers(rng, int(rng.integers(1, 8)), int(rng.integers(1, 8))) * (rng.random() < 0.5)
    return Sparse(sp.csr_matrix(m)), m


def gathered(seed: int) -> tuple[LinearMap, np.ndarray]:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 8)), int(rng.integers(1, 12))
    index, keep = rng.integers(0, n, m), rng.random(m) < 0.7
    matrix = np.zeros((m, n))
    matrix[np.arange(m)[keep], index[keep]] = 1.0
    return gather(index, n, keep), matrix


def difference(seed: int) -> tuple[LinearMap, np.ndarray]:
    a, ma = dense(seed)
    rng = np.random.default_rng(seed)
    mb = integers(rng, *ma.shape)
    return Difference(a, Sparse(sp.csr_matrix(mb))), ma - mb


KINDS = {
    "dense": dense,
    "rows": lambda s: dense(s, 3),
    "conv": conv,
    "depthwise": depthwise,
    "transposed": transposed,
    "scale": scale,
    "sparse": sparse,
    "gather": gathered,
    "difference": difference,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(12))
def test_forward_and_back_are_the_matrix_and_its_transpose(kind: str, seed: int) -> None:
    m, matrix = KINDS[kind](seed)
    rng = np.random.default_rng(seed + 99)
    assert (m.m, m.n) == matrix.shape
    x, y = integers(rng, 4, m.n), integers(rng, 3, m.m)
    assert np.array_equal(m.forward(x), x @ matrix.T)
    assert np.array_equal(m.back(y), y @ matrix)
    assert m.macs >= 1 or not matrix.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_absolute_is_at_least_the_matrix_of_absolute_weights(kind: str, seed: int) -> None:
    m, matrix = KINDS[kind](seed)
    got = m.absolute.forward(np.eye(m.n)).T
    assert (got >= np.abs(matrix)).all()
    if kind != "difference":
        assert np.array_equal(got, np.abs(matrix))
    assert np.array_equal(m.absolute.back(np.eye(m.m)), got)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_terms_bound_the_products_of_every_entry(kind: str, seed: int) -> None:
    """What the roundoff bound gamma(terms) counts, forward and back."""
    m, matrix = KINDS[kind](seed)
    assert m.terms >= max((matrix != 0).sum(axis=0).max(initial=0), (matrix != 0).sum(axis=1).max(initial=0))


@pytest.mark.parametrize("a", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_minus(a: str, seed: int) -> None:
    """Of the same kind, and of another kind on the same spaces."""
    m, matrix = KINDS[a](seed)
    rng = np.random.default_rng(seed)
    other = integers(rng, *matrix.shape)
    x, y = integers(rng, 2, m.n), integers(rng, 2, m.m)
    for b, mb in ((m, matrix), (Sparse(sp.csr_matrix(other)), other), (m.absolute, None)):
        mb = b.forward(np.eye(m.n)).T if mb is None else mb
        for left, right, expected in ((m, b, matrix - mb), (b, m, mb - matrix)):
            d = left.minus(right)
            assert np.array_equal(d.forward(x), x @ expected.T)
            assert np.array_equal(d.back(y), y @ expected)
            assert (np.abs(expected) <= d.absolute.forward(np.eye(m.n)).T).all()
            assert d.terms >= (expected != 0).sum(axis=1).max(initial=0)


@pytest.mark.parametrize("seed", range(10))
def test_taps_are_the_inputs_of_a_window(seed: int) -> None:
    rng = np.random.default_rng(seed)
    win, c = window(rng), int(rng.integers(1, 4))
    index = taps(win, c)
    x = np.arange(win.size[0] * win.size[1] * c, dtype=np.int64).reshape(1, *win.size, c)
    patches = win.patches(x, -1).reshape(*win.out, c, -1).reshape(-1, win.taps)
    assert np.array_equal(index, patches)
