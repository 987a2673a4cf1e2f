"""What the executors do not know exactly is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qebgate.errors import DataError, ModelError, UnsupportedError
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.execute import run_int
from qebgate.semantics.registry import SEMANTICS
from tests.semantics.compare import load
from tests.support.tflite_builder import Builder

Q = {"scale": 0.5, "zero_point": 0}


def _conv_without_bias(b: Builder) -> tuple[int, int]:
    x, y = b.tensor((1, 4, 4, 1), "int8", **Q), b.tensor((1, 4, 4, 1), "int8", **Q)
    w = b.tensor((1, 1, 1, 1), "int8", data=[3], **Q)
    b.op("CONV_2D", [x, w, -1], [y], padding=1, stride_h=1, stride_w=1)
    return x, y


def _dense(
    b: Builder,
    *,
    x_type: str = "int8",
    w_scale: object = 0.5,
    zero: int = 0,
    bias: int = 0,
    axis: int = 0,
    bias_options: dict | None = None,
) -> tuple[int, int]:
    x, y = b.tensor((1, 4), x_type, **Q), b.tensor((1, 4), x_type, **Q)
    w = b.tensor((4, 4), "int8", data=np.full((4, 4), 127), scale=w_scale, zero_point=zero, axis=axis)
    options = {"scale": 0.5 * np.asarray(w_scale)} if bias_options is None else bias_options
    c = b.tensor((4,), "int32", data=np.full(4, bias), **options)
    b.op("FULLY_CONNECTED", [x, w, c], [y], version=4)
    return x, y


def _depthwise_multiplier(b: Builder) -> tuple[int, int]:
    x, y = b.tensor((1, 4, 4, 2), "int8", **Q), b.tensor((1, 4, 4, 4), "int8", **Q)
    w = b.tensor((1, 1, 1, 4), "int8", data=[1, 2, 3, 4], **Q)
    c = b.tensor((4,), "int32", data=[0] * 4, scale=0.25)
    b.op("DEPTHWISE_CONV_2D", [x, w, c], [y], padding=1, stride_h=1, stride_w=1, depth_multiplier=1)
    return x, y


def _unary(
    op: str, x: dict, y: dict, shape: tuple[int, ...] = (1, 4), version: int = 2, **options: object
) -> Callable[[Builder], tuple[int, int]]:
    def make(b: Builder) -> tuple[int, int]:
        i, o = b.tensor(shape, **x), b.tensor(shape, **y)
        b.op(op, [i], [o], version=version, **options)
        return i, o

    return make


def _add_far(b: Builder) -> tuple[int, int]:
    x, y = b.tensor((1, 4), "int8", scale=200.0), b.tensor((1, 4), "int8", scale=0.5)
    b.op("ADD", [x, x], [y], version=2)
    return x, y


def _live_weights(b: Builder) -> tuple[int, int]:
    x, y = b.tensor((4, 4), "int8", **Q), b.tensor((4, 4), "int8", **Q)
    b.op("FULLY_CONNECTED", [x, x, -1], [y], version=4)
    return x, y


def _mean_without_axes(b: Builder) -> tuple[int, int]:
    x, y = b.tensor((1, 4, 4, 2), "int8", **Q), b.tensor((1, 2), "int8", **Q)
    a = b.tensor((2,), "int32", data=[1, 7])
    b.op("MEAN", [x, a], [y], version=2)
    return x, y


def _negative_pad(b: Builder) -> tuple[int, int]:
    x, y = b.tensor((1, 4), "int8", **Q), b.tensor((1, 3), "int8", **Q)
    p = b.tensor((2, 2), "int32", data=[(0, 0), (-1, 0)])
    b.op("PAD", [x, p], [y], version=2)
    return x, y


def _wrong_shape(b: Builder) -> tuple[int, int]:
    x, y = b.tensor((1, 5, 5, 1), "int8", **Q), b.tensor((1, 5, 5, 1), "int8", **Q)
    b.op("MAX_POOL_2D", [x], [y], version=2, padding=1, stride_h=2, stride_w=2, filter_height=2, filter_width=2)
    return x, y


def _division(constant: int, scale: float = 0.5, dtype: str = "int8") -> Callable[[Builder], tuple[int, int]]:
    def make(b: Builder) -> tuple[int, int]:
        about = {"scale": 0.5} if dtype == "int8" else {}
        x, y = b.tensor((1, 4), dtype, **about), b.tensor((1, 4), dtype, **({"scale": scale} if about else {}))
        c = b.tensor((1,), dtype, data=[constant], **about)
        b.op("DIV", [x, c], [y], version=2)
        return x, y

    return make


def _squares(scale: float) -> Callable[[Builder], tuple[int, int]]:
    def make(b: Builder) -> tuple[int, int]:
        x, y = b.tensor((1, 4), "int8", **Q), b.tensor((1, 4), "int8", scale=scale)
        b.op("SQUARED_DIFFERENCE", [x, x], [y], version=2)
        return x, y

    return make


I8 = {"dtype": "int8", **Q}
REFUSED: dict[str, tuple[Callable[[Builder], tuple[int, int]], str]] = {
    "conv without a bias": (_conv_without_bias, "without a bias"),
    "uint8 arithmetic": (lambda b: _dense(b, x_type="uint8"), "int8 or int16"),
    "int16 activations with a bias of 32 bits": (lambda b: _dense(b, x_type="int16"), "int64"),
    "asymmetric weights": (lambda b: _dense(b, zero=3), "zero point"),
    "multiplier too large": (lambda b: _dense(b, w_scale=600.0), "multiplier"),
    "depth multiplier": (_depthwise_multiplier, "depth multiplier"),
    "bias without a scale": (lambda b: _dense(b, bias_options={}), "bias"),
    "bias with a zero point": (lambda b: _dense(b, bias_options={"scale": 0.25, "zero_point": 1}), "zero point"),
    "bias of another scale": (lambda b: _dense(b, bias_options={"scale": 0.3}), "product"),
    "accumulator overflow": (lambda b: _dense(b, bias=2**31 - 1), "overflow 32 bits"),
    "other channel axis": (lambda b: _dense(b, w_scale=[0.5, 0.5, 0.25, 0.5], axis=1), "another axis"),
    "computed weights": (_live_weights, "not constant"),
    "a constant divisor of 0": (_division(0), "constant of 0"),
    "a constant divisor of 0 in float": (_division(0, dtype="float32"), "constant of 0"),
    "a quotient that is shifted away": (_division(100, scale=30.0), "more than 31 bits"),
    "a square that aborts": (_squares(2.0**-15), "aborts"),
    "log softmax output scale": (_unary("LOG_SOFTMAX", I8, I8), "1/16"),
    "softmax output scale": (_unary("SOFTMAX", I8, I8, beta=1.0), "1/256"),
    "softmax without beta": (
        _unary("SOFTMAX", I8, {"dtype": "int8", "scale": 1 / 256, "zero_point": -128}, beta=0.0),
        "beta",
    ),
    "logistic output scale": (_unary("LOGISTIC", I8, I8), "0.00390625"),
    "tanh output scale": (_unary("TANH", I8, I8), "0.0078125"),
    "quantize int8 to int16": (
        _unary("QUANTIZE", {"dtype": "int8", **Q}, {"dtype": "int16", **Q}),
        "int16 from float32",
    ),
    "dequantize int32": (_unary("DEQUANTIZE", {"dtype": "int32", **Q}, {"dtype": "float32"}), "uint8 or int16"),
    "add beyond 16 bits": (_add_far, "16 bits"),
    "mean over a missing axis": (_mean_without_axes, "axis that does not exist"),
    "negative padding": (_negative_pad, "negative"),
    "output shape": (_wrong_shape, "shape"),
    "reshape with another scale": (
        _unary("RESHAPE", I8, {"dtype": "int8", "scale": 0.25}, version=1),
        "different scales",
    ),
    "limits out of reach": (_unary("RELU6", {**I8, "scale": 1e-9}, {**I8, "scale": 1e-9}), "limits"),
    "unknown activation": (
        _unary(
            "MAX_POOL_2D",
            I8,
            I8,
            (1, 1, 1, 1),
            padding=1,
            stride_h=1,
            stride_w=1,
            filter_height=1,
            filter_width=1,
            fused_activation=5,
        ),
        "activation",
    ),
    "no stride": (
        _unary("MAX_POOL_2D", I8, I8, (1, 1, 1, 1), padding=1, stride_h=0, stride_w=1, filter_height=1, filter_width=1),
        "stride",
    ),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_by_name(name: str) -> None:
    make, words = REFUSED[name]
    b = Builder()
    x, y = make(b)
    with pytest.raises(ModelError) as caught:
        load(b.build([x], [y]))
    text = str(caught.value)
    assert words in text
    assert "operator #0" in text or "tensor" in text


def _long_softmax() -> bytes:
    b = Builder()
    x = b.tensor((1, 512), "int8", scale=0.1, zero_point=0)
    y = b.tensor((1, 512), "int8", scale=1 / 256, zero_point=-128)
    b.op("SOFTMAX", [x], [y], version=2, beta=1.0)
    return b.build([x], [y])


def test_a_long_softmax_is_refused_in_the_runtime_that_aborts_on_it() -> None:
    graph = load(_long_softmax())
    x = np.zeros((1, 1, 512), np.int8)
    with pytest.raises(UnsupportedError, match="512"):
        run_int(graph, x, Runtime.REFERENCE)
    with pytest.raises(UnsupportedError, match="512"):
        SEMANTICS["SOFTMAX"].rounding(graph.nodes[0], graph, Runtime.REFERENCE)
    assert run_int(graph, x, Runtime.BUILTIN)[1].shape == (1, 1, 512)


@pytest.mark.parametrize("value", [np.nan, 1e30, -np.inf])
def test_inputs_beyond_the_kernels_are_refused(value: float) -> None:
    b = Builder()
    x, y = b.tensor((1, 3), "float32"), b.tensor((1, 3), "int8", scale=0.5, zero_point=3)
    b.op("QUANTIZE", [x], [y], version=1)
    graph = load(b.build([x], [y]))
    with pytest.raises(DataError):
        run_int(graph, np.full((1, 1, 3), value, np.float32), Runtime.BUILTIN)
