"""The dual in float32, for the search alone: only neurons that matter, corners made once for many iterations.

Nothing here is trusted: what is found are multipliers, and :meth:`qebgate.engines.branch.dual.Dual.bound` says what
they prove.  A neuron whose outputs are constant on both sides is folded into its consumers' biases.
Letters: B nodes, m neurons of a layer that are left, n inputs, V corners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.layers import ROOT, Affine
from qebgate.domains.linear_map import Dense, LinearMap
from qebgate.engines.branch.neuron import Box, Shape, corners
from qebgate.numerics.rounding import F64

if TYPE_CHECKING:
    from qebgate.engines.branch.dual import Dual, Region, Target

F32 = NDArray[np.float32]
INDEX_BITS = 31
"""A corner's number replaces these bits of its value, so that one maximum finds both (a relative error of 4e-6)."""


class _Map:
    """One side of a layer between the neurons that are left."""

    def __init__(self, of: LinearMap, rows: NDArray[np.intp], columns: NDArray[np.intp] | None) -> None:
        self._matrix: F32 | None = None
        if isinstance(of, Dense) and of.rows == 1:
            w = of.w[rows] if columns is None else of.w[np.ix_(rows, columns)]
            self._matrix = w.astype(np.float32)
        self._of, self._rows, self._columns = of, rows, columns

    def forward(self, x: F32) -> F32:
        if self._matrix is not None:
            return x @ self._matrix.T
        full = x
        if self._columns is not None:
            full = np.zeros((len(x), self._of.n), np.float32)
            full[:, self._columns] = x
        return self._of.forward(full.astype(np.float64))[:, self._rows].astype(np.float32)

    def back(self, y: F32) -> F32:
        if self._matrix is not None:
            return y @ self._matrix
        full = np.zeros((len(y), self._of.m))
        full[:, self._rows] = y
        found = self._of.back(full).astype(np.float32)
        return found if self._columns is None else found[:, self._columns]


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A layer without its constant neurons."""

    output: int
    inputs: tuple[int, ...]
    kept: NDArray[np.intp]
    f: tuple[_Map, ...]
    q: tuple[_Map, ...]
    bias: F32
    """[2, 1, m]"""
    noise: F32 | None
    shape: Shape
    rounding: tuple[F64, F64, F64]


class Kernel:
    """One dual's layers in float32."""

    def __init__(self, dual: Dual) -> None:
        self.kept: dict[int, NDArray[np.intp]] = {}
        self.constant: dict[int, tuple[F64, F64]] = {}
        """h and hq of neurons that were left out; 0 for the others."""
        self.layers: list[_Layer] = []
        lo, hi = dual.root.lo, dual.root.hi
        self.middle, self.radius = (0.5 * (lo + hi)), (0.5 * (hi - lo)).astype(np.float32)
        for layer in dual.layers:
            box, shape = dual.region.boxes[layer.output], dual.shapes[layer.output]
            still = ((box.z1 <= shape.a) | (box.z0 >= shape.b)) & (box.s0 == box.s1)
            dropped = still[0] if layer.grid is not None else np.zeros(layer.m, np.bool_)
            kept = np.flatnonzero(~dropped)
            self.kept[layer.output] = kept
            h = np.where(dropped, np.clip(box.z0[0], shape.a, shape.b), 0.0)
            self.constant[layer.output] = h, np.where(dropped, box.s0[0], 0.0)
            self.layers.append(self._layer(dual, layer, shape, kept))

    def _layer(self, dual: Dual, layer: Affine, shape: Shape, kept: NDArray[np.intp]) -> _Layer:
        bf, bq = layer.bf.copy(), layer.bq.copy()
        for k, i in enumerate(layer.inputs):
            h, s = (self.middle, self.middle) if i == ROOT else self.constant[i]
            bf, bq = bf + layer.f[k].forward(h[None])[0], bq + layer.q[k].forward(s[None])[0]
        of = lambda maps: tuple(  # noqa: E731
            _Map(x, kept, None if i == ROOT else self.kept[i]) for x, i in zip(maps, layer.inputs, strict=True)
        )
        noise = dual.noise[layer.output]
        return _Layer(
            layer.output,
            layer.inputs,
            kept,
            of(layer.f),
            of(layer.q),
            np.stack([bf[kept], bq[kept]])[:, None].astype(np.float32),
            None if noise is None else noise[kept].astype(np.float32),
            shape,
            (shape.below[kept], shape.above[kept], shape.size[kept]),
        )

    def begin(self, target: Target, region: Region) -> Run:
        """Some nodes."""
        return Run(self, target, region)


@dataclass(slots=True, eq=False)
class _Table:
    """Corners of one layer in all nodes, for both signs that eta may have."""

    layer: _Layer
    box: Sequence[F64]
    both: tuple[F32, F32] | None = None
    """[4, V, B * m] for eta below 0, and from 0 on."""
    points: F32 | None = None
    """[4, V, B * m] for the signs that eta had last."""
    up: NDArray[np.bool_] | None = None
    buffers: tuple[F32, F32] | None = None

    def at(self, eta: F32) -> F32:
        """The corners [4, V, B, m]."""
        up = eta >= 0
        if self.both is None or self.points is None or self.up is None:
            made = [
                corners(self.box, self.layer.shape, self.layer.rounding, np.full(up.shape, v)).astype(np.float32)
                for v in (False, True)
            ]
            self.points = np.where(up, made[1], made[0])
            one = self.points.shape[1:]
            self.both = made[0].reshape(*made[0].shape[:2], -1), made[1].reshape(*made[1].shape[:2], -1)
            self.buffers = np.empty(one, np.float32), np.empty(one, np.float32)
        else:
            changed = np.flatnonzero(up != self.up)
            if changed.size:
                now = up.ravel()[changed]
                flat = self.points.reshape(*self.points.shape[:2], -1)
                for sign, at in ((0, changed[~now]), (1, changed[now])):
                    flat[:, :, at] = self.both[sign][:, :, at]
        self.up = up
        return self.points


class Run:
    """The dual of some nodes, evaluated many times."""

    def __init__(self, kernel: Kernel, target: Target, region: Region) -> None:
        self.kernel = kernel
        self.count = target.constant.size
        constant = target.constant.copy()
        self.live: dict[int, tuple[F32, F32]] = {}
        for v, (h, g) in target.values.items():
            kept, (h0, s0) = kernel.kept[v], kernel.constant[v]
            constant += h @ h0 + g @ s0
            self.live[v] = h[:, kept].astype(np.float32), g[:, kept].astype(np.float32)
        self.constant = constant.astype(np.float32)
        self.tables = {
            x.output: _Table(x, [a[:, x.kept] for a in region.boxes[x.output].arrays]) for x in kernel.layers
        }
        self.points: dict[int, F32] = {}
        """(z, h, q, s) [4, B, m] of every layer, where the suprema were attained."""
        self.input: F32 = np.zeros((self.count, kernel.radius.size), np.float32)
        """What was added to the middle of the input [B, n]."""
        self._signs: dict[int, F32] = {}

    def evaluate(self, m: Mapping[int, F32]) -> F32:
        """The dual [B] at multipliers ``[2, B, m]`` of every layer."""
        value = self.constant.copy()
        live: dict[int, list[Any]] = {v: [h, g] for v, (h, g) in self.live.items()}
        slope: F32 | None = None
        self.points.clear()
        for layer in reversed(self.kernel.layers):
            if layer.output not in live:
                continue
            nu, eta = live.pop(layer.output)
            lam, mu = m[layer.output]
            value += self._neurons(layer, nu, eta, lam, mu)
            value += lam @ layer.bias[0, 0] + mu @ layer.bias[1, 0]
            if layer.noise is not None:
                value += np.abs(lam) @ layer.noise
                self._signs[layer.output] = np.sign(lam)
            for k, i in enumerate(layer.inputs):
                h, g = layer.f[k].back(lam), layer.q[k].back(mu)
                if i == ROOT:
                    h += g
                    slope = h if slope is None else slope + h
                elif i in live:
                    live[i] = [live[i][0] + h, live[i][1] + g]
                else:
                    live[i] = [h, g]
        if slope is not None:
            np.copysign(self.kernel.radius, slope, out=self.input)
            value += np.einsum("bn,bn->b", slope, self.input)
        return value

    def _neurons(self, layer: _Layer, nu: F32, eta: F32, lam: F32, mu: F32) -> F32:
        table = self.tables[layer.output]
        z, h, q, s = points = table.at(eta)
        assert table.buffers is not None
        value, part = table.buffers
        np.multiply(nu, h, out=value)
        for a, b, join in ((lam, z, np.subtract), (eta, s, np.add), (mu, q, np.subtract)):
            np.multiply(a, b, out=part)
            join(value, part, out=value)
        bits = value.view(np.int32)
        np.bitwise_and(bits, ~INDEX_BITS, out=bits)
        np.bitwise_or(bits, np.arange(len(value), dtype=np.int32)[:, None, None], out=bits)
        best = value.max(axis=0)
        which = (best.view(np.int32) & INDEX_BITS).ravel().astype(np.intp)
        size = which.size
        which *= size
        which += np.arange(size)
        self.points[layer.output] = points.reshape(4, -1).take(which, axis=1).reshape(4, *best.shape)
        return best.sum(axis=1)

    def gradient(self) -> dict[int, F32]:
        """Subgradients [2, B, m] by the multipliers where it was evaluated last."""
        out: dict[int, F32] = {}
        for layer in self.kernel.layers:
            if layer.output not in self.points:
                continue
            at = self.points[layer.output]
            g = layer.bias - at[[0, 2]]
            for k, i in enumerate(layer.inputs):
                h, s = (self.input, self.input) if i == ROOT else self.points[i][[1, 3]]
                g[0] += layer.f[k].forward(h)
                g[1] += layer.q[k].forward(s)
            if layer.noise is not None:
                g[0] += self._signs[layer.output] * layer.noise
            out[layer.output] = g
        return out


__all__ = ["Box", "Kernel", "Run"]
