"""The relaxation of a max pool, sampled: windows with clear winners, ties, and none, corners included."""

from __future__ import annotations

import numpy as np
import pytest

from qebgate.domains.gap import Gap, Interval
from qebgate.domains.layers import MaxPool
from qebgate.domains.lines import GapLine
from qebgate.engines.dra import forward
from qebgate.errors import InternalError

WINDOWS, TAPS, SAMPLES = 40, 4, 400


def _window_gaps(rng: np.random.Generator) -> tuple[Gap, MaxPool]:
    """Random windows of small integers, so that corners and ties are exact."""
    n = WINDOWS * TAPS
    lo = rng.integers(-4, 5, n).astype(float)
    h = Interval(lo, lo + rng.integers(0, 5, n))
    low = rng.integers(-3, 2, n).astype(float)
    delta = Interval(low, low + rng.integers(0, 4, n))
    index = np.arange(n).reshape(WINDOWS, TAPS)
    index[::5, -1] = -1
    return Gap(h, Interval(h.lo + delta.lo, h.hi + delta.hi), delta), MaxPool("pool", (0,), 1, index, None)


def _violations(rng: np.random.Generator) -> list[str]:
    x, layer = _window_gaps(rng)
    out, lines = forward.max_pool(layer, x)
    h = rng.integers(x.float.lo, x.float.hi + 1, (SAMPLES, x.size)).astype(float)
    d = rng.integers(x.delta.lo, x.delta.hi + 1, (SAMPLES, x.size)).astype(float)
    pad = layer.index < 0
    window = lambda v: np.where(pad, -np.inf, v[:, np.maximum(layer.index, 0)])  # noqa: E731
    top, top_q = window(h).max(axis=2), window(h + d).max(axis=2)
    z, zq = lines.f[0].forward(h), lines.q[0].forward(h + d)
    found: list[str] = []
    for name, value, bound, at in (
        ("h", top, out.float, z),
        ("hq", top_q, out.quantized, zq),
        ("delta", top_q - top, out.delta, zq - z),
    ):
        if (value < bound.lo).any() or (value > bound.hi).any():
            found.append(f"{name} leaves its interval")
        k = {"h": 0, "hq": 1, "delta": 2}[name]
        for line, sign in ((lines.over[k], 1.0), (lines.under[k], -1.0)):
            slopes = line.d * at + line.z * z + line.q * zq if isinstance(line, GapLine) else line.slope * at
            y = slopes + line.intercept
            if (sign * value > sign * y).any():
                found.append(f"{name} crosses a line")
    return found


@pytest.mark.parametrize("seed", range(20))
def test_every_sample_is_inside(seed: int) -> None:
    assert _violations(np.random.default_rng(seed)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda lo, hi: hi >= hi.max(axis=1, keepdims=True),
        lambda lo, hi: lo >= lo.max(axis=1, keepdims=True),
        lambda lo, hi: (hi > lo.max(axis=1, keepdims=True)) & (hi > -np.inf),
    ],
    ids=["the largest upper end only", "the largest lower end only", "ties lose"],
)
def test_a_forgotten_candidate_is_noticed(wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "_candidates", wrong)
    with np.errstate(all="ignore"):
        caught = False
        for seed in range(20):
            try:
                caught = caught or bool(_violations(np.random.default_rng(seed)))
            except InternalError:  # an empty window is noticed too
                caught = True
    assert caught
