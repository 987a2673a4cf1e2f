"""How far two evaluations of the float network can be apart, when each neuron's evaluation has a bounded error.

One evaluation, the *anchor*, is known: its pre-activations lie in given intervals.  The other one, the *computed*
network, deviates from it.  With ``D`` the deviation before a layer's clamp and ``d`` after it,

    D = sum f_i d_i + eps,   |eps| <= E,        d = s D,   0 <= s <= 1 (a clamp is monotone and 1-Lipschitz)

s is 1 where both are between the limits and 0 where both are beyond the same one: where the anchor keeps away from
the limits by more than D.  Elsewhere the neuron is *open*: with ``t`` the anchor's distance from the limit (0 where
it may be on either side) and ``|D| <= e``, a convex ``relu(D - t)`` lies within ``(e - t) / 2`` of the line of slope
``(e - t) / 2 e``, so ``d = slope D + rest`` with a free rest.  Bounds of D are intervals' first, and for the open
neurons those of back-substitution: the sum of ``|coefficient| * (E or rest)`` over all neurons before.

Everything is linear in E: if every E is multiplied by c <= 1, all deviations are at most c times the bounds.

Roundoff: a coefficient array is off by at most ``gamma |f|^T |c|``, times the magnitudes of the deviations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.crop import Crop
from qebgate.domains.gap import Gap, Interval
from qebgate.domains.layers import ROOT, Affine, Layer, MaxPool, Opaque
from qebgate.domains.linear_map import Conv, Depthwise, Scale, gather
from qebgate.engines.deviation_links import ROWS, Link, prices_of, tile_side
from qebgate.engines.guard import GuardedStop
from qebgate.errors import UnsupportedError
from qebgate.numerics.rounding import F64, SAFETY, TINY32, TINY64, U64, gamma, up

Index = NDArray[np.intp]

CHUNK = 1 << 22
"""Bytes of one array of coefficients."""
LARGE = 0.03
"""Deviations beyond this share of a layer's root mean square are bounded again: intervals only would explode."""
ENOUGH = 0.3
"""A neuron is bounded no further where its deviation is below this share of what made it worth bounding."""
AHEAD = 4.0
"""How many times its equal share of the work a layer may use."""
_ROUND = 1 + 16 * U64


@dataclass(slots=True, eq=False)
class _Rows:
    """Coefficients ``[R, n]`` of one value's deviation, over a rectangle of its image or (None) all of it."""

    c: F64
    crop: Crop | None

    def plus(self, other: _Rows) -> _Rows:
        a, b, into = self, other, None
        if a.crop is not None and b.crop is not None:
            into = a.crop.union(b.crop)
        return _Rows(a.over(into).c + b.over(into).c, into)

    def of(self, v: F64) -> F64:
        """The entries of a vector over the value that these coefficients belong to."""
        return v if self.crop is None else self.crop.take(v)

    def over(self, into: Crop | None) -> _Rows:
        """The same over a larger rectangle, or everything."""
        if self.crop is None or self.crop == into:
            return self
        return _Rows(self.crop.expand(self.c, into or Crop.whole(self.crop.image)), into)


@dataclass
class Deviation:
    """Bounds of the deviation of every value; :meth:`run` fills it.

    ``known`` has the anchor's pre-activations by output position; where there are none, intervals of the
    inputs' are used.  ``work`` bounds the multiply-adds of back-substitution.
    """

    layers: Sequence[Layer]
    box: Interval
    known: Mapping[int, Interval]
    work: float
    pulse: Callable[[], None] = lambda: None
    anchor: dict[int, Interval] = field(default_factory=dict)
    """Values of the anchor."""
    computed: dict[int, Interval] = field(default_factory=dict)
    """Values of the computed network, or of any other with an error of at most E."""
    error: dict[int, F64] = field(default_factory=dict)
    """Bounds of ``|d|``."""
    opened: int = 0
    """Open neurons."""

    def run(self) -> Deviation:
        """Bound all values."""
        self._links: list[Link] = []
        self._images: dict[int, tuple[int, int, int]] = {}
        self.anchor[ROOT] = self.computed[ROOT] = self.box
        self.error[ROOT] = np.zeros_like(self.box.lo)
        for layer in self.layers:
            self.pulse()
            if isinstance(layer, Affine):
                self._affine(layer)
            elif isinstance(layer, MaxPool):
                self._max_pool(layer)
            else:
                self._opaque(layer)
        return self

    def final(self, output: int, index: Index) -> F64:
        """Bounds of some entries of a value."""
        size = self.error[output].size
        found = self.error[output][index].copy()
        link = next((x for x in self._links if x.output == output), None)
        if link is None:
            return found
        for part in np.array_split(np.arange(index.size), max(1, -(-index.size * self._widest(size) * 8 // CHUNK))):
            one = np.zeros((part.size, size))
            one[np.arange(part.size), index[part]] = 1.0
            found[part] = np.minimum(found[part], self._bound({output: _Rows(one, None)}))
        return found

    def _affine(self, layer: Affine) -> None:
        out = layer.output
        image = _image(layer, self._images)
        if image is not None:
            self._images[out] = image
        z = self.known.get(out)
        if z is None:
            z = _interval(layer, [self.anchor[i] for i in layer.inputs])
        noise = np.zeros(layer.m)
        if layer.noise is not None:
            noise = layer.noise([self.computed[i] for i in layer.inputs])
            if not np.isfinite(noise).all():
                if np.isfinite(layer.noise([self.anchor[i] for i in layer.inputs])).all():
                    # not the network is too large, but the bounds of its deviation, layer by layer
                    raise GuardedStop("effort", f"float32's evaluation is not bounded from {layer.label} on")
                raise UnsupportedError(
                    "QEB435", "the float reference may overflow float32: no bound holds", where=layer.label
                )
        size = np.zeros(layer.m)
        for m, i in zip(layer.f, layer.inputs, strict=True):
            if self.error[i].any():
                size += m.absolute.forward(self.error[i][None])[0]
        size = size * (1 + SAFETY * gamma(layer.terms + 4)) + layer.terms * TINY64
        e = up(up(size + noise))
        if not self.error_free(layer) or noise.any():
            e = self._refined(layer, z, noise, size, e)
            self._push(layer, z, noise, size, e)
        a, b = layer.float_range
        self.anchor[out] = z.clamp(a, b)
        self.error[out] = _after(z, e, a, b) if self._links and self._links[-1].output == out else np.zeros(layer.m)
        wide = self.anchor[out].widened(self.error[out], self.error[out])
        exact = self.error[out] == 0
        self.computed[out] = Interval(
            np.where(exact, self.anchor[out].lo, wide.lo), np.where(exact, self.anchor[out].hi, wide.hi)
        ).clamp(a, b)

    def error_free(self, layer: Layer) -> bool:
        """Whether nothing that a layer reads deviates."""
        return not any(self.error[i].any() for i in layer.inputs)

    def _refined(self, layer: Affine, z: Interval, noise: F64, size: F64, e: F64) -> F64:
        """Bounds of D, back-substituted where the neuron is open by intervals, or where these have grown too far."""
        a, b = layer.float_range
        clamped = bool(np.isfinite([a, b]).any())
        if not clamped or not self._links:
            return e
        distance, large = _distance(z, a, b), LARGE * float(np.sqrt(np.mean(z.centre**2)))
        index = np.flatnonzero((distance < e) | (_after(z, e, a, b) > large))
        if not index.size:
            return e
        enough = ENOUGH * np.minimum(distance, large)
        shell = self._link(layer, np.ones(layer.m), noise, size)
        prices = prices_of(self._links, layer.output, shell, self._images.get(layer.output)) * index.size
        steps = int(np.searchsorted(prices, self._allowance(), side="right"))
        if steps < 2:  # the layer alone is what intervals are
            return e
        self.work -= float(prices[steps - 1])
        e = e.copy()
        for part, crop, one in self._chunks(layer.output, shell, index):
            self.pulse()
            live = {layer.output: _Rows(one, crop)}
            e[part] = np.minimum(e[part], self._bound(live, shell, enough[part], steps))
        return e

    def _allowance(self) -> float:
        """What one layer may cost: its share of the work that is left, and what comes later may need less."""
        return self.work * min(1.0, AHEAD / max(1, len(self.layers) - len(self.error) + 1))

    def _link(self, layer: Affine, slope: F64, noise: F64, size: F64) -> Link:
        live = [k for k, i in enumerate(layer.inputs) if self.error[i].any()]
        return Link(
            tuple(layer.inputs[k] for k in live), layer.output, tuple(layer.f[k] for k in live), slope, noise, size,
            layer.terms + 8,
        )  # fmt: skip

    def _push(self, layer: Affine, z: Interval, noise: F64, size: F64, e: F64) -> None:
        a, b = layer.float_range
        slope, rest = _lines(z, e, a, b)
        self.opened += int((rest > 0).sum())
        self._links.append(self._link(layer, slope, up(slope * noise * _ROUND + rest), size))

    def _max_pool(self, layer: MaxPool) -> None:
        """A window's winner, where the anchor decides it by more than the deviation; else the largest deviation."""
        (source,) = layer.inputs
        idx, pad = np.maximum(layer.index, 0), layer.index < 0
        take = lambda v, fill: np.where(pad, fill, v[idx])  # noqa: E731
        h, e = self.anchor[source], self.error[source]
        lo, hi = take(h.lo, -np.inf), take(h.hi, -np.inf)
        least, most = take(h.lo - e, -np.inf), take(up(h.hi + e), -np.inf)
        rows = np.arange(len(idx))
        win = least.argmax(axis=1)
        threshold = np.nextafter(least[rows, win], -np.inf)
        may = most >= threshold[:, None]
        decided = may.sum(axis=1) == 1
        worst = np.where(may, take(e, 0.0), 0.0).max(axis=1)
        value = Interval(lo.max(axis=1), hi.max(axis=1))
        known = self.known.get(layer.output)
        self.anchor[layer.output] = value if known is None else value.meet(known.widened(TINY32, TINY32))
        # a runtime may flush subnormal numbers to zero
        flush = np.full(len(idx), TINY32)
        free: F64 = np.where(decided, 0.0, worst).astype(np.float64)
        noise = flush + free
        self.error[layer.output] = up(worst + flush)
        zero = np.zeros(len(idx))
        chosen = gather(idx[rows, win], h.lo.size)
        self._links.append(
            Link((source,), layer.output, (chosen,), np.where(decided, 1.0, 0.0), noise, zero + worst, 8)
            if e.any()
            else Link((), layer.output, (), zero, noise, zero, 8)
        )
        self._compute(layer.output)

    def _opaque(self, layer: Opaque) -> None:
        """Intervals only: the layer's own bound of the deviation."""
        given: list[Gap] = []
        for i in layer.inputs:
            h, e = self.anchor[i], self.error[i]
            given.append(Gap(h, self.computed[i], Interval(-e, e)))
        out = layer.float_transform(given)
        self.anchor[layer.output] = out.float
        self.computed[layer.output] = out.quantized
        self.error[layer.output] = out.delta.magnitude
        zero = np.zeros(out.size)
        self._links.append(Link((), layer.output, (), zero, self.error[layer.output], zero, 8))

    def _compute(self, output: int) -> None:
        self.computed[output] = self.anchor[output].widened(self.error[output], self.error[output])

    def _bound(
        self, live: dict[int, _Rows], shell: Link | None = None, enough: F64 | None = None, steps: int | None = None
    ) -> F64:
        """``sup |sum c d|`` per row, for coefficients of values (the first of them of ``shell``'s).

        Rows that are below ``enough`` when the values reached are bounded as they are end there, and all do after
        ``steps`` links.
        """
        count = next(iter(live.values())).c.shape[0]
        best = np.full(count, np.inf)
        rows, total, size, terms = np.arange(count), np.zeros(count), np.zeros(count), 8

        def bound(rest: F64 | float = 0.0) -> F64:
            slack = SAFETY * gamma(terms + 2 * len(self._links))
            return up(total + rest + slack * (2 * (total + rest) + size) + TINY64)

        for k, link in enumerate((*((shell,) if shell else ()), *reversed(self._links))):
            at = live.pop(link.output, None)
            if at is None:
                continue
            part = None if at.crop is None else link.cropped(at.crop)
            if part is None:
                at, step, seen = at.over(None), link, (None,) * len(link.inputs)
            else:
                step, seen = part
            total += np.abs(at.c) @ step.noise
            if not step.maps:
                continue
            c = at.c * step.slope
            size += np.abs(c) @ step.size
            terms = max(terms, step.terms + step.noise.size)
            for m, i, crop in zip(step.maps, step.inputs, seen, strict=True):
                back = _Rows(m.back(c), crop)
                live[i] = back if i not in live else live[i].plus(back)
            if enough is None or k == 0:
                continue
            rest = sum(np.abs(r.c) @ r.of(self.error[i]) for i, r in live.items())
            best[rows] = np.minimum(best[rows], bound(rest))
            left = best[rows] >= enough[rows]
            if not left.any() or (steps is not None and k + 1 >= steps):
                return best
            if left.mean() < 0.75:
                rows, total, size = rows[left], total[left], size[left]
                live = {i: _Rows(r.c[left], r.crop) for i, r in live.items()}
        assert not live, "a deviation that was never bounded"
        best[rows] = np.minimum(best[rows], bound())
        return best

    def _widest(self, size: int) -> int:
        return max(size, *(v.size for v in self.error.values()))

    def _chunks(self, output: int, shell: Link, index: Index) -> Iterator[tuple[Index, Crop | None, F64]]:
        """Some neurons at a time, with the rectangle that holds them, and one row per neuron that selects it."""
        image = self._images.get(output)
        size = shell.noise.size
        if image is None or shell.cropped(Crop.whole(image)) is None:
            for part in np.array_split(index, max(1, -(-index.size * self._widest(size) * 8 // CHUNK))):
                one = np.zeros((part.size, size))
                one[np.arange(part.size), part] = 1.0
                yield part, None, one
            return
        _, width, channels = image
        side = tile_side(channels)
        row, column = index // channels // width, index // channels % width
        tile = (row // side) * width + column // side
        for group in np.split(index[np.argsort(tile, kind="stable")], np.flatnonzero(np.diff(np.sort(tile))) + 1):
            for part in np.array_split(group, max(1, -(-group.size // (4 * ROWS)))):
                top, left = part // channels // width, part // channels % width
                y, x = int(top.min()), int(left.min())
                crop = Crop(image, y, x, int(top.max()) - y + 1, int(left.max()) - x + 1)
                one = np.zeros((part.size, crop.size))
                one[np.arange(part.size), ((top - y) * crop.width + left - x) * channels + part % channels] = 1.0
                yield part, crop, one


def _distance(z: Interval, a: float, b: float) -> F64:
    """How far the anchor keeps away from the limits of a clamp, at least (0 where it may be on either side)."""

    def from_one(limit: float) -> F64:
        if not np.isfinite(limit):
            return np.full(z.lo.size, np.inf)
        # rounded downwards: a difference is off by less than a unit in its last place
        return np.maximum(np.nextafter(np.maximum(z.lo - limit, limit - z.hi), -np.inf), 0.0)

    return np.minimum(from_one(a), from_one(b))


def _lines(z: Interval, e: F64, a: float, b: float) -> tuple[F64, F64]:
    """Slope and rest [m] of ``d = slope D + rest``, for ``|D| <= e``."""
    t = np.minimum(_distance(z, a, b), e)
    inside = (z.lo >= a) & (z.hi <= b)
    # both limits in reach: the line of slope 1/2, as if the anchor were at a limit
    both = (z.lo - a < e * _ROUND) & (b - z.hi < e * _ROUND) & np.isfinite([a, b]).all()
    gap = np.where(both, e, up(e - t))
    gap = np.where((e <= t) & ~both, 0.0, gap)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(gap > 0, gap / (2 * e), 0.0)
    rest = gap / 2 * _ROUND + np.where(gap > 0, 2 * U64 * e, 0.0)  # of 1 - share, rounded
    return np.where(inside & ~both, 1.0 - share, share), rest


def _after(z: Interval, e: F64, a: float, b: float) -> F64:
    """Bounds of d from those of D: less where the anchor is beyond a limit."""
    lost = np.zeros_like(e)
    for beyond in (a - z.hi, z.lo - b):
        lost = np.maximum(lost, np.nextafter(beyond, -np.inf))
    return np.where(lost <= 0, e, np.where(lost >= e, 0.0, up(e - lost)))


def _interval(layer: Affine, inputs: Sequence[Interval]) -> Interval:
    """Of the anchor's pre-activations, from its inputs'."""
    centre, radius, weight = layer.bf.copy(), np.zeros(layer.m), np.abs(layer.bf)
    for m, x in zip(layer.f, inputs, strict=True):
        c = x.centre
        r = up(np.maximum(x.hi - c, c - x.lo))
        centre = centre + m.forward(c[None])[0]
        spread, size = m.absolute.forward(np.stack([r, np.abs(c) + r]))
        radius, weight = radius + spread, weight + size
    err = SAFETY * gamma(layer.terms + 4) * (weight + radius) + layer.terms * TINY64
    return Interval(centre - radius, centre + radius).widened(err, err)


def _image(layer: Affine, images: Mapping[int, tuple[int, int, int]]) -> tuple[int, int, int] | None:
    """Shape of the layer's output where it is an image that windows move over."""
    for m in layer.f:
        if isinstance(m, (Conv, Depthwise)):
            return m.image
    return images.get(layer.inputs[0]) if all(isinstance(m, Scale) for m in layer.f) else None
