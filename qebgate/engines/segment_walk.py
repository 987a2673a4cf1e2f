"""The float network along a line: every clamp and every maximum cut where it switches, all roundoff charged.

A network of affine layers, clamps and maxima is piecewise linear along a line.  The walk carries the values
at all breakpoints from layer to layer, adds one wherever a neuron switches (approximately: float64), and
charges to the errors what a neuron does between two breakpoints that is not straight, and all roundoff.
Breakpoints are added to the tensors in use, never recomputed.

``gamma`` bounds of dot products: N. Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Gap, Interval
from qebgate.domains.layers import ROOT, Affine, Layer, MaxPool, Opaque
from qebgate.domains.linear_map import Scale
from qebgate.engines.segment_state import Index, State, Values, crossings, cuts, merged, started
from qebgate.numerics.rounding import F64, SAFETY, TINY64, U64, down, gamma, up
from qebgate.regions.line import Line

CHUNK_BYTES = 1 << 26
"""Largest array of values: the walk goes on with one half of the breakpoints, and then with the other."""
CURVED_STEP = 2.0**-13
"""How far entries of a softmax or sigmoid may move on one piece, if that takes no more than ``MAX_CURVED``."""
MAX_CURVED = 1 << 15
_ROUNDS = 64
_Z = -2
"""Position of the pre-activation in work (no value of a program has it)."""


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """Outputs along a part of the line, bounded at breakpoints ``t [B]`` by ``lower``, ``upper [B, K]``.

    On a piece they are between the least ``lower`` and the largest ``upper`` of its two breakpoints, or
    within ``pieces [B - 1, K]`` where those are given.
    """

    t: F64
    lower: F64
    upper: F64
    pieces: tuple[F64, F64] | None = None

    def between(self, first: int, last: int) -> tuple[F64, F64]:
        """Bounds [K] from one breakpoint to another one."""
        lo, hi = self.lower[first : last + 1].min(axis=0), self.upper[first : last + 1].max(axis=0)
        if self.pieces is not None and last > first:
            low, high = (p[first:last] for p in self.pieces)
            lo, hi = np.minimum(lo, low.min(axis=0)), np.maximum(hi, high.max(axis=0))
        return lo, hi


@dataclass(slots=True)
class Walk:
    """Walks the float side of canonical layers; ``outputs`` [K] are entries of the value ``output``.

    ``pulse`` is called often and may raise.  ``ranges`` are bounds of all pre-activations seen so far, by
    position.
    """

    layers: Sequence[Layer]
    output: int
    outputs: Index
    pulse: Callable[[], None] = lambda: None
    ranges: dict[int, Interval] = field(default_factory=dict[int, Interval])

    def along(self, line: Line, t: F64) -> Iterator[Leaf]:
        """Leaves in order, for the points of a line from the first to the last of the given breakpoints."""
        across = t[:, None]
        start, direction = line.start.ravel(), line.direction.ravel()
        moved = across * direction
        x = start + moved
        # a product and a sum, and once more for whoever rounds such a point to float64
        error = np.where(direction == 0, 0.0, 4 * U64 * (np.abs(moved) + np.abs(x)) + TINY64)
        state = started(t, {ROOT: x}, {ROOT: error}, len(t) == 1)
        low, high = line.low.ravel(), line.high.ravel()
        if np.isfinite(low).any() or np.isfinite(high).any():
            state = self._clamped(state, ROOT, ROOT, low, high)
        yield from self._leaves(state)

    def at(self, x: F64) -> Leaf:
        """Exact inputs ``[B, n]``, each on its own."""
        state = started(np.arange(float(len(x))), {ROOT: x}, {ROOT: np.zeros_like(x)}, points=True)
        parts = list(self._leaves(state))
        t, lower, upper = (np.concatenate([getattr(p, name) for p in parts]) for name in ("t", "lower", "upper"))
        return Leaf(t, lower, upper)

    def _leaves(self, state: State) -> Iterator[Leaf]:
        last = {i: k for k, layer in enumerate(self.layers) for i in layer.inputs}
        waiting = [(0, state)]
        while waiting:
            k, state = waiting.pop()
            while k < len(self.layers):
                layer = self.layers[k]
                self.pulse()
                if self._bytes(layer, state) > CHUNK_BYTES and len(state.t) > 2:
                    left, state = state.halves()
                    waiting += [(k, state), (k, left)]
                    break
                state = self._step(layer, state)
                for i in set(layer.inputs):
                    if last[i] == k and i != self.output:
                        del state.values[i]
                k += 1
            else:
                yield self._leaf(state)

    def _bytes(self, layer: Layer, state: State) -> int:
        width = max(state.values[i].at.shape[1] for i in layer.inputs)
        if isinstance(layer, Affine):
            width = max(width, layer.m)
        elif isinstance(layer, MaxPool):
            width = max(width, layer.index.size)
        return 8 * width * len(state.t)

    def _leaf(self, state: State) -> Leaf:
        v = state.values[self.output]
        error = _at_breakpoints(state, v.error[:, self.outputs])
        at = v.at[:, self.outputs]
        with np.errstate(invalid="ignore", over="ignore"):
            lower, upper = down(at - error), up(at + error)
        if v.images is not None:
            ends, pieces = ((i.lo[:, self.outputs], i.hi[:, self.outputs]) for i in v.images)
            return Leaf(state.t, ends[0], ends[1], pieces)
        known = np.isfinite(lower) & np.isfinite(upper)
        return Leaf(state.t, np.where(known, lower, -np.inf), np.where(known, upper, np.inf))

    def _step(self, layer: Layer, state: State) -> State:
        with np.errstate(over="ignore", invalid="ignore"):
            if isinstance(layer, Affine):
                return self._affine(layer, state)
            if isinstance(layer, MaxPool):
                return self._max(layer, state)
            return _curved(layer, state)

    def _affine(self, layer: Affine, state: State) -> State:
        z, error = _image(layer, state)
        a, b = layer.float_range
        lo, hi = state.extremes(z)
        self._seen(layer.output, lo, hi, error)
        most = np.maximum(np.abs(lo), np.abs(hi))
        state.values[_Z] = Values(z, error, most)
        if np.isinf(a) and np.isinf(b):
            state.values[layer.output] = state.values.pop(_Z)
            return state
        return self._clamped(state, _Z, layer.output, np.full(layer.m, a), np.full(layer.m, b))

    def _seen(self, position: int, lo: F64, hi: F64, error: F64) -> None:
        """Remember a pre-activation's range; unknown ones are everything."""
        low, high = down(lo - error).min(axis=0), up(hi + error).max(axis=0)
        known = np.isfinite(low) & np.isfinite(high)
        low, high = np.where(known, low, -np.inf), np.where(known, high, np.inf)
        before = self.ranges.get(position)
        if before is not None:
            low, high = np.minimum(low, before.lo), np.maximum(high, before.hi)
        self.ranges[position] = Interval(low, high)

    def _clamped(self, state: State, source: int, output: int, low: F64, high: F64) -> State:
        """``clip(source, low, high)``, which replaces ``source``; limits [n], infinite where there is none."""
        lo, hi = state.extremes(state.values[source].at)
        margin = 16 * U64 * state.values[source].most  # more than new breakpoints can go beyond the old ones
        crossed: list[tuple[F64, Index]] = []
        for level in (low, high):
            near = (lo - margin <= level) & (hi + margin >= level) & np.isfinite(level)
            columns = np.flatnonzero(near.any(axis=0))
            if columns.size and not state.points:
                crossed.append((level, columns))
        for level, columns in crossed:
            piece, part = cuts(state, state.values[source], level, columns)
            if piece.size:
                state = state.refined(piece, part)
        z = state.values[source]
        lo, hi = state.extremes(z.at)
        bent = z.error.copy()
        for level, columns in crossed:
            piece, entry, worth = crossings(z, level, columns)
            extra = np.zeros_like(bent)
            np.maximum.at(extra, (state.owner[piece], entry), worth)
            bent = up(bent + extra)
        settled = (up(hi + z.error) <= low) | (down(lo - z.error) >= high)
        error = np.where(settled, 0.0, bent)
        most = np.maximum(np.abs(np.clip(lo, low, high)), np.abs(np.clip(hi, low, high)))
        del state.values[source]
        state.values[output] = Values(np.clip(z.at, low, high, out=z.at), error, most)
        return state

    def _max(self, layer: MaxPool, state: State) -> State:
        source = layer.inputs[0]
        index, pad = np.maximum(layer.index, 0), layer.index < 0
        for _ in range(0 if state.points else _ROUNDS):
            piece, part = _switches(state, state.values[source], index, pad)
            if not piece.size:
                break
            state = state.refined(piece, part)
        x = state.values[source]
        window = np.where(pad, -np.inf, x.at[:, index])
        at = window.max(axis=2)
        error = np.where(pad, 0.0, x.error[:, index]).max(axis=2)
        if not state.points:
            first, second = _rivals(window)
            bend = np.where((first > 0) & (second > 0), first * (second / (first + second)), 0.0)
            error = up(error + _by_block(state, bend * (1 + 16 * U64) + TINY64 * (bend > 0)))
        most = np.where(pad, 0.0, x.most[:, index]).max(axis=2)
        state.values[layer.output] = Values(at, error, most)
        return state


def _image(layer: Affine, state: State) -> tuple[F64, F64]:
    """Values ``[B, m]`` of the float side before its clamp, and their errors ``[G, m]``."""
    xs = [state.values[i] for i in layer.inputs]
    moves = all(isinstance(m, Scale) and abs(m.factor) == 1.0 for m in layer.f) and not layer.bf.any()
    if moves and len(xs) == 1:
        return layer.f[0].forward(xs[0].at).copy(), xs[0].error.copy()
    terms = sum(m.terms for m in layer.f) + 2 * len(xs) + 4
    g = SAFETY * gamma(terms)
    z: F64 | None = None
    error = np.broadcast_to(g * np.abs(layer.bf), (state.first.size, layer.m)).copy()
    for m, x in zip(layer.f, xs, strict=True):
        y = m.forward(x.at)
        if z is None:
            z = y.copy() if y is x.at else y
        else:
            z += y
        error += m.absolute.forward(x.error + g * x.most)
    assert z is not None
    if layer.bf.any():
        z += layer.bf
    return z, error * (1 + 4 * g) + terms * TINY64


def _at_breakpoints(state: State, error: F64) -> F64:
    """Errors ``[B, n]`` at breakpoints: the larger one of the two pieces that meet there."""
    pieces = error[state.owner]
    if state.points:
        return pieces
    return np.maximum(np.concatenate([pieces[:1], pieces]), np.concatenate([pieces, pieces[-1:]]))


def _by_block(state: State, pieces: F64) -> F64:
    """The largest row of each block, ``[G, n]`` from ``[pieces, n]``."""
    return np.maximum.reduceat(pieces, state.first, axis=0)


def _rivals(window: F64) -> tuple[F64, F64]:
    """How far, at a piece's left end, the right end's winner is below; and the other way round ``[B - 1, m]``."""
    best = window.argmax(axis=2)[..., None]
    top = np.take_along_axis(window, best, 2)[..., 0]
    at_left = np.take_along_axis(window[:-1], best[1:], 2)[..., 0]
    at_right = np.take_along_axis(window[1:], best[:-1], 2)[..., 0]
    return top[:-1] - at_left, top[1:] - at_right


def _switches(state: State, x: Values, index: Index, pad: NDArray[np.bool_]) -> tuple[Index, F64]:
    """Where the winners of windows change: sorted pieces and parts."""
    window = np.where(pad, -np.inf, x.at[:, index])
    first, second = _rivals(window)
    noise = np.where(pad, 0.0, (x.error + 8 * U64 * x.most)[:, index]).max(axis=2)[state.owner]
    total = first + second
    worth = np.where((first > 0) & (second > 0), first * (second / np.where(total > 0, total, 1.0)), 0.0)
    piece, entry = np.nonzero((worth > noise) & np.isfinite(worth))
    part = first[piece, entry] / total[piece, entry]
    return merged(piece, part)


def _curved(layer: Opaque, state: State) -> State:
    """Values in the middle of the images of breakpoints; errors from the images of whole pieces."""
    if not state.points:
        moves = [np.abs(np.diff(state.values[i].at, axis=0)).max(axis=1) for i in layer.inputs]
        steps = np.maximum.reduce(moves) / CURVED_STEP
        steps = np.where(np.isfinite(steps), np.minimum(steps, 1e9), 0.0)
        steps *= min(1.0, MAX_CURVED / max(float(steps.sum()), 1.0))
        number = np.maximum(np.ceil(steps), 1).astype(np.int64)
        piece = np.repeat(np.arange(number.size), number - 1)
        rank = np.arange(piece.size) - np.repeat(np.cumsum(number - 1) - (number - 1), number - 1)
        if piece.size:
            state = state.refined(piece, (rank + 1) / number[piece])
    xs = [state.values[i] for i in layer.inputs]
    errors = [_at_breakpoints(state, x.error) for x in xs]
    ends = _image_of(layer, [Interval(down(x.at - e), up(x.at + e)) for x, e in zip(xs, errors, strict=True)])
    at = 0.5 * (ends.lo + ends.hi)
    if state.points:
        off, whole = up(np.maximum(ends.hi - at, at - ends.lo)), ends
    else:
        whole = _image_of(layer, [_along(x, x.error[state.owner]) for x in xs])
        lo, hi = np.minimum(at[:-1], at[1:]), np.maximum(at[:-1], at[1:])
        off = up(np.maximum(whole.hi - lo, hi - whole.lo))
    low, high = state.extremes(at)
    most = np.maximum(np.abs(low), np.abs(high))
    state.values[layer.output] = Values(at, _by_block(state, off), most, (ends, whole))
    return state


def _along(x: Values, error: F64) -> Interval:
    """All values on each piece, ``[B - 1, n]``."""
    lo, hi = np.minimum(x.at[:-1], x.at[1:]), np.maximum(x.at[:-1], x.at[1:])
    return Interval(down(lo - error), up(hi + error))


def _image_of(layer: Opaque, inputs: Sequence[Interval]) -> Interval:
    """Images of intervals ``[B, n]``: a layer treats its rows (the last axis) one by one."""
    given: list[Gap] = []
    for x in inputs:
        flat = Interval(x.lo.ravel(), x.hi.ravel())
        zero = np.zeros_like(flat.lo)
        given.append(Gap(flat, flat, Interval(zero, zero)))
    h = layer.float_transform(given).float
    rows = len(inputs[0].lo)
    return Interval(h.lo.reshape(rows, -1), h.hi.reshape(rows, -1))
