"""Linear maps as matrices from a few live inputs to the outputs that they reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from qebgate.domains.linear_map import (
    Conv,
    Dense,
    Depthwise,
    Difference,
    LinearMap,
    Scale,
    Sparse,
    Transposed,
    Window,
)
from qebgate.errors import InternalError
from qebgate.numerics.rounding import F64

Index = NDArray[np.intp]
Matrix = F64 | sp.csr_matrix
"""``[k, m]``; ``x @ matrix`` for ``x [B, k]``."""

_DENSE = 0.05
"""Share of entries that are not zero from which a matrix is held densely."""
_DENSE_ENTRIES = 1 << 16
"""Matrices of so few entries are held densely whatever they hold."""
_PICKED = 1 << 22
"""Entries of rows that are made densely before they are kept sparsely."""


def columns(m: LinearMap, live: Index) -> sp.csr_matrix:
    """``w [k, m]`` with ``m.forward(x) = x[live] @ w`` for x that is zero elsewhere; the map's own weights."""
    if isinstance(m, Scale):
        rows, cols, values = np.arange(live.size), live, np.full(live.size, m.factor)
    elif isinstance(m, Sparse):
        return sp.csr_matrix(m.matrix.T.tocsr()[live])
    elif isinstance(m, Difference):
        return sp.csr_matrix(columns(m.a, live) + m.sign * columns(m.b, live))
    elif isinstance(m, Transposed):
        step = max(1, _PICKED // max(1, m.m))
        parts = [sp.csr_matrix(m.inner.pick(live[k : k + step])) for k in range(0, live.size, step)]
        return sp.csr_matrix(sp.vstack(parts)) if parts else sp.csr_matrix((0, m.m))
    elif isinstance(m, Dense):
        out, size = m.w.shape
        block, entry = np.divmod(live, size)
        rows = np.repeat(np.arange(live.size), out)
        cols = (block[:, None] * out + np.arange(out)).ravel()
        values = m.w.T[entry].ravel()
    elif isinstance(m, (Conv, Depthwise)):
        rows, cols, values = _windows(m, live)
    else:
        raise InternalError("QEB912", f"no matrix of a {type(m).__name__}")
    return sp.csr_matrix((values, (rows, cols)), shape=(live.size, m.m))


def _windows(m: Conv | Depthwise, live: Index) -> tuple[Index, Index, F64]:
    win, channels = m.window, m.image[2]
    inputs = m.kernel.shape[2]
    pixel, c = np.divmod(live, inputs)
    parts: list[tuple[Index, Index, F64]] = []
    for i in range(win.kernel[0]):
        for j in range(win.kernel[1]):
            at, place = _read(win, pixel, i, j)
            if isinstance(m, Conv):
                values = m.kernel[i, j][c[at]]
                first = np.zeros(at.size, np.intp)
            else:
                values = m.kernel[i, j][c[at]]
                first = c[at] * values.shape[1]
            width = values.shape[1]
            cols = (place * channels + first)[:, None] + np.arange(width)
            parts.append((np.repeat(at, width), cols.ravel(), values.ravel()))
    return (
        np.concatenate([p[0] for p in parts]),
        np.concatenate([p[1] for p in parts]),
        np.concatenate([p[2] for p in parts]),
    )


def _read(win: Window, pixel: Index, i: int, j: int) -> tuple[Index, Index]:
    """Which of some input pixels kernel position (i, j) reads, and the output position that does."""
    width = win.size_in[1]
    axes: list[Index] = []
    inside = np.ones(pixel.size, bool)
    for axis, at, tap in ((0, pixel // width, i), (1, pixel % width, j)):
        shifted = at + win.pad[axis] - tap * win.dilation[axis]
        p, rest = np.divmod(shifted, win.stride[axis])
        inside &= (rest == 0) & (p >= 0) & (p < win.size_out[axis])
        axes.append(p)
    found = np.flatnonzero(inside)
    return found, (axes[0] * win.size_out[1] + axes[1])[found]


def reached(parts: Sequence[sp.csr_matrix]) -> Index:
    """Columns in which any of some matrices ``[k, m]`` has an entry."""
    used = [np.unique(p.indices) for p in parts]
    return np.unique(np.concatenate(used)).astype(np.intp) if used else np.empty(0, np.intp)


def held(w: sp.csr_matrix, out: Index) -> Matrix:
    """Some columns of a matrix, densely unless it is large and nearly empty."""
    shape = w.shape
    assert shape is not None
    some = sp.csr_matrix(w[:, out])
    size = int(shape[0]) * out.size
    if size <= _DENSE_ENTRIES or some.nnz >= _DENSE * size:
        return np.ascontiguousarray(some.toarray())
    return some


def absolute(w: Matrix) -> Matrix:
    """The matrix of absolute values."""
    return np.abs(w) if isinstance(w, np.ndarray) else abs(w)


def product(x: F64, w: Matrix) -> F64:
    """``x [..., k] @ w``."""
    flat = x.reshape(-1, x.shape[-1])
    shape = w.shape
    assert shape is not None
    return np.asarray(flat @ w).reshape(*x.shape[:-1], int(shape[1]))
