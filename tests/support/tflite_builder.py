"""Small .tflite models made by hand, for tests.

    b = Builder()
    x = b.tensor((1, 8), "int8", scale=0.02, zero_point=-3)
    w = b.tensor((4, 8), "int8", data=codes, scale=[0.1, 0.2, 0.3, 0.4], axis=0)
    y = b.tensor((1, 4), "int8", scale=0.05, zero_point=1)
    b.op("FULLY_CONNECTED", [x, w, -1], [y], fused_activation=1)
    data = b.build([x], [y])

Options are named as in the schema, in snake case (``stride_w=2``, ``padding=1``, ``keep_dims=True``;
``fused_activation`` is short for ``fused_activation_function``).  The options table follows from the
operator's name; ``options_type`` overrides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

OPTIONS = {
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "DIV": "DivOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "SOFTMAX": "SoftmaxOptions",
    "CONCATENATION": "ConcatenationOptions",
    "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "GELU": "GeluOptions",
    "SQUEEZE": "SqueezeOptions",
    "RESHAPE": "ReshapeOptions",
    "TRANSPOSE": "TransposeOptions",
    "PAD": "PadOptions",
    "PADV2": "PadV2Options",
    "QUANTIZE": "QuantizeOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "HARD_SWISH": "HardSwishOptions",
    "EXP": "ExpOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "ABS": "AbsOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "EXPAND_DIMS": "ExpandDimsOptions",
    "GATHER": "GatherOptions",
    "MIRROR_PAD": "MirrorPadOptions",
    "PACK": "PackOptions",
    "REDUCE_MIN": "ReducerOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "SHAPE": "ShapeOptions",
    "SLICE": "SliceOptions",
    "SPACE_TO_DEPTH": "SpaceToDepthOptions",
    "SPLIT": "SplitOptions",
    "SQUARED_DIFFERENCE": "SquaredDifferenceOptions",
    "LOG_SOFTMAX": "LogSoftmaxOptions",
    "ARG_MAX": "ArgMaxOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTMOptions",
}
ALIASES = {"fused_activation": "fused_activation_function"}


def _camel(name: str) -> str:
    head, *rest = ALIASES.get(name, name).split("_")
    return head + "".join(p[:1].upper() + p[1:] for p in rest)


class Builder:
    """Collects tensors and operators of one graph; :meth:`build` returns the file's bytes.

    ``model`` is the schema's object tree, open to every distortion a test wants.
    """

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.description = "test"
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        self.graph = schema.SubGraphT()
        self.graph.name = "main"
        self.graph.tensors = []
        self.graph.operators = []
        self.model.subgraphs = [self.graph]

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str = "float32",
        *,
        data: Any = None,
        scale: float | Sequence[float] | np.ndarray | None = None,
        zero_point: int | Sequence[int] | np.ndarray = 0,
        axis: int = 0,
        name: str | None = None,
        signature: Sequence[int] | None = None,
        variable: bool = False,
    ) -> int:
        """Add a tensor and return its index; ``data`` makes it a constant, ``variable`` state."""
        t = schema.TensorT()
        t.name = name if name is not None else f"t{len(self.graph.tensors)}"
        t.shape = np.asarray(list(shape), np.int32)
        t.type = getattr(schema.TensorType, dtype.upper())
        t.buffer = 0
        t.isVariable = variable
        if signature is not None:
            t.shapeSignature = np.asarray(list(signature), np.int32)
        if data is not None:
            t.buffer = self.buffer(
                np.ascontiguousarray(np.asarray(data, np.dtype(dtype)).reshape(tuple(shape))).tobytes()
            )
        if scale is not None:
            q = schema.QuantizationParametersT()
            q.scale = np.atleast_1d(np.asarray(scale, np.float32))
            q.zeroPoint = np.broadcast_to(np.asarray(zero_point, np.int64), q.scale.shape).copy()
            q.quantizedDimension = axis
            t.quantization = q
        self.graph.tensors.append(t)
        return len(self.graph.tensors) - 1

    def buffer(self, raw: bytes) -> int:
        """Add constant data and return its index."""
        b = schema.BufferT()
        b.data = np.frombuffer(raw, np.uint8)
        self.model.buffers.append(b)
        return len(self.model.buffers) - 1

    def op(
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        version: int = 1,
        options_type: str | None = None,
        custom: str | None = None,
        **options: Any,
    ) -> None:
        """Add an operator; ``name`` is the schema's, or ``CUSTOM`` together with ``custom``."""
        code = getattr(schema.BuiltinOperator, name)
        self.raw_op(code, inputs, outputs, version=version, custom=custom)
        op = self.graph.operators[-1]
        kind = options_type or OPTIONS.get(name)
        if kind is None:
            assert not options, f"{name} takes no options"
            return
        table = getattr(schema, kind + "T")()
        for key, value in options.items():
            attribute = _camel(key)
            assert hasattr(table, attribute), f"{kind} has no {attribute}"
            setattr(table, attribute, value)
        op.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        op.builtinOptions = table

    def raw_op(
        self, code: int, inputs: Sequence[int], outputs: Sequence[int], *, version: int = 1, custom: str | None = None
    ) -> None:
        """Add an operator by number, without options."""
        entry = schema.OperatorCodeT()
        entry.builtinCode = code
        entry.deprecatedBuiltinCode = min(code, 127)
        entry.version = version
        entry.customCode = custom
        self.model.operatorCodes.append(entry)
        op = schema.OperatorT()
        op.opcodeIndex = len(self.model.operatorCodes) - 1
        op.inputs = np.asarray(list(inputs), np.int32)
        op.outputs = np.asarray(list(outputs), np.int32)
        self.graph.operators.append(op)

    def build(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The model file."""
        self.graph.inputs = np.asarray(list(inputs), np.int32)
        self.graph.outputs = np.asarray(list(outputs), np.int32)
        fb = flatbuffers.Builder(1024)
        fb.Finish(self.model.Pack(fb), file_identifier=b"TFL3")
        return bytes(fb.Output())
