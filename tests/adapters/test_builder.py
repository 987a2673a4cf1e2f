"""The models that other tests build run in the installed interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from tests.support.tiny import dense_float, dense_int8, network_int8


@pytest.mark.parametrize("model", [dense_int8, dense_float])
def test_dense_runs(model):
    b, x, y = model()
    interpreter = Interpreter(model_content=b.build(x, y))
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]
    interpreter.set_tensor(detail["index"], np.ones(detail["shape"], detail["dtype"]))
    interpreter.invoke()
    assert interpreter.get_tensor(y[0]).shape == (1, 3)


def test_network_runs():
    interpreter = Interpreter(model_content=network_int8())
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ones((1, 6, 6, 2), np.float32))
    interpreter.invoke()
    out = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert abs(out.sum() - 1) < 0.05
