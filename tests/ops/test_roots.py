"""Squares, roots and reciprocals: sampled without tolerance but for the samples' own error; wrong edits are caught."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qebgate.domains.gap import Gap, Interval
from qebgate.engines import portfolio
from qebgate.engines.dra.analysis import Settings
from qebgate.errors import InternalError, UnboundedError, UnsupportedError
from qebgate.evidence import Stopped
from qebgate.ops import curves, roots, squares
from qebgate.ops.shapes import Shape
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.task import Budget
from tests.laws.contain import LONG, Seen, check, samples
from tests.laws.pairs import Twins, codec_of, grid_cell, load, one_operator, real_cell, task_of
from tests.semantics.compare import load as read
from tests.support.tflite_builder import Builder

Patch = pytest.MonkeyPatch
SHAPES: dict[str, tuple[Shape, Callable[[np.ndarray], np.ndarray]]] = {
    "square": (roots.Square(), lambda v: v * v),
    "sqrt": (roots.Sqrt(), np.sqrt),
    "rsqrt": (roots.Rsqrt(), lambda v: 1 / np.sqrt(v)),
    "reciprocal": (roots.Reciprocal(), lambda v: 1 / v),
}


def shape_fails(name: str, tries: int = 40) -> str | None:
    shape, function = SHAPES[name]
    for seed in range(tries):
        rng = np.random.default_rng(seed)
        n, size = 30, 10.0 ** rng.uniform(-4, 4)
        sign = rng.choice([-1.0, 1.0], n) if name == "reciprocal" else 1.0
        ends = [size * rng.uniform(0.05, 1.0, n) * rng.choice([1.0, 1.0 + 1e-6, 3.0], n) for _ in range(2)]
        if name == "square":
            ends = [v - 0.5 * size for v in ends]
        if name == "sqrt":
            ends[0] = ends[0] * (rng.random(n) < 0.8)
        lo, hi = np.minimum(*ends), np.maximum(*ends)
        h = (lo + (hi - lo) * np.round(rng.random((60, n)) * 4) / 4).astype(LONG).clip(lo, hi) * sign
        hq = (lo + (hi - lo) * rng.random((60, n))).astype(LONG).clip(lo, hi) * sign
        box = (
            Interval(np.where(sign > 0, lo, -hi), np.where(sign > 0, hi, -lo))
            if name == "reciprocal"
            else Interval(lo, hi)
        )
        d = Interval(np.asarray((hq - h).min(0), float), np.asarray((hq - h).max(0), float)).widened(1e-300, 1e-300)
        x = Gap(box, box, d)
        y, yq = function(h), function(hq)
        slope = rng.normal(size=n) * np.asarray(np.abs(y / np.maximum(np.abs(h), 1e-30)).max(0), float)
        checks = (
            ("image", shape.image(box), y, y),
            ("gap", curves.moved_by(shape, x), yq - y, np.abs(y) + np.abs(yq)),
            ("rest", shape.rest(box, slope), y - slope * h, np.abs(y) + np.abs(slope * h)),
        )
        for what, bound, v, scale in checks:
            own = 2.0**-58 * np.abs(scale)
            if ((v + own < bound.lo) | (v - own > bound.hi)).any():
                return what
    return None


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes(name: str) -> None:
    assert shape_fails(name) is None


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_rests_are_tight(name: str) -> None:
    """Both ends of what a line leaves are reached."""
    shape, function = SHAPES[name]
    lo, hi = np.array([1.0, 0.5, 3.0]), np.array([2.0, 4.0, 3.5])
    slope = (function(hi) - function(lo)) / (hi - lo)
    rest = shape.rest(Interval(lo, hi), slope)
    dense = function(np.linspace(lo, hi, 4001)) - slope * np.linspace(lo, hi, 4001)
    np.testing.assert_allclose(rest.lo, dense.min(0), atol=1e-6)
    np.testing.assert_allclose(rest.hi, dense.max(0), atol=1e-6)


def in_float(op: str, quantized: bool, rng: np.random.Generator) -> bytes:
    """An operator in float32 on ``max(x, c)``, with the maximum on codes in the quantized model."""
    b, n, s = Builder(), 5, 0.04
    x = at = b.tensor((1, n))
    least, spread = rng.integers(-60, 60, n) if op == "SQUARED_DIFFERENCE" else rng.integers(2, 60, n), 0.4
    y = b.tensor((1, n))
    if quantized:
        q, m = (b.tensor((1, n), "int8", scale=s) for _ in range(2))
        c = b.tensor((n,), "int8", data=least, scale=s)
        b.op("QUANTIZE", [x], [q], version=2)
        b.op("MAXIMUM", [q, c], [m], version=2)
        at = b.tensor((1, n))
        b.op("DEQUANTIZE", [m], [at], version=2)
    else:
        c = b.tensor((n,), data=((least + rng.uniform(-spread, spread, n)) * s).astype(np.float32))
        at = b.tensor((1, n))
        b.op("MAXIMUM", [x, c], [at])
    other = [b.tensor((1, n), data=np.linspace(-1, 1, n))] if op == "SQUARED_DIFFERENCE" else []
    b.op(op, [at, *other], [y])
    return b.build([x], [y])


def float_fails(op: str, tries: int = 12) -> str | None:
    for seed in range(tries):
        models = [in_float(op, q, np.random.default_rng(seed)) for q in (False, True)]
        found = contained(load(*models), seed)
        if found is not None:
            return found
    return None


def contained(twins: Twins, seed: int, *, grid: bool = False) -> str | None:
    rng, seen = np.random.default_rng(seed), Seen()
    codec = codec_of(twins.pair)
    cell = (grid_cell if grid or seed % 3 == 0 else real_cell)(twins.pair, codec, rng)
    floats = "float32" if seed % 2 else "real"
    task = task_of(twins.pair, cell, codec, DEPLOYED[seed % 3], floats)  # type: ignore[arg-type]
    try:
        check(task, samples(task, rng, 60), Settings(), seen, twins.float)
    except InternalError as e:
        return str(e)
    return seen.violations[0] if seen.violations else None


@pytest.mark.parametrize("op", ["SQUARED_DIFFERENCE", "SQRT", "RSQRT"])
def test_in_float_inside_a_quantized_model(op: str) -> None:
    assert float_fails(op) is None


def nearly_zero() -> Twins:
    """The float model's least value is above 0, the quantized one's is its code of 0: the largest output code."""
    models: list[bytes] = []
    for quantized in (False, True):
        b, about = Builder(), {"scale": 0.05, "zero_point": -128}

        def tensor(data: np.ndarray | None = None, quantized=quantized, b=b, about=about, **other: float) -> int:
            return (
                b.tensor((1, 4), "int8", data=data, **{**about, **other}) if quantized else b.tensor((1, 4), data=data)
            )

        least = np.full((1, 4), -128) if quantized else np.full((1, 4), 0.02, np.float32)
        x, c, m, y = tensor(), tensor(least), tensor(), tensor(scale=0.03)
        b.op("MAXIMUM", [x, c], [m], version=2 if quantized else 1)
        b.op("RSQRT", [m], [y], version=2 if quantized else 1)
        models.append(b.build([x], [y]))
    return load(models[0], models[1])


def test_a_reciprocal_root_of_the_code_of_0() -> None:
    twins = nearly_zero()
    assert all(contained(twins, seed, grid=True) is None for seed in range(12))


def test_a_root_that_is_not_defined_ends_an_engine() -> None:
    """The float side may be 0: the analysis says so, and what executes goes on."""
    b, about = Builder(), {"scale": 0.05, "zero_point": -128}
    x, y = b.tensor((1, 4), "int8", **about), b.tensor((1, 4), "int8", scale=0.03, zero_point=-128)
    b.op("RSQRT", [x], [y], version=2)
    f = Builder()
    i, o = f.tensor((1, 4)), f.tensor((1, 4))
    f.op("RSQRT", [i], [o])
    twins = load(f.build([i], [o]), b.build([x], [y]))
    codec = codec_of(twins.pair)
    cell = grid_cell(twins.pair, codec, np.random.default_rng(1))
    lo, hi = np.full((1, 4), -128, np.int32), np.full((1, 4), 0, np.int32)
    cell = type(cell)(
        *(codec.grid(c).astype(np.float64) for c in (lo, hi)), (lo, hi), 0, codec.grid(hi).astype(np.float64)
    )
    task = task_of(twins.pair, cell, codec, Runtime.BUILTIN)
    with pytest.raises(UnboundedError, match="0 or less"):
        check(task, samples(task, np.random.default_rng(0), 4), Settings(), Seen())
    (found,) = portfolio.run(task, Budget(), ["dra"])
    assert isinstance(found, Stopped) and found.reason == "effort" and "reciprocal root" in found.detail


@pytest.mark.parametrize("op", ["SQRT", "RSQRT"])
def test_codes_below_zero_are_refused(op: str) -> None:
    b = Builder()
    x, y = b.tensor((1, 4), "int8", scale=0.1, zero_point=-127), b.tensor((1, 4), "int8", scale=0.1)
    b.op(op, [x], [y], version=2)
    with pytest.raises(UnsupportedError, match="below its input's zero point"):
        read(b.build([x], [y]))


def _steep(cls: type[Shape]) -> Callable[[Patch], None]:
    def mutate(m: Patch) -> None:
        real = cls.slopes
        m.setattr(cls, "slopes", lambda self, x: tuple(0.4 * v for v in real(self, x)))

    return mutate


def _no_flat_place(m: Patch) -> None:
    m.setattr(roots.Square, "flat", lambda self, slope: np.full_like(slope, np.nan))


def _sum(m: Patch) -> None:
    real = squares.SubLowering
    m.setattr(squares, "SubLowering", type("Sum", (real,), {"signs": (1.0, 1.0)}))


def _all_shown(m: Patch) -> None:
    m.setattr(roots.Rsqrt, "inside", lambda self, x: x.lo > -1.0)
    m.setattr(roots.Rsqrt, "value", lambda self, x: 1.0 / np.sqrt(np.maximum(x, 0.02)))
    m.setattr(roots.Rsqrt, "slopes", lambda self, x: (np.full_like(x.lo, -1.0), np.zeros_like(x.lo)))


def _hunt(op: str) -> str | None:
    return next(filter(None, (contained(one_operator(op, seed), seed) for seed in range(30))), None)


MUTANTS = (
    ("slopes of a square", _steep(roots.Square), lambda: shape_fails("square")),
    ("slopes of a root", _steep(roots.Sqrt), lambda: _hunt("SQRT")),
    ("slopes of a reciprocal root", _steep(roots.Rsqrt), lambda: _hunt("RSQRT")),
    ("a rest without its flat place", _no_flat_place, lambda: shape_fails("square")),
    ("a sum instead of a difference", _sum, lambda: _hunt("SQUARED_DIFFERENCE")),
    ("a root of 0 is an ordinary one", _all_shown, lambda: contained(nearly_zero(), 3, grid=True)),
)


@pytest.mark.parametrize("name,mutate,found", MUTANTS, ids=[m[0] for m in MUTANTS])
def test_mutants_are_caught(name: str, mutate: Callable, found: Callable, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    assert found() is not None, name
