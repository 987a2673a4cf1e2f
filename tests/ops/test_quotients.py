"""DIV in float32 inside of a quantized model, by a constant and by what is computed; wrong edits are caught."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qebgate.domains.gap import Gap, Interval
from qebgate.engines.dra.analysis import Settings
from qebgate.errors import InternalError, UnboundedError, UnsupportedError
from qebgate.ops import quotients
from qebgate.ops.registry import lower
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.execute import run_int
from tests.laws.contain import Seen, check, samples
from tests.laws.pairs import Twins, codec_of, float_twin, grid_cell, load, real_cell, task_of
from tests.semantics.compare import interpret
from tests.semantics.compare import load as read
from tests.support.tflite_builder import Builder

Patch = pytest.MonkeyPatch
KINDS = ("constant", "numerator", "both", "itself", "broadcast")
N = 6


def divided(kind: str, rng: np.random.Generator, quantized: bool, activation: int = 0) -> bytes:
    """``x / c``, ``c / y``, ``x / y`` or ``y / y``; ``y`` is the larger of x and a constant above 0, or the smaller."""
    b, s = Builder(), 0.05
    x = at = b.tensor((1, N))
    sign = 1.0 if rng.random() < 0.5 else -1.0
    edge = np.full(N, 3 + int(rng.integers(60)))
    moved = rng.uniform(0.5, 3.0, N).astype(np.float32)

    def kept(values: np.ndarray) -> int:
        if quantized:
            return b.tensor((N,), "int8", data=values, scale=s)
        return b.tensor((N,), data=((values + rng.uniform(-0.4, 0.4, N)) * s).astype(np.float32))

    bound = kept(edge * sign)
    least = b.tensor((1, N)) if not quantized else b.tensor((1, N), "int8", scale=s)
    if quantized:
        codes = b.tensor((1, N), "int8", scale=s)
        b.op("QUANTIZE", [x], [codes], version=2)
        at, y = b.tensor((1, N)), b.tensor((1, N))
        b.op("DEQUANTIZE", [codes], [at], version=2)
        b.op("MAXIMUM" if sign > 0 else "MINIMUM", [codes, bound], [least], version=2)
        b.op("DEQUANTIZE", [least], [y], version=2)
    else:
        b.op("MAXIMUM" if sign > 0 else "MINIMUM", [x, bound], [least])
        y = least
    c = b.tensor((1, N), data=moved)
    one = b.tensor((1, 1), data=moved[:1])
    ins = {
        "constant": [at, c], "numerator": [c, y], "both": [at, y], "itself": [y, y], "broadcast": [at, one],
    }[kind]  # fmt: skip
    out = b.tensor((1, N))
    b.op("DIV", ins, [out], fused_activation=activation)
    return b.build([x], [out])


def pair(kind: str, seed: int, activation: int = 0) -> Twins:
    models = [divided(kind, np.random.default_rng(seed), quantized, activation) for quantized in (False, True)]
    return load(models[0], models[1])


def fails(kind: str, tries: int = 12, activation: int = 0) -> str | None:
    """The first violation of the bounds of random regions."""
    for seed in range(tries):
        twins, rng = pair(kind, seed, activation), np.random.default_rng(seed)
        codec = codec_of(twins.pair)
        cell = (real_cell if seed % 3 else grid_cell)(twins.pair, codec, rng)
        floats = "float32" if seed % 2 else "real"
        seen = Seen()
        task = task_of(twins.pair, cell, codec, DEPLOYED[seed % 3], floats)  # type: ignore[arg-type]
        try:
            check(task, samples(task, rng, 60), Settings(), seen, twins.float)
        except InternalError as e:
            return str(e)
        if seen.violations:
            return seen.violations[0]
    return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", [0, 1])
def test_quotients_in_float(kind: str, activation: int) -> None:
    assert fails(kind, activation=activation) is None


def test_lines_of_a_quotient() -> None:
    """What the lines leave is inside of the rests, for numbers of either side, and their gaps."""
    for seed in range(60):
        assert _line_fails(seed) is None


def _line_fails(seed: int) -> str | None:
    rng = np.random.default_rng(seed)
    sign = rng.choice([-1.0, 1.0], N)

    def gap(away: float) -> tuple[Gap, np.ndarray, np.ndarray]:
        h = (away + rng.uniform(0.1, 2.0, (50, N))) * (sign if away else 1.0)
        hq = h * (1 + rng.uniform(-0.02, 0.02, h.shape))
        i = [Interval(v.min(axis=0), v.max(axis=0)) for v in (h, hq, hq - h)]
        return Gap(i[0], i[1], i[2].widened(1e-15, 1e-15)), h, hq

    (x, h, hq), (y, k, kq) = gap(0.0), gap(0.4)
    inverse = quotients.RECIPROCAL
    moved = quotients.moved_by(inverse, y)
    r = Gap(inverse.image(y.float), inverse.image(y.quantized), moved)
    band, _ = quotients._band(x, y, r, (0.0, (0.0, 0.0)), [np.arange(N)] * 2, [N, N])
    one, two = (m.matrix.diagonal() for m in band.maps)  # type: ignore[attr-defined]
    f, q = h / k - one * h - two * k, hq / kq - one * hq - two * kq
    for what, bound, v in (("float", band.float, f), ("quantized", band.quantized, q), ("gap", band.delta, q - f)):
        if ((v < bound.lo - 1e-13) | (v > bound.hi + 1e-13)).any():
            return what
    return None


def test_a_divisor_that_may_be_0_is_named() -> None:
    b = Builder()
    x, y = b.tensor((1, N)), b.tensor((1, N))
    b.op("DIV", [x, x], [y])
    plain = b.build([x], [y])
    b = Builder()
    x, q, at, y = b.tensor((1, N)), b.tensor((1, N), "int8", scale=0.1), b.tensor((1, N)), b.tensor((1, N))
    b.op("QUANTIZE", [x], [q], version=2)
    b.op("DEQUANTIZE", [q], [at], version=2)
    b.op("DIV", [at, at], [y])
    twins = load(plain, b.build([x], [y]))
    codec, rng = codec_of(twins.pair), np.random.default_rng(0)
    cell = real_cell(twins.pair, codec, rng)
    cell = type(cell)(-np.ones_like(cell.lower), np.ones_like(cell.upper), None, 0, np.zeros_like(cell.lower))
    task = task_of(twins.pair, cell, codec, Runtime.BUILTIN)
    with pytest.raises(UnboundedError, match="division by 0") as e:
        check(task, samples(task, rng, 4), Settings(), Seen())
    assert e.value.code == "QEB440"


def on_codes(kind: str, seed: int, activation: int = 0) -> Twins:
    """``x / y``, ``c / y`` and ``y / y`` on int8, with y away from 0 in both models."""
    rng, b, s, z = np.random.default_rng(seed), Builder(), 0.04, int(np.random.default_rng(seed).integers(-40, 40))
    about, sign = {"scale": s, "zero_point": z}, int(rng.choice([-1, 1]))
    x, y = b.tensor((1, N), "int8", **about), b.tensor((1, N), "int8", **about)
    edge = b.tensor((N,), "int8", data=z + sign * rng.integers(4, 60, N), **about)
    b.op("MAXIMUM" if sign > 0 else "MINIMUM", [x, edge], [y], version=2)
    c = b.tensor((1, N), "int8", data=rng.integers(-100, 100, (1, N)), **about)
    out = b.tensor((1, N), "int8", scale=1 / 140, zero_point=int(rng.integers(-100, 100)))
    ins = {"both": [x, y], "numerator": [c, y], "itself": [y, y]}[kind]
    b.op("DIV", ins, [out], version=2, fused_activation=activation)
    model = b.build([x], [out])
    return load(float_twin(model, rng), model)


@pytest.mark.parametrize("kind", ["both", "numerator", "itself"])
def test_quotients_of_codes(kind: str) -> None:
    for seed in range(8):
        assert _codes_fail(kind, seed) is None


def _codes_fail(kind: str, seed: int) -> str | None:
    twins, rng, seen = on_codes(kind, seed, seed % 4), np.random.default_rng(seed), Seen()
    codec = codec_of(twins.pair)
    cell = (real_cell if seed % 3 else grid_cell)(twins.pair, codec, rng)
    task = task_of(twins.pair, cell, codec, DEPLOYED[seed % 3], "float32" if seed % 2 else "real")
    try:
        check(task, samples(task, rng, 60), Settings(), seen, twins.float)
    except InternalError as e:
        return str(e)
    return seen.violations[0] if seen.violations else None


def test_quotients_of_codes_are_executed_bit_for_bit() -> None:
    for seed in range(6):
        for kind in ("both", "numerator", "itself"):
            twins = on_codes(kind, seed, seed % 4)
            x = np.random.default_rng(seed).integers(-128, 128, (60, 1, N)).astype(np.int8)
            graph = read(twins.quantized)
            for runtime in DEPLOYED:
                theirs, _ = interpret(twins.quantized, x, runtime)
                np.testing.assert_array_equal(run_int(graph, x, runtime)[graph.outputs[0]], theirs)


def test_an_int8_divisor_of_0_is_not_executed() -> None:
    """LiteRT fails on it too."""
    b = Builder()
    x, y = b.tensor((1, N), "int8", scale=0.1), b.tensor((1, N), "int8", scale=1 / 140)
    b.op("DIV", [x, x], [y], version=2)
    model = b.build([x], [y])
    codes = np.full((1, 1, N), 5, np.int8)
    assert (run_int(read(model), codes, Runtime.BUILTIN)[1] == interpret(model, codes, Runtime.BUILTIN)[0]).all()
    codes[0, 0, 2] = 0
    with pytest.raises(UnboundedError, match="division by 0"):
        run_int(read(model), codes, Runtime.BUILTIN)
    with pytest.raises(RuntimeError):
        interpret(model, codes, Runtime.BUILTIN)


def test_where_the_int8_kernel_shifts_too_far() -> None:
    """A model that is read is executed as LiteRT does; the first scale that is refused is one where it is not."""
    codes = np.arange(-128, 128, dtype=np.int8).reshape(1, 1, 256)
    wrong = 0
    for zero in (-128, 0, 127):
        for exponent in range(-6, 5):
            b = Builder()
            x, c = (
                b.tensor((1, 256), "int8", scale=1.0, zero_point=zero),
                b.tensor((1,), "int8", data=[100], scale=0.01),
            )
            y = b.tensor((1, 256), "int8", scale=float(2.0**exponent), zero_point=3)
            b.op("DIV", [x, c], [y], version=2)
            model = b.build([x], [y])
            try:
                graph = read(model)
            except UnsupportedError as e:
                assert "31 bits" in str(e)
                theirs, _ = interpret(model, codes, Runtime.BUILTIN)
                off = np.abs((theirs.astype(np.float64) - 3) * 2.0**exponent - (codes.astype(np.float64) - zero))
                inside = (theirs > -128) & (theirs < 127)
                wrong += bool((off[inside] > 2.0**exponent).any() or ((codes == zero) & (theirs != 3)).any())
                continue
            theirs, _ = interpret(model, codes, Runtime.BUILTIN)
            np.testing.assert_array_equal(run_int(graph, codes, Runtime.BUILTIN)[graph.outputs[0]], theirs)
    assert wrong >= 3


def test_a_constant_that_is_broadcast_over_a_divisor_is_named() -> None:
    def model(quantized: bool) -> bytes:
        b = Builder()
        x = at = b.tensor((1, 1))
        if quantized:
            q, at = b.tensor((1, 1), "int8", scale=0.1), b.tensor((1, 1))
            b.op("QUANTIZE", [x], [q], version=2)
            b.op("DEQUANTIZE", [q], [at], version=2)
        c, y = b.tensor((1, N), data=np.ones(N)), b.tensor((1, N))
        b.op("DIV", [c, at], [y])
        return b.build([x], [y])

    with pytest.raises(UnsupportedError, match="broadcast"):
        lower(load(model(False), model(True)).pair, Runtime.BUILTIN, float32=True)


def _wrong_slope(m: Patch) -> None:
    real = quotients.Reciprocal.slopes
    m.setattr(quotients.Reciprocal, "slopes", lambda self, x: tuple(0.3 * v for v in real(self, x)))


def _other_way(m: Patch) -> None:
    real = quotients.moved_by
    m.setattr(quotients, "moved_by", lambda f, x: Interval(-real(f, x).hi, -real(f, x).lo))


def _straight(m: Patch) -> None:
    m.setattr(quotients.Reciprocal, "rest", lambda self, x, slope: Interval.point(1.0 / x.lo - slope * x.lo))


def _no_rounding(m: Patch) -> None:
    m.setattr(quotients, "rounding_of", lambda *_: (np.zeros(N), np.zeros(N)))


MUTANTS = (
    (
        "codes that are not rounded",
        _no_rounding,
        lambda: next(filter(None, (_codes_fail("both", k) for k in range(20))), None),
    ),
    ("the reciprocal moves too little", _wrong_slope, lambda: fails("both", 30)),
    ("the reciprocal rises", _other_way, lambda: fails("numerator", 30)),
    ("the reciprocal is a line", _straight, lambda: next(filter(None, map(_line_fails, range(20))), None)),
)


@pytest.mark.parametrize("name,mutate,found", MUTANTS, ids=[m[0] for m in MUTANTS])
def test_mutants_are_caught(name: str, mutate: Callable, found: Callable, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    assert found() is not None, name
