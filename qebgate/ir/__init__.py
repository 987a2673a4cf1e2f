"""The intermediate representation: tensors, graphs, pairs."""

from qebgate.ir.graph import Graph, Node, Source
from qebgate.ir.tensor import DType, QuantParams, Tensor

__all__ = ["DType", "Graph", "Node", "QuantParams", "Source", "Tensor"]
