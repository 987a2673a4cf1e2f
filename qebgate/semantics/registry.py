"""All operators whose meaning is known, by name."""

from __future__ import annotations

from types import MappingProxyType

from qebgate.semantics.add import Add
from qebgate.semantics.average_pool_2d import AveragePool2D
from qebgate.semantics.base import Semantics
from qebgate.semantics.conv_2d import Conv2D
from qebgate.semantics.depthwise_conv_2d import DepthwiseConv2D
from qebgate.semantics.dequantize import Dequantize
from qebgate.semantics.fixed_point import FixedPointDense, FixedPointInput
from qebgate.semantics.fully_connected import FullyConnected
from qebgate.semantics.max_pool_2d import MaxPool2D
from qebgate.semantics.mean import Mean
from qebgate.semantics.pad import Pad
from qebgate.semantics.quantize import Quantize
from qebgate.semantics.relu import Relu, Relu6
from qebgate.semantics.reshape import Reshape
from qebgate.semantics.sigmoid import Logistic, Tanh
from qebgate.semantics.softmax import Softmax

_ALL: tuple[type[Semantics], ...] = (
    Add,
    AveragePool2D,
    Conv2D,
    DepthwiseConv2D,
    Dequantize,
    FullyConnected,
    Logistic,
    MaxPool2D,
    Mean,
    Pad,
    Quantize,
    Relu,
    Relu6,
    Reshape,
    Softmax,
    Tanh,
)

SEMANTICS = MappingProxyType({cls.name: cls() for cls in _ALL})
"""Operator of .tflite files -> its exact meaning."""

ALL_SEMANTICS = MappingProxyType({**SEMANTICS, **{c.name: c() for c in (FixedPointDense, FixedPointInput)}})
"""Also the operators of networks that are quantized on the fly, which no file can name."""
