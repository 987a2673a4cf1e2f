"""Networks that end in ARG_MAX: executed as LiteRT does, compared by the tensor before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qebgate.errors import UnsupportedError
from qebgate.gate import check
from qebgate.ir.align import align
from qebgate.policy import parse_policy
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.execute import run_float, run_int
from tests.semantics.compare import interpret, load
from tests.support.tflite_builder import Builder

W = np.random.default_rng(1).integers(-100, 100, (3, 4))


def model(quantized: bool, *, softmax: bool = False, index: str = "int64") -> bytes:
    b = Builder()

    def tensor(shape: tuple[int, ...], scale: float, zero: int = 0, data: np.ndarray | None = None) -> int:
        if quantized:
            return b.tensor(shape, "int8", data=data, scale=scale, zero_point=zero)
        return b.tensor(shape, data=None if data is None else data * np.float32(scale))

    x, w, y = tensor((1, 4), 0.02), tensor((3, 4), 0.02, data=W), tensor((1, 3), 0.1)
    b.op("FULLY_CONNECTED", [x, w, -1], [y], version=4)
    if softmax:
        p = tensor((1, 3), 1 / 256, -128)
        b.op("SOFTMAX", [y], [p], beta=1.0, version=2)
        y = p
    axis, out = b.tensor((), "int32", data=-1), b.tensor((1,), index)
    b.op("ARG_MAX", [y, axis], [out], version=2, output_type=4 if index == "int64" else 2)
    return b.build([x], [out])


@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("softmax", [False, True])
def test_executed_as_the_runtimes_do(index: str, softmax: bool) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-4, 5, (300, 1, 4)).astype(np.int8)  # many ties
    data = model(True, softmax=softmax, index=index)
    graph = load(data)
    for runtime in DEPLOYED:
        theirs, _ = interpret(data, codes, runtime)
        np.testing.assert_array_equal(run_int(graph, codes, runtime)[graph.outputs[0]], theirs)
    plain = model(False, softmax=softmax, index=index)
    reals = (codes * np.float32(0.02)).astype(np.float32)
    graph = load(plain)
    theirs, _ = interpret(plain, reals, Runtime.BUILTIN)
    assert (run_float(graph, reals, dtype=np.float32)[graph.outputs[0]] == theirs).mean() > 0.99  # but for rounded ties


@pytest.mark.parametrize("softmax", [False, True])
def test_logits_come_before_it(softmax: bool) -> None:
    pair = align(load(model(False, softmax=softmax)), load(model(True, softmax=softmax)))
    head = pair.at("logits")
    assert [s.op for s in head.steps] == ["FULLY_CONNECTED"] and head.output == pair.logits
    with pytest.raises(UnsupportedError) as e:
        pair.at("output")
    assert e.value.code == "QEB429" and "same_top1" in str(e.value.fix)


def _check(folder: Path, **prop: object):
    for name, quantized in (("float", False), ("int8", True)):
        (folder / f"{name}.tflite").write_bytes(model(quantized))
    policy = {
        "version": 1,
        "models": {"m": {"float": "float.tflite", "quantized": "int8.tflite"}},
        "regions": {
            "r": {"kind": "box", "lower": [0.5, -1.0, 0.0, 0.0], "upper": [0.52, -0.98, 0.02, 0.0], "domain": "grid"}
        },
        "checks": [{"id": "c", "model": "m", "region": "r", "property": prop}],
    }
    return check(parse_policy(policy, "p.yaml", folder))


def test_through_the_gate(tmp_path: Path) -> None:
    (result,) = _check(tmp_path, kind="max_abs", limit=0.2, tensor="logits").checks
    assert result.verdict == "pass" and result.tasks[0].witnessed is not None and result.tasks[0].witnessed > 0
    (result,) = _check(tmp_path, kind="same_top1", tensor="logits").checks
    assert result.verdict in ("pass", "fail")
    (error,) = _check(tmp_path, kind="max_abs", limit=0.2).errors
    assert error.error.code == "QEB429"


def test_inside_of_a_network_it_is_refused() -> None:
    b = Builder()
    x, a = b.tensor((1, 4), "int8", scale=0.1), b.tensor((), "int32", data=1)
    i, y = b.tensor((1,), "int32"), b.tensor((1, 1), "int32")
    b.op("ARG_MAX", [x, a], [i], version=2, output_type=2)
    b.op("RESHAPE", [i, b.tensor((2,), "int32", data=[1, 1])], [y])
    with pytest.raises(UnsupportedError, match="end of a network"):
        load(b.build([x], [y]))
