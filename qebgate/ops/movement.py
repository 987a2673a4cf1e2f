"""Operators that only move values or change their type: RESHAPE, PAD, QUANTIZE, DEQUANTIZE, standalone ReLUs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qebgate.domains.layers import Layer
from qebgate.domains.linear_map import Scale, gather
from qebgate.ir.pair import Step
from qebgate.ops.base import Context, code_grid, monotone_kernel, moved, rounding_of
from qebgate.semantics.base import Activation
from qebgate.semantics.pad import Pad


class ReshapeLowering:
    op: str = "RESHAPE"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        one = Scale(1.0, ctx.pair.tensors(step.output)[1].size)
        return [replace(moved(step, ctx, one, one), moves_only=True)]


class PadLowering:
    """PAD fills with real zeros on both sides (the zero point on the quantized one)."""

    op: str = "PAD"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        amounts = Pad().amounts(qn, ctx.pair.quantized)
        ctx.same(step, Pad().amounts(fn, ctx.pair.float), amounts, "paddings")
        x = ctx.pair.quantized.tensors[qn.inputs[0]]
        index = np.pad(np.arange(x.size, dtype=np.int64).reshape(x.shape), amounts, constant_values=-1).ravel()
        move = gather(np.maximum(index, 0), x.size, keep=index >= 0)
        return [moved(step, ctx, move, move)]


class QuantizeLowering:
    """Float to codes, or codes to other codes; the float network has no such node.

    Between equal scales (uint8 to int8) nothing is rounded.
    """

    op: str = "QUANTIZE"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        qn = step.quantized_node
        assert qn is not None
        graph = ctx.pair.quantized
        x, y = graph.tensors[qn.inputs[0]], graph.tensors[qn.outputs[0]]
        one = Scale(1.0, y.size)
        layer = replace(moved(step, ctx, one, one), grid=code_grid(y))
        if x.dtype.is_code and x.q.s == y.q.s:
            return [layer]
        below, above = rounding_of(qn, graph, ctx.runtime)
        return [replace(layer, below=below, above=above)]


class DequantizeLowering:
    op: str = "DEQUANTIZE"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        qn = step.quantized_node
        assert qn is not None
        one = Scale(1.0, ctx.pair.tensors(step.output)[1].size)
        below, above = rounding_of(qn, ctx.pair.quantized, ctx.runtime)
        return [replace(moved(step, ctx, one, one), below=below, above=above, grid=None, codes_of_inputs=None)]


class ReluLowering:
    """A ReLU that is not fused, on one side or on both."""

    op: str = "RELU"
    activation = Activation.RELU

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        one = Scale(1.0, ctx.pair.tensors(step.output)[1].size)
        fn, qn = step.float_node, step.quantized_node
        layer = moved(step, ctx, one, one, float_range=(-np.inf, np.inf) if fn is None else self.activation.range)
        if qn is None:
            return [layer]
        graph = ctx.pair.quantized
        x, y = graph.tensors[qn.inputs[0]], graph.tensors[qn.outputs[0]]
        if not y.dtype.is_code:
            return [replace(layer, quantized_range=self.activation.range)]
        kernel = monotone_kernel(qn, graph, ctx.runtime)
        if kernel is None:  # the largest code depends on the runtime: the clamp alone is the same in all
            lo, hi = self.activation.code_range(y, ctx.runtime)
        else:
            lo, hi = (int(kernel([np.full(y.size, c, np.int64)])[0]) for c in x.dtype.code_range)
        below, above = rounding_of(qn, graph, ctx.runtime)
        return [replace(layer, below=below, above=above, grid=code_grid(y, (lo, hi)), codes_of_inputs=kernel)]


class Relu6Lowering(ReluLowering):
    op: str = "RELU6"
    activation = Activation.RELU6
