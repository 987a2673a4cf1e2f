"""The float32 error bounds hold for TensorFlow's kernels too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qebgate.ir.graph import Graph
from qebgate.semantics.float_error import float_error
from tests.semantics.compare import load
from tests.semantics.test_float_error import _exact, computed, float_case

pytestmark = pytest.mark.tensorflow


def _forward(tf: Any, graph: Graph) -> Callable[[np.ndarray], Any]:
    """The one operator of a graph in TensorFlow, without its activation (a clamp, applied by the caller)."""
    node = graph.nodes[0]
    constants = [graph.tensors[i].const if i >= 0 else None for i in node.inputs]
    weights = constants[1] if len(constants) > 1 else None
    bias = constants[2] if len(constants) > 2 and constants[2] is not None else np.float32(0)
    how = getattr(node.attrs, "how", None)
    padding = "SAME" if how is not None and how.same else "VALID"
    strides = [1, *how.stride, 1] if how is not None else None
    return {
        "FULLY_CONNECTED": lambda x: tf.matmul(x, weights, transpose_b=True) + bias,
        "CONV_2D": lambda x: tf.nn.conv2d(x, np.transpose(weights, (1, 2, 3, 0)), strides, padding) + bias,
        "DEPTHWISE_CONV_2D": lambda x: (
            tf.nn.depthwise_conv2d(x, weights[0].reshape(*weights.shape[1:3], x.shape[3], -1), strides, padding) + bias
        ),
        "AVERAGE_POOL_2D": lambda x: tf.nn.avg_pool2d(x, node.attrs.kernel, strides, padding),
        "MEAN": lambda x: tf.reduce_mean(x, [int(a) for a in weights]),
        "ADD": lambda x: x + weights,
        "LOGISTIC": tf.sigmoid,
        "TANH": tf.tanh,
    }[node.op]


@pytest.mark.parametrize(
    "op", ["ADD", "AVERAGE_POOL_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "LOGISTIC", "MEAN", "TANH"]
)
def test_bound_holds_in_tensorflow(op: str) -> None:
    import tensorflow as tf

    for seed in range(12):
        model, x = float_case(op, np.random.default_rng(seed))
        graph = load(model)
        node = graph.nodes[0]
        exact = _exact(graph, x)
        e = float_error(node, graph, [computed(x) if i == graph.inputs[0] else None for i in node.inputs])
        forward = _forward(tf, graph)
        y = np.stack([np.asarray(forward(row)).reshape(graph.output.shape) for row in x])
        assert y.dtype == np.float32
        a, b = getattr(node.attrs, "activation", None).range if hasattr(node.attrs, "activation") else (-np.inf, np.inf)
        assert (np.abs(np.clip(y, a, b).astype(np.float64) - exact) <= e).all(), f"seed {seed}"


def test_softmax_in_tensorflow() -> None:
    """With beta 1, as Keras has it: the product with another beta would be a rounding of its own."""
    import tensorflow as tf

    for seed in range(40):
        model, x = float_case("SOFTMAX", np.random.default_rng(seed))
        graph = load(model)
        if graph.nodes[0].attrs.beta != 1.0:
            continue
        e = float_error(graph.nodes[0], graph, [computed(x)])
        y = np.stack([np.asarray(tf.nn.softmax(row)) for row in x])
        assert (np.abs(y.astype(np.float64) - _exact(graph, x)) <= e).all()
