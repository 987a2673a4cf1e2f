"""The scheme in plain Python integers and fractions, written from its definition and sharing no code with qebgate."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np

from qebgate.adapters.fixed_point import FixedPoint, build
from qebgate.adapters.npz import DenseNetwork
from qebgate.ir.align import align
from qebgate.ir.pair import Pair
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import Runtime
from qebgate.task import FloatSemantics, Task

Rng = np.random.Generator


def quant(v: float, bits: int, fraction: int) -> int:
    s = Fraction(float(v)) * 2**fraction
    n = floor(abs(s) + Fraction(1, 2))
    return max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, n if s >= 0 else -n))


@dataclass(frozen=True)
class Net:
    """A network with its scheme; ``scale`` is the float side's input scale."""

    dense: DenseNetwork
    how: FixedPoint
    scale: Fraction | None

    @property
    def pair(self) -> Pair:
        return align(*build(self.dense, self.how, self.scale))

    def quantized(self, x: tuple[int, ...]) -> list[Fraction]:
        h, how = list(x), self.how
        f = how.input_bits - how.input_int_bits
        fw, fb, fa = (
            how.bits - how.weight_int_bits,
            how.bits - how.bias_int_bits,
            how.bits - how.activation_int_bits,
        )
        for k, (w, b) in enumerate(self.dense.layers):
            acc = [
                sum(quant(v, how.bits, fw) * i for v, i in zip(row.tolist(), h, strict=True))
                + quant(c, how.bits, fb) * 2 ** (f + fw - fb)
                for row, c in zip(w, b.tolist(), strict=True)
            ]
            if k == len(self.dense.layers) - 1:
                return [Fraction(a, 2 ** (f + fw)) for a in acc]
            e = f + fw - fa
            h = [max(0, min(2**how.bits - 1, floor(Fraction(a, 2**e) + Fraction(1, 2)))) for a in acc]
            f = fa
        raise AssertionError

    def float(self, x: tuple[int, ...]) -> list[Fraction]:
        scale = self.scale or Fraction(1, 2 ** (self.how.input_bits - self.how.input_int_bits))
        h = [i * scale for i in x]
        for k, (w, b) in enumerate(self.dense.layers):
            z = [
                sum((Fraction(v) * i for v, i in zip(row.tolist(), h, strict=True)), Fraction(c))
                for row, c in zip(w, b.tolist(), strict=True)
            ]
            h = z if k == len(self.dense.layers) - 1 else [max(Fraction(0), v) for v in z]
        return h

    def task(
        self, lo: tuple[int, ...], hi: tuple[int, ...], floats: FloatSemantics = "real", limit: float = 0.0
    ) -> Task:
        pair = self.pair
        codec = InputCodec.of(pair.quantized)
        ends = tuple(np.array([v], np.int32) for v in (lo, hi))
        real = [codec.grid(c).astype(np.float64) for c in ends]
        cell = Cell(real[0], real[1], (ends[0], ends[1]), 0, real[0].copy())
        outputs = tuple(range(pair.float.output.size))
        return Task(pair, cell, codec, Property("max_abs", limit), outputs, Runtime.FIXED_POINT, floats)

    def truth(self, lo: tuple[int, ...], hi: tuple[int, ...]) -> tuple[list[Fraction], list[Fraction]]:
        """Smallest and largest exact gap of every output over a box of integers."""
        gaps = []
        for x in itertools.product(*(range(a, b + 1) for a, b in zip(lo, hi, strict=True))):
            gaps.append([q - h for q, h in zip(self.quantized(x), self.float(x), strict=True)])
        return [min(g) for g in zip(*gaps, strict=True)], [max(g) for g in zip(*gaps, strict=True)]


def random_net(rng: Rng, bits: int, signed: bool = False, spread: float = 1.2) -> Net:
    sizes = [2, *rng.integers(1, 5, int(rng.integers(0, 3))).tolist(), int(rng.integers(1, 4))]
    layers = []
    for n, m in itertools.pairwise(sizes):
        w = rng.uniform(-spread, spread, (m, n)).astype(np.float32)
        if rng.random() < 0.5:  # values whose rounding is a tie
            w = (np.round(w * 2 ** (bits - 1)) + 0.5).astype(np.float32) / np.float32(2 ** (bits - 1))
        layers.append((w, rng.uniform(-1, 1, m).astype(np.float32)))
    how = FixedPoint(bits, 2 if signed else 1, 2, 2, 8, signed, 0)
    scale = None if rng.random() < 0.3 else Fraction(1, 255)
    return Net(DenseNetwork(tuple(layers), "net.npz", f"{rng.integers(1 << 60)}"), how, scale)
