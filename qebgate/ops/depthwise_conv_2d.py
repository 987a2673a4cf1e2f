"""DEPTHWISE_CONV_2D: one small kernel per channel."""

from __future__ import annotations

import numpy as np

from qebgate.domains.layers import Layer
from qebgate.domains.linear_map import Depthwise
from qebgate.ir.pair import Step
from qebgate.ops.base import Context
from qebgate.ops.linear import lower_linear
from qebgate.ops.windows import geometry
from qebgate.semantics.depthwise_conv_2d import DepthwiseConv2D, DepthwiseConv2DAttrs


class DepthwiseConv2DLowering:
    op: str = "DEPTHWISE_CONV_2D"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        fa, qa = fn.attrs, qn.attrs
        assert isinstance(fa, DepthwiseConv2DAttrs) and isinstance(qa, DepthwiseConv2DAttrs)
        sem = DepthwiseConv2D()
        fw, qw = sem.window(fn, ctx.pair.float), sem.window(qn, ctx.pair.quantized)
        ctx.same(step, fw, qw, "windows")
        window = geometry(qw)
        channels = ctx.pair.quantized.tensors[qn.inputs[0]].shape[3]
        make = lambda w: Depthwise(w[0].reshape(*w.shape[1:3], channels, w.shape[3] // channels), window)  # noqa: E731
        outputs = ctx.pair.quantized.tensors[qn.outputs[0]].shape[3]
        tail = np.arange(outputs) >= outputs // 8 * 8
        return [lower_linear(step, ctx, make, (fa.activation, qa.activation), axis=3, dense=False, tail=tail)]
