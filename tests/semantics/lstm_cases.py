"""Random LSTMs on the nasty side, and the parts of one to distort."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.semantics.draw import Case, Rng, codes, pick, scale_of, zero_of
from tests.support.tflite_builder import Builder

OP = "UNIDIRECTIONAL_SEQUENCE_LSTM"


@dataclass
class Parts:
    """A model in the making: ``inputs`` are the operator's 24, by position in the schema."""

    b: Builder
    inputs: list[int]
    output: int
    intermediates: list[int]
    options: dict[str, object]
    version: int = 1

    def build(self) -> bytes:
        self.b.op(OP, self.inputs, [self.output], version=self.version, **self.options)
        self.b.graph.operators[-1].intermediates = np.asarray(self.intermediates, np.int32)
        return self.b.build([self.inputs[0]], [self.output])


def lstm_parts(rng: Rng, steps: int, channels: int, cells: int) -> Parts:
    """Scales from gates that hardly move to gates that saturate, with a cell that is clamped or overflows."""
    b, shape = Builder(), (1, steps, channels)
    time_major = steps == 1 and bool(rng.integers(2))  # only then does the model's input begin with a batch of 1
    s_x = scale_of(rng)
    x = b.tensor(shape, "int8", scale=s_x, zero_point=zero_of(rng))
    s_h, z_h = float(np.float32(pick(rng, 2.0**-7, 1 / 127.5, rng.uniform(0.001, 0.02)))), zero_of(rng)
    inputs = [x, *[-1] * 23]
    reach = float(pick(rng, 0.5, 2.0, 8.0, 40.0))  # of the gates' sums
    for k in range(4):
        for place, columns, unit in ((1 + k, channels, s_x), (5 + k, cells, s_h)):
            s_w = float(np.float32(reach * rng.uniform(0.3, 1.5) / (127 * 127 * unit * columns**0.5)))
            w = np.maximum(codes(rng, (cells, columns)), -127)
            inputs[place] = b.tensor((cells, columns), "int8", data=w, scale=s_w, zero_point=0)
            if place < 5:
                size = int(min(2.0**24, pick(rng, 1.0, 0.2) * reach / (s_w * s_x))) + 1
                bias = rng.integers(-size, size + 1, cells)
                inputs[12 + k] = b.tensor((cells,), "int32", data=bias, scale=s_w * s_x, zero_point=0)
    s_c = 2.0 ** -int(pick(rng, 12, 11, 13, rng.integers(9, 16)))
    inputs[18] = b.tensor((1, cells), "int8", scale=s_h, zero_point=z_h, variable=True)
    inputs[19] = b.tensor((1, cells), "int16", scale=s_c, zero_point=0, variable=True)
    nothing = [b.tensor((0,), "float32") for _ in range(4)]
    nothing.append(b.tensor((0,), "int8", scale=s_h, zero_point=z_h))
    y = b.tensor((*shape[:2], cells), "int8", scale=s_h, zero_point=z_h)
    clip = float(np.float32(pick(rng, 0.0, 0.0, 1.0, s_c / 2, rng.uniform(0.0, 3.0))))
    options = {"fused_activation": 4, "cell_clip": clip, "proj_clip": 0.0, "time_major": time_major}
    return Parts(b, inputs, y, nothing, options)


def lstm_case(rng: Rng, batch: int = 10) -> Case:
    steps, channels, cells = (int(v) for v in rng.integers(1, 9, 3))
    parts = lstm_parts(rng, steps, channels, int(pick(rng, 4, cells)))
    model = parts.build()
    return Case(OP, model, codes(rng, (batch, *parts.b.graph.tensors[parts.inputs[0]].shape.tolist())))
