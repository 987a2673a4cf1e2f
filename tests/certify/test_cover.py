"""Whether leaves cover a box, against counting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from qebgate.certify.cover import covers


def split(rng: np.random.Generator, lo: np.ndarray, hi: np.ndarray, depth: int) -> list[tuple[np.ndarray, np.ndarray]]:
    wide = np.flatnonzero(lo < hi)
    if depth == 0 or not wide.size or rng.random() < 0.1:
        return [(lo, hi)]
    i = int(rng.choice(wide))
    k = int(rng.integers(lo[i], hi[i]))
    left, right = hi.copy(), lo.copy()
    left[i], right[i] = k, k + 1
    return split(rng, lo, left, depth - 1) + split(rng, right, hi, depth - 1)


@pytest.mark.parametrize("seed", range(60))
def test_against_counting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 4))
    lo = rng.integers(-5, 5, n)
    hi = lo + rng.integers(0, 6, n)
    leaves = split(rng, lo, hi, 5)
    assert covers(leaves, lo, hi)
    if len(leaves) > 1:
        k = int(rng.integers(len(leaves)))
        assert not covers(leaves[:k] + leaves[k + 1 :], lo, hi)
    # any boxes at all, overlapping or not
    some = []
    for _ in range(int(rng.integers(1, 6))):
        a = rng.integers(lo, hi + 1)
        some.append((a, rng.integers(a, hi + 1)))
    points = itertools.product(*(range(a, b + 1) for a, b in zip(lo, hi, strict=True)))
    truth = all(any((p >= a).all() and (p <= b).all() for a, b in some) for p in map(np.array, points))
    assert covers(some, lo, hi) == truth
