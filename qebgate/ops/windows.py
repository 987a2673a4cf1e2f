"""Geometry of windowed operators in the form the bounds need."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qebgate.domains import linear_map
from qebgate.domains.gap import I64
from qebgate.semantics.windows import Window


def geometry(w: Window) -> linear_map.Window:
    """The same window as the linear maps describe it."""
    return linear_map.Window(w.size, w.out, w.kernel, w.stride, w.dilation, w.before)


def taps(w: Window, channels: int) -> I64:
    """Flat input index of every tap of every output entry, ``[P * Q * C, K * L]``, -1 for padding."""
    h, width = w.size
    image = np.arange(1, h * width + 1, dtype=np.int64).reshape(1, h, width, 1)
    spatial: NDArray[np.int64] = w.patches(image, 0).reshape(w.out[0] * w.out[1], 1, w.taps) - 1
    channel = np.arange(channels, dtype=np.int64).reshape(1, channels, 1)
    return np.where(spatial < 0, -1, spatial * channels + channel).reshape(-1, w.taps)
