"""Rectangles of an image: what a few neurons of a convolutional layer can see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qebgate.numerics.rounding import F64


@dataclass(frozen=True, slots=True)
class Crop:
    """Rows ``[top, top + height)`` and columns ``[left, left + width)`` of an image (H, W, C), all channels."""

    image: tuple[int, int, int]
    top: int
    left: int
    height: int
    width: int

    @classmethod
    def whole(cls, image: tuple[int, int, int]) -> Crop:
        return cls(image, 0, 0, image[0], image[1])

    @property
    def size(self) -> int:
        """Entries of the flattened rectangle."""
        return self.height * self.width * self.image[2]

    def take(self, v: F64) -> F64:
        """The rectangle of a flattened image ``[H * W * C]``, flattened."""
        rows = slice(self.top, self.top + self.height)
        return v.reshape(self.image)[rows, self.left : self.left + self.width].reshape(-1)

    def expand(self, y: F64, into: Crop) -> F64:
        """Rectangles ``[R, size]`` placed in a larger one, zero elsewhere."""
        if into == self:
            return y
        c = self.image[2]
        out = np.zeros((len(y), into.height, into.width, c))
        top, left = self.top - into.top, self.left - into.left
        out[:, top : top + self.height, left : left + self.width] = y.reshape(len(y), self.height, self.width, c)
        return out.reshape(len(y), into.size)

    def union(self, other: Crop) -> Crop:
        """The smallest rectangle around two."""
        top, left = min(self.top, other.top), min(self.left, other.left)
        bottom = max(self.top + self.height, other.top + other.height)
        right = max(self.left + self.width, other.left + other.width)
        return Crop(self.image, top, left, bottom - top, right - left)
