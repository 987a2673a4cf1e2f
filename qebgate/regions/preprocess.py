"""What the application does to raw values before it feeds the model."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from qebgate.errors import PolicyError
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64
from qebgate.regions.float32 import F32, split


@dataclass(frozen=True, slots=True)
class Preprocess:
    """``model input = (raw * scale - mean) / std`` in float32; one number each, or one per channel (last axis)."""

    scale: tuple[float, ...] = (1.0,)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def identity(self) -> bool:
        return set(self.scale) == {1.0} and set(self.mean) == {0.0} and set(self.std) == {1.0}

    def fit(self, shape: tuple[int, ...]) -> None:
        """Raise PolicyError where a per-channel list does not have the input's number of channels."""
        for name, v in (("scale", self.scale), ("mean", self.mean), ("std", self.std)):
            if len(v) != 1 and (not shape or len(v) != shape[-1]):
                raise PolicyError(
                    "QEB240",
                    f"preprocess.{name} does not fit the model's input",
                    found=f"{len(v)} numbers, input shape {list(shape)}",
                    fix="give one number, or one per channel (last axis)",
                )

    def _constants(self, dtype: type[np.float32 | np.float64]) -> tuple[Array, Array, Array]:
        # a float64 constant may underflow or overflow in float32: the caller sees it as a region that is not finite
        with np.errstate(over="ignore", under="ignore"):
            s, m, d = (np.asarray(v, np.float64).astype(dtype) for v in (self.scale, self.mean, self.std))
        return s, m, d

    def apply(self, raw: Array) -> F32:
        """The model's input, every operation rounded to float32."""
        if self.identity:
            return raw.astype(np.float32)
        s, m, d = self._constants(np.float32)
        with np.errstate(all="ignore"):
            return np.asarray((raw.astype(np.float32) * s - m) / d, np.float32)

    def _apply64(self, raw: Array) -> F32:
        s, m, d = self._constants(np.float64)
        with np.errstate(all="ignore"):
            return ((raw.astype(np.float64) * s - m) / d).astype(np.float32)

    def image(self, lower: F64, upper: F64) -> tuple[F64, F64]:
        """A box that holds the model's input for every raw float32 in ``[lower, upper]``.

        Each rounded operation is monotone, so the corners suffice; an application that computes in
        float64 and rounds once is covered too.
        """
        if self.identity:
            return lower, upper
        corners = [f(c) for f in (self.apply, self._apply64) for c in (lower, upper)]
        stack = np.stack([np.broadcast_to(c, corners[0].shape) for c in corners]).astype(np.float64)
        return stack.min(axis=0), stack.max(axis=0)

    def radius(self, raw: float) -> tuple[F64, F64]:
        """The radius in model units of a raw radius, as ``hi + lo`` per channel."""
        n = max(len(self.scale), len(self.std))
        scale, std = (v * n if len(v) == 1 else v for v in (self.scale, self.std))
        pairs = [split(Fraction(raw) * abs(Fraction(s)) / abs(Fraction(d))) for s, d in zip(scale, std, strict=True)]
        return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])

    @property
    def slope(self) -> F64:
        """How fast the model's input follows the raw one, ``scale / std`` per channel, rounded to float64."""
        s, _, d = self._constants(np.float64)
        return np.asarray(s / d, np.float64)

    def invert(self, x: Array) -> F64:
        """Raw values (float64, rounded) of model inputs; for showing a witness."""
        s, m, d = self._constants(np.float64)
        return np.asarray((x.astype(np.float64) * d + m) / s, np.float64)


IDENTITY = Preprocess()
