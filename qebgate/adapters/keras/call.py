"""One call of a layer: what it reads, and how its operators are written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from qebgate.adapters.keras.draft import Draft
from qebgate.adapters.keras.network import Layer
from qebgate.adapters.keras.settings import Settings
from qebgate.adapters.keras.weights import Weights
from qebgate.errors import UnsupportedError
from qebgate.ir.tensor import Array
from qebgate.semantics.softmax import SoftmaxAttrs
from qebgate.semantics.tables import GeluAttrs

MAX_ELEMENTS = 2**27
ACTIVATIONS = MappingProxyType(
    {
        "relu": "RELU",
        "relu6": "RELU6",
        "sigmoid": "LOGISTIC",
        "tanh": "TANH",
        "softmax": "SOFTMAX",
        "elu": "ELU",
        "gelu": "GELU",
        "hard_swish": "HARD_SWISH",
        "hard_silu": "HARD_SWISH",
    }
)


@dataclass(slots=True)
class Call:
    """One call of a layer: ``x`` are the values it reads."""

    draft: Draft
    weights: Weights
    layer: Layer
    s: Settings
    x: tuple[int, ...]
    keras: int

    @property
    def name(self) -> str:
        return self.layer.name

    def only(self, *ranks: int) -> int:
        """The only input, which has one of these numbers of axes (any where none is given)."""
        if len(self.x) != 1:
            raise self.refuse(f"{len(self.x)} inputs")
        (x,) = self.x
        if ranks and len(self.shape(x)) not in ranks:
            raise self.refuse(f"an input of shape {self.shape(x)}")
        return x

    def shape(self, x: int) -> tuple[int, ...]:
        return self.draft.shapes[x]

    def variables(self, **shapes: tuple[int, ...]) -> list[Array]:
        return self.weights.of(self.layer, list(shapes), list(shapes.values()))

    def emit(
        self, op: str, x: tuple[int, ...], shape: tuple[int, ...], attrs: object, **constants: Array | None
    ) -> int:
        if any(d <= 0 for d in shape) or math.prod(shape) > MAX_ELEMENTS:
            raise UnsupportedError(
                "QEB416", "a tensor is too large, or has no elements", where=f"{self.s.where}: {self.layer.label}",
                found=str(shape),
            )  # fmt: skip
        return self.draft.emit(op, x, shape, attrs, self.name, **constants)

    def reshape(self, x: int, shape: tuple[int, ...]) -> int:
        return self.draft.reshape(x, shape, self.name)

    def activate(self, x: int, key: str = "activation") -> int:
        """The layer's own activation function."""
        kind = self.s.one_of(key, ("linear", *ACTIVATIONS, None))
        if kind in (None, "linear"):
            return x
        return self.apply(ACTIVATIONS[kind], x)

    def apply(self, op: str, x: int) -> int:
        attrs: object = {"SOFTMAX": SoftmaxAttrs(1.0), "GELU": GeluAttrs(approximate=False)}.get(op)
        return self.emit(op, (x,), self.shape(x), attrs)

    def refuse(self, found: str) -> UnsupportedError:
        return UnsupportedError(
            "QEB479",
            "a layer is used in a way that is not supported",
            where=f"{self.s.where}: {self.layer.label}",
            found=found,
        )


Build = Callable[[Call], int]
