"""The contract of a lowering, and what most of them share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from qebgate.domains.gap import I64, Interval
from qebgate.domains.layers import Affine, CodeGrid, Layer, Noise
from qebgate.domains.linear_map import LinearMap
from qebgate.errors import AlignmentError, UnsupportedError
from qebgate.ir.graph import Graph, Node
from qebgate.ir.pair import Pair, Step
from qebgate.ir.tensor import Tensor
from qebgate.numerics.rounding import F64, U32, U64
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import Activation
from qebgate.semantics.delegation import owner
from qebgate.semantics.emulation import rounding
from qebgate.semantics.float_error import Computed, float_error
from qebgate.semantics.registry import ALL_SEMANTICS

FLUSHING = frozenset({"RELU", "RELU6"})
"""Operators that move values, except that a runtime may flush subnormal ones to zero."""
FOLDING_SHARE = 2 * U64 / U32
"""Rounding of folded weights relative to the bound on float32's evaluation: fewer roundings, of 2**-53 each."""


@dataclass(frozen=True)
class Context:
    """What a lowering may ask: the pair, the runtime whose rounding counts, float32 noise or not."""

    pair: Pair
    runtime: Runtime
    float32: bool
    _fresh: Iterator[int] = field(default_factory=lambda: itertools.count(1_000_000))

    def fresh(self) -> int:
        """A new position for a value that exists in no graph."""
        return next(self._fresh)

    def same(self, step: Step, a: object, b: object, what: str) -> None:
        """AlignmentError unless two facts about a step's two nodes are equal."""
        if a != b:
            raise AlignmentError(
                "QEB470",
                f"not the same network: {label(step)} has different {what} in the two models",
                found=f"{a} and {b}",
            )

    def noise(self, step: Step) -> Noise | None:
        """The float32 evaluation error of a step's float node; None in real arithmetic.

        Weights that were folded in float64 are not exact: in real arithmetic their rounding is left.
        """
        node, graph = step.float_node, self.pair.float
        if node is None or not (self.float32 or node.folded):
            return None
        share = 1.0 if self.float32 else FOLDING_SHARE
        place = {self.pair.values[p].float_tensor: k for k, p in enumerate(step.inputs)}

        def evaluate(computed: Sequence[Interval]) -> F64:
            given = [computed[place[i]] if i in place else None for i in node.inputs]
            shaped = [
                None if x is None else Computed(x.lo, x.hi).reshape(*graph.tensors[i].shape)
                for x, i in zip(given, node.inputs, strict=True)
            ]
            return float_error(node, graph, shaped).ravel() * share

        return evaluate


class Lowering(Protocol):
    """Turns one aligned step into canonical layers; the last one defines ``step.output``."""

    op: str

    def lower(self, step: Step, ctx: Context) -> list[Layer]: ...


def spread(per_channel: F64, size: int) -> F64:
    """One entry, or one per last-axis channel, repeated over all ``size`` entries of a tensor."""
    return np.tile(per_channel, size // per_channel.size)


def code_grid(t: Tensor, code_range: tuple[int, int] | None = None) -> CodeGrid | None:
    """The grid of an integer tensor; None for a float one."""
    if not t.dtype.is_code:
        return None
    lo, hi = code_range or t.dtype.code_range
    return CodeGrid(t.q.s, t.q.z, lo, hi)


def needed_grid(node: Node, graph: Graph) -> CodeGrid:
    """The grid of a node's output; UnsupportedError where the quantized model computes it in float32."""
    grid = code_grid(graph.tensors[node.outputs[0]])
    if grid is None:
        raise UnsupportedError(
            "QEB435",
            f"no bounds are implemented for {node.op} in float32 inside a quantized model",
            where=f"{graph.source.label}: {node.origin}",
        )
    return grid


def clamp_grid(node: Node, graph: Graph, runtime: Runtime, activation: Activation) -> CodeGrid | None:
    """The grid of a node's output, clamped by its fused activation as the kernel that executes it does.

    A delegate that leaves the node to another runtime leaves the rounding of the clamp's limits to it too.
    """
    out = graph.tensors[node.outputs[0]]
    return code_grid(out, activation.code_range(out, owner(node, graph, runtime))) if out.dtype.is_code else None


def rounding_of(node: Node, graph: Graph, runtime: Runtime) -> tuple[F64, F64]:
    """The envelope of a node in real units, [m] each (DEQUANTIZE states it in quanta of its input)."""
    out = graph.tensors[node.outputs[0]]
    if graph.computes_in_float(node):
        return np.zeros(out.size), np.zeros(out.size)
    r = rounding(node, graph, runtime)
    unit = (out if out.dtype.is_code else graph.tensors[node.inputs[0]]).q.s
    # one rounding of the product: nextafter outwards; exact zeros stay zero
    scale = lambda x: np.where(x > 0, np.nextafter(x * unit, np.inf), 0.0)  # noqa: E731
    return spread(scale(r.below), out.size), spread(scale(r.above), out.size)


def monotone_kernel(node: Node, graph: Graph, runtime: Runtime):
    """Codes in, codes out, through the exact integer kernel; None where an input is no code, or there is no one kernel.

    Only for operators whose kernel is non-decreasing in every input code.
    """
    live = [i for i in node.inputs if i >= 0 and not graph.tensors[i].is_const]
    if len(runtime.members) > 1 and not rounding(node, graph, runtime).exact:
        return None
    runtime = runtime.members[0]
    if not all(graph.tensors[i].dtype.is_code for i in live) or not graph.tensors[node.outputs[0]].dtype.is_code:
        return None

    def run(codes: Sequence[I64]) -> I64:
        it = iter(codes)
        args = [
            None
            if i < 0
            else graph.tensors[i].const
            if graph.tensors[i].is_const
            else next(it).reshape(1, *graph.tensors[i].shape).astype(np.int32)
            for i in node.inputs
        ]
        return ALL_SEMANTICS[node.op].run_int(node, graph, args, runtime).ravel().astype(np.int64)

    return run


def moved(
    step: Step, ctx: Context, f: LinearMap, q: LinearMap, *, float_range: tuple[float, float] = (-np.inf, np.inf)
) -> Affine:
    """An exact linear layer without rounding on either side (RESHAPE, PAD of zeros, a standalone ReLU)."""
    out = ctx.pair.tensors(step.output)[1]
    node = step.quantized_node
    zero = np.zeros(f.m)
    return Affine(
        label=label(step),
        inputs=step.inputs,
        output=step.output,
        f=(f,),
        q=(q,),
        bf=zero,
        bq=zero,
        float_range=float_range,
        below=zero,
        above=zero,
        grid=code_grid(out),
        noise=ctx.noise(step) if step.float_node is not None and step.float_node.op in FLUSHING else None,
        codes_of_inputs=(lambda c: c[0]) if node is None else monotone_kernel(node, ctx.pair.quantized, ctx.runtime),
    )


def label(step: Step) -> str:
    """How a layer is named in explanations."""
    node = step.quantized_node or step.float_node
    assert node is not None
    return node.origin
