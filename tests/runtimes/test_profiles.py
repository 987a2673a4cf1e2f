"""The emulated profiles of TensorFlow Lite Micro, and the envelope over all runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.domains.gap import Interval
from qebgate.engines import portfolio
from qebgate.engines.concrete import Inputs, Session, float_outputs, quantized_outputs
from qebgate.engines.dra.engine import Dra
from qebgate.errors import InternalError, UnsupportedError
from qebgate.evidence import Bound, Witness
from qebgate.gate import check
from qebgate.ir.align import align
from qebgate.ir.graph import INPUT_PART
from qebgate.policy import parse_policy
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import DEPLOYED, MEMBERS, MICRO, Runtime
from qebgate.semantics.emulation import EMULATED, check_runtime, rounding
from qebgate.semantics.execute import run_int
from qebgate.semantics.fully_connected import FullyConnected
from qebgate.semantics.linear import LinearNode
from qebgate.task import Budget, Task
from tests.semantics.cases import CASES
from tests.semantics.compare import interpret, load

MODELS = Path(__file__).resolve().parents[1] / "models"
IN_FILES = EMULATED - {INPUT_PART}
"""Without the operator that only joins inputs, which no file can name."""
SAME_AS_REFERENCE = sorted(IN_FILES - {"FULLY_CONNECTED"})


def _cases(op: str, count: int, first: int = 500):
    seed = first
    while count:
        case = CASES[op](np.random.default_rng(seed))
        seed += 1
        try:
            graph = load(case.model)
            check_runtime(graph, Runtime.TFLM)
        except UnsupportedError:
            continue
        count -= 1
        yield case, graph


@pytest.mark.parametrize("op", SAME_AS_REFERENCE)
def test_tflm_runs_the_reference_kernels(op: str) -> None:
    """Their source is the one that LiteRT's reference kernels are built from: compared with the interpreter."""
    for case, graph in _cases(op, 4):
        theirs, _ = interpret(case.model, case.x, Runtime.REFERENCE)
        np.testing.assert_array_equal(run_int(graph, case.x, Runtime.TFLM)[graph.outputs[0]], theirs)


def _multiply(x: int, real: float, *, single: bool) -> int:
    """MultiplyByQuantizedMultiplier in Python's integers, from TFLM's common.cc and quantization_util.cc."""
    import math

    mantissa, shift = math.frexp(real)
    q = math.floor(mantissa * 2**31 + 0.5)
    if q == 2**31:
        q, shift = q // 2, shift + 1
    if single:
        return (x * q + (1 << (30 - shift))) >> (31 - shift)
    product = x * (1 << max(shift, 0)) * q
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    high = abs(nudged) // 2**31 * (1 if nudged >= 0 else -1)  # C++ divides towards zero
    right = max(-shift, 0)
    mask = (1 << right) - 1
    remainder, threshold = high & mask, (mask >> 1) + (high < 0)
    return (high >> right) + (remainder > threshold)


@pytest.mark.parametrize("runtime", MICRO)
def test_dense_layers_by_hand(runtime: Runtime) -> None:
    seen = 0
    for case, graph in _cases("FULLY_CONNECTED", 6):
        lin = LinearNode.of(graph.nodes[0], graph)
        x = case.x[:8].reshape(-1, lin.weights.shape[1]).astype(np.int64) - lin.x.q.z
        acc = x @ lin.weights.T.astype(np.int64) + (0 if lin.bias is None else lin.bias)
        s = lin.w.q.scale
        if s.size == 1:
            reals = [float(np.float32(lin.x.q.s) * np.float32(s[0])) / lin.y.q.s] * acc.shape[1]
        else:
            reals = [lin.x.q.s * float(v) / lin.y.q.s for v in s]
        lo, hi = graph.nodes[0].attrs.activation.code_range(lin.y, runtime)
        single = runtime is Runtime.TFLM_SINGLE
        codes = [
            [min(max(_multiply(int(a), m, single=single) + lin.y.q.z, lo), hi) for a, m in zip(row, reals, strict=True)]
            for row in acc
        ]
        ours = run_int(graph, case.x[:8], runtime)[graph.outputs[0]]
        np.testing.assert_array_equal(ours.reshape(-1, acc.shape[1]), codes)
        seen += ours.size
    assert seen > 100


def test_the_two_roundings_differ() -> None:
    differ = 0
    for case, graph in _cases("CONV_2D", 12):
        a, b = (run_int(graph, case.x, r)[graph.outputs[0]] for r in MICRO)
        assert np.abs(a - b).max() <= 1
        differ += int((a != b).sum())
    assert differ > 0


@pytest.mark.parametrize("op", sorted(IN_FILES))
def test_the_envelope_is_the_widest_rounding(op: str) -> None:
    for _, graph in _cases(op, 3):
        node = graph.nodes[0]
        whole = rounding(node, graph, Runtime.ENVELOPE)
        for r in MEMBERS:
            one = rounding(node, graph, r)
            assert (whole.below >= one.below).all() and (whole.above >= one.above).all()
        if op in ("CONV_2D", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D"):
            assert (whole.below <= 0.7503 + 0.005).all()


def test_linear_rounding_holds_for_single_rounding() -> None:
    """The deviation from the exact real accumulator, at extreme and random codes."""
    for case, graph in _cases("FULLY_CONNECTED", 8, 900):
        node, lin = graph.nodes[0], LinearNode.of(graph.nodes[0], graph)
        x = case.x.reshape(-1, lin.weights.shape[1]).astype(np.float64) - lin.x.q.z
        acc = x @ lin.weights.T.astype(np.float64) + (0 if lin.bias is None else lin.bias)
        real = acc * (lin.x.q.s * lin.w.q.scale) / lin.y.q.s
        for r in MICRO:
            envelope = FullyConnected().rounding(node, graph, r)
            code = run_int(graph, case.x, r)[graph.outputs[0]].reshape(acc.shape) - lin.y.q.z
            lo, hi = node.attrs.activation.code_range(lin.y, r)
            off = code - real
            free = (code > lo - lin.y.q.z) & (code < hi - lin.y.q.z)
            assert (off[free] <= np.broadcast_to(envelope.above, acc.shape)[free]).all()
            assert (-off[free] <= np.broadcast_to(envelope.below, acc.shape)[free]).all()


def _task(name: str, runtime: Runtime, radius: int, limit: float = 1e9) -> Task:
    pair = align(read_tflite(MODELS / f"{name}.float.tflite"), read_tflite(MODELS / f"{name}.int8.tflite"))
    codec = InputCodec.of(pair.quantized)
    shape = pair.quantized.input.shape
    centre = np.full(shape, codec.zero_point, np.int32)
    lo, hi = np.clip(centre - radius, -128, 127), np.clip(centre + radius, -128, 127)
    cell = Cell(
        codec.grid(lo).astype(float), codec.grid(hi).astype(float), (lo, hi), 0, codec.grid(centre).astype(float)
    )
    size = pair.quantized.output.size
    return Task(pair, cell, codec, Property("max_abs", limit), tuple(range(size)), runtime)


@pytest.mark.parametrize("name", ["dense_8_8", "conv", "residual", "average_pool", "mean", "softmax", "max_pool"])
def test_a_bound_of_the_envelope_holds_in_every_runtime(name: str) -> None:
    task = _task(name, Runtime.ENVELOPE, 20)
    with Session() as session:
        (bound,) = Dra().run(task, [], Budget(), session)
    assert isinstance(bound, Bound) and np.isfinite(bound.upper).all()
    rng = np.random.default_rng(0)
    assert task.cell.codes is not None
    lo, hi = task.cell.codes
    codes = np.concatenate([rng.integers(lo, hi + 1, (400, *lo.shape)), lo[None], hi[None]]).astype(np.int32)
    inputs = Inputs.of_codes(task, codes)
    h = float_outputs(task, inputs)
    for r in MEMBERS:
        one = Task(task.pair, task.cell, task.codec, task.prop, task.outputs, r)
        gap = quantized_outputs(one, inputs) - h
        assert (gap >= bound.lower).all() and (gap <= bound.upper).all()


@pytest.mark.parametrize("name", ["dense_8_8", "residual"])
def test_small_regions_of_the_envelope_are_the_union_of_its_members(name: str) -> None:
    with Session() as session:
        whole = portfolio.run(_task(name, Runtime.ENVELOPE, 3), Budget(), ("enumerate",), session=session)
        parts = [portfolio.run(_task(name, r, 3), Budget(), ("enumerate",), session=session) for r in MEMBERS]
    (bound,) = (e for e in whole if isinstance(e, Bound))
    bounds = [next(e for e in p if isinstance(e, Bound)) for p in parts]
    np.testing.assert_array_equal(bound.lower, np.min([b.lower for b in bounds], axis=0))
    np.testing.assert_array_equal(bound.upper, np.max([b.upper for b in bounds], axis=0))
    assert bound.trust == "exhaustive"
    witness = max(e.gap.max() for e in whole if isinstance(e, Witness))
    assert witness <= bound.upper.max()


def test_a_point_of_the_envelope() -> None:
    with Session() as session:
        found = portfolio.run(_task("conv", Runtime.ENVELOPE, 0), Budget(), session=session)
        each = [portfolio.run(_task("conv", r, 0), Budget(), session=session) for r in MEMBERS]
    (bound,) = (e for e in found if isinstance(e, Bound))
    for f in each:
        (one,) = (e for e in f if isinstance(e, Bound))
        assert (bound.lower <= one.lower).all() and (bound.upper >= one.upper).all()


def test_any_runtime_refutes_the_envelope() -> None:
    """A limit just below the worst runtime's gap: the envelope fails with that runtime's witness."""
    with Session() as session:
        worst = 0.0
        for r in MEMBERS:
            found = portfolio.run(_task("dense_8_8", r, 2), Budget(), ("enumerate",), session=session)
            worst = max(worst, *(float(np.abs(e.gap).max()) for e in found if isinstance(e, Witness)))
        task = _task("dense_8_8", Runtime.ENVELOPE, 2, worst * (1 - 1e-9))
        found = portfolio.run(task, Budget(), session=session)
    assert any(isinstance(e, Witness) and task.prop.of_gap(e.gap) > task.prop.limit for e in found)


def test_the_envelope_executes_nothing_itself() -> None:
    graph = read_tflite(MODELS / "conv.int8.tflite")
    with pytest.raises(InternalError):
        run_int(graph, np.zeros((1, *graph.input.shape), np.int32), Runtime.ENVELOPE)


def test_operators_that_are_not_emulated_are_named() -> None:
    graph = read_tflite(MODELS / "logistic.int8.tflite")
    for r in (*MICRO, Runtime.ENVELOPE):
        with pytest.raises(UnsupportedError) as e:
            check_runtime(graph, r)
        assert e.value.code == "QEB439" and "LOGISTIC" in e.value.message and "litert-xnnpack" in str(e.value.fix)
    for r in DEPLOYED:
        check_runtime(graph, r)


def test_the_gate_prints_them() -> None:
    model = {"float": "conv.float.tflite", "quantized": "conv.int8.tflite"}
    box = {"kind": "box", "lower": -0.1, "upper": 0.1, "domain": "grid"}
    policy = {
        "version": 1,
        "models": {"m": {**model, "runtime": ["tflm", "tflm-single-rounding", "envelope"]}},
        "regions": {"r": box},
        "checks": [{"id": "c", "model": "m", "region": "r", "property": {"kind": "max_abs", "limit": 100.0}}],
    }
    report = check(parse_policy(policy, "p.yaml", MODELS))
    (result,) = report.checks
    assert result.verdict == "pass"
    names = [str(t.runtime) for t in result.tasks]
    assert [n.split()[0] for n in names] == ["tflm", "tflm-single-rounding", "envelope"]
    assert "emulated" in names[0] and "emulated" in names[1]
    text = " ".join(result.assumptions)
    assert "emulated, not replayed" in text and "ARM kernels are not claimed" in text
    bounds = [Interval(np.array(t.lower), np.array(t.upper)) for t in result.tasks if t.lower is not None]
    assert len(bounds) == 3
