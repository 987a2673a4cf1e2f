"""Every quantization scheme that the converter writes: exact or within its envelope, in every runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.engines import portfolio
from qebgate.engines.concrete import Inputs, Session, float_outputs, real_values
from qebgate.engines.dra.engine import Dra
from qebgate.errors import AlignmentError, DataError, ModelError, PolicyError, UnsupportedError
from qebgate.evidence import Bound, Witness
from qebgate.ir.align import align
from qebgate.ir.graph import Scheme
from qebgate.ir.pair import Pair
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.regions.expand import Region, expand
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.runtimes.replay import Replayer
from qebgate.semantics.emulation import check_runtime
from qebgate.semantics.execute import exact, run_int
from qebgate.semantics.hybrid import hybrid_error
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.registry import SEMANTICS
from qebgate.task import Budget, Task
from tests.semantics.compare import interpret, load
from tests.support.tflite_builder import Builder

MODELS = Path(__file__).resolve().parents[1] / "models" / "schemes"
FLOATING = [
    ("dense", "dynamic_range", Scheme.DYNAMIC_RANGE),
    ("conv", "dynamic_range", Scheme.DYNAMIC_RANGE),
    ("dense", "float16", Scheme.FLOAT16),
    ("conv", "float16", Scheme.FLOAT16),
    ("branches", "float16", Scheme.FLOAT16),
    ("dense", "weight_only", Scheme.WEIGHT_ONLY),
    ("conv", "weight_only", Scheme.WEIGHT_ONLY),
    ("branches", "weight_only", Scheme.WEIGHT_ONLY),
    ("conv", "partly", Scheme.PARTLY),
    ("branches", "partly", Scheme.PARTLY),
]


def _pair(name: str, variant: str) -> Pair:
    return align(read_tflite(MODELS / f"{name}.float.tflite"), read_tflite(MODELS / f"{name}.{variant}.tflite"))


def _task(pair: Pair, runtime: Runtime, radius: float, seed: int = 0, limit: float = 1e9) -> Task:
    shape = pair.quantized.input.shape
    centre = np.random.default_rng(seed).uniform(-0.9, 0.9, shape).astype(np.float32)
    ends = [(centre + s * np.float32(radius)).astype(np.float32).astype(np.float64) for s in (-1, 0, 1)]
    cell = Cell(ends[0], ends[2], None, 0, ends[1])
    outputs = tuple(range(pair.quantized.output.size))
    return Task(pair, cell, InputCodec.of(pair.quantized), Property("max_abs", limit), outputs, runtime)


@pytest.mark.parametrize(("name", "variant", "scheme"), FLOATING)
def test_bounds_hold_for_what_every_runtime_returns(name: str, variant: str, scheme: Scheme) -> None:
    pair = _pair(name, variant)
    assert pair.quantized.scheme is scheme
    rng = np.random.default_rng(1)
    files = [(MODELS / f"{name}.{v}.tflite").read_bytes() for v in ("float", variant)]
    for radius in (0.0, 0.02, 0.3):
        task = _task(pair, Runtime.XNNPACK, radius)
        with Session() as session:
            (bound,) = Dra().run(task, [], Budget(slopes=0, dra=0.0 if radius > 0.1 else 2e11), session)
        assert isinstance(bound, Bound) and np.isfinite(bound.upper).all()
        x = rng.uniform(task.cell.lower, task.cell.upper, (40, *task.cell.lower.shape))
        x[:20] = np.where(rng.random(x[:20].shape) < 0.5, task.cell.lower, task.cell.upper)
        inputs = Inputs.of_reals(task, x.clip(task.cell.lower, task.cell.upper))
        h = float_outputs(task, inputs)
        for runtime in DEPLOYED:
            f, q = (interpret(m, inputs.x, runtime)[0].reshape(40, -1).astype(np.float64) for m in files)
            for gap in (q - h, q - f):
                assert (gap >= bound.lower).all() and (gap <= bound.upper).all()


@pytest.mark.parametrize("variant", ["float16", "weight_only", "dynamic_range"])
def test_points_are_tight(variant: str) -> None:
    """The witness is measured in the runtime; the bound at a point is as close as the scheme lets it be."""
    task = _task(_pair("dense", variant), Runtime.XNNPACK, 0.0)
    with Session() as session:
        found = portfolio.run(task, Budget(), session=session)
    (bound,) = (e for e in found if isinstance(e, Bound))
    (witness,) = (e for e in found if isinstance(e, Witness))
    assert (witness.gap >= bound.lower).all() and (witness.gap <= bound.upper).all()
    assert witness.replayed
    if variant != "dynamic_range":
        assert bound.upper.max() - witness.gap.max() < 1e-4


def test_partly_quantized_models_are_exact_where_every_float_operation_rounds_once() -> None:
    graph = read_tflite(MODELS / "branches.partly.tflite")
    assert exact(graph) and not graph.in_integers
    x = np.random.default_rng(2).uniform(-1.2, 1.2, (300, 1, 8)).astype(np.float32)
    for runtime in DEPLOYED:
        with Replayer(MODELS / "branches.partly.tflite", runtime) as r:
            np.testing.assert_array_equal(run_int(graph, x, runtime)[graph.outputs[0]], r.run(x))
    assert not exact(read_tflite(MODELS / "conv.partly.tflite"))


def _hybrid(rng: np.random.Generator, op: str, *, per_channel: bool, asymmetric: bool, bias: bool = True):
    """A hybrid operator alone, and inputs."""
    b, activation = Builder(), int(rng.integers(0, 2)) * 3
    m, n = int(rng.integers(1, 40)), int(rng.integers(1, 60))
    if op == "FULLY_CONNECTED":
        shape, wshape, yshape, axis = (1, n), (m, n), (1, m), 0
        options = {"asymmetric_quantize_inputs": asymmetric}
    elif op == "CONV_2D":
        c = int(rng.integers(1, 9))
        shape, wshape, yshape, axis = (1, 6, 5, c), (m, 3, 3, c), (1, 6, 5, m), 0
        options = {"padding": 0, "stride_w": 1, "stride_h": 1}
    else:
        m = int(rng.integers(1, 20))
        shape, wshape, yshape, axis = (1, 6, 5, m), (1, 3, 3, m), (1, 6, 5, m), 3
        options = {"padding": 0, "stride_w": 1, "stride_h": 1, "depth_multiplier": 1}
    channels = m if per_channel else 1
    x = b.tensor(shape, "float32")
    scale = rng.uniform(0.001, 0.1, channels)
    data = rng.integers(-127, 128, wshape)
    w = b.tensor(wshape, "int8", data=data, scale=scale, axis=axis if channels > 1 else 0)
    c = b.tensor((m,), "float32", data=rng.normal(0, 1, m)) if bias else -1
    y = b.tensor(yshape, "float32")
    version = {"FULLY_CONNECTED": 9, "CONV_2D": 5, "DEPTHWISE_CONV_2D": 6}[op]
    b.op(op, [x, w, c], [y], version=version, fused_activation=activation, **options)
    data = (rng.normal(0, 1, (24, *shape)) * rng.uniform(0.01, 30)).astype(np.float32)
    if rng.random() < 0.3:
        data = np.abs(data) * np.float32(rng.choice([-1, 1]))
    data[0] = 0
    data[1].flat[0] = 0
    return b.build([x], [y]), data


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("asymmetric", [True, False])
def test_hybrid_dense_layers_bit_for_bit(per_channel: bool, asymmetric: bool) -> None:
    compared = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        model, x = _hybrid(rng, "FULLY_CONNECTED", per_channel=per_channel, asymmetric=asymmetric, bias=seed % 3 > 0)
        graph = load(model)
        assert graph.scheme is Scheme.DYNAMIC_RANGE and exact(graph)
        for runtime in DEPLOYED:
            theirs, delegated = interpret(model, x, runtime)
            assert delegated == (runtime is Runtime.XNNPACK)
            np.testing.assert_array_equal(run_int(graph, x, runtime)[graph.outputs[0]], theirs)
            compared += theirs.size
    assert compared > 10_000


def test_rows_of_next_to_nothing() -> None:
    """Their steps are subnormal, or their reciprocals infinite: within the envelope all the same, and not emulated."""
    for op in ("FULLY_CONNECTED", "CONV_2D"):
        model, x = _hybrid(np.random.default_rng(3), op, per_channel=True, asymmetric=True)
        graph = load(model)
        node = graph.nodes[0]
        for size in (1e-33, 1e-37, 1e-38, 1e-41, 1e-45):
            row = (np.sign(x[2:3]) * size).astype(np.float32)
            real = SEMANTICS[op].run_float(node, graph, [row.astype(np.float64), None, None])
            error = hybrid_error(node, graph, row[0].astype(np.float64), row[0].astype(np.float64))
            for runtime in DEPLOYED:
                theirs, _ = interpret(model, row, runtime)
                assert (np.abs(theirs[0].astype(np.float64) - real[0]) <= error).all()
            if op == "FULLY_CONNECTED":
                with pytest.raises(DataError):
                    run_int(graph, row, Runtime.XNNPACK)


def test_a_hybrid_depthwise_convolution_needs_a_scale_per_channel() -> None:
    """LiteRT reads one for each channel, also where the file has only one."""
    model, _ = _hybrid(np.random.default_rng(1), "DEPTHWISE_CONV_2D", per_channel=False, asymmetric=False)
    with pytest.raises(UnsupportedError) as e:
        load(model)
    assert "scale per channel" in e.value.message


@pytest.mark.parametrize(
    ("op", "per_channel"),
    [("FULLY_CONNECTED", True), ("FULLY_CONNECTED", False), ("CONV_2D", True), ("CONV_2D", False),
     ("DEPTHWISE_CONV_2D", True)],
)  # fmt: skip
def test_the_envelope_of_hybrid_operators(op: str, per_channel: bool) -> None:
    worst = 0.0
    for seed in range(8):
        rng = np.random.default_rng(100 + seed)
        model, x = _hybrid(rng, op, per_channel=per_channel, asymmetric=bool(seed % 2))
        graph = load(model)
        node = graph.nodes[0]
        real = SEMANTICS[op].run_float(node, graph, [x.astype(np.float64), None, None])
        for runtime in DEPLOYED:
            theirs, _ = interpret(model, x, runtime)
            for row, ideal, y in zip(x, real, theirs, strict=True):
                error = hybrid_error(node, graph, row.astype(np.float64), row.astype(np.float64))
                off = np.abs(y.astype(np.float64) - ideal)
                assert (off <= error).all()
                worst = max(worst, float((off / np.maximum(error, 1e-30)).max()))
    assert worst > 0.05, "an envelope that nothing comes near"


def test_int8_constants_become_the_numbers_that_they_stand_for() -> None:
    graph = read_tflite(MODELS / "dense.weight_only.tflite")
    lin = LinearNode.of(graph.nodes[0], graph)
    assert lin.w.stored is not None and lin.w.stored.quant is not None
    assert lin.w.const is not None and lin.w.const.dtype == np.float32
    codes = lin.w.const / lin.w.stored.quant.along(2)[0]
    assert np.abs(codes - np.rint(codes)).max() < 1e-4
    assert [n.op for n in graph.nodes] == ["FULLY_CONNECTED"] * 3


def test_constants_with_a_zero_point_per_channel() -> None:
    rng = np.random.default_rng(4)
    b = Builder()
    x, y, w = b.tensor((1, 6)), b.tensor((1, 5)), b.tensor((5, 6))
    codes, zero = rng.integers(-128, 128, (5, 6)), rng.integers(-60, 60, 5)
    c = b.tensor((5, 6), "int8", data=codes, scale=rng.uniform(0.001, 0.1, 5), zero_point=zero)
    b.op("DEQUANTIZE", [c], [w], version=2)
    b.op("FULLY_CONNECTED", [x, w, -1], [y])
    model = b.build([x], [y])
    lin = LinearNode.of(load(model).nodes[0], load(model))
    one = np.eye(6, dtype=np.float32).reshape(6, 1, 6)  # a product with 1 is exact: the weights themselves
    for runtime in DEPLOYED:
        theirs, _ = interpret(model, one, runtime)
        np.testing.assert_array_equal(theirs[:, 0], lin.weights.T)


def test_other_models_are_not_passed_off() -> None:
    for variant in ("dynamic_range", "float16", "weight_only"):
        quantized = read_tflite(MODELS / f"dense.{variant}.tflite")
        with pytest.raises(AlignmentError) as e:
            align(quantized, read_tflite(MODELS / "dense.int8_float32.tflite"))
        assert e.value.code == "QEB461"
    with pytest.raises(AlignmentError) as e:
        align(read_tflite(MODELS / "dense.float.tflite"), read_tflite(MODELS / "dense.float.tflite"))
    assert e.value.code == "QEB462"


@pytest.mark.parametrize("variant", ["float16", "weight_only", "dynamic_range"])
def test_another_training_run_is_named(variant: str, tmp_path: Path) -> None:
    raw = bytearray((MODELS / f"dense.{variant}.tflite").read_bytes())
    graph = read_tflite(MODELS / f"dense.{variant}.tflite")
    w = graph.tensors[graph.nodes[0].inputs[1]]
    assert w.const is not None
    stored = w.const.astype(np.float16).tobytes() if variant == "float16" else None
    if stored is None:
        quant = w.stored.quant if w.stored is not None else w.quant
        codes = w.const if w.stored is None else np.rint(w.const / quant.along(2)[0]).astype(np.int8)  # type: ignore[union-attr]
        stored = codes.tobytes()
    at = bytes(raw).find(stored)
    assert at >= 0
    raw[at : at + len(stored)] = stored[::-1] if variant != "float16" else stored[2:] + stored[:2]
    path = tmp_path / "m.tflite"
    path.write_bytes(raw)
    with pytest.raises(AlignmentError) as e:
        align(read_tflite(MODELS / "dense.float.tflite"), read_tflite(path))
    assert e.value.code == "QEB468"


def test_float_inputs_have_no_codes() -> None:
    codec = InputCodec.of(read_tflite(MODELS / "dense.float16.tflite"))
    assert not codec.has_grid
    row = np.zeros((1, 1, 32), np.float32)
    for region in (
        Region("ball", 0.1, domain="grid"),
        Region("ball", 1.0, "lsb"),
        Region("segment", span=(0.0, 1.0)),
    ):
        with pytest.raises(PolicyError) as e:
            expand(region, codec, (1, 32), row, [0])
        assert e.value.code == "QEB252"
    (instance,) = expand(Region("ball", 0.1), codec, (1, 32), row * 1e6, [0])
    assert instance.excess == 0.0


def test_microcontrollers_do_not_run_float_arithmetic_here() -> None:
    for name in ("dense.float16", "dense.dynamic_range", "conv.partly"):
        with pytest.raises(UnsupportedError) as e:
            check_runtime(read_tflite(MODELS / f"{name}.tflite"), Runtime.ENVELOPE)
        assert e.value.code == "QEB439"


def test_what_is_not_supported_is_named() -> None:
    b = Builder()
    x = b.tensor((1, 4), "float32")
    w = b.tensor((1, 4), "int8", data=[[1, 2, 3, 4]], scale=0.1, zero_point=3)
    f, y = b.tensor((1, 4), "float32"), b.tensor((1, 4), "float32")
    b.op("DEQUANTIZE", [w], [f], version=2)
    b.op("ADD", [x, f], [y])
    with pytest.raises(ModelError) as e:
        load(b.build([x], [y]))
    assert e.value.code == "QEB435" and "zero point" in e.value.message
    b = Builder()
    x, y = b.tensor((1, 4), "float32"), b.tensor((1, 4), "float32")
    w = b.tensor((1, 4), "int8", data=[[1, 2, 3, 4]], scale=0.1)
    b.op("ADD", [x, w], [y])
    with pytest.raises(ModelError) as e:
        load(b.build([x], [y]))
    assert e.value.code == "QEB435" and "dynamic-range quantization of ADD" in e.value.message


def test_quantized_outputs_of_a_graph_in_float() -> None:
    pair = _pair("conv", "float16")
    task = _task(pair, Runtime.BUILTIN, 0.0)
    y = run_int(pair.quantized, task.cell.lower[None], Runtime.BUILTIN)[pair.quantized.outputs[0]]
    assert real_values(pair.quantized, y).shape == (1, 4)
