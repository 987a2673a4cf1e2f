"""What each layer computes, in operators of .tflite files.  A layer is one function in :data:`LAYERS`."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from qebgate.adapters.keras.call import Build, Call
from qebgate.adapters.keras.convolutions import (
    conv_1d,
    conv_2d,
    conv_2d_transpose,
    depthwise_conv_2d,
    pad,
    separable_conv_2d,
    windowed,
)
from qebgate.adapters.keras.draft import FACTORS, NORMALIZE, Normalization
from qebgate.adapters.keras.joins import concatenate, join
from qebgate.adapters.keras.scaling import normalization, rescaling, up_sampling_2d
from qebgate.semantics.add import AddAttrs
from qebgate.semantics.base import Activation
from qebgate.semantics.binary import BinaryAttrs
from qebgate.semantics.fully_connected import FullyConnectedAttrs
from qebgate.semantics.mean import MeanAttrs
from qebgate.semantics.mul import MulAttrs
from qebgate.semantics.pool_2d import Pool2DAttrs
from qebgate.semantics.tables import LeakyReluAttrs
from qebgate.semantics.windows import Stride

KERAS_2_EPSILON = 1.001e-5
"""Keras 2 replaces a smaller epsilon of batch normalization by this one on 4-axis tensors, Keras 3 does not."""


def _dense(c: Call) -> int:
    x, units, bias = c.only(2, 3, 4), c.s.integer("units"), c.s.flag("use_bias", True)
    shape = c.shape(x)
    arrays = c.variables(kernel=(shape[-1], units), **({"bias": (units,)} if bias else {}))
    x = c.reshape(x, (math.prod(shape[:-1]), shape[-1]))  # as converters do it
    attrs = FullyConnectedAttrs(Activation.NONE, keep_dims=False)
    kernel = np.ascontiguousarray(arrays[0].T)
    bias_array = arrays[1] if bias else None
    y = c.emit("FULLY_CONNECTED", (x,), (c.shape(x)[0], units), attrs, weights=kernel, bias=bias_array)
    return c.reshape(c.activate(y), (*shape[:-1], units))


def _batch_normalization(c: Call) -> int:
    x = c.only(2, 3, 4)
    shape = c.shape(x)
    m, rank = shape[-1], len(shape)
    axis = c.s.get("axis", -1)
    axes = cast("list[Any]", axis) if isinstance(axis, list) else [axis]
    if axes not in ([-1], [rank - 1]):
        c.s.wrong("axis", axis)
    c.s.only("renorm", False)
    epsilon = c.s.real("epsilon")
    if not 0.0 <= epsilon <= 1.0 or (c.keras < 3 and epsilon < KERAS_2_EPSILON):
        c.s.wrong("epsilon", epsilon)
    scale, center = c.s.flag("scale", True), c.s.flag("center", True)
    names = ["gamma"] * scale + ["beta"] * center + ["moving_mean", "moving_variance"]
    found = {n: a.astype(np.float64) for n, a in zip(names, c.variables(**dict.fromkeys(names, (m,))), strict=True)}
    zero = np.zeros(m)
    variance = found["moving_variance"] + epsilon
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = found.get("gamma", zero + 1.0) / np.sqrt(variance)
    usual = (variance >= FACTORS[0]) & (variance <= FACTORS[1]) & (np.abs(factor) >= FACTORS[0])
    if not (usual & (np.abs(factor) <= FACTORS[1])).all():
        raise c.refuse("a channel's variance is not positive, or its factor is 0 or beyond 2^40")
    root = np.float32(1.0) / np.sqrt(found["moving_variance"].astype(np.float32) + np.float32(epsilon))
    rounded = root * found.get("gamma", zero + 1.0).astype(np.float32)
    n = Normalization(factor, found["moving_mean"], found.get("beta", zero), rounded.astype(np.float64))
    return c.emit(NORMALIZE, (x,), shape, n)


def _activation(c: Call) -> int:
    return c.activate(c.only())


def _relu(c: Call) -> int:
    x = c.only()
    for key in ("negative_slope", "threshold"):
        c.s.only(key, 0.0, None)
    top = c.s.get("max_value")
    if top not in (None, 6.0) or isinstance(top, bool):
        c.s.wrong("max_value", top)
    return c.apply("RELU" if top is None else "RELU6", x)


def _softmax(c: Call) -> int:
    x = c.only()
    rank, axis = len(c.shape(x)), c.s.get("axis", -1)
    if type(axis) is not int or axis not in (-1, rank - 1):
        c.s.wrong("axis", axis)
    return c.apply("SOFTMAX", x)


def _pool_2d(op: str) -> Build:
    def build(c: Call) -> int:
        c.s.channels_last()
        x, kernel = c.only(4), cast("tuple[int, int]", c.s.integers("pool_size", 2))
        stride = kernel if c.s.get("strides") is None else cast("tuple[int, int]", c.s.integers("strides", 2))
        how = Stride(c.s.one_of("padding", ("valid", "same")) == "same", stride)
        shape = windowed(c, x, how, kernel, c.shape(x)[3])
        return c.emit(op, (x,), shape, Pool2DAttrs(kernel, how, Activation.NONE))

    return build


def _global(op: str, rank: int) -> Build:
    """Over all axes between the first and the last."""

    def build(c: Call) -> int:
        c.s.channels_last()
        x, keep = c.only(rank), c.s.flag("keepdims", False)
        channels = c.shape(x)[-1]
        axes = np.arange(1, rank - 1, dtype=np.int32)
        shape = (1, *(1,) * (rank - 2), channels) if keep else (1, channels)
        return c.emit(op, (x,), shape, MeanAttrs(keep), constant=axes)

    return build


def _flatten(c: Call) -> int:
    c.s.channels_last()
    x = c.only()
    return c.reshape(x, (1, math.prod(c.shape(x))))


def _reshape(c: Call) -> int:
    x, target = c.only(), c.s.get("target_shape")
    dims = list(cast("list[Any]", target)) if isinstance(target, (list, tuple)) else []
    size, known = math.prod(c.shape(x)), math.prod(d for d in dims if d != -1)
    valid = all(type(d) is int and (d > 0 or d == -1) for d in dims) and dims.count(-1) <= 1 and len(dims) <= 5
    if not dims or not valid or (size % known if -1 in dims else size != known):
        c.s.wrong("target_shape", target)
    return c.reshape(x, (1, *(size // known if d == -1 else d for d in dims)))


def _zero_padding_2d(c: Call) -> int:
    c.s.channels_last()
    x, found = c.only(4), c.s.get("padding")
    sides = [found, found] if type(found) is int else found
    pairs = [[v, v] if type(v) is int else v for v in cast("list[Any]", sides)] if isinstance(sides, list) else []
    valid = len(pairs) == 2 and all(isinstance(p, (list, tuple)) and len(cast("list[Any]", p)) == 2 for p in pairs)
    if not valid or not all(type(v) is int and 0 <= v < 1 << 16 for p in pairs for v in p):
        c.s.wrong("padding", found)
    (t, b), (left, r) = pairs
    return pad(c, x, ((0, 0), (t, b), (left, r), (0, 0)))


def _leaky_relu(c: Call) -> int:
    x = c.only()
    new = "negative_slope" in c.layer.config
    alpha = c.s.real("negative_slope" if new else "alpha", 0.3)
    if not 0.0 <= alpha <= 1e3:
        c.s.wrong("negative_slope", alpha)
    return c.emit("LEAKY_RELU", (x,), c.shape(x), LeakyReluAttrs(float(np.float32(alpha))))


def _prelu(c: Call) -> int:
    """One slope per channel, or one for all: the axes in between are shared."""
    x, shared = c.only(), c.s.get("shared_axes")
    shape = c.shape(x)
    axes = cast("list[Any]", shared) if isinstance(shared, list) else [] if shared is None else [shared]
    if not all(type(a) is int and 1 <= a < len(shape) for a in axes) or not set(range(1, len(shape) - 1)) <= set(axes):
        raise c.refuse(f"shared axes {shared} of {shape}: every entry has a slope of its own")
    (alpha,) = c.variables(alpha=tuple(1 if a in axes else n for a, n in enumerate(shape) if a))
    return c.emit("PRELU", (x,), shape, None, constant=alpha)


def _elu(c: Call) -> int:
    c.s.only("alpha", 1.0, None)
    return c.apply("ELU", c.only())


def _time(inner: Build) -> Build:
    """A layer over one axis, as the same layer over the second of two."""

    def build(c: Call) -> int:
        shape = c.shape(c.only(3))
        x = c.reshape(c.only(), (1, 1, *shape[1:]))
        y = inner(Call(c.draft, c.weights, c.layer, c.s, (x,), c.keras))
        return c.reshape(y, (1, *c.shape(y)[2:])) if len(c.shape(y)) == 4 else y

    return build


def _pool_1d(op: str) -> Build:
    def build(c: Call) -> int:
        c.s.channels_last()
        x, size = c.only(4), (1, *c.s.integers("pool_size", 1))
        stride = size if c.s.get("strides") is None else (1, *c.s.integers("strides", 1))
        kernel, stride = cast("tuple[int, int]", size), cast("tuple[int, int]", stride)
        how = Stride(c.s.one_of("padding", ("valid", "same")) == "same", stride)
        shape = windowed(c, x, how, kernel, c.shape(x)[3])
        return c.emit(op, (x,), shape, Pool2DAttrs(kernel, how, Activation.NONE))

    return build


def _zero_padding_1d(c: Call) -> int:
    c.s.only("data_format", "channels_last", None)
    x, found = c.only(3), c.s.get("padding")
    pair = (
        [found, found] if type(found) is int else cast("list[Any]", found) if isinstance(found, (list, tuple)) else []
    )
    if len(pair) != 2 or not all(type(v) is int and 0 <= v < 1 << 16 for v in pair):
        c.s.wrong("padding", found)
    return pad(c, x, ((0, 0), (pair[0], pair[1]), (0, 0)))


def _same(c: Call) -> int:
    """Dropout does nothing when a network only computes."""
    c.s.get("data_format")
    return c.only()


LAYERS = MappingProxyType[str, Build](
    {
        "Activation": _activation,
        "Add": join("ADD", AddAttrs(Activation.NONE)),
        "AveragePooling1D": _time(_pool_1d("AVERAGE_POOL_2D")),
        "AveragePooling2D": _pool_2d("AVERAGE_POOL_2D"),
        "BatchNormalization": _batch_normalization,
        "Concatenate": concatenate,
        "Conv1D": conv_1d,
        "Conv2D": conv_2d,
        "Conv2DTranspose": conv_2d_transpose,
        "Dense": _dense,
        "DepthwiseConv2D": depthwise_conv_2d,
        "Dropout": _same,
        "ELU": _elu,
        "Flatten": _flatten,
        "GlobalAveragePooling1D": _global("MEAN", 3),
        "GlobalAveragePooling2D": _global("MEAN", 4),
        "GlobalMaxPooling1D": _global("REDUCE_MAX", 3),
        "GlobalMaxPooling2D": _global("REDUCE_MAX", 4),
        "LeakyReLU": _leaky_relu,
        "MaxPooling1D": _time(_pool_1d("MAX_POOL_2D")),
        "MaxPooling2D": _pool_2d("MAX_POOL_2D"),
        "Maximum": join("MAXIMUM", BinaryAttrs(Activation.NONE)),
        "Minimum": join("MINIMUM", BinaryAttrs(Activation.NONE)),
        "Multiply": join("MUL", MulAttrs(Activation.NONE)),
        "Normalization": normalization,
        "PReLU": _prelu,
        "QuantizeLayer": _same,
        "ReLU": _relu,
        "Rescaling": rescaling,
        "Reshape": _reshape,
        "SeparableConv2D": separable_conv_2d,
        "Softmax": _softmax,
        "SpatialDropout1D": _same,
        "SpatialDropout2D": _same,
        "Subtract": join("SUB", AddAttrs(Activation.NONE), many=False),
        "UpSampling2D": up_sampling_2d,
        "ZeroPadding1D": _zero_padding_1d,
        "ZeroPadding2D": _zero_padding_2d,
    }
)
"""How each class is read.  ``InputLayer`` is the reader's own."""

NOT_YET = MappingProxyType(
    {
        "Permute": "TRANSPOSE",
        "LSTM": "UNIDIRECTIONAL_SEQUENCE_LSTM",
    }
)
"""What layers need that are not read: mostly an operator which this version does not have."""
