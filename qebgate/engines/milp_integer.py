"""The quantized network alone, in exact integers: the largest or smallest value of one of its outputs.

Unlike the mixed-integer program of the gap this is no relaxation.  Accumulators are integer sums of codes, and every
requantization is a staircase: the codes of a monotone kernel, evaluated at the accumulators that can occur.  A
staircase of one rounding is two rows, ``0 <= A acc - C k - D < C``, found from its own steps and checked on all of
them; any other one is a 0-1 variable for each step.  CP-SAT maximises (:mod:`qebgate.milp.cpsat`).

What follows for the gap is :func:`gap_bound`: no gap is above the largest quantized output minus the smallest float
output.  That is exact where the float side is constant, and useless where both move together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import I64
from qebgate.domains.layers import ROOT, Affine, Layer, MaxPool
from qebgate.domains.linear_map import LinearMap, Scale
from qebgate.engines.dra.program import Program, program
from qebgate.milp import cpsat
from qebgate.milp.cpsat import IntegerModel, IntegerResult
from qebgate.numerics.rounding import F64, up
from qebgate.task import Task

Flags = NDArray[np.bool_]
Codes = Mapping[int, tuple[I64, I64]]
"""Proven bounds of the codes of some values."""

FEW_STEPS = 3
"""Staircases of so few steps are written step by step."""
MAX_STEPS = 20_000
"""Steps written one by one, in a whole program."""
MAX_WEIGHTS = 1_000_000
MAX_REACH = 1 << 40
EXACT = 2.0**-20
"""How near to integers quotients of weights by their unit must be: they are integers up to two roundings."""


class NotInteger(Exception):  # noqa: N818  (ends the encoding, is no error)
    """Why a network, or a region, has no integer program here."""


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


@dataclass(frozen=True, slots=True, eq=False)
class Maximum:
    """The outcome for one output and sign: ``sign * quantized output <= bound`` for every input of the region.

    ``bound`` is None where nothing was shown, and ``result.trouble`` says why.  ``best`` is the value at ``codes``
    (the input codes, flattened), which is exact: both None without a solution.  ``exact``: best is the maximum.
    """

    bound: float | None
    best: float | None
    codes: I64 | None
    exact: bool
    result: IntegerResult


def integer_maximum(
    task: Task, output: int, sign: int = 1, *, work: float = 60.0, seconds: float = 60.0, seed: int = 0
) -> Maximum:
    """Largest value (smallest, negated, for ``sign`` -1) of one quantized output over the task's grid region.

    ``output`` is a position of the flattened output, ``work`` a limit in CP-SAT's deterministic seconds and ``seconds``
    a guard of the wall clock.  Real units; exact in the task's runtime.  Where the region or the network has no exact
    integer program, ``bound`` is None.
    """
    try:
        e = encode(task, program(task), output)
    except NotInteger as why:
        return Maximum(None, None, None, False, IntegerResult("refused", None, None, None, str(why), 0.0))
    return solve(e, sign, work=work, seconds=seconds, seed=seed)


def solve(e: IntegerOutput, sign: int, *, work: float, seconds: float, seed: int = 0) -> Maximum:
    """As :func:`integer_maximum`, of a network that is encoded already."""
    r = cpsat.maximize(e.model, (e.variables, sign * e.weights), work=work, seconds=seconds, seed=seed)
    if r.bound is None or r.best is None or r.x is None:
        return Maximum(None, None, None, False, r)
    slack = e.above if sign > 0 else e.below
    # exact products below 2**53, then at most one rounding each
    bound = float(up(up((r.bound + sign * e.offset) * e.unit) + slack))
    best = (r.best + sign * e.offset) * e.unit
    return Maximum(bound, best, r.x[e.codes], r.ending == "optimal" and r.best == r.bound, r)


def gap_bound(largest: Maximum, float_lower: float) -> float | None:
    """An upper bound of ``sign * gap`` from that of ``sign * quantized`` and the least ``sign * float``."""
    return None if largest.bound is None else float(up(largest.bound - float_lower))


def encode(task: Task, p: Program, output: int, known: Codes | None = None) -> IntegerOutput:
    """The integer program of one output, tightened by ``known``.  Raises NotInteger where there is none."""
    if task.cell.codes is None or task.cell.line is not None:
        raise NotInteger("the region is not a box of input codes")
    if len(task.runtime.members) > 1:
        raise NotInteger("several runtimes at once have no one kernel")
    return _Encoder(p, output, known or {}).run()


@dataclass
class _Encoder:
    program: Program
    output: int
    known: Codes
    m: IntegerModel = field(default_factory=IntegerModel)
    values: dict[int, _Value] = field(default_factory=dict[int, _Value])
    codes: I64 | None = None
    steps: int = 0

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
        sizes = {layer.output: _size(layer) for layer in self.program.layers}
        sizes[ROOT] = self.program.box.lo.size
        out = {self.program.output: np.arange(sizes[self.program.output]) == self.output}
        for layer in reversed(self.program.layers):
            if layer.output not in out:
                continue
            seen = out[layer.output]
            for i, reads in zip(layer.inputs, _reads(layer, seen, sizes[layer.inputs[0]]), strict=True):
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
        if not isinstance(layer, Affine):
            raise NotInteger(f"{layer.label} is not linear")
        if layer.grid is None:
            self._scaled(layer)
            return
        if layer.codes_of_accumulator is not None and layer.accumulator_unit is not None:
            acc, kernel = self._accumulators(layer, at, layer.accumulator_unit), layer.codes_of_accumulator
        elif layer.codes_of_inputs is not None and len(layer.inputs) == 1 and _each(layer.q[0]):
            source, entries = self._value(layer.inputs[0]), layer.codes_of_inputs
            acc, kernel = source.k[at], lambda c: entries([c])
        else:
            raise NotInteger(f"{layer.label} has no exact kernel of one accumulator")
        k = np.full(layer.m, -1, np.int64)
        k[at] = self._stairs(layer, acc, at, kernel)
        for lo, hi in (self.known[layer.output],) if layer.output in self.known else ():
            for v, least, most in zip(k[at].tolist(), lo[at].tolist(), hi[at].tolist(), strict=True):
                self.m.lo[v], self.m.hi[v] = max(self.m.lo[v], least), min(self.m.hi[v], most)
        self.values[layer.output] = _Value(k, layer.grid.zero, np.full(layer.m, layer.grid.unit))

    def _value(self, i: int) -> _Value:
        if i not in self.values:
            raise NotInteger("the quantized network reads inputs that are not codes")
        return self.values[i]

    def _region(self, layer: Affine) -> None:
        assert layer.fixed_codes is not None and layer.grid is not None
        lo, hi = layer.fixed_codes
        self.codes = self.m.variables(lo, hi)
        self.values[layer.output] = _Value(self.codes, layer.grid.zero, np.full(lo.size, layer.grid.unit))

    def _scaled(self, layer: Affine) -> None:
        """A change of units."""
        q = layer.q[0]
        rounded = layer.below.any() or layer.above.any() or layer.bq.any()
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
            lo, hi = self.m.range(x, a)
            acc = self.m.variable(lo + offset, hi + offset)
            if max(abs(lo + offset), abs(hi + offset)) > MAX_REACH:
                raise NotInteger(f"accumulators of {layer.label} are beyond 2**40")
            self.m.row(np.append(x, acc), np.append(a, -1), -offset, -offset)
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
        firsts = _first(codes, lo, hi, k_lo, int((k_hi - k_lo).max(initial=0)))
        out: list[int] = []
        for j, v in enumerate(acc.tolist()):
            out.append(self._stair(v, int(k_lo[j]), firsts[: int(k_hi[j] - k_lo[j]), j]))
        return np.asarray(out, dtype=np.int64)

    def _stair(self, acc: int, low: int, first: I64) -> int:
        """``low`` and one more for each entry of ``first`` that is not above ``acc``."""
        line = straight(first) if first.size > FEW_STEPS else None
        if line is not None:
            a, c, d = line  # step j is at the first acc with a * acc >= c * j + d, j from 0
            least, most = ((a * b - d) // c + 1 for b in (self.m.lo[acc], self.m.hi[acc]))
            t = self.m.variable(low + least, low + most)
            # 0 <= a acc - d - c (t - low - 1) <= c - 1
            side = d - c * (low + 1)
            self.m.row(np.asarray([acc, t]), np.asarray([a, -c]), side, side + c - 1)
            return self.m.clamp(t, low, low + first.size)
        self.steps += first.size
        if self.steps > MAX_STEPS:
            raise NotInteger(f"more than {MAX_STEPS} steps of staircases")
        k = self.m.variable(low, low + first.size)
        b = self.m.variables(np.zeros(first.size, np.int64), np.ones(first.size, np.int64))
        self.m.row(np.append(b, k), np.append(np.ones(first.size, np.int64), -1), -low, -low)
        for v, at in zip(b.tolist(), first.tolist(), strict=True):
            one = np.ones(1, np.int64)
            self.m.row(np.asarray([acc]), one, at, self.m.hi[acc], v, value=True)
            self.m.row(np.asarray([acc]), one, self.m.lo[acc], at - 1, v, value=False)
        return k

    def _real(self, layer: Affine) -> IntegerOutput:
        """The last layer where it is not rounded to codes."""
        if layer.quantized_range != (-np.inf, np.inf):
            raise NotInteger(f"{layer.label} is clamped in real numbers")
        at = np.asarray([self.output])
        unit = np.full(layer.m, self._common_unit(layer))
        ((x, a, offset),) = self._terms(layer, at, unit)
        below, above = float(layer.below[self.output]), float(layer.above[self.output])
        assert self.codes is not None
        return IntegerOutput(self.m, x, a, offset, float(unit[0]), below, above, self.codes)

    def _common_unit(self, layer: Affine) -> float:
        """A unit that all terms are multiples of: a power of two, or an input's own where it is scaled."""
        if len(layer.q) == 1 and isinstance(layer.q[0], Scale) and not layer.bq[self.output]:
            return float(self._value(layer.inputs[0]).unit[self.output]) * layer.q[0].factor
        numbers = [Fraction(float(layer.bq[self.output]))]
        for m, i in zip(layer.q, layer.inputs, strict=True):
            (row,) = m.pick(np.asarray([self.output]))
            numbers += [Fraction(float(w)) * Fraction(float(u)) for w, u in zip(row, self._value(i).unit, strict=True)]
        return 1.0 / max(n.denominator for n in numbers)


def straight(first: I64) -> tuple[int, int, int] | None:
    """``(A, C, D)`` such that step j begins at the first accumulator with ``A acc >= C j + D``; None if there are none.

    That is ``A (first - 1) < C j + D <= A first`` for all steps: their slopes ``C / A`` form an interval.  Its simplest
    fraction is taken, and whatever comes out is checked on every step.
    """
    n = first.size
    j = np.arange(n, dtype=np.int64)
    steps, gaps = j[None] - j[:, None], first[None] - first[:, None]
    above = steps > 0
    steps, gaps = steps[above], gaps[above]
    # these quotients are equal or differ by more than float64's rounding
    least, most = int(((gaps - 1) / steps).argmax()), int(((gaps + 1) / steps).argmin())
    low = Fraction(max(int(gaps[least]) - 1, 0), int(steps[least]))
    high = Fraction(int(gaps[most]) + 1, int(steps[most]))
    if low >= high:
        return None
    slope = simplest(low, high)
    c, a = slope.numerator, slope.denominator
    if max(a, c) > cpsat.MAX_COEFFICIENT or c == 0:
        return None
    ends = [(a * int(t) - c * k, a * (int(t) - 1) - c * k) for k, t in enumerate(first.tolist())]
    d = min(e for e, _ in ends)
    return (a, c, d) if max(e for _, e in ends) < d else None


def simplest(low: Fraction, high: Fraction) -> Fraction:
    """The fraction of smallest denominator strictly between two others (Stern and Brocot)."""
    whole = low.numerator // low.denominator
    if whole + 1 < high:
        return Fraction(whole + 1)
    low, high = low - whole, high - whole  # 0 <= low < high <= 1
    if low == 0:
        return whole + Fraction(1, (high.denominator // high.numerator) + 1)
    return whole + 1 / simplest(1 / high, 1 / low)


def _first(codes: Callable[[I64], I64], lo: I64, hi: I64, base: I64, steps: int) -> I64:
    """``[steps, n]``: the first accumulator at which each code beyond ``base`` is reached (bisection, all at once)."""
    out = np.empty((steps, lo.size), np.int64)
    start = lo
    for k in range(steps):
        low, high = start.copy(), hi.copy()  # codes(high) >= base + k + 1, or the step is never reached
        while (low < high).any():
            middle = low + (high - low) // 2
            reached = codes(middle) > base + k
            low, high = np.where(reached, low, np.minimum(middle + 1, high)), np.where(reached, middle, high)
        out[k] = start = high
    return out


def _integers(v: F64, layer: Affine) -> I64:
    whole = np.rint(v)
    if not np.isfinite(v).all() or np.abs(whole).max(initial=0.0) > cpsat.MAX_ACTIVITY:
        raise NotInteger(f"{layer.label} has weights that are no small integers")
    if (np.abs(v - whole) > EXACT * (1.0 + np.abs(whole) * EXACT)).any():
        raise NotInteger(f"weights of {layer.label} are no multiples of one unit")
    return whole.astype(np.int64)


def _each(m: LinearMap) -> bool:
    return isinstance(m, Scale)


def _size(layer: Layer) -> int:
    if isinstance(layer, Affine):
        return layer.m
    if isinstance(layer, MaxPool):
        return len(layer.index)
    raise NotInteger(f"{layer.label} is not linear")


def _reads(layer: Layer, seen: Flags, size: int) -> list[Flags]:
    """Which entries of each input those of the output depend on."""
    if isinstance(layer, MaxPool):
        out = np.zeros(size, bool)
        used = layer.index[seen]
        out[used[used >= 0]] = True
        return [out]
    assert isinstance(layer, Affine)
    return [m.absolute.back(seen[None].astype(np.float64))[0] > 0 for m in layer.q]
