"""Relaxations of products and of functions of one entry: sampled without tolerance, and mutants that are caught."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.special

from qebgate.domains.gap import Gap, Interval
from qebgate.engines.dra.analysis import Settings
from qebgate.ops import curves, moves, products, sums
from qebgate.ops.base import Context
from qebgate.ops.shapes import LOGISTIC, TANH, Bent, EluShape, FastGeluShape, GeluShape, HardSwishShape, Shape
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from tests.laws.contain import LONG, Seen, check, samples
from tests.laws.pairs import codec_of, grid_cell, one_operator, task_of

Patch = pytest.MonkeyPatch
OWN = 2.0**-50
"""Error of the values here: the shapes' float64 functions at float64 arguments, relative to what is computed."""

SHAPES: dict[str, tuple[Shape, Callable[[np.ndarray], np.ndarray]]] = {
    "logistic": (LOGISTIC, lambda v: 1 / (1 + np.exp(-v))),
    "tanh": (TANH, np.tanh),
    "elu": (EluShape(), lambda v: np.where(v > 0, v, np.expm1(np.minimum(v, 0)))),
    "hard_swish": (HardSwishShape(), lambda v: v * np.clip(v + 3, 0, 6) / 6),
    "abs": (Bent(np.array([-1.0])), np.abs),
    "leaky_relu": (Bent(np.array([0.3])), lambda v: np.where(v >= 0, v, v * LONG(0.3))),
    "prelu": (Bent(np.array([-0.5, 2.0, 0.1])), lambda v: np.where(v >= 0, v, v * np.resize([-0.5, 2.0, 0.1], 30))),
    "gelu": (GeluShape(), lambda v: (v * scipy.special.erfc(-(v.astype(float)) * np.sqrt(0.5)) / 2).astype(LONG)),
    "fast_gelu": (
        FastGeluShape(),
        lambda v: v / (1 + np.exp(-2 * LONG(np.sqrt(2 / np.pi)) * (v + LONG(0.044715) * v**3))),
    ),
}


def boxes(rng: np.random.Generator, n: int, size: float) -> tuple[Gap, np.ndarray, np.ndarray]:
    """A random gap of n entries, about some turns and kinks, and concrete ``(h, hq)`` of it ``[60, n]``."""
    lo = rng.choice([0.0, -3.0, 3.0, -1.5, -0.75], n) * (rng.random(n) < 0.4) + rng.normal(size=n) * size
    hi = lo + np.abs(rng.normal(size=n)) * size * rng.choice([0.0, 1e-9, 0.1, 3.0], n)
    dlo = rng.normal(size=n) * size * rng.choice([1e-6, 0.1, 1.0], n)
    dhi = dlo + np.abs(rng.normal(size=n)) * size * rng.choice([0.0, 1e-6, 0.3], n)
    part = lambda: np.where(rng.random((60, n)) < 0.5, rng.integers(0, 2, (60, n)), rng.random((60, n)))  # noqa: E731
    h, d = np.clip(lo + (hi - lo) * part(), lo, hi), np.clip(dlo + (dhi - dlo) * part(), dlo, dhi)
    f, delta = Interval(lo, hi), Interval(dlo, dhi)
    return Gap(f, f.plus(delta), delta), h.astype(LONG), h.astype(LONG) + d.astype(LONG)


def outside(bound: Interval, v: np.ndarray, size: np.ndarray | float) -> bool:
    own = OWN * (np.abs(v) + size) + 1e-300
    return bool(((v < bound.lo - own) | (v > bound.hi + own)).any())


def shape_fails(name: str, tries: int = 60) -> str | None:
    """Where a value, a gap or a rest of a shape is outside of its bounds."""
    shape, function = SHAPES[name]
    for seed in range(tries):
        rng = np.random.default_rng(seed)
        x, h, hq = boxes(rng, 30, float(10.0 ** rng.uniform(-3, 1.2)))
        y, yq = function(h), function(hq)
        if outside(shape.image(x.float), y, np.abs(h)):
            return "image"
        if outside(curves.moved_by(shape, x), yq - y, np.abs(y) + np.abs(h)):
            return "gap"
        slope = rng.normal(size=30)
        if outside(shape.rest(x.float, slope), y - slope * h, np.abs(y) + np.abs(slope * h)):
            return "rest"
    return None


def product_fails(tries: int = 60) -> str | None:
    """Where a product, its gap, or what is left of its lines is outside of its bounds."""
    for seed in range(tries):
        rng = np.random.default_rng(seed)
        x, h, hq = boxes(rng, 12, float(10.0 ** rng.uniform(-3, 3)))
        y, g, gq = boxes(rng, 4, float(10.0 ** rng.uniform(-3, 3)))
        index = [np.arange(12), np.arange(12) % 4]
        g, gq = g[:, index[1]], gq[:, index[1]]
        out = products.bounded(x, products.picked(y, index[1], 4), square=False)
        f, q = h * g, hq * gq
        size = np.abs(f) + np.abs(q)
        for what, bound, v in (("float", out.float, f), ("quantized", out.quantized, q), ("gap", out.delta, q - f)):
            if outside(bound, v, size):
                return what
        band = products.product_band([x, y], index)
        one, two = ((m.matrix.diagonal() if m.n == 12 else m.matrix.sum(axis=1).A1).astype(LONG) for m in band.maps)
        lines = one * h + two * g, one * hq + two * gq
        size = size + np.abs(one * h) + np.abs(two * g) + np.abs(one * hq) + np.abs(two * gq)
        rests = ("float", band.float, f - lines[0]), ("quantized", band.quantized, q - lines[1])
        for what, bound, v in (*rests, ("gap", band.delta, (q - f) - (lines[1] - lines[0]))):
            if outside(bound, v, size):
                return f"line of {what}"
    return None


def codes_fail(tries: int = 20) -> str | None:
    """Where a table gives a code outside of the codes for a range."""
    for op in ("HARD_SWISH", "PRELU", "ABS"):
        for seed in range(tries):
            rng = np.random.default_rng(seed)
            pair = one_operator(op, seed).pair
            node = pair.quantized.nodes[0]
            run = curves.table_codes(node, Context(pair, Runtime.BUILTIN, False))
            n = pair.quantized.input.size
            lo = rng.integers(-128, 128, n)
            hi = np.minimum(127, lo + rng.integers(0, rng.choice([2, 40, 256]), n))
            least, most = run((lo, hi))
            for _ in range(20):
                c = rng.integers(lo, hi + 1).reshape(1, *pair.quantized.input.shape).astype(np.int32)
                got = curves.SEMANTICS[op].run_int(node, pair.quantized, [c, None], Runtime.BUILTIN).ravel()
                if (got < least).any() or (got > most).any():
                    return op
    return None


def operator_fails(op: str, tries: int = 12) -> str | None:
    """Where the whole lowering of an operator does not contain what happens."""
    for seed in range(tries):
        seen, rng = Seen(), np.random.default_rng(seed)
        twins = one_operator(op, seed)
        codec = codec_of(twins.pair)
        task = task_of(twins.pair, grid_cell(twins.pair, codec, rng), codec, DEPLOYED[1 + seed % 2], "real")
        try:
            check(task, samples(task, rng, 60), Settings(), seen)
        except Exception as e:  # an empty interval is a contradiction that was found
            return str(e)
        if seen.violations:
            return seen.violations[0]
    return None


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes(name: str) -> None:
    assert shape_fails(name) is None


def test_products() -> None:
    assert product_fails() is None


def test_codes_of_tables() -> None:
    assert codes_fail() is None


def _half_slope(m: Patch) -> None:
    real = Shape.steep
    m.setattr(Shape, "steep", lambda self, x: Interval(0.4 * real(self, x).lo, 0.4 * real(self, x).hi))


def _no_bend(m: Patch) -> None:
    m.setattr(HardSwishShape, "curvature", 0.0)


def _no_turn(m: Patch) -> None:
    m.setattr(HardSwishShape, "turn", -np.inf)


def _no_kink(m: Patch) -> None:
    m.setattr(HardSwishShape, "kinks", ())
    m.setattr(HardSwishShape, "curvature", 0.0)


def _first_term_only(m: Patch) -> None:
    def wrong(x: Gap, y: Gap, *, square: bool) -> Gap:
        return Gap(
            products.times(x.float, y.float),
            products.times(x.quantized, y.quantized),
            products.times(x.delta, y.quantized),
        )

    m.setattr(products, "bounded", wrong)


def _no_radius(m: Patch) -> None:
    real = products._middle
    m.setattr(products, "_middle", lambda x: (real(x)[0], np.zeros_like(real(x)[1])))


def _first_code(m: Patch) -> None:
    real = curves._range
    m.setattr(curves, "_range", lambda levels, lo, hi, level, reduce: real(levels, lo, lo, 0 * level, reduce))


def _no_saturation(m: Patch) -> None:
    m.setattr(curves, "saturated", lambda d, h, q, limits: d)


def _sign_forgotten(m: Patch) -> None:
    m.setattr(products, "by_sign", lambda kernel, rising: lambda c: (kernel([c[0][0]]), kernel([c[0][1]])))


def _not_crossed(m: Patch) -> None:
    m.setattr(sums, "_crossed", lambda kernel, signs: lambda c: (kernel([a[0] for a in c]), kernel([a[1] for a in c])))


def _moved_by_one(m: Patch) -> None:
    real = moves.gather
    m.setattr(moves, "gather", lambda index, n, keep=None: real((index + 1) % n, n, keep))


def _subtracted_as_added(m: Patch) -> None:
    m.setattr(sums.SubLowering, "signs", (1.0, 1.0))


MUTANTS = (
    ("half the slope", _half_slope, lambda: shape_fails("hard_swish")),
    ("a rest without its bend", _no_bend, lambda: shape_fails("hard_swish")),
    ("a rest without kinks", _no_kink, lambda: shape_fails("hard_swish")),
    ("no turn", _no_turn, lambda: shape_fails("hard_swish")),
    ("one term of a product's gap", _first_term_only, product_fails),
    ("a product's lines without a rest", _no_radius, product_fails),
    ("the first code of a range", _first_code, codes_fail),
    ("the gap of a table without saturation", _no_saturation, lambda: operator_fails("HARD_SWISH", 40)),
    ("negative constants taken for positive", _sign_forgotten, lambda: operator_fails("MUL", 30)),
    ("a falling operand taken for a rising one", _not_crossed, lambda: operator_fails("SUB", 30)),
    ("entries moved by one", _moved_by_one, lambda: operator_fails("TRANSPOSE")),
    ("a difference taken for a sum", _subtracted_as_added, lambda: operator_fails("SUB", 30)),
)


@pytest.mark.parametrize("name,mutate,fails", MUTANTS, ids=[m[0] for m in MUTANTS])
def test_the_samples_catch_it(name: str, mutate: Callable, fails: Callable, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    assert fails() is not None, name
