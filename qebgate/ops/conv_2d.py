"""CONV_2D: a convolution that is never written out as a matrix."""

from __future__ import annotations

import numpy as np

from qebgate.domains.layers import Layer
from qebgate.domains.linear_map import Conv
from qebgate.ir.pair import Step
from qebgate.ops.base import Context
from qebgate.ops.linear import lower_linear
from qebgate.ops.windows import geometry
from qebgate.semantics.conv_2d import Conv2D, Conv2DAttrs


class Conv2DLowering:
    op: str = "CONV_2D"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        fa, qa = fn.attrs, qn.attrs
        assert isinstance(fa, Conv2DAttrs) and isinstance(qa, Conv2DAttrs)
        fw, qw = Conv2D().window(fn, ctx.pair.float), Conv2D().window(qn, ctx.pair.quantized)
        ctx.same(step, fw, qw, "windows")
        window = geometry(qw)
        make = lambda w: Conv(np.ascontiguousarray(w.transpose(1, 2, 3, 0)), window)  # noqa: E731
        return [lower_linear(step, ctx, make, (fa.activation, qa.activation), axis=0, dense=False)]
