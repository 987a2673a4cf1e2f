"""RESIZE_BILINEAR: weighted means of neighbours, with weights of their own on the two sides."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from qebgate.domains.layers import Layer
from qebgate.domains.linear_map import Sparse
from qebgate.ir.pair import Step
from qebgate.ops.averages import means
from qebgate.ops.base import Context
from qebgate.semantics.base import Activation
from qebgate.semantics.resize_bilinear import ResizeBilinear, Taps


class ResizeBilinearLowering:
    op: str = "RESIZE_BILINEAR"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        sem, (fg, qg) = ResizeBilinear(), (ctx.pair.float, ctx.pair.quantized)
        ctx.same(step, sem.axes(fn, fg), sem.axes(qn, qg), "sizes")
        shape = qg.tensors[qn.inputs[0]].shape
        ctx.same(step, fg.tensors[fn.inputs[0]].shape, shape, "shapes of an input")
        exact = sem.exact(qn, qg)
        f = _map(*exact, shape)
        codes = qg.tensors[qn.outputs[0]].dtype.is_code
        q = _map(*sem.integer(qn, qg, ctx.runtime.members[0]), shape) if codes else f
        return [means(step, ctx, f, q, (Activation.NONE, Activation.NONE))]


def _map(rows: Taps, columns: Taps, shape: tuple[int, ...]) -> Sparse:
    """Weights are products of integers over an integer: rounded once."""
    n, h, w, c = shape
    m0, m1 = rows.first.size, columns.first.size
    index = np.stack([a[:, None] * w + b for a in (rows.first, rows.second) for b in (columns.first, columns.second)])
    weights = np.stack([
        a[:, None] * b
        for a in (rows.unit - rows.weight, rows.weight)
        for b in (columns.unit - columns.weight, columns.weight)
    ])  # fmt: skip
    to = np.broadcast_to(np.arange(m0 * m1).reshape(m0, m1), weights.shape)
    used = weights > 0
    values = weights[used] / (rows.unit * columns.unit)
    pixels = sp.csr_matrix((values, (to[used], index[used])), shape=(m0 * m1, h * w))
    return Sparse(sp.csr_matrix(sp.kron(sp.eye(n), sp.kron(pixels, sp.eye(c)))))
