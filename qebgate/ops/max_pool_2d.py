"""MAX_POOL_2D: selection, on codes without any rounding."""

from __future__ import annotations

import numpy as np

from qebgate.domains.layers import Affine, Layer, MaxPool
from qebgate.domains.linear_map import Scale
from qebgate.ir.pair import Step
from qebgate.ops.base import Context, clamp_grid, code_grid, label
from qebgate.ops.windows import taps
from qebgate.semantics.base import Activation
from qebgate.semantics.max_pool_2d import MaxPool2D
from qebgate.semantics.pool_2d import Pool2DAttrs


class MaxPool2DLowering:
    op: str = "MAX_POOL_2D"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        fa, qa = fn.attrs, qn.attrs
        assert isinstance(fa, Pool2DAttrs) and isinstance(qa, Pool2DAttrs)
        sem = MaxPool2D()
        window = sem.window(qn, ctx.pair.quantized)
        ctx.same(step, sem.window(fn, ctx.pair.float), window, "windows")
        x, y = (ctx.pair.quantized.tensors[i] for i in (qn.inputs[0], qn.outputs[0]))
        ctx.same(step, x.shape[0], 1, "batch axes")
        if x.dtype.is_code:
            ctx.same(step, (x.q.s, x.q.z), (y.q.s, y.q.z), "scales of input and output")
        grid = code_grid(x)
        index = taps(window, x.shape[3])
        if fa.activation is Activation.NONE and qa.activation is Activation.NONE:
            return [MaxPool(label(step), step.inputs, step.output, index, grid)]
        inner = ctx.fresh()
        clamped = clamp_grid(qn, ctx.pair.quantized, ctx.runtime, qa.activation)
        zero = np.zeros(y.size)
        clamp = Affine(
            label=label(step),
            inputs=(inner,),
            output=step.output,
            f=(Scale(1.0, y.size),),
            q=(Scale(1.0, y.size),),
            bf=zero,
            bq=zero,
            float_range=fa.activation.range,
            below=zero,
            above=zero,
            grid=clamped,
            codes_of_inputs=None if clamped is None else lambda c: np.clip(c[0], clamped.lo, clamped.hi),
        )
        return [MaxPool(label(step), step.inputs, inner, index, grid), clamp]
