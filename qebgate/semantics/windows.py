"""Sliding windows of convolutions and pools (NHWC; tensorflow/lite/kernels/padding.h).

Letters: N rows of the flattened batch, H W input, P Q output, K L kernel, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qebgate.errors import UnsupportedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, Tensor
from qebgate.semantics.base import require

_CHUNK_BYTES = 1 << 24
_MAX_SIDE, _MAX_AREA = 1 << 16, 1 << 26


@dataclass(frozen=True, slots=True)
class Stride:
    """Stride, dilation and padding of a windowed operator; ``same`` is TensorFlow's SAME padding."""

    same: bool
    stride: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    @classmethod
    def parse(cls, padding: int, stride: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> Stride:
        """Raises UnsupportedError for an unknown padding or steps below 1."""
        if padding not in (0, 1) or min(*stride, *dilation) < 1:
            raise UnsupportedError(
                "QEB436",
                "an operator's padding, stride or dilation is not valid",
                found=f"padding {padding}, stride {stride}, dilation {dilation}",
            )
        return cls(padding == 0, stride, dilation)


@dataclass(frozen=True, slots=True)
class Window:
    """The geometry of one windowed node: which inputs each output position sees.

    Output ``p`` sees rows ``p * stride - top + k * dilation`` for ``k < kernel``; those outside the
    input are padding.
    """

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]
    out: tuple[int, int]

    @classmethod
    def of(cls, size: tuple[int, int], kernel: tuple[int, int], how: Stride) -> Window:
        """The window over an input of ``size`` (H, W)."""
        axes = [
            cls._axis(n, k, s, d, how.same) for n, k, s, d in zip(size, kernel, how.stride, how.dilation, strict=True)
        ]
        (o0, b0, a0), (o1, b1, a1) = axes
        return cls(size, kernel, how.stride, how.dilation, (b0, b1), (a0, a1), (o0, o1))

    @staticmethod
    def _axis(n: int, k: int, s: int, d: int, same: bool) -> tuple[int, int, int]:
        """Output length and padding before and after (the latter negative where inputs are never read)."""
        reach = (k - 1) * d + 1
        out = -(-n // s) if same else -(-(n - reach + 1) // s)
        total = max((out - 1) * s + reach - n, 0) if same else 0
        before = total // 2
        return out, before, (out - 1) * s + reach - n - before

    def patches(self, x: Array, fill: float | int) -> Array:
        """Read-only view ``[N, P, Q, C, K, L]`` of ``x [N, H, W, C]`` padded with ``fill``."""
        (t, left), (b, r) = self.before, self.after
        if t or left or b > 0 or r > 0:
            pad = ((0, 0), (t, max(b, 0)), (left, max(r, 0)), (0, 0))
            x = np.pad(x, pad, constant_values=x.dtype.type(fill))
        reach = tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        v = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(1, 2))  # pyright: ignore[reportArgumentType, reportCallIssue]
        (s0, s1), (d0, d1), (p, q) = self.stride, self.dilation, self.out
        return v[:, : (p - 1) * s0 + 1 : s0, : (q - 1) * s1 + 1 : s1, :, ::d0, ::d1]

    def columns(self, x: Array, fill: float | int) -> Array:
        """Patches as rows ``[N * P * Q, K * L * C]``, for a matrix product with weights ``[M, K, L, C]``."""
        return self.patches(x, fill).transpose(0, 1, 2, 4, 5, 3).reshape(-1, self.taps * x.shape[3])

    def counts(self) -> Array:
        """How many inputs (not padding) each output position sees, ``[P, Q, 1]`` int64."""
        ones = np.ones((1, *self.size, 1), np.int64)
        return self.patches(ones, 0).sum(axis=(4, 5))[0]

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    def check(self, node: Node, graph: Graph, out: Tensor, batch: int, channels: int) -> None:
        """Raise UnsupportedError where the output tensor does not have the window's shape."""
        expected = (batch, *self.out, channels)
        padded = tuple(n + max(b, 0) + max(a, 0) for n, b, a in zip(self.size, self.before, self.after, strict=True))
        absurd = max(padded) > _MAX_SIDE or padded[0] * padded[1] > _MAX_AREA
        require(not absurd, "the window's padding is absurdly large", node, graph, padded)
        require(
            min(self.out) >= 1, "the window is larger than the input", node, graph, f"{self.kernel} over {self.size}"
        )
        require(
            out.shape == expected,
            "the output does not have the shape that the operator gives",
            node,
            graph,
            f"{out.shape}, expected {expected}",
        )


def image(node: Node, graph: Graph, t: Tensor) -> tuple[int, int, int, int]:
    """Shape of a 4-axis tensor; UnsupportedError for another number of axes."""
    require(len(t.shape) == 4, f"{node.op} needs a tensor of 4 axes", node, graph, t.shape)
    n, h, w, c = t.shape
    return n, h, w, c


def chunks(rows: int, bytes_per_row: int) -> Iterator[slice]:
    """Slices of a batch small enough for the processor's caches and for memory."""
    step = max(1, _CHUNK_BYTES // max(1, bytes_per_row))
    for k in range(0, rows, step):
        yield slice(k, min(rows, k + step))
