"""The float32 error bounds hold in LiteRT's three runtimes and in numpy; zero tolerance."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from qebgate.ir.graph import Graph, Node
from qebgate.semantics.float_error import (
    ELU_ULPS,
    EXP_ULPS,
    GELU_ULPS,
    LOGISTIC_ULPS,
    ROOT_ULPS,
    TANH_ULPS,
    Computed,
    _added,
    float_error,
)
from qebgate.semantics.moves import MOVES
from qebgate.semantics.registry import SEMANTICS
from tests.laws.pairs import float_twin
from tests.semantics.cases import CASES, Rng, output_shape, pick
from tests.semantics.compare import interpret, load, runtimes_of
from tests.semantics.more_cases import MORE
from tests.support.tflite_builder import Builder

FLOAT_OPS = sorted(set(SEMANTICS) - {"QUANTIZE", "DEQUANTIZE"})
UNROUNDED = {
    *("ABS", "MAXIMUM", "MAX_POOL_2D", "MINIMUM", "NEG", "PAD", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6", "RESHAPE"),
    *(cls.name for cls in MOVES),
}
"""Their values are entries of their inputs, limits or magnitudes: nothing is rounded."""


CRUDE = {"UNIDIRECTIONAL_SEQUENCE_LSTM"}
"""Its bounds come from :mod:`qebgate.ops.lstm_steps`; the rule here lets no error cancel another."""


def _values(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """Ordinary values, values of very different sizes, and sums that cancel."""
    kind = rng.integers(3)
    v = rng.normal(size=shape)
    if kind == 1:
        v *= 10.0 ** rng.uniform(-6, 6, shape)
    if kind == 2:
        v = 1000.0 * np.sign(v) + v * 1e-3
    return v.astype(np.float32)


def float_case(op: str, rng: Rng, batch: int = 12) -> tuple[bytes, np.ndarray]:
    """A float model of one operator and inputs for it."""
    if op in MORE or op == "TRANSPOSE_CONV":
        return _float_twin_case(op, rng, batch)
    b = Builder()
    act = int(pick(rng, 0, 0, 1, 2, 3))
    if op == "FULLY_CONNECTED":
        n, m = int(rng.integers(1, 400)), int(rng.integers(1, 20))
        shape = (1, n)
        x, w = b.tensor(shape), b.tensor((m, n), data=_values(rng, (m, n)))
        y = b.tensor((1, m))
        ins = [x, w, b.tensor((m,), data=_values(rng, (m,)))] if rng.random() < 0.7 else [x, w, -1]
        b.op(op, ins, [y], fused_activation=act)
    elif op in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        h, c, m, k, s = (
            int(v)
            for v in (rng.integers(4, 9), rng.integers(1, 9), rng.integers(1, 9), pick(rng, 1, 3), rng.integers(1, 3))
        )
        shape, same = (1, h, h, c), bool(rng.integers(2))
        p, q = output_shape(h, h, (k, k), (s, s), (1, 1), same)
        deep = op == "DEPTHWISE_CONV_2D"
        out = c * m if deep else m
        x = b.tensor(shape)
        ws = (1, k, k, out) if deep else (m, k, k, c)
        w, bias = b.tensor(ws, data=_values(rng, ws)), b.tensor((out,), data=_values(rng, (out,)))
        y = b.tensor((1, p, q, out))
        more = {"depth_multiplier": m} if deep else {}
        b.op(op, [x, w, bias], [y], fused_activation=act, padding=0 if same else 1, stride_h=s, stride_w=s, **more)
    elif op in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        h, c, k, s = (int(v) for v in (rng.integers(4, 12), rng.integers(1, 9), rng.integers(1, 4), rng.integers(1, 3)))
        shape, same = (1, h, h, c), bool(rng.integers(2))
        p, q = output_shape(h, h, (k, k), (s, s), (1, 1), same)
        x, y = b.tensor(shape), b.tensor((1, p, q, c))
        b.op(
            op,
            [x],
            [y],
            fused_activation=act,
            padding=0 if same else 1,
            stride_h=s,
            stride_w=s,
            filter_height=k,
            filter_width=k,
        )
    elif op == "MEAN":
        shape = (1, *(int(v) for v in rng.integers(1, 12, 3)))
        axes, keep = pick(rng, (1, 2), (1,), (3,), (1, 2, 3)), bool(rng.integers(2))
        x, a = b.tensor(shape), b.tensor((len(axes),), "int32", data=list(axes))
        y = b.tensor([1 if k in axes else n for k, n in enumerate(shape) if keep or k not in axes])
        b.op(op, [x, a], [y], keep_dims=keep)
    elif op == "ADD":
        shape = (1, int(rng.integers(1, 200)))
        x, c, y = b.tensor(shape), b.tensor(shape, data=_values(rng, shape)), b.tensor(shape)
        b.op(op, [x, c], [y], fused_activation=act)
    elif op == "PAD":
        shape = (1, 3, 4)
        x, p, y = b.tensor(shape), b.tensor((3, 2), "int32", data=[(0, 0), (1, 2), (0, 3)]), b.tensor((1, 6, 7))
        b.op(op, [x, p], [y])
    elif op == "RESHAPE":
        shape = (1, 12)
        x, p, y = b.tensor(shape), b.tensor((2,), "int32", data=[3, 4]), b.tensor((3, 4))
        b.op(op, [x, p], [y])
    elif op == "SOFTMAX":
        shape = (1, int(pick(rng, 1, 2, 10, 300)))
        x, y = b.tensor(shape), b.tensor(shape)
        b.op(op, [x], [y], beta=float(pick(rng, 1.0, 1.0, 0.3, 4.0)))
    else:
        shape = (1, 300)
        x, y = b.tensor(shape), b.tensor(shape)
        b.op(op, [x], [y])
    return b.build([x], [y]), _values(rng, (batch, *shape))


def _float_twin_case(op: str, rng: Rng, batch: int) -> tuple[bytes, np.ndarray]:
    """The float model of a quantized case, with constants as nasty as its inputs."""
    m = schema.ModelT.InitFromPackedBuf(float_twin(CASES[op](rng).model, rng), 0)
    g = m.subgraphs[0]
    for t in g.tensors:
        raw = m.buffers[t.buffer].data if t.buffer else None
        if t.type == schema.TensorType.FLOAT32 and raw is not None and len(raw):
            m.buffers[t.buffer].data = np.frombuffer(_values(rng, tuple(t.shape)).tobytes(), np.uint8)
    fb = flatbuffers.Builder(1024)
    fb.Finish(m.Pack(fb), file_identifier=b"TFL3")
    x = _values(rng, (batch, *g.tensors[g.inputs[0]].shape))
    return bytes(fb.Output()), np.abs(x) if op in ("RSQRT", "SQRT") else x


def computed(x: np.ndarray) -> Computed:
    """Bounds of a batch of inputs."""
    wide = x.astype(np.float64)
    return Computed(wide.min(axis=0), wide.max(axis=0))


def _made_by(graph: Graph) -> Node:
    """The node of the output (a SPLIT is one node for each part)."""
    return next(n for n in graph.nodes if graph.outputs[0] in n.outputs)


def _exact(graph: Graph, x: np.ndarray) -> np.ndarray:
    node = _made_by(graph)
    wide = x.astype(np.float64)
    args = [None if i < 0 else wide if i == graph.inputs[0] else graph.tensors[i].const for i in node.inputs]
    args = [a.astype(np.float64) if a is not None and a.dtype == np.float32 else a for a in args]
    return SEMANTICS[node.op].run_float(node, graph, args)


@pytest.mark.parametrize("op", FLOAT_OPS)
def test_bound_holds_everywhere(op: str) -> None:
    used = 0.0
    for seed in range(16):
        model, x = float_case(op, np.random.default_rng(seed))
        graph = load(model)
        node = _made_by(graph)
        exact = _exact(graph, x)
        e = float_error(node, graph, [computed(x) if i == graph.inputs[0] else None for i in node.inputs])
        assert e.shape == graph.output.shape
        assert (e >= 0).all()
        outputs = {r.value: interpret(model, x, r)[0] for r in runtimes_of(graph)}
        args = [None if i < 0 else x if i == graph.inputs[0] else graph.tensors[i].const for i in node.inputs]
        outputs["numpy"] = SEMANTICS[op].run_float(node, graph, args)
        assert outputs["numpy"].dtype == np.float32
        for runtime, y in outputs.items():
            gap = np.abs(y.astype(np.float64) - exact)
            assert (gap <= e).all(), f"seed {seed} {runtime}: {float((gap / np.maximum(e, 1e-300)).max())} of the bound"
            used = max(used, float((gap / np.maximum(e, 1e-300)).max()))
    if op in UNROUNDED:
        assert used == 0.0
    else:
        assert used > (1e-6 if op in CRUDE else 1e-3)  # the bound is not absurdly loose


def _sweep() -> np.ndarray:
    rng = np.random.default_rng(0)
    parts = (
        np.linspace(-20, 20, 200_001),
        np.linspace(-105, 105, 50_001),
        rng.normal(size=50_000) * 10.0 ** rng.uniform(-8, 2, 50_000),
    )
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize(
    ("op", "options"),
    [
        ("ELU", {}),
        ("GELU", {"approximate": False, "version": 2}),
        ("GELU", {"approximate": True, "version": 2}),
        ("LOGISTIC", {}),
        ("RSQRT", {}),
        ("SQRT", {}),
        ("TANH", {}),
    ],
)
def test_dense_sweep_stays_well_inside(op: str, options: dict[str, Any]) -> None:
    """The stated envelopes keep a factor of at least 4 to what is measured."""
    x = np.maximum(np.abs(_sweep()), np.float32(1e-9)) if op in ("RSQRT", "SQRT") else _sweep()
    b = Builder()
    i, o = b.tensor((1, x.size)), b.tensor((1, x.size))
    b.op(op, [i], [o], **options)
    graph = load(b.build([i], [o]))
    exact = SEMANTICS[op].run_float(graph.nodes[0], graph, [x.astype(np.float64)])
    wide = x.astype(np.float64)[None]
    e = float_error(graph.nodes[0], graph, [Computed(wide, wide)]).reshape(-1)
    for runtime in runtimes_of(graph):
        y = interpret(b.build([i], [o]), x[None, None], runtime)[0].reshape(-1)
        assert (np.abs(y - exact) <= e / 4.0).all()


def test_the_envelopes_are_named() -> None:
    assert LOGISTIC_ULPS == 16.0
    assert TANH_ULPS == 24.0
    assert ELU_ULPS == 24.0
    assert GELU_ULPS == 48.0
    assert EXP_ULPS == 16.0
    assert ROOT_ULPS == 12.0


def _most(v: list[float]) -> float:
    """The largest sum of all subtotals' magnitudes, over every tree of additions."""
    n = len(v)
    sums = [sum(v[i] for i in range(n) if m >> i & 1) for m in range(1 << n)]
    best = [0.0] * (1 << n)
    for m in range(1, 1 << n):
        part, most = (m - 1) & m, 0.0
        while part:
            most = max(most, best[part] + best[m ^ part])
            part = (part - 1) & m
        best[m] = 0.0 if m & (m - 1) == 0 else most + abs(sums[m])
    return best[-1]


def test_no_tree_of_additions_adds_more() -> None:
    rng = np.random.default_rng(0)
    used = []
    for trial in range(150):
        v = rng.normal(size=rng.integers(2, 9)) * 10.0 ** rng.uniform(-1.5, 0)
        v = np.sign(v) if trial % 5 == 0 else np.append(v[:-1], -v[:-1].sum()) if trial % 3 == 0 else v
        products, b = v[None, None, :-1], v[-1:]
        bound = float(_added(products, products, (np.minimum(b, 0.0), np.maximum(b, 0.0))).item())
        most = _most(v.tolist())
        assert most <= bound * (1 + 1e-12)
        used.append(most / bound)
    assert max(used) > 0.999
    assert np.mean(used) > 0.7


def test_no_bound_where_float32_overflows() -> None:
    model, x = float_case("FULLY_CONNECTED", np.random.default_rng(0))
    graph = load(model)
    node = graph.nodes[0]
    huge = Computed.within(np.full(x.shape[1:], 1e38))
    assert np.isinf(float_error(node, graph, [huge if i == graph.inputs[0] else None for i in node.inputs])).any()
