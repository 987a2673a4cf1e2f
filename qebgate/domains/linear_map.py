"""Constant linear maps between flattened tensors, without building convolution matrices.

Each map offers ``forward`` (``x [B, n] -> [B, m]``), ``back`` (``y [R, m] -> [R, n]``, the transpose)
and ``absolute`` (the map of absolute weights).  ``terms`` bounds the number of products in any one
entry of either, for the roundoff bound gamma(terms).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from qebgate.domains.crop import Crop
from qebgate.numerics.rounding import F64


class LinearMap(ABC):
    """A linear map R^n -> R^m with float64 weights."""

    @property
    @abstractmethod
    def n(self) -> int:
        """Size of the flattened input."""

    @property
    @abstractmethod
    def m(self) -> int:
        """Size of the flattened output."""

    @property
    @abstractmethod
    def terms(self) -> int:
        """Largest number of products summed into one entry, forward or back."""

    @property
    @abstractmethod
    def macs(self) -> int:
        """Multiply-adds of one forward or backward application."""

    @abstractmethod
    def forward(self, x: F64) -> F64: ...

    @abstractmethod
    def back(self, y: F64) -> F64: ...

    def pick(self, index: NDArray[np.intp]) -> F64:
        """Rows of the matrix: coefficients ``[R, n]`` of single outputs."""
        one = np.zeros((index.size, self.m))
        one[np.arange(index.size), index] = 1.0
        return self.back(one)

    @abstractmethod
    def _abs(self) -> LinearMap: ...

    @abstractmethod
    def minus(self, other: LinearMap) -> LinearMap:
        """``self - other``; each weight is rounded once (covered by ``terms + 1``)."""

    def cropped(self, out: Crop) -> tuple[LinearMap, Crop] | None:
        """The map onto a rectangle of its output image, and the rectangle of its input that it reads.

        None where the map has no such structure.
        """
        del out
        return None

    @cached_property
    def absolute(self) -> LinearMap:
        return self._abs()


@dataclass(frozen=True, eq=False)
class Dense(LinearMap):
    """``rows`` independent applications of one matrix ``w [out, in]`` (one for a plain dense layer)."""

    w: F64
    rows: int = 1

    @property
    def n(self) -> int:
        return self.rows * self.w.shape[1]

    @property
    def m(self) -> int:
        return self.rows * self.w.shape[0]

    @property
    def terms(self) -> int:
        return max(self.w.shape)

    @property
    def macs(self) -> int:
        return self.rows * self.w.size

    def forward(self, x: F64) -> F64:
        if self.rows == 1:
            return x @ self.w.T
        return (x.reshape(-1, self.w.shape[1]) @ self.w.T).reshape(len(x), self.m)

    def back(self, y: F64) -> F64:
        if self.rows == 1:
            return y @ self.w
        return (y.reshape(-1, self.w.shape[0]) @ self.w).reshape(len(y), self.n)

    def pick(self, index: NDArray[np.intp]) -> F64:
        return self.w[index] if self.rows == 1 else super().pick(index)

    def times(self, factor: float) -> Dense:
        """The map times a number; each weight is rounded once.  Made once."""
        if factor == 1.0:
            return self
        if factor not in self._multiples:
            self._multiples[factor] = Dense(self.w * factor, self.rows)
        return self._multiples[factor]

    @cached_property
    def _multiples(self) -> dict[float, Dense]:
        return {}

    @cached_property
    def _differences(self) -> dict[int, tuple[Dense, Dense]]:
        """Minuends are this map; by the subtrahend's identity, which is kept alive with the result."""
        return {}

    def _abs(self) -> Dense:
        return Dense(np.abs(self.w), self.rows)

    def minus(self, other: LinearMap) -> LinearMap:
        if isinstance(other, Dense) and other.w.shape == self.w.shape and other.rows == self.rows:
            if id(other) not in self._differences:
                self._differences[id(other)] = (other, Dense(self.w - other.w, self.rows))
            return self._differences[id(other)][1]
        return Difference(self, other)


@dataclass(frozen=True)
class Window:
    """Geometry of a two-dimensional sliding window (TFLite's padding rules already resolved)."""

    size_in: tuple[int, int]
    size_out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int]
    """Rows above and columns to the left; what is missing below and to the right follows."""

    @property
    def padded(self) -> tuple[int, int]:
        """Size of the padded input that covers every tap."""
        h, w = (
            (o - 1) * s + (k - 1) * d + 1
            for o, s, k, d in zip(self.size_out, self.stride, self.kernel, self.dilation, strict=True)
        )
        return max(h, self.size_in[0] + self.pad[0]), max(w, self.size_in[1] + self.pad[1])

    def cropped(self, out: Crop, channels: int) -> tuple[Window, Crop]:
        """The window onto a rectangle of the output, and the rectangle of the input (C channels) that it sees."""
        first = (out.top, out.left)
        count = (out.height, out.width)
        begin: list[int] = []
        length: list[int] = []
        pad: list[int] = []
        for axis in range(2):
            start = first[axis] * self.stride[axis] - self.pad[axis]
            stop = start + (count[axis] - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1
            a, b = max(0, start), min(self.size_in[axis], stop)
            a = min(a, self.size_in[axis] - 1)
            begin.append(a)
            length.append(max(1, b - a))
            pad.append(a - start)
        window = replace(self, size_in=(length[0], length[1]), size_out=count, pad=(pad[0], pad[1]))
        return window, Crop((*self.size_in, channels), begin[0], begin[1], length[0], length[1])

    def tap(self, i: int, j: int) -> tuple[slice, slice]:
        """Where kernel position (i, j) reads in the padded input."""
        (si, sj), (di, dj), (oh, ow) = self.stride, self.dilation, self.size_out
        return (
            slice(i * di, i * di + (oh - 1) * si + 1, si),
            slice(j * dj, j * dj + (ow - 1) * sj + 1, sj),
        )

    def embed(self, x: F64) -> F64:
        """``[B, H, W, C]`` zero-padded to :attr:`padded`."""
        ph, pw = self.padded
        t, left = self.pad
        (h, w), c = self.size_in, x.shape[3]
        out = np.zeros((x.shape[0], ph, pw, c))
        out[:, t : t + h, left : left + w] = x
        return out

    def crop(self, x: F64) -> F64:
        """The transpose of :meth:`embed`."""
        t, left = self.pad
        return x[:, t : t + self.size_in[0], left : left + self.size_in[1]]


@dataclass(frozen=True, eq=False)
class Conv(LinearMap):
    """CONV_2D with ``kernel [kh, kw, in, out]``."""

    kernel: F64
    window: Window

    @property
    def n(self) -> int:
        return self.window.size_in[0] * self.window.size_in[1] * self.kernel.shape[2]

    @property
    def m(self) -> int:
        return self.window.size_out[0] * self.window.size_out[1] * self.kernel.shape[3]

    @property
    def terms(self) -> int:
        kh, kw, ci, co = self.kernel.shape
        return kh * kw * max(ci, co)

    @property
    def macs(self) -> int:
        return self.window.size_out[0] * self.window.size_out[1] * self.kernel.size

    def forward(self, x: F64) -> F64:
        win = self.window
        kh, kw, ci, co = self.kernel.shape
        xp = win.embed(x.reshape(len(x), *win.size_in, ci))
        y = np.zeros((len(x), *win.size_out, co))
        for i in range(kh):
            for j in range(kw):
                rows, cols = win.tap(i, j)
                y += xp[:, rows, cols] @ self.kernel[i, j]
        return y.reshape(len(x), self.m)

    def back(self, y: F64) -> F64:
        win = self.window
        kh, kw, ci, co = self.kernel.shape
        yy = y.reshape(-1, co)
        xp = np.zeros((len(y), *win.padded, ci))
        for i in range(kh):
            for j in range(kw):
                rows, cols = win.tap(i, j)
                xp[:, rows, cols] += (yy @ self.kernel[i, j].T).reshape(len(y), *win.size_out, ci)
        return win.crop(xp).reshape(len(y), self.n)

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape of the output."""
        return (*self.window.size_out, self.kernel.shape[3])

    def cropped(self, out: Crop) -> tuple[LinearMap, Crop] | None:
        if out.image != self.image:
            return None
        window, seen = self.window.cropped(out, self.kernel.shape[2])
        return Conv(self.kernel, window), seen

    def _abs(self) -> Conv:
        return Conv(np.abs(self.kernel), self.window)

    def minus(self, other: LinearMap) -> LinearMap:
        if isinstance(other, Conv) and other.window == self.window and other.kernel.shape == self.kernel.shape:
            return Conv(self.kernel - other.kernel, self.window)
        return Difference(self, other)


@dataclass(frozen=True, eq=False)
class Depthwise(LinearMap):
    """DEPTHWISE_CONV_2D with ``kernel [kh, kw, in, multiplier]``; output channel ``c * multiplier + k``."""

    kernel: F64
    window: Window

    @property
    def n(self) -> int:
        return self.window.size_in[0] * self.window.size_in[1] * self.kernel.shape[2]

    @property
    def m(self) -> int:
        return self.window.size_out[0] * self.window.size_out[1] * self.kernel.shape[2] * self.kernel.shape[3]

    @property
    def terms(self) -> int:
        kh, kw, _, mult = self.kernel.shape
        return kh * kw * mult

    @property
    def macs(self) -> int:
        return self.window.size_out[0] * self.window.size_out[1] * self.kernel.size

    def forward(self, x: F64) -> F64:
        win = self.window
        kh, kw, c, mult = self.kernel.shape
        xp = win.embed(x.reshape(len(x), *win.size_in, c))
        y = np.zeros((len(x), *win.size_out, c, mult))
        for i in range(kh):
            for j in range(kw):
                rows, cols = win.tap(i, j)
                y += xp[:, rows, cols, :, None] * self.kernel[i, j]
        return y.reshape(len(x), self.m)

    def back(self, y: F64) -> F64:
        win = self.window
        kh, kw, c, mult = self.kernel.shape
        yy = y.reshape(len(y), *win.size_out, c, mult)
        xp = np.zeros((len(y), *win.padded, c))
        for i in range(kh):
            for j in range(kw):
                rows, cols = win.tap(i, j)
                if mult == 1:
                    xp[:, rows, cols] += yy[..., 0] * self.kernel[i, j, :, 0]
                else:
                    xp[:, rows, cols] += np.einsum("bhwck,ck->bhwc", yy, self.kernel[i, j])
        return win.crop(xp).reshape(len(y), self.n)

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape of the output."""
        return (*self.window.size_out, self.kernel.shape[2] * self.kernel.shape[3])

    def cropped(self, out: Crop) -> tuple[LinearMap, Crop] | None:
        if out.image != self.image:
            return None
        window, seen = self.window.cropped(out, self.kernel.shape[2])
        return Depthwise(self.kernel, window), seen

    def _abs(self) -> Depthwise:
        return Depthwise(np.abs(self.kernel), self.window)

    def minus(self, other: LinearMap) -> LinearMap:
        if isinstance(other, Depthwise) and other.window == self.window and other.kernel.shape == self.kernel.shape:
            return Depthwise(self.kernel - other.kernel, self.window)
        return Difference(self, other)


@dataclass(frozen=True, eq=False)
class Transposed(LinearMap):
    """Another map read the other way round: TRANSPOSE_CONV of a convolution."""

    inner: LinearMap

    @property
    def n(self) -> int:
        return self.inner.m

    @property
    def m(self) -> int:
        return self.inner.n

    @property
    def terms(self) -> int:
        return self.inner.terms

    @property
    def macs(self) -> int:
        return self.inner.macs

    def forward(self, x: F64) -> F64:
        return self.inner.back(x)

    def back(self, y: F64) -> F64:
        return self.inner.forward(y)

    def _abs(self) -> Transposed:
        return Transposed(self.inner.absolute)

    def minus(self, other: LinearMap) -> LinearMap:
        if isinstance(other, Transposed) and (other.n, other.m) == (self.n, self.m):
            return Transposed(self.inner.minus(other.inner))
        return Difference(self, other)


@dataclass(frozen=True)
class Scale(LinearMap):
    """Multiplication by one number: the identity for 1.0."""

    factor: float
    size: int

    @property
    def n(self) -> int:
        return self.size

    @property
    def m(self) -> int:
        return self.size

    @property
    def terms(self) -> int:
        return 1

    @property
    def macs(self) -> int:
        return self.size

    def forward(self, x: F64) -> F64:
        return x if self.factor == 1.0 else x * self.factor

    def back(self, y: F64) -> F64:
        return self.forward(y)

    def cropped(self, out: Crop) -> tuple[LinearMap, Crop]:
        return Scale(self.factor, out.size), out

    def _abs(self) -> Scale:
        return Scale(abs(self.factor), self.size)

    def minus(self, other: LinearMap) -> LinearMap:
        if isinstance(other, Scale) and other.size == self.size:
            return Scale(self.factor - other.factor, self.size)
        return Difference(self, other)


@dataclass(frozen=True, eq=False)
class Sparse(LinearMap):
    """Any sparse matrix ``[m, n]``: pools, means, padding, gathering."""

    matrix: sp.csr_matrix

    @property
    def n(self) -> int:
        return shape_of(self.matrix)[1]

    @property
    def m(self) -> int:
        return shape_of(self.matrix)[0]

    @cached_property
    def selects(self) -> bool:
        """Whether every output is one of the inputs."""
        return bool((np.diff(self.matrix.indptr) == 1).all() and (self.matrix.data == 1.0).all())

    @cached_property
    def _transposed(self) -> sp.csr_matrix:
        return self.matrix.T.tocsr()

    @cached_property
    def _terms(self) -> int:
        longest = [np.diff(a.indptr).max(initial=0) for a in (self.matrix, self._transposed)]
        return int(max(1, *longest))

    @property
    def terms(self) -> int:
        return self._terms

    @property
    def macs(self) -> int:
        return int(self.matrix.nnz)

    def forward(self, x: F64) -> F64:
        return np.ascontiguousarray((self.matrix @ x.T).T)

    def back(self, y: F64) -> F64:
        return np.ascontiguousarray((self._transposed @ y.T).T)

    def _abs(self) -> Sparse:
        return Sparse(abs(self.matrix))

    def minus(self, other: LinearMap) -> LinearMap:
        if isinstance(other, Sparse) and other.matrix.shape == self.matrix.shape:
            return Sparse((self.matrix - other.matrix).tocsr())
        return Difference(self, other)


@dataclass(frozen=True, eq=False)
class Difference(LinearMap):
    """``a - b`` for two maps of different kinds; its absolute map is ``|a| + |b|``, an upper bound."""

    a: LinearMap
    b: LinearMap
    sign: float = -1.0

    @property
    def n(self) -> int:
        return self.a.n

    @property
    def m(self) -> int:
        return self.a.m

    @property
    def terms(self) -> int:
        return self.a.terms + self.b.terms

    @property
    def macs(self) -> int:
        return self.a.macs + self.b.macs

    def forward(self, x: F64) -> F64:
        return self.a.forward(x) + self.sign * self.b.forward(x)

    def back(self, y: F64) -> F64:
        return self.a.back(y) + self.sign * self.b.back(y)

    def _abs(self) -> Difference:
        return Difference(self.a.absolute, self.b.absolute, 1.0)

    def minus(self, other: LinearMap) -> LinearMap:
        return Difference(self, other)


def shape_of(matrix: sp.csr_matrix) -> tuple[int, int]:
    """Rows and columns."""
    shape = matrix.shape
    assert shape is not None
    return int(shape[0]), int(shape[1])


def gather(index: NDArray[Any], n: int, keep: NDArray[Any] | None = None, factor: float = 1.0) -> Sparse:
    """The map ``y_k = factor x_index[k]`` (0 where ``keep`` is False)."""
    m = index.size
    rows = np.arange(m) if keep is None else np.flatnonzero(keep)
    cols = index.ravel()[rows]
    return Sparse(sp.csr_matrix((np.full(rows.size, factor), (rows, cols)), shape=(m, n)))


def diagonal(factor: F64, index: NDArray[Any] | None = None, n: int | None = None) -> Sparse:
    """The map ``y_k = factor_k x_index[k]``; every entry of the input in its place without ``index``."""
    rows = np.arange(factor.size)
    shape = (factor.size, factor.size if n is None else n)
    return Sparse(sp.csr_matrix((factor, (rows, rows if index is None else index)), shape=shape))
