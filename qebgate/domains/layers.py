"""The canonical form that every aligned pair is lowered to: a few kinds of layers over paired values.

A *value* is a pair (float h, quantized hq) of flattened tensors, by position in ``Pair.values``;
position :data:`ROOT` is the input region itself (both sides read the same x, the gap is 0).

``Affine`` covers every operator that is linear before a clamp: dense layers, convolutions, pools of
means, ADD, PAD, RESHAPE, QUANTIZE, DEQUANTIZE, fused and standalone ReLUs.  ``MaxPool`` selects.
``Elementwise`` is a monotone function of each entry.  ``Opaque`` bounds its outputs by intervals only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from qebgate.domains.gap import I64, Gap, Interval
from qebgate.domains.linear_map import LinearMap, Scale, Sparse
from qebgate.numerics.rounding import F64

ROOT = -1
"""Position of the input region."""

Noise = Callable[[Sequence[Interval]], F64]
"""``noise(float inputs as they are computed) -> E [m]``: float32 evaluation error of a layer."""


CodeBox = tuple[I64, I64]
"""Least and largest codes of a value's entries."""


@dataclass(frozen=True, slots=True)
class CodeGrid:
    """Quantized values ``(code - zero) * unit`` with codes clamped to ``[lo, hi]``."""

    unit: float
    zero: int
    lo: int
    hi: int

    def real(self, codes: tuple[I64, I64]) -> Interval:
        """The interval of real values of a code interval (exact: 24 + 16 bits)."""
        return Interval((codes[0] - self.zero) * self.unit, (codes[1] - self.zero) * self.unit)

    @property
    def range(self) -> tuple[float, float]:
        """The clamp in real units."""
        return (self.lo - self.zero) * self.unit, (self.hi - self.zero) * self.unit


@dataclass(frozen=True, eq=False)
class Affine:
    """``z = sum f_i h_i + bf``, ``h = clamp(z)``; ``zq = sum q_i hq_i + bq``, ``hq = clamp(round(zq))``.

    ``below``, ``above`` [m] (real units): the rounding moves ``zq`` by a number in ``[-below, above]``
    before the clamp to ``grid``.  ``grid`` is None where the result is not rounded to codes.
    ``codes_of_inputs`` maps lower (or upper) codes of all inputs to lower (or upper) output codes,
    exactly (the integer kernel is monotone); ``codes_of_accumulator`` maps integer accumulators
    ``zq / accumulator_unit`` to codes.  ``noise`` bounds the float32 evaluation error of ``z``.
    """

    label: str
    inputs: tuple[int, ...]
    output: int
    f: tuple[LinearMap, ...]
    q: tuple[LinearMap, ...]
    bf: F64
    bq: F64
    float_range: tuple[float, float]
    below: F64
    above: F64
    grid: CodeGrid | None
    codes_of_inputs: Callable[[Sequence[I64]], I64] | None = None
    codes_of_accumulator: Callable[[I64], I64] | None = None
    accumulator_unit: F64 | None = None
    noise: Noise | None = None
    fixed_codes: tuple[I64, I64] | None = None
    """Codes known from the region itself (the input layer on the grid)."""
    quantized_range: tuple[float, float] = field(default=(-np.inf, np.inf))
    """Clamp of the quantized side where there is no grid."""
    quantized_noise: Noise | None = None
    """Of the quantized inputs: evaluation error of ``zq`` where the quantized side computes in float32 (no grid)."""
    moves_only: bool = False
    """Whether the quantized side keeps every code as it is."""
    codes_between: Callable[[Sequence[CodeBox]], CodeBox] | None = None
    """Output codes for boxes of input codes, exactly: for kernels that fall in some of their inputs."""

    @cached_property
    def d(self) -> tuple[LinearMap, ...]:
        """``q - f``."""
        return tuple(q.minus(f) for q, f in zip(self.q, self.f, strict=True))

    @cached_property
    def bd(self) -> F64:
        return self.bq - self.bf

    @cached_property
    def bd_size(self) -> F64:
        """Magnitude behind ``bd``: each bias is rounded (``bq`` is a product), and they nearly cancel."""
        return np.add(np.abs(self.bq), np.abs(self.bf), dtype=np.float64)

    @property
    def m(self) -> int:
        return self.bf.size

    @property
    def only_scales(self) -> bool:
        """Whether both sides are the layer's only input, the region itself, times a number each (up to noise)."""
        return (
            self.inputs == (ROOT,)
            and all(isinstance(m, Scale) for m in (*self.f, *self.q))
            and self.grid is None
            and self.quantized_noise is None
            and not (self.bf.any() or self.bq.any() or self.below.any() or self.above.any())
            and self.float_range == self.quantized_range == (-np.inf, np.inf)
        )

    @property
    def is_identity(self) -> bool:
        """Whether output and input are the same on both sides: nothing scaled, rounded or clamped."""
        return (
            self.moves_only
            and self.noise is None
            and self.quantized_noise is None
            and len(self.inputs) == 1
            and self.f[0] == self.q[0] == Scale(1.0, self.m)
            and not (self.bf.any() or self.bq.any() or self.below.any() or self.above.any())
            and self.float_range == self.quantized_range == (-np.inf, np.inf)
        )

    @property
    def terms(self) -> int:
        """Bound on the additions behind any entry of any product with this layer's maps."""
        return sum(x.terms for x in self.f) + sum(x.terms for x in self.q) + 2 * len(self.f) + 8

    @property
    def macs(self) -> int:
        return sum(x.macs for x in self.q)


@dataclass(frozen=True, eq=False)
class MaxPool:
    """``h_k = max over index[k] of the input``; index [m, taps], -1 for padding.  Codes are moved only."""

    label: str
    inputs: tuple[int, ...]
    output: int
    index: I64
    grid: CodeGrid | None


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """A value within a rest of a linear function of a layer's inputs, with the same ``maps`` on both sides.

    ``h - sum maps_i h_i`` is in ``float``, the same of the quantized values in ``quantized``, and
    ``delta - sum maps_i delta_i`` in ``delta``; intervals [m].
    """

    maps: tuple[LinearMap, ...]
    float: Interval
    quantized: Interval
    delta: Interval


@dataclass(frozen=True, eq=False)
class Opaque:
    """Outputs bounded by intervals: ``transform(inputs) -> Gap``, and by ``lines`` where there are any."""

    label: str
    inputs: tuple[int, ...]
    output: int
    transform: Callable[[Sequence[Gap]], Gap]
    float_transform: Callable[[Sequence[Gap]], Gap]
    """The same where the "quantized" side is the float network as it is evaluated."""
    lines: Callable[[Sequence[Gap], Gap], Band] | None = None
    """Lines for back-substitution, from the inputs and what ``transform`` gave."""
    recurrent: bool = False
    """Whether its entries are no functions of single entries of its inputs, and may be of another number."""


Layer = Affine | MaxPool | Opaque


def alone(layer: Layer) -> Layer:
    """The layer of a program that bounds the float network only: the other side is constant."""
    if isinstance(layer, Affine):
        zero, nothing = np.zeros(layer.m), tuple(Sparse(sp.csr_matrix((m.m, m.n))) for m in layer.f)
        return replace(
            layer,
            q=nothing,
            bq=zero,
            below=zero,
            above=zero,
            grid=None,
            codes_of_inputs=None,
            codes_between=None,
            codes_of_accumulator=None,
            accumulator_unit=None,
            fixed_codes=None,
            quantized_range=(0.0, 0.0),
            quantized_noise=None,
        )
    if isinstance(layer, MaxPool):
        return replace(layer, grid=None)
    return replace(layer, transform=layer.float_transform, lines=None)
