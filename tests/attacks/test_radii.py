"""The benchmark of radii on a small slice of its own."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.radii import Row, last, measure, page, sources


def test_the_last_radius_that_holds() -> None:
    for end in range(65):
        asked: list[int] = []

        def holds(r: int, end: int = end, asked: list[int] = asked) -> bool:
            asked.append(r)
            return r <= end

        assert last(holds, 0, 65) == end
        assert len(asked) == len(set(asked)) <= 14
        assert last(holds, 0, 65, 3) <= end


def test_a_pair_of_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.radii.limits", lambda *_: {"generous": 2.5, "none": 0.0})
    rows = measure("digits_mlp", sources()["digits_mlp"], 20.0, largest=2, steps=1)
    assert [(r.alone, r.chain, r.fails) for r in rows] == [(2, 2, None), (-1, -1, 0)]
    text = "\n".join(page(rows, 1.0, 20.0))
    assert "digits_mlp" in text and "20 s a question" in text


def test_a_row_that_fails_itself() -> None:
    r = Row("p", 3, "limit", 0.5, -1, -1, 0, 1.0)
    assert r.text == "| p | 3 | limit (0.5) | - | - | 0 | 0 | 1 |"
    assert np.isfinite(r.value)
