"""Keras files as graphs: values, normal form, and what is refused by name."""

from __future__ import annotations

import importlib.util
import io
import json
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from qebgate.adapters import load_dense, load_model
from qebgate.adapters.keras.hdf5 import Hdf5
from qebgate.engines.dra.analysis import Analysis
from qebgate.engines.dra.program import program
from qebgate.errors import ModelError, QebgateError, UnsupportedError
from qebgate.ir.align import align
from qebgate.ir.graph import Graph
from qebgate.ops.base import FOLDING_SHARE
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.execute import run_float
from qebgate.semantics.float_error import Computed, float_error
from qebgate.task import Task
from tests.support.keras_files import archive, layer, legacy, one_dense, sequential, start, weights, write

FOLDER = Path(__file__).resolve().parents[1] / "models" / "keras"
FILES = [(n, f) for n, files in json.loads((FOLDER / "manifest.json").read_text())["files"].items() for f in files]
ROWS = np.load(FOLDER / "rows.npz")


def outputs(graph: Graph, x: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    y = run_float(graph, x.reshape(len(x), *graph.input.shape), dtype=dtype)
    return y[graph.outputs[0]].reshape(len(x), -1)


def form(graph: Graph) -> list[tuple[str, object]]:
    """Operators with their fused activations."""
    return [(n.op, getattr(n.attrs, "activation", None)) for n in graph.nodes]


@pytest.mark.parametrize(("name", "file"), FILES)
def test_values_are_those_that_keras_computes(name: str, file: str) -> None:
    graph, x = load_model(FOLDER / f"{name}.{file}"), ROWS[f"{name}_x"]
    for version in ("keras3", "keras2"):
        said = ROWS[f"{name}_{version}"]
        size = max(1.0, float(np.abs(said).max()))
        assert np.abs(outputs(graph, x) - said).max() < 5e-7 * size
        assert np.abs(outputs(graph, x, np.float32) - said).max() < 1e-6 * size


@pytest.mark.parametrize(("name", "file"), FILES)
def test_keras_is_within_the_bound_on_its_roundoff(name: str, file: str) -> None:
    """The enclosure of all float32 evaluations at a point contains what both versions return."""
    pair = align(load_model(FOLDER / f"{name}.{file}"), load_model(FOLDER / f"{name}.int8.tflite"))
    k = np.arange(pair.float.output.size)
    codec = InputCodec.of(pair.quantized, "nearest")
    seen = 0
    for row, *returned in zip(*(ROWS[f"{name}_{k}"][::4] for k in ("x", "keras3", "keras2")), strict=True):
        x = row.reshape(pair.float.input.shape).astype(np.float64)
        task = Task(pair, Cell(x, x, None, 0, x), codec, Property("max_abs", 1.0), tuple(k.tolist()), Runtime.XNNPACK)
        p = program(task)
        h = Analysis(p.layers, p.box).run().float_value(p.output, k)
        for y in returned:
            assert (h.lo <= y).all() and (y <= h.hi).all()
            seen += y.size
        assert (h.hi - h.lo).max() < 1e-4 * max(1.0, float(np.abs(returned[0]).max()))
    assert seen >= 2 * 6 * 2


@pytest.mark.parametrize("name", ["dense", "image", "shapes", "sequence", "branches"])
def test_the_form_is_that_of_a_converted_file(name: str) -> None:
    """Operators and fused activations, apart from RESHAPEs."""
    forms = [
        [n for n in form(load_model(FOLDER / f"{name}.{f}")) if n[0] != "RESHAPE"]
        for f in ("keras3.keras", "keras2.h5", "float.tflite")
    ]
    assert forms[0] == forms[1]
    assert sorted(map(str, forms[0])) == sorted(map(str, forms[2]))  # branches may come in another order
    assert len(forms[0]) >= 3


def test_all_formats_give_the_same_graph() -> None:
    for name in ("dense", "image"):
        graphs = [load_model(FOLDER / f"{n}.{f}") for n, f in FILES if n == name]
        assert len(graphs) == 4
        for g in graphs[1:]:
            assert form(g) == form(graphs[0])
            for a, b in zip(g.tensors, graphs[0].tensors, strict=True):
                assert a.shape == b.shape and a.is_const == b.is_const
                assert a.const is None or (a.const == b.const).all()  # type: ignore[union-attr]
        assert all(g.source.format == "keras" for g in graphs)


def test_weight_agreement_through_folding() -> None:
    pair = align(load_model(FOLDER / "image.keras3.keras"), load_model(FOLDER / "image.int8.tflite"))
    folded = [n for n in pair.float.nodes if n.folded is not None]
    assert len(folded) == 4
    assert all(a.worst < 0.51 for a in pair.agreements) and len(pair.agreements) == 6


def test_branches_are_told_apart_by_their_weights() -> None:
    """Two convolutions read one tensor, in another order in the two files."""
    graphs = [load_model(FOLDER / f"branches.{f}") for f in ("keras3.keras", "int8.tflite")]
    first = [next(n for n in g.nodes if n.op == "CONV_2D") for g in graphs]
    assert [g.tensors[n.outputs[0]].shape[3] for g, n in zip(graphs, first, strict=True)] == [4, 3]
    assert all(a.worst < 0.51 for a in align(*graphs).agreements)


def test_another_network_does_not_align() -> None:
    with pytest.raises(ModelError) as e:
        align(load_model(FOLDER / "shapes.keras3.keras"), load_model(FOLDER / "dense.int8.tflite"))
    assert e.value.code in ("QEB463", "QEB469")


# -- batch normalization --------------------------------------------------------------------------


def normalized(tmp_path: Path, mean: float, **config: Any) -> tuple[Graph, list[np.ndarray]]:
    """A dense layer, 16 to 3, and a batch normalization that cancels a large mean."""
    rng = np.random.default_rng(1)
    w, b = rng.normal(size=(16, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    bn = [rng.uniform(0.5, 2.0, 3), rng.normal(size=3), np.full(3, mean), rng.uniform(0.5, 2.0, 3)]
    arrays = [w, b + np.float32(mean), *(v.astype(np.float32) for v in bn)]
    net = sequential(
        start(16),
        layer("Dense", "d", units=3, activation="linear", use_bias=True),
        layer("BatchNormalization", "n", axis=-1, epsilon=0.001, momentum=0.99, **config),
    )
    data = archive(net, weights({"dense": arrays[:2], "batch_normalization": arrays[2:]}))
    return load_model(write(tmp_path / "n.keras", data)), arrays


@pytest.mark.parametrize("mean", [0.0, 3.0, 1e4, -1e6])
def test_roundoff_of_batch_normalization(tmp_path: Path, mean: float) -> None:
    """What Keras computes in float32, two steps in two orders, against the folded node's bound."""
    graph, (w, b, gamma, beta, mu, var) = normalized(tmp_path, mean)
    (node,) = graph.nodes
    assert node.folded is not None
    x = np.random.default_rng(2).normal(size=(60, 16)).astype(np.float32)
    exact = outputs(graph, x)
    z = x @ w + b
    inverse = np.float32(1) / np.sqrt(var + np.float32(0.001)) * gamma
    worst = 0.0
    for y in (z * inverse + (beta - mu * inverse), (z - mu) * inverse + beta):
        assert y.dtype == np.float32
        for row, got, want in zip(x, y, exact, strict=True):
            e = float_error(node, graph, [point(row), None, None])
            assert (np.abs(got - want) <= e).all()
            worst = max(worst, float(np.abs(got - want).max()))
    if abs(mean) > 100:  # without the second step's roundings the bound would not hold
        plain = float_error(replace(node, folded=None), graph, [point(x[0]), None, None])
        assert worst > plain.max()


def point(row: np.ndarray) -> Computed:
    x = row.astype(np.float64).reshape(1, -1)
    return Computed(x, x)


def test_folding_is_exact_up_to_float64(tmp_path: Path) -> None:
    graph, (w, b, gamma, beta, mu, var) = normalized(tmp_path, 7.0)
    x = np.random.default_rng(3).normal(size=(5, 16)).astype(np.float32)
    for row, got in zip(x, outputs(graph, x), strict=True):
        for k in range(3):
            z = sum((Fraction(float(a)) * Fraction(float(v)) for a, v in zip(row, w[:, k], strict=True)), Fraction(0))
            centred = float(z + Fraction(float(b[k])) - Fraction(float(mu[k])))
            want = centred * float(gamma[k]) / np.sqrt(float(var[k]) + 0.001) + float(beta[k])
            assert abs(got[k] - want) < 1e-12


@pytest.mark.parametrize("mean", [0.0, 7.0, 1e6])
def test_rounding_of_folded_weights_counts_in_real_arithmetic(tmp_path: Path, mean: float) -> None:
    """Against 60 decimal digits; the noise of ``float_semantics: real`` covers the difference, and is tiny."""
    graph, (w, b, gamma, beta, mu, var) = normalized(tmp_path, mean)
    exactly = [[Decimal(float(v)) for v in a.ravel()] for a in (b, gamma, beta, mu, var)]
    worst = 0.0
    with localcontext() as digits:
        digits.prec = 60
        for row in np.random.default_rng(3).normal(size=(8, 16)).astype(np.float32):
            noise = float_error(graph.nodes[0], graph, [point(row), None, None]).ravel() * FOLDING_SHARE
            weights, bias = (graph.tensors[i].const for i in graph.nodes[0].inputs[1:])
            assert weights is not None and bias is not None
            for k, (bias_k, g, shift, m, v) in enumerate(zip(*exactly, strict=True)):
                z = sum((Decimal(float(x)) * Decimal(float(c)) for x, c in zip(row, w[:, k], strict=True)), bias_k)
                want = g * (z - m) / (v + Decimal("0.001")).sqrt() + shift
                terms = (Decimal(float(x)) * Decimal(float(c)) for x, c in zip(row, weights[k], strict=True))
                folded = sum(terms, Decimal(float(bias[k])))
                assert abs(folded - want) <= Decimal(float(noise[k]))
                worst = max(worst, float(noise[k]))
    assert 0.0 < worst < 1e-12 * (1.0 + mean)


def test_long_lists_of_names_are_stored_in_pieces() -> None:
    pieces = {"g": {"weight_names0": ["a", "b"], "weight_names1": ["c"], "name": "x"}, "h": {"weight_names": ["d"]}}
    file = Hdf5(pieces, {}, "file")
    assert file.names("g", "weight_names") == ["a", "b", "c"]
    assert (file.names("h", "weight_names"), file.names("none", "weight_names")) == (["d"], [])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"axis": 1}, None),
        ({"axis": [1]}, None),
        ({"axis": 0}, "axis"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": float("inf")}, "epsilon"),
        ({"renorm": True}, "renorm"),
        ({"virtual_batch_size": 4}, "virtual_batch_size"),
    ],
)
def test_settings_of_batch_normalization(tmp_path: Path, config: dict[str, Any], words: str | None) -> None:
    net = sequential(
        start(2),
        layer("Dense", "d", units=2),
        layer("BatchNormalization", "n", **{"axis": -1, "epsilon": 0.001, **config}),
    )
    one = np.ones(2, np.float32)
    data = archive(net, weights({"dense": [np.eye(2, dtype=np.float32), one], "batch_normalization": [one] * 4}))
    path = write(tmp_path / "n.keras", data)
    if words is None:
        assert len(load_model(path).nodes) == 1
        return
    with pytest.raises(UnsupportedError) as e:
        load_model(path)
    assert e.value.code == "QEB479" and words in e.value.message


@pytest.mark.parametrize(("epsilon", "read"), [(1e-3, True), (1.001e-5, True), (1e-6, False)])
def test_an_epsilon_that_keras_2_replaces(tmp_path: Path, epsilon: float, read: bool) -> None:
    net = sequential(
        start(2), layer("Dense", "d", units=2), layer("BatchNormalization", "n", axis=[1], epsilon=epsilon)
    )
    one = np.ones(2, np.float32)
    groups = {
        "d": {"kernel": np.eye(2, dtype=np.float32), "bias": one},
        "n": dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), one),
    }
    path = write(tmp_path / "n.h5", legacy(net, groups))
    if read:
        assert load_model(path).nodes[0].folded is not None
        return
    with pytest.raises(UnsupportedError, match="epsilon"):
        load_model(path)


def test_normalization_that_no_layer_takes_up(tmp_path: Path) -> None:
    one = np.ones(2, np.float32)
    arrays = {"dense": [np.eye(2, dtype=np.float32), one], "batch_normalization": [one] * 4}
    norm = layer("BatchNormalization", "n", axis=-1, epsilon=0.001)
    for net in (
        sequential(start(2), norm, layer("Dense", "d", units=2)),
        sequential(start(2), layer("Dense", "d", units=2, activation="relu"), norm),
        sequential(start(2), layer("Dense", "d", units=2), layer("Softmax", "s"), norm),
    ):
        with pytest.raises(UnsupportedError) as e:
            load_model(write(tmp_path / "n.keras", archive(net, weights(arrays))))
        assert e.value.code == "QEB479" and "MUL" in (e.value.fix or "") and "layer n" not in e.value.message
    zero = [np.zeros(2, np.float32), one, one, one]
    net = sequential(start(2), layer("Dense", "d", units=2), norm)
    with pytest.raises(UnsupportedError, match="factor is 0"):
        load_model(write(tmp_path / "n.keras", archive(net, weights({**arrays, "batch_normalization": zero}))))


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "code", "words"),
    [
        (layer("Lambda", "evil", function="x"), "QEB478", "Lambda"),
        (layer("Multiply", "m"), "QEB479", "1 inputs"),
        (layer("Concatenate", "m"), "QEB479", "axis"),
        (layer("Permute", "p"), "QEB478", "TRANSPOSE"),
        (layer("LSTM", "m", units=3), "QEB478", "LSTM"),
        (layer("Sequential", "m", layers=[]), "QEB477", "without layers"),
        ({**layer("Dense", "d", units=3), "registered_name": "mine>Dense"}, "QEB478", "mine>Dense"),
        ({**layer("Dense", "d", units=3), "module": "mine"}, "QEB478", "mine"),
        (layer("Dense", "d", units=3, activation="selu"), "QEB479", "activation"),
        (layer("Dense", "d", units=3, activation={"class_name": "function", "config": "f"}), "QEB479", "activation"),
        (layer("Dense", "d", units=3, dtype="mixed_float16"), "QEB479", "dtype"),
        (layer("Dense", "d", units=3, dtype={"class_name": "QuantizedDTypePolicy", "config": {}}), "QEB479", "dtype"),
        (layer("Dense", "d", units=3, lora_rank=4), "QEB479", "lora_rank"),
        (layer("Dense", "d", units=True), "QEB479", "units"),
        (layer("Dense", "d", units=-3), "QEB479", "units"),
        (layer("Dense", "d", units=10**30), "QEB479", "units"),
        (layer("Dense", "d", units=4), "QEB480", "shape"),
        (layer("Dense", "d", units=3, use_bias=False), "QEB480", "2 arrays"),
        (layer("ReLU", "r", max_value=1.0), "QEB479", "max_value"),
        (layer("ReLU", "r", negative_slope=0.1), "QEB479", "negative_slope"),
        (layer("ReLU", "r", threshold=0.5), "QEB479", "threshold"),
        (layer("Softmax", "s", axis=0), "QEB479", "axis"),
        (layer("Rescaling", "s", scale=[0.5, 1.0, 2.0], offset=0.0), "QEB479", "scale"),
        (layer("LeakyReLU", "l", negative_slope=-1.0), "QEB479", "negative_slope"),
        (layer("ELU", "e", alpha=0.5), "QEB479", "alpha"),
        (layer("Reshape", "s", target_shape=[3]), "QEB479", "target_shape"),
        (layer("Reshape", "s", target_shape=[-1, -1]), "QEB479", "target_shape"),
        (layer("Flatten", "s", data_format="channels_first"), "QEB479", "data_format"),
        (layer("Conv2D", "c", filters=1, kernel_size=[1, 1]), "QEB479", "used in a way"),
    ],
)
def test_layers_that_are_refused(tmp_path: Path, entry: dict[str, Any], code: str, words: str) -> None:
    arrays = {"dense": [np.ones((2, 3), np.float32), np.ones(3, np.float32)]}
    with pytest.raises(QebgateError) as e:
        load_model(write(tmp_path / "n.keras", archive(sequential(start(2), entry), weights(arrays))))
    assert e.value.code == code and words in str(e.value)
    assert entry["config"]["name"] in str(e.value) and e.value.exit_code == 4


def test_all_unsupported_layers_are_named_and_what_is_supported(tmp_path: Path) -> None:
    net = sequential(start(2), layer("Lambda", "one"), layer("GRU", "two"), layer("Mine", "three"))
    with pytest.raises(UnsupportedError) as e:
        load_model(write(tmp_path / "n.keras", archive(net, weights({}))))
    assert [r.where for r in e.value.related] == ["layer one", "layer two", "layer three"]
    assert "Dense" in (e.value.fix or "") and "DepthwiseConv2D" in (e.value.fix or "")


def functional(*layers: dict[str, Any], ends: Any = ("x", "d")) -> dict[str, Any]:
    config = {
        "name": "m",
        "layers": list(layers),
        "input_layers": [[ends[0], 0, 0]],
        "output_layers": [[ends[1], 0, 0]],
    }
    return {"module": "keras", "class_name": "Functional", "config": config, "registered_name": "Functional"}


def called(entry: dict[str, Any], *nodes: Any) -> dict[str, Any]:
    return {**entry, "name": entry["config"]["name"], "inbound_nodes": list(nodes)}


DENSE = layer("Dense", "d", units=3)


@pytest.mark.parametrize(
    ("net", "code"),
    [
        (functional(called(start(2)), called(DENSE, [["x", 0, 0, {}]])), None),
        (functional(called(start(2)), called(DENSE, [["x", 0, 0, {"training": None}]])), None),
        (functional(called(start(2)), called(DENSE, [["x", 0, 0, {"training": True}]])), "QEB479"),
        (functional(called(start(2)), called(DENSE, [["y", 0, 0, {}]])), "QEB477"),
        (functional(called(start(2)), called(DENSE, [["d", 0, 0, {}]])), "QEB477"),
        (functional(called(start(2)), called(DENSE, [["x", 1, 0, {}]])), "QEB477"),
        (functional(called(start(2)), called(DENSE, [["x", 0, 0, {}], ["x", 0, 0, {}]])), "QEB479"),
        (functional(called(start(2)), called(DENSE, [["x", True, 0]])), "QEB477"),
        (functional(called(start(2)), called(DENSE, "x")), "QEB477"),
        (functional(called(start(2)), called(DENSE)), "QEB479"),
        (functional(called(start(2)), called(DENSE, [["x", 0, 0]]), ends=("d", "x")), "QEB477"),
        (functional(called(start(2)), called(DENSE, [["x", 0, 0]]), called(start(2))), "QEB477"),
        (functional(called(start(2)), called(DENSE, {"args": [{"class_name": "Tensor", "config": 3}]})), "QEB479"),
        ({"class_name": "Functional", "config": []}, "QEB477"),
        ({"class_name": "MyModel", "config": {}, "registered_name": "mine>MyModel"}, "QEB478"),
        ({}, "QEB478"),
    ],
)
def test_graphs_of_layers(tmp_path: Path, net: dict[str, Any], code: str | None) -> None:
    path = write(tmp_path / "n.keras", archive(net, weights(one_dense()[1])))
    if code is None:
        assert [n.op for n in load_model(path).nodes] == ["FULLY_CONNECTED"]
        return
    with pytest.raises(ModelError) as e:
        load_model(path)
    assert e.value.code == code


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"batch_shape": [None, None]}, "QEB416"),
        ({"batch_shape": [7, 2]}, "QEB419"),
        ({"batch_shape": [1, 2]}, None),
        ({"batch_shape": [None, 2], "sparse": True}, "QEB479"),
        ({"batch_shape": [None, 2], "dtype": "int32"}, "QEB479"),
        ({"batch_shape": "x"}, "QEB416"),
    ],
)
def test_inputs(tmp_path: Path, config: dict[str, Any], code: str | None) -> None:
    net, arrays = sequential(layer("InputLayer", "x", **config), DENSE), one_dense()[1]
    path = write(tmp_path / "n.keras", archive(net, weights(arrays)))
    if code is None:
        assert load_model(path).input.shape == (1, 2)
        return
    with pytest.raises(ModelError) as e:
        load_model(path)
    assert e.value.code == code


def test_a_sequential_model_without_an_input(tmp_path: Path) -> None:
    """Older files: the first layer, or the model, knows the shape."""
    arrays = weights(one_dense()[1])
    old = sequential(layer("Dense", "d", units=3, batch_input_shape=[None, 2]))
    built = sequential(DENSE)
    built["config"]["build_input_shape"] = [None, 2]
    for net in (old, built):
        assert load_model(write(tmp_path / "n.keras", archive(net, arrays))).input.shape == (1, 2)
    with pytest.raises(UnsupportedError) as e:
        load_model(write(tmp_path / "n.keras", archive(sequential(DENSE), arrays)))
    assert e.value.code == "QEB416" and "build" in (e.value.fix or "")


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({}, "QEB480"),
        ({"dense": [np.ones((2, 3), np.float32)]}, "QEB480"),
        ({"dense": [np.ones((2, 3), np.float64), np.ones(3, np.float32)]}, "QEB414"),
        ({"dense": [np.full((2, 3), np.nan, np.float32), np.ones(3, np.float32)]}, "QEB417"),
        ({"dense": [np.full((2, 3), np.inf, np.float32), np.ones(3, np.float32)]}, "QEB417"),
        ({"dense": [np.full((2, 3), 1e-40, np.float32), np.ones(3, np.float32)]}, "QEB418"),
        ({"dense": [np.ones((3, 2), np.float32), np.ones(3, np.float32)]}, "QEB480"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, arrays: dict[str, list[np.ndarray]], code: str) -> None:
    with pytest.raises(ModelError) as e:
        load_model(write(tmp_path / "n.keras", archive(one_dense()[0], weights(arrays))))
    assert e.value.code == code


def test_weights_of_another_layer_are_noticed(tmp_path: Path) -> None:
    """Newer versions of Keras write the layer's name beside its variables."""
    raw = io.BytesIO(weights(one_dense()[1]))
    with h5py.File(raw, "r+") as f:
        f["layers/dense/vars"].attrs["name"] = "other"
    with pytest.raises(ModelError) as e:
        load_model(write(tmp_path / "n.keras", archive(one_dense()[0], raw.getvalue())))
    assert e.value.code == "QEB480" and "other" in str(e.value)


def test_a_file_of_weights_only(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as e:
        load_model(write(tmp_path / "m.weights.h5", weights(one_dense()[1])))
    assert e.value.code == "QEB477" and "whole model" in (e.value.fix or "")


def test_without_h5py_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "h5py" else real(name, *a))
    for name in ("dense.keras3.keras", "dense.keras2.h5"):
        with pytest.raises(ModelError) as e:
            load_model(FOLDER / name)
        assert e.value.code == "QEB474" and e.value.fix == "pip install 'qebgate[keras]'"


# -- dense networks -------------------------------------------------------------------------------


def test_a_dense_network_is_that_of_an_npz_file(tmp_path: Path) -> None:
    nets = [load_dense(FOLDER / f"dense.{f}") for n, f in FILES if n == "dense"]
    arrays = {f"{kind}{k}": a for k, (w, b) in enumerate(nets[0].layers) for kind, a in (("w", w.T), ("b", b))}
    np.savez(tmp_path / "n.npz", **arrays)
    nets.append(load_dense(tmp_path / "n.npz"))
    for net in nets:
        assert len(net.layers) == 3
        for (w, b), (v, c) in zip(net.layers, nets[0].layers, strict=True):
            assert w.dtype == b.dtype == np.float32 and (w == v).all() and (b == c).all()
    assert not nets[0].layers[1][1].any()  # a layer without bias
    graph = load_model(tmp_path / "n.npz")
    x = ROWS["dense_x"]
    assert (outputs(graph, x) == outputs(load_model(FOLDER / "dense.keras3.keras"), x)).all()


@pytest.mark.parametrize("name", ["image", "shapes", "sequence"])
def test_networks_that_are_not_dense(name: str) -> None:
    with pytest.raises(UnsupportedError) as e:
        load_dense(FOLDER / f"{name}.keras3.keras")
    assert e.value.code == "QEB472"


def test_a_dense_network_ends_at_its_logits(tmp_path: Path) -> None:
    for kind in ("relu", "softmax"):
        net, arrays = one_dense(activation=kind)
        with pytest.raises(UnsupportedError) as e:
            load_dense(write(tmp_path / "n.keras", archive(net, weights(arrays))))
        assert e.value.code == "QEB472" and "logits" in (e.value.fix or "")
