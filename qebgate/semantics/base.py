"""The contract of an operator's exact meaning.

Values carry an extra leading axis: a tensor of shape ``(1, H, W, C)`` is executed for ``B`` inputs at
once as an array ``[B, 1, H, W, C]``.  Constants have no such axis; trailing axes align.  Codes are
int32 arrays, floats are float32 or float64 arrays (whatever the input is).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Protocol

import numpy as np

from qebgate.errors import UnsupportedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import Array, DType, Tensor
from qebgate.numerics.fixed_point import activation_limit
from qebgate.numerics.rounding import F64
from qebgate.runtimes.profiles import Runtime


class Options(Protocol):
    """Typed access to an operator's options table, by the slot number of the file format's schema."""

    def int8(self, slot: int, default: int = 0) -> int: ...
    def int32(self, slot: int, default: int = 0) -> int: ...
    def float32(self, slot: int, default: float = 0.0) -> float: ...
    def bool(self, slot: int, default: bool = False) -> bool: ...
    def integers(self, slot: int) -> tuple[int, ...]: ...


class Activation(IntEnum):
    """Fused activation functions, with the schema's numbers."""

    NONE = 0
    RELU = 1
    RELU_N1_TO_1 = 2
    RELU6 = 3

    @property
    def range(self) -> tuple[float, float]:
        """The clamp ``[a, b]`` in real units; infinite where there is none."""
        inf = float("inf")
        return {0: (-inf, inf), 1: (0.0, inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}[int(self)]

    @classmethod
    def parse(cls, value: int) -> Activation:
        try:
            return cls(value)
        except ValueError:
            raise UnsupportedError(
                "QEB431", "an operator has a fused activation that is not supported", found=f"activation {value}"
            ) from None

    def code_range(self, out: Tensor, runtime: Runtime) -> tuple[int, int]:
        """Smallest and largest code after the fused activation, as the runtime's kernels set them."""
        lo, hi = out.dtype.code_range
        a, b = self.range
        even = runtime is Runtime.XNNPACK
        if np.isfinite(a):
            lo = max(lo, activation_limit(a, out.q.s, out.q.z, ties_even=even))
        if np.isfinite(b):
            hi = min(hi, activation_limit(b, out.q.s, out.q.z, ties_even=even))
        return lo, hi


@dataclass(frozen=True, slots=True, eq=False)
class Rounding:
    """Envelope of a requantization: before the clamp, ``-below <= code - zero_point - y <= above``.

    ``y`` is the exact real result in output quanta, ``|y| <= REACH`` (beyond it every runtime saturates
    as the exact result would).  Arrays of length 1 or of the output's last axis.  Zero for operators
    that only move codes.
    """

    below: F64
    above: F64

    REACH: ClassVar[float] = 1024.0

    @classmethod
    def symmetric(cls, dev: F64 | float) -> Rounding:
        d = np.atleast_1d(np.asarray(dev, np.float64))
        return cls(d, d)

    @property
    def exact(self) -> bool:
        return not (self.below.any() or self.above.any())


EXACT = Rounding.symmetric(0.0)


class Semantics(ABC):
    """One operator: how it is read, what it requires, what it computes."""

    name: ClassVar[str]
    """The builtin operator's name in the schema."""
    max_version: ClassVar[int] = 9
    """Newest operator version whose meaning is known; a newer one is refused."""

    def parse(self, options: Options) -> object:
        """The operator's attributes; raises UnsupportedError."""
        del options
        return None

    def arrange(self, node: Node, tensors: Sequence[Tensor]) -> Node:
        """The node of a file as the rest of qebgate reads it; raises UnsupportedError."""
        del tensors
        return node

    def check(self, node: Node, graph: Graph) -> None:
        """Raise UnsupportedError or ModelError where the node is not what the executors assume."""

    @abstractmethod
    def run_float(self, node: Node, graph: Graph, inputs: Sequence[Array | None]) -> Array:
        """Execute in the inputs' float type, including the fused activation."""

    @abstractmethod
    def run_int(self, node: Node, graph: Graph, inputs: Sequence[Array | None], runtime: Runtime) -> Array:
        """Execute on codes as the runtime does, bit for bit."""

    def rounding(self, node: Node, graph: Graph, runtime: Runtime) -> Rounding:
        """The envelope of this node's requantization in a runtime (see :class:`Rounding`)."""
        del node, graph, runtime
        return EXACT


def tensor(graph: Graph, index: int) -> Tensor:
    """The tensor at an index."""
    return graph.tensors[index]


def require(
    condition: bool, message: str, node: Node, graph: Graph, found: object = None, fix: str | None = None
) -> None:
    """Raise an UnsupportedError that names the node unless the condition holds."""
    if not condition:
        raise UnsupportedError(
            "QEB432",
            message,
            where=f"{graph.source.label}: {node.origin}",
            found=None if found is None else str(found),
            fix=fix,
        )


def check_limits(activation: Activation, node: Node, graph: Graph) -> None:
    """The codes of a fused activation's limits must fit in the kernels' 32 bits (LiteRT refuses the others)."""
    s = graph.tensors[node.outputs[0]].q.s
    worst = max((abs(v) / s for v in activation.range if np.isfinite(v)), default=0.0)
    require(worst < 2.0**30, "the output's scale is too small for the activation's limits", node, graph, s)


def apply_activation(x: Array, activation: Activation) -> Array:
    """The float clamp of a fused activation."""
    a, b = activation.range
    if activation is Activation.NONE:
        return x
    return np.clip(x, x.dtype.type(a), x.dtype.type(b))


INT8 = DType.INT8
UINT8 = DType.UINT8
FLOAT32 = DType.FLOAT32
