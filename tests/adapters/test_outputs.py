"""Models with several outputs: one of them is compared, by its name in the signature or its position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.engines.dra.analysis import Settings
from qebgate.engines.dra.program import program
from qebgate.errors import ModelError, PolicyError
from qebgate.gate import check
from qebgate.policy import parse_policy
from qebgate.runtimes.profiles import DEPLOYED
from tests.laws.contain import Seen, samples
from tests.laws.contain import check as contained
from tests.laws.pairs import codec_of, grid_cell, one_operator, task_of
from tests.support.tflite_builder import Builder

RNG = np.random.default_rng(0)
W = {"a": RNG.integers(-100, 100, (3, 4)), "b": RNG.integers(-100, 100, (2, 4))}


def _named(b: Builder, outputs: dict[str, int]) -> None:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex, signature.inputs, signature.outputs = "serving", 0, [], []
    for name, tensor in outputs.items():
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, tensor
        signature.outputs.append(entry)
    b.model.signatureDefs = [signature]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float and an int8 model with the outputs ``scores`` and ``box``, in different orders."""
    path = tmp_path_factory.mktemp("outputs")
    b = Builder()
    x, y, z = b.tensor((1, 4)), b.tensor((1, 3)), b.tensor((1, 2))
    for name, out in (("a", y), ("b", z)):
        w = b.tensor(W[name].shape, data=W[name] * np.float32(0.02))
        b.op("FULLY_CONNECTED", [x, w, -1], [out])
    _named(b, {"scores": y, "box": z})
    (path / "float.tflite").write_bytes(b.build([x], [y, z]))
    b = Builder()
    x = b.tensor((1, 4), "int8", scale=0.02)
    y, z = b.tensor((1, 3), "int8", scale=0.1), b.tensor((1, 2), "int8", scale=0.1)
    for name, out in (("a", y), ("b", z)):
        w = b.tensor(W[name].shape, "int8", data=W[name], scale=0.02)
        b.op("FULLY_CONNECTED", [x, w, -1], [out], version=4)
    _named(b, {"box": z, "scores": y})
    (path / "int8.tflite").write_bytes(b.build([x], [z, y]))
    return path


def _run(folder: Path, tensor: object):
    policy = {
        "version": 1,
        "models": {"m": {"float": "float.tflite", "quantized": "int8.tflite"}},
        "regions": {"r": {"kind": "box", "lower": -0.02, "upper": 0.02, "domain": "grid"}},
        "checks": [
            {"id": "c", "model": "m", "region": "r", "property": {"kind": "max_abs", "limit": 0.2, "tensor": tensor}}
        ],
    }
    return check(parse_policy(policy, "p.yaml", folder))


@pytest.mark.parametrize(("name", "size"), [("scores", 3), ("box", 2)])
def test_by_name(folder: Path, name: str, size: int) -> None:
    (result,) = _run(folder, {"signature": name}).checks
    (task,) = result.tasks
    assert result.verdict == "pass" and task.outputs == tuple(range(size))
    assert task.witnessed is not None and 0 < task.witnessed <= 0.06  # replayed: half a quantum and the clamp


def test_each_check_compares_its_own_output(folder: Path) -> None:
    """Two checks of the same files in one policy: neither is answered with the other's network."""
    ask = {"model": "m", "region": "r"}
    policy = {
        "version": 1,
        "models": {"m": {"float": "float.tflite", "quantized": "int8.tflite"}},
        "regions": {"r": {"kind": "box", "lower": -0.02, "upper": 0.02, "domain": "grid"}},
        "checks": [
            {**ask, "id": name, "property": {"kind": "max_abs", "limit": 0.2, "tensor": {"signature": name}}}
            for name in ("scores", "box")
        ],
    }
    scores, box = check(parse_policy(policy, "p.yaml", folder)).checks
    assert scores.tasks[0].outputs == (0, 1, 2) and box.tasks[0].outputs == (0, 1)
    for name, found in (("scores", scores), ("box", box)):
        (alone,) = _run(folder, {"signature": name}).checks
        assert (found.witnessed, found.proven) == (alone.witnessed, alone.proven)


def test_names_are_read(folder: Path) -> None:
    graph = read_tflite(folder / "int8.tflite")
    assert [n for n, _ in graph.signature] == ["box", "scores"]
    assert graph.only("scores").output.size == 3 and graph.only(0).output.size == 2
    with pytest.raises(ModelError) as e:
        graph.only("boxes")
    assert e.value.code == "QEB426" and "scores" in str(e.value.fix)


def test_positions_that_mean_different_outputs_are_not_the_same_network(folder: Path) -> None:
    report = _run(folder, 0)
    assert not report.checks and report.errors


def test_several_outputs_ask_for_one(folder: Path) -> None:
    report = _run(folder, "output")
    (error,) = report.errors
    assert error.error.code == "QEB413" and "scores" in str(error.error.fix)


@pytest.mark.parametrize("tensor", [{"signature": ""}, {"name": "scores"}, -1, True, 1.5, "outputs", [0]])
def test_other_words_are_errors(folder: Path, tensor: object) -> None:
    with pytest.raises(PolicyError):
        _run(folder, tensor)


def test_an_output_that_is_not_made_last(folder: Path) -> None:
    """An operator that nothing needs stands behind the one that makes the output: it is no part of the network."""
    dead = 0
    for seed in range(12):
        twins = one_operator("SPLIT", seed)
        rng = np.random.default_rng(seed)
        codec = codec_of(twins.pair, rng)
        task = task_of(twins.pair, grid_cell(twins.pair, codec, rng), codec, DEPLOYED[seed % 3], "float32")
        value = twins.pair.values[program(task).output]
        outputs = twins.pair.float.outputs[0], twins.pair.quantized.outputs[0]
        assert (value.float_tensor, value.quantized_tensor) == outputs
        dead += outputs[0] != len(twins.pair.float.tensors) - 1
        seen = Seen()
        contained(task, samples(task, rng, 20), Settings(), seen, twins.float)
        assert not seen.violations
    assert dead >= 2
