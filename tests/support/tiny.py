"""Tiny models that many tests start from."""

from __future__ import annotations

import numpy as np

from tests.support.tflite_builder import Builder


def dense_int8(inputs: int = 4, outputs: int = 3, *, seed: int = 0) -> tuple[Builder, list[int], list[int]]:
    """FULLY_CONNECTED with RELU on int8, per-channel weights and a bias: builder, inputs, outputs."""
    rng = np.random.default_rng(seed)
    b = Builder()
    scale = rng.uniform(0.01, 0.02, outputs)
    x = b.tensor((1, inputs), "int8", scale=0.05, zero_point=-3, name="x")
    w = b.tensor((outputs, inputs), "int8", data=rng.integers(-127, 128, (outputs, inputs)), scale=scale, name="w")
    c = b.tensor((outputs,), "int32", data=rng.integers(-999, 999, outputs), scale=scale * 0.05, name="b")
    y = b.tensor((1, outputs), "int8", scale=0.1, zero_point=5, name="y")
    b.op("FULLY_CONNECTED", [x, w, c], [y], fused_activation=1, version=4)
    return b, [x], [y]


def dense_float(inputs: int = 4, outputs: int = 3, *, seed: int = 0) -> tuple[Builder, list[int], list[int]]:
    """FULLY_CONNECTED with RELU in float32: builder, inputs, outputs."""
    rng = np.random.default_rng(seed)
    b = Builder()
    x = b.tensor((1, inputs), name="x")
    w = b.tensor((outputs, inputs), data=rng.normal(size=(outputs, inputs)), name="w")
    c = b.tensor((outputs,), data=rng.normal(size=outputs), name="b")
    y = b.tensor((1, outputs), name="y")
    b.op("FULLY_CONNECTED", [x, w, c], [y], fused_activation=1)
    return b, [x], [y]


def network_int8() -> bytes:
    """QUANTIZE, PAD, CONV_2D, DEPTHWISE_CONV_2D, pools, ADD, RESHAPE, MEAN, FULLY_CONNECTED, SOFTMAX, DEQUANTIZE."""
    rng = np.random.default_rng(1)
    b = Builder()

    def act(shape: tuple[int, ...], scale: float = 0.05, zero_point: int = 2) -> int:
        return b.tensor(shape, "int8", scale=scale, zero_point=zero_point)

    def weights(shape: tuple[int, ...], axis: int, channels: int) -> tuple[int, int]:
        w = b.tensor(shape, "int8", data=rng.integers(-127, 128, shape), scale=np.full(channels, 0.01), axis=axis)
        return w, b.tensor((channels,), "int32", data=rng.integers(-99, 99, channels), scale=np.full(channels, 0.0005))

    x = b.tensor((1, 6, 6, 2), name="x")
    q, p = act((1, 6, 6, 2)), act((1, 8, 8, 2))
    b.op("QUANTIZE", [x], [q])
    b.op("PAD", [q, b.tensor((4, 2), "int32", data=[[0, 0], [1, 1], [1, 1], [0, 0]])], [p], version=2)
    c, d, m, a, s, f, r = (act(t) for t in [(1, 6, 6, 3)] * 2 + [(1, 3, 3, 3)] * 2 + [(1, 3, 3, 3), (1, 27), (1, 3)])
    b.op(
        "CONV_2D",
        [p, *weights((3, 3, 3, 2), 0, 3)],
        [c],
        padding=1,
        stride_w=1,
        stride_h=1,
        fused_activation=1,
        version=3,
    )
    b.op(
        "DEPTHWISE_CONV_2D",
        [c, *weights((1, 3, 3, 3), 3, 3)],
        [d],
        stride_w=1,
        stride_h=1,
        depth_multiplier=1,
        fused_activation=3,
        version=3,
    )
    b.op("MAX_POOL_2D", [d], [m], stride_w=2, stride_h=2, filter_width=2, filter_height=2, version=2)
    b.op("AVERAGE_POOL_2D", [d], [a], stride_w=2, stride_h=2, filter_width=2, filter_height=2, version=2)
    b.op("ADD", [m, a], [s], version=2)
    b.op("RESHAPE", [s, b.tensor((2,), "int32", data=[1, 27])], [f])
    b.op("FULLY_CONNECTED", [f, *weights((3, 27), 0, 3)], [r], version=4)
    o, y = act((1, 3), 1 / 256, -128), b.tensor((1, 3), name="y")
    b.op("SOFTMAX", [r], [o], beta=1.0, version=2)
    b.op("DEQUANTIZE", [o], [y], version=2)
    return b.build([x], [y])
