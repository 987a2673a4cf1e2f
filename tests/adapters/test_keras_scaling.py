"""Layers of Keras that scale values and images, against converted files and the layers' own float32 arithmetic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qebgate.adapters import load_model
from qebgate.engines.dra.analysis import Settings
from qebgate.errors import QebgateError
from qebgate.ir.align import align
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.float_error import Computed, float_error
from tests.laws.contain import Seen, check, samples
from tests.laws.pairs import codec_of, grid_cell, task_of
from tests.support.keras_files import archive, layer, sequential, start, weights, write

FOLDER = Path(__file__).resolve().parents[1] / "models" / "keras"
FILES = (
    "decoder.keras3.keras",
    "decoder.keras2.h5",
    "scaled.keras3.keras",
    "scaled.keras3.h5",
    "nearest.keras2.h5",
    "groups.keras3.keras",
    "groups.keras2.h5",
)


def net(tmp_path: Path, shape: tuple[int, ...], entry: dict[str, Any], **groups: list[np.ndarray]) -> Path:
    return write(tmp_path / "n.keras", archive(sequential(start(*shape), entry), weights(groups)))


@pytest.mark.parametrize("file", FILES)
def test_the_converters_file_is_the_same_network(file: str) -> None:
    graph, name = load_model(FOLDER / file), file.split(".", maxsplit=1)[0]
    pair = align(graph, load_model(FOLDER / f"{name}.int8.tflite"))
    converted = align(load_model(FOLDER / f"{name}.float.tflite"), load_model(FOLDER / f"{name}.int8.tflite"))
    assert [s.op for s in pair.steps] == [s.op for s in converted.steps]
    assert pair.agreements and all(a.worst < 0.51 for a in pair.agreements)


@pytest.mark.parametrize("name", ["decoder", "scaled", "nearest", "groups"])
def test_bounds_of_converted_files(name: str) -> None:
    model = (FOLDER / f"{name}.float.tflite").read_bytes()
    file = next(f for f in FILES if f.startswith(name))
    seen = Seen()
    for k, runtime in enumerate(DEPLOYED):
        pair = align(load_model(FOLDER / file), load_model(FOLDER / f"{name}.int8.tflite"))
        rng, codec = np.random.default_rng(k), codec_of(pair)
        task = task_of(pair, grid_cell(pair, codec, rng), codec, runtime, ("float32", "real", "float32")[k])
        given = samples(task, rng, 30)
        if name == "scaled" and runtime is Runtime.REFERENCE:  # which the interpreter refuses as well
            with pytest.raises(QebgateError, match="no kernel for TILE"):
                check(task, given, Settings(), seen)
            continue
        check(task, given, Settings(), seen, model)
    assert not seen.violations, seen.violations[:3]
    assert seen.values > 4000


def test_roundoff_of_normalization(tmp_path: Path) -> None:
    """Keras divides in float32; the exact factor is the float64 reciprocal, and its node says so."""
    rng = np.random.default_rng(0)
    mean, variance = (rng.uniform(0.1, 5.0, 64).astype(np.float32) for _ in range(2))
    path = net(tmp_path, (64,), layer("Normalization", "n", axis=-1), normalization=[mean, variance, np.array(7)])
    graph = load_model(path)
    sub, mul = graph.nodes
    assert (sub.op, mul.op) == ("SUB", "MUL") and mul.folded is not None
    x = rng.normal(size=(400, 64)).astype(np.float32) * 3
    centred = x - mean
    factor = graph.tensors[mul.inputs[1]].const
    assert factor is not None and np.abs(factor * np.sqrt(variance.astype(np.float64)) - 1).max() < 1e-15
    exact = centred.astype(np.float64) * factor
    wide = centred.astype(np.float64)[:, None]
    broken = 0
    reciprocal = np.float32(1) / np.sqrt(variance)
    for y in (centred / np.maximum(np.sqrt(variance), np.float32(1e-7)), centred * reciprocal):
        assert y.dtype == np.float32
        for row, got, want in zip(wide, y, exact, strict=True):
            given = [Computed(row, row), None]
            assert (np.abs(got - want) <= float_error(mul, graph, given)[0]).all()
            broken += int((np.abs(got - want) > float_error(replace(mul, folded=None), graph, given)[0]).sum())
    assert broken > 100  # the product's own rounding alone would not hold


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (layer("Normalization", "n", axis=0, mean=[0.0], variance=[1.0]), "axis"),
        (layer("Normalization", "n", axis=-1, mean=[0.0], variance=[1.0], invert=True), "invert"),
        (layer("Normalization", "n", axis=-1, mean=[0.0], variance=[0.0]), "nearly 0"),
        (layer("Normalization", "n", axis=-1, mean=["a"], variance=[1.0]), "mean"),
        (layer("Normalization", "n", axis=-1, mean=[0.0] * 3, variance=[1.0]), "mean"),
        (layer("Conv2D", "c", filters=3, kernel_size=[1, 1], padding="valid", groups=2), "groups"),
        (layer("UpSampling2D", "u", size=[2, 2], interpolation="bicubic"), "interpolation"),
        (layer("UpSampling2D", "u", size=[2, 2], data_format="channels_first"), "data_format"),
        (
            layer("Conv2DTranspose", "t", filters=1, kernel_size=[2, 2], strides=2, padding="same", dilation_rate=2),
            "dilation",
        ),
        (
            layer(
                "Conv2DTranspose", "t", filters=1, kernel_size=[2, 2], strides=1, padding="valid", output_padding=[1, 0]
            ),
            "output_padding",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    with pytest.raises(QebgateError) as e:
        load_model(net(tmp_path, (4, 4, 2), entry))
    assert e.value.code == "QEB479" and words in str(e.value)
