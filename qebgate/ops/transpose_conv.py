"""TRANSPOSE_CONV: the transpose of a convolution's map."""

from __future__ import annotations

import numpy as np

from qebgate.domains.layers import Layer
from qebgate.domains.linear_map import Conv, Transposed
from qebgate.ir.pair import Step
from qebgate.ops.base import Context
from qebgate.ops.linear import lower_linear
from qebgate.ops.windows import geometry
from qebgate.semantics.accumulate import scalar_tail
from qebgate.semantics.transpose_conv import TransposeConv, TransposeConvAttrs


class TransposeConvLowering:
    op: str = "TRANSPOSE_CONV"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        fa, qa = fn.attrs, qn.attrs
        assert isinstance(fa, TransposeConvAttrs) and isinstance(qa, TransposeConvAttrs)
        fw, qw = TransposeConv().window(fn, ctx.pair.float), TransposeConv().window(qn, ctx.pair.quantized)
        ctx.same(step, fw, qw, "windows")
        window = geometry(qw)
        make = lambda w: Transposed(Conv(np.ascontiguousarray(w.transpose(1, 2, 0, 3)), window))  # noqa: E731
        tail = scalar_tail(ctx.pair.quantized.tensors[qn.outputs[0]].shape[3])
        return [lower_linear(step, ctx, make, (fa.activation, qa.activation), axis=0, dense=False, tail=tail)]
