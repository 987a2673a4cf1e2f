"""All lowerings, by operator, and the lowering of a whole pair."""

from __future__ import annotations

from types import MappingProxyType

from qebgate.domains.layers import Layer
from qebgate.errors import UnsupportedError
from qebgate.ir.graph import INPUT_PART
from qebgate.ir.pair import Pair
from qebgate.ops.averages import AveragePool2DLowering, MeanLowering
from qebgate.ops.base import Context, Lowering
from qebgate.ops.conv_2d import Conv2DLowering
from qebgate.ops.curves import CurveLowering
from qebgate.ops.depthwise_conv_2d import DepthwiseConv2DLowering
from qebgate.ops.extremes import ReduceLowering, SelectLowering
from qebgate.ops.fixed_point import FixedPointDenseLowering, FixedPointInputLowering
from qebgate.ops.floating import lowered
from qebgate.ops.fully_connected import BatchMatMulLowering, FullyConnectedLowering
from qebgate.ops.max_pool_2d import MaxPool2DLowering
from qebgate.ops.movement import (
    DequantizeLowering,
    PadLowering,
    QuantizeLowering,
    Relu6Lowering,
    ReluLowering,
    ReshapeLowering,
)
from qebgate.ops.moves import MoveLowering
from qebgate.ops.products import MulLowering
from qebgate.ops.quotients import DivLowering
from qebgate.ops.resize_bilinear import ResizeBilinearLowering
from qebgate.ops.squares import NegLowering, SquaredDifferenceLowering, SquareLowering
from qebgate.ops.squashing import SoftmaxLowering
from qebgate.ops.sums import AddLowering, SubLowering
from qebgate.ops.transpose_conv import TransposeConvLowering
from qebgate.ops.unidirectional_sequence_lstm import LstmLowering
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.emulation import check_runtime
from qebgate.semantics.moves import MOVES

_ALL: tuple[Lowering, ...] = (
    AddLowering(),
    AveragePool2DLowering(),
    BatchMatMulLowering(),
    Conv2DLowering(),
    DepthwiseConv2DLowering(),
    DequantizeLowering(),
    DivLowering(),
    FullyConnectedLowering(),
    LstmLowering(),
    MaxPool2DLowering(),
    MeanLowering(),
    MulLowering(),
    PadLowering(),
    QuantizeLowering(),
    Relu6Lowering(),
    ReluLowering(),
    ReshapeLowering(),
    ResizeBilinearLowering(),
    SoftmaxLowering("LOG_SOFTMAX"),
    SoftmaxLowering("SOFTMAX"),
    NegLowering(),
    SquareLowering(),
    SquaredDifferenceLowering(),
    SubLowering(),
    TransposeConvLowering(),
)

_CURVES = ("ABS", "ELU", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "PRELU", "RSQRT", "SQRT", "TANH")

_FAMILIES: tuple[Lowering, ...] = (
    *(CurveLowering(op) for op in _CURVES),
    *(MoveLowering(cls.name) for cls in MOVES),
    *(ReduceLowering(op) for op in ("REDUCE_MAX", "REDUCE_MIN")),
    *(SelectLowering(op) for op in ("MAXIMUM", "MINIMUM")),
)
"""One class for several operators."""

LOWERINGS = MappingProxyType({x.op: x for x in (*_ALL, *_FAMILIES)})
"""Operator of .tflite files -> how it is bounded."""

ALL_LOWERINGS = MappingProxyType(
    {
        **LOWERINGS,
        **{c.op: c() for c in (FixedPointDenseLowering, FixedPointInputLowering)},
        INPUT_PART: MoveLowering(INPUT_PART),
    }
)
"""Also what no file can name: operators of networks that are quantized on the fly, and parts of joined inputs."""


def lower(pair: Pair, runtime: Runtime, *, float32: bool) -> tuple[Layer, ...]:
    """Canonical layers of a pair, in topological order; value 0 is the models' input.  Made once."""
    key = (lower, runtime, float32)
    if key not in pair.derived:
        pair.derived[key] = _lowered(pair, runtime, float32=float32)
    return pair.derived[key]


def _lowered(pair: Pair, runtime: Runtime, *, float32: bool) -> tuple[Layer, ...]:
    check_runtime(pair.quantized, runtime)
    ctx = Context(pair, runtime, float32)
    missing = sorted({s.op for s in pair.steps} - set(ALL_LOWERINGS))
    if missing:
        raise UnsupportedError(
            "QEB435", f"no bounds are implemented for {', '.join(missing)}", where=pair.quantized.source.label
        )
    return tuple(layer for s in pair.steps for layer in lowered(s, ctx, ALL_LOWERINGS[s.op].lower))
