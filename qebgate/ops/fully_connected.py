"""FULLY_CONNECTED, and BATCH_MATMUL by a constant: one matrix on the last axis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qebgate.domains.gap import I64
from qebgate.domains.layers import Layer
from qebgate.domains.linear_map import Dense
from qebgate.ir.pair import Step
from qebgate.ops.base import Context
from qebgate.ops.linear import lower_linear
from qebgate.semantics.base import Activation
from qebgate.semantics.batch_matmul import finish
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


class BatchMatMulLowering:
    op: str = "BATCH_MATMUL"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        ctx.same(step, fn.attrs, qn.attrs, "transpositions")
        graph = ctx.pair.quantized
        x = graph.tensors[qn.inputs[0]]
        rows, free = x.size // x.shape[-1], (Activation.NONE, Activation.NONE)
        layer = lower_linear(step, ctx, lambda w: Dense(w, rows), free, axis=0, dense=True)
        if layer.codes_of_accumulator is None:
            return [layer]

        def codes(acc: I64) -> I64:
            most = 2**31 - 1
            return finish(qn, graph, np.clip(acc, -most, most), ctx.runtime).ravel()

        return [replace(layer, codes_of_accumulator=codes)]
