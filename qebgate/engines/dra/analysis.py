"""The whole analysis: layers in order, back-substitution where intervals leave something open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.crop import Crop
from qebgate.domains.gap import Gap, Interval, tighten
from qebgate.domains.layers import ROOT, Affine, Layer, MaxPool, Opaque
from qebgate.domains.linear_map import Conv, Depthwise, Scale
from qebgate.engines.dra.backward import Backward, Form, Pre, Resolved
from qebgate.engines.dra.forward import (
    PreActivation,
    activate,
    affine_intervals,
    constant_layer,
    max_pool,
    resolve,
)
from qebgate.engines.dra.slopes import tune
from qebgate.numerics.rounding import F64

ROWS = 48
"""About how many neurons of a convolutional layer are bounded together: those of one small tile."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Switches of the analysis.

    ``refine`` back-substitutes hidden layers (else intervals only).  ``work`` bounds the multiply-adds
    of all hidden back-substitution; ``chunk`` the bytes of one coefficient array.  ``whole`` is the
    share of open neurons from which a layer is refined as a whole.
    """

    refine: bool = True
    work: float = 2e11
    chunk: int = 1 << 22
    whole: float = 0.1


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

    def run(self) -> Analysis:
        """Analyse all layers."""
        x = self.root
        zero = np.zeros_like(x.lo)
        self.states[ROOT] = Gap(x, x, Interval(zero, zero))
        self.backward = Backward(x)
        self.work_left = self.settings.work
        self._direct: set[int] = set()  # values whose entries are independent functions of one input each
        self._affines: dict[int, Affine] = {}
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
        gap = self._final(output, index, self.states[output].delta, lambda one: Form(d=one))
        return gap.meet(self._final(output, index, gap, lambda one: Form(h=-one, g=one), picked=True))

    def tuned(self, output: int, index: NDArray[np.intp], gap: Interval, wanted: float, iterations: int) -> Interval:
        """``gap`` improved, side by side where it exceeds ``wanted``, with lines of its own for each side."""
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
        if image is not None:
            self._images[layer.output] = image
        pre = affine_intervals(layer, inputs)
        if self.settings.refine and self._deep(layer):
            pre = self._refine(layer, inputs, pre)
        out, over, under = activate(layer, pre, inputs)
        self.states[layer.output] = out
        self.pre[layer.output] = pre
        self._affines[layer.output] = layer
        self.backward.push(resolve(layer, pre, inputs, out, over, under))
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
        self.backward.push(constant_layer(layer, out))

    def _deep(self, layer: Affine) -> bool:
        """Whether back-substitution can be better than intervals: not for the layer on the input itself."""
        return not all(i == ROOT or i in self._direct for i in layer.inputs)

    def _rows(self, width: int) -> int:
        """Rows of one chunk: the widest value decides."""
        widest = max([width, self.root.lo.size, *(s.size for s in self.states.values())])
        return max(1, self.settings.chunk // (8 * widest))

    def _refine(self, layer: Affine, inputs: Sequence[Gap], pre: PreActivation) -> PreActivation:
        """Replace interval bounds by back-substituted ones for the neurons that are still open."""
        out, _, _ = activate(layer, pre, inputs)
        constant_code = out.quantized.lo == out.quantized.hi
        wide = ~constant_code
        a, b = layer.float_range
        z_open = (
            ((pre.z.lo < a) & (pre.z.hi > a))
            | ((pre.z.lo < b) & (pre.z.hi > b))
            | (wide & (out.float.lo < out.float.hi))
        )
        if layer.float_range == (-np.inf, np.inf):
            z_open = wide
        per_row = self._below + 2.0 * layer.macs
        for kind, mask in (("z", z_open), ("q", wide), ("d", wide)):
            share = mask.mean() if mask.size else 0.0
            index = np.arange(mask.size) if share > self.settings.whole else np.flatnonzero(mask)
            cost = per_row * index.size * (2 if kind != "d" else 6)
            if not index.size:
                continue
            if cost > self.work_left:
                self.skipped += 1
                continue
            self.work_left -= cost
            pre = self._bound(layer, inputs, pre, kind, index)
        return pre

    def _chunks(
        self, layer: Affine, shell: Resolved, index: NDArray[np.intp]
    ) -> Iterator[tuple[NDArray[np.intp], Crop | None, F64]]:
        """Some neurons at a time, with the rectangle that holds them, and one row per neuron that selects it."""
        image = self._images.get(layer.output)
        if image is None or shell.cropped(Crop.whole(image)) is None:
            for part in np.array_split(index, max(1, -(-index.size // self._rows(layer.m)))):
                one = np.zeros((part.size, layer.m))
                one[np.arange(part.size), part] = 1.0
                yield part, None, one
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
                one = np.zeros((part.size, crop.size))
                one[np.arange(part.size), ((top - y) * crop.width + left - x) * channels + part % channels] = 1.0
                yield part, crop, one

    def _bound(
        self, layer: Affine, inputs: Sequence[Gap], pre: PreActivation, kind: str, index: NDArray[np.intp]
    ) -> PreActivation:
        shell = resolve(layer, pre, inputs, *activate(layer, pre, inputs))
        z, q, d = ((x.lo.copy(), x.hi.copy()) for x in (pre.z, pre.q, pre.d))
        for part, crop, rows in self._chunks(layer, shell, index):
            self.pulse()
            one = np.concatenate([rows, -rows])  # bounds from above, and negated ones from below
            forms = {
                "z": [(z, Pre(z=one, crop=crop))],
                "q": [(q, Pre(q=one, crop=crop))],
                "d": [(d, Pre(d=one, crop=crop)), (d, Pre(z=-one, q=one, crop=crop))],
            }
            for (lo, hi), form in forms[kind]:
                both = self.backward.before(shell, form)
                hi[part] = np.minimum(hi[part], both[: part.size])
                lo[part] = np.maximum(lo[part], -both[part.size :])
        zi, qi, di = tighten(Interval(*z), Interval(*q), Interval(*d))
        return replace(pre, z=zi, q=qi, d=di)


def _image(layer: Affine, images: dict[int, tuple[int, int, int]]) -> tuple[int, int, int] | None:
    """Shape of the layer's output where it is an image that windows move over."""
    for m in layer.q:
        if isinstance(m, (Conv, Depthwise)):
            return m.image
    return images.get(layer.inputs[0]) if all(isinstance(m, Scale) for m in layer.q) else None
