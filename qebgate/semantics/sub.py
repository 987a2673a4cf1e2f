"""SUB of two tensors (tensorflow/lite/kernels/sub.cc, XNNPACK qs8-vadd with a negated multiplier)."""

from __future__ import annotations

from typing import ClassVar

from qebgate.ir.tensor import Array
from qebgate.semantics.add import Add


class Sub(Add):
    name = "SUB"
    max_version = 3
    sign: ClassVar[int] = -1

    def function(self, a: Array, b: Array) -> Array:
        return a - b
