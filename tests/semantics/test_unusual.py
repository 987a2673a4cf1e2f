"""Shapes that converters rarely write: other ranks, several batches, three-dimensional dense layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.runtimes.replay import Replayer
from qebgate.semantics.delegation import owner
from qebgate.semantics.execute import run_int
from tests.semantics.cases import codes
from tests.semantics.compare import interpret, load
from tests.support.tflite_builder import Builder

Shape = tuple[int, ...]


def _pad(shape: Shape, amounts: list[tuple[int, int]]) -> Callable[[Builder], tuple[int, int]]:
    def make(b: Builder) -> tuple[int, int]:
        x = b.tensor(shape, "int8", scale=0.3, zero_point=-7)
        p = b.tensor((len(shape), 2), "int32", data=amounts)
        y = b.tensor([n + sum(a) for n, a in zip(shape, amounts, strict=True)], "int8", scale=0.3, zero_point=-7)
        b.op("PAD", [x, p], [y], version=2)
        return x, y

    return make


def _mean(shape: Shape, axes: Shape, keep: bool) -> Callable[[Builder], tuple[int, int]]:
    def make(b: Builder) -> tuple[int, int]:
        x = b.tensor(shape, "int8", scale=0.31, zero_point=11)
        a = b.tensor((len(axes),), "int32", data=list(axes))
        gone = {a % len(shape) for a in axes}
        out = [1 if k in gone else n for k, n in enumerate(shape) if keep or k not in gone]
        y = b.tensor(out, "int8", scale=0.248, zero_point=-3)
        b.op("MEAN", [x, a], [y], version=2, keep_dims=keep)
        return x, y

    return make


def _dense(shape: Shape, out: Shape, keep: bool) -> Callable[[Builder], tuple[int, int]]:
    def make(b: Builder) -> tuple[int, int]:
        rng = np.random.default_rng(5)
        x = b.tensor(shape, "int8", scale=0.02, zero_point=3)
        w = b.tensor((out[-1], shape[-1]), "int8", data=codes(rng, (out[-1], shape[-1])), scale=0.01)
        y = b.tensor(out, "int8", scale=0.2, zero_point=-5)
        b.op("FULLY_CONNECTED", [x, w, -1], [y], version=5, keep_num_dims=keep)
        return x, y

    return make


def _add(shape: Shape, other: Shape, out: Shape) -> Callable[[Builder], tuple[int, int]]:
    def make(b: Builder) -> tuple[int, int]:
        rng = np.random.default_rng(6)
        x = b.tensor(shape, "int8", scale=0.02, zero_point=3)
        c = b.tensor(other, "int8", data=codes(rng, other), scale=0.03, zero_point=-8)
        y = b.tensor(out, "int8", scale=0.035, zero_point=-5)
        b.op("ADD", [x, c], [y], version=2)
        return x, y

    return make


def _conv_of_batches(depthwise: bool) -> Callable[[Builder], tuple[int, int]]:
    def make(b: Builder) -> tuple[int, int]:
        rng = np.random.default_rng(7)
        x = b.tensor((3, 5, 6, 4), "int8", scale=0.02, zero_point=3)
        shape = (1, 3, 3, 8) if depthwise else (8, 3, 3, 4)
        s_w = rng.uniform(0.01, 0.02, 8).astype(np.float32)
        w = b.tensor(shape, "int8", data=codes(rng, shape), scale=s_w, axis=3 if depthwise else 0)
        bias = b.tensor((8,), "int32", data=rng.integers(-999, 999, 8), scale=s_w.astype(np.float64) * 0.02)
        y = b.tensor((3, 5, 6, 8), "int8", scale=0.35, zero_point=-5)
        more = {"depth_multiplier": 2} if depthwise else {}
        op = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        b.op(op, [x, w, bias], [y], version=3, padding=0, stride_h=1, stride_w=1, **more)
        return x, y

    return make


def _unary(op: str, shape: Shape, x: dict, y: dict, **options: object) -> Callable[[Builder], tuple[int, int]]:
    def make(b: Builder) -> tuple[int, int]:
        i, o = b.tensor(shape, **x), b.tensor(shape, **y)
        b.op(op, [i], [o], version=2, **options)
        return i, o

    return make


def _wide_dense() -> Callable[[Builder], tuple[int, int]]:
    """Accumulators beyond 2**24, which a float32 product could not hold."""

    def make(b: Builder) -> tuple[int, int]:
        x = b.tensor((1, 3000), "int8", scale=0.02, zero_point=-128)
        w = b.tensor((2, 3000), "int8", data=np.full((2, 3000), 127) - np.arange(6000).reshape(2, 3000) % 2, scale=0.01)
        y = b.tensor((1, 2), "int8", scale=0.02 * 0.01 * 2.0**20, zero_point=-128)
        b.op("FULLY_CONNECTED", [x, w, -1], [y], version=4)
        return x, y

    return make


I8 = {"dtype": "int8", "scale": 0.1, "zero_point": 3}
P256 = {"dtype": "int8", "scale": 1 / 256, "zero_point": -128}
F32 = {"dtype": "float32"}
UNUSUAL: dict[str, Callable[[Builder], tuple[int, int]]] = {
    "pad 1d": _pad((7,), [(2, 3)]),
    "pad 2d": _pad((1, 7), [(0, 0), (2, 3)]),
    "pad 3d": _pad((1, 4, 7), [(0, 0), (1, 0), (2, 3)]),
    "pad 5d": _pad((1, 2, 3, 2, 3), [(0, 0), (1, 0), (2, 3), (0, 1), (1, 1)]),
    "pad batch": _pad((1, 2, 3, 2), [(1, 2), (1, 0), (2, 3), (0, 1)]),
    "pad nothing": _pad((1, 2, 3, 2), [(0, 0)] * 4),
    "mean 2d": _mean((4, 37), (1,), keep=False),
    "mean 2d kept": _mean((4, 37), (-1,), keep=True),
    "mean of the batch": _mean((4, 3, 3, 5), (0,), keep=False),
    "mean of everything": _mean((1, 3, 3, 5), (0, 1, 2, 3), keep=True),
    "mean 5d": _mean((1, 3, 3, 5, 2), (2, 3), keep=False),
    "mean 3d kept": _mean((1, 9, 16), (1,), keep=True),
    "mean height width of batches": _mean((2, 3, 3, 17), (1, 2), keep=True),
    "mean height width reversed": _mean((1, 3, 3, 33), (2, 1), keep=True),
    "mean of single pixels": _mean((1, 1, 1, 33), (1, 2), keep=True),
    "mean axis twice": _mean((1, 3, 5, 4), (1, 1), keep=False),
    "mean of one axis of four": _mean((1, 3, 5, 20), (2,), keep=True),
    "dense of rows": _dense((6, 40), (6, 9), keep=False),
    "dense 3d kept": _dense((1, 6, 40), (1, 6, 9), keep=True),
    "dense 3d flattened": _dense((1, 6, 40), (6, 9), keep=False),
    "dense 4d kept": _dense((1, 2, 3, 40), (1, 2, 3, 9), keep=True),
    "dense beyond float32": _wide_dense(),
    "add of ranks": _add((1, 4, 5, 6), (5, 6), (1, 4, 5, 6)),
    "add widening": _add((1, 1, 5, 1), (1, 4, 1, 6), (1, 4, 5, 6)),
    "add 5d": _add((1, 2, 2, 3, 4), (1, 2, 1, 3, 4), (1, 2, 2, 3, 4)),
    "add 1d": _add((40,), (1,), (40,)),
    "convolution of batches": _conv_of_batches(depthwise=False),
    "depthwise convolution of batches": _conv_of_batches(depthwise=True),
    "quantize batches": _unary("QUANTIZE", (3, 5), F32, I8),
    "requantize batches": _unary("QUANTIZE", (3, 5, 7), I8, {"dtype": "int8", "scale": 0.07, "zero_point": -3}),
    "dequantize batches": _unary("DEQUANTIZE", (3, 5), I8, F32),
    "softmax 3d": _unary("SOFTMAX", (2, 3, 5), I8, P256, beta=1.0),
    "softmax 1d": _unary("SOFTMAX", (9,), I8, P256, beta=1.0),
    "logistic 3d": _unary("LOGISTIC", (2, 3, 5), I8, P256),
    "relu 1d": _unary("RELU", (50,), I8, I8),
}


def _behind_reshape(name: str) -> tuple[bytes, np.ndarray]:
    """The operator after a RESHAPE from ``(1, n)``: a model's own input must have a batch of 1."""
    b = Builder()
    x, y = UNUSUAL[name](b)
    t = b.graph.tensors[x]
    shape = tuple(int(n) for n in t.shape)
    size, rng = int(np.prod(shape)), np.random.default_rng(8)
    if t.quantization is None:
        flat, data = b.tensor((1, size)), rng.normal(size=(30, 1, size)).astype(np.float32) * 5
    else:
        flat = b.tensor((1, size), "int8", scale=t.quantization.scale, zero_point=t.quantization.zeroPoint)
        data = np.concatenate([codes(rng, (1, 1, size)) for _ in range(30)])
    b.op("RESHAPE", [flat, b.tensor((len(shape),), "int32", data=list(shape))], [x])
    b.graph.operators.insert(0, b.graph.operators.pop())
    return b.build([flat], [y]), data


@pytest.mark.parametrize("name", sorted(UNUSUAL))
def test_unusual(name: str) -> None:
    model, data = _behind_reshape(name)
    graph = load(model)
    for runtime in DEPLOYED:
        theirs, _ = interpret(model, data, runtime)
        np.testing.assert_array_equal(run_int(graph, data, runtime)[graph.outputs[0]], theirs, err_msg=runtime.value)
    with Replayer(model, Runtime.XNNPACK) as r:
        taken = [o.delegated for o in r.operators]
    assert taken == [owner(n, graph, Runtime.XNNPACK) is Runtime.XNNPACK for n in graph.nodes]
