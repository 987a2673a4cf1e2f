"""One operation of a SavedModel with the values that it reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qebgate.adapters.keras.draft import Draft
from qebgate.adapters.npz import float32_constant
from qebgate.adapters.saved_model.nodes import Node
from qebgate.adapters.saved_model.values import Constant, Live, Value
from qebgate.errors import ModelError
from qebgate.ir.tensor import Array

MAX_ELEMENTS = 2**27


@dataclass(slots=True)
class Step:
    """One node with the values that it reads."""

    node: Node
    x: tuple[Value, ...]
    draft: Draft

    def live(self, k: int = 0) -> int:
        v = self.x[k] if k < len(self.x) else None
        return v.index if isinstance(v, Live) else self.node.refuse(f"input {k} is not a value of the network")

    def known(self, k: int) -> Constant:
        v = self.x[k] if k < len(self.x) else None
        return v if isinstance(v, Constant) else self.node.refuse(f"input {k} is not constant")

    def integers(self, k: int) -> list[int]:
        v = self.known(k).value
        return [int(i) for i in v.ravel()] if v.dtype.kind in "iu" else self.node.refuse(f"input {k} is no integers")

    def weights(self, k: int, ndim: int) -> Array:
        """Weights as the file has them, float32."""
        c = self.known(k)
        if not c.floats or not c.stored or c.value.ndim != ndim:
            self.node.refuse(f"weights of shape {c.value.shape}, computed or of another type")
        a = float32_constant(c.value.astype(np.float32), self.node.label)
        if not np.isfinite(a).all():
            raise ModelError("QEB417", "a constant is not finite", where=self.node.label)
        return a

    def shape(self, x: int) -> tuple[int, ...]:
        return self.draft.shapes[x]

    def emit(self, op: str, x: Sequence[int], shape: Sequence[int], attrs: object, **constants: Array | None) -> Live:
        out = tuple(int(n) for n in shape)
        if any(n <= 0 for n in out) or math.prod(out) > MAX_ELEMENTS:
            self.node.refuse(f"a result of shape {out}")
        return Live(self.draft.emit(op, tuple(x), out, attrs, self.node.name, **constants))


Build = Callable[[Step], Value]
