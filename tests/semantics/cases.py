"""One-operator models on the nasty side, made at random from a seed; used by tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.semantics.draw import (
    HI,
    LO,
    Case,
    Rng,
    activation_of,
    codes,
    geometry,
    out_scale,
    output_shape,
    pick,
    scale_of,
    zero_of,
)
from tests.semantics.more_cases import MORE
from tests.support.tflite_builder import Builder

VERSIONS = {"FULLY_CONNECTED": 5, "TRANSPOSE_CONV": 4}


def _linear_scales(rng: Rng, acc: np.ndarray, s_in: float, channels: int) -> tuple[np.ndarray, float]:
    per_channel = bool(rng.integers(2))
    base = scale_of(rng)
    s_w = np.full(channels if per_channel else 1, base, np.float32)
    if per_channel:
        s_w = (
            base * (2.0 ** rng.integers(-3, 4, channels) if rng.random() < 0.4 else rng.uniform(0.1, 3.0, channels))
        ).astype(np.float32)
    spread = float(np.abs(acc).max()) * s_in * float(s_w.max())
    return s_w, out_scale(rng, spread, s_in * float(s_w.min()))


def _bias(rng: Rng, channels: int, reach: int) -> np.ndarray | None:
    kind = rng.integers(3)
    if kind == 0:
        return None
    return rng.integers(-reach, reach + 1, channels) if kind == 1 else rng.integers(-5, 6, channels)


def _add_linear(
    b: Builder,
    rng: Rng,
    op: str,
    x: int,
    w: np.ndarray,
    s_in: float,
    reach: float,
    y_shape: tuple[int, ...],
    axis: int,
    **options,
) -> int:
    channels = w.shape[axis]
    s_w, s_out = _linear_scales(rng, np.array([reach]), s_in, channels)
    wi = b.tensor(w.shape, "int8", data=w, scale=s_w, zero_point=0, axis=axis if s_w.size > 1 else 0)
    bias = _bias(rng, channels, int(min(reach, 1e6)))
    if bias is None and op != "FULLY_CONNECTED":  # the runtimes refuse (or crash on) such convolutions
        bias = np.zeros(channels)
    ins = [x, wi]
    if bias is None:
        ins += [-1] if rng.random() < 0.5 else []
    else:
        ins.append(b.tensor((channels,), "int32", data=bias, scale=(s_w.astype(np.float64) * s_in), zero_point=0))
    y = b.tensor(y_shape, "int8", scale=s_out, zero_point=zero_of(rng))
    b.op(op, ins, [y], fused_activation=activation_of(rng), version=VERSIONS.get(op, 3), **options)
    return y


def _typical(rng: Rng, w: np.ndarray, axis: int) -> float:
    """A typical accumulator: root of summed squares, times a typical input."""
    reduce = tuple(a for a in range(w.ndim) if a != axis)
    return float(np.sqrt((w.astype(float) ** 2).sum(axis=reduce)).max()) * 75 + 1


def fully_connected(rng: Rng, batch: int = 24) -> Case:
    n, m = int(rng.integers(1, 120)), int(rng.integers(1, 70))
    b, s_in = Builder(), scale_of(rng)
    x = b.tensor((1, n), "int8", scale=s_in, zero_point=zero_of(rng))
    w = codes(rng, (m, n))
    y = _add_linear(b, rng, "FULLY_CONNECTED", x, w, s_in, _typical(rng, w, 0), (1, m), 0)
    return Case("FULLY_CONNECTED", b.build([x], [y]), codes(rng, (batch, 1, n)))


def conv_2d(rng: Rng, batch: int = 6) -> Case:
    h, w_, k, s, d, same = geometry(rng)
    c, m = int(pick(rng, 1, 3, 8, rng.integers(1, 20))), int(pick(rng, 1, 8, rng.integers(1, 35)))
    b, s_in = Builder(), scale_of(rng)
    x = b.tensor((1, h, w_, c), "int8", scale=s_in, zero_point=zero_of(rng))
    w = codes(rng, (m, *k, c))
    p, q = output_shape(h, w_, k, s, d, same)
    y = _add_linear(
        b, rng, "CONV_2D", x, w, s_in, _typical(rng, w, 0), (1, p, q, m), 0,
        padding=0 if same else 1, stride_h=s[0], stride_w=s[1], dilation_h_factor=d[0], dilation_w_factor=d[1],
    )  # fmt: skip
    return Case("CONV_2D", b.build([x], [y]), codes(rng, (batch, 1, h, w_, c)))


def depthwise_conv_2d(rng: Rng, batch: int = 6) -> Case:
    h, w_, k, s, d, same = geometry(rng)
    if rng.random() < 0.5:
        k = (3, 3)
        h, w_ = max(h, 7), max(w_, 7)
    if k[0] != k[1] or s[0] != s[1]:
        s = (1, 1) if rng.random() < 0.5 else s
    c, mult = int(pick(rng, 1, 8, 16, rng.integers(1, 40))), int(pick(rng, 1, 1, 2, 3, 8))
    b, s_in = Builder(), scale_of(rng)
    x = b.tensor((1, h, w_, c), "int8", scale=s_in, zero_point=zero_of(rng))
    w = codes(rng, (1, *k, c * mult))
    p, q = output_shape(h, w_, k, s, d, same)
    y = _add_linear(
        b, rng, "DEPTHWISE_CONV_2D", x, w, s_in, _typical(rng, w, 3), (1, p, q, c * mult), 3, depth_multiplier=mult,
        padding=0 if same else 1, stride_h=s[0], stride_w=s[1], dilation_h_factor=d[0], dilation_w_factor=d[1],
    )  # fmt: skip
    return Case("DEPTHWISE_CONV_2D", b.build([x], [y]), codes(rng, (batch, 1, h, w_, c)))


def grouped_conv_2d(rng: Rng, batch: int = 6) -> Case:
    """CONV_2D in groups; seeds of :data:`CASES` stay as they are."""
    h, w_, k, s, d, same = geometry(rng)
    groups, depth, each = (int(pick(rng, *v)) for v in ((2, 3, 8), (1, 1, 2, 5), (1, 2, 3, 8)))
    b, s_in, c, m = Builder(), scale_of(rng), groups * depth, groups * each
    x = b.tensor((1, h, w_, c), "int8", scale=s_in, zero_point=zero_of(rng))
    w = codes(rng, (m, *k, depth))
    p, q = output_shape(h, w_, k, s, d, same)
    y = _add_linear(
        b, rng, "CONV_2D", x, w, s_in, _typical(rng, w, 0), (1, p, q, m), 0,
        padding=0 if same else 1, stride_h=s[0], stride_w=s[1], dilation_h_factor=d[0], dilation_w_factor=d[1],
    )  # fmt: skip
    return Case("CONV_2D", b.build([x], [y]), codes(rng, (batch, 1, h, w_, c)))


def transpose_conv(rng: Rng, batch: int = 6) -> Case:
    """Every output size that the transposed convolution can come from; sometimes without a bias."""
    same = bool(rng.integers(2))
    k, s, size = ([int(v) for v in rng.integers(1, n, 2)] for n in (5, 4, 6))
    if rng.random() < 0.5:
        s = [2, 2]
    larger = [int(rng.integers(n)) for n in s]
    out = [n * a - e if same else (n - 1) * a + b + e for n, a, b, e in zip(size, s, k, larger, strict=True)]
    c, m = int(pick(rng, 1, 3, 8, rng.integers(1, 20))), int(pick(rng, 1, 8, rng.integers(1, 20)))
    b, s_in = Builder(), scale_of(rng)
    shape = b.tensor((4,), "int32", data=[1, *out, m])
    x = b.tensor((1, *size, c), "int8", scale=s_in, zero_point=zero_of(rng))
    w = codes(rng, (m, *k, c))
    reach = _typical(rng, w, 0) * float(np.sqrt(1 / max(1.0, s[0] * s[1] / 2)))
    y = _add_linear(
        b, rng, "TRANSPOSE_CONV", x, w, s_in, reach, (1, *out, m), 0, padding=0 if same else 1, stride_h=s[0],
        stride_w=s[1],
    )  # fmt: skip
    op = b.graph.operators[-1]
    given = op.inputs.tolist()
    op.inputs = np.array([shape, given[1], given[0], *given[2:]][: 3 if rng.random() < 0.2 else 4], np.int32)
    return Case("TRANSPOSE_CONV", b.build([x], [y]), codes(rng, (batch, 1, *size, c)))


def _pool(op: str) -> Callable[[Rng], Case]:
    def make(rng: Rng, batch: int = 10) -> Case:
        h, w, k, s, _, same = geometry(rng)
        k = (min(k[0], h), min(k[1], w))
        c = int(rng.integers(1, 40))
        b, scale, z = Builder(), scale_of(rng), zero_of(rng)
        x = b.tensor((1, h, w, c), "int8", scale=scale, zero_point=z)
        p, q = output_shape(h, w, k, s, (1, 1), same)
        y = b.tensor((1, p, q, c), "int8", scale=scale, zero_point=z)
        b.op(
            op, [x], [y], version=2, padding=0 if same else 1, stride_h=s[0], stride_w=s[1],
            filter_height=k[0], filter_width=k[1], fused_activation=activation_of(rng),
        )  # fmt: skip
        return Case(op, b.build([x], [y]), codes(rng, (batch, 1, h, w, c)))

    return make


def mean(rng: Rng, batch: int = 40) -> Case:
    shape = (1, *(int(v) for v in rng.integers(1, 9, 2)), int(pick(rng, 1, 8, 16, rng.integers(1, 70))))
    axes = pick(rng, (1, 2), (1, 2), (1, 2), (2, 1), (-2, 1), (1,), (2,), (3,), (1, 2, 3), (2, 3))
    if rng.random() < 0.2:
        shape, axes = pick(rng, ((1, 9, 17), (1,)), ((1, 50), (1,)), ((1, 9, 17), (2,)))
    keep = bool(rng.integers(2))
    rank = len(shape)
    reduced = {a % rank for a in axes}
    y_shape = tuple(1 if a in reduced else n for a, n in enumerate(shape) if keep or a not in reduced)
    s, z = scale_of(rng), zero_of(rng)
    same = rng.random() < 0.4
    so, zo = (
        (s, z)
        if same
        else (
            float(np.float32(s * pick(rng, 0.5, 0.25, 2.0, 0.8, 0.6, 1 / 3, 1.6, *rng.uniform(0.1, 4.0, 3)))),
            zero_of(rng),
        )
    )
    b = Builder()
    x = b.tensor(shape, "int8", scale=s, zero_point=z)
    a = b.tensor((len(axes),), "int32", data=list(axes))
    y = b.tensor(y_shape, "int8", scale=so, zero_point=zo)
    b.op("MEAN", [x, a], [y], version=2, keep_dims=keep)
    return Case("MEAN", b.build([x], [y]), codes(rng, (batch, *shape)))


def add(rng: Rng, batch: int = 10) -> Case:
    shape = (1, *(int(v) for v in rng.integers(1, 12, 2)), int(rng.integers(1, 40)))
    b = Builder()
    s1 = scale_of(rng)
    s2 = float(np.float32(s1 * pick(rng, 1.0, 0.5, 2.0**-6, 2.0**-13, *rng.uniform(0.01, 50.0, 2))))
    so = out_scale(rng, 128 * (s1 + s2), min(s1, s2))
    x = b.tensor(shape, "int8", scale=s1, zero_point=zero_of(rng))
    y = b.tensor(shape, "int8", scale=so, zero_point=zero_of(rng))
    kind = rng.integers(4)
    if kind == 0:
        ins = [x, x]
    else:
        other = (
            shape if kind == 1 else pick(rng, (shape[3],), (1, 1, 1, shape[3]), (1, shape[1], 1, 1), (1,), (1, 1, 1, 1))
        )
        c = b.tensor(other, "int8", data=codes(rng, other), scale=s2, zero_point=zero_of(rng))
        ins = [x, c] if rng.random() < 0.6 else [c, x]
    b.op("ADD", ins, [y], version=2, fused_activation=activation_of(rng))
    return Case("ADD", b.build([x], [y]), codes(rng, (batch, *shape)))


def pad(rng: Rng, batch: int = 4) -> Case:
    shape = (1, *(int(v) for v in rng.integers(1, 8, 2)), int(rng.integers(1, 9)))
    amounts = [(0, 0), *((int(a), int(c)) for a, c in rng.integers(0, 4, (3, 2)))]
    if rng.random() < 0.5:
        amounts[3] = (0, 0)
    b, s, z = Builder(), scale_of(rng), zero_of(rng)
    x = b.tensor(shape, "int8", scale=s, zero_point=z)
    p = b.tensor((4, 2), "int32", data=amounts)
    y = b.tensor([n + a + c for n, (a, c) in zip(shape, amounts, strict=True)], "int8", scale=s, zero_point=z)
    b.op("PAD", [x, p], [y], version=2)
    return Case("PAD", b.build([x], [y]), codes(rng, (batch, *shape)))


def reshape(rng: Rng, batch: int = 3) -> Case:
    n = int(rng.integers(1, 40)) * 12
    b, s, z = Builder(), scale_of(rng), zero_of(rng)
    x = b.tensor((1, n // 12, 4, 3), "int8", scale=s, zero_point=z)
    new = pick(rng, (1, n), (n // 3, 3), (1, 2, n // 2))
    ins = [x, b.tensor((len(new),), "int32", data=list(new))]
    y = b.tensor(new, "int8", scale=s, zero_point=z)
    b.op("RESHAPE", ins, [y], new_shape=np.array(new, np.int32))
    return Case("RESHAPE", b.build([x], [y]), codes(rng, (batch, 1, n // 12, 4, 3)))


def _zero(rng: Rng, dtype: str) -> int:
    return zero_of(rng) + (128 if dtype == "uint8" else 0)


def quantize(rng: Rng, batch: int = 4) -> Case:
    """Float to codes with exact and near ties and far outside; codes to codes, int8 and uint8."""
    source, target = pick(
        rng,
        ("float32", "int8"),
        ("float32", "uint8"),
        ("int8", "int8"),
        ("uint8", "int8"),
        ("int8", "uint8"),
        ("uint8", "uint8"),
    )
    n = int(pick(rng, 256, 1, 7, 15, 16, 17, 33, 257, rng.integers(1, 300)))
    b, so = Builder(), scale_of(rng)
    zo = _zero(rng, target)
    if source == "float32":
        x = b.tensor((1, n), "float32")
        data = (rng.integers(-300, 301, (batch, 1, n)) + pick(rng, 0.5, 0.0, rng.uniform())) * np.float64(so)
        data = data.astype(np.float32)
        steps = rng.integers(-1, 2, data.shape)
        data = np.where(
            steps < 0,
            np.nextafter(data, np.float32(-np.inf)),
            np.where(steps > 0, np.nextafter(data, np.float32(np.inf)), data),
        )
        data[:, :, :1] *= np.float32(pick(rng, 1.0, 1e4, 1e6))
    else:
        si = so * pick(
            rng, 1.0, 0.5, 2.0, 0.25, 4.0, 2.0**-8, 2.0**7, 150.0, 0.003, 0.8, 1.6, 1 / 3, *rng.uniform(0.02, 4.0, 6)
        )
        si = float(np.float32(si))
        zi = (
            zo + (0 if source == target else 128 if source == "uint8" else -128)
            if rng.random() < 0.4
            else _zero(rng, source)
        )
        x = b.tensor((1, n), source, scale=si, zero_point=zi)
        data = codes(rng, (batch, 1, n), source)
    y = b.tensor((1, n), target, scale=so, zero_point=zo)
    b.op("QUANTIZE", [x], [y], version=2)
    return Case("QUANTIZE", b.build([x], [y]), data)


def dequantize(rng: Rng, batch: int = 4) -> Case:
    dtype = pick(rng, "int8", "uint8")
    n = int(pick(rng, 256, 1, 7, 8, 9, 31, rng.integers(1, 300)))
    b = Builder()
    x = b.tensor((1, n), dtype, scale=scale_of(rng), zero_point=_zero(rng, dtype))
    y = b.tensor((1, n), "float32")
    b.op("DEQUANTIZE", [x], [y], version=2)
    return Case("DEQUANTIZE", b.build([x], [y]), codes(rng, (batch, 1, n), dtype))


def softmax(rng: Rng, batch: int = 60) -> Case:
    n = int(pick(rng, 1, 2, 5, 10, 100, rng.integers(1, 500)))
    lead = pick(rng, (1,), (1,), (1, 3), (1, 2, 2))
    b = Builder()
    s = float(np.float32(pick(rng, 2.0**-4, 2.0**-7, rng.uniform(0.001, 1.0), rng.uniform(1.0, 30.0))))
    x = b.tensor((*lead, n), "int8", scale=s, zero_point=zero_of(rng))
    y = b.tensor((*lead, n), "int8", scale=1 / 256, zero_point=-128)
    b.op("SOFTMAX", [x], [y], version=2, beta=float(pick(rng, 1.0, 1.0, 0.5, 1.7)))
    return Case("SOFTMAX", b.build([x], [y]), codes(rng, (batch, *lead, n)))


def _unary(op: str, fixed: tuple[float, int] | None) -> Callable[[Rng], Case]:
    def make(rng: Rng, batch: int = 4) -> Case:
        b, s, z = Builder(), scale_of(rng), zero_of(rng)
        n = int(pick(rng, 256, rng.integers(1, 300)))
        if fixed is None:
            so, zo = (
                (s, z)
                if rng.random() < 0.4
                else (float(np.float32(s * pick(rng, 0.5, 2.0, 0.8, 1.2, *rng.uniform(0.02, 20.0, 2)))), zero_of(rng))
            )
        else:
            so, zo = fixed
            s = float(np.float32(s * 2.0 ** rng.uniform(-2, 2)))
        x = b.tensor((1, n), "int8", scale=s, zero_point=z)
        y = b.tensor((1, n), "int8", scale=so, zero_point=zo)
        b.op(op, [x], [y], version=2)
        data = codes(rng, (batch, 1, n))
        data[0, 0] = np.resize(np.arange(LO, HI + 1), n)
        return Case(op, b.build([x], [y]), data)

    return make


CASES: dict[str, Callable[[Rng], Case]] = {
    "ADD": add,
    "AVERAGE_POOL_2D": _pool("AVERAGE_POOL_2D"),
    "CONV_2D": conv_2d,
    "DEPTHWISE_CONV_2D": depthwise_conv_2d,
    "DEQUANTIZE": dequantize,
    "FULLY_CONNECTED": fully_connected,
    "LOGISTIC": _unary("LOGISTIC", (1 / 256, -128)),
    "MAX_POOL_2D": _pool("MAX_POOL_2D"),
    "MEAN": mean,
    "PAD": pad,
    "QUANTIZE": quantize,
    "RELU": _unary("RELU", None),
    "RELU6": _unary("RELU6", None),
    "RESHAPE": reshape,
    "SOFTMAX": softmax,
    "TANH": _unary("TANH", (1 / 128, 0)),
    "TRANSPOSE_CONV": transpose_conv,
    **MORE,
}
