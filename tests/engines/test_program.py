"""Programs made smaller compute the same bounds."""

from __future__ import annotations

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.domains.layers import ROOT, Affine
from qebgate.domains.linear_map import Dense, Scale
from qebgate.engines.dra.analysis import Analysis
from qebgate.engines.dra.program import Program, condensed

INF = np.inf


def _program(rng: np.random.Generator, f: float, q: float) -> Program:
    """An input that each side scales by a number of its own, one dense layer, ReLU, one output layer."""
    n, m = 5, 7
    w, v = rng.normal(size=(m, n)), rng.normal(size=(2, m))
    wq, vq = np.round(w * 8) / 8, np.round(v * 8) / 8
    zero, none = np.zeros(n), (-INF, INF)
    layers = (
        Affine("input", (ROOT,), 0, (Scale(f, n),), (Scale(q, n),), zero, zero, none, zero, zero, None),
        Affine(
            "1",
            (0,),
            1,
            (Dense(w),),
            (Dense(wq),),
            np.ones(m),
            np.ones(m),
            (0.0, INF),
            np.full(m, 0.1),
            np.full(m, 0.1),
            None,
            quantized_range=(0.0, INF),
        ),
        Affine("2", (1,), 2, (Dense(v),), (Dense(vq),), np.zeros(2), np.zeros(2), none, np.zeros(2), np.zeros(2), None),
    )
    lo = rng.uniform(0, 200, n)
    return Program(layers, Interval(lo, lo + rng.uniform(0, 20, n)), 2)


def _dense(p: Program, k: int) -> tuple[Dense, Dense]:
    layer = p.layers[k]
    assert isinstance(layer, Affine)
    f, q = layer.f[0], layer.q[0]
    assert isinstance(f, Dense) and isinstance(q, Dense)
    return f, q


def test_a_scaled_input_becomes_part_of_the_first_layer() -> None:
    """As tight or tighter, and around the truth, with a gap that is an exact linear function of the input."""
    index = np.arange(2)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        p = _program(rng, 1 / 255, 1 / 256)
        small = condensed(p)
        assert len(small.layers) == 2 and small.layers[0].inputs == (ROOT,)
        plain, folded = (Analysis(x.layers, x.box).run().gap(x.output, index) for x in (p, small))
        x = rng.uniform(p.box.lo, p.box.hi, (200, 5)).astype(np.longdouble)
        x[:50] = np.where(rng.random((50, 5)) < 0.5, p.box.lo, p.box.hi)
        xi = rng.uniform(-0.1, 0.1, (200, 7))
        w, wq, v, vq = (m.w.astype(np.longdouble) for k in (1, 2) for m in _dense(p, k))
        h = np.maximum((x / 255) @ w.T + 1, 0)
        hq = np.maximum((x / 256) @ wq.T + 1 + xi, 0)
        gap = hq @ vq.T - h @ v.T  # 64 bits of mantissa: far below the bounds' own roundoff term
        for bound in (plain, folded):
            assert (gap >= bound.lo).all() and (gap <= bound.hi).all()
        assert float(folded.width.sum()) <= float(plain.width.sum()) * (1 + 1e-9)


def test_a_rounded_input_stays_a_layer() -> None:
    p = _program(np.random.default_rng(0), 1.0, 1.0)
    first = p.layers[0]
    assert isinstance(first, Affine)
    rounded = Affine(**{**{k: getattr(first, k) for k in first.__dataclass_fields__}, "below": np.full(5, 0.5)})
    q = Program((rounded, *p.layers[1:]), p.box, p.output)
    assert [x.label for x in condensed(q).layers] == ["input", "1", "2"]
