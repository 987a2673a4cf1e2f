"""One operator's exact function of the few integers that it depends on, by executing it.

An operator without weights maps one code to one code, or the sum of a window's codes, or two codes.  The runtime's own
kernel is executed on all values that can occur, so that no rounding has to be known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qebgate.domains.gap import I64
from qebgate.ir.graph import Graph, Node
from qebgate.ir.pair import Pair
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.registry import SEMANTICS
from qebgate.semantics.sigmoid import Table
from qebgate.semantics.tables import Function, Prelu

SUMS = ("AVERAGE_POOL_2D", "MEAN")
"""Operators whose kernels read nothing of a window but the sum of its codes."""
MAX_CODES = 1 << 12
"""Values of one code that are tried: those of 8 bits, and more."""
MAX_WORK = 1 << 27
"""Codes that all executions of one operator may read and write."""
_CHUNK = 1 << 20


class TooMuchError(Exception):
    """An operator would have to be executed on too many inputs."""


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """A node of the quantized graph whose live inputs and output are codes; inputs in the order of its step's."""

    node: Node
    graph: Graph
    runtime: Runtime

    @classmethod
    def of(cls, pair: Pair, position: int, runtime: Runtime) -> Kernel | None:
        """The one that makes a value of the pair; None where none does, or not from codes."""
        node = next((s.quantized_node for s in pair.steps if s.output == position), None)
        if node is None or node.op not in SEMANTICS:
            return None
        t = pair.quantized.tensors
        read = [t[i] for i in node.inputs if i >= 0 and not t[i].is_const]
        return cls(node, pair.quantized, runtime) if all(x.dtype.is_code for x in (*read, t[node.outputs[0]])) else None

    @property
    def entrywise(self) -> bool:
        """Whether it is a function of one entry each."""
        return isinstance(SEMANTICS[self.node.op], Table | Function | Prelu)

    @property
    def sums(self) -> bool:
        return self.node.op in SUMS

    def run(self, codes: Sequence[I64]) -> I64:
        """Output codes ``[B, m]`` of input codes ``[B, n]`` each."""
        it, t = iter(codes), self.graph.tensors
        args = [
            None if i < 0 else t[i].const if t[i].is_const else _shaped(next(it), t[i].shape) for i in self.node.inputs
        ]
        out = SEMANTICS[self.node.op].run_int(self.node, self.graph, args, self.runtime)
        return out.reshape(len(codes[0]), -1).astype(np.int64)

    def of_one(self, lo: int, hi: int, at: I64) -> I64:
        """``[hi - lo + 1, at]``: outputs where every input code is lo, then lo + 1 and so on."""
        if hi - lo >= MAX_CODES:
            raise TooMuchError
        sizes = self._sizes
        values = np.arange(lo, hi + 1, dtype=np.int64)
        parts = [
            self.run([np.repeat(values[rows, None], n, axis=1) for n in sizes])[:, at]
            for rows in self._rows(len(values))
        ]
        return np.concatenate(parts)

    def of_sum(self, entries: I64, total: tuple[int, int], output: int, outputs: int) -> I64:
        """One of ``outputs``, ``[t]``: where ``entries`` sum to each integer from ``total[0]`` to ``total[1]``."""
        values, n = np.arange(total[0], total[1] + 1, dtype=np.int64), entries.size
        (size,) = self._sizes
        out: list[I64] = []
        for rows in self._rows(len(values), outputs):
            each, more = np.divmod(values[rows], n)
            x = np.zeros((len(each), size), np.int64)
            x[:, entries] = each[:, None] + (np.arange(n) < more[:, None])
            out.append(self.run([x])[:, output])
        return np.concatenate(out)

    def of_two(self, boxes: tuple[tuple[int, int], tuple[int, int]], at: I64) -> tuple[I64, I64, I64]:
        """All pairs of codes ``x, y [p]``, and the outputs ``[p, at]`` where the two inputs are filled with them."""
        axes = [np.arange(lo, hi + 1, dtype=np.int64) for lo, hi in boxes]
        x, y = (v.ravel() for v in np.meshgrid(*axes, indexing="ij"))
        if x.size > MAX_CODES**2:
            raise TooMuchError
        sizes = self._sizes
        parts = [
            self.run([np.repeat(v[rows, None], n, axis=1) for v, n in zip((x, y), sizes, strict=True)])[:, at]
            for rows in self._rows(x.size)
        ]
        return x, y, np.concatenate(parts)

    @property
    def _sizes(self) -> list[int]:
        t = self.graph.tensors
        return [t[i].size for i in self.node.inputs if i >= 0 and not t[i].is_const]

    def _rows(self, count: int, times: int = 1) -> Iterator[slice]:
        """Parts of so many executions, which are done so many times."""
        each = max(1, sum(self._sizes) + self.graph.tensors[self.node.outputs[0]].size)
        if count * each * times > MAX_WORK:
            raise TooMuchError
        step = max(1, _CHUNK // each)
        return (slice(k, k + step) for k in range(0, count, step))


def _shaped(codes: I64, shape: tuple[int, ...]) -> I64:
    return codes.reshape(-1, *shape).astype(np.int32)  # type: ignore[return-value]
