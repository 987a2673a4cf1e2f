"""Random scales, codes and shapes on the nasty side, and a model with inputs for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Rng = np.random.Generator
LO, HI = -128, 127


@dataclass(frozen=True)
class Case:
    """A model and a batch ``[B, *shape]`` of inputs for it."""

    op: str
    model: bytes
    x: np.ndarray


def pick(rng: Rng, *choices):
    """One of the arguments."""
    return choices[int(rng.integers(len(choices)))]


def scale_of(rng: Rng) -> float:
    """A power of two (exact ties) or anything."""
    return float(np.float32(2.0 ** rng.integers(-9, 1) if rng.random() < 0.4 else 2.0 ** rng.uniform(-9, 1)))


def zero_of(rng: Rng) -> int:
    return int(pick(rng, LO, HI, 0, *rng.integers(LO, HI + 1, 3)))


def activation_of(rng: Rng) -> int:
    return int(pick(rng, 0, 0, 1, 2, 3))


def codes(rng: Rng, shape: tuple[int, ...], dtype: str = "int8") -> np.ndarray:
    """Codes: uniform, extreme, or near one value."""
    info = np.iinfo(dtype)
    kind = rng.integers(4)
    if kind == 0:
        return np.where(rng.random(shape) < 0.5, info.min, info.max).astype(dtype)
    if kind == 1:
        return np.clip(rng.integers(info.min, info.max + 1) + rng.integers(-3, 4, shape), info.min, info.max).astype(
            dtype
        )
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def out_scale(rng: Rng, real_range: float, unit: float) -> float:
    """An output scale that saturates, fits, or makes the multiplier exceed 1.

    Often a power of two, or a multiple of ``unit`` (the accumulator's quantum): both give exact ties.
    """
    s = max(real_range, 1e-6) / pick(rng, 40.0, 250.0, 250.0, 2000.0, 20000.0)
    if rng.random() < 0.3:
        return float(np.float32(max(1.0, np.round(s / unit)) * unit * pick(rng, 1.0, 1.0, 0.1, 0.6)))
    return float(np.float32(2.0 ** np.round(np.log2(s)) if rng.random() < 0.4 else s))


def output_shape(
    h: int, w: int, k: tuple[int, int], s: tuple[int, int], d: tuple[int, int], same: bool
) -> tuple[int, int]:
    def one(n: int, kk: int, ss: int, dd: int) -> int:
        return -(-n // ss) if same else -(-(n - (kk - 1) * dd) // ss)

    return one(h, k[0], s[0], d[0]), one(w, k[1], s[1], d[1])


def geometry(rng: Rng) -> tuple[int, int, tuple[int, int], tuple[int, int], tuple[int, int], bool]:
    """Input size, kernel, stride, dilation, padding, with at least one output."""
    while True:
        h, w = (int(v) for v in rng.integers(1, 14, 2))
        k = tuple(int(v) for v in rng.integers(1, 5, 2))
        s = tuple(int(v) for v in pick(rng, (1, 1), (2, 2), rng.integers(1, 5, 2)))
        d = tuple(int(v) for v in pick(rng, (1, 1), (1, 1), (2, 2), (3, 2)))
        same = bool(rng.integers(2))
        if min(output_shape(h, w, k, s, d, same)) >= 1:
            return h, w, k, s, d, same
