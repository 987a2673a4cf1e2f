"""SOFTMAX over the last axis (tensorflow/lite/kernels/activations.cc).

XNNPACK leaves the int8 form to builtin.  Not elementwise and not monotone in single codes; its
deviation from the real softmax of the dequantized input is small (:meth:`Softmax.rounding`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qebgate.errors import UnsupportedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType, Tensor
from qebgate.numerics.fixed_point import I64, Multiplier, divide_by_pot, high_mul
from qebgate.numerics.gemmlowp import exp_on_negative, reciprocal
from qebgate.numerics.libm import expf
from qebgate.runtimes.profiles import MICRO, Runtime
from qebgate.semantics import softmax_int16
from qebgate.semantics.accumulate import multiply_quantized
from qebgate.semantics.base import Options, Rounding, Semantics, require
from qebgate.semantics.elementwise import check_codes

_DIFF_BITS, _SUM_BITS = 5, 12
REFERENCE_LIMIT = 512


@dataclass(frozen=True, slots=True)
class SoftmaxAttrs:
    """``softmax(beta * x)``."""

    beta: float


class Softmax(Semantics):
    name = "SOFTMAX"
    max_version = 3

    def parse(self, options: Options) -> SoftmaxAttrs:
        beta = options.float32(0)
        if not (math.isfinite(beta) and 0.0 < beta < 1e6):
            raise UnsupportedError("QEB437", "SOFTMAX needs a positive beta", found=f"{beta!r}")
        return SoftmaxAttrs(beta)

    def check(self, node: Node, graph: Graph) -> None:
        if graph.tensors[node.inputs[0]].dtype is DType.INT16:
            _check_wide(node, graph)
            return
        x, y = check_codes(node, graph)
        require(len(x.shape) >= 1 and x.shape[-1] >= 1, "SOFTMAX needs an axis", node, graph, x.shape)
        if y.dtype.is_code:
            assert isinstance(node.attrs, SoftmaxAttrs)
            sharp = node.attrs.beta * x.q.s
            require(
                2.0**-60 <= sharp <= 2.0**20, "beta times the scale is out of the kernels' range", node, graph, sharp
            )
            scale_ok = (y.q.s, y.q.z) == (1.0 / 256.0, -128)
            require(
                scale_ok,
                "an int8 SOFTMAX must have output scale 1/256 and zero point -128",
                node,
                graph,
                f"{y.q.s}, {y.q.z}",
            )

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        x, attrs = inputs[0], node.attrs
        assert x is not None
        assert isinstance(attrs, SoftmaxAttrs)
        e = np.exp((x - x.max(axis=-1, keepdims=True)) * x.dtype.type(attrs.beta))
        return e / e.sum(axis=-1, keepdims=True, dtype=x.dtype)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        codes, attrs, x = inputs[0], node.attrs, graph.tensors[node.inputs[0]]
        assert codes is not None
        assert isinstance(attrs, SoftmaxAttrs)
        if x.dtype is DType.INT16:
            return softmax_int16.run(codes, x, attrs.beta)
        if runtime is Runtime.REFERENCE or runtime in MICRO:
            _refuse_aborting(node, graph, x, runtime)
            return _reference(codes, x, attrs.beta, runtime)
        return _builtin(codes, x, attrs.beta)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        """Against the real softmax of the dequantized codes: 0.5 and the kernels' own approximation of exp.

        Reference: every summand of the n is rounded to 2**-19, which the sum (at least 1) and 256 output quanta
        turn into n * 2**-12; the exponentials themselves are within 2**-22.  Builtin: n float32 roundings of
        the sum, n * 2**-16.  2**-8 covers the rest with a wide margin.
        """
        x = graph.tensors[node.inputs[0]]
        n = x.shape[-1]
        if x.dtype is DType.INT16:
            return Rounding.symmetric(softmax_int16.deviation(n))
        if runtime is Runtime.REFERENCE or runtime in MICRO:
            _refuse_aborting(node, graph, x, runtime)
            return Rounding.symmetric(0.5 + 2.0**-8 + n * 2.0**-12)
        return Rounding.symmetric(0.5 + 2.0**-8 + n * 2.0**-15)


def _check_wide(node: Node, graph: Graph) -> None:
    """The preconditions on int16."""
    x, y, attrs = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]], node.attrs
    assert isinstance(attrs, SoftmaxAttrs)
    same = not x.is_const and y.dtype is DType.INT16 and x.shape == y.shape and len(x.shape) >= 1
    require(same, "an int16 SOFTMAX of another output", node, graph, f"{x.shape}, {y.shape} {y.dtype.value}")
    require(x.q.z == 0 == y.q.z, "int16 activations with a zero point", node, graph, (x.q.z, y.q.z))
    require(y.q.s == 2.0**-15, "an int16 SOFTMAX must have output scale 1/32768", node, graph, y.q.s)
    n, sharp = x.size // max(1, math.prod(x.shape[:-1])), attrs.beta * x.q.s
    require(n <= softmax_int16.MOST, f"an int16 SOFTMAX over more than {softmax_int16.MOST} values", node, graph, n)
    require(2.0**-30 <= sharp <= 1.0, "beta times the scale is out of the kernels' range", node, graph, sharp)


def _refuse_aborting(node: Node, graph: Graph, x: Tensor, runtime: Runtime) -> None:
    """The reference kernel aborts the process when its sum of exponentials reaches 512, or its multiplier 1."""
    assert isinstance(node.attrs, SoftmaxAttrs)
    fix = "check the logits, or leave this runtime out"
    found = f"{runtime.value} can abort on an int8 SOFTMAX over 512 or more values"
    require(x.shape[-1] < REFERENCE_LIMIT, found, node, graph, x.shape[-1], fix=fix)
    sharp = node.attrs.beta * x.q.s
    found = f"{runtime.value} aborts on an int8 SOFTMAX of so small a scale"
    require(sharp * 2.0 ** (31 - _DIFF_BITS) > 1.0, found, node, graph, sharp, fix=fix)


def _reference(codes: Array, x: Tensor, beta: float, runtime: Runtime) -> Array:
    real = min(beta * x.q.s * (1 << (31 - _DIFF_BITS)), (1 << 31) - 1.0)
    m = Multiplier.of(real)
    left = int(m.shift[0])
    diff_min = -math.floor(((1 << _DIFF_BITS) - 1) * (1 << (31 - _DIFF_BITS)) / 2.0**left)
    diffs = np.arange(-255, 1, dtype=np.int64)
    used = diffs >= diff_min
    scaled = multiply_quantized(runtime)(np.where(used, diffs, 0), m)
    exps = np.where(used, exp_on_negative(scaled, _DIFF_BITS), 0)
    summands = np.where(used, divide_by_pot(exps, _SUM_BITS), 0)
    at: I64 = (codes - codes.max(axis=-1, keepdims=True)).astype(np.int64) + 255
    scale, over = reciprocal(summands[at].sum(axis=-1, keepdims=True), _SUM_BITS)
    out = divide_by_pot(high_mul(exps[at], scale), over + 31 - 8) - 128
    return np.where(used[at], np.clip(out, -128, 127), -128).astype(np.int32)


def _builtin(codes: Array, x: Tensor, beta: float) -> Array:
    """A table of float32 exponentials, summed one by one in float32."""
    scale = np.float32(-np.float32(x.q.s) * np.float32(beta))
    table = expf(scale * np.arange(256).astype(np.float32))
    e = table[codes.max(axis=-1, keepdims=True) - codes]
    total = np.add.accumulate(e, axis=-1, dtype=np.float32)[..., -1:]
    inverse = np.float32(1.0) / (total * np.float32(1.0 / 256.0))
    q = np.trunc(e * inverse + np.float32(0.5)).astype(np.int64) - 128
    return np.clip(q, -128, 127).astype(np.int32)
