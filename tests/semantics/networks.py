"""Random quantized networks that use every operator, as converters chain them."""

from __future__ import annotations

import numpy as np

from tests.semantics.cases import Case, Rng, codes, output_shape, pick, zero_of
from tests.support.tflite_builder import Builder

_SAME, _VALID = 0, 1


class _Net:
    """A builder with a current tensor: index, shape, scale, zero point."""

    def __init__(self, rng: Rng) -> None:
        self.rng, self.b = rng, Builder()

    def tensor(self, shape: tuple[int, ...], scale: float, zero: int) -> int:
        self.shape, self.scale, self.zero = shape, float(np.float32(scale)), zero
        self.at = self.b.tensor(shape, "int8", scale=self.scale, zero_point=zero)
        return self.at

    def linear(self, op: str, w: np.ndarray, axis: int, shape: tuple[int, ...], **options) -> None:
        rng, x, s_in = self.rng, self.at, self.scale
        s_w = rng.uniform(0.002, 0.01, w.shape[axis] if rng.random() < 0.6 else 1).astype(np.float32)
        wi = self.b.tensor(w.shape, "int8", data=w, scale=s_w, axis=axis if s_w.size > 1 else 0)
        reduce = tuple(a for a in range(w.ndim) if a != axis)
        reach = float(np.sqrt((w.astype(float) ** 2).sum(axis=reduce)).max()) * 60 + 1
        bias = rng.integers(-int(reach), int(reach) + 1, w.shape[axis])
        bi = self.b.tensor(bias.shape, "int32", data=bias, scale=s_w.astype(np.float64) * s_in)
        act = int(pick(rng, 0, 1, 3))
        self.tensor(shape, reach * s_in * float(s_w.max()) / pick(rng, 60, 120), -128 if act else zero_of(rng))
        self.b.op(op, [x, wi, bi], [self.at], version=3, fused_activation=act, **options)

    def conv(self, channels: int, kernel: int, stride: int, same: bool) -> None:
        _, h, w, c = self.shape
        p, q = output_shape(h, w, (kernel, kernel), (stride, stride), (1, 1), same)
        weights = np.maximum(codes(self.rng, (channels, kernel, kernel, c)), -127)
        self.linear(
            "CONV_2D", weights, 0, (1, p, q, channels),
            padding=_SAME if same else _VALID, stride_h=stride, stride_w=stride,
        )  # fmt: skip

    def depthwise(self, stride: int) -> None:
        _, h, w, c = self.shape
        p, q = output_shape(h, w, (3, 3), (stride, stride), (1, 1), True)
        weights = np.maximum(codes(self.rng, (1, 3, 3, c)), -127)
        self.linear(
            "DEPTHWISE_CONV_2D", weights, 3, (1, p, q, c), depth_multiplier=1,
            padding=_SAME, stride_h=stride, stride_w=stride,
        )  # fmt: skip

    def pad(self) -> None:
        x, (n, h, w, c) = self.at, self.shape
        top, left = (int(v) for v in self.rng.integers(0, 3, 2))
        p = self.b.tensor((4, 2), "int32", data=[(0, 0), (top, 1), (1, left), (0, 0)])
        self.tensor((n, h + top + 1, w + left + 1, c), self.scale, self.zero)
        self.b.op("PAD", [x, p], [self.at], version=2)

    def residual(self) -> None:
        skip, scale, channels = self.at, self.scale, self.shape[3]
        self.conv(channels, 3, 1, same=True)
        y = self.at
        self.tensor(self.shape, max(scale, self.scale) * 1.3, -128)
        self.b.op("ADD", [skip, y], [self.at], version=2, fused_activation=int(pick(self.rng, 0, 1)))

    def relu(self) -> None:
        x = self.at
        self.tensor(self.shape, self.scale * float(pick(self.rng, 1.0, 0.6)), pick(self.rng, -128, self.zero))
        self.b.op(pick(self.rng, "RELU", "RELU6"), [x], [self.at], version=2)

    def requantize(self) -> None:
        x = self.at
        self.tensor(self.shape, self.scale * float(self.rng.uniform(0.5, 1.5)), zero_of(self.rng))
        self.b.op("QUANTIZE", [x], [self.at], version=2)

    def pool(self, op: str) -> None:
        x, (n, h, w, c) = self.at, self.shape
        p, q = output_shape(h, w, (2, 2), (2, 2), (1, 1), True)
        self.tensor((n, p, q, c), self.scale, self.zero)
        self.b.op(op, [x], [self.at], version=2, padding=_SAME, stride_h=2, stride_w=2, filter_height=2, filter_width=2)

    def flatten(self) -> None:
        x, (n, h, w, c) = self.at, self.shape
        if self.rng.random() < 0.5:
            keep = bool(self.rng.integers(2))
            axes = self.b.tensor((2,), "int32", data=[1, 2])
            self.tensor((1, 1, 1, c) if keep else (1, c), self.scale * float(pick(self.rng, 1.0, 0.8)), self.zero)
            self.b.op("MEAN", [x, axes], [self.at], version=2, keep_dims=keep)
            x = self.at
            h = w = 1
        if len(self.shape) == 4:
            target = self.b.tensor((2,), "int32", data=[1, n * h * w * c])
            self.tensor((1, n * h * w * c), self.scale, self.zero)
            self.b.op("RESHAPE", [x, target], [self.at])

    def head(self) -> None:
        op = pick(self.rng, "SOFTMAX", "LOGISTIC", "TANH", None)
        if op is not None:
            x = self.at
            self.tensor(self.shape, *((1 / 128, 0) if op == "TANH" else (1 / 256, -128)))
            self.b.op(op, [x], [self.at], version=2, **({"beta": 1.0} if op == "SOFTMAX" else {}))


def network(rng: Rng, batch: int = 20) -> Case:
    """A random network and inputs for it; the last three operators before the end are FULLY_CONNECTED and a head."""
    net = _Net(rng)
    shape = (1, *(int(v) for v in rng.integers(5, 12, 2)), int(rng.integers(1, 5)))
    outside = pick(rng, "int8", "uint8", "float32")
    scale, zero = 0.02, int(pick(rng, -128, 0, 3))
    if outside == "int8":
        source, x = net.tensor(shape, scale, zero), codes(rng, (batch, *shape))
    elif outside == "uint8":
        source = net.b.tensor(shape, "uint8", scale=scale, zero_point=zero + 128)
        net.b.op("QUANTIZE", [source], [net.tensor(shape, scale, zero)], version=2)
        x = codes(rng, (batch, *shape), "uint8")
    else:
        source = net.b.tensor(shape, "float32")
        net.b.op("QUANTIZE", [source], [net.tensor(shape, scale, zero)], version=2)
        x = ((rng.integers(-300, 300, (batch, *shape)) + 0.5) * 0.01).astype(np.float32)
    for _ in range(int(rng.integers(2, 6))):
        pick(
            rng,
            lambda: net.conv(int(rng.integers(1, 20)), int(pick(rng, 1, 3)), int(pick(rng, 1, 2)), same=True),
            lambda: (net.pad(), net.conv(int(rng.integers(1, 20)), 3, 1, same=False)),
            lambda: net.depthwise(int(pick(rng, 1, 2))),
            net.residual,
            net.relu,
            net.requantize,
            lambda: net.pool("AVERAGE_POOL_2D"),
            lambda: net.pool("MAX_POOL_2D"),
        )()
    net.flatten()
    m = int(rng.integers(1, 12))
    net.linear("FULLY_CONNECTED", np.maximum(codes(rng, (m, net.shape[1])), -127), 0, (1, m))
    net.head()
    y = net.at
    if outside == "uint8":
        y = net.b.tensor(net.shape, "uint8", scale=net.scale, zero_point=net.zero + 128)
        net.b.op("QUANTIZE", [net.at], [y], version=2)
    elif outside == "float32":
        y = net.b.tensor(net.shape, "float32")
        net.b.op("DEQUANTIZE", [net.at], [y], version=2)
    return Case("network", net.b.build([source], [y]), x)
