"""Bounds of an envelope's runtimes, united: what holds in each of them, and nothing that holds in one only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qebgate.engines.portfolio import _united
from qebgate.evidence import Bound

A = Bound(
    np.array([-1.0, 0.0]), np.array([1.0, 3.0]), "exhaustive", "enumerate", 0.1,
    values=((np.array([0.0, 1.0]), np.array([2.0, 3.0])), (np.array([-1.0, 1.0]), np.array([2.0, 5.0]))), figure=0.5,
)  # fmt: skip
B = Bound(
    np.array([-2.0, 0.5]), np.array([0.5, 4.0]), "certified", "enumerate", 0.1,
    values=((np.array([-1.0, 2.0]), np.array([1.0, 4.0])), (np.array([0.0, 0.0]), np.array([3.0, 4.0]))), figure=0.75,
)  # fmt: skip


def test_every_side_is_the_weakest() -> None:
    for bounds in ([A, B], [B, A]):
        (found,) = _united(bounds, "enumerate", 1.0)
        assert isinstance(found, Bound) and found.trust == "certified" and found.figure == 0.75
        assert found.lower.tolist() == [-2.0, 0.0] and found.upper.tolist() == [1.0, 4.0]
        assert found.values is not None
        (f0, f1), (q0, q1) = found.values
        assert f0.tolist() == [-1.0, 1.0] and f1.tolist() == [2.0, 4.0]
        assert q0.tolist() == [-1.0, 0.0] and q1.tolist() == [3.0, 5.0]


def test_what_one_runtime_lacks_is_not_known() -> None:
    assert not _united([A, None], "enumerate", 1.0)
    (found,) = _united([A, replace(B, values=None, figure=None)], "enumerate", 1.0)
    assert isinstance(found, Bound) and found.values is None and found.figure is None
