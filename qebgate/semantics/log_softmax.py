"""LOG_SOFTMAX over the last axis (tensorflow/lite/kernels/activations.cc, internal/reference/log_softmax.h).

The reference kernel computes in fixed point, builtin with a table of float32 exponentials; XNNPACK does not take it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, Tensor
from qebgate.numerics.fixed_point import I64, Multiplier, divide_by_pot, multiply_double_rounding
from qebgate.numerics.gemmlowp import exp_on_negative, log_of_sum
from qebgate.numerics.libm import expf, logf
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import Rounding, Semantics, require
from qebgate.semantics.elementwise import check_codes

_DIFF_BITS, _SUM_BITS, _OUTPUT_BITS = 5, 12, 4
SCALE, ZERO = 1.0 / 16.0, 127
LIMIT = 1 << _SUM_BITS
"""Values that the reference kernel can sum."""


class LogSoftmax(Semantics):
    name = "LOG_SOFTMAX"
    max_version = 2

    def check(self, node: Node, graph: Graph) -> None:
        x, y = check_codes(node, graph)
        n = x.shape[-1] if x.shape else 0
        require(n >= 1, "LOG_SOFTMAX needs an axis", node, graph, x.shape)
        if x.dtype.is_code:
            fixed = "an int8 LOG_SOFTMAX must have output scale 1/16 and zero point 127"
            require((y.q.s, y.q.z) == (SCALE, ZERO), fixed, node, graph, f"{y.q.s}, {y.q.z}")
            require(2.0**-16 <= x.q.s <= 2.0**5, "LOG_SOFTMAX of a scale out of the kernels' range", node, graph, x.q.s)
            require(n < LIMIT, f"an int8 LOG_SOFTMAX over {LIMIT} values or more", node, graph, n)

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        x = inputs[0]
        assert x is not None
        d = x - x.max(axis=-1, keepdims=True)
        return d - np.log(np.exp(d).sum(axis=-1, keepdims=True, dtype=x.dtype))

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        codes, x = inputs[0], graph.tensors[node.inputs[0]]
        assert codes is not None
        run = _reference if runtime is Runtime.REFERENCE else _builtin
        return np.clip(run(codes.astype(np.int64), x) + ZERO, -128, 127).astype(np.int32)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        """0.5, and 16 times the error of the logarithm and of the argument.

        Reference: n summands rounded to 2**-19 make a sum of at least 1, and the fixed-point logarithm is within
        2**-22.  Builtin: n roundings of the sum, and those of numbers of up to ``256 s`` before they cancel.
        """
        x = graph.tensors[node.inputs[0]]
        n = x.shape[-1]
        if runtime is Runtime.REFERENCE:
            return Rounding.symmetric(0.5 + 2.0**-8 + n * 2.0**-15)
        return Rounding.symmetric(0.5 + 2.0**-8 + n * 2.0**-17 + 256 * x.q.s * 2.0**-17)


def _reference(codes: I64, x: Tensor) -> I64:
    """Without the zero point, unclamped but for what is far below all codes."""
    m = Multiplier.of(min(x.q.s * (1 << (31 - _DIFF_BITS)), (1 << 31) - 1.0))
    left = int(m.shift[0])
    diff_min = -math.floor(((1 << _DIFF_BITS) - 1) * (1 << (31 - _DIFF_BITS)) / 2.0**left)
    diffs = np.arange(-255, 1, dtype=np.int64)
    used = diffs >= diff_min
    scaled = multiply_double_rounding(np.where(used, diffs, 0), m)
    summands = np.where(used, divide_by_pot(exp_on_negative(scaled, _DIFF_BITS), _SUM_BITS), 0)
    diff = codes - codes.max(axis=-1, keepdims=True)
    log = log_of_sum(summands[diff + 255].sum(axis=-1, keepdims=True), _SUM_BITS, _DIFF_BITS)
    reverse = Multiplier.of(2.0 ** (31 - left) / float(m.mantissa[0]))
    least = np.maximum(diff_min - 1, multiply_double_rounding(log - (1 << 31), reverse))
    out = divide_by_pot(scaled[diff + 255] - log, 31 - _DIFF_BITS - _OUTPUT_BITS)
    return np.where(diff > least, out, -256)


def _builtin(codes: I64, x: Tensor) -> I64:
    s, unit = np.float32(x.q.s), np.float32(SCALE)
    table = expf(-s * np.arange(256).astype(np.float32))
    most = codes.max(axis=-1, keepdims=True)
    total = np.add.accumulate(table[most - codes], axis=-1, dtype=np.float32)[..., -1:]
    subtracted = (s * most.astype(np.float32) + logf(total)) / unit
    return np.rint(s / unit * codes.astype(np.float32) - subtracted).astype(np.int64)
