"""AVERAGE_POOL_2D and MEAN: equal weights over a set of inputs."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from qebgate.domains.gap import I64
from qebgate.domains.layers import Affine, Layer
from qebgate.domains.linear_map import Sparse
from qebgate.ir.graph import Graph, Node
from qebgate.ir.pair import Step
from qebgate.ops.base import Context, clamp_grid, label, monotone_kernel, rounding_of
from qebgate.ops.windows import taps
from qebgate.semantics.average_pool_2d import AveragePool2D
from qebgate.semantics.base import Activation
from qebgate.semantics.mean import Mean
from qebgate.semantics.pool_2d import Pool2DAttrs


def _average(index: I64, n: int) -> Sparse:
    """Row k averages the entries ``index[k] >= 0``; each weight ``1 / count`` is rounded once."""
    valid = index >= 0
    rows = np.broadcast_to(np.arange(len(index))[:, None], index.shape)[valid]
    weights = (1.0 / valid.sum(axis=1))[rows]
    return Sparse(sp.csr_matrix((weights, (rows, index[valid])), shape=(len(index), n)))


def means(step: Step, ctx: Context, f: Sparse, q: Sparse, activation: tuple[Activation, Activation]) -> Affine:
    """A layer of weighted means, one map for each side; ``activation`` is (float, quantized)."""
    qn, fn = step.quantized_node, step.float_node
    assert qn is not None and fn is not None
    below, above = rounding_of(qn, ctx.pair.quantized, ctx.runtime)
    zero = np.zeros(q.m)
    return Affine(
        label=label(step),
        inputs=step.inputs,
        output=step.output,
        f=(f,),
        q=(q,),
        bf=zero,
        bq=zero,
        float_range=activation[0].range,
        below=below,
        above=above,
        grid=clamp_grid(qn, ctx.pair.quantized, ctx.runtime, activation[1]),
        codes_of_inputs=monotone_kernel(qn, ctx.pair.quantized, ctx.runtime),
        noise=ctx.noise(step),
    )


class AveragePool2DLowering:
    op: str = "AVERAGE_POOL_2D"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        fn, qn = step.float_node, step.quantized_node
        assert fn is not None and qn is not None
        fa, qa = fn.attrs, qn.attrs
        assert isinstance(fa, Pool2DAttrs) and isinstance(qa, Pool2DAttrs)
        sem = AveragePool2D()
        window = sem.window(qn, ctx.pair.quantized)
        ctx.same(step, sem.window(fn, ctx.pair.float), window, "windows")
        x = ctx.pair.quantized.tensors[qn.inputs[0]]
        ctx.same(step, x.shape[0], 1, "batch axes")
        average = _average(taps(window, x.shape[3]), x.size)
        return [means(step, ctx, average, average, (fa.activation, qa.activation))]


class MeanLowering:
    op: str = "MEAN"

    def lower(self, step: Step, ctx: Context) -> list[Layer]:
        average = _average(reduced(step, ctx), ctx.pair.tensors(step.inputs[0])[1].size)
        return [means(step, ctx, average, average, (Activation.NONE, Activation.NONE))]


def reduced(step: Step, ctx: Context) -> I64:
    """Flat input index of every entry that a reduction reads, ``[m, count]``; the same in both graphs."""
    fn, qn = step.float_node, step.quantized_node
    assert fn is not None and qn is not None
    sides = (fn, ctx.pair.float), (qn, ctx.pair.quantized)
    f, q = (_reduced(*s) for s in sides)
    if not np.array_equal(f, q):  # one of the two graphs may have reshaped the input
        a, b = ((g.tensors[n.inputs[0]].shape, Mean().axes(n, g)) for n, g in sides)
        ctx.same(step, a, b, "input shapes or axes")
    return q


def _reduced(node: Node, graph: Graph) -> I64:
    """Flat input index of every entry that a reduction reads, ``[m, count]``, by the graph's own shapes."""
    axes, x = Mean().axes(node, graph), graph.tensors[node.inputs[0]]
    index = np.arange(x.size, dtype=np.int64).reshape(x.shape)
    kept = tuple(a for a in range(len(x.shape)) if a not in axes)
    return index.transpose(*kept, *axes).reshape(int(np.prod([x.shape[a] for a in kept], dtype=np.int64)), -1)
