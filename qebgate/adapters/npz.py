"""Float networks of dense layers from .npz files: ``w0, b0, w1, b1, ...``, ``h = relu(x @ w + b)``, linear output."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qebgate.adapters.data import MAX_BYTES, load_arrays
from qebgate.adapters.files import read_file
from qebgate.errors import ModelError, printable
from qebgate.ir.tensor import Array, frozen
from qebgate.numerics.rounding import TINY32

MAX_LAYERS = 64
MAX_WIDTH = 1 << 16

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class DenseNetwork:
    """Layers ``(w [out, in], b [out])``, float32; ReLU after all but the last.  ``sha256`` is the file's.

    The file need not be an .npz file: ``format`` says what it is.
    """

    layers: tuple[tuple[F32, F32], ...]
    path: str
    sha256: str
    format: str = "npz"

    @property
    def inputs(self) -> int:
        return self.layers[0][0].shape[1]


def read_npz(path: Path) -> DenseNetwork:
    """Read a dense network; raises ModelError for other content, DataError for a damaged file."""
    data = read_file(path, MAX_BYTES, ModelError)
    where = printable(path)
    arrays = load_arrays(data, where, MAX_LAYERS * 2)
    depth = len(arrays) // 2
    expected = {f"{kind}{k}" for k in range(depth) for kind in "wb"}
    if not depth or set(arrays) != expected:
        names = sorted(arrays, key=lambda n: (not re.fullmatch("[wb][0-9]+", n), n))
        raise ModelError(
            "QEB472",
            "the .npz file is not a network of dense layers",
            where=where,
            found="arrays: " + (", ".join(printable(n, 40) for n in names[:20]) or "none"),
            fix="save w0 [in, out], b0 [out], w1, b1, ... and nothing else",
        )
    layers: list[tuple[F32, F32]] = []
    width: int | None = None
    for k in range(depth):
        w, b = (float32_constant(arrays[f"{kind}{k}"], f"{where}: array {kind}{k}") for kind in "wb")
        if w.ndim != 2 or b.ndim != 1 or w.shape[1] != b.size or width not in (None, w.shape[0]):
            before = "" if width is None else f" after a layer of {width}"
            raise ModelError(
                "QEB472",
                f"the shapes of layer {k} do not fit",
                where=where,
                found=f"w{k} {w.shape}, b{k} {b.shape}{before}",
                fix=f"w{k} is [inputs, outputs], b{k} [outputs]",
            )
        if max(w.shape) > MAX_WIDTH:
            raise ModelError("QEB406", "a layer is too wide", where=where, found=f"w{k} {w.shape}, at most {MAX_WIDTH}")
        width = w.shape[1]
        layers.append((frozen(np.ascontiguousarray(w.T)), frozen(b.copy())))
    return DenseNetwork(tuple(layers), str(path), hashlib.sha256(data).hexdigest())


def float32_constant(a: Array, where: str) -> F32:
    """float32 and float16 arrays only: any other conversion would round the reference itself."""
    if a.dtype not in (np.dtype(np.float32), np.dtype(np.float16)):
        raise ModelError(
            "QEB414",
            "weights and biases must be float32",
            where=where,
            found=f"dtype {a.dtype}",
            fix="save them as float32",
        )
    v = a.astype(np.float32)
    if ((v != 0) & (np.abs(v) < TINY32)).any():
        raise ModelError("QEB418", "a constant is subnormal: whether it counts as zero depends on the processor", where)
    return v
