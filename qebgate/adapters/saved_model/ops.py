"""What the operations of a SavedModel compute, in operators of .tflite files.  One function each in :data:`OPS`."""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np

from qebgate.adapters.keras.draft import BIAS, FACTORS, NORMALIZE, ROUNDINGS, Normalization
from qebgate.adapters.keras.joins import joined
from qebgate.adapters.npz import float32_constant
from qebgate.adapters.saved_model.images import conv, depthwise, nhwc, pool, resize, tile, transposed
from qebgate.adapters.saved_model.step import MAX_ELEMENTS, Build, Step
from qebgate.adapters.saved_model.values import Constant, Live, Value
from qebgate.ir.graph import Folded
from qebgate.numerics.rounding import F64
from qebgate.semantics.add import AddAttrs
from qebgate.semantics.base import Activation
from qebgate.semantics.binary import BinaryAttrs
from qebgate.semantics.fully_connected import FullyConnectedAttrs
from qebgate.semantics.mean import MeanAttrs
from qebgate.semantics.moves import ConcatenationAttrs
from qebgate.semantics.mul import MulAttrs
from qebgate.semantics.softmax import SoftmaxAttrs
from qebgate.semantics.tables import LeakyReluAttrs


def _same(s: Step) -> Value:
    return s.x[0] if s.x else s.node.refuse("no input")


def _matmul(s: Step) -> Value:
    x, w = s.live(), s.weights(1, 2)
    if s.node.flag("transpose_a"):
        s.node.refuse("transpose_a")
    w = np.ascontiguousarray(w if s.node.flag("transpose_b") else w.T)
    shape = s.shape(x)
    if len(shape) != 2 or shape[1] != w.shape[1]:
        s.node.refuse(f"an input of shape {shape} and weights of shape {w.shape}")
    return s.emit("FULLY_CONNECTED", (x,), (1, len(w)), FullyConnectedAttrs(Activation.NONE, False), weights=w)


def _elementwise(op: str) -> Build:
    def build(s: Step) -> Value:
        x = s.live()
        return s.emit(op, (x,), s.shape(x), SoftmaxAttrs(1.0) if op == "SOFTMAX" else None)

    return build


def _per_channel(s: Step, c: Constant, x: int) -> F64 | None:
    """A constant as one number per channel; None where it is not that."""
    m = s.shape(x)[-1]
    flat = c.value.ravel()
    spread = flat.size == 1 or (flat.size == m and c.value.shape[-1] == m)
    return np.broadcast_to(flat, (m,)).astype(np.float64) if c.floats and spread else None


def _bias_add(s: Step) -> Value:
    nhwc(s)
    return _shift(s, s.live(), s.known(1), 1.0)


def _shift(s: Step, x: int, c: Constant, sign: float) -> Value:
    """Add a constant per channel."""
    v = _per_channel(s, c, x)
    if v is None or not np.isfinite(v).all():
        s.node.refuse(f"a constant of shape {c.value.shape} is added")
    reach = None if c.stored else _per_channel(s, Constant.of(c.reach), x)
    if c.stored:
        float32_constant(v.astype(np.float32), s.node.label)
    zero = np.zeros(v.size)
    n = Normalization(zero + 1.0, zero, sign * v, zero + 1.0, reach)
    return s.emit(BIAS, (x,), s.shape(x), n)


def _scale(s: Step, x: int, c: Constant) -> Value:
    """Multiply by a constant per channel: one half of batch normalization."""
    v = _per_channel(s, c, x)
    if v is None or not ((np.abs(v) >= FACTORS[0]) & (np.abs(v) <= FACTORS[1])).all():
        s.node.refuse(f"a factor of shape {c.value.shape} that is no number per channel, or 0, or beyond 2^40")
    zero = np.zeros(v.size)
    return s.emit(NORMALIZE, (x,), s.shape(x), Normalization(v, zero, zero, v))


def _batch_norm(s: Step) -> Value:
    nhwc(s)
    if s.node.flag("is_training", True):
        s.node.refuse("training")
    x, epsilon = s.live(), s.node.real("epsilon")
    m = s.shape(x)[-1]
    gamma, beta, mean, variance = (s.weights(k, 1).astype(np.float64) for k in range(1, 5))
    spread = variance + epsilon
    if any(v.size != m for v in (gamma, beta, mean, variance)) or not (spread > 0).all():
        s.node.refuse("its constants do not fit its input, or a variance is not positive")
    factor = gamma / np.sqrt(spread)
    inside = (spread >= FACTORS[0]) & (np.abs(factor) >= FACTORS[0]) & (np.abs(factor) <= FACTORS[1])
    if not inside.all():
        s.node.refuse("a channel's factor is 0 or beyond 2^40")
    return s.emit(NORMALIZE, (x,), s.shape(x), Normalization(factor, mean, beta, factor))


def _arithmetic(kind: str) -> Build:
    def build(s: Step) -> Value:
        if len(s.x) != 2:
            s.node.refuse(f"{len(s.x)} inputs")
        a, b = s.x
        if isinstance(a, Constant) and isinstance(b, Constant):
            return _fold(s, kind, a, b)
        if isinstance(a, Live) and isinstance(b, Live):
            return _both(s, kind, a.index, b.index)
        swapped = isinstance(a, Constant)
        x, c = (s.live(1), s.known(0)) if swapped else (s.live(0), s.known(1))
        if kind == "mul":
            return _scale(s, x, c)
        if kind == "sub" and swapped:
            s.node.refuse("a constant minus a value")
        return _shift(s, x, c, -1.0 if kind == "sub" else 1.0)

    return build


def _both(s: Step, kind: str, a: int, b: int) -> Value:
    try:
        shape = np.broadcast_shapes(s.shape(a), s.shape(b))
    except ValueError:
        s.node.refuse(f"inputs of shapes {s.shape(a)} and {s.shape(b)}")
    return s.emit(_JOINS[kind], (a, b), shape, BinaryAttrs(Activation.NONE))


_JOINS = {"add": "ADD", "sub": "SUB", "mul": "MUL", "max": "MAXIMUM", "min": "MINIMUM"}


def _leaky_relu(s: Step) -> Value:
    x, alpha = s.live(), s.node.real("alpha")
    if not 0.0 <= alpha <= 1e3:
        s.node.refuse(f"alpha {alpha}")
    return s.emit("LEAKY_RELU", (x,), s.shape(x), LeakyReluAttrs(alpha))


def _fold(s: Step, kind: str, a: Constant, b: Constant) -> Value:
    """Two constants."""
    if a.floats != b.floats:
        s.node.refuse("constants of different types")
    try:
        shape = np.broadcast_shapes(a.value.shape, b.value.shape)
    except ValueError:
        s.node.refuse("constants whose shapes do not fit")
    if math.prod(shape) > MAX_ELEMENTS:
        s.node.refuse(f"a constant of shape {shape}")
    v = a.value * b.value if kind == "mul" else a.value - b.value if kind == "sub" else a.value + b.value
    return Constant(v, a.reach * b.reach if kind == "mul" else a.reach + b.reach, stored=False)


def _rsqrt(s: Step) -> Value:
    c = s.known(0)
    # nothing may cancel before the root: then its relative error is that of a few roundings
    if not c.floats or not (c.value >= FACTORS[0]).all() or not (c.reach <= 1.01 * c.value).all():
        s.node.refuse("the root of something that is not clearly positive")
    v = 1.0 / np.sqrt(c.value)
    return Constant(v, v, stored=False)


def _sqrt(s: Step) -> Value:
    c = s.known(0)
    if not c.floats or not (c.value >= FACTORS[0]).all() or not (c.reach <= 1.01 * c.value).all():
        s.node.refuse("the root of something that is not clearly positive")
    v = np.sqrt(c.value)
    return Constant(v, v, stored=False)


def _maximum(s: Step) -> Value:
    if all(isinstance(v, Constant) for v in s.x):
        a, b = s.known(0), s.known(1)
        if not a.floats or not b.floats or b.value.size != 1 or not (a.value >= 2.0 * b.value + b.reach).all():
            s.node.refuse("constants that are not clearly apart")
        return a
    return _both(s, "max", s.live(0), s.live(1))


def _divide(s: Step) -> Value:
    """By a constant per channel, after a shift: a SUB and a MUL by the quotient, as converters have them."""
    x, c = s.live(0), s.known(1)
    v = _per_channel(s, c, x)
    inside = v is not None and ((np.abs(v) >= FACTORS[0]) & (np.abs(v) <= FACTORS[1])).all()
    if v is None or not inside or not (c.reach <= 1.01 * np.abs(c.value)).all():
        s.node.refuse(f"a divisor of shape {c.value.shape} that is no number per channel, or 0, or beyond 2^40")
    shape = s.shape(x)
    wide = (1,) * (len(shape) - 1) + (shape[-1],)
    before = next((o for o in s.draft.ops if o.output == x), None)
    if before is not None and before.op == BIAS and before.attrs.reach is None:
        before.op, before.constant = "SUB", (-before.attrs.beta).astype(np.float32).reshape(wide)
        before.attrs = AddAttrs(Activation.NONE)
    y = s.emit("MUL", (x,), shape, MulAttrs(Activation.NONE), constant=(1.0 / v).reshape(wide))
    s.draft.ops[-1].folded = Folded(np.abs(1.0 / v), np.zeros(1), ROUNDINGS)
    return y


def _neg(s: Step) -> Value:
    c = s.known(0)
    return Constant(-c.value, c.reach, stored=False)


def _reduce(op: str) -> Build:
    """Over all axes between the first and the last."""
    return lambda s: _reduced(s, op)


def _reduced(s: Step, op: str) -> Value:
    x, axes = s.live(), s.integers(1)
    shape, keep = s.shape(x), s.node.flag("keep_dims")
    rank = len(shape)
    dims = sorted({a % rank for a in axes}) if all(-rank <= a < rank for a in axes) else []
    if dims != list(range(1, rank - 1)):
        s.node.refuse(f"axes {axes[:8]} of {shape}")
    out = (1, *(1,) * (rank - 2), shape[-1]) if keep else (1, shape[-1])
    return s.emit(op, (x,), out, MeanAttrs(keep), constant=np.array(dims, np.int32))


def _reshape(s: Step) -> Value:
    dims = s.integers(1)
    v = s.x[0]
    shape = v.value.shape if isinstance(v, Constant) else s.shape(s.live())
    size, known = math.prod(shape), math.prod(d for d in dims if d != -1)
    valid = all(d > 0 or d == -1 for d in dims) and dims.count(-1) <= 1 and len(dims) <= 6
    if not valid or (size % known if -1 in dims else size != known):
        s.node.refuse(f"{shape} to {dims[:8]}")
    return _shaped(s, tuple(size // known if d == -1 else d for d in dims))


def _shaped(s: Step, shape: tuple[int, ...]) -> Value:
    v = s.x[0]
    if isinstance(v, Constant):
        return Constant(v.value.reshape(shape), v.reach.reshape(shape), v.stored)
    x = s.live()
    if not shape or shape[0] != 1:
        s.node.refuse(f"a shape {shape} without the batch as its first axis")
    return Live(s.draft.reshape(x, shape, s.node.name))


def _shape_now(s: Step) -> tuple[int, ...]:
    v = s.x[0]
    return v.value.shape if isinstance(v, Constant) else s.shape(s.live())


def _squeeze(s: Step) -> Value:
    shape, dims = _shape_now(s), s.node.integers("squeeze_dims")
    if not dims and isinstance(s.x[0], Constant):
        return _shaped(s, tuple(n for n in shape if n != 1))
    axes = {d % len(shape) for d in dims} if all(-len(shape) <= d < len(shape) for d in dims) else {0}
    if not dims or any(shape[a] != 1 for a in axes) or 0 in axes:
        s.node.refuse(f"axes {dims[:8]} of {shape}")
    return _shaped(s, tuple(n for a, n in enumerate(shape) if a not in axes))


def _expand(s: Step) -> Value:
    shape, (axis, *more) = _shape_now(s), s.integers(1) or [99]
    rank = len(shape) + 1
    if more or not -rank <= axis < rank:
        s.node.refuse(f"axis {axis}")
    at = axis % rank
    return _shaped(s, (*shape[:at], 1, *shape[at:]))


def _pad(s: Step) -> Value:
    x, amounts = s.live(), s.known(1).value
    shape = s.shape(x)
    if len(s.x) == 3 and s.known(2).value.any():
        s.node.refuse("padding with other numbers than 0")
    if (
        amounts.shape != (len(shape), 2)
        or amounts.dtype.kind != "i"
        or not ((amounts >= 0) & (amounts < 1 << 16)).all()
    ):
        s.node.refuse(f"amounts of shape {amounts.shape}")
    out = [n + int(a.sum()) for n, a in zip(shape, amounts, strict=True)]
    return s.emit("PAD", (x,), out, None, constant=amounts.astype(np.int32))


def _shape(s: Step) -> Value:
    return Constant.of(np.array(_shape_now(s), np.int64))


def _pack(s: Step) -> Value:
    parts = [s.known(k) for k in range(len(s.x))]
    if s.node.integer("axis") != 0 or not parts or any(p.value.shape for p in parts) or any(p.floats for p in parts):
        s.node.refuse("anything but single integers")
    return Constant.of(np.array([int(p.value) for p in parts], np.int64))


def _strided_slice(s: Step) -> Value:
    v = s.known(0).value
    masks = [s.node.integer(k) for k in ("ellipsis_mask", "new_axis_mask")]
    ends = [s.integers(k) for k in (1, 2, 3)]
    if any(masks) or v.ndim != 1 or v.dtype.kind != "i" or any(len(e) != 1 for e in ends) or ends[2] != [1]:
        s.node.refuse("anything but a part of a shape")
    begin = None if s.node.integer("begin_mask") & 1 else ends[0][0]
    end = None if s.node.integer("end_mask") & 1 else ends[1][0]
    if s.node.integer("shrink_axis_mask") & 1:
        at = ends[0][0]
        return Constant.of(v[at]) if -v.size <= at < v.size else s.node.refuse(f"entry {at} of {v.size}")
    return Constant.of(v[begin:end])


def _cast(s: Step) -> Value:
    c = s.known(0)
    return c if c.value.dtype.kind == "i" and s.node.kind("DstT") in (3, 9) else s.node.refuse("a type that changes")


def _prod(s: Step) -> Value:
    v = s.known(0).value
    return Constant.of(np.array(v.prod())) if v.dtype.kind == "i" and v.ndim == 1 else s.node.refuse("no shape")


def _concat(s: Step) -> Value:
    known = [v.value for v in s.x[:-1] if isinstance(v, Constant)]
    if known and len(known) == len(s.x) - 1:  # parts of a shape
        if s.integers(len(s.x) - 1) != [0] or any(v.ndim != 1 or v.dtype.kind != "i" for v in known):
            s.node.refuse("constants that are no parts of a shape")
        return Constant.of(np.concatenate(known))
    parts = [s.live(k) for k in range(len(s.x) - 1)]
    (axis, *more) = s.integers(len(s.x) - 1) or [99]
    rank = len(s.shape(parts[0]))
    if more or not -rank <= axis < rank or axis % rank == 0:
        s.node.refuse(f"axis {axis}")
    return concatenate(s, parts, axis % rank)


def concatenate(s: Step, parts: list[int], axis: int) -> Value:
    """Values side by side along an axis."""
    shape = joined([s.shape(p) for p in parts], axis)
    if shape is None:
        s.node.refuse(f"shapes {[s.shape(p) for p in parts][:5]}")
    return s.emit("CONCATENATION", parts, shape, ConcatenationAttrs(axis, Activation.NONE))


OPS = MappingProxyType[str, Build](
    {
        "Add": _arithmetic("add"),
        "AddV2": _arithmetic("add"),
        "AvgPool": pool("AVERAGE_POOL_2D"),
        "BiasAdd": _bias_add,
        "Cast": _cast,
        "ConcatV2": _concat,
        "Conv2D": conv,
        "Conv2DBackpropInput": transposed,
        "DepthwiseConv2dNative": depthwise,
        "Elu": _elementwise("ELU"),
        "ExpandDims": _expand,
        "FusedBatchNormV3": _batch_norm,
        "Identity": _same,
        "LeakyRelu": _leaky_relu,
        "MatMul": _matmul,
        "Max": _reduce("REDUCE_MAX"),
        "MaxPool": pool("MAX_POOL_2D"),
        "Maximum": _maximum,
        "Mean": _reduce("MEAN"),
        "Minimum": lambda s: _both(s, "min", s.live(0), s.live(1)),
        "Mul": _arithmetic("mul"),
        "Neg": _neg,
        "Pack": _pack,
        "Pad": _pad,
        "PadV2": _pad,
        "Prod": _prod,
        "RealDiv": _divide,
        "Relu": _elementwise("RELU"),
        "Relu6": _elementwise("RELU6"),
        "Reshape": _reshape,
        "ResizeBilinear": resize("RESIZE_BILINEAR"),
        "ResizeNearestNeighbor": resize("RESIZE_NEAREST_NEIGHBOR"),
        "Rsqrt": _rsqrt,
        "Shape": _shape,
        "Sigmoid": _elementwise("LOGISTIC"),
        "LogSoftmax": _elementwise("LOG_SOFTMAX"),
        "Softmax": _elementwise("SOFTMAX"),
        "Sqrt": _sqrt,
        "Squeeze": _squeeze,
        "StopGradient": _same,
        "StridedSlice": _strided_slice,
        "Sub": _arithmetic("sub"),
        "Tanh": _elementwise("TANH"),
        "Tile": tile,
    }
)
"""The operations that are read, each a function of its inputs alone.  All others are refused."""
