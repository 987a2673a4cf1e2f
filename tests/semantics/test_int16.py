"""int16 activations with int8 weights: the kernels alone, and converted models, bit for bit in every runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.engines import portfolio
from qebgate.engines.concrete import Inputs, Session, float_outputs, quantized_outputs
from qebgate.engines.dra.engine import Dra
from qebgate.errors import ModelError
from qebgate.evidence import Bound, Witness
from qebgate.ir.align import align
from qebgate.ir.graph import Scheme
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.execute import run_int
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.registry import SEMANTICS
from qebgate.task import Budget, Task
from tests.semantics.compare import interpret, load
from tests.support.tflite_builder import Builder

MODELS = Path(__file__).resolve().parents[1] / "models" / "schemes"
LINEAR = ["FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"]


def _linear(rng: np.random.Generator, op: str, *, bias: str = "int64", ties: bool = False) -> tuple[bytes, np.ndarray]:
    """One operator with weights, and inputs with both ends; scales that are powers of two give ties."""
    b, (m, n) = Builder(), (int(rng.integers(1, 20)), int(rng.integers(1, 40)))
    sx, sw = rng.uniform(1e-5, 1e-3), rng.uniform(0.001, 0.02, m if rng.random() < 0.6 else 1)
    if ties:
        sx, sw = 2.0**-12, np.full(sw.size, 2.0**-7)
    if op == "FULLY_CONNECTED":
        shape, wshape, yshape, axis, options = (1, n), (m, n), (1, m), 0, {}
    elif op == "CONV_2D":
        shape, wshape, yshape, axis, options = (1, 4, 3, n), (m, 1, 1, n), (1, 4, 3, m), 0, {}
    else:
        shape, wshape, yshape, axis, n = (1, 4, 3, m), (1, 1, 1, m), (1, 4, 3, m), 3, 1
        options = {"depth_multiplier": 1}
    if op != "FULLY_CONNECTED":
        options |= {"stride_w": 1, "stride_h": 1, "padding": 1}
    if op != "DEPTHWISE_CONV_2D":
        options["quantized_bias_type"] = 4
    sy = 2.0**-11 if ties else sx * sw.mean() * 100 * np.sqrt(n) * rng.uniform(0.3, 3)
    x = b.tensor(shape, "int16", scale=np.float32(sx))
    w = b.tensor(wshape, "int8", data=rng.integers(-127, 128, wshape), scale=sw, axis=axis if sw.size > 1 else 0)
    scale = np.float32(sx) * sw.astype(np.float32)
    c = b.tensor((m,), bias, data=rng.integers(-100_000, 100_000, m), scale=scale)
    y = b.tensor(yshape, "int16", scale=np.float32(sy))
    version = {"FULLY_CONNECTED": 11, "CONV_2D": 7, "DEPTHWISE_CONV_2D": 5}[op]
    b.op(op, [x, w, c], [y], version=version, fused_activation=int(rng.integers(0, 2)) * 3, **options)
    data = rng.integers(-32768, 32768, (24, *shape)).astype(np.int16)
    data[0], data[1] = 32767, -32768
    return b.build([x], [y]), data


@pytest.mark.parametrize("op", LINEAR)
@pytest.mark.parametrize("ties", [False, True])
def test_operators_with_weights(op: str, ties: bool) -> None:
    compared = 0
    for seed in range(8):
        model, x = _linear(np.random.default_rng(seed), op, ties=ties)
        graph = load(model)
        for runtime in DEPLOYED:
            theirs, delegated = interpret(model, x, runtime)
            assert not delegated
            np.testing.assert_array_equal(run_int(graph, x, runtime)[graph.outputs[0]], theirs)
            compared += theirs.size
    assert compared > 1000


@pytest.mark.parametrize("op", LINEAR)
def test_roundings_of_operators_with_weights(op: str) -> None:
    """Unclamped codes are within the stated envelope of the exact real result."""
    worst = 0.0
    for seed in range(20, 28):
        model, x = _linear(np.random.default_rng(seed), op)
        graph = load(model)
        node, lin = graph.nodes[0], LinearNode.of(graph.nodes[0], graph)
        acc = x.astype(np.float64) * (1 if op != "DEPTHWISE_CONV_2D" else lin.weights.reshape(-1).astype(np.float64))
        if op != "DEPTHWISE_CONV_2D":
            acc = acc @ lin.weights.reshape(len(lin.weights), -1).T.astype(np.float64)
        real = (acc + lin.bias) * (lin.x.q.s * lin.w.q.scale) / lin.y.q.s
        envelope = SEMANTICS[op].rounding(node, graph, Runtime.BUILTIN)
        code = run_int(graph, x, Runtime.BUILTIN)[graph.outputs[0]].astype(np.float64)
        lo, hi = node.attrs.activation.code_range(lin.y, Runtime.BUILTIN)
        free = (code > lo) & (code < hi)
        off = np.abs(code - real)
        assert (off[free] <= np.broadcast_to(envelope.above, real.shape)[free]).all()
        # what saturates, saturates exactly, but for what the envelope covers at the ends
        clipped = np.abs(code - real.clip(lo, hi))
        assert (clipped <= np.broadcast_to(envelope.above, real.shape)).all()
        worst = max(worst, float(off[free].max(initial=0.0)))
    assert worst > 0.49


def test_additions() -> None:
    rng = np.random.default_rng(5)
    for _ in range(12):
        b, n = Builder(), int(rng.integers(1, 40))
        sa, sb = rng.uniform(1e-4, 1e-3, 2) * 10 ** rng.uniform(-1, 1, 2)
        x = b.tensor((1, n), "int16", scale=sa)
        c = b.tensor((1, n), "int16", data=rng.integers(-32767, 32768, (1, n)), scale=sb)
        y = b.tensor((1, n), "int16", scale=(sa + sb) * rng.uniform(0.3, 1.5))
        b.op("ADD", [x, c], [y], version=2, pot_scale_int16=False, fused_activation=int(rng.integers(0, 2)))
        model, data = b.build([x], [y]), rng.integers(-32768, 32768, (60, 1, n)).astype(np.int16)
        graph = load(model)
        a, k, out = (graph.tensors[i] for i in (x, c, y))
        assert k.const is not None
        real = (data * a.q.s + k.q.dequantize(k.const)) / out.q.s
        envelope = SEMANTICS["ADD"].rounding(graph.nodes[0], graph, Runtime.BUILTIN)
        for runtime in DEPLOYED:
            theirs, _ = interpret(model, data, runtime)
            np.testing.assert_array_equal(run_int(graph, data, runtime)[y], theirs)
            lo, hi = graph.nodes[0].attrs.activation.code_range(out, runtime)
            assert (np.abs(theirs - real.clip(lo, hi)) <= envelope.above).all()


def test_softmax() -> None:
    rng, worst = np.random.default_rng(9), 0.0
    for k in range(24):
        b, n = Builder(), int(rng.integers(1, 30))
        scale = np.float32(10.0 ** rng.uniform(-5, -2))
        x, y = b.tensor((1, n), "int16", scale=scale), b.tensor((1, n), "int16", scale=2.0**-15)
        b.op("SOFTMAX", [x], [y], version=2, beta=1.0)
        data = (rng.integers(-32768, 32768, (150, 1, n)) // int(rng.integers(1, 200))).astype(np.int16)
        data[0], data[1] = 0, np.where(np.arange(n) == k % n, 32767, -32768)
        model = b.build([x], [y])
        graph = load(model)
        real = np.exp((data - data.max(axis=-1, keepdims=True).astype(np.float64)) * float(scale))
        real /= real.sum(axis=-1, keepdims=True)
        bound = float(SEMANTICS["SOFTMAX"].rounding(graph.nodes[0], graph, Runtime.BUILTIN).above[0])
        for runtime in DEPLOYED:
            theirs, delegated = interpret(model, data, runtime)
            assert not delegated
            np.testing.assert_array_equal(run_int(graph, data, runtime)[y], theirs)
            off = np.abs(theirs - real * 2.0**15).max()
            assert off <= bound
            worst = max(worst, float(off))
    assert 0.5 < worst < 100.0  # what lies below exp(-10) counts as that


def test_conversions_and_pools() -> None:
    rng = np.random.default_rng(6)
    for op in ("QUANTIZE", "DEQUANTIZE", "AVERAGE_POOL_2D", "MAX_POOL_2D", "RESHAPE"):
        s = float(np.float32(rng.uniform(1e-4, 1e-3)))
        b = Builder()
        codes = rng.integers(-32768, 32768, (20, 1, 5, 5, 3)).astype(np.int16)
        x = b.tensor((1, 5, 5, 3), "float32" if op == "QUANTIZE" else "int16", scale=None if op == "QUANTIZE" else s)
        if op.endswith("POOL_2D"):
            y = b.tensor((1, 3, 3, 3), "int16", scale=s)
            b.op(op, [x], [y], version=3, filter_width=2, filter_height=2, stride_w=2, stride_h=2, padding=0)
        elif op == "RESHAPE":
            y, shape = b.tensor((1, 75), "int16", scale=s), b.tensor((2,), "int32", data=[1, 75])
            b.op(op, [x, shape], [y])
        else:
            to = "int16" if op == "QUANTIZE" else "float32"
            y = b.tensor((1, 5, 5, 3), to, scale=s if to == "int16" else None)
            b.op(op, [x], [y], version=1 if op == "QUANTIZE" else 3)
        data = ((codes + 0.5) * s).astype(np.float32) if op == "QUANTIZE" else codes
        model = b.build([x], [y])
        graph = load(model)
        for runtime in DEPLOYED:
            theirs, delegated = interpret(model, data, runtime)
            assert not delegated
            np.testing.assert_array_equal(run_int(graph, data, runtime)[graph.outputs[0]], theirs)


@pytest.mark.parametrize(
    "name", ["dense.int16x8_float32", "dense.int16x8_int16", "branches.int16x8_int16", "conv.int16x8_int16"]
)
def test_converted_models(name: str) -> None:
    path, rng = MODELS / f"{name}.tflite", np.random.default_rng(7)
    graph = read_tflite(path)
    assert graph.scheme is Scheme.INT16X8
    if graph.input.dtype.is_code:
        x = rng.integers(-32768, 32768, (200, *graph.input.shape)).astype(np.int16)
    else:
        x = rng.uniform(-1.3, 1.3, (200, *graph.input.shape)).astype(np.float32)
    for runtime in DEPLOYED:
        theirs, _ = interpret(path.read_bytes(), x, runtime)
        np.testing.assert_array_equal(run_int(graph, x, runtime)[graph.outputs[0]], theirs)


@pytest.mark.parametrize("name", ["dense", "branches", "conv"])
@pytest.mark.parametrize("radius", [0, 4, 3000])
def test_bounds(name: str, radius: int) -> None:
    pair = align(read_tflite(MODELS / f"{name}.float.tflite"), read_tflite(MODELS / f"{name}.int16x8_int16.tflite"))
    codec, rng = InputCodec.of(pair.quantized), np.random.default_rng(8)
    centre = rng.integers(-25_000, 25_000, pair.quantized.input.shape).astype(np.int32)
    lo, hi = centre - radius, centre + radius
    ends = [codec.grid(c).astype(np.float64) for c in (lo, hi, centre)]
    cell = Cell(ends[0], ends[1], (lo, hi), 0, ends[2])
    outputs = tuple(range(pair.quantized.output.size))
    task = Task(pair, cell, codec, Property("max_abs", 1e9), outputs, Runtime.XNNPACK)
    with Session() as session:
        (bound,) = Dra().run(task, [], Budget(slopes=0), session)
        if not radius:
            found = portfolio.run(task, Budget(), session=session)
            (exact,) = (e for e in found if isinstance(e, Bound))
            assert exact.trust == "exhaustive" and any(isinstance(e, Witness) and e.replayed for e in found)
    assert isinstance(bound, Bound)
    codes = rng.integers(lo, hi + 1, (200, *lo.shape)).astype(np.int32)
    codes[:100] = np.where(rng.random(codes[:100].shape) < 0.5, lo, hi)
    inputs = Inputs.of_codes(task, codes)
    gap = quantized_outputs(task, inputs) - float_outputs(task, inputs)
    assert (gap >= bound.lower).all() and (gap <= bound.upper).all()


def test_what_is_refused() -> None:
    model, _ = _linear(np.random.default_rng(0), "CONV_2D", bias="int32")
    with pytest.raises(ModelError) as e:
        load(model)
    assert "int64" in e.value.message
    b = Builder()
    x, y = b.tensor((1, 4), "int16", scale=0.1, zero_point=5), b.tensor((1, 2), "int16", scale=0.1)
    w = b.tensor((2, 4), "int8", data=np.ones((2, 4)), scale=0.1)
    b.op("FULLY_CONNECTED", [x, w, -1], [y], version=11, quantized_bias_type=4)
    with pytest.raises(ModelError) as e:
        load(b.build([x], [y]))
    assert "zero point" in e.value.message
