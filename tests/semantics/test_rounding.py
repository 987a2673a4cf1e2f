"""The envelope that an operator states holds for every output of every runtime; zero tolerance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qebgate.ir.graph import Graph
from qebgate.ir.tensor import DType, Tensor
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.base import Activation, Rounding
from qebgate.semantics.delegation import owner
from qebgate.semantics.registry import SEMANTICS
from tests.semantics.cases import CASES
from tests.semantics.compare import interpret, load
from tests.semantics.test_bit_exact import _refused

SEEDS = range(100, 118)


def _shadow(graph: Graph) -> Graph:
    """The real-valued twin: constants dequantized, the fused activation left out."""
    node = graph.nodes[0]
    tensors = list(graph.tensors)
    for k, i in enumerate(node.inputs):
        if i >= 0 and (t := tensors[i]).const is not None:
            if t.dtype.is_code:
                const = t.q.dequantize(t.const)
            elif k == 2:
                x, w = graph.tensors[node.inputs[0]], graph.tensors[node.inputs[1]]
                const = t.const.astype(np.float64) * (x.q.s * w.q.scale)
            else:
                continue
            tensors[i] = Tensor(t.name, t.shape, DType.FLOAT32, None, const)
    attrs = node.attrs
    if hasattr(attrs, "activation"):
        attrs = replace(attrs, activation=Activation.NONE)
    return replace(graph, tensors=tuple(tensors), nodes=(replace(node, attrs=attrs),))


def _real(graph: Graph, x: np.ndarray) -> np.ndarray:
    """Exact real results (float64) of one operator, before its activation."""
    source = graph.input
    real = x.astype(np.float64) if source.quant is None else source.q.dequantize(x)
    node = graph.nodes[0]
    if node.op in ("QUANTIZE", "DEQUANTIZE"):
        return real
    shadow = _shadow(graph)
    args = [None if i < 0 else real if i == graph.inputs[0] else shadow.tensors[i].const for i in node.inputs]
    return SEMANTICS[node.op].run_float(shadow.nodes[0], shadow, args)


def _limits(graph: Graph, runtime: Runtime) -> tuple[int, int]:
    node, out = graph.nodes[0], graph.output
    kernel = owner(node, graph, runtime)
    attrs = node.attrs
    own = getattr(attrs, "activation", None) or getattr(SEMANTICS[node.op], "activation", Activation.NONE)
    return own.code_range(out, kernel)


@pytest.mark.parametrize("runtime", Runtime)
@pytest.mark.parametrize("op", sorted(CASES))
def test_envelope(op: str, runtime: Runtime) -> None:
    inside = 0
    for seed in SEEDS:
        case = CASES[op](np.random.default_rng(seed))
        if op == "ADD" and _refused(case):
            continue
        graph = load(case.model)
        node, out = graph.nodes[0], graph.output
        theirs = interpret(case.model, case.x, runtime)[0].astype(np.float64)
        real = _real(graph, case.x)
        envelope = SEMANTICS[op].rounding(node, graph, runtime)
        slack = 1e-9  # of this test's own float64 arithmetic
        if op == "DEQUANTIZE":
            assert (np.abs(theirs - real) <= envelope.above * graph.input.q.s * (1 + slack)).all()
            inside += theirs.size
            continue
        if op in ("RELU", "RELU6"):
            real = np.maximum(real, 0.0) if op == "RELU" else np.clip(real, 0.0, 6.0)
        lo, hi = _limits(graph, runtime)
        y = real / out.q.s
        reached = np.abs(y) <= Rounding.REACH
        low = theirs - out.q.z >= y - envelope.below - slack
        high = theirs - out.q.z <= y + envelope.above + slack
        assert (low | (theirs >= hi) | ~reached).all(), f"seed {seed}"
        assert (high | (theirs <= lo) | ~reached).all(), f"seed {seed}"
        # beyond the reach every runtime saturates on the right side
        assert (theirs[y > Rounding.REACH] >= hi).all(), f"seed {seed}"
        assert (theirs[y < -Rounding.REACH] <= lo).all(), f"seed {seed}"
        inside += int(((theirs > lo) & (theirs < hi)).sum())
    assert inside > 1000


def test_reshapes_and_maxima_move_codes_only() -> None:
    for op in ("RESHAPE", "PAD", "MAX_POOL_2D"):
        graph = load(CASES[op](np.random.default_rng(0)).model)
        assert all(SEMANTICS[op].rounding(graph.nodes[0], graph, r).exact for r in Runtime)
