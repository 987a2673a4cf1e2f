"""QUANTIZE: float to codes, and codes to codes of another scale (tensorflow/lite/kernels/quantize.cc)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qebgate.errors import DataError, UnsupportedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType, Tensor
from qebgate.numerics.fixed_point import Multiplier, multiply_ruy, round_half_away
from qebgate.runtimes.profiles import MICRO, Runtime
from qebgate.semantics.accumulate import WIDE_REACH, multiply_quantized
from qebgate.semantics.base import FLOAT32, INT8, UINT8, Rounding, Semantics, require
from qebgate.semantics.delegation import owner
from qebgate.semantics.elementwise import rescale_deviation


class Quantize(Semantics):
    name = "QUANTIZE"
    max_version = 4

    def check(self, node: Node, graph: Graph) -> None:
        x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        require(not x.is_const, "QUANTIZE of a constant is not supported", node, graph)
        require(
            x.dtype in (FLOAT32, INT8, UINT8), "QUANTIZE reads float32, int8 or uint8 only", node, graph, x.dtype.value
        )
        wide = y.dtype is DType.INT16 and x.dtype is FLOAT32 and y.q.z == 0
        known = wide or y.dtype in (INT8, UINT8)
        require(known, "QUANTIZE gives int8, uint8, or int16 from float32, only", node, graph, y.dtype.value)
        require(x.shape == y.shape, "input and output have different shapes", node, graph, f"{x.shape}, {y.shape}")
        require(not y.q.per_channel, "activations have per-channel scales", node, graph)
        if x.dtype.is_code:
            require(not x.q.per_channel, "activations have per-channel scales", node, graph)
            ratio = x.q.s / y.q.s
            require(2.0**-20 <= ratio < 2.0**20, "QUANTIZE between scales too far apart", node, graph, ratio)

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        raise UnsupportedError(
            "QEB438",
            "QUANTIZE in a float model",
            where=f"{graph.source.label}: {node.origin}",
            fix="convert it without quantization",
        )

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        x, source, out = inputs[0], graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        assert x is not None
        kernel = owner(node, graph, runtime)
        q = _from_float(x, out, kernel) if source.dtype is FLOAT32 else _rescale(x, source, out, kernel)
        return np.clip(q, *out.dtype.code_range).astype(np.int32)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        if x.dtype is FLOAT32:
            return Rounding.symmetric(0.5 + (WIDE_REACH if y.dtype is DType.INT16 else Rounding.REACH) * 2.0**-22)
        if owner(node, graph, runtime) is Runtime.XNNPACK:
            # the ratio is rounded to 8 fractional bits, so up to 2**-9 for each of 255 quanta
            return Rounding.symmetric(0.5 + 255 * 2.0**-9)
        return Rounding.symmetric(rescale_deviation(x.q.s / y.q.s, Rounding.REACH))


def _from_float(x: Array, out: Tensor, runtime: Runtime) -> Array:
    scale = np.float32(out.q.s)
    v = x.astype(np.float32)
    if np.isnan(v).any():
        raise DataError("QEB443", "an input is not a number")
    if runtime is Runtime.XNNPACK:
        # clamped in float32 before the conversion, so nothing overflows
        inside = np.clip(v * (np.float32(1.0) / scale), np.float32(-1024.0), np.float32(1024.0))
        return np.rint(inside).astype(np.int64) + out.q.z
    if float(np.abs(v).max(initial=0.0)) >= 2.0**30 * float(scale):
        raise DataError(
            "QEB443", "an input is so large that the runtime's QUANTIZE overflows", found=f"{np.abs(v).max():g}"
        )
    if runtime is Runtime.REFERENCE or runtime in MICRO:
        return round_half_away((v / scale).astype(np.float64)).astype(np.int64) + out.q.z
    # vectors of 8 multiply by the reciprocal, ties to even; the rest divides in double
    q = round_half_away(v.astype(np.float64) / out.q.s).reshape(len(v), -1)
    whole = q.shape[1] // 8 * 8
    q[:, :whole] = np.rint(v.reshape(len(v), -1)[:, :whole] * (np.float32(1.0) / scale))
    return q.reshape(v.shape).astype(np.int64) + out.q.z


def _rescale(x: Array, source: Tensor, out: Tensor, runtime: Runtime) -> Array:
    centred = x.astype(np.int64) - source.q.z
    if runtime is Runtime.XNNPACK:
        ratio = np.float32(source.q.s) / np.float32(out.q.s)
        k = np.int64(np.rint(ratio * np.float32(256.0)))
        return ((centred * k + 128) >> 8) + out.q.z
    m = Multiplier.of(source.q.s / out.q.s)
    q = multiply_quantized(runtime)(centred, m)
    if runtime is Runtime.BUILTIN:  # vectors of 16 round as ruy does
        flat = centred.reshape(len(x), -1)
        whole = flat.shape[1] // 16 * 16
        q = q.reshape(len(x), -1)
        q[:, :whole] = multiply_ruy(flat[:, :whole], m)
        q = q.reshape(x.shape)
    return q + out.q.z
