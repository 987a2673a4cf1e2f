"""Networks of dense layers: as graphs, and out of graphs."""

from __future__ import annotations

from fractions import Fraction
from typing import NoReturn

import numpy as np

from qebgate.adapters.npz import MAX_LAYERS, MAX_WIDTH, DenseNetwork
from qebgate.errors import UnsupportedError
from qebgate.ir.graph import Graph, Node, Source
from qebgate.ir.tensor import Array, DType, Tensor
from qebgate.semantics.base import Activation
from qebgate.semantics.fixed_point import InputAttrs
from qebgate.semantics.fully_connected import FullyConnectedAttrs


def dense_graph(net: DenseNetwork, scale: Fraction | None = None) -> Graph:
    """The float graph; with a ``scale``, its inputs are integers of which one step is worth that much."""
    n = net.inputs
    tensors = [Tensor("input", (1, n), DType.FLOAT32)]
    nodes: list[Node] = []
    if scale is not None:
        tensors.append(Tensor("scaled", (1, n), DType.FLOAT32))
        nodes.append(Node("FIXED_POINT_INPUT", (0,), (1,), InputAttrs(scale), 0))
    for k, (w, b) in enumerate(net.layers):
        last = k == len(net.layers) - 1
        at = len(tensors)
        tensors += [
            Tensor(f"w{k}", w.shape, DType.FLOAT32, None, w),
            Tensor(f"b{k}", b.shape, DType.FLOAT32, None, b),
            Tensor("output" if last else f"h{k}", (1, w.shape[0]), DType.FLOAT32),
        ]
        attrs = FullyConnectedAttrs(Activation.NONE if last else Activation.RELU, keep_dims=False)
        nodes.append(Node("FULLY_CONNECTED", (at - 1, at, at + 1), (at + 2,), attrs, len(nodes)))
    source = Source(net.path, net.sha256, net.format)
    return Graph(tuple(tensors), tuple(nodes), (0,), (len(tensors) - 1,), source)


def dense_network(graph: Graph) -> DenseNetwork:
    """The layers of a float graph that is a chain of dense layers, ReLU after all but the last.

    Raises UnsupportedError QEB472 for any other graph.
    """
    if len(graph.input.shape) != 2:
        _refuse(graph, f"an input of shape {graph.input.shape}")
    at, layers = graph.inputs[0], list[tuple[Array, Array]]()
    for k, node in enumerate(graph.nodes):
        last = k == len(graph.nodes) - 1
        attrs = node.attrs
        if not isinstance(attrs, FullyConnectedAttrs) or node.inputs[0] != at or node.folded is not None:
            folded = " with batch normalization" if node.folded is not None else ""
            _refuse(graph, f"{node.origin}{folded} ({graph.tensors[node.outputs[0]].label})")
        if attrs.activation is not (Activation.NONE if last else Activation.RELU):
            _refuse(graph, f"activation {attrs.activation.name} after layer {k} of {len(graph.nodes)}")
        w = graph.tensors[node.inputs[1]].const
        assert w is not None
        bias = graph.tensors[node.inputs[2]].const if len(node.inputs) > 2 else np.zeros(len(w), np.float32)
        assert bias is not None
        layers.append((w, bias))
        at = node.outputs[0]
    if not layers or graph.outputs != (at,) or len(layers) > MAX_LAYERS:
        _refuse(graph, f"{len(layers)} dense layers")
    widest = max(max(w.shape) for w, _ in layers)
    if widest > MAX_WIDTH:
        _refuse(graph, f"a layer of width {widest}, at most {MAX_WIDTH}")
    source = graph.source
    return DenseNetwork(tuple(layers), source.path, source.sha256, source.format)


def _refuse(graph: Graph, found: str) -> NoReturn:
    raise UnsupportedError(
        "QEB472",
        "only networks of dense layers with ReLU between them are quantized in fixed point",
        where=graph.source.label,
        found=found,
        fix="the last layer has no activation: end the model at its logits",
    )
