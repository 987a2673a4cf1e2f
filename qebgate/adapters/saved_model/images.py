"""Convolutions, pools and sizes of images, as the operations of a SavedModel have them."""

from __future__ import annotations

from typing import cast

import numpy as np

from qebgate.adapters.saved_model.step import Build, Step
from qebgate.adapters.saved_model.values import Live, Value
from qebgate.semantics.base import Activation
from qebgate.semantics.conv_2d import Conv2DAttrs
from qebgate.semantics.depthwise_conv_2d import DepthwiseConv2DAttrs
from qebgate.semantics.moves import ResizeAttrs
from qebgate.semantics.pool_2d import Pool2DAttrs
from qebgate.semantics.transpose_conv import TransposeConvAttrs
from qebgate.semantics.windows import Stride, Window

Pair = tuple[int, int]


def nhwc(s: Step) -> None:
    """Channels last."""
    s.node.only("data_format", "NHWC", "")


def _image(s: Step) -> tuple[int, tuple[int, ...]]:
    x = s.live()
    shape = s.shape(x)
    return (x, shape) if len(shape) == 4 else s.node.refuse(f"an input of shape {shape}")


def _pair(s: Step, key: str, default: int = 1) -> Pair:
    found = s.node.integers(key) or [default] * 4
    if len(found) != 4 or found[0] != 1 or found[3] != 1 or not all(0 < v < 1 << 16 for v in found):
        s.node.refuse(f"{key} {found[:8]}")
    return found[1], found[2]


def _windows(s: Step, kernel: Pair) -> tuple[Stride, Pair]:
    nhwc(s)
    same = s.node.only("padding", "?", "SAME", "VALID") == "SAME"
    how = Stride(same, _pair(s, "strides"), _pair(s, "dilations"))
    shape = _image(s)[1]
    return how, Window.of((shape[1], shape[2]), kernel, how).out


def conv(s: Step) -> Value:
    """``Conv2D``."""
    w = s.weights(1, 4)
    how, out = _windows(s, cast("Pair", w.shape[:2]))
    x, shape = _image(s)
    groups, rest = divmod(shape[3], max(1, w.shape[2]))
    if groups < 1 or rest or w.shape[3] % groups:
        s.node.refuse(f"{shape[3]} channels, weights of shape {w.shape}")
    kernel = np.ascontiguousarray(w.transpose(3, 0, 1, 2))
    return s.emit("CONV_2D", (x,), (1, *out, len(kernel)), Conv2DAttrs(how, Activation.NONE), weights=kernel)


def transposed(s: Step) -> Value:
    """``Conv2DBackpropInput``: the shape of the output, the kernel ``[H, W, M, C]``, the input."""
    nhwc(s)
    w, x, sizes = s.weights(1, 4), s.live(2), s.integers(0)
    same = s.node.only("padding", "?", "SAME", "VALID") == "SAME"
    fits = len(sizes) == 4 and sizes[0] == 1 and sizes[3] == w.shape[2] and len(s.shape(x)) == 4
    if not fits or _pair(s, "dilations") != (1, 1) or s.shape(x)[3] != w.shape[3]:
        s.node.refuse(f"an output of shape {sizes[:8]}, weights of shape {w.shape}, or dilations")
    attrs = TransposeConvAttrs(Stride(same, _pair(s, "strides")), Activation.NONE)
    return s.emit("TRANSPOSE_CONV", (x,), sizes, attrs, weights=np.ascontiguousarray(w.transpose(2, 0, 1, 3)))


def resize(op: str) -> Build:
    """Images of another size."""

    def build(s: Step) -> Value:
        x, shape = _image(s)
        size = s.integers(1)
        if len(size) != 2:
            s.node.refuse(f"a size {size[:8]}")
        attrs = ResizeAttrs(s.node.flag("align_corners"), s.node.flag("half_pixel_centers"))
        return s.emit(op, (x,), (1, *size, shape[3]), attrs, constant=np.array(size, np.int32))

    return build


def tile(s: Step) -> Value:
    """Entries repeated along axes."""
    x, times = s.live(), s.integers(1)
    shape = s.shape(x)
    if len(times) != len(shape) or times[0] != 1 or not all(0 < n < 1 << 16 for n in times):
        s.node.refuse(f"{times[:8]} repetitions of {shape}")
    if max(times) == 1:
        return Live(x)
    out = [n * k for n, k in zip(shape, times, strict=True)]
    return s.emit("TILE", (x,), out, None, constant=np.array(times, np.int32))


def depthwise(s: Step) -> Value:
    """``DepthwiseConv2dNative``."""
    w = s.weights(1, 4)
    how, out = _windows(s, cast("Pair", w.shape[:2]))
    x, shape = _image(s)
    if w.shape[2] != shape[3]:
        s.node.refuse(f"{shape[3]} channels, weights of shape {w.shape}")
    channels = w.shape[2] * w.shape[3]
    kernel = np.ascontiguousarray(w.reshape(1, *w.shape[:2], channels))
    attrs = DepthwiseConv2DAttrs(how, Activation.NONE, w.shape[3])
    return s.emit("DEPTHWISE_CONV_2D", (x,), (1, *out, channels), attrs, weights=kernel)


def pool(op: str) -> Build:
    """Windows without weights."""

    def build(s: Step) -> Value:
        kernel = _pair(s, "ksize")
        how, out = _windows(s, kernel)
        x, shape = _image(s)
        return s.emit(op, (x,), (1, *out, shape[3]), Pool2DAttrs(kernel, how, Activation.NONE))

    return build
