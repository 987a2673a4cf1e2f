"""The whole analysis: layers in order, back-substitution where intervals leave something open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.corners import Corners
from qebgate.domains.crop import Crop
from qebgate.domains.gap import Gap, Interval, tighten
from qebgate.domains.layers import ROOT, Affine, Layer, MaxPool, Opaque
from qebgate.domains.linear_map import Conv, Dense, Depthwise, Scale
from qebgate.engines.dra.backward import Backward, Form, Pre, Resolved
from qebgate.engines.dra.dual import Dual
from qebgate.engines.dra.forward import (
    PreActivation,
    activate,
    affine_intervals,
    banded_layer,
    bare,
    constant_layer,
    max_pool,
    neurons,
    outputs,
    resolve,
)
from qebgate.engines.dra.relaxation import ALL, Relaxation
from qebgate.engines.dra.slopes import tune
from qebgate.numerics.rounding import F64

ROWS = 48
"""About how many neurons of a convolutional layer are bounded together: those of one small tile."""

ITERATIONS, HIDDEN = 4, 0.35
"""Iterations of multipliers for one of the budget: of the final bounds, and of hidden layers' D."""
NEURONS = 1 << 17
"""Multipliers are for networks of at most so many neurons: their corners take about a kilobyte each."""
HIDDEN_WORK = 4e9
"""Multiply-adds of one hidden layer's multipliers at most: the widest gaps of large layers only."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Switches of the analysis.

    ``refine`` back-substitutes hidden layers (else intervals only).  ``work`` bounds the multiply-adds
    of all hidden back-substitution; ``chunk`` the bytes of one coefficient array.  ``crops``: images are
    bounded a tile at a time, within what it sees of the layers below.  ``parts`` of the relaxation are used.
    ``deep``: :meth:`Analysis.tuned` repeats the analysis of dense networks with that many iterations of
    multipliers for the gaps of ``hidden`` layers.
    """

    refine: bool = True
    work: float = 2e11
    chunk: int = 1 << 22
    crops: bool = True
    parts: Relaxation = ALL
    deep: bool = True
    hidden: int = 0


@dataclass
class Analysis:
    """Bounds of every value of a program over a box; :meth:`run` fills it."""

    layers: Sequence[Layer]
    root: Interval
    settings: Settings = field(default_factory=Settings)
    tick: Callable[[int, int], None] = lambda _done, _total: None
    """Told after every layer."""
    pulse: Callable[[], None] = lambda: None
    """Called often; may raise to end the analysis."""
    states: dict[int, Gap] = field(default_factory=dict)
    work_left: float = 0.0
    pre: dict[int, PreActivation] = field(default_factory=dict)
    """Bounds of the pre-activations of every ``Affine`` layer, by its output."""
    skipped: int = 0
    """Layers that were not refined because the work limit was reached."""
    sharpest: Analysis | None = None
    """The analysis that :meth:`tuned` ended with, where it repeated this one."""

    def run(self) -> Analysis:
        """Analyse all layers."""
        x = self.root
        zero = np.zeros_like(x.lo)
        self.states[ROOT] = Gap(x, x, Interval(zero, zero))
        self.backward = Backward(x)
        self.work_left = self.settings.work
        self._direct: set[int] = set()  # values whose entries are independent functions of one input each
        self._affines: dict[int, Affine] = {}
        self._corners: dict[int, Corners] = {}
        self._dense = all(
            isinstance(x, Affine) and all(isinstance(m, (Dense, Scale)) for m in (*x.f, *x.q)) for x in self.layers
        )
        self._images: dict[int, tuple[int, int, int]] = {}
        self._below = 0.0  # multiply-adds of one row pushed from here to the root
        for k, layer in enumerate(self.layers):
            self.tick(k, len(self.layers))
            self.pulse()
            inputs = [self.states[i] for i in layer.inputs]
            if isinstance(layer, Affine):
                self._affine(layer, inputs)
            elif isinstance(layer, MaxPool):
                out, resolved = max_pool(layer, inputs[0])
                self.states[layer.output] = out
                self.backward.push(resolved)
            else:
                self._opaque(layer, inputs)
        return self

    def gap(self, output: int, index: NDArray[np.intp]) -> Interval:
        """Final bounds of the gap at some entries of a value: both streams and the interval, intersected."""
        known, parts = self.states[output].delta, self.settings.parts
        if not parts.plain:
            known = Interval(np.full_like(known.lo, -np.inf), np.full_like(known.hi, np.inf))
        gap = self._final(output, index, known, lambda one: Form(d=one))
        if not parts.apart:
            return gap
        return gap.meet(self._final(output, index, gap, lambda one: Form(h=-one, g=one), picked=True))

    def tuned(self, output: int, index: NDArray[np.intp], gap: Interval, wanted: float, iterations: int) -> Interval:
        """``gap`` improved, side by side where it exceeds ``wanted``, with numbers of its own for each side.

        Multipliers where every layer is affine (:mod:`qebgate.engines.dra.dual`), else lines.  Where there are
        hidden dense layers, the analysis is repeated with better bounds of their D.
        """
        if not all(isinstance(x, Affine) for x in self.layers) or sum(x.m for x in self._affines.values()) > NEURONS:
            return self.with_lines(output, index, gap, wanted, iterations)
        hidden = round(HIDDEN * iterations)
        deep = self._dense and any(x.grid is not None and self._deep(x) for x in self._affines.values())
        best = self
        if hidden and deep and self.settings.deep:
            settings = replace(self.settings, hidden=hidden, work=self.work_left)
            best = type(self)(self.layers, self.root, settings, pulse=self.pulse).run()
            gap = gap.meet(best.gap(output, index))
        self.sharpest = best
        return best.improved(output, index, gap, wanted, ITERATIONS * iterations)

    def with_lines(
        self, output: int, index: NDArray[np.intp], gap: Interval, wanted: float, iterations: int
    ) -> Interval:
        """Lines instead of multipliers: those of a max pool keep its gap together."""
        lo, hi = gap.lo.copy(), gap.hi.copy()
        sides = int((hi > wanted).sum() + (-lo > wanted).sum())
        if 8 * self._below * iterations * sides > self.work_left:
            return gap
        for k, i in enumerate(index):
            one = np.zeros((1, self.states[output].size))
            one[0, i] = 1.0
            if hi[k] > wanted:
                hi[k] = min(hi[k], self._tune(output, Form(d=one), iterations))
            if -lo[k] > wanted:
                lo[k] = max(lo[k], -self._tune(output, Form(d=-one), iterations))
        return Interval(lo, hi)

    def _tune(self, output: int, form: Form, iterations: int) -> float:
        self.pulse()
        facts = {o: (layer, self.pre[o], [self.states[i] for i in layer.inputs]) for o, layer in self._affines.items()}
        best = Backward(self.root)
        for layer in tune(self.backward.layers, facts, self.root, (output, form), iterations):
            best.push(layer)
        return float(best.value(output, form)[0])

    def improved(self, output: int, index: NDArray[np.intp], gap: Interval, wanted: float, iterations: int) -> Interval:
        """``gap`` improved by multipliers of its own for each side that exceeds ``wanted``."""
        lo, hi = gap.lo.copy(), gap.hi.copy()
        above, below = np.flatnonzero(hi > wanted), np.flatnonzero(-lo > wanted)
        if not above.size and not below.size:
            return gap
        dual = self.multipliers()
        size = self.states[output].size
        for part in np.array_split(
            np.concatenate([above, below + lo.size]), -(-(above.size + below.size) // self._few())
        ):
            self.pulse()
            entry, sign = part % lo.size, np.where(part < lo.size, 1.0, -1.0)
            cost = 4 * self._below * iterations * part.size
            if cost > self.work_left:
                self.skipped += 1
                break
            self.work_left -= cost
            one = np.zeros((part.size, size))
            one[np.arange(part.size), index[entry]] = sign
            target = {output: Form(d=one)}
            found = dual.value(self.backward, target, iterations)
            up_, low = sign > 0, sign < 0
            hi[entry[up_]] = np.minimum(hi[entry[up_]], found[up_])
            lo[entry[low]] = np.maximum(lo[entry[low]], -found[low])
        return Interval(lo, hi)

    def multipliers(self) -> Dual:
        for o, layer in self._affines.items():
            if o not in self._corners:
                n = neurons(layer, self.pre[o], [self.states[i] for i in layer.inputs])[0]
                self._corners[o] = Corners.of(n)
        return Dual(self.backward.layers, self._corners, self.root)

    def _few(self) -> int:
        """Targets whose multipliers are searched for together."""
        return max(1, self.settings.chunk // (8 * max((c.cost for c in self._corners.values()), default=1)))

    def _optimised(self, layer: Affine, pre: PreActivation) -> PreActivation:
        """Bounds of a hidden layer's D improved by multipliers of their own, where that is likely to matter."""
        (a, b), z = layer.float_range, pre.z
        crosses = ((z.lo < a) & (z.hi > a)) | ((z.lo < b) & (z.hi > b))
        dead = (z.hi <= a) & (pre.q.hi + pre.above <= a)
        index = np.argsort(np.where(dead, -1.0, pre.d.width * (1.0 + crosses)))[int(dead.sum()) :]
        per_row = 4 * self._below * self.settings.hidden
        if not index.size:
            return pre
        index = index[max(0, index.size - int(min(HIDDEN_WORK, self.work_left) / (2 * per_row))) :]
        self.work_left -= 2 * per_row * index.size
        dual, shell, d = self.multipliers(), bare(layer, pre), np.stack([pre.d.lo, pre.d.hi])
        for part in np.array_split(index, max(1, -(-2 * index.size // self._few()))):
            self.pulse()
            one = np.zeros((part.size, layer.m))
            one[np.arange(part.size), part] = 1.0
            found = dual.before(self.backward, shell, Pre(d=np.concatenate([one, -one])), self.settings.hidden)
            d[0, part] = np.maximum(d[0, part], -found[part.size :])
            d[1, part] = np.minimum(d[1, part], found[: part.size])
        if not pre.parts.tighten:
            return replace(pre, d=Interval(*d))
        zi, qi, di = tighten(pre.z, pre.q, Interval(*d))
        return replace(pre, z=zi, q=qi, d=di)

    def float_value(self, output: int, index: NDArray[np.intp]) -> Interval:
        """Final bounds of the float value at some entries."""
        return self._final(output, index, self.states[output].float, lambda one: Form(h=one))

    def _final(
        self,
        output: int,
        index: NDArray[np.intp],
        known: Interval,
        form: Callable[[F64], Form],
        *,
        picked: bool = False,
    ) -> Interval:
        size = self.states[output].size
        lo, hi = (known.lo.copy(), known.hi.copy()) if picked else (known.lo[index], known.hi[index])
        for part in np.array_split(np.arange(index.size), max(1, -(-index.size // self._rows(size)))):
            one = np.zeros((part.size, size))
            one[np.arange(part.size), index[part]] = 1.0
            both = self.backward.value(output, form(np.concatenate([one, -one])))
            hi[part] = np.minimum(hi[part], both[: part.size])
            lo[part] = np.maximum(lo[part], -both[part.size :])
        return Interval(lo, hi)

    def _affine(self, layer: Affine, inputs: Sequence[Gap]) -> None:
        image = _image(layer, self._images)
        if image is not None and self.settings.crops:
            self._images[layer.output] = image
        pre = affine_intervals(layer, inputs, self.settings.parts)
        if self.settings.refine and self._deep(layer):
            pre = self._refine(layer, inputs, pre)
            if self.settings.hidden and layer.grid is not None and self._dense:
                pre = self._optimised(layer, pre)
        out, over, under = activate(layer, pre, inputs)
        self.states[layer.output] = out
        self.pre[layer.output] = pre
        self._affines[layer.output] = layer
        self.backward.push(resolve(layer, pre, out, over, under))
        self._below += 2.0 * layer.macs
        if (
            not self._deep(layer)
            and all(isinstance(m, Scale) for m in (*layer.f, *layer.q))
            and layer.f[0] == layer.q[0]
        ):
            self._direct.add(layer.output)

    def _opaque(self, layer: Opaque, inputs: Sequence[Gap]) -> None:
        out = layer.transform(inputs)
        self.states[layer.output] = out
        if layer.lines is None:
            self.backward.push(constant_layer(layer, out))
        else:
            band = layer.lines(inputs, out)
            self.backward.push(banded_layer(layer, band, inputs, out))
            self._below += 2.0 * sum(m.macs for m in band.maps)

    def _deep(self, layer: Affine) -> bool:
        """Whether back-substitution can be better than intervals: not for the layer on the input itself."""
        return not all(i == ROOT or i in self._direct for i in layer.inputs)

    def _rows(self, width: int) -> int:
        """Rows of one chunk: the widest value decides."""
        widest = max([width, self.root.lo.size, *(s.size for s in self.states.values())])
        return max(1, self.settings.chunk // (8 * widest))

    def _refine(self, layer: Affine, inputs: Sequence[Gap], pre: PreActivation) -> PreActivation:
        """Replace interval bounds by back-substituted ones for the neurons that are still open."""
        h, g = outputs(layer, pre, inputs)
        wide = g.lo < g.hi
        a, b = layer.float_range
        crosses = ((pre.z.lo < a) & (pre.z.hi > a)) | ((pre.z.lo < b) & (pre.z.hi > b))
        either = (crosses & (h.lo < h.hi)) | wide
        per_row = self._below + 2.0 * layer.macs
        cost = per_row * (2 * either.sum() + 8 * wide.sum())
        # what the gap's own stream costs, is spared first
        gap = cost <= self.work_left
        if not gap:
            self.skipped += 1
            cost = per_row * 2 * (either.sum() + wide.sum())
        if cost > self.work_left or not either.any():
            return pre
        self.work_left -= cost
        return self._bound(layer, inputs, pre, (either, wide), gap=gap)

    def _chunks(
        self, layer: Affine, shell: Resolved, index: NDArray[np.intp]
    ) -> Iterator[tuple[NDArray[np.intp], Crop | None, NDArray[np.intp]]]:
        """Some neurons at a time, with the rectangle that holds them, and their positions in it."""
        image = self._images.get(layer.output)
        if image is None or shell.cropped(Crop.whole(image)) is None:
            for part in np.array_split(index, max(1, -(-2 * index.size // self._rows(layer.m)))):
                yield part, None, part
            return
        _, width, channels = image
        side = max(1, round((ROWS / channels) ** 0.5))
        row, column = index // channels // width, index // channels % width
        tile = (row // side) * width + column // side
        for group in np.split(index[np.argsort(tile, kind="stable")], np.flatnonzero(np.diff(np.sort(tile))) + 1):
            for part in np.array_split(group, max(1, -(-group.size // (4 * ROWS)))):
                top, left = part // channels // width, part // channels % width
                y, x = int(top.min()), int(left.min())
                crop = Crop(image, y, x, int(top.max()) - y + 1, int(left.max()) - x + 1)
                yield part, crop, ((top - y) * crop.width + left - x) * channels + part % channels

    def _bound(
        self,
        layer: Affine,
        inputs: Sequence[Gap],
        pre: PreActivation,
        masks: tuple[NDArray[np.bool_], NDArray[np.bool_]],
        *,
        gap: bool,
    ) -> PreActivation:
        either, wide = masks
        shell, parts = bare(layer, pre), pre.parts
        z, q, d = (np.stack([x.lo, x.hi]) for x in (pre.z, pre.q, pre.d))

        def improve(known: F64, part: NDArray[np.intp], found: F64) -> None:
            known[0, part] = np.maximum(known[0, part], found[0])
            known[1, part] = np.minimum(known[1, part], found[1])

        for part, crop, rows in self._chunks(layer, shell, np.flatnonzero(either)):
            self.pulse()
            inside = np.flatnonzero(wide[part])
            found = self.backward.streams(shell, rows, inside, crop, gap=gap)
            if not parts.plain:
                z[:, part], q[:, part[inside]], d[:, part[inside]] = found.z, found.q, found.d
            improve(z, part, found.z)
            improve(q, part[inside], found.q)
            improve(d, part[inside], found.d)
            if parts.apart:
                improve(d, part[inside], found.apart)
        bounds = Interval(*z), Interval(*q), Interval(*d)
        zi, qi, di = tighten(*bounds) if parts.tighten else bounds
        return replace(pre, z=zi, q=qi, d=di)


def _image(layer: Affine, images: dict[int, tuple[int, int, int]]) -> tuple[int, int, int] | None:
    """Shape of the layer's output where it is an image that windows move over."""
    for m in layer.q:
        if isinstance(m, (Conv, Depthwise)):
            return m.image
    return images.get(layer.inputs[0]) if all(isinstance(m, Scale) for m in layer.q) else None
