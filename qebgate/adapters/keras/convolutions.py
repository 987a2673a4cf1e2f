"""Convolutions, over one axis or two, as the layers of Keras have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from qebgate.adapters.keras.call import Call
from qebgate.ir.tensor import Array
from qebgate.semantics.base import Activation
from qebgate.semantics.conv_2d import Conv2DAttrs
from qebgate.semantics.depthwise_conv_2d import DepthwiseConv2DAttrs
from qebgate.semantics.transpose_conv import TransposeConvAttrs
from qebgate.semantics.windows import Stride, Window


def _geometry(c: Call, axes: int) -> tuple[Stride, tuple[int, int]]:
    """Padding, steps and kernel of a convolution over one or two axes (one: the second of two)."""
    c.s.channels_last()
    same = c.s.one_of("padding", ("valid", "same", "causal") if axes == 1 else ("valid", "same")) == "same"
    one = (1,) * (2 - axes)
    kernel, stride, dilation = (
        cast("tuple[int, int]", (*one, *c.s.integers(k, axes, d)))
        for k, d in (("kernel_size", None), ("strides", 1), ("dilation_rate", 1))
    )
    return Stride(same, stride, dilation), kernel


def windowed(c: Call, x: int, how: Stride, kernel: tuple[int, int], channels: int) -> tuple[int, ...]:
    """Shape of a windowed layer's output."""
    shape = c.shape(x)
    return (1, *Window.of((shape[1], shape[2]), kernel, how).out, channels)


def _conv(c: Call, x: int, how: Stride, kernel: Array, bias: Array | None) -> int:
    """``kernel`` is HWIO, as Keras has it."""
    shape = windowed(c, x, how, kernel.shape[:2], kernel.shape[3])  # type: ignore[arg-type]
    w = np.ascontiguousarray(kernel.transpose(3, 0, 1, 2))
    return c.emit("CONV_2D", (x,), shape, Conv2DAttrs(how, Activation.NONE), weights=w, bias=bias)


def _depthwise(c: Call, x: int, how: Stride, kernel: Array, bias: Array | None) -> int:
    """``kernel`` is ``[H, W, C, M]``; output channel ``c M + m``."""
    k, j, depth, multiplier = kernel.shape
    shape = windowed(c, x, how, (k, j), depth * multiplier)
    w = np.ascontiguousarray(kernel.reshape(1, k, j, depth * multiplier))
    attrs = DepthwiseConv2DAttrs(how, Activation.NONE, multiplier)
    return c.emit("DEPTHWISE_CONV_2D", (x,), shape, attrs, weights=w, bias=bias)


def _depth(c: Call, x: int, m: int) -> int:
    """Input channels that each of m filters reads."""
    channels, groups = c.shape(x)[-1], c.s.integer("groups", 1)
    if channels % groups or m % groups:
        c.s.wrong("groups", groups)
    return channels // groups


def conv_2d(c: Call) -> int:
    """Conv2D, in groups of channels too."""
    x, m, (how, kernel) = c.only(4), c.s.integer("filters"), _geometry(c, 2)
    w, b = _kernel_and_bias(c, (*kernel, _depth(c, x, m), m), m)
    return c.activate(_conv(c, x, how, w, b))


def conv_1d(c: Call) -> int:
    """Conv1D, as a convolution over the second of two axes."""
    x, m, (how, kernel) = c.only(3), c.s.integer("filters"), _geometry(c, 1)
    w, b = _kernel_and_bias(c, (kernel[1], _depth(c, x, m), m), m)
    if c.s.get("padding") == "causal":
        x = pad(c, x, ((0, 0), ((kernel[1] - 1) * how.dilation[1], 0), (0, 0)))
    x = c.reshape(x, (1, 1, *c.shape(x)[1:]))
    y = c.activate(_conv(c, x, how, w[None], b))
    return c.reshape(y, (1, *c.shape(y)[2:]))


def _kernel_and_bias(c: Call, shape: tuple[int, ...], m: int, kernel: str = "kernel") -> tuple[Array, Array | None]:
    bias = c.s.flag("use_bias", True)
    arrays = c.variables(**{kernel: shape}, **({"bias": (m,)} if bias else {}))
    return arrays[0], arrays[1] if bias else None


def conv_2d_transpose(c: Call) -> int:
    """``kernel`` is ``[H, W, M, C]``; output lengths as both versions of Keras compute them."""
    c.s.only("groups", 1)
    x, m, (how, kernel) = c.only(4), c.s.integer("filters"), _geometry(c, 2)
    if how.dilation != (1, 1):
        c.s.wrong("dilation_rate", how.dilation)
    shape = c.shape(x)
    more = c.s.get("output_padding")
    extra = [None, None] if more is None else cast("list[Any]", more if isinstance(more, (list, tuple)) else [more] * 2)
    if len(extra) != 2:
        c.s.wrong("output_padding", more)
    if not all(e is None or (type(e) is int and 0 <= e < s) for e, s in zip(extra, how.stride, strict=True)):
        c.s.wrong("output_padding", more)
    w, b = _kernel_and_bias(c, (*kernel, m, shape[3]), m)
    sizes: list[int] = []
    for n, k, s, e in zip(shape[1:3], kernel, how.stride, extra, strict=True):
        if e is None:
            sizes.append(n * s if how.same else (n - 1) * s + max(k, s))
        else:
            sizes.append((n - 1) * s + (k % 2 if how.same else k) + e)
    attrs, weights = TransposeConvAttrs(how, Activation.NONE), np.ascontiguousarray(w.transpose(2, 0, 1, 3))
    return c.activate(c.emit("TRANSPOSE_CONV", (x,), (1, *sizes, m), attrs, weights=weights, bias=b))


def depthwise_conv_2d(c: Call) -> int:
    """DepthwiseConv2D."""
    c.s.only("groups", 1)
    x, multiplier, (how, kernel) = c.only(4), c.s.integer("depth_multiplier", 1), _geometry(c, 2)
    depth = c.shape(x)[3]
    name = "kernel" if c.keras >= 3 else "depthwise_kernel"
    w, b = _kernel_and_bias(c, (*kernel, depth, multiplier), depth * multiplier, name)
    return c.activate(_depthwise(c, x, how, w, b))


def separable_conv_2d(c: Call) -> int:
    """SeparableConv2D: two convolutions."""
    c.s.only("groups", 1)
    x, m, multiplier, (how, kernel) = (
        c.only(4), c.s.integer("filters"), c.s.integer("depth_multiplier", 1), _geometry(c, 2),
    )  # fmt: skip
    depth = c.shape(x)[3]
    bias = c.s.flag("use_bias", True)
    first, second, *b = c.variables(
        depthwise_kernel=(*kernel, depth, multiplier),
        pointwise_kernel=(1, 1, depth * multiplier, m),
        **({"bias": (m,)} if bias else {}),
    )
    y = _depthwise(c, x, how, first, None)
    return c.activate(_conv(c, y, Stride(False, (1, 1)), second, b[0] if b else None))


def pad(c: Call, x: int, amounts: Sequence[tuple[int, int]]) -> int:
    """Zeros around a value."""
    shape = tuple(n + a + b for n, (a, b) in zip(c.shape(x), amounts, strict=True))
    return c.emit("PAD", (x,), shape, None, constant=np.array(amounts, np.int32))
