"""Dense networks in fixed point: one matrix on each side, and the scale of the shared integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from qebgate.domains.gap import I64
from qebgate.domains.layers import Affine, CodeGrid, Layer, Noise
from qebgate.domains.linear_map import Dense, Scale
from qebgate.ir.pair import Step
from qebgate.numerics.rounding import up
from qebgate.ops.base import Context, label
from qebgate.semantics.fixed_point import DenseAttrs, InputAttrs, finish, rounding
from qebgate.semantics.fully_connected import FullyConnectedAttrs
from qebgate.semantics.linear import LinearNode


class FixedPointInputLowering:
    """Both sides are linear in the integers: ``h = x / 255`` against ``hq = x / 256``, the gap as well.

    Nothing is rounded or clamped here, on either side, so this layer has no grid.
    """

    op: str = "FIXED_POINT_INPUT"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        fa, qa = fn.attrs, qn.attrs
        assert isinstance(fa, InputAttrs) and isinstance(qa, InputAttrs)
        size = ctx.pair.tensors(step.output)[1].size
        zero, none = np.zeros(size), (-np.inf, np.inf)
        f, q = Scale(float(fa.scale), size), Scale(float(qa.scale), size)
        noise = ctx.noise(step) or _inexact(fa.scale)
        return [
            Affine(label(step), step.inputs, step.output, (f,), (q,), zero, zero, none, zero, zero, None, noise=noise)
        ]


def _inexact(scale: Fraction) -> Noise | None:
    """The error of a scale such as 1/255 that float64 does not hold, in exact real arithmetic."""
    off = abs(Fraction(float(scale)) - scale)
    if not off:
        return None
    bound = up(float(off))
    return lambda computed: up(computed[0].magnitude * bound)


class FixedPointDenseLowering:
    """Weights of the quantized side are ``integer * 2**-F``, exact in float64."""

    op: str = "FIXED_POINT_DENSE"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        fa, qa, graph = fn.attrs, qn.attrs, ctx.pair.quantized
        assert isinstance(fa, FullyConnectedAttrs) and isinstance(qa, DenseAttrs)
        f, q = LinearNode.of(fn, ctx.pair.float), LinearNode.of(qn, graph)
        assert f.bias is not None and q.bias is not None
        unit, m = q.x.q.s * q.w.q.s, q.y.size
        below, above = rounding(qn, graph)
        hidden = qa.shift is not None

        def codes(acc: I64) -> I64:
            return finish(qn, graph, acc).astype(np.int64)

        return [
            Affine(
                label=label(step),
                inputs=step.inputs,
                output=step.output,
                f=(Dense(f.weights.astype(np.float64)),),
                q=(Dense(q.weights.astype(np.float64) * q.w.q.s),),
                bf=f.bias.astype(np.float64),
                bq=q.bias.astype(np.float64) * unit,
                float_range=fa.activation.range,
                below=below,
                above=above,
                grid=CodeGrid(q.y.q.s, 0, q.y.q.qmin, q.y.q.qmax) if hidden else None,
                codes_of_accumulator=codes if hidden else None,
                accumulator_unit=np.full(m, unit) if hidden else None,
                noise=ctx.noise(step),
            )
        ]
