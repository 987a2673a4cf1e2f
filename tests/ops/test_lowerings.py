"""Lowerings where the two graphs differ in more than numbers, and the bounds of sigmoids and softmax."""

from __future__ import annotations

import numpy as np
import pytest

from qebgate.domains.gap import Gap, Interval
from qebgate.engines.dra.analysis import Settings
from qebgate.errors import AlignmentError, UnsupportedError
from qebgate.ops.curves import moved_by
from qebgate.ops.registry import lower
from qebgate.ops.shapes import LOGISTIC, TANH
from qebgate.ops.squashing import _softmax, _softmax_gap
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from tests.laws.contain import Seen, check, samples
from tests.laws.pairs import Twins, codec_of, grid_cell, load, task_of
from tests.support.tflite_builder import Builder

LONG = np.longdouble
OWN = 2.0**-55


def reshaped_pair(op: str, reshape: tuple[int, ...] | None) -> Twins:
    """MEAN or ADD on (1, 2, 3, 4) in the float model; the quantized one may reshape the input before."""

    def build(quantized: bool) -> bytes:
        b = Builder()

        def tensor(shape: tuple[int, ...]) -> int:
            return b.tensor(shape, "int8", scale=0.05, zero_point=3) if quantized else b.tensor(shape)

        shape = (1, 2, 3, 4)
        x = at = tensor(shape)
        if quantized and reshape is not None and op == "MEAN":
            shape = reshape
            at = tensor(shape)
            b.op("RESHAPE", [x, b.tensor((len(shape),), "int32", data=list(shape))], [at])
        if op == "MEAN":
            y = tensor((1, *(n for k, n in enumerate(shape) if k == 2)))
            b.op("MEAN", [at, b.tensor((2,), "int32", data=[1, 3])], [y], version=2, keep_dims=False)
        else:
            y = tensor((1, 4, 3, 4))
            same = tensor((1, 4, 3, 4))
            w = b.tensor((4, 2), "int32", data=[[0, 0], [1, 1], [0, 0], [0, 0]])
            b.op("PAD", [x, w], [same], version=2)
            c = tensor((1, 1, 1, 4))
            b.op("MEAN", [x, b.tensor((2,), "int32", data=[1, 2])], [c], version=2, keep_dims=True)
            if quantized and reshape is not None:
                d = tensor(reshape)
                b.op("RESHAPE", [c, b.tensor((len(reshape),), "int32", data=list(reshape))], [d])
                c = d
            b.op("ADD", [same, c], [y], version=2)
        return b.build([x], [y])

    return load(build(False), build(True))


def contained(twins: Twins) -> Seen:
    seen, rng = Seen(), np.random.default_rng(0)
    codec = codec_of(twins.pair)
    for runtime in DEPLOYED:
        task = task_of(twins.pair, grid_cell(twins.pair, codec, rng), codec, runtime, "real")
        check(task, samples(task, rng, 60), Settings(), seen)
    return seen


@pytest.mark.parametrize("reshape", [None, (1, 2, 3, 4), (1, 1, 3, 8)])
def test_a_mean_behind_a_reshape_that_changes_nothing(reshape: tuple[int, ...] | None) -> None:
    """(1, 1, 3, 8) averages other entries: refused.  The others are the same network, and sound."""
    twins = reshaped_pair("MEAN", reshape)
    if reshape == (1, 1, 3, 8):
        with pytest.raises(AlignmentError) as e:
            lower(twins.pair, Runtime.BUILTIN, float32=False)
        assert e.value.code == "QEB470"
    else:
        assert not contained(twins).violations


def test_an_add_that_broadcasts_another_way_is_refused() -> None:
    assert not contained(reshaped_pair("ADD", None)).violations
    twins = reshaped_pair("ADD", (1, 4, 1, 1))
    with pytest.raises(AlignmentError) as e:
        lower(twins.pair, Runtime.BUILTIN, float32=False)
    assert e.value.code == "QEB470"


def in_float(op: str, quantized: bool) -> bytes:
    """An operator in float32 behind a QUANTIZE and a DEQUANTIZE, or alone."""
    b = Builder()
    x = b.tensor((1, 4))
    at = x
    if quantized:
        at, q = b.tensor((1, 4)), b.tensor((1, 4), "int8", scale=0.05)
        b.op("QUANTIZE", [x], [q], version=2)
        b.op("DEQUANTIZE", [q], [at], version=2)
    y = b.tensor((1, 4))
    b.op(op, [at, at] if op == "MUL" else [at], [y], **({"beta": 1.0} if op == "SOFTMAX" else {}))
    return b.build([x], [y])


@pytest.mark.parametrize("op", ["SOFTMAX", "LOGISTIC", "TANH"])
def test_a_float_operator_inside_a_quantized_model_is_bounded(op: str) -> None:
    assert not contained(load(in_float(op, False), in_float(op, True))).violations


def test_a_float_product_inside_a_quantized_model_is_named() -> None:
    with pytest.raises(UnsupportedError, match="MUL") as e:
        lower(load(in_float("MUL", False), in_float("MUL", True)).pair, Runtime.BUILTIN, float32=True)
    assert e.value.code == "QEB435"


def boxes(rng: np.random.Generator, n: int, size: float) -> tuple[Gap, np.ndarray, np.ndarray]:
    """A random gap of n entries, and 40 concrete (h, delta) of it."""
    lo = rng.normal(size=n) * size
    hi = lo + np.abs(rng.normal(size=n)) * size * rng.choice([0.0, 1e-9, 0.1, 3.0])
    dlo = rng.normal(size=n) * size * rng.choice([1e-6, 0.1, 1.0])
    dhi = dlo + np.abs(rng.normal(size=n)) * size * rng.choice([0.0, 1e-6, 0.3])
    h = lo + (hi - lo) * np.round(rng.random((40, n)) * rng.choice([1, 3])) / 3
    d = dlo + (dhi - dlo) * np.where(rng.random((40, n)) < 0.7, rng.integers(0, 2, (40, n)), rng.random((40, n)))
    h, d = np.clip(h, lo, hi), np.clip(d, dlo, dhi)
    f, delta = Interval(lo, hi), Interval(dlo, dhi)
    return Gap(f, f.plus(delta), delta), h.astype(LONG), d.astype(LONG)


@pytest.mark.parametrize("name", ["logistic", "tanh"])
@pytest.mark.parametrize("seed", range(40))
def test_sigmoids(name: str, seed: int) -> None:
    curve = {"logistic": LOGISTIC, "tanh": TANH}[name]
    function = {"logistic": lambda v: 1 / (1 + np.exp(-v)), "tanh": np.tanh}[name]
    rng = np.random.default_rng(seed)
    x, h, d = boxes(rng, 30, float(10.0 ** rng.uniform(-3, 2.5)))
    y, moved = function(h), function(h + d) - function(h)
    image, change = curve.image(x.float), moved_by(curve, x)
    assert ((y >= image.lo - OWN) & (y <= image.hi + OWN)).all()
    assert ((moved >= change.lo - OWN) & (moved <= change.hi + OWN)).all()


@pytest.mark.parametrize("width", [1, 2, 3, 10])
@pytest.mark.parametrize("seed", range(30))
def test_softmax(width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    beta = float(rng.choice([1.0, 0.5, 1.7]))
    x, h, d = boxes(rng, 2 * width, float(10.0 ** rng.uniform(-3, 2.5)))

    def softmax(v: np.ndarray) -> np.ndarray:
        z = v.reshape(len(v), 2, width) * LONG(beta)
        e = np.exp(z - z.max(axis=2, keepdims=True))
        return (e / e.sum(axis=2, keepdims=True)).reshape(len(v), -1)

    p = softmax(h)
    bound = _softmax(x.float, beta, width)
    assert ((p >= bound.lo - OWN) & (p <= bound.hi + OWN)).all()
    moved, change = softmax(h + d) - p, _softmax_gap(bound, x.delta, beta, width)
    assert ((moved >= change.lo - OWN) & (moved <= change.hi + OWN)).all()
