"""Which arrays of a file, or of a model in memory, are a layer's variables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import numpy as np

from qebgate.adapters.keras.config import Layer, Network
from qebgate.adapters.keras.hdf5 import Hdf5
from qebgate.adapters.npz import float32_constant
from qebgate.errors import ModelError, printable
from qebgate.ir.tensor import Array


class Weights(Protocol):
    """The variables of layers, float32."""

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
        counts: dict[str, int] = {}
        groups: dict[str, str] = {}
        for layer in network.layers:
            kind = _snake_case(layer.kind)
            k = counts[kind] = counts.get(kind, -1) + 1
            groups[layer.name] = f"layers/{kind}" + (f"_{k}" if k else "") + "/vars"
        members: dict[str, dict[str, Array]] = {}
        for path, a in file.arrays.items():
            group, _, index = path.rpartition("/")
            members.setdefault(group, {})[index] = a
        return cls(file, groups, members)

    def of(self, layer: Layer, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        group = self.groups[layer.name]
        where = f"{self.file.where}: {layer.label}"
        stated = self.file.attributes.get(group, {}).get("name")
        if stated is not None and stated != layer.name:
            _wrong(where, f"{group} belongs to layer {printable(stated, 60)}")
        found = self.members.get(group, {})
        if set(found) != {str(k) for k in range(len(names))}:
            _wrong(where, f"{len(found)} arrays in {group}, {len(names)} expected: {', '.join(names)}")
        return _checked([found[str(k)] for k in range(len(names))], names, shapes, where)


@dataclass(frozen=True, slots=True)
class LegacyWeights:
    """``.h5`` files: each layer's group lists the names of its variables."""

    file: Hdf5

    def of(self, layer: Layer, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        group = f"model_weights/{layer.name}"
        where = f"{self.file.where}: {layer.label}"
        stated = self.file.names(group, "weight_names")
        kinds = [n.split("/")[-1].split(":")[0] for n in stated]
        if kinds != list(names):
            _wrong(
                where,
                f"variables {', '.join(printable(k, 40) for k in kinds[:10]) or 'none'}; {', '.join(names)} expected",
            )
        paths = [f"{group}/{n}" for n in stated]
        missing = [p for p in paths if p not in self.file.arrays]
        if missing:
            _wrong(where, f"no array {printable(missing[0], 120)}")
        return _checked([self.file.arrays[p] for p in paths], names, shapes, where)


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


def _checked(
    found: Sequence[Array], names: Sequence[str], shapes: Sequence[tuple[int, ...]], where: str
) -> list[Array]:
    for a, name, shape in zip(found, names, shapes, strict=True):
        if a.shape != shape:
            _wrong(where, f"{name} has shape {a.shape}, {shape} expected")
    out = [float32_constant(a, f"{where}: {name}") for a, name in zip(found, names, strict=True)]
    for a, name in zip(out, names, strict=True):
        if not np.isfinite(a).all():
            raise ModelError("QEB417", "a constant is not finite", where=f"{where}: {name}")
    return out


def _wrong(where: str, found: str) -> NoReturn:
    raise ModelError(
        "QEB480", "a layer's variables are not those of its configuration", where=where, found=found,
        fix="save the model again with model.save",
    )  # fmt: skip


def _snake_case(name: str) -> str:
    """As Keras does it."""
    spaced = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", spaced).lower()
