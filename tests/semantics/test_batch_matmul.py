"""BATCH_MATMUL by a constant: what its kernels start from, the float form in a quantized model, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qebgate.engines.dra.analysis import Settings
from qebgate.errors import InternalError, UnsupportedError
from qebgate.numerics.fixed_point import Multiplier, multiply_double_rounding
from qebgate.ops import fully_connected
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics import linear
from qebgate.semantics.execute import run_int
from tests.laws.contain import Seen, check, samples
from tests.laws.pairs import Twins, codec_of, grid_cell, load, one_operator, task_of
from tests.semantics.compare import interpret
from tests.semantics.compare import load as read
from tests.support.tflite_builder import Builder

Patch = pytest.MonkeyPatch


def test_scales_are_multiplied_in_float32() -> None:
    """Accumulators at which the product in float64 gives another code."""
    rng, grid = (
        np.random.default_rng(0),
        np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)), -1).reshape(-1, 2),
    )
    acc, told = grid @ np.array([1, 127]), 0
    while told < 6:
        s, t = (float(np.float32(2.0 ** rng.uniform(-9, 1))) for _ in range(2))
        out = float(np.float32(s * t * rng.uniform(128, 400)))
        single, double = (
            multiply_double_rounding(acc, Multiplier.of(m / out)) for m in (float(np.float32(s) * np.float32(t)), s * t)
        )
        apart = (single != double) & (np.abs(single) < 127) & (np.abs(double) < 127)
        if not apart.any():
            continue
        b = Builder()
        x, y = b.tensor((1, 1, 2), "int8", scale=s), b.tensor((1, 1, 1), "int8", scale=out)
        w = b.tensor((2, 1), "int8", data=[[1], [127]], scale=t)
        b.op("BATCH_MATMUL", [x, w], [y], version=4)
        model, codes = b.build([x], [y]), grid[apart][:, None, None].astype(np.int8)
        graph = read(model)
        for runtime in DEPLOYED:
            theirs, _ = interpret(model, codes, runtime)
            np.testing.assert_array_equal(run_int(graph, codes, runtime)[graph.outputs[0]], theirs)
        told += 1


def in_float(quantized: bool, *, turned: bool = False) -> bytes:
    b, w = Builder(), np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    x = at = b.tensor((1, 2, 4))
    if quantized:
        at, q = b.tensor((1, 2, 4)), b.tensor((1, 2, 4), "int8", scale=0.05)
        b.op("QUANTIZE", [x], [q], version=2)
        b.op("DEQUANTIZE", [q], [at], version=2)
    c, y = b.tensor((3, 4) if turned else (4, 3), data=w.T if turned else w), b.tensor((1, 2, 3))
    b.op("BATCH_MATMUL", [at, c], [y], adj_y=turned)
    return b.build([x], [y])


def contained(twins: Twins, seed: int) -> str | None:
    rng, seen = np.random.default_rng(seed), Seen()
    codec = codec_of(twins.pair)
    cell = grid_cell(twins.pair, codec, rng)
    task = task_of(twins.pair, cell, codec, DEPLOYED[seed % 3], "float32" if seed % 2 else "real")
    try:
        check(task, samples(task, rng, 40), Settings(), seen, twins.float)
    except InternalError as e:
        return str(e)
    return seen.violations[0] if seen.violations else None


@pytest.mark.parametrize("turned", [False, True])
def test_in_float_inside_a_quantized_model(turned: bool) -> None:
    twins = load(in_float(False, turned=turned), in_float(True, turned=turned))
    assert all(contained(twins, seed) is None for seed in range(6))


I8 = {"dtype": "int8", "scale": 0.1}
REFUSED: dict[str, tuple[dict, dict, dict, str]] = {
    "transposed input": ({"shape": (1, 4, 2)}, {}, {"adj_x": True}, "transposed first"),
    "several matrices": ({"shape": (1, 2, 3, 4)}, {"shape": (2, 4, 3)}, {}, "several matrices"),
    "several scales": ({"shape": (1, 2, 4)}, {"scale": [0.1, 0.2, 0.3], "axis": 1}, {}, "several scales"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused(name: str) -> None:
    first, second, options, message = REFUSED[name]
    b = Builder()
    x = b.tensor(**{**I8, **first})
    shape = second.pop("shape", (4, 3))
    w = b.tensor(shape, data=np.ones(shape), **{**I8, **second})
    y = b.tensor((*first["shape"][:-2], 2, 3), **I8)
    b.op("BATCH_MATMUL", [x, w], [y], version=4, **options)
    with pytest.raises(UnsupportedError, match=message):
        read(b.build([x], [y]))


def test_by_what_is_computed_is_refused() -> None:
    b = Builder()
    x, y = b.tensor((1, 2, 2), **I8), b.tensor((1, 2, 2), **I8)
    b.op("BATCH_MATMUL", [x, x], [y], version=4)
    with pytest.raises(UnsupportedError, match="computed"):
        read(b.build([x], [y]))


def _no_zero_point(m: Patch) -> None:
    real = linear._matrix
    m.setattr(linear, "_matrix", lambda node, w: real(node, w) + (w.q.z if w.dtype.is_code else 0))


def _another_kernel(m: Patch) -> None:
    real = fully_connected.finish
    other = {Runtime.REFERENCE: Runtime.XNNPACK, Runtime.BUILTIN: Runtime.XNNPACK, Runtime.XNNPACK: Runtime.BUILTIN}
    m.setattr(fully_connected, "finish", lambda n, g, acc, r: real(n, g, acc + 40, other[r]))


def _hunt() -> str | None:
    return next(filter(None, (contained(one_operator("BATCH_MATMUL", seed), seed) for seed in range(20))), None)


def _differs() -> bool | None:
    """Whether execution differs from the runtime's."""
    from tests.semantics.compare import compare
    from tests.semantics.more_cases import MORE

    cases = (MORE["BATCH_MATMUL"](np.random.default_rng(seed)) for seed in range(20))
    return any(compare(c, Runtime.BUILTIN).mismatches for c in cases) or None


MUTANTS = (
    ("the matrix's zero point is forgotten", _no_zero_point, _differs),
    ("codes of other accumulators", _another_kernel, _hunt),
)


@pytest.mark.parametrize("name,mutate,found", MUTANTS, ids=[m[0] for m in MUTANTS])
def test_mutants_are_caught(name: str, mutate: Callable, found: Callable, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    assert found() is not None, name
