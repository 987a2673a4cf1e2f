"""The C library's float32 functions: what LiteRT's kernels build their tables with.

They are not correctly rounded and differ between C libraries in the last bit, so a table of this
machine's runtime needs this machine's functions.  Where the library cannot be loaded, the float64
result rounded to float32 stands in: equal but for about one argument in 2,000 (expf) or 5 (tanhf),
which changes a code only next to a tie.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import numpy as np
import scipy.special
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def expf(x: F32) -> F32:
    """``expf`` of every element; meant for tables, not for large arrays."""
    return _apply("expf", np.exp, x)


def tanhf(x: F32) -> F32:
    """``tanhf`` of every element."""
    return _apply("tanhf", np.tanh, x)


def expm1f(x: F32) -> F32:
    """``expm1f`` of every element."""
    return _apply("expm1f", np.expm1, x)


def logf(x: F32) -> F32:
    """``logf`` of every element."""
    return _apply("logf", np.log, x)


def erfcf(x: F32) -> F32:
    """``erfcf`` of every element."""
    return _apply("erfcf", scipy.special.erfc, x)


def _apply(name: str, stand_in: Callable[[NDArray[np.float64]], NDArray[np.float64]], x: F32) -> F32:
    function = _function(name)
    if function is None:
        with np.errstate(over="ignore"):
            return stand_in(x.astype(np.float64)).astype(np.float32)
    return np.array([function(v) for v in x.reshape(-1).tolist()], np.float32).reshape(x.shape)


def _function(name: str) -> Callable[[float], float] | None:
    file = {"linux": "libm.so.6", "darwin": "libSystem.B.dylib", "win32": "ucrtbase.dll"}.get(sys.platform)
    if file is None:
        return None
    try:
        function = getattr(ctypes.CDLL(file), name)
    except (OSError, AttributeError):
        return None
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    return function
