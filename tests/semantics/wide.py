"""The int16 form of a one-operator model: whether it is read, and executed as builtin executes it."""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qebgate.errors import ModelError
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.execute import run_int
from tests.semantics.cases import CASES
from tests.semantics.compare import interpret, load

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


def widened(model: bytes, op: str) -> bytes:
    """Activations and constant operands as int16 with zero point 0; weights stay, biases of convolutions are int64."""
    m = schema.ModelT.InitFromPackedBuf(model, 0)
    for o in m.subgraphs[0].operators:
        if hasattr(o.builtinOptions, "potScaleInt16"):
            o.builtinOptions.potScaleInt16 = False
    for k, t in enumerate(m.subgraphs[0].tensors):
        constant = t.buffer and m.buffers[t.buffer].data is not None and len(m.buffers[t.buffer].data)
        if t.type == schema.TensorType.INT32 and t.quantization is not None and t.quantization.scale is not None:
            data = np.frombuffer(bytes(m.buffers[t.buffer].data), np.int32).astype(np.int64)
            m.buffers[t.buffer].data = np.frombuffer(data.tobytes(), np.uint8)
            t.type = schema.TensorType.INT64
        if t.type != schema.TensorType.INT8 or (constant and op in WEIGHTED):
            continue
        t.type = schema.TensorType.INT16
        t.quantization.zeroPoint = np.zeros(1, np.int64)
        if op in ("LOGISTIC", "TANH", "SOFTMAX") and k:
            t.quantization.scale = np.array([1 / 32768], np.float32)
        if constant:
            data = np.frombuffer(bytes(m.buffers[t.buffer].data), np.int8).astype(np.int16)
            m.buffers[t.buffer].data = np.frombuffer(data.tobytes(), np.uint8)
    fb = flatbuffers.Builder(1024)
    fb.Finish(m.Pack(fb), file_identifier=b"TFL3")
    return bytes(fb.Output())


def takes_int16(op: str) -> bool:
    """Whether some example of an operator is read as int16, and all that are read are executed exactly."""
    if op in ("QUANTIZE", "DEQUANTIZE"):
        return True  # their int16 forms have tests of their own
    taken = False
    for seed in range(8):
        case = CASES[op](np.random.default_rng(seed))
        model = widened(case.model, op)
        try:
            graph = load(model)
        except ModelError:
            continue
        x = np.random.default_rng(seed).integers(-32768, 32768, case.x.shape).astype(np.int16)[:3]
        try:
            theirs, _ = interpret(model, x, Runtime.BUILTIN)
        except (RuntimeError, ValueError):  # the interpreter does not take it
            continue
        assert np.array_equal(run_int(graph, x, Runtime.BUILTIN)[graph.outputs[0]], theirs), op
        taken = True
    return taken
