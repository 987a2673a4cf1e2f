"""Which input is which: by the names of the signature, else by the only order that makes the models one network."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from qebgate.adapters import load_model
from qebgate.adapters.tflite.reader import read_tflite
from qebgate.errors import AlignmentError, ModelError, UnsupportedError
from qebgate.ir.align import align
from qebgate.ir.graph import Graph
from qebgate.semantics.execute import run_float
from tests.support.tflite_builder import Builder

MODELS = Path(__file__).resolve().parents[1] / "models" / "several"
RNG = np.random.default_rng(0)
CODES = {"a": RNG.integers(-100, 100, (3, 2)), "b": RNG.integers(-100, 100, (3, 2))}


def model(
    path: Path,
    order: str,
    *,
    quantized: bool,
    names: dict[str, str] | None = None,
    same: bool = False,
    kind: str = "int8",
) -> Graph:
    """``dense(a) + dense(b)``; the file's inputs in an order, with names in a signature or without."""
    b = Builder()
    scales = {"a": 0.02, "b": 0.005}
    inputs = {
        n: b.tensor((1, 2), kind if n == "a" else "int8", scale=scales[n]) if quantized else b.tensor((1, 2))
        for n in order
    }
    branches: list[int] = []
    for n in order:
        w = CODES["a" if same else n]
        if quantized:
            out = b.tensor((1, 3), "int8", scale=0.1)
            b.op("FULLY_CONNECTED", [inputs[n], b.tensor((3, 2), "int8", data=w, scale=0.02), -1], [out], version=4)
        else:
            out = b.tensor((1, 3))
            b.op("FULLY_CONNECTED", [inputs[n], b.tensor((3, 2), data=w * np.float32(0.02)), -1], [out])
        branches.append(out)
    y = b.tensor((1, 3), "int8", scale=0.1) if quantized else b.tensor((1, 3))
    b.op("ADD", branches, [y], version=2 if quantized else 1)
    if names is not None:
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex, signature.inputs, signature.outputs = "serving", 0, [], []
        for n, tensor in inputs.items():
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = names[n], tensor
            signature.inputs.append(entry)
        b.model.signatureDefs = [signature]
    path.write_bytes(b.build(list(inputs.values()), [y]))
    return read_tflite(path)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("orders", list(itertools.product(("ab", "ba"), repeat=2)))
def test_every_order_is_matched(tmp_path: Path, orders: tuple[str, str], named: bool) -> None:
    """The joined float network reads each input where the quantized one has it."""
    names = {"a": "left", "b": "right"} if named else None
    f = model(tmp_path / "f.tflite", orders[0], quantized=False, names=names)
    q = model(tmp_path / "q.tflite", orders[1], quantized=True, names=names)
    pair = align(f, q)
    assert [p.position for p in pair.quantized.parts] == [0, 1]
    assert [orders[0][p.position] for p in pair.float.parts] == list(orders[1])
    if named:
        assert (
            [p.name for p in pair.float.parts]
            == [p.name for p in pair.quantized.parts]
            == [names[n] for n in orders[1]]
        )  # type: ignore[index]
    x = RNG.normal(size=(20, 1, 4))
    each = dict(zip(orders[1], (x[:, 0, :2], x[:, 0, 2:]), strict=True))
    expected = sum(each[n] @ (CODES[n] * np.float32(0.02)).astype(np.float32).astype(np.float64).T for n in "ab")
    y = run_float(pair.float, x)[pair.float.outputs[0]]
    assert np.abs(y[:, 0] - expected).max() < 1e-12


def test_names_are_not_overruled(tmp_path: Path) -> None:
    """Names that say the opposite of the weights: not the same network."""
    f = model(tmp_path / "f.tflite", "ab", quantized=False, names={"a": "left", "b": "right"})
    q = model(tmp_path / "q.tflite", "ab", quantized=True, names={"a": "right", "b": "left"})
    with pytest.raises(AlignmentError) as error:
        align(f, q)
    assert error.value.code == "QEB468"


def test_inputs_that_cannot_be_told_apart(tmp_path: Path) -> None:
    f = model(tmp_path / "f.tflite", "ab", quantized=False, same=True, names={"a": "u", "b": "v"})
    q = model(tmp_path / "q.tflite", "ab", quantized=True, same=True, names={"a": "x", "b": "y"})
    with pytest.raises(AlignmentError) as error:
        align(f, q)
    assert error.value.code == "QEB428" and "same names" in str(error.value.fix)
    # converters' names of tensors (here t0 and t1 in both) decide where nothing else does
    plain = [model(tmp_path / f"{k}.tflite", "ab", quantized=k, same=True) for k in (False, True)]
    assert [p.position for p in align(*plain).float.parts] == [0, 1]
    named = model(tmp_path / "n.tflite", "ba", quantized=True, same=True, names={"a": "u", "b": "v"})
    assert [p.position for p in align(f, named).float.parts] == [1, 0]


def test_other_inputs(tmp_path: Path) -> None:
    f = load_model(MODELS / "sensors.float.tflite")
    with pytest.raises(AlignmentError) as error:
        align(f, load_model(MODELS / "image.int8.tflite"))
    assert error.value.code == "QEB463"
    with pytest.raises(AlignmentError) as error:
        align(load_model(MODELS.parent / "dense_4.float.tflite"), load_model(MODELS / "sensors.int8.tflite"))
    assert error.value.code == "QEB463"
    b = Builder()
    x, z, y = b.tensor((1, 2)), b.tensor((1, 2), "int8", scale=0.1), b.tensor((1, 2), "int8", scale=0.1)
    q = b.tensor((1, 2), "int8", scale=0.1)
    b.op("QUANTIZE", [x], [q])
    b.op("ADD", [q, z], [y], version=2)
    (tmp_path / "mixed.tflite").write_bytes(b.build([x, z], [y]))
    with pytest.raises(UnsupportedError) as refused:
        align(f, read_tflite(tmp_path / "mixed.tflite"))
    assert refused.value.code == "QEB427"
    with pytest.raises(ModelError) as several:
        _ = f.input
    assert several.value.code == "QEB413"


@pytest.mark.parametrize("name", ["sensors", "image"])
def test_converted_models_have_a_dynamic_batch_and_names(name: str) -> None:
    """The converter writes the batch as -1 in the signature of shapes and as 1 in the shape: it is read as 1."""
    for variant in ("float", "int8", "float_io"):
        path = MODELS / f"{name}.{variant}.tflite"
        file = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0).subgraphs[0]
        written = [file.tensors[i] for i in file.inputs]
        assert all(t.shapeSignature[0] == -1 for t in written)
        graph = read_tflite(path)
        assert [graph.tensors[i].shape for i in graph.inputs] == [tuple(int(n) for n in t.shape) for t in written]
        assert all(graph.tensors[i].shape[0] == 1 for i in graph.inputs)
        assert graph.input_names == {"sensors": ("pressure", "angle"), "image": ("position", "image")}[name]
    keras = load_model(MODELS / f"{name}.h5")
    assert sorted(keras.input_names) == sorted(graph.input_names)
