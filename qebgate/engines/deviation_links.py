"""The steps of a deviation's back-substitution, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qebgate.domains.crop import Crop
from qebgate.domains.linear_map import Depthwise, LinearMap
from qebgate.numerics.rounding import F64

ROWS = 48
"""About how many neurons of a convolutional layer are bounded together: those of one small tile."""
SLOW = 24
"""What a multiply-add of a depthwise convolution costs, in those of a matrix product."""


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """``d = slope (sum maps d_i) + free``, ``|free| <= noise``, of one value [m].

    ``size`` bounds ``sum |maps| |d_i|``: what the roundoff of coefficients is charged on.
    """

    inputs: tuple[int, ...]
    output: int
    maps: tuple[LinearMap, ...]
    slope: F64
    noise: F64
    size: F64
    terms: int

    def cropped(self, crop: Crop) -> tuple[Link, tuple[Crop, ...]] | None:
        """The part that writes a rectangle of the value, and what it reads of each input."""
        parts = [m.cropped(crop) for m in self.maps]
        if any(p is None for p in parts):
            return None
        maps, seen = zip(*(p for p in parts if p is not None), strict=True) if parts else ((), ())
        take = crop.take
        return Link(
            self.inputs, self.output, maps, take(self.slope), take(self.noise), take(self.size), self.terms
        ), seen  # fmt: skip


def tile_side(channels: int) -> int:
    """Height and width of the tiles that neurons of an image are bounded in."""
    return max(1, round((ROWS / channels) ** 0.5))


def prices_of(links: Sequence[Link], output: int, shell: Link, image: tuple[int, int, int] | None) -> F64:
    """What back-substituting one neuron costs in multiply-adds, summed up to each link on the way to the inputs.

    ``shell`` is the link of the neuron's own layer, ``links`` are those before it.  Of an image's neurons: one in the
    middle, where windows see most, with what the others of its tile see.
    """
    crop = None
    if image is not None and shell.cropped(Crop.whole(image)) is not None:
        height, width, channels = image
        h, w = min(tile_side(channels), height), min(tile_side(channels), width)
        crop = Crop(image, (height - h) // 2, (width - w) // 2, h, w)
    live: dict[int, Crop | None] = {output: crop}
    prices: list[float] = []
    for link in (shell, *reversed(links)):
        price = 0.0
        if link.output in live:
            at = live.pop(link.output)
            part = None if at is None else link.cropped(at)
            step, seen = (link, (None,) * len(link.inputs)) if part is None else part
            macs = sum(m.macs * (SLOW if isinstance(m, Depthwise) else 1) for m in step.maps)
            price = float(step.noise.size + macs)
            for i, c in zip(step.inputs, seen, strict=True):
                old = live.get(i, c)
                live[i] = None if old is None or c is None else old.union(c)
        prices.append(price)
    return np.cumsum(prices)
