"""Functions of one code with any output scale: LEAKY_RELU, PRELU, ELU, GELU, HARD_SWISH, ABS.

Every kernel is a function of one code (of one code and its channel, for PRELU), so it is a table of 256 codes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, Tensor
from qebgate.numerics.fixed_point import (
    I64,
    Multiplier,
    multiply_double_rounding,
    round_half_away,
)
from qebgate.numerics.libm import F32, erfcf, expm1f, tanhf
from qebgate.numerics.rounding import F64
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import Options, Rounding, Semantics, require
from qebgate.semantics.delegation import owner
from qebgate.semantics.elementwise import check_codes, codes_table, look_up


class Function(Semantics):
    """Base of the functions of one entry."""

    max_version = 2
    closest, widest = 2.0**-16, 2.0**16
    """Range of ``s_in / s_out`` in which the kernels were compared."""

    @abstractmethod
    def function(self, node: Node, graph: Graph, x: Array) -> Array:
        """The real function of ``x [..., *shape]``, in its float type."""

    @abstractmethod
    def table(self, node: Node, graph: Graph, kernel: Runtime) -> I64:
        """Output codes of all input codes in ascending order ``[256]``, or ``[256, C]`` of every channel; unclamped."""

    def check(self, node: Node, graph: Graph) -> None:
        x, y = check_codes(node, graph)
        if x.dtype.is_code:
            ratio = x.q.s / y.q.s
            require(self.closest <= ratio < self.widest, f"{node.op} between scales too far apart", node, graph, ratio)

    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        x = inputs[0]
        assert x is not None
        return self.function(node, graph, x)

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        codes, x = inputs[0], graph.tensors[node.inputs[0]]
        assert codes is not None
        return look_up(self.codes(node, graph, runtime), codes, x)

    def codes(self, node: Node, graph: Graph, runtime: Runtime) -> I64:
        """The runtime's table, clamped."""
        y = graph.tensors[node.outputs[0]]
        return np.clip(self.table(node, graph, owner(node, graph, runtime)), *y.dtype.code_range)

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        """Measured on the table itself: the largest distances of an unclamped code from the real function."""
        x, y = ends(node, graph)
        table = self.table(node, graph, owner(node, graph, runtime)).astype(np.float64)
        given = (codes_table(x) - x.q.z) * x.q.s
        exact = self.exact(node, graph, given) / y.q.s
        exact = exact if exact.ndim == table.ndim else exact[:, None]
        # a kernel that saturates by itself is not off where the exact code is clamped to the same one
        lo, hi = (v - y.q.z for v in y.dtype.code_range)
        same = np.clip(table - y.q.z, lo, hi) == np.clip(exact, lo, hi)
        off = np.where(same, 0.0, table - y.q.z - exact)
        slack = 2.0**-20 + 2.0**-40 * float(np.abs(exact).max())
        # never below what a tie may do, so that points between codes are covered too
        below, above = (np.atleast_1d(max(float(v.max()), 0.5) + slack) for v in (-off, off))
        return Rounding(below, above)

    def exact(self, node: Node, graph: Graph, x: F64) -> F64:
        """The function of reals ``[256]``, or of every channel ``[256, C]``."""
        return self.function(node, graph, x)


def ends(node: Node, graph: Graph) -> tuple[Tensor, Tensor]:
    """Input and output."""
    return graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]


def _real(x: Tensor) -> F32:
    """All codes as the kernels dequantize them."""
    return (codes_table(x) - x.q.z).astype(np.float32) * np.float32(x.q.s)


def _quantized(values: F32, y: Tensor, kernel: Runtime) -> I64:
    """Codes of float32 values: LUTPopulate's rounding, or XNNPACK's."""
    scaled = values * (np.float32(1.0) / np.float32(y.q.s))
    if kernel is Runtime.XNNPACK:
        return np.rint(np.clip(scaled, -1e6, 1e6) + np.float32(y.q.z)).astype(np.int64)
    return round_half_away(np.clip(scaled, -1e6, 1e6).astype(np.float64)).astype(np.int64) + y.q.z


@dataclass(frozen=True, slots=True)
class LeakyReluAttrs:
    """Slope below zero."""

    alpha: float


class LeakyRelu(Function):
    name = "LEAKY_RELU"

    def parse(self, options: Options) -> LeakyReluAttrs:
        return LeakyReluAttrs(options.float32(0))

    def check(self, node: Node, graph: Graph) -> None:
        super().check(node, graph)
        assert isinstance(node.attrs, LeakyReluAttrs)
        require(0.0 <= node.attrs.alpha <= 1e3, "LEAKY_RELU needs a slope of at least 0", node, graph, node.attrs.alpha)

    def function(self, node: Node, graph: Graph, x: Array) -> Array:
        assert isinstance(node.attrs, LeakyReluAttrs)
        return np.where(x >= 0, x, x * x.dtype.type(node.attrs.alpha))

    def table(self, node: Node, graph: Graph, kernel: Runtime) -> I64:
        assert isinstance(node.attrs, LeakyReluAttrs)
        x, y = ends(node, graph)
        centred, alpha = codes_table(x) - x.q.z, node.attrs.alpha
        if kernel is Runtime.XNNPACK:
            ratio = np.float32(x.q.s) / np.float32(y.q.s)
            up = np.int64(np.rint(np.float32(256.0) * ratio))
            down = np.int64(np.rint(np.float32(256.0) * (ratio * np.float32(alpha))))
            return ((centred * np.where(centred >= 0, up, down) + 128) >> 8) + y.q.z
        ratio, slope = np.float32(x.q.s) / np.float32(y.q.s), np.float32(x.q.s) * np.float32(alpha) / np.float32(y.q.s)
        same, below = (multiply_double_rounding(centred, Multiplier.of(float(m))) for m in (ratio, slope))
        return np.where(centred >= 0, same, below) + y.q.z


class Elu(Function):
    name = "ELU"

    def codes(self, node: Node, graph: Graph, runtime: Runtime) -> I64:
        require(runtime is not Runtime.REFERENCE, "litert-reference has no kernel for ELU", node, graph)
        return super().codes(node, graph, runtime)

    def function(self, node: Node, graph: Graph, x: Array) -> Array:
        return np.where(x >= 0, x, np.expm1(np.minimum(x, 0)))

    def table(self, node: Node, graph: Graph, kernel: Runtime) -> I64:
        x, y = ends(node, graph)
        v = _real(x)
        return _quantized(np.where(v < 0, expm1f(np.minimum(v, np.float32(0))), v), y, kernel)


@dataclass(frozen=True, slots=True)
class GeluAttrs:
    """Whether the function is the tanh approximation."""

    approximate: bool


class Gelu(Function):
    name = "GELU"

    def parse(self, options: Options) -> GeluAttrs:
        return GeluAttrs(options.bool(0))

    def function(self, node: Node, graph: Graph, x: Array) -> Array:
        assert isinstance(node.attrs, GeluAttrs)
        kind = x.dtype.type
        if node.attrs.approximate:
            inner = kind(np.sqrt(2.0 / np.pi)) * (x + kind(0.044715) * x * x * x)
            return kind(0.5) * x * (kind(1.0) + np.tanh(inner))
        # erfc keeps its precision where 1 + erf cancels
        wide = x if x.dtype != np.longdouble else x.astype(np.float64)
        return (kind(0.5) * x * scipy.special.erfc(-wide * wide.dtype.type(np.sqrt(0.5)))).astype(x.dtype)

    def table(self, node: Node, graph: Graph, kernel: Runtime) -> I64:
        assert isinstance(node.attrs, GeluAttrs)
        x, y = ends(node, graph)
        v, one, half = _real(x), np.float32(1.0), np.float32(0.5)
        if node.attrs.approximate:
            inner = np.float32(np.sqrt(2.0 / np.pi)) * (v + np.float32(0.044715) * v * v * v)
            value = half * v * (one + tanhf(inner))
        else:
            value = half * v * erfcf(v * np.float32(-np.sqrt(0.5)))  # reference/gelu.h: 1 + erf would cancel
        return _quantized(value.astype(np.float32), y, kernel)


class HardSwish(Function):
    """``x relu6(x + 3) / 6``."""

    name = "HARD_SWISH"
    max_version = 1

    def check(self, node: Node, graph: Graph) -> None:
        super().check(node, graph)
        x, y = ends(node, graph)
        if x.dtype.is_code:
            ratio = x.q.s / y.q.s / 128.0
            require(ratio <= 1.0, "HARD_SWISH to a scale far below its input's", node, graph, ratio)

    def function(self, node: Node, graph: Graph, x: Array) -> Array:
        kind = x.dtype.type
        return x * np.clip(x + kind(3.0), kind(0.0), kind(6.0)) / kind(6.0)

    def table(self, node: Node, graph: Graph, kernel: Runtime) -> I64:
        x, y = ends(node, graph)
        del kernel
        return _hard_swish(codes_table(x) - x.q.z, x.q.s, y.q.s) + y.q.z


def _hard_swish(centred: I64, s_in: float, s_out: float) -> I64:
    """reference_ops::HardSwish: 16-bit fixed point."""
    hires = np.float32(np.float32(1.0 / 128.0) * np.float32(s_in))
    m_out, e_out = _short_multiplier(float(hires / np.float32(s_out)))
    m_in, e_in = _short_multiplier(float(hires / np.float32(3.0 / 32768.0)))
    wide = centred * 128
    on_output_scale = _high_mul16(wide, m_out)
    reluish = wide
    if e_in > 0:
        reluish = _saturate16(reluish << (e_in - 1))
    reluish = _high_mul16(reluish, m_in)
    if e_in > 0:
        reluish = _saturate16(reluish << 1)
    if e_in < 0:
        reluish = _divide_by_pot(reluish, -e_in)
    reluish = (reluish + (1 << 15)) >> 1
    # SaturatingDoublingHighMul truncates
    product = np.trunc(reluish * on_output_scale / 2.0**15).astype(np.int64)
    return _divide_by_pot(product, -e_out)


def _short_multiplier(real: float) -> tuple[int, int]:
    """QuantizeMultiplier, then DownScaleInt32ToInt16Multiplier."""
    m = Multiplier.of(real)
    long = int(m.mantissa[0])
    short = 32767 if long >= (1 << 31) - 1 - (1 << 15) else (long + (1 << 15)) >> 16
    return short, int(m.shift[0])


def _high_mul16(a: I64, b: int) -> I64:
    """gemmlowp's SaturatingRoundingDoublingHighMul of 16-bit numbers."""
    product = a * b
    nudge = np.where(product >= 0, 1 << 14, 1 - (1 << 14))
    total = product + nudge
    return np.sign(total) * (np.abs(total) >> 15)


def _saturate16(x: I64) -> I64:
    return np.clip(x, -(1 << 15), (1 << 15) - 1)


def _divide_by_pot(x: I64, exponent: int) -> I64:
    mask = (1 << exponent) - 1
    remainder = x & mask
    threshold = (mask >> 1) + (x < 0)
    return (x >> exponent) + (remainder > threshold)


class Abs(Function):
    name = "ABS"
    max_version = 5

    def function(self, node: Node, graph: Graph, x: Array) -> Array:
        return np.abs(x)

    def table(self, node: Node, graph: Graph, kernel: Runtime) -> I64:
        x, y = ends(node, graph)
        size = np.abs(codes_table(x) - x.q.z)
        if x.q.s == y.q.s:
            return size + y.q.z
        return multiply_double_rounding(size, Multiplier.of(float(np.float32(x.q.s) / np.float32(y.q.s)))) + y.q.z


class Prelu(Function):
    """``x`` above zero, ``alpha x`` below, alpha constant, one number per channel."""

    name = "PRELU"
    max_version = 1

    def alpha(self, node: Node, graph: Graph) -> F64:
        """Slopes ``[C]`` of a checked node."""
        t = graph.tensors[node.inputs[1]]
        assert t.const is not None
        real = t.q.dequantize(t.const) if t.dtype.is_code else t.const.astype(np.float64)
        return np.broadcast_to(real, graph.tensors[node.outputs[0]].shape).reshape(-1, self._channels(node, graph))[0]

    @staticmethod
    def _channels(node: Node, graph: Graph) -> int:
        return graph.tensors[node.outputs[0]].shape[-1]

    def check(self, node: Node, graph: Graph) -> None:
        require(len(node.inputs) == 2, "unexpected number of inputs", node, graph, len(node.inputs))
        super().check(node, graph)
        t, (x, y) = graph.tensors[node.inputs[1]], ends(node, graph)
        require(t.is_const and t.dtype is x.dtype, "the slopes of PRELU are not constant", node, graph)
        fits = t.size == 1 or (t.shape[-1:] == y.shape[-1:] and t.size == t.shape[-1])
        require(fits, "PRELU needs one slope, or one per channel", node, graph, t.shape)
        if x.dtype.is_code:
            require(not t.q.per_channel, "the slopes have per-channel scales", node, graph)

    def function(self, node: Node, graph: Graph, x: Array) -> Array:
        t = graph.tensors[node.inputs[1]]
        assert t.const is not None
        a = t.q.dequantize(t.const) if t.dtype.is_code else t.const
        channels = np.broadcast_to(a.reshape(-1), (self._channels(node, graph),)).astype(x.dtype)
        flat = x.reshape(-1, channels.size)
        return np.where(flat >= 0, flat, flat * channels).reshape(x.shape)

    def exact(self, node: Node, graph: Graph, x: F64) -> F64:
        wide = np.broadcast_to(x[:, None], (x.size, self._channels(node, graph)))
        return np.where(wide >= 0, wide, wide * self.alpha(node, graph))

    def table(self, node: Node, graph: Graph, kernel: Runtime) -> I64:
        x, y = ends(node, graph)
        t = graph.tensors[node.inputs[1]]
        assert t.const is not None
        a = np.broadcast_to(t.const.astype(np.int64).reshape(-1) - t.q.z, (self._channels(node, graph),))
        centred = (codes_table(x) - x.q.z)[:, None]
        same = multiply_double_rounding(centred, Multiplier.of(float(np.float32(x.q.s) / np.float32(y.q.s))))
        slope = float(np.float32(x.q.s) * np.float32(t.q.s) / np.float32(y.q.s))
        below = multiply_double_rounding(centred * a, Multiplier.of(slope))
        return np.where(centred >= 0, same, below) + y.q.z

    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        codes, x = inputs[0], graph.tensors[node.inputs[0]]
        assert codes is not None
        table = self.codes(node, graph, runtime)
        channel = np.arange(codes.size) % table.shape[1]
        return table[codes.reshape(-1) - x.dtype.code_range[0], channel].reshape(codes.shape).astype(np.int32)
