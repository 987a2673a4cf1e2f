"""ADD and SUB: two scaled inputs, or one and a constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from qebgate.domains.gap import I64
from qebgate.domains.layers import Affine, CodeBox, Layer
from qebgate.domains.linear_map import LinearMap, Scale, gather
from qebgate.ir.graph import Graph, Node
from qebgate.ir.pair import Step
from qebgate.numerics.rounding import F64
from qebgate.ops.base import Context, clamp_grid, label, monotone_kernel, rounding_of
from qebgate.semantics.binary import BinaryAttrs


class AddLowering:
    op: str = "ADD"
    signs: ClassVar[tuple[float, float]] = (1.0, 1.0)

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        fa, qa = fn.attrs, qn.attrs
        assert isinstance(fa, BinaryAttrs) and isinstance(qa, BinaryAttrs)
        fy, qy = ctx.pair.tensors(step.output)
        shapes = [tuple(t.shape for t in ctx.pair.tensors(i)) for i in step.inputs]
        for a, b in shapes:  # one of the two graphs may have reshaped an input
            if not np.array_equal(broadcast_index(a, fy.shape), broadcast_index(b, qy.shape)):
                ctx.same(step, a, b, "shapes of an input")
        signs = self._signs(qn, ctx.pair.quantized)
        if self.signs[0] != self.signs[1]:
            ctx.same(step, self._signs(fn, ctx.pair.float), signs, "orders of inputs")
        maps = tuple(_scaled(s, shape, qy.shape) for s, (_, shape) in zip(signs, shapes, strict=True))
        below, above = rounding_of(qn, ctx.pair.quantized, ctx.runtime)
        kernel = monotone_kernel(qn, ctx.pair.quantized, ctx.runtime)
        rising = all(s > 0 for s in signs)
        return [
            Affine(
                label=label(step),
                inputs=step.inputs,
                output=step.output,
                f=maps,
                q=maps,
                bf=self._constant(fn, ctx.pair.float, fy.shape),
                bq=self._constant(qn, ctx.pair.quantized, qy.shape),
                float_range=fa.activation.range,
                below=below,
                above=above,
                grid=clamp_grid(qn, ctx.pair.quantized, ctx.runtime, qa.activation),
                codes_of_inputs=kernel if rising else None,
                codes_between=None if rising or kernel is None else _crossed(kernel, signs),
                noise=ctx.noise(step),
            )
        ]

    def _signs(self, node: Node, graph: Graph) -> tuple[float, ...]:
        """Of the live operands, in order."""
        return tuple(s for s, i in zip(self.signs, node.inputs, strict=True) if not graph.tensors[i].is_const)

    def _constant(self, node: Node, graph: Graph, out: tuple[int, ...]) -> F64:
        """The sum of the node's constant operands, in real units."""
        total = np.zeros(out)
        for s, i in zip(self.signs, node.inputs, strict=True):
            if graph.tensors[i].is_const:
                total = total + s * constant_of(graph, i)
        return total.ravel()


class SubLowering(AddLowering):
    op: str = "SUB"
    signs: ClassVar[tuple[float, float]] = (1.0, -1.0)


def _crossed(
    kernel: Callable[[Sequence[I64]], I64], signs: tuple[float, ...]
) -> Callable[[Sequence[CodeBox]], CodeBox]:
    """The kernel falls in the operands with sign -1."""

    def run(codes: Sequence[CodeBox]) -> CodeBox:
        least = kernel([c[0] if s > 0 else c[1] for c, s in zip(codes, signs, strict=True)])
        return least, kernel([c[1] if s > 0 else c[0] for c, s in zip(codes, signs, strict=True)])

    return run


def constant_of(graph: Graph, i: int) -> F64:
    """A constant tensor's real values."""
    t = graph.tensors[i]
    assert t.const is not None
    return t.q.dequantize(t.const) if t.dtype.is_code else t.const.astype(np.float64)


def _scaled(sign: float, shape: tuple[int, ...], out: tuple[int, ...]) -> LinearMap:
    size = int(np.prod(shape, dtype=np.int64))
    if shape == out:
        return Scale(sign, size)
    return gather(broadcast_index(shape, out), size, factor=sign)


def broadcast_index(shape: tuple[int, ...], out: tuple[int, ...]) -> I64:
    """Which entry of an operand every output entry reads."""
    size = int(np.prod(shape, dtype=np.int64))
    return np.broadcast_to(np.arange(size, dtype=np.int64).reshape(shape), out).ravel()
