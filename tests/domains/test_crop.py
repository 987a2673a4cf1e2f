"""Rectangles of images: a map onto a part of its output is that part of the map, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from qebgate.domains.crop import Crop
from qebgate.engines.dra.backward import Form
from tests.domains.test_linear_map import conv, depthwise, integers, scale


def part_of(rng: np.random.Generator, image: tuple[int, int, int]) -> Crop:
    top, left = int(rng.integers(image[0])), int(rng.integers(image[1]))
    return Crop(image, top, left, int(rng.integers(1, image[0] - top + 1)), int(rng.integers(1, image[1] - left + 1)))


def members(c: Crop) -> np.ndarray:
    """Flat indices of the rectangle, in its order."""
    h, w, ch = c.image
    index = np.arange(h * w * ch).reshape(c.image)
    return index[c.top : c.top + c.height, c.left : c.left + c.width].ravel()


@pytest.mark.parametrize("kind", [conv, depthwise])
@pytest.mark.parametrize("seed", range(40))
def test_a_cropped_map_is_a_part_of_the_matrix(kind, seed: int) -> None:
    m, matrix = kind(seed)
    rng = np.random.default_rng(seed)
    for out in (Crop.whole(m.image), part_of(rng, m.image), part_of(rng, m.image)):
        found = m.cropped(out)
        assert found is not None
        small, seen = found
        assert (small.m, small.n) == (out.size, seen.size)
        rows, columns = members(out), members(seen)
        assert seen.image[0] * seen.image[1] * seen.image[2] == m.n
        outside = np.setdiff1d(np.arange(m.n), columns)
        assert not matrix[np.ix_(rows, outside)].any()
        x, y = integers(rng, 2, small.n), integers(rng, 3, small.m)
        part = matrix[np.ix_(rows, columns)]
        assert np.array_equal(small.forward(x), x @ part.T)
        assert np.array_equal(small.back(y), y @ part)
        assert small.terms >= m.terms or small.terms >= (part != 0).sum(axis=0).max(initial=0)
    assert m.cropped(Crop.whole((m.image[0] + 1, *m.image[1:]))) is None


@pytest.mark.parametrize("seed", range(20))
def test_taking_expanding_and_uniting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = tuple(int(v) for v in rng.integers(1, 7, 3))
    a, b = part_of(rng, image), part_of(rng, image)
    v = integers(rng, int(np.prod(image)))
    assert np.array_equal(a.take(v), v[members(a)])
    both = a.union(b)
    assert set(members(a)) | set(members(b)) <= set(members(both))
    y = integers(rng, 2, a.size)
    whole = np.zeros((2, v.size))
    whole[:, members(a)] = y
    assert np.array_equal(a.expand(y, Crop.whole(image)), whole)
    assert np.array_equal(a.expand(y, both), whole[:, members(both)])


@pytest.mark.parametrize("seed", range(30))
def test_sums_of_forms_over_rectangles(seed: int) -> None:
    """Whatever the two rectangles are, of one image or of two shapes of the same value."""
    rng = np.random.default_rng(seed)
    image = tuple(int(v) for v in rng.integers(1, 6, 3))
    size = int(np.prod(image))
    other = image if seed % 3 else (1, size, 1)
    crops = [part_of(rng, image), part_of(rng, other)] if seed % 5 else [None, part_of(rng, other)]
    dense = np.zeros((2, size))
    forms = []
    for c in crops:
        y = integers(rng, 2, size if c is None else c.size)
        forms.append(Form(h=y, d=-y, crop=c))
        dense[:, np.arange(size) if c is None else members(c)] += y
    got = forms[0].add(forms[1], size).within(None, size)
    assert got.h is not None
    assert got.d is not None
    assert got.g is None
    assert np.array_equal(got.h, dense)
    assert np.array_equal(got.d, -dense)


def test_a_scale_keeps_the_rectangle() -> None:
    m, _ = scale(2)
    crop = Crop((1, m.n, 1), 0, 0, 1, max(1, m.n - 1))
    found = m.cropped(crop)
    assert found is not None
    assert found[0].n == found[1].size == crop.size
