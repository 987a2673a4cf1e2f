"""int4 weights: bit for bit in the runtimes that unpack them, refused by name elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from qebgate.errors import ModelError, UnsupportedError
from qebgate.ir.graph import Scheme
from qebgate.runtimes.profiles import MICRO, Runtime
from qebgate.semantics.execute import run_int
from tests.semantics.compare import interpret, load
from tests.support.tflite_builder import Builder

KINDS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")
UNPACKING = (Runtime.REFERENCE, Runtime.BUILTIN)


def packed(values: np.ndarray) -> bytes:
    """Two to a byte, the first in the lower half."""
    flat = values.astype(np.uint8).ravel() & 15
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    return bytes(flat[0::2] | (flat[1::2] << 4))


def model(kind: str, inner: int, channels: bool, *, floats: bool = False, cut: int = 0, seed: int = 0) -> bytes:
    """One operator; ``inner`` input channels, so that rows may end in the middle of a byte."""
    rng = np.random.default_rng(seed)
    b = Builder()
    count = inner if kind == "DEPTHWISE_CONV_2D" else 5
    given, shape, axis, made = {
        "FULLY_CONNECTED": ((1, inner), (count, inner), 0, (1, count)),
        "CONV_2D": ((1, 4, 4, inner), (count, 3, 3, inner), 0, (1, 2, 2, count)),
        "DEPTHWISE_CONV_2D": ((1, 4, 4, inner), (1, 3, 3, inner), 3, (1, 2, 2, inner)),
    }[kind]
    scale = rng.uniform(0.02, 0.2, count) if channels else np.array([0.1])
    values = rng.integers(-8, 8, shape)
    w = b.tensor(shape, "int8", data=values, scale=scale, axis=axis if channels else 0)
    b.graph.tensors[w].type = schema.TensorType.INT4
    b.graph.tensors[w].buffer = b.buffer(packed(values)[: None if cut == 0 else -cut])
    dtype = {} if floats else {"dtype": "int8", "scale": 0.05, "zero_point": -3}
    x = b.tensor(given, **dtype)
    y = b.tensor(made, **({} if floats else {"dtype": "int8", "scale": 0.11, "zero_point": 5}))
    c = b.tensor((count,), data=rng.normal(size=count))
    if not floats:
        c = b.tensor((count,), "int32", data=rng.integers(-300, 300, count), scale=scale * 0.05)
    how = {} if kind == "FULLY_CONNECTED" else {"padding": 1, "stride_w": 1, "stride_h": 1}
    if kind == "DEPTHWISE_CONV_2D":
        how["depth_multiplier"] = 1
    b.op(kind, [x, w, c], [y], version=4 if kind == "FULLY_CONNECTED" else 3, **how)
    return b.build([x], [y])


@pytest.mark.parametrize("channels", [True, False], ids=["per channel", "per tensor"])
@pytest.mark.parametrize("inner", [8, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_bit_exact(kind: str, inner: int, channels: bool) -> None:
    data = model(kind, inner, channels)
    graph = load(data)
    assert graph.scheme is Scheme.INT4
    x = np.random.default_rng(1).integers(-128, 128, (400, *graph.input.shape)).astype(np.int8)
    for runtime in UNPACKING:
        theirs, _ = interpret(data, x, runtime)
        ours = run_int(graph, x, runtime)[graph.outputs[0]].reshape(theirs.shape)
        assert np.array_equal(ours, theirs), f"{int((ours != theirs).sum())} of {ours.size} in {runtime.value}"


@pytest.mark.parametrize("runtime", [Runtime.XNNPACK, Runtime.ENVELOPE, *MICRO])
def test_other_runtimes_are_refused_by_name(runtime: Runtime) -> None:
    graph = load(model("CONV_2D", 8, True))
    x = np.zeros((1, *graph.input.shape), np.int8)
    with pytest.raises(UnsupportedError, match="int4") as e:
        run_int(graph, x, runtime)
    assert e.value.code == "QEB439"
    assert "litert-builtin" in str(e.value)


@pytest.mark.parametrize("kind", KINDS)
def test_float_activations_are_refused_by_name(kind: str) -> None:
    with pytest.raises(UnsupportedError, match="int4"):
        load(model(kind, 8, True, floats=True))


def test_data_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(ModelError) as e:
        load(model("FULLY_CONNECTED", 7, True, cut=1))
    assert e.value.code == "QEB409"
