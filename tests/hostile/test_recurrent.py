"""LSTMs that are not the plain one, damaged ones, and states that something else touches: refused by name."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.errors import ModelError
from qebgate.ir.graph import Graph
from tests.semantics.lstm_cases import OP, Parts, lstm_parts

STEPS, CHANNELS, CELLS = 3, 2, 4
Distort = Callable[[Parts], None]


def parts(seed: int = 0) -> Parts:
    return lstm_parts(np.random.default_rng(seed), STEPS, CHANNELS, CELLS)


def read(folder: Path, model: bytes) -> Graph:
    path = folder / "m.tflite"
    path.write_bytes(model)
    return read_tflite(path)


def without(*places: int) -> Distort:
    def run(p: Parts) -> None:
        for k in places:
            p.inputs[k] = -1

    return run


def with_input(place: int, shape: tuple[int, ...], dtype: str) -> Distort:
    def run(p: Parts) -> None:
        data = np.ones(shape, dtype)
        scale = None if dtype == "float32" else 0.01
        p.inputs[place] = p.b.tensor(shape, dtype, data=data, scale=scale)

    return run


def option(name: str, value: object) -> Distort:
    return lambda p: p.options.__setitem__(name, value)


def tensor(place: int, **about: object) -> Distort:
    """Another shape, type, scale or zero point of one of the inputs' tensors (24 is the output)."""

    def run(p: Parts) -> None:
        t = p.b.graph.tensors[p.output if place == 24 else p.inputs[place]]
        for key, value in about.items():
            target = t.quantization if key in ("scale", "zeroPoint") else t
            setattr(target, key, value)

    return run


def shape(*n: int) -> np.ndarray:
    return np.array(n, np.int32)


def hidden_scale(p: Parts) -> None:
    p.b.graph.tensors[p.intermediates[4]].quantization.scale = np.array([0.5], np.float32)


def intermediates(values: list[int]) -> Distort:
    return lambda p: p.intermediates.__setitem__(slice(None), values)


def shared_state(p: Parts) -> None:
    p.inputs[19] = p.inputs[18]


def state_is_read(p: Parts) -> None:
    y = p.b.tensor((1, CELLS), "int8", scale=0.01)
    p.b.op("RELU", [p.inputs[18]], [y])


def state_is_written(p: Parts) -> None:
    p.b.op("RELU", [p.inputs[0]], [p.inputs[18]])


def two_lstms_on_one_state(p: Parts) -> None:
    y = p.b.graph.tensors[p.output]
    other = p.b.tensor(tuple(y.shape), "int8", scale=y.quantization.scale, zero_point=y.quantization.zeroPoint)
    p.b.op(OP, p.inputs, [other], fused_activation=4)
    p.b.graph.operators[-1].intermediates = np.asarray(p.intermediates, np.int32)


def state_with_data(p: Parts) -> None:
    p.b.graph.tensors[p.inputs[18]].buffer = p.b.buffer(bytes(CELLS))


def per_channel(p: Parts) -> None:
    q = p.b.graph.tensors[p.inputs[3]].quantization
    q.scale, q.zeroPoint, q.quantizedDimension = np.full(CELLS, 0.01, np.float32), np.zeros(CELLS, np.int64), 0


def overflowing(p: Parts) -> None:
    t = p.b.graph.tensors[p.inputs[13]]
    t.buffer = p.b.buffer(np.full(CELLS, 2**31 - 1, np.int32).tobytes())


def variable_weights(p: Parts) -> None:
    t = p.b.graph.tensors[p.inputs[2]]
    t.isVariable, t.buffer = True, 0


def hybrid(p: Parts) -> None:
    for i in (p.inputs[0], p.output, p.inputs[18], p.inputs[19]):
        t = p.b.graph.tensors[i]
        t.type, t.quantization = 0, None
    p.inputs[12:16] = [p.b.tensor((CELLS,), data=np.zeros(CELLS)) for _ in range(4)]


def wide(p: Parts) -> None:
    for i in (p.inputs[0], p.output, p.inputs[18]):
        p.b.graph.tensors[i].type = 7
        p.b.graph.tensors[i].quantization.zeroPoint = np.zeros(1, np.int64)


DISTORTIONS: dict[str, tuple[Distort, str]] = {
    "no input gate": (without(1, 5, 12), "CIFG"),
    "no input gate's bias": (without(12), "CIFG"),
    "no forget bias": (without(13), "not constant"),
    "no weights of the state": (without(7), "not constant"),
    "no state": (without(18), "two variable tensors"),
    "no input": (without(0), "damaged"),
    "peephole": (with_input(9, (CELLS,), "int16"), "peephole"),
    "projection": (with_input(16, (CELLS, CELLS), "int8"), "projection"),
    "projection bias": (with_input(17, (CELLS,), "int32"), "projection"),
    "layer normalization": (with_input(21, (CELLS,), "int16"), "layer normalization"),
    "another activation": (option("fused_activation", 1), "another activation"),
    "an activation that nothing has": (option("fused_activation", 99), "another activation"),
    "diagonal weights": (option("diagonal_recurrent_tensors", True), "diagonal"),
    "a negative limit": (option("cell_clip", -1.0), "negative limit"),
    "a limit that is no number": (option("cell_clip", float("nan")), "nan"),
    "fewer inputs": (lambda p: p.inputs.pop(), "number of inputs"),
    "a newer version": (lambda p: setattr(p, "version", 9), "version 9"),
    "a cell whose scale is no power of two": (tensor(19, scale=np.array([0.001], np.float32)), "power of two"),
    "a cell of large scale": (tensor(19, scale=np.array([2.0**-8], np.float32)), "power of two"),
    "a cell with a zero point": (tensor(19, zeroPoint=np.array([3])), "zero point"),
    "an int8 cell": (tensor(19, type=9), "int16 cell"),
    "no scale of the state": (tensor(18, quantization=None), "one scale"),
    "another scale of the state": (tensor(18, scale=np.array([0.3], np.float32)), "different scales"),
    "another scale of the hidden state": (hidden_scale, "different scales"),
    "weights with a zero point": (tensor(2, zeroPoint=np.array([1])), "zero point"),
    "weights with a scale for each cell": (per_channel, "one scale"),
    "weights of other shapes": (with_input(6, (CELLS, CELLS + 1), "int8"), "do not fit together"),
    "a bias of another size": (with_input(14, (CELLS + 1,), "int32"), "do not fit together"),
    "a float bias": (with_input(14, (CELLS,), "float32"), "int16 cell"),
    "a state of another size": (tensor(18, shape=shape(1, CELLS + 1)), "another size"),
    "a state of billions": (tensor(19, shape=shape(1, 2**27)), "another size"),
    "an output of another shape": (tensor(24, shape=shape(1, STEPS, CELLS + 1)), "another shape"),
    "two sequences": (option("time_major", True), "more than one sequence"),
    "an input of two axes": (tensor(0, shape=shape(1, STEPS * CHANNELS)), "three axes"),
    "too many intermediates": (lambda p: p.intermediates.append(p.intermediates[0]), "five intermediates"),
    "an intermediate that is left out": (intermediates([0, 0, 0, 0, -1]), "damaged"),
    "an intermediate that does not exist": (intermediates([0, 0, 0, 0, 10**6]), "damaged"),
    "a state that is a constant": (with_input(18, (1, CELLS), "int8"), "two variable tensors"),
    "one tensor for both states": (shared_state, "one LSTM only"),
    "a state that others read": (state_is_read, "one LSTM only"),
    "two LSTMs on one state": (two_lstms_on_one_state, "one LSTM only"),
    "a state that others write": (state_is_written, "that an operator writes"),
    "a state with data": (state_with_data, "value of their own"),
    "variable weights": (variable_weights, "one LSTM only"),
    "sums beyond 32 bits": (overflowing, "overflow"),
    "float activations": (hybrid, "dynamic-range"),
    "int16 activations": (wide, "int8 activations"),
}


@pytest.mark.parametrize("name", DISTORTIONS)
def test_what_is_not_the_plain_lstm_is_refused_by_name(name: str, tmp_path: Path) -> None:
    distort, said = DISTORTIONS[name]
    p = parts()
    p.options["cell_clip"] = 0.0
    distort(p)
    model = p.build()
    tracemalloc.start()
    with pytest.raises(ModelError) as caught:
        read(tmp_path, model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    told = str(caught.value) + " ".join(str(e) for e in caught.value.related)
    assert said in told, told
    assert peak < 1 << 24


def test_the_undistorted_one_is_read(tmp_path: Path) -> None:
    for seed in range(5):
        graph = read(tmp_path, parts(seed).build())
        assert [n.op for n in graph.nodes] == [OP]
        assert sum(t.variable for t in graph.tensors) == 2
