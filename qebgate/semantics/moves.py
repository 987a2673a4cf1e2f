"""Operators that only move entries: every output entry is one entry of the inputs, chosen by the graph alone.

CONCATENATION, TRANSPOSE, SQUEEZE, EXPAND_DIMS, SPLIT, STRIDED_SLICE, SLICE, PACK, PADV2, GATHER,
RESIZE_NEAREST_NEIGHBOR, SPACE_TO_DEPTH, DEPTH_TO_SPACE, MIRROR_PAD, TILE.
Each is one method: the index map.  Exact in every runtime, on both sides.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType
from qebgate.numerics.fixed_point import I64
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import Activation, Options, Semantics, require

TYPES = (DType.INT8, DType.INT16, DType.FLOAT32, DType.INT32, DType.INT64)
"""Integers that are no codes appear only in arithmetic on shapes, which the reader folds."""


class Move(Semantics):
    """Base of the operators that move entries.

    ``numbers[k]`` are the flat indices ``[*shape_k]`` of operand k's entries among those of all operands; what the
    subclass makes of them is the map.
    """

    max_version = 8

    @abstractmethod
    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        """Which entry each one of the output is ``[*out shape]``; UnsupportedError for parameters that do not fit."""

    def operands(self, node: Node, graph: Graph) -> tuple[int, ...]:
        """Tensors whose entries are moved: the first input."""
        del graph
        return node.inputs[:1]

    def index(self, node: Node, graph: Graph) -> I64:
        """The map of a checked node, ``[*out shape]``, into the concatenated flat operands."""
        numbers: list[I64] = []
        start = 0
        for i in self.operands(node, graph):
            t = graph.tensors[i]
            numbers.append(np.arange(start, start + t.size, dtype=np.int64).reshape(t.shape))
            start += t.size
        return self.place(node, graph, numbers)

    def check(self, node: Node, graph: Graph) -> None:
        moved, y = self.operands(node, graph), graph.tensors[node.outputs[0]]
        require(bool(moved) and min(moved) >= 0, "an operand is missing", node, graph)
        for i in moved:
            t = graph.tensors[i]
            require(t.dtype is y.dtype, "inputs and output have different types", node, graph, f"{t.dtype}, {y.dtype}")
            if t.dtype.is_code:
                same = (t.q.s, t.q.z) == (y.q.s, y.q.z) and not t.q.per_channel and not y.q.per_channel
                require(same, f"{node.op} between different scales", node, graph, f"{t.q.s}, {y.q.s}")
        require(y.dtype in TYPES, f"{node.op} runs on int8, int16 and float only", node, graph, y.dtype.value)
        require(
            self.result_shape(node, graph) == y.shape,
            "the output does not have the shape that the operator gives",
            node,
            graph,
            y.shape,
        )

    def result_shape(self, node: Node, graph: Graph) -> tuple[int, ...]:
        """Of the map, or of any equal one that is cheaper to make."""
        return self.index(node, graph).shape

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        given = dict(zip(node.inputs, inputs, strict=True))
        live = [x for i, x in given.items() if x is not None and not graph.tensors[i].is_const]
        dtype, batch = (live[0].dtype, len(live[0])) if live else (None, 1)
        parts: list[Array] = []
        for i in self.operands(node, graph):
            x = given[i]
            assert x is not None
            if graph.tensors[i].is_const:
                x = np.broadcast_to(x.reshape(1, -1), (batch, x.size)).astype(dtype or x.dtype)
            parts.append(x.reshape(batch, -1))
        flat = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return np.take(flat, self.index(node, graph), axis=1)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        del runtime
        return self.run_float(node, graph, inputs)


def _constant(node: Node, graph: Graph, k: int, what: str) -> list[int]:
    """A constant input of integers."""
    require(len(node.inputs) > k and node.inputs[k] >= 0, f"{what} is missing", node, graph)
    t = graph.tensors[node.inputs[k]]
    fits = t.const is not None and t.dtype in (DType.INT32, DType.INT64) and t.size <= 4096
    require(fits, f"{what} is not a constant of integers", node, graph)
    assert t.const is not None
    return [int(v) for v in t.const.reshape(-1)]


def _axis(value: int, rank: int, node: Node, graph: Graph) -> int:
    require(-rank <= value < rank, f"{node.op} along an axis that does not exist", node, graph, value)
    return value % rank


@dataclass(frozen=True, slots=True)
class ConcatenationAttrs:
    """The axis, and the fused activation (none of the kernels on integers has one)."""

    axis: int
    activation: Activation = Activation.NONE


class Concatenation(Move):
    name = "CONCATENATION"
    max_version = 3

    def parse(self, options: Options) -> ConcatenationAttrs:
        return ConcatenationAttrs(options.int32(0), Activation.parse(options.int8(1)))

    def operands(self, node: Node, graph: Graph) -> tuple[int, ...]:
        return node.inputs

    def check(self, node: Node, graph: Graph) -> None:
        assert isinstance(node.attrs, ConcatenationAttrs)
        fused = node.attrs.activation
        require(fused is Activation.NONE, "CONCATENATION with a fused activation", node, graph, fused.name)
        super().check(node, graph)

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        assert isinstance(node.attrs, ConcatenationAttrs)
        shapes = [n.shape for n in numbers]
        axis = _axis(node.attrs.axis, len(shapes[0]), node, graph)
        rest = {(*s[:axis], *s[axis + 1 :]) for s in shapes}
        require(len(rest) == 1 and len({len(s) for s in shapes}) == 1, "shapes do not fit", node, graph, shapes[:5])
        return np.concatenate(list(numbers), axis=axis)


@dataclass(frozen=True, slots=True)
class PackAttrs:
    """The new axis."""

    axis: int


class Pack(Move):
    name = "PACK"
    max_version = 3

    def parse(self, options: Options) -> PackAttrs:
        return PackAttrs(options.int32(1))

    def operands(self, node: Node, graph: Graph) -> tuple[int, ...]:
        return node.inputs

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        assert isinstance(node.attrs, PackAttrs)
        shapes = {n.shape for n in numbers}
        require(len(shapes) == 1, "shapes do not fit", node, graph, sorted(shapes)[:5])
        return np.stack(list(numbers), axis=_axis(node.attrs.axis, numbers[0].ndim + 1, node, graph))


class Transpose(Move):
    name = "TRANSPOSE"
    max_version = 5

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        axes = _constant(node, graph, 1, "the order of axes")
        rank = numbers[0].ndim
        require(sorted(axes) == list(range(rank)), "TRANSPOSE with a wrong order of axes", node, graph, axes)
        return numbers[0].transpose(axes)


@dataclass(frozen=True, slots=True)
class SqueezeAttrs:
    """Axes that go; all of length 1 where none is named."""

    axes: tuple[int, ...]


class Squeeze(Move):
    name = "SQUEEZE"
    max_version = 2

    def parse(self, options: Options) -> SqueezeAttrs:
        return SqueezeAttrs(options.integers(0))

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        assert isinstance(node.attrs, SqueezeAttrs)
        shape = numbers[0].shape
        gone = {_axis(a, len(shape), node, graph) for a in node.attrs.axes}
        gone = gone or {k for k, n in enumerate(shape) if n == 1}
        require(all(shape[k] == 1 for k in gone), "SQUEEZE of an axis that is longer than 1", node, graph, shape)
        return numbers[0].squeeze(axis=tuple(gone))


class ExpandDims(Move):
    name = "EXPAND_DIMS"
    max_version = 1

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        axes = _constant(node, graph, 1, "the axis")
        require(len(axes) == 1, "EXPAND_DIMS needs one axis", node, graph, axes)
        return np.expand_dims(numbers[0], _axis(axes[0], numbers[0].ndim + 1, node, graph))


@dataclass(frozen=True, slots=True)
class SplitAttrs:
    """How many parts, and which one this node gives (the reader makes one node of each output)."""

    parts: int
    part: int = 0


class Split(Move):
    name = "SPLIT"
    max_version = 4

    def parse(self, options: Options) -> SplitAttrs:
        return SplitAttrs(options.int32(0))

    def operands(self, node: Node, graph: Graph) -> tuple[int, ...]:
        return node.inputs[1:2]

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        assert isinstance(node.attrs, SplitAttrs)
        axes, (parts, part) = _constant(node, graph, 0, "the axis"), (node.attrs.parts, node.attrs.part)
        require(len(axes) == 1, "SPLIT needs one axis", node, graph, axes)
        axis = _axis(axes[0], numbers[0].ndim, node, graph)
        size = numbers[0].shape[axis]
        require(parts >= 1 and size % parts == 0 and part < parts, "SPLIT into unequal parts", node, graph, parts)
        each = size // parts
        return np.take(numbers[0], np.arange(part * each, (part + 1) * each), axis=axis)


@dataclass(frozen=True, slots=True)
class StridedSliceAttrs:
    """Masks of bits, one bit an axis."""

    begin: int
    end: int
    ellipsis: int
    new_axis: int
    shrink: int
    offset: bool


class StridedSlice(Move):
    name = "STRIDED_SLICE"

    def parse(self, options: Options) -> StridedSliceAttrs:
        masks = (options.int32(k) for k in range(5))
        return StridedSliceAttrs(*masks, offset=options.bool(5))

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        a = node.attrs
        assert isinstance(a, StridedSliceAttrs)
        plain = not (a.ellipsis or a.new_axis or a.offset)
        require(plain, "STRIDED_SLICE with an ellipsis, a new axis or an offset is not supported", node, graph)
        first, last, step = (_constant(node, graph, k, w) for k, w in ((1, "begin"), (2, "end"), (3, "strides")))
        same = len(first) == len(last) == len(step) <= numbers[0].ndim
        require(same, "STRIDED_SLICE with limits that do not fit", node, graph, len(first))
        require(all(s != 0 for s in step), "STRIDED_SLICE with a stride of 0", node, graph)
        index: list[slice | int] = []
        for k, (b, e, s) in enumerate(zip(first, last, step, strict=True)):
            if a.shrink >> k & 1:
                size = numbers[0].shape[k]
                require(-size <= b < size, "STRIDED_SLICE of an entry that does not exist", node, graph, b)
                index.append(b)
            else:
                index.append(slice(None if a.begin >> k & 1 else b, None if a.end >> k & 1 else e, s))
        return numbers[0][tuple(index)]


class Slice(Move):
    name = "SLICE"
    max_version = 6

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        first, size = _constant(node, graph, 1, "begin"), _constant(node, graph, 2, "size")
        x = numbers[0]
        require(len(first) == len(size) == x.ndim, "SLICE with limits that do not fit", node, graph, len(first))
        ends = [b + s if s >= 0 else n for b, s, n in zip(first, size, x.shape, strict=True)]
        inside = all(0 <= b <= e <= n for b, e, n in zip(first, ends, x.shape, strict=True))
        require(inside, "SLICE outside of its input", node, graph, f"{first}, {size}")
        return x[tuple(slice(b, e) for b, e in zip(first, ends, strict=True))]


class PadV2(Move):
    """PAD with a constant of its own."""

    name = "PADV2"
    max_version = 2

    def operands(self, node: Node, graph: Graph) -> tuple[int, ...]:
        return (node.inputs[0], *node.inputs[2:3])

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        require(len(node.inputs) == 3 and numbers[1].size == 1, "PADV2 needs one constant", node, graph)
        fill, x = int(numbers[1].reshape(-1)[0]), numbers[0]
        amounts = _constant(node, graph, 1, "the padding")
        fits = len(amounts) == 2 * x.ndim and min(amounts) >= 0 and max(amounts) < 1 << 16
        require(fits, "paddings do not fit the input", node, graph, amounts[:10])
        pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
        total = math.prod(n + a + b for n, (a, b) in zip(x.shape, pairs, strict=True))
        require(total <= 1 << 27, "the padded tensor is too large", node, graph, total)
        return np.pad(x, pairs, constant_values=fill)


@dataclass(frozen=True, slots=True)
class GatherAttrs:
    """The axis, and leading axes that both share."""

    axis: int
    batch: int


class Gather(Move):
    name = "GATHER"
    max_version = 4

    def parse(self, options: Options) -> GatherAttrs:
        return GatherAttrs(options.int32(0), options.int32(1))

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        a = node.attrs
        assert isinstance(a, GatherAttrs)
        require(a.batch == 0, "GATHER with batch axes is not supported", node, graph, a.batch)
        chosen = np.array(_constant(node, graph, 1, "the choice of entries"), np.int64)
        axis = _axis(a.axis, numbers[0].ndim, node, graph)
        inside = bool(((chosen >= 0) & (chosen < numbers[0].shape[axis])).all())
        require(inside, "GATHER of an entry that does not exist", node, graph)
        return np.take(numbers[0], chosen.reshape(graph.tensors[node.inputs[1]].shape), axis=axis)


@dataclass(frozen=True, slots=True)
class BlockAttrs:
    """Side of the blocks."""

    size: int


class SpaceToDepth(Move):
    name = "SPACE_TO_DEPTH"
    max_version = 2

    def parse(self, options: Options) -> BlockAttrs:
        return BlockAttrs(options.int32(0))

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        x, k = numbers[0], _block(node, graph, numbers[0], 1)
        require(x.shape[1] % k == 0 and x.shape[2] % k == 0, "blocks do not fit the input", node, graph, x.shape)
        n, h, w, c = x.shape
        return x.reshape(n, h // k, k, w // k, k, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // k, w // k, k * k * c)


class DepthToSpace(SpaceToDepth):
    name = "DEPTH_TO_SPACE"

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        x, k = numbers[0], _block(node, graph, numbers[0], 1)
        n, h, w, c = x.shape
        require(c % (k * k) == 0, "blocks do not fit the input", node, graph, x.shape)
        return x.reshape(n, h, w, k, k, c // (k * k)).transpose(0, 1, 3, 2, 4, 5).reshape(n, h * k, w * k, -1)


def _block(node: Node, graph: Graph, x: I64, least: int) -> int:
    assert isinstance(node.attrs, BlockAttrs)
    k = node.attrs.size
    require(x.ndim == 4 and least <= k <= 1 << 10, f"{node.op} with blocks of this size", node, graph, k)
    return k


@dataclass(frozen=True, slots=True)
class MirrorPadAttrs:
    """REFLECT leaves the edge out, SYMMETRIC repeats it."""

    symmetric: bool


class MirrorPad(Move):
    name = "MIRROR_PAD"
    max_version = 2

    def parse(self, options: Options) -> MirrorPadAttrs:
        return MirrorPadAttrs(options.int8(0) == 1)

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        assert isinstance(node.attrs, MirrorPadAttrs)
        x, amounts = numbers[0], _constant(node, graph, 1, "the padding")
        require(len(amounts) == 2 * x.ndim, "paddings do not fit the input", node, graph, amounts[:10])
        pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
        edge = 0 if node.attrs.symmetric else 1
        fits = all(0 <= v <= n - edge for n, p in zip(x.shape, pairs, strict=True) for v in p)
        require(fits, "a padding is larger than what it mirrors", node, graph, amounts)
        return np.pad(x, pairs, mode="symmetric" if node.attrs.symmetric else "reflect")


@dataclass(frozen=True, slots=True)
class ResizeAttrs:
    """How positions of the output are mapped to the input."""

    align_corners: bool
    half_pixel_centers: bool


class ResizeNearestNeighbor(Move):
    """Positions in float32, as the kernel computes them."""

    name = "RESIZE_NEAREST_NEIGHBOR"
    max_version = 4

    def parse(self, options: Options) -> ResizeAttrs:
        return ResizeAttrs(options.bool(0), options.bool(1))

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        x, size = numbers[0], _constant(node, graph, 1, "the size")
        fits = x.ndim == 4 and len(size) == 2 and all(1 <= n <= 1 << 13 for n in size)
        require(fits, "RESIZE_NEAREST_NEIGHBOR to this size is not supported", node, graph, size)
        assert isinstance(node.attrs, ResizeAttrs)
        rows, columns = (_nearest(n, m, node.attrs) for n, m in zip(x.shape[1:3], size, strict=True))
        return x[:, rows][:, :, columns]


def _nearest(before: int, after: int, how: ResizeAttrs) -> I64:
    """The input position of every output position (reference_ops::GetNearestNeighbor)."""
    corners = how.align_corners and after > 1
    scale = np.float32(before - 1) / np.float32(after - 1) if corners else np.float32(before) / np.float32(after)
    offset = np.float32(0.5 if how.half_pixel_centers else 0.0)
    at = (np.arange(after, dtype=np.float32) + offset) * scale
    if how.align_corners:  # round: half away from zero
        at = np.floor(at + np.float32(0.5))
    return np.clip(np.floor(at).astype(np.int64), 0, before - 1)


class Tile(Move):
    name = "TILE"
    max_version = 3

    def place(self, node: Node, graph: Graph, numbers: Sequence[I64]) -> I64:
        x, times = numbers[0], _constant(node, graph, 1, "how often each axis is repeated")
        fits = len(times) == x.ndim and all(n >= 1 for n in times) and math.prod(times) * x.size <= 1 << 26
        require(fits, "TILE by these numbers is not supported", node, graph, times[:10])
        return np.tile(x, times)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        known = runtime is not Runtime.REFERENCE or node.version < 3
        require(known, "litert-reference has no kernel for TILE of version 3", node, graph)
        return self.run_float(node, graph, inputs)


MOVES: tuple[type[Move], ...] = (
    Concatenation,
    DepthToSpace,
    ExpandDims,
    Gather,
    MirrorPad,
    Pack,
    PadV2,
    ResizeNearestNeighbor,
    Slice,
    SpaceToDepth,
    Split,
    Squeeze,
    StridedSlice,
    Tile,
    Transpose,
)
