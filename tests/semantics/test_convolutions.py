"""Grouped and transposed convolutions: exact as the runtimes, bounded with zero tolerance, refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qebgate.engines.dra.analysis import Settings
from qebgate.errors import InternalError, ModelError
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.conv_2d import Conv2D
from qebgate.semantics.execute import run_int
from qebgate.semantics.float_error import float_error
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.registry import SEMANTICS
from tests.laws.contain import Seen, check, samples
from tests.laws.pairs import codec_of, float_twin, grid_cell, real_cell, task_of
from tests.laws.pairs import load as load_pair
from tests.semantics.cases import Case, grouped_conv_2d, transpose_conv
from tests.semantics.compare import compare, interpret, load
from tests.semantics.test_float_error import computed
from tests.semantics.wide import widened
from tests.support.tflite_builder import Builder


def small(seed: int) -> Case:
    """A grouped convolution of few outputs."""
    case = grouped_conv_2d(np.random.default_rng(seed))
    return case if load(case.model).output.size <= 400 else small(seed + 1000)


@pytest.mark.parametrize("runtime", DEPLOYED)
def test_groups_are_executed_exactly(runtime) -> None:
    for seed in range(14):
        result = compare(grouped_conv_2d(np.random.default_rng(seed)), runtime)
        assert result.mismatches == 0, f"seed {seed}: {result}"
        assert result.delegation_agrees


def test_groups_of_16_bits() -> None:
    for seed in range(4):
        case = grouped_conv_2d(np.random.default_rng(seed))
        model = widened(case.model, "CONV_2D")
        try:
            graph = load(model)
        except ModelError as e:
            assert "multiplier" in str(e) or "overflow" in str(e)
            continue
        x = np.random.default_rng(seed).integers(-32768, 32768, case.x.shape).astype(np.int16)
        for runtime in DEPLOYED:
            np.testing.assert_array_equal(run_int(graph, x, runtime)[graph.outputs[0]], interpret(model, x, runtime)[0])


def test_bounds_of_groups() -> None:
    seen = Seen()
    for seed in range(6):
        rng, model = np.random.default_rng(seed), small(seed).model
        twins = load_pair(float_twin(model, rng), model)
        for k, runtime in enumerate(DEPLOYED):
            codec = codec_of(twins.pair, rng)
            cell = (grid_cell if (seed + k) % 2 else real_cell)(twins.pair, codec, rng)
            task = task_of(twins.pair, cell, codec, runtime, "real" if seed % 3 else "float32")
            check(task, samples(task, rng, 40), Settings(), seen, twins.float)
    assert not seen.violations, seen.violations[:5]
    assert seen.values > 10_000


@pytest.mark.parametrize("wrong", [False, True])
def test_bounds_that_round_groups_as_ruy_does_are_caught(wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points, where codes are decided; execution stays as it is."""
    kernel, run_int = LinearNode.kernel, Conv2D.run_int

    def executed(self, *args):
        with pytest.MonkeyPatch.context() as m:
            m.setattr(LinearNode, "kernel", kernel)
            return run_int(self, *args)

    if wrong:
        monkeypatch.setattr(Conv2D, "run_int", executed)
        monkeypatch.setattr(LinearNode, "kernel", lambda self, runtime: runtime)
    caught = 0
    for seed in range(12):
        rng, model = np.random.default_rng(seed), small(seed).model
        twins = load_pair(float_twin(model, rng), model)
        codec = codec_of(twins.pair, rng)
        cell = grid_cell(twins.pair, codec, rng)
        assert cell.codes is not None
        point = replace(cell, upper=cell.lower, codes=(cell.codes[0], cell.codes[0]))
        task, seen = task_of(twins.pair, point, codec, Runtime.BUILTIN, "real"), Seen()
        try:
            check(task, samples(task, rng, 4), Settings(), seen)
        except InternalError:
            caught += 1
        caught += bool(seen.violations)
    assert (caught > 0) == wrong


def test_float32_error_of_groups() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        model = float_twin(small(seed).model, rng)
        graph = load(model)
        x = rng.normal(size=(8, *graph.input.shape)).astype(np.float32)
        node = graph.nodes[0]
        exact = SEMANTICS["CONV_2D"].run_float(node, graph, [x.astype(np.float64), None, None])
        e = float_error(node, graph, [computed(x), None, None])
        for runtime in DEPLOYED:
            assert (np.abs(interpret(model, x, runtime)[0] - exact) <= e).all()


def deconvolution(shape: list[int], padding: int = 0, *, constant: bool = True) -> bytes:
    b = Builder()
    sizes = b.tensor((4,), "int32", data=shape if constant else None)
    x = b.tensor((1, 3, 3, 2), "int8", scale=0.1)
    w = b.tensor((1, 2, 2, 2), "int8", data=np.ones((1, 2, 2, 2)), scale=0.1)
    y = b.tensor((1, 6, 6, 1), "int8", scale=0.1)
    b.op("TRANSPOSE_CONV", [sizes, w, x], [y], version=3, padding=padding, stride_h=2, stride_w=2)
    return b.build([x] if constant else [x, sizes], [y])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (deconvolution([1, 5, 6, 1]), "output's shape"),
        (deconvolution([1, 6, 6, 1], constant=False), "output's shape"),
    ],
)
def test_what_is_refused(model: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(model)


def test_an_output_that_no_convolution_leads_to() -> None:
    case = transpose_conv(np.random.default_rng(0))
    assert load(case.model).nodes[0].op == "TRANSPOSE_CONV"
    b = Builder()
    sizes = b.tensor((4,), "int32", data=[1, 9, 9, 1])
    x = b.tensor((1, 3, 3, 2), "int8", scale=0.1)
    w = b.tensor((1, 2, 2, 2), "int8", data=np.ones((1, 2, 2, 2)), scale=0.1)
    y = b.tensor((1, 9, 9, 1), "int8", scale=0.1)
    b.op("TRANSPOSE_CONV", [sizes, w, x], [y], version=3, padding=0, stride_h=2, stride_w=2)
    with pytest.raises(ModelError, match="the shape that the operator gives"):
        load(b.build([x], [y]))
