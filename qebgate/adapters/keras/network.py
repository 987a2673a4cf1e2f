"""Layers and the tensors that connect them, as a configuration states them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qebgate.errors import printable

Ref = tuple[str, int, int]
"""A tensor: layer, which of the layer's calls, which of its outputs."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer; ``calls`` has the tensors of each of its calls.

    ``wrapped``: TF-MOT wraps it, and its variables include those of quantizers.
    """

    name: str
    kind: str
    config: dict[str, Any]
    calls: tuple[tuple[Ref, ...], ...]
    wrapped: bool = False
    inner: Network | None = None
    """The network of a model that is a layer of another; none is left after :mod:`nesting`."""
    own: str = ""
    """Its name without those of the models around it."""
    group: str = ""
    """Where Keras 3 keeps its variables."""

    @property
    def label(self) -> str:
        return f"layer {printable(self.name, 60)} ({printable(self.kind, 60)})"


@dataclass(frozen=True, slots=True)
class Network:
    """The layers of a model in the file's order.  ``keras`` is the major version that wrote it."""

    layers: tuple[Layer, ...]
    inputs: tuple[Ref, ...]
    outputs: tuple[Ref, ...]
    keras: int

    @property
    def wrapped(self) -> bool:
        """Whether it is a model of quantization-aware training."""
        return any(layer.wrapped for layer in self.layers)
