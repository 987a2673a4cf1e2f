"""FULLY_CONNECTED: one matrix on the last axis."""

from __future__ import annotations

from qebgate.domains.layers import Layer
from qebgate.domains.linear_map import Dense
from qebgate.ir.pair import Step
from qebgate.ops.base import Context
from qebgate.ops.linear import lower_linear
from qebgate.semantics.fully_connected import FullyConnectedAttrs


class FullyConnectedLowering:
    op: str = "FULLY_CONNECTED"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        fa, qa = fn.attrs, qn.attrs
        assert isinstance(fa, FullyConnectedAttrs) and isinstance(qa, FullyConnectedAttrs)
        rows = ctx.pair.tensors(step.inputs[0])[1].size // ctx.pair.quantized.tensors[qn.inputs[1]].shape[1]
        return [lower_linear(step, ctx, lambda w: Dense(w, rows), (fa.activation, qa.activation), axis=0, dense=True)]
