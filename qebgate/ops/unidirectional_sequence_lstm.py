"""UNIDIRECTIONAL_SEQUENCE_LSTM: executed exactly where its codes are known, else followed step by step.

Other layers see its intervals only; its steps are in :mod:`qebgate.ops.lstm_steps`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.domains.gap import Gap, Interval, tighten
from qebgate.domains.layers import Layer, Opaque
from qebgate.ir.pair import Step
from qebgate.numerics.rounding import U32, down, up
from qebgate.ops.base import Context, code_grid, label
from qebgate.ops.lstm_steps import Side, Trace, double, execution, follow
from qebgate.ops.squashing import exact_codes
from qebgate.semantics.float_error import LOGISTIC_ULPS, TANH_ULPS
from qebgate.semantics.lstm_arithmetic import Arithmetic, Integers, floating, limits_of
from qebgate.semantics.unidirectional_sequence_lstm import LstmNode

TWICE = 2.0
"""For quantized networks in float32, whose weights a runtime may round when it dequantizes them."""


class LstmLowering:
    op: str = "UNIDIRECTIONAL_SEQUENCE_LSTM"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        graph = ctx.pair.quantized
        n, m = LstmNode.of(fn, ctx.pair.float), LstmNode.of(qn, graph)
        ctx.same(step, n.clip, m.clip, "limits of the cell")
        exact = Side.of(n, Arithmetic(limits_of(n)))
        executed = Side(exact.w, exact.r, exact.b, double(n))
        rounded = Side(exact.w, exact.r, exact.b, floating(n, U32, LOGISTIC_ULPS, TANH_ULPS))
        reference = rounded if ctx.float32 else exact
        grid = code_grid(m.y)
        known = None if grid is None else exact_codes(qn, ctx)
        own = floating(m, TWICE * U32, LOGISTIC_ULPS, TANH_ULPS) if grid is None else Integers.of(qn, graph)
        quantized = Side.of(m, own)

        def rows(x: Interval) -> Interval:
            return Interval(n.rows(x.lo), n.rows(x.hi))

        def around(x: Interval, side: Side) -> Trace:
            """The trace of a network of the float model's weights, from a float64 execution at the centre."""
            centre = Interval.point(x.centre)
            return follow(executed, execution(executed, x.centre), side, (centre, x, x.minus(centre)))[0]

        def transform(inputs: Sequence[Gap]) -> Gap:
            (x,) = inputs
            f, q, d = rows(x.float), rows(x.quantized), rows(x.delta)
            trace = around(f, reference)
            other, delta = follow(reference, trace, quantized, (f, q, d))
            h, g, delta = _hidden(trace), _hidden(other), _flat(delta)
            if grid is None:
                return Gap(*tighten(h, g, delta))
            codes = None if known is None else known(x.codes)
            if codes is None:
                lo, hi = np.ceil(down(g.lo / grid.unit)) + grid.zero, np.floor(up(g.hi / grid.unit)) + grid.zero
                codes = (np.clip(lo, grid.lo, grid.hi).astype(np.int64), np.clip(hi, grid.lo, grid.hi).astype(np.int64))
            return Gap(*tighten(h, grid.real(codes), delta), codes)

        def float_transform(inputs: Sequence[Gap]) -> Gap:
            (x,) = inputs
            f, q, d = rows(x.float), rows(x.quantized), rows(x.delta)
            trace = around(f, exact)
            other, delta = follow(exact, trace, reference, (f, q, d))
            return Gap(*tighten(_hidden(trace), _hidden(other), _flat(delta)))

        return [Opaque(label(step), step.inputs, step.output, transform, float_transform, recurrent=True)]


def _hidden(trace: Trace) -> Interval:
    """The hidden states, flattened."""
    return Interval(*(np.stack([getattr(m.h, end) for m in trace], axis=1).ravel() for end in ("lo", "hi")))


def _flat(x: Interval) -> Interval:
    return Interval(x.lo.ravel(), x.hi.ravel())
