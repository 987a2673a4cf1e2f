"""The reached sub-network: both networks restricted to what a few free inputs can change.

Every other value is a constant: it folds into accumulators (integers: exact) and biases (float64, as one
more order of summation).  So do values that the region does not change although they are reached: codes
that are the same at both ends of their accumulator's range, float neurons that are clamped everywhere.
Quantized values are held as deviations from one point of the region (small integers in float32);
float values as they are, in float64.  Letters: B inputs, k free inputs, n entries of a tensor.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.concrete import real_values
from qebgate.engines.memo import cost, memo
from qebgate.engines.subnetwork import Index, Network, Uncovered
from qebgate.engines.subnetwork_float import FloatNetwork
from qebgate.engines.subnetwork_quantized import QuantizedNetwork
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64
from qebgate.regions.cell import JoinedCodec
from qebgate.task import Task

_CACHE_BYTES, _MEMORY_BYTES = 1 << 22, 1 << 24
_LEAST_ROWS, _MOST_ROWS = 256, 1 << 13


class Reached:
    """A task's grid region, restricted: ``gaps`` of codes of its free inputs only."""

    def __init__(self, task: Task) -> None:
        assert task.cell.codes is not None
        if isinstance(task.codec, JoinedCodec):
            raise Uncovered
        lo, hi = (c.ravel().astype(np.int64) for c in task.cell.codes)
        self.free = np.flatnonzero(hi > lo)
        self._codec = task.codec
        middle = (lo + hi) // 2
        shape = task.cell.codes[0].shape
        lo, hi = lo[self.free], hi[self.free]
        self.lo, self.hi = lo, hi
        """Codes of the free inputs."""
        self._codes = middle.astype(np.int32)
        self._shape = shape
        codes = middle.reshape(shape).astype(np.int32)
        self._middle = middle[self.free]
        real = task.codec.grid(np.stack([lo, hi])).astype(np.float64)
        self._quantized = QuantizedNetwork(task.pair.quantized, codes, self.free, lo, hi, task.runtime, task.codec)
        self._float = FloatNetwork(task.pair.float, task.codec.grid(codes), self.free, real[0], real[1])
        pick = np.asarray(task.outputs, np.intp)
        t = task.pair.quantized.output
        self._unit = t.q.s if t.dtype.is_code else None
        self._zero = t.q.z if t.dtype.is_code else 0
        self._pick = pick
        self._show(pick)
        width = 8 * (self._quantized.width + self._float.width + 3 * pick.size)
        enough = min(_LEAST_ROWS, _MEMORY_BYTES // width)
        self.rows = int(np.clip(_CACHE_BYTES // width, max(1, enough), _MOST_ROWS))
        """How many inputs to execute at once: intermediate results in the caches, or matrix products of some size."""
        self.table = memo(self._quantized, self._real, pick.size, self._sample)
        """Outputs of the quantized network by the codes of a narrow layer, where that pays."""

    def _show(self, pick: Index) -> None:
        graph = self._quantized.graph
        self._q = _Outputs(real_values(graph, self._quantized.output.base[None])[0], self._quantized, pick)
        self._f = _Outputs(self._float.output.base, self._float, pick)
        self._above = self._quantized.output.base[self._q.live] - self._zero

    def narrow(self, columns: Index) -> None:
        """Some of the outputs only, from now on, and no table of them."""
        self._show(self._pick[columns])
        self.table = None

    @property
    def float_cost(self) -> float:
        """Roughly, in nanoseconds for one input."""
        return sum(cost(self._float, step) for step in self._float.steps)

    @property
    def quantized_bytes(self) -> int:
        """Intermediate results of one input."""
        return 4 * (1 + self._quantized.width)

    def deviations(self, codes: Array) -> NDArray[np.float32]:
        """What the quantized network starts from, for codes ``[B, k]``."""
        return (codes - self._middle).astype(np.float32)

    def reals(self, codes: Array) -> F64:
        """What the float network reads for codes ``[B, k]``."""
        return self._codec.grid(codes).astype(np.float64)

    def whole(self, codes: Array) -> NDArray[np.int32]:
        """Code tensors ``[B, *shape]`` from codes ``[B, k]`` of the free inputs."""
        out = np.repeat(self._codes[None], len(codes), axis=0)
        out[:, self.free] = codes
        return out.reshape(-1, *self._shape)

    def gaps(self, codes: Array) -> F64:
        """Gaps ``[B, K]`` for codes ``[B, k]`` of the free inputs."""
        return self.quantized(codes) - self._floats(codes)

    def quantized(self, codes: Array) -> F64:
        """Real quantized outputs ``[B, K]``, exact."""
        x = self.deviations(codes)
        if self.table is not None:
            y = self.table.outputs(x)
            if y is not None:
                return y
            self.table = None
        return self._real(self._quantized.run(x))

    def _real(self, q: Array) -> F64:
        """Real outputs ``[B, K]`` from the quantized output's live entries."""
        q = q[:, self._q.columns].astype(np.float64)
        if self._unit is not None:
            q = (q + self._above) * self._unit
        return self._q.spread(q)

    def _sample(self, count: int) -> Array:
        rng = np.random.default_rng(0)
        return self.deviations(rng.integers(self.lo, self.hi + 1, (count, self.lo.size)))

    def floats(self, codes: Array) -> F64:
        """Float outputs ``[B, K]``: a float64 evaluation in another order of summation."""
        return self._floats(codes).copy()

    def _floats(self, codes: Array) -> F64:
        """Overwritten by the next call."""
        f = self._float.run(self.reals(codes))
        return self._f.spread(f[:, self._f.columns])


class _Outputs:
    """Compared outputs: constant ones, and where the live ones go."""

    def __init__(self, base: Array, net: Network, pick: Index) -> None:
        place = np.full(base.size, -1)
        live = net.output.live
        place[live] = np.arange(live.size)
        self._row = base[pick].astype(np.float64)
        self._where = np.flatnonzero(place[pick] >= 0)
        take = place[pick[self._where]]
        self.columns = slice(None) if np.array_equal(take, np.arange(live.size)) else take
        self.live = live[take]

    def spread(self, values: F64) -> F64:
        """``[B, K]`` from the live ones."""
        if self._where.size == self._row.size:
            return values
        out = np.repeat(self._row[None], len(values), axis=0)
        out[:, self._where] = values
        return out
