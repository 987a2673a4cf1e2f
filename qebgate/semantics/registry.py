"""All operators whose meaning is known, by name."""

from __future__ import annotations

from types import MappingProxyType

from qebgate.semantics.add import Add
from qebgate.semantics.arg_max import ArgMax
from qebgate.semantics.average_pool_2d import AveragePool2D
from qebgate.semantics.base import Semantics
from qebgate.semantics.batch_matmul import BatchMatMul
from qebgate.semantics.conv_2d import Conv2D
from qebgate.semantics.depthwise_conv_2d import DepthwiseConv2D
from qebgate.semantics.dequantize import Dequantize
from qebgate.semantics.div import Div
from qebgate.semantics.extremes import Maximum, Minimum, ReduceMax, ReduceMin
from qebgate.semantics.fixed_point import FixedPointDense, FixedPointInput
from qebgate.semantics.float_only import Neg, Square
from qebgate.semantics.fully_connected import FullyConnected
from qebgate.semantics.inputs import InputParts
from qebgate.semantics.log_softmax import LogSoftmax
from qebgate.semantics.max_pool_2d import MaxPool2D
from qebgate.semantics.mean import Mean
from qebgate.semantics.moves import MOVES
from qebgate.semantics.mul import Mul
from qebgate.semantics.pad import Pad
from qebgate.semantics.quantize import Quantize
from qebgate.semantics.relu import Relu, Relu6
from qebgate.semantics.reshape import Reshape
from qebgate.semantics.resize_bilinear import ResizeBilinear
from qebgate.semantics.roots import Rsqrt, Sqrt
from qebgate.semantics.sigmoid import Logistic, Tanh
from qebgate.semantics.softmax import Softmax
from qebgate.semantics.squared_difference import SquaredDifference
from qebgate.semantics.sub import Sub
from qebgate.semantics.tables import Abs, Elu, Gelu, HardSwish, LeakyRelu, Prelu
from qebgate.semantics.transpose_conv import TransposeConv
from qebgate.semantics.unidirectional_sequence_lstm import UnidirectionalSequenceLstm

_ALL: tuple[type[Semantics], ...] = (
    Abs,
    Add,
    AveragePool2D,
    BatchMatMul,
    Conv2D,
    DepthwiseConv2D,
    Dequantize,
    Div,
    Elu,
    FullyConnected,
    Gelu,
    HardSwish,
    LeakyRelu,
    LogSoftmax,
    Logistic,
    MaxPool2D,
    Maximum,
    Mean,
    Minimum,
    Mul,
    Pad,
    Prelu,
    Quantize,
    ReduceMax,
    ReduceMin,
    Relu,
    Relu6,
    Reshape,
    ResizeBilinear,
    Softmax,
    Rsqrt,
    Sqrt,
    Neg,
    Square,
    SquaredDifference,
    Sub,
    Tanh,
    TransposeConv,
    UnidirectionalSequenceLstm,
    *MOVES,
)

SEMANTICS = MappingProxyType({cls.name: cls() for cls in _ALL})
"""Operator of .tflite files -> its exact meaning."""

IN_FILES = MappingProxyType({**SEMANTICS, **{c.name: c() for c in (ArgMax,)}})
"""Also those that may only end a network: they are executed, and what comes before them is bounded."""

ALL_SEMANTICS = MappingProxyType({**IN_FILES, **{c.name: c() for c in (FixedPointDense, FixedPointInput, InputParts)}})
"""Also what no file can name: operators of networks that are quantized on the fly, and parts of joined inputs."""
