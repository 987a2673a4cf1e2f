"""A pair of models as rows: what each side of every step computes before its clamp, built from the models alone.

Step by step ``z = sum F h + bf`` on the float side and ``zq = sum Q hq + bq`` on the quantized one, with the
clamps, the rounding envelope of the runtime, and the exact integer kernel.  Each side's matrix comes from its own
node; nothing is taken from how the engines see the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from qebgate.certify.box import I64, Box
from qebgate.certify.errors import cannot
from qebgate.certify.matrices import WEIGHTED, Matrix, entries, identity, matrices_of
from qebgate.ir.graph import Graph, Node
from qebgate.ir.pair import Pair, Step
from qebgate.ir.tensor import Array, Tensor
from qebgate.numerics.rounding import F64, U32, U64, up
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.accumulate import requantize
from qebgate.semantics.base import Activation
from qebgate.semantics.delegation import owner
from qebgate.semantics.fixed_point import DenseAttrs, InputAttrs, finish
from qebgate.semantics.fixed_point import rounding as fixed_rounding
from qebgate.semantics.float_error import Computed, float_error
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.registry import SEMANTICS

ROOT = -1
"""Position of the region's input."""
Kernel = Callable[[Sequence[I64]], I64]
FREE = (-np.inf, np.inf)
MONOTONE = ("ADD", "AVERAGE_POOL_2D", "MEAN", "PAD", "QUANTIZE", "RELU", "RELU6")
"""Operators whose integer kernel is non-decreasing in every input code."""
FOLDED = 2 * U64 / U32
"""Rounding of weights that were folded in float64, relative to the error of evaluating them in float32."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Quantized values ``(code - zero) * unit``, codes clamped to ``[lo, hi]``."""

    unit: float
    zero: int
    lo: int
    hi: int


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One step: ``h = clamp(z)`` and ``hq = clamp(round(zq))``, values ``inputs`` to value ``output``.

    Before the clamp the rounding moves ``zq`` by a number in ``[-below, above]`` (real units, [m]).  Without a
    ``grid`` the quantized value is no code (or a code that is only moved).  ``of_codes`` and ``of_sums`` are exact
    integer kernels: of input codes, and of integer sums ``zq / sum_unit``; both are monotone.  ``noise`` bounds the
    float32 error of z, given bounds of the float inputs as they are computed.
    """

    label: str
    inputs: tuple[int, ...]
    output: int
    f: tuple[Matrix, ...]
    q: tuple[Matrix, ...]
    bf: F64
    bq: F64
    clamp: tuple[float, float]
    below: F64
    above: F64
    grid: Grid | None
    of_codes: Kernel | None = None
    of_sums: Callable[[I64], I64] | None = None
    sum_unit: F64 | None = None
    noise: Callable[[Sequence[Box]], F64] | None = None
    codes: tuple[I64, I64] | None = None
    """Codes that the region itself fixes."""
    code_scale: tuple[float, int] | None = None
    """Scale and zero point of the output's codes."""

    @property
    def m(self) -> int:
        return self.bf.size

    @property
    def exact(self) -> bool:
        """Whether h is z and hq is zq: nothing is clamped or rounded."""
        return self.grid is None and self.clamp == FREE and not (self.below.any() or self.above.any())

    @property
    def size(self) -> int:
        """The longest sum behind an entry of any product with the layer's matrices."""
        return self.m + sum(entries(x)[1] for x in self.f) + 2 * len(self.f)


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Layers in topological order, the compared value, and the codes of the region itself where it is made of codes."""

    layers: tuple[Layer, ...]
    output: int
    codes: tuple[I64, I64] | None


def rows_of(pair: Pair, cell: Cell, codec: InputCodec, runtime: Runtime, *, float32: bool) -> Program:
    """The layers of a pair; value 0 is the models' input, :data:`ROOT` itself where both sides read it as it is.

    Raises EvidenceError for operators that this checker does not know.
    """
    first = _input_layer(cell, codec)
    layers, same = ([], {0: ROOT}) if first.exact else ([first], dict[int, int]())
    for step in pair.steps:
        inputs = tuple(same.get(i, i) for i in step.inputs)
        if step.op == "RESHAPE":
            same[step.output] = inputs[0]
        else:
            layers.append(_Step(pair, step, runtime, float32).layer(inputs, cell, codec))
    output = same.get(pair.output, pair.output)
    if output == ROOT:
        raise cannot("the models compute nothing")
    return Program(tuple(_folded(layers)), output, first.codes if first.exact else None)


def _folded(layers: list[Layer]) -> list[Layer]:
    """Dense layers that read the region's integers scaled read the integers themselves.

    Their gap is then a linear function of the input.  The quantized side's scale is a power of two; rounding the float
    side's weights, and the error of its scaled input, are noise.
    """
    if len(layers) < 2 or not (layers[0].exact and layers[0].inputs == (ROOT,)):
        return layers
    scale, rest = layers[0], layers[1:]
    (f,), (q,), at = scale.f, scale.q, scale.output
    if not isinstance(f, np.ndarray) or not isinstance(q, np.ndarray) or f.ndim != 1 or q.ndim != 1:
        return layers
    if (np.abs(np.frexp(q)[0]) != 0.5).any() or scale.bf.any() or scale.bq.any():
        return layers
    if any(x.inputs != (at,) or not isinstance(x.f[0], np.ndarray) or x.f[0].ndim != 2 for x in rest if at in x.inputs):
        return layers
    out: list[Layer] = []
    for x in rest:
        if x.inputs == (at,):
            noise = _folded_noise(scale, f, x)
            out.append(replace(x, inputs=(ROOT,), f=(x.f[0] * f,), q=(x.q[0] * q,), noise=noise))
        else:
            out.append(x)
    return out


def _folded_noise(scale: Layer, f: F64, layer: Layer) -> Callable[[Sequence[Box]], F64]:
    """``|W| e`` for the scaled input's error e, twice the rounding of the products, and the layer's own noise."""
    (w,) = layer.f
    assert isinstance(w, np.ndarray)
    size, own, error = np.abs(w), layer.noise, scale.noise

    def noise(x: Sequence[Box]) -> F64:
        e = np.zeros_like(f) if error is None else error(x)
        ends = np.stack([x[0].lo * f, x[0].hi * f])
        total = size @ (e + 4 * U64 * np.abs(ends).max(axis=0))
        if own is not None:
            total = total + own([Box(ends.min(axis=0), ends.max(axis=0)).widened(e, e).widened(e, e)])
        return total * (1 + 1e-9) + 1e-290

    return noise


def _input_layer(cell: Cell, codec: InputCodec) -> Layer:
    """The float model reads x; the quantized one its code, or x itself where it quantizes its input."""
    n = cell.lower.size
    one, zero = identity(n), np.zeros(n)
    below = above = zero
    grid, codes, scale = None, None, None
    if not codec.in_model:
        least, most = codec.dtype.code_range
        scale = codec.scale, codec.zero_point
        if cell.codes is not None:
            codes = _region_codes(cell)
            below = above = np.full(n, _grid_error(codec))
        else:
            below, above = _application(cell, codec)
        if below.any() or above.any():
            grid = Grid(*scale, least, most)
    return Layer(
        "input", (ROOT,), 0, (one,), (one,), zero, zero, FREE, below, above, grid, codes=codes, code_scale=scale
    )


def _region_codes(cell: Cell) -> tuple[I64, I64]:
    assert cell.codes is not None
    return cell.codes[0].ravel().astype(np.int64), cell.codes[1].ravel().astype(np.int64)


def _grid_error(codec: InputCodec) -> float:
    """Largest distance of a float32 grid input from ``(code - zero point) * scale``, over all codes."""
    least, most = codec.dtype.code_range
    codes = np.arange(least, most + 1)
    exact = (codes.astype(np.float64) - codec.zero_point) * codec.scale  # 17 + 24 bits
    return float(np.abs(codec.grid(codes).astype(np.float64) - exact).max())


def _application(cell: Cell, codec: InputCodec) -> tuple[F64, F64]:
    """How far, in real units, the application's code is from the real input, before it saturates.

    A float32 quotient of less than 2**9 quanta has two roundings, 2**-14 quanta cover them four times.
    """
    slack, n = 2.0**-14, cell.lower.size
    down_by = up_by = np.full(n, 0.5 + slack)
    if codec.mode == "truncate":
        at_lo, at_hi = (v.ravel() / codec.scale + codec.zero_point for v in (cell.lower, cell.upper))
        down_by = np.where(at_hi < -1.0, slack, 1.0 + slack)  # towards zero: only up below zero, only down above it
        up_by = np.where(at_lo > 1.0, slack, 1.0 + slack)
    elif codec.mode != "nearest":
        raise cannot("it does not say how real inputs become codes")
    return up(down_by * codec.scale), up(up_by * codec.scale)


class _Step:
    """Builds one step's layer."""

    def __init__(self, pair: Pair, step: Step, runtime: Runtime, float32: bool) -> None:
        self.pair, self.step, self.runtime, self.float32 = pair, step, runtime, float32
        node = step.quantized_node or step.float_node
        assert node is not None
        self.where = node.origin

    def layer(self, inputs: tuple[int, ...], cell: Cell, codec: InputCodec) -> Layer:
        step, pair = self.step, self.pair
        fy, y = pair.tensors(step.output)
        for i in step.inputs:
            a, b = pair.tensors(i)
            if a.size != b.size:
                raise cannot("a value has another size in the two models", self.where)
        if fy.size != y.size:
            raise cannot("a value has another size in the two models", self.where)
        f, bf = self._side(step.float_node, pair.float, [pair.values[i].float_tensor for i in step.inputs], y.size)
        q, bq = self._side(
            step.quantized_node, pair.quantized, [pair.values[i].quantized_tensor for i in step.inputs], y.size
        )
        none = np.zeros(y.size)
        clamp = FREE if step.float_node is None else _activation(step.float_node).range
        scale = (y.q.s, y.q.z) if y.dtype.is_code else None
        made = Layer(
            self.where,
            inputs,
            step.output,
            f,
            q,
            bf,
            bq,
            clamp,
            none,
            none,
            None,
            noise=self._noise(),
            code_scale=scale,
        )
        n = step.quantized_node
        if n is None:  # a ReLU of the float model alone
            return replace(made, of_codes=lambda c: c[0])
        return replace(made, **self._rounded(n, y, cell, codec))  # type: ignore[arg-type]

    def _side(self, node: Node | None, graph: Graph, reads: Sequence[int], size: int) -> tuple[tuple[Matrix, ...], F64]:
        """The matrix of each input of the step, and the bias."""
        if node is None:
            return (identity(size),), np.zeros(size)
        operands, bias = matrices_of(node, graph, self.where)
        out: list[Matrix] = []
        for t in reads:
            k = next((k for k, (i, _) in enumerate(operands) if i == t), None)
            if k is None:
                raise cannot("a step does not read the values that it is aligned with", self.where)
            out.append(operands.pop(k)[1])
        if operands or any(entries(x)[0] != size for x in out):
            raise cannot("a step does not read the values that it is aligned with", self.where)
        return tuple(out), bias

    def _noise(self) -> Callable[[Sequence[Box]], F64] | None:
        node, graph = self.step.float_node, self.pair.float
        if node is None:
            return None
        if not self.float32 and node.folded is None:
            return _inexact_scale(node)
        share = 1.0 if self.float32 else FOLDED
        reads = [self.pair.values[i].float_tensor for i in self.step.inputs]

        def error(computed: Sequence[Box]) -> F64:
            given: list[Computed | None] = []
            for i in node.inputs:
                k = reads.index(i) if i in reads else None
                shape = graph.tensors[i].shape
                given.append(
                    None if k is None else Computed(computed[k].lo.reshape(shape), computed[k].hi.reshape(shape))
                )
            return up(float_error(node, graph, given).ravel() * share)

        return error

    def _rounded(self, node: Node, y: Tensor, cell: Cell, codec: InputCodec) -> dict[str, object]:
        """What the quantized side does after its sums."""
        graph, op = self.pair.quantized, node.op
        if op == "FIXED_POINT_INPUT":
            return {"of_codes": lambda c: c[0]}
        if op == "FIXED_POINT_DENSE":
            return self._fixed_point(node)
        if op != "DEQUANTIZE" and not y.dtype.is_code:
            raise cannot(f"{op} in float32 inside the quantized model", self.where)
        r = SEMANTICS[op].rounding(node, graph, self.runtime)
        unit = (y if y.dtype.is_code else graph.tensors[node.inputs[0]]).q.s
        real = lambda v: np.tile(np.where(v > 0, up(v * unit), 0.0), y.size // v.size)  # noqa: E731
        about: dict[str, object] = {"below": real(r.below), "above": real(r.above)}
        if op == "DEQUANTIZE":
            return about
        if op in MONOTONE and all(graph.tensors[i].dtype.is_code for i in node.inputs if not graph.tensors[i].is_const):
            about["of_codes"] = _kernel(node, graph, self.runtime)
        if op == "PAD":
            return about
        limits = y.dtype.code_range
        if op in WEIGHTED:
            limits = _activation(node).code_range(y, self.runtime)
            about |= self._sums(node, limits)
        elif op != "QUANTIZE" and op != "MEAN":
            limits = _activation(node).code_range(y, owner(node, graph, self.runtime))
        about["grid"] = Grid(y.q.s, y.q.z, *limits)
        x = graph.tensors[node.inputs[0]]
        if op == "QUANTIZE" and x.dtype.is_code and x.q.s == y.q.s:  # only the type changes: nothing is rounded
            about["below"] = about["above"] = np.zeros(y.size)
        grid_input = node.inputs[0] == graph.inputs[0] and cell.codes is not None and codec.in_model
        if op == "QUANTIZE" and grid_input and (y.q.s, y.q.z) == (codec.scale, codec.zero_point):
            # float32((q - z) s) / s is within 2**-15 of q - z: every rounding gives the code back
            about["codes"] = _region_codes(cell)
            about["below"] = about["above"] = np.full(y.size, _grid_error(codec))
        return about

    def _sums(self, node: Node, limits: tuple[int, int]) -> dict[str, object]:
        lin = LinearNode.of(node, self.pair.quantized)
        channels = lin.weights.shape[3 if node.op == "DEPTHWISE_CONV_2D" else 0]
        unit = np.broadcast_to(lin.x.q.s * lin.w.q.scale, (channels,))
        tail = np.arange(channels) >= channels // 8 * 8 if node.op == "DEPTHWISE_CONV_2D" else None
        dense = node.op == "FULLY_CONNECTED"

        def codes(total: I64) -> I64:
            a = np.clip(total, -(2**31) + 1, 2**31 - 1).reshape(-1, channels)
            scales = lin.x.q.s, lin.w.q.scale, lin.y.q.s, lin.y.q.z
            return (
                requantize(a, *scales, limits, lin.kernel(self.runtime), dense=dense, wide=False, tail=tail)
                .ravel()
                .astype(np.int64)
            )

        return {"of_sums": codes, "sum_unit": np.tile(unit, lin.y.size // channels)}

    def _fixed_point(self, node: Node) -> dict[str, object]:
        graph, attrs = self.pair.quantized, node.attrs
        assert isinstance(attrs, DenseAttrs)
        if attrs.shift is None:
            return {}
        lin = LinearNode.of(node, graph)
        below, above = fixed_rounding(node, graph)
        return {
            "below": below,
            "above": above,
            "grid": Grid(lin.y.q.s, 0, lin.y.q.qmin, lin.y.q.qmax),
            "of_sums": lambda total: finish(node, graph, total).astype(np.int64),
            "sum_unit": np.full(lin.y.size, lin.x.q.s * lin.w.q.s),
        }


def _inexact_scale(node: Node) -> Callable[[Sequence[Box]], F64] | None:
    """In real arithmetic: an input scale such as 1/255, which float64 does not hold."""
    if not isinstance(node.attrs, InputAttrs):
        return None
    off = abs(Fraction(float(node.attrs.scale)) - node.attrs.scale)
    return None if not off else lambda x: up(x[0].magnitude * float(up(float(off))))


def _activation(node: Node) -> Activation:
    if node.op in ("RELU", "RELU6"):
        return Activation[node.op]
    return getattr(node.attrs, "activation", Activation.NONE)


def _kernel(node: Node, graph: Graph, runtime: Runtime) -> Kernel:
    def run(codes: Sequence[I64]) -> I64:
        left = iter(codes)
        args: list[Array | None] = []
        for i in node.inputs:
            t = graph.tensors[i]
            args.append(t.const if t.is_const else next(left).reshape(1, *t.shape).astype(np.int32))
        return SEMANTICS[node.op].run_int(node, graph, args, runtime).ravel().astype(np.int64)

    return run
