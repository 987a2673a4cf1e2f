"""The envelope that an operator states holds for every output of every runtime; zero tolerance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qebgate.ir.graph import Graph
from qebgate.ir.tensor import DType, Tensor
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.base import Activation, Rounding
from qebgate.semantics.delegation import owner
from qebgate.semantics.moves import MOVES
from qebgate.semantics.registry import SEMANTICS
from qebgate.semantics.resize_bilinear import ResizeBilinear
from tests.semantics.cases import CASES
from tests.semantics.compare import ABSENT, interpret, load
from tests.semantics.more_cases import FLOAT_ONLY
from tests.semantics.test_bit_exact import _refused, _wraps
from tests.support.tflite_builder import Builder

SEEDS = range(100, 118)
MOVING = {cls.name for cls in MOVES}


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


def _real(graph: Graph, x: np.ndarray, runtime: Runtime) -> np.ndarray:
    """Exact real results (float64) of one operator, before its activation."""
    source = graph.input
    real = x.astype(np.float64) if source.quant is None else source.q.dequantize(x)
    node = graph.nodes[0]
    if node.op in ("QUANTIZE", "DEQUANTIZE"):
        return real
    if node.op == "RESIZE_BILINEAR":  # between the positions that the kernel has, which are a linear map of its own
        rows, columns = ResizeBilinear().integer(node, graph, runtime)
        return columns.apply(rows.apply(real, 2), 3) / (rows.unit * columns.unit)
    shadow = _shadow(graph)
    args = [None if i < 0 else real if i == graph.inputs[0] else shadow.tensors[i].const for i in node.inputs]
    return SEMANTICS[node.op].run_float(shadow.nodes[0], shadow, args)


def _limits(graph: Graph, runtime: Runtime) -> tuple[int, int]:
    node, out = graph.nodes[0], graph.output
    kernel = owner(node, graph, runtime)
    attrs = node.attrs
    own = getattr(attrs, "activation", None) or getattr(SEMANTICS[node.op], "activation", Activation.NONE)
    return own.code_range(out, kernel)


@pytest.mark.parametrize("runtime", DEPLOYED)
@pytest.mark.parametrize(
    "op", sorted(set(CASES) - MOVING - FLOAT_ONLY - {"UNIDIRECTIONAL_SEQUENCE_LSTM"})
)  # rounds many times
def test_envelope(op: str, runtime: Runtime) -> None:
    inside = 0
    if (op, runtime) in ABSENT:
        return
    for seed in SEEDS:
        case = CASES[op](np.random.default_rng(seed))
        if op in ("ADD", "SUB") and _refused(case):
            continue
        graph = load(case.model)
        node, out = graph.nodes[0], graph.output
        theirs = interpret(case.model, case.x, runtime)[0].astype(np.float64)
        real = _real(graph, case.x, runtime)
        if op == "MUL" and _wraps(case, runtime):
            continue
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
    for op in ("RESHAPE", "PAD", "MAX_POOL_2D", "REDUCE_MAX", "MAXIMUM", *sorted(MOVING)):
        graph = load(CASES[op](np.random.default_rng(0)).model)
        assert all(SEMANTICS[op].rounding(graph.nodes[0], graph, r).exact for r in DEPLOYED)


@pytest.mark.parametrize("runtime", DEPLOYED)
def test_terms_that_cancel(runtime: Runtime) -> None:
    """ADD and MEAN of large terms with a small sum: the error goes with the terms."""
    rng = np.random.default_rng(0)
    for seed in range(60):
        s1, so = float(np.float32(rng.uniform(0.5, 1.0))), float(np.float32(0.0101))
        s2 = float(np.float32(s1 * rng.choice([1.0, 1.0 + 1e-4, 0.999])))
        b = Builder()
        x = b.tensor((1, 256), "int8", scale=s1, zero_point=0)
        c = b.tensor((1, 256), "int8", data=-np.clip(np.arange(-128, 128), -127, 127), scale=s2, zero_point=0)
        y = b.tensor((1, 256), "int8", scale=so, zero_point=seed - 30)
        b.op("ADD", [x, c], [y], version=2)
        _check_inside(b.build([x], [y]), np.arange(-128, 128).astype(np.int8).reshape(1, 1, 256), runtime)
        z = int(rng.integers(-128, 128))
        near = np.clip(z + rng.integers(-1, 2, (20, 1, 9, 32)), -128, 127).astype(np.int8)
        b = Builder()
        x = b.tensor((1, 9, 32), "int8", scale=s1, zero_point=z)
        a = b.tensor((1,), "int32", data=[1])
        y = b.tensor((1, 32), "int8", scale=so, zero_point=seed - 30)
        b.op("MEAN", [x, a], [y], version=2)
        _check_inside(b.build([x], [y]), near, runtime)


def test_softmax_of_many_tiny_terms() -> None:
    """Each of 511 summands is rounded to 2**-19 by the reference kernel, all in the same direction."""
    for scale in np.linspace(13.0, 14.5, 31) / 32:
        b = Builder()
        x = b.tensor((1, 511), "int8", scale=scale, zero_point=0)
        y = b.tensor((1, 511), "int8", scale=1 / 256, zero_point=-128)
        b.op("SOFTMAX", [x], [y], version=2, beta=1.0)
        codes = np.full((1, 1, 511), 0, np.int8)
        codes[0, 0, 7] = 32
        for runtime in DEPLOYED:
            _check_inside(b.build([x], [y]), codes, runtime)


def _check_inside(model: bytes, x: np.ndarray, runtime: Runtime) -> None:
    graph = load(model)
    node, out = graph.nodes[0], graph.output
    theirs = interpret(model, x, runtime)[0].astype(np.float64)
    y = np.clip(_real(graph, x, runtime) / out.q.s + out.q.z, -128, 127)
    assert (np.abs(theirs - y) <= SEMANTICS[node.op].rounding(node, graph, runtime).above + 1e-9).all()
