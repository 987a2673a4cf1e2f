"""RESIZE_BILINEAR (tensorflow/lite/kernels/internal/reference/resize_bilinear.h, XNNPACK's ibilinear).

Every entry of the output is a weighted mean of at most four of the input.  On real numbers the weights are those of
the exact rational position; the integer kernels round positions to 2**-10 (builtin, reference) or weights to
2**-11 (XNNPACK), so that each side has a linear map of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType
from qebgate.numerics.fixed_point import I64
from qebgate.numerics.rounding import F64, U32
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import Options, Rounding, Semantics, require
from qebgate.semantics.delegation import owner
from qebgate.semantics.moves import ResizeAttrs
from qebgate.semantics.windows import image

_MAX_SIDE = 1 << 13
TYPES = (DType.INT8, DType.INT16, DType.FLOAT32)


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """Along one axis: entry k is ``((unit - weight_k) x[first_k] + weight_k x[second_k]) / unit``, integers [m]."""

    first: I64
    second: I64
    weight: I64
    unit: int

    @classmethod
    def of(cls, first: I64, second: I64, weight: I64, unit: int) -> Taps:
        """Where both taps are the same entry, its whole weight is on the first."""
        return cls(first, second, np.where(first == second, 0, weight), unit)

    @classmethod
    def exact(cls, n: int, m: int, how: ResizeAttrs) -> Taps:
        """From n to m entries, at the exact positions; before the first and after the last entry these."""
        k = np.arange(m, dtype=np.int64)
        if how.align_corners and m > 1:
            at, unit = k * (n - 1), m - 1
        elif how.half_pixel_centers:
            at, unit = (2 * k + 1) * n - m, 2 * m
        else:
            at, unit = k * n, m
        at = np.clip(at, 0, (n - 1) * unit)
        return cls.of(at // unit, np.minimum(at // unit + 1, n - 1), at % unit, unit)

    @classmethod
    def portable(cls, n: int, m: int, how: ResizeAttrs) -> Taps:
        """Positions in 10 fractional bits (ComputeInterpolationValuesInteger); ``first`` may lie beyond the input."""
        corners = how.align_corners and m > 1
        a, b = (n - 1, m - 1) if corners else (n, m)
        scale = (1024 * a + b // 2) // b
        at = np.arange(m, dtype=np.int64) * scale
        if how.half_pixel_centers:
            at = at + scale // 2 - 512
        first = np.maximum(at, 0) >> 10
        second = np.minimum(np.maximum(at + 1023, 0) >> 10, n - 1)
        return cls.of(first, second, at - 1024 * first, 1024)

    @classmethod
    def xnnpack(cls, n: int, m: int, how: ResizeAttrs) -> Taps:
        """Positions in float32, weights in 11 bits (xnn_indirection_init_resize_bilinear2d_hwc_q11)."""
        f = np.float32
        one = int(how.align_corners and m > 1)
        scale = f(n - one) / f(m - one)
        at = np.arange(m, dtype=np.float32) * scale
        if how.half_pixel_centers:
            at = np.clip(at + (f(0.5) * scale - f(0.5)), f(0), f(n - 1))
        first = at.astype(np.int64)
        weight = np.rint((at - first.astype(np.float32)) * f(2048)).astype(np.int64)
        return cls.of(first, np.minimum(first + 1, n - 1), weight, 2048)

    @staticmethod
    def slack(n: int, m: int, how: ResizeAttrs) -> F64:
        """How far a position computed in float32 can be from the exact one, [m]: at most six roundings."""
        k = np.arange(m) + 1.0
        reach = k * (n / max(1, m - 1 if how.align_corners else m)) + 1.0
        return 6 * U32 * reach

    def apply(self, x: Array, axis: int) -> Array:
        """The weighted sums along an axis, times ``unit``; in the type of x."""
        shape = [1] * x.ndim
        shape[axis] = -1
        w = self.weight.astype(x.dtype).reshape(shape)
        rest = (self.unit - self.weight).astype(x.dtype).reshape(shape)
        return np.take(x, self.first, axis) * rest + np.take(x, self.second, axis) * w


class ResizeBilinear(Semantics):
    name = "RESIZE_BILINEAR"
    max_version = 4

    def parse(self, options: Options) -> ResizeAttrs:
        # slots 0 and 1 of the table are a size that nothing reads any more
        return ResizeAttrs(options.bool(2), options.bool(3))

    def check(self, node: Node, graph: Graph) -> None:
        require(len(node.inputs) == 2, "unexpected number of inputs", node, graph, len(node.inputs))
        x, size, y = (graph.tensors[i] for i in (*node.inputs, node.outputs[0]))
        n, h, w, c = image(node, graph, x)
        fits = size.const is not None and size.dtype is DType.INT32 and size.shape == (2,)
        require(fits, "the size is not a constant of two integers", node, graph, size.shape)
        assert size.const is not None
        sides = [int(v) for v in size.const]
        fits = all(1 <= v <= _MAX_SIDE for v in (h, w, *sides))
        require(fits, "RESIZE_BILINEAR to this size is not supported", node, graph, f"{(h, w)} to {sides}")
        expected = (n, *sides, c)
        found = f"{y.shape}, expected {expected}"
        require(y.shape == expected, "the output does not have the shape that the operator gives", node, graph, found)
        require(x.dtype is y.dtype, "input and output have different types", node, graph, y.dtype.value)
        require(x.dtype in TYPES, "RESIZE_BILINEAR runs on int8, int16 and float only", node, graph, x.dtype.value)
        how = _attrs(node)
        both = how.align_corners and how.half_pixel_centers
        require(not both, "aligned corners together with centres of half pixels, which LiteRT refuses", node, graph)
        if x.dtype.is_code:
            same = (x.q.s, x.q.z) == (y.q.s, y.q.z) and not x.q.per_channel and not y.q.per_channel
            require(same, "RESIZE_BILINEAR between different scales", node, graph, f"{x.q.s}, {y.q.s}")
            inside = all(int(Taps.portable(a, b, how).first.max()) < a for a, b in zip((h, w), sides, strict=True))
            require(inside, "the portable kernels would read beyond the input", node, graph, f"{(h, w)} to {sides}")

    def axes(self, node: Node, graph: Graph) -> tuple[tuple[int, int, ResizeAttrs], tuple[int, int, ResizeAttrs]]:
        """Rows and columns of a checked node: entries before and after, and how they are mapped."""
        x, y, how = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape, _attrs(node)
        return (x[1], y[1], how), (x[2], y[2], how)

    def exact(self, node: Node, graph: Graph) -> tuple[Taps, Taps]:
        """Rows and columns on real numbers."""
        rows, columns = self.axes(node, graph)
        return Taps.exact(*rows), Taps.exact(*columns)

    def integer(self, node: Node, graph: Graph, runtime: Runtime) -> tuple[Taps, Taps]:
        """Rows and columns on codes, as the kernel that executes the node has them."""
        make = Taps.xnnpack if owner(node, graph, runtime) is Runtime.XNNPACK else Taps.portable
        rows, columns = self.axes(node, graph)
        return make(*rows), make(*columns)

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        x = inputs[0]
        assert x is not None
        rows, columns = self.exact(node, graph)
        y = rows.apply(x, 2) / x.dtype.type(rows.unit)
        return columns.apply(y, 3) / x.dtype.type(columns.unit)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        x = inputs[0]
        assert x is not None
        rows, columns = self.integer(node, graph, runtime)
        total = columns.apply(rows.apply(x.astype(np.int64), 2), 3)
        unit = rows.unit * columns.unit
        if owner(node, graph, runtime) is Runtime.XNNPACK:  # half up
            return ((total + unit // 2) // unit).astype(np.int32)
        return (np.sign(total) * ((np.abs(total) + unit // 2) // unit)).astype(np.int32)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        del node, graph, runtime
        return Rounding.symmetric(0.5)


def _attrs(node: Node) -> ResizeAttrs:
    assert isinstance(node.attrs, ResizeAttrs)
    return node.attrs
