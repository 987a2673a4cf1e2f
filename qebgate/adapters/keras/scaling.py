"""Layers that scale: values (Rescaling, Normalization) and images (UpSampling2D)."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from qebgate.adapters.keras.call import Call
from qebgate.adapters.npz import float32_constant
from qebgate.ir.graph import Folded
from qebgate.ir.tensor import Array
from qebgate.semantics.add import AddAttrs
from qebgate.semantics.base import Activation
from qebgate.semantics.moves import ResizeAttrs
from qebgate.semantics.mul import MulAttrs

ROOTS = (2.0**-19, 2.0**20)
"""Of variances that Normalization divides by: well above the epsilon (1e-7) that it would take instead."""


def rescaling(c: Call) -> int:
    """``x scale + offset``, both rounded to float32 as Keras does."""
    x = c.only()
    for key, op, none in (("scale", "MUL", 1.0), ("offset", "ADD", 0.0)):
        found = c.s.get(key, none)
        values = np.array(found if isinstance(found, list) else [c.s.real(key, none)], np.float64)
        if values.ndim != 1 or values.size not in (1, c.shape(x)[-1]) or not np.isfinite(values).all():
            c.s.wrong(key, found)
        if (values == none).all():
            continue
        constant = float32_constant(values.astype(np.float32), f"{c.s.where}: {c.layer.label}")
        attrs: object = MulAttrs(Activation.NONE) if op == "MUL" else AddAttrs(Activation.NONE)
        x = c.emit(op, (x,), c.shape(x), attrs, constant=constant)
    return x


def up_sampling_2d(c: Call) -> int:
    """Keras 3 repeats entries with TILE where Keras 2 takes the nearest one; converters keep that."""
    c.s.channels_last()
    x, size = c.only(4), c.s.integers("size", 2, 2)
    kind = c.s.one_of("interpolation", ("nearest", "bilinear"), "nearest")
    _, h, w, depth = c.shape(x)
    shape = (1, h * size[0], w * size[1], depth)
    if kind == "nearest" and c.keras >= 3:
        x = c.reshape(_tiled(c, c.reshape(x, (1, h, 1, w, depth)), 2, size[0]), (1, shape[1], w, 1, depth))
        return c.reshape(_tiled(c, x, 3, size[1]), shape)
    op = "RESIZE_BILINEAR" if kind == "bilinear" else "RESIZE_NEAREST_NEIGHBOR"
    return c.emit(op, (x,), shape, ResizeAttrs(False, True), constant=np.array(shape[1:3], np.int32))


def _tiled(c: Call, x: int, axis: int, times: int) -> int:
    if times == 1:
        return x
    shape, by = c.shape(x), np.ones(5, np.int32)
    by[axis] = times
    return c.emit("TILE", (x,), tuple(int(n * k) for n, k in zip(shape, by, strict=True)), None, constant=by)


def normalization(c: Call) -> int:
    """``(x - mean) / max(sqrt(variance), epsilon)``: a SUB and, as converters have it, a MUL by the quotient."""
    x, axis = c.only(), c.s.get("axis", -1)
    c.s.only("invert", False)
    shape = c.shape(x)
    given = cast("list[Any]", list(axis)) if isinstance(axis, (list, tuple)) else [] if axis is None else [axis]
    if not all(type(a) is int and -len(shape) <= a < len(shape) and a % len(shape) for a in given):
        c.s.wrong("axis", axis)
    axes = sorted({a % len(shape) for a in given})
    kept = tuple(shape[a] for a in axes)
    wide = tuple(n if a in axes else 1 for a, n in enumerate(shape))
    mean, variance = (c.s.get(k) for k in ("mean", "variance"))
    if mean is None and variance is None:
        mean, variance, _ = c.variables(mean=kept, variance=kept, count=())
        mean, variance = mean.reshape(wide), variance.reshape(wide)
    else:
        mean, variance = (_stated(c, k, v, wide) for k, v in (("mean", mean), ("variance", variance)))
    root = np.sqrt(variance.astype(np.float64))
    if not ((root >= ROOTS[0]) & (root <= ROOTS[1])).all():
        raise c.refuse("a variance that is nearly 0 or beyond 2^40")
    if mean.any():  # converters leave out what changes nothing
        x = c.emit("SUB", (x,), shape, AddAttrs(Activation.NONE), constant=mean)
    if (root != 1.0).any():
        x = c.emit("MUL", (x,), shape, MulAttrs(Activation.NONE), constant=1.0 / root)
        # the root, its reciprocal or the quotient, and the constant's own rounding
        c.draft.ops[-1].folded = Folded(1.0 / root, np.zeros(1), 4)
    return x


def _stated(c: Call, key: str, found: object, wide: tuple[int, ...]) -> Array:
    """Numbers of a layer's configuration, float32, broadcast to a shape."""
    try:
        values = np.array(found, np.float64)
        # Keras reads them as float32, and broadcasts from the last axis
        out = np.broadcast_to(values.astype(np.float32), wide)
    except (ValueError, TypeError, OverflowError):
        c.s.wrong(key, found)
    if not np.isfinite(out).all():
        c.s.wrong(key, found)
    return float32_constant(np.ascontiguousarray(out), f"{c.s.where}: {c.layer.label}")
