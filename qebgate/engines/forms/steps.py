"""Layers restricted to entries that move, as functions of forms over cells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qebgate.domains.gap import I64, Gap, Interval
from qebgate.domains.layers import ROOT, Affine, MaxPool
from qebgate.engines.dra.forward import affine_intervals, codes_of
from qebgate.engines.forms.form import Form, Values, constant, image
from qebgate.engines.forms.matrices import Index, Matrix, absolute, columns, held, reached
from qebgate.engines.forms.neurons import Clamps, Pre, activate
from qebgate.engines.forms.windows import Entries, largest
from qebgate.engines.staircase import Staircase
from qebgate.numerics.rounding import F64, TINY32

_STAIRS = 1 << 24
"""Entries of requantized accumulators that may be spent on finding one layer's steps."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Boxes of the free inputs: real bounds ``[B, k]``, and codes where the region is on the grid."""

    lo: F64
    hi: F64
    codes: tuple[I64, I64] | None

    def __len__(self) -> int:
        return len(self.lo)


@dataclass(frozen=True, slots=True, eq=False)
class Fact:
    """One value over the whole region: intervals of all n entries, and which k of them are live."""

    gap: Gap
    live: Index


class Step(ABC):
    """One layer's live outputs from its inputs' live entries."""

    def __init__(self, output: int, inputs: tuple[int, ...]) -> None:
        self.output, self.inputs = output, inputs
        self.live = np.empty(0, np.intp)
        """Outputs that are computed."""

    @abstractmethod
    def run(self, inputs: Sequence[Values], cells: Cells, symbols: int, total: int) -> tuple[Values, int]: ...


class AffineStep(Step):
    """A layer of sums, restricted."""

    def __init__(self, layer: Affine, facts: dict[int, Fact], out: Gap, live: Index | None = None) -> None:
        known = [facts[i] for i in layer.inputs]
        moving = [n for n, f in enumerate(known) if f.live.size]
        super().__init__(layer.output, tuple(layer.inputs[n] for n in moving))
        parts = [tuple(columns(m, known[n].live) for m in (layer.f[n], layer.q[n], layer.d[n])) for n in moving]
        self.live = reached([w for p in parts for w in p]) if live is None else live
        self._weights: list[tuple[tuple[Matrix, Matrix], ...]] = []
        for p in parts:
            ws = [held(w, self.live) for w in p]
            self._weights.append(tuple((w, absolute(w)) for w in ws))
        # what does not move: the same sums without the live entries
        pre = affine_intervals(replace(layer, noise=None), [_without(f) for f in known])
        self._bias = [Interval(x.lo[self.live], x.hi[self.live]) for x in (pre.z, pre.q, pre.d)]
        if layer.noise is not None:
            noise = layer.noise([f.gap.float for f in known])[self.live]
            self._bias[0], self._bias[2] = (self._bias[n].widened(noise, noise) for n in (0, 2))
        self.terms = layer.terms
        self.z: Interval | None = None
        """Pre-activations ``[B, k]`` of the last run."""
        self.float_range = layer.float_range
        self._small = _restricted(layer, self.live, known, moving, None if live is None else out)
        aq, bq = layer.grid.range if layer.grid is not None else layer.quantized_range
        self._clamps = Clamps(*layer.float_range, aq, bq, self._small.below, self._small.above)
        self._on_input = layer.inputs == (ROOT,) and layer.fixed_codes is not None
        if self._on_input:
            place = {int(i): n for n, i in enumerate(facts[ROOT].live)}
            self._codes = np.array([place[int(i)] for i in self.live], np.intp)

    @property
    def float_bias(self) -> Interval:
        """What does not move of z, ``[m]``."""
        return self._bias[0]

    def float_weights(self, n: int) -> tuple[Matrix, Matrix]:
        """The float side's matrix from one moving input, and its absolute values."""
        return self._weights[n][0]

    def sums(self, inputs: Sequence[Values]) -> tuple[tuple[Form, Form, Form], tuple[Interval, Interval, Interval]]:
        """Forms and bounds of z, zq and D."""
        zs, qs, ds = [], [], []
        for x, ((wf, af), (wq, aq), (wd, ad)) in zip(inputs, self._weights, strict=True):
            zs.append((x.f, x.gap.float, wf, af))
            qs.append((x.q, x.gap.quantized, wq, aq))
            ds += [(x.d, x.gap.delta, wq, aq), (x.f, x.gap.float, wd, ad)]
        images = [image(t, b, self.terms) for t, b in zip((zs, qs, ds), self._bias, strict=True)]
        z, q, d = (i.interval.meet(i.form.interval()) for i in images)
        d = d.meet(q.minus(z))
        q = q.meet(z.plus(d))
        z = z.meet(q.minus(d))
        return (images[0].form, images[1].form, images[2].form), (z, q, d)

    def run(self, inputs: Sequence[Values], cells: Cells, symbols: int, total: int) -> tuple[Values, int]:
        forms, (z, q, d) = self.sums(inputs)
        self.z = z
        layer = self._small
        if self._on_input and cells.codes is not None:
            layer = replace(layer, fixed_codes=(cells.codes[0][:, self._codes], cells.codes[1][:, self._codes]))
        if layer.grid is not None:
            codes = codes_of(layer, layer.grid, q, [x.gap for x in inputs])
            out = layer.grid.real(codes)
        else:
            codes = None
            out = q.widened(layer.below, layer.above).clamp(self._clamps.aq, self._clamps.bq)
        return activate(Pre(forms, z, q, d, out, codes), self._clamps, symbols, total)


def _without(f: Fact) -> Gap:
    """A value whose live entries are zero."""

    def zeroed(x: Interval) -> Interval:
        lo, hi = x.lo.copy(), x.hi.copy()
        lo[f.live] = hi[f.live] = 0.0
        return Interval(lo, hi)

    return Gap(zeroed(f.gap.float), zeroed(f.gap.quantized), zeroed(f.gap.delta), f.gap.codes)


def _restricted(layer: Affine, live: Index, known: Sequence[Fact], moving: Sequence[int], out: Gap | None) -> Affine:
    """The layer's rounding for its live outputs, taking arrays ``[B, k]``; ``out`` is given where many cells follow."""
    unit = None if layer.accumulator_unit is None else layer.accumulator_unit[live]
    accumulators = None
    if layer.codes_of_accumulator is not None and layer.accumulator_unit is not None:
        exact = _rowwise(layer.codes_of_accumulator, live, layer.m)
        accumulators = lambda acc: exact(acc, np.arange(live.size))  # noqa: E731
        if out is not None and out.codes is not None:
            accumulators = _stairs(layer, exact, live, known, out.codes)
    by_inputs = None
    if layer.codes_of_inputs is not None and all(f.gap.codes is not None for f in known):
        by_inputs = _embedded(layer.codes_of_inputs, live, known, moving)
    return replace(
        layer, below=layer.below[live], above=layer.above[live], accumulator_unit=unit,
        codes_of_accumulator=accumulators, codes_of_inputs=by_inputs, codes_between=None, fixed_codes=None,
    )  # fmt: skip


def _rowwise(kernel: Callable[[I64], I64], live: Index, m: int) -> Callable[[I64, Index], I64]:
    """The kernel's requantization of accumulators ``[..., c]`` of some live outputs."""

    def exact(g: I64, c: Index) -> I64:
        rows = g.reshape(-1, c.size)
        found = np.empty_like(rows)
        given = np.zeros(m, np.int64)
        for k, row in enumerate(rows):
            given[live[c]] = row
            found[k] = kernel(given)[live[c]]
        return found.reshape(g.shape)

    return exact


def _stairs(
    layer: Affine, exact: Callable[[I64, Index], I64], live: Index, known: Sequence[Fact], codes: tuple[I64, I64]
) -> Callable[[I64], I64] | None:
    """The same over the region's accumulators, in few operations (see :class:`Staircase`)."""
    unit, grid = layer.accumulator_unit, layer.grid
    assert unit is not None and grid is not None
    q = affine_intervals(replace(layer, noise=None), [f.gap for f in known]).q
    lo, hi = (np.round(np.clip(v / unit, -(2.0**31) + 2, 2.0**31 - 2)).astype(np.int64)[live] for v in (q.lo, q.hi))
    lo, hi = lo - 1, hi + 1
    steps = int((codes[1][live] - codes[0][live]).max(initial=0)) + 1
    if 40 * steps * layer.m > _STAIRS:
        return None
    stairs = Staircase(exact, lo, hi, (unit / grid.unit)[live], np.float64)

    def run(acc: I64) -> I64:
        # accumulators of the region are in this range, and bounds of them may be cut down to it
        g = np.clip(acc, lo, hi).astype(np.float64)
        stairs.apply(g)
        return g.astype(np.int64)

    return run


def _embedded(
    kernel: Callable[[Sequence[I64]], I64], live: Index, known: Sequence[Fact], moving: Sequence[int]
) -> Callable[[Sequence[I64]], I64] | None:
    """A kernel on whole tensors, for live entries ``[B, k]`` of the moving inputs; run cell by cell.

    None where a code that does not move is not known.
    """
    bounds = [f.gap.codes for f in known]
    rest = [np.delete(np.arange(f.gap.size), f.live) for f in known]
    fixed = all(b is not None and (b[0][r] == b[1][r]).all() for b, r in zip(bounds, rest, strict=True))

    def run(codes: Sequence[I64]) -> I64:
        rows: list[I64] = []
        for cell in range(len(codes[0])):
            full = [b[0].copy() for b in bounds if b is not None]
            for n, c in zip(moving, codes, strict=True):
                full[n][known[n].live] = c[cell]
            rows.append(kernel(full)[live])
        return np.stack(rows)

    return run if fixed else None


class PoolStep(Step):
    """A max pool, restricted: windows with a live entry."""

    def __init__(self, layer: MaxPool, facts: dict[int, Fact], live: Index | None = None) -> None:
        super().__init__(layer.output, layer.inputs)
        fact = facts[layer.inputs[0]]
        place = np.full(fact.gap.size + 1, -1)
        place[fact.live] = np.arange(fact.live.size)
        moving = (place[layer.index] >= 0) & (layer.index >= 0)
        self.live = np.flatnonzero(moving.any(axis=1)) if live is None else live
        index = layer.index[self.live]
        # constants that a window of live entries also sees come behind the live entries
        rest = np.unique(index[(index >= 0) & (place[index] < 0)])
        place[rest] = fact.live.size + np.arange(rest.size)
        self.index = np.where(index < 0, -1, place[index]).astype(np.intp)
        whole = fact.gap
        take = lambda x: Interval(x.lo[None, rest], x.hi[None, rest])  # noqa: E731
        codes = None if whole.codes is None else (whole.codes[0][None, rest], whole.codes[1][None, rest])
        self._rest = Gap(take(whole.float), take(whole.quantized), take(whole.delta), codes)

    @property
    def float_rest(self) -> Interval:
        """Constants that windows see behind the live entries, ``[1, k]``."""
        return self._rest.float

    def run(self, inputs: Sequence[Values], cells: Cells, symbols: int, total: int) -> tuple[Values, int]:
        (x,) = inputs
        return largest(Entries(x, self._rest), self.index, TINY32), total


class OpaqueStep(Step):
    """A layer bounded by intervals, cell by cell."""

    def __init__(
        self, output: int, inputs: tuple[int, ...], facts: dict[int, Fact], transform: Callable[[Sequence[Gap]], Gap]
    ) -> None:
        super().__init__(output, tuple(i for i in inputs if facts[i].live.size))
        self._known = [facts[i] for i in inputs]
        self._transform = transform
        self.live = np.arange(transform([f.gap for f in self._known]).size)

    def run(self, inputs: Sequence[Values], cells: Cells, symbols: int, total: int) -> tuple[Values, int]:
        found: list[Gap] = []
        for cell in range(len(cells)):
            given = iter(inputs)
            full = [_placed(f, next(given).gap, cell) if f.live.size else f.gap for f in self._known]
            found.append(self._transform(full))
        stack = lambda field: Interval(  # noqa: E731
            np.stack([field(x).lo for x in found]), np.stack([field(x).hi for x in found])
        )
        codes = None
        if all(x.codes is not None for x in found):
            codes = tuple(np.stack([x.codes[n] for x in found if x.codes is not None]) for n in (0, 1))
        gap = Gap(stack(lambda x: x.float), stack(lambda x: x.quantized), stack(lambda x: x.delta), codes)  # type: ignore[arg-type]
        forms = (constant(x, total) for x in (gap.float, gap.quantized, gap.delta))
        return Values(gap, *forms), total


def _placed(f: Fact, x: Gap, cell: int) -> Gap:
    """The whole value over one cell."""

    def put(whole: Interval, part: Interval) -> Interval:
        lo, hi = whole.lo.copy(), whole.hi.copy()
        lo[f.live], hi[f.live] = part.lo[cell], part.hi[cell]
        return Interval(lo, hi)

    codes = f.gap.codes
    if codes is not None and x.codes is not None:
        codes = (codes[0].copy(), codes[1].copy())
        codes[0][f.live], codes[1][f.live] = x.codes[0][cell], x.codes[1][cell]
    return Gap(put(f.gap.float, x.float), put(f.gap.quantized, x.quantized), put(f.gap.delta, x.delta), codes)
