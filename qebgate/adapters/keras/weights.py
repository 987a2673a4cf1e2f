"""Which arrays of a file, or of a model in memory, are a layer's variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import numpy as np

from qebgate.adapters.keras.hdf5 import Hdf5
from qebgate.adapters.keras.network import Layer, Network
from qebgate.adapters.npz import float32_constant
from qebgate.errors import ModelError, printable
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64

RANGES = ("_min", "_max")
"""Ends of the names of TF-MOT's quantizers' variables."""
STEP = "optimizer_step"
COUNT = "count"
"""Of Normalization: how much it was adapted to, which its values do not depend on."""


class Weights(Protocol):
    """The variables of layers, float32."""

    def span(self, layer: Layer, name: str) -> tuple[F64, F64] | None:
        """The two ends of a quantizer's range, [1] or [C]; None where it has none."""
        ...

    def of(self, layer: Layer, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """The variables of these names and shapes, in this order; ModelError QEB480 where they are not that."""
        ...


@dataclass(frozen=True, slots=True)
class Keras3Weights:
    """``model.weights.h5`` of a ``.keras`` file: ``layers/<class>_<k>/vars/<i>``.

    Layers of one class are counted in the model's order; newer versions also write the layer's name,
    which must then be right.
    """

    file: Hdf5
    groups: Mapping[str, str]
    members: Mapping[str, Mapping[str, Array]]

    @classmethod
    def of_network(cls, file: Hdf5, network: Network) -> Keras3Weights:
        groups = {layer.name: f"{layer.group}/vars" for layer in network.layers}
        members: dict[str, dict[str, Array]] = {}
        for path, a in file.arrays.items():
            group, _, index = path.rpartition("/")
            members.setdefault(group, {})[index] = a
        return cls(file, groups, members)

    def of(self, layer: Layer, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        group = self.groups[layer.name]
        where = f"{self.file.where}: {layer.label}"
        stated = self.file.attributes.get(group, {}).get("name")
        if stated is not None and stated != layer.own:
            _wrong(where, f"{group} belongs to layer {printable(stated, 60)}")
        found = self.members.get(group, {})
        if set(found) != {str(k) for k in range(len(names))}:
            _wrong(where, f"{len(found)} arrays in {group}, {len(names)} expected: {', '.join(names)}")
        return _checked([found[str(k)] for k in range(len(names))], names, shapes, where)

    def span(self, layer: Layer, name: str) -> tuple[F64, F64] | None:
        return None


@dataclass(frozen=True, slots=True)
class LegacyWeights:
    """``.h5`` files: each layer's group lists the names of its variables."""

    file: Hdf5

    def of(self, layer: Layer, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        return _of(self._named(layer), layer, names, shapes, self.file.where)

    def span(self, layer: Layer, name: str) -> tuple[F64, F64] | None:
        return _span(self._named(layer), layer, name, self.file.where)

    def _named(self, layer: Layer) -> list[tuple[str, Array]]:
        """The layer's variables by the last part of their names, in the file's order."""
        group = (
            f"model_weights/{layer.name.split('/', maxsplit=1)[0]}"
            if layer.own != layer.name
            else f"model_weights/{layer.name}"
        )
        stated = self.file.names(group, "weight_names")
        if layer.own != layer.name:  # a model's variables are all in its group, by their layers' names
            stated = [n for n in stated if n.split("/")[-2:-1] == [layer.own]]
        missing = [n for n in stated if f"{group}/{n}" not in self.file.arrays]
        if missing:
            _wrong(f"{self.file.where}: {layer.label}", f"no array {printable(f'{group}/{missing[0]}', 120)}")
        return [(_last(n), self.file.arrays[f"{group}/{n}"]) for n in stated]


@dataclass(frozen=True, slots=True)
class LiveWeights:
    """Arrays of a model in memory, by layer, in the order of ``get_weights``."""

    arrays: Mapping[str, Sequence[Array]]
    where: str

    def of(self, layer: Layer, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        found = list(self.arrays.get(layer.name, ()))
        where = f"{self.where}: {layer.label}"
        if len(found) != len(names):
            _wrong(where, f"{len(found)} variables, {len(names)} expected: {', '.join(names)}")
        return _checked(found, names, shapes, where)

    def span(self, layer: Layer, name: str) -> tuple[F64, F64] | None:
        return None


@dataclass(frozen=True, slots=True)
class NamedWeights:
    """Variables of a model in memory by layer, each with its name (models of quantization-aware training)."""

    arrays: Mapping[str, Sequence[tuple[str, Array]]]
    where: str

    def of(self, layer: Layer, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        return _of(self._named(layer), layer, names, shapes, self.where)

    def span(self, layer: Layer, name: str) -> tuple[F64, F64] | None:
        return _span(self._named(layer), layer, name, self.where)

    def _named(self, layer: Layer) -> list[tuple[str, Array]]:
        return [(_last(n), a) for n, a in self.arrays.get(layer.name, ())]


def _last(name: str) -> str:
    return name.rsplit("/", maxsplit=1)[-1].split(":", maxsplit=1)[0]


def _of(
    found: list[tuple[str, Array]],
    layer: Layer,
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    where: str,
) -> list[Array]:
    """Variables by name; those of quantizers may stand beside them where TF-MOT wraps the layer."""
    own = [(n, a) for n, a in found if not (layer.wrapped and (n == STEP or n.endswith(RANGES)))]
    kinds = [n for n, _ in own]
    if kinds != list(names):
        shown = ", ".join(printable(k, 40) for k in kinds[:10]) or "none"
        _wrong(f"{where}: {layer.label}", f"variables {shown}; {', '.join(names)} expected")
    return _checked([a for _, a in own], names, shapes, f"{where}: {layer.label}")


def _span(found: list[tuple[str, Array]], layer: Layer, name: str, where: str) -> tuple[F64, F64] | None:
    ends = [[a for n, a in found if n == name + end] for end in RANGES]
    if not ends[0] and not ends[1]:
        return None
    place = f"{where}: {layer.label}"
    if [len(e) for e in ends] != [1, 1] or ends[0][0].shape != ends[1][0].shape or ends[0][0].ndim > 1:
        _wrong(place, f"no range {printable(name, 40)}_min, {printable(name, 40)}_max")
    lo, hi = (float32_constant(e[0].reshape(-1), f"{place}: {name}").astype(np.float64) for e in ends)
    if not (np.isfinite(lo) & np.isfinite(hi) & (lo <= 0) & (hi >= 0) & (lo < hi)).all():
        _wrong(place, f"range {printable(name, 40)} is empty, or does not contain 0")
    return lo, hi


def _checked(
    found: Sequence[Array], names: Sequence[str], shapes: Sequence[tuple[int, ...]], where: str
) -> list[Array]:
    for a, name, shape in zip(found, names, shapes, strict=True):
        if a.shape != shape:
            _wrong(where, f"{name} has shape {a.shape}, {shape} expected")
    out = [
        a if name == COUNT and a.dtype.kind in "iuf" else float32_constant(a, f"{where}: {name}")
        for a, name in zip(found, names, strict=True)
    ]
    for a, name in zip(out, names, strict=True):
        if not np.isfinite(a).all():
            raise ModelError("QEB417", "a constant is not finite", where=f"{where}: {name}")
    return out


def _wrong(where: str, found: str) -> NoReturn:
    raise ModelError(
        "QEB480", "a layer's variables are not those of its configuration", where=where, found=found,
        fix="save the model again with model.save",
    )  # fmt: skip
