"""The quantized network as rows over integers: exact, one variable for each code and each accumulator.

Accumulators are integer sums of codes, and every requantization is a staircase: the codes of a monotone kernel,
evaluated at the accumulators that can occur.  A staircase of one rounding is two rows, ``0 <= A acc - C k - D < C``,
found from its own steps and checked on all of them; any other one is a 0-1 variable for each step.  Operators without
weights are executed on every code, sum of codes or pair of codes that can occur
(:mod:`qebgate.engines.milp_kernels`): a staircase again, of an integer combination where there are two codes, or a
table of what goes with what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import I64
from qebgate.domains.layers import ROOT, Affine, Layer, MaxPool
from qebgate.domains.linear_map import Scale
from qebgate.engines.dra.program import Program
from qebgate.engines.milp_kernels import Kernel, TooMuchError
from qebgate.engines.milp_stairs import CodeModel, NotInteger, Steps, firsts, plane
from qebgate.milp import cpsat
from qebgate.milp.cpsat import IntegerModel
from qebgate.numerics.rounding import F64
from qebgate.task import Task

Flags = NDArray[np.bool_]
Codes = Mapping[int, tuple[I64, I64]]
"""Proven bounds of the codes of some values."""
_Read = list[tuple[int, int, float]]
"""Input, entry and weight of each code that an output reads."""

MAX_WEIGHTS = 1_000_000
MAX_REACH = 1 << 40
EXACT = 2.0**-20
"""How near to integers quotients of weights by their unit must be: they are integers up to two roundings."""


@dataclass(frozen=True, slots=True, eq=False)
class _Value:
    """Entries ``real = (k - zero) * unit``, each an integer variable, or the sums of some: ``(variables, weights)``."""

    k: I64
    zero: int
    unit: F64


@dataclass(frozen=True, slots=True, eq=False)
class IntegerOutput:
    """``real = unit * (sum a_i x_i + offset)`` up to ``below`` and ``above``: one output as an integer sum."""

    model: IntegerModel
    variables: I64
    weights: I64
    offset: int
    unit: float
    below: float
    above: float
    codes: I64
    """Indices of the region's input codes; those of inputs that no code depends on are variables too."""
    rising: bool = True
    """Whether the real value never falls where the sum rises: their largest values go together."""


def encode(task: Task, p: Program, output: int, known: Codes | None = None) -> IntegerOutput:
    """The integer program of one output, tightened by ``known``.  Raises NotInteger where there is none."""
    if task.cell.codes is None or task.cell.line is not None:
        raise NotInteger("the region is not a box of input codes")
    if len(task.runtime.members) > 1:
        raise NotInteger("several runtimes at once have no one kernel")
    return _Encoder(task, p, output, known or {}).run()


@dataclass
class _Encoder:
    task: Task
    program: Program
    output: int
    known: Codes
    m: CodeModel = field(default_factory=CodeModel)
    values: dict[int, _Value] = field(default_factory=dict[int, _Value])
    codes: I64 | None = None

    def run(self) -> IntegerOutput:
        needed = self._needed()
        last = self.program.layers[-1]
        for layer in self.program.layers:
            if layer.output not in needed:
                continue
            at = np.flatnonzero(needed[layer.output])
            if layer.output == self.program.output and isinstance(layer, Affine) and layer.grid is None:
                last = layer
                break
            self._layer(layer, at)
        if self.codes is None:
            raise NotInteger("no layer holds the region's codes")
        if self.program.output not in self.values:
            assert isinstance(last, Affine)
            return self._real(last)
        v = self.values[self.program.output]
        k = v.k[[self.output]]
        return IntegerOutput(self.m, k, np.ones(1, np.int64), -v.zero, float(v.unit[self.output]), 0.0, 0.0, self.codes)

    def _needed(self) -> dict[int, Flags]:
        """Which entries of each value the output depends on; all of the region's."""
        sizes: dict[int, int] = {}
        for layer in self.program.layers:
            sizes[layer.output] = self._size(layer)
        sizes[ROOT] = self.program.box.lo.size
        out = {self.program.output: np.arange(sizes[self.program.output]) == self.output}
        for layer in reversed(self.program.layers):
            if layer.output not in out:
                continue
            seen = out[layer.output]
            for i, reads in zip(layer.inputs, _depends(layer, seen, sizes[layer.inputs[0]]), strict=True):
                out[i] = out[i] | reads if i in out else reads
        return out

    def _layer(self, layer: Layer, at: I64) -> None:
        if isinstance(layer, Affine) and layer.fixed_codes is not None:
            self._region(layer)
            return
        if layer.inputs == (ROOT,):  # floats, which the model quantizes next
            return
        if isinstance(layer, MaxPool):
            self._max_pool(layer, at)
            return
        if isinstance(layer, Affine) and layer.grid is None:
            self._scaled(layer)
            return
        k = np.full(self._size(layer), -1, np.int64)
        if isinstance(layer, Affine) and layer.codes_of_accumulator is not None and layer.accumulator_unit is not None:
            acc = self._accumulators(layer, at, layer.accumulator_unit)
            k[at] = self._stairs(layer, acc, at, layer.codes_of_accumulator)
        elif isinstance(layer, Affine) and layer.codes_of_inputs is not None and _each(layer):
            entries = layer.codes_of_inputs
            k[at] = self._stairs(layer, self._value(layer.inputs[0]).k[at], at, lambda c: entries([c]))
        else:
            k[at] = self._executed(layer, at)
        for lo, hi in (self.known[layer.output],) if layer.output in self.known else ():
            for v, least, most in zip(k[at].tolist(), lo[at].tolist(), hi[at].tolist(), strict=True):
                self.m.lo[v], self.m.hi[v] = max(self.m.lo[v], least), min(self.m.hi[v], most)
        self.values[layer.output] = _Value(k, *self._grid(layer))

    def _size(self, layer: Layer) -> int:
        if isinstance(layer, MaxPool):
            return len(layer.index)
        if isinstance(layer, Affine):
            return layer.m
        if layer.output >= len(self.task.pair.values):
            raise NotInteger(f"{layer.label} is not linear")
        return self.task.pair.tensors(layer.output)[1].size

    def _grid(self, layer: Layer) -> tuple[int, F64]:
        """Zero point and units of a layer of codes."""
        if isinstance(layer, Affine):
            assert layer.grid is not None
            return layer.grid.zero, np.full(layer.m, layer.grid.unit)
        t = self.task.pair.tensors(layer.output)[1]
        return t.q.z, np.full(t.size, t.q.s)

    def _executed(self, layer: Layer, at: I64) -> I64:
        """Codes of an operator whose kernel reads one code, the sum of some, or two."""
        kernel = Kernel.of(self.task.pair, layer.output, self.task.runtime)
        if kernel is None or max(layer.inputs) >= len(self.task.pair.values):  # a part of an operator
            raise NotInteger(f"{layer.label} has no exact kernel of codes")
        sources = [self._value(i) for i in layer.inputs]
        reads = _reads_of(layer, kernel, at)
        try:
            if all(len(r) <= 1 for r in reads):
                return self._of_one(kernel, sources, reads, at)
            if kernel.sums:
                return self._of_sums(kernel, sources[0], reads, at)
            if all([i for i, _, _ in r] == [0, 1] for r in reads):
                return self._of_two(kernel, sources, reads, at)
        except TooMuchError:
            raise NotInteger(f"{layer.label} reads too many codes to try them all") from None
        raise NotInteger(f"{layer.label} has no exact kernel of one accumulator")

    def _of_one(self, kernel: Kernel, sources: Sequence[_Value], reads: Sequence[_Read], at: I64) -> I64:
        """Outputs that each read one code, or none."""
        read = [int(sources[r[0][0]].k[r[0][1]]) if r else -1 for r in reads]
        some = [v for v in read if v >= 0]
        lo, hi = min((self.m.lo[v] for v in some), default=0), max((self.m.hi[v] for v in some), default=0)
        table = kernel.of_one(lo, hi, at)
        out: list[int] = []
        for j, v in enumerate(read):
            x = np.arange(lo, hi + 1) if v < 0 else np.arange(self.m.lo[v], self.m.hi[v] + 1)
            y = table[x - lo, j]
            if v < 0 and (y != y[0]).any():
                raise NotInteger("a kernel reads more than its layer")
            out.append(self.m.function(v, x, y))
        return np.asarray(out, dtype=np.int64)

    def _of_sums(self, kernel: Kernel, source: _Value, reads: Sequence[_Read], at: I64) -> I64:
        """Outputs that each are a function of the sum of some codes."""
        out: list[int] = []
        for r, output in zip(reads, at.tolist(), strict=True):
            entries = np.asarray([i for _, i, _ in r], dtype=np.int64)
            total = self.m.total(source.k[entries], np.ones(entries.size, np.int64))
            lo, hi = self.m.lo[total], self.m.hi[total]
            out.append(self.m.function(total, np.arange(lo, hi + 1), kernel.of_sum(entries, (lo, hi), output, at.size)))
        return np.asarray(out, dtype=np.int64)

    def _of_two(self, kernel: Kernel, sources: Sequence[_Value], reads: Sequence[_Read], at: I64) -> I64:
        """Outputs that each are a function of two codes: a staircase of an integer combination, or a table."""
        pairs = [[(int(sources[i].k[e]), w * float(sources[i].unit[e])) for i, e, w in r] for r in reads]
        boxes = tuple((min(self.m.lo[p[s][0]] for p in pairs), max(self.m.hi[p[s][0]] for p in pairs)) for s in (0, 1))
        x, y, values = kernel.of_two((boxes[0], boxes[1]), at)
        out: list[int] = []
        for j, ((v, a), (w, b)) in enumerate(pairs):
            inside = (x >= self.m.lo[v]) & (x <= self.m.hi[v]) & (y >= self.m.lo[w]) & (y <= self.m.hi[w])
            args, z = (x[inside], y[inside]), values[inside, j]
            found = plane((a, b), args, z)
            if found is None:
                k = self.m.variable(int(z.min()), int(z.max()))
                self.m.listed([v, w, k], np.stack([*args, z], axis=1))
            else:
                weights, steps = found
                k = self.m.stair(self.m.total(np.asarray([v, w]), np.asarray(weights)), steps)
            out.append(k)
        return np.asarray(out, dtype=np.int64)

    def _value(self, i: int) -> _Value:
        if i not in self.values:
            raise NotInteger("the quantized network reads inputs that are not codes")
        return self.values[i]

    def _region(self, layer: Affine) -> None:
        assert layer.fixed_codes is not None and layer.grid is not None
        lo, hi = layer.fixed_codes
        if self.codes is not None or lo.size != self.program.box.lo.size:
            raise NotInteger("the region's codes are read in several parts")
        self.codes = self.m.variables(lo, hi)
        self.values[layer.output] = _Value(self.codes, layer.grid.zero, np.full(lo.size, layer.grid.unit))

    def _scaled(self, layer: Affine) -> None:
        """A change of units."""
        q = layer.q[0]
        rounded = layer.below.any() or layer.above.any() or layer.bq.any() or layer.quantized_noise is not None
        if len(layer.q) != 1 or not isinstance(q, Scale) or rounded or layer.quantized_range != (-np.inf, np.inf):
            raise NotInteger(f"{layer.label} is computed in real numbers")
        v = self._value(layer.inputs[0])
        self.values[layer.output] = _Value(v.k, v.zero, v.unit * q.factor)

    def _max_pool(self, layer: MaxPool, at: I64) -> None:
        v = self._value(layer.inputs[0])
        k = np.full(len(layer.index), -1, np.int64)
        for j in at.tolist():
            read = [int(v.k[i]) for i in layer.index[j].tolist() if i >= 0]
            k[j] = self.m.variable(max(self.m.lo[i] for i in read), max(self.m.hi[i] for i in read))
            self.m.extreme(int(k[j]), read)
        self.values[layer.output] = _Value(k, v.zero, np.full(k.size, v.unit[0]))

    def _terms(self, layer: Affine, at: I64, unit: F64) -> list[tuple[I64, I64, int]]:
        """Every pre-activation in ``at`` as ``unit * (sum a_i x_i + offset)``: its ``(x, a, offset)``."""
        rows = [m.pick(at) for m in layer.q]
        if sum(r.size for r in rows) > MAX_WEIGHTS:
            raise NotInteger(f"{layer.label} has more than {MAX_WEIGHTS} weights")
        bias = _integers(layer.bq[at] / unit[at], layer)
        out: list[tuple[I64, I64, int]] = []
        sources = [self._value(i) for i in layer.inputs]
        whole = [_integers(r * v.unit[None] / unit[at][:, None], layer) for r, v in zip(rows, sources, strict=True)]
        for j in range(at.size):
            parts = [
                (v.k[np.flatnonzero(w[j])], w[j][np.flatnonzero(w[j])]) for v, w in zip(sources, whole, strict=True)
            ]
            shift = sum(int(a.sum()) * v.zero for (_, a), v in zip(parts, sources, strict=True))
            x, a = (np.concatenate([p[side] for p in parts]) for side in (0, 1))
            out.append((x, a, int(bias[j]) - shift))
        return out

    def _accumulators(self, layer: Affine, at: I64, unit: F64) -> I64:
        """A variable for each accumulator in ``at``."""
        out: list[int] = []
        for x, a, offset in self._terms(layer, at, unit):
            acc = self.m.total(x, a, offset)
            if max(abs(self.m.lo[acc]), abs(self.m.hi[acc])) > MAX_REACH:
                raise NotInteger(f"accumulators of {layer.label} are beyond 2**40")
            out.append(acc)
        return np.asarray(out, dtype=np.int64)

    def _stairs(self, layer: Affine, acc: I64, at: I64, kernel: Callable[[I64], I64]) -> I64:
        """Variables of the codes ``kernel(accumulators)`` of the neurons in ``at``."""
        bounds = np.asarray([(self.m.lo[a], self.m.hi[a]) for a in acc.tolist()], dtype=np.int64).reshape(-1, 2)
        lo, hi = bounds.T

        def codes(v: I64) -> I64:
            full = np.zeros(layer.m, np.int64)
            full[at] = v
            return kernel(full)[at]

        k_lo, k_hi = codes(lo), codes(hi)
        first = firsts(codes, lo, hi, k_lo, int((k_hi - k_lo).max(initial=0)))
        out: list[int] = []
        for j, v in enumerate(acc.tolist()):
            out.append(self.m.stair(v, Steps.of_firsts(int(k_lo[j]), first[: int(k_hi[j] - k_lo[j]), j])))
        return np.asarray(out, dtype=np.int64)

    def _real(self, layer: Affine) -> IntegerOutput:
        """The last layer where it is not rounded to codes."""
        if layer.quantized_range != (-np.inf, np.inf):
            raise NotInteger(f"{layer.label} is clamped in real numbers")
        if layer.quantized_noise is not None:
            raise NotInteger(f"{layer.label} is computed in real numbers")
        at = np.asarray([self.output])
        unit = np.full(layer.m, self._common_unit(layer))
        ((x, a, offset),) = self._terms(layer, at, unit)
        below, above = float(layer.below[self.output]), float(layer.above[self.output])
        assert self.codes is not None
        rising = not (below or above) or _each(layer)  # one code's own rounding never turns two values around
        return IntegerOutput(self.m, x, a, offset, float(unit[0]), below, above, self.codes, rising)

    def _common_unit(self, layer: Affine) -> float:
        """A unit that all terms are multiples of: a power of two, or an input's own where it is scaled."""
        if len(layer.q) == 1 and isinstance(layer.q[0], Scale) and not layer.bq[self.output]:
            return float(self._value(layer.inputs[0]).unit[self.output]) * layer.q[0].factor
        numbers = [Fraction(float(layer.bq[self.output]))]
        for m, i in zip(layer.q, layer.inputs, strict=True):
            (row,) = m.pick(np.asarray([self.output]))
            numbers += [Fraction(float(w)) * Fraction(float(u)) for w, u in zip(row, self._value(i).unit, strict=True)]
        return 1.0 / max(n.denominator for n in numbers)


def _integers(v: F64, layer: Affine) -> I64:
    whole = np.rint(v)
    if not np.isfinite(v).all() or np.abs(whole).max(initial=0.0) > cpsat.MAX_ACTIVITY:
        raise NotInteger(f"{layer.label} has weights that are no small integers")
    if (np.abs(v - whole) > EXACT * (1.0 + np.abs(whole) * EXACT)).any():
        raise NotInteger(f"weights of {layer.label} are no multiples of one unit")
    return whole.astype(np.int64)


def _each(layer: Affine) -> bool:
    return len(layer.inputs) == 1 and isinstance(layer.q[0], Scale)


def _reads_of(layer: Layer, kernel: Kernel, at: I64) -> list[_Read]:
    """What each output in ``at`` reads."""
    if kernel.entrywise:
        return [[(0, j, 1.0)] for j in at.tolist()]
    if not isinstance(layer, Affine):
        raise NotInteger(f"{layer.label} is not linear")
    out: list[_Read] = [[] for _ in range(at.size)]
    for i, m in enumerate(layer.q):
        rows = m.pick(at)
        for j, e in zip(*np.nonzero(rows), strict=True):
            out[j].append((i, int(e), float(rows[j, e])))
    return out


def _depends(layer: Layer, seen: Flags, size: int) -> list[Flags]:
    """Which entries of each input those of the output depend on."""
    if isinstance(layer, MaxPool):
        out = np.zeros(size, bool)
        used = layer.index[seen]
        out[used[used >= 0]] = True
        return [out]
    if not isinstance(layer, Affine):  # functions of one entry, or there is no program
        return [seen if seen.size == size else np.ones(size, bool) for _ in layer.inputs]
    return [m.absolute.back(seen[None].astype(np.float64))[0] > 0 for m in layer.q]
