"""Pairs of networks for the laws: a quantized model, and a float twin made from it.

The twin has the same operators on real numbers; its weights and biases are the dequantized ones moved by
up to half a quantum, as rounding to nearest leaves them.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.errors import UnsupportedError
from qebgate.ir.align import align
from qebgate.ir.pair import Pair
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.registry import SEMANTICS
from qebgate.task import FloatSemantics, Task
from tests.semantics.cases import CASES, Rng, codes, pick
from tests.semantics.more_cases import FLOAT_ONLY
from tests.semantics.networks import _Net
from tests.support.tflite_builder import Builder

MOVED = (schema.BuiltinOperator.QUANTIZE, schema.BuiltinOperator.DEQUANTIZE)


@dataclass(frozen=True)
class Twins:
    """The bytes of both models, and the pair."""

    float: bytes
    quantized: bytes
    pair: Pair


def float_twin(model: bytes, rng: Rng, noise: float = 0.49) -> bytes:
    """The float model that ``model`` could have been converted from."""
    m = schema.ModelT.InitFromPackedBuf(model, 0)
    g = m.subgraphs[0]
    for t in g.tensors:
        q = t.quantization
        if q is None or q.scale is None or len(q.scale) == 0:
            continue
        raw = m.buffers[t.buffer].data if t.buffer else None
        if raw is not None and len(raw):
            dtype = {schema.TensorType.INT8: np.int8, schema.TensorType.INT32: np.int32}[t.type]
            v = np.frombuffer(bytes(raw), dtype).reshape(tuple(t.shape)).astype(np.float64)
            shape = [1] * v.ndim
            if len(q.scale) > 1:
                shape[q.quantizedDimension] = -1
            s, z = (np.asarray(a, np.float64).reshape(shape) for a in (q.scale, q.zeroPoint))
            real = ((v - z + rng.uniform(-noise, noise, v.shape)) * s).astype(np.float32)
            b = schema.BufferT()
            b.data = np.frombuffer(real.tobytes(), np.uint8)
            m.buffers.append(b)
            t.buffer = len(m.buffers) - 1
        t.type, t.quantization = schema.TensorType.FLOAT32, None
    same: dict[int, int] = {}
    kept = []
    for op in g.operators:
        op.inputs = np.array([same.get(i, i) for i in op.inputs.tolist()], np.int32)
        if m.operatorCodes[op.opcodeIndex].builtinCode in MOVED:
            same[int(op.outputs[0])] = int(op.inputs[0])
        else:
            kept.append(op)
    g.operators = kept
    g.outputs = np.array([same.get(i, i) for i in g.outputs.tolist()], np.int32)
    fb = flatbuffers.Builder(1024)
    fb.Finish(m.Pack(fb), file_identifier=b"TFL3")
    return bytes(fb.Output())


def load(float_model: bytes, quantized_model: bytes) -> Twins:
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "f.tflite", Path(folder) / "q.tflite"
        for path, content in zip(paths, (float_model, quantized_model), strict=True):
            path.write_bytes(content)
        return Twins(float_model, quantized_model, align(*(read_tflite(p) for p in paths)))


def one_operator(op: str, seed: int) -> Twins:
    """A pair of one operator (tests/semantics/cases.py has its nasty side); QUANTIZE and DEQUANTIZE get company."""
    rng = np.random.default_rng(seed)
    if op in ("QUANTIZE", "DEQUANTIZE"):
        net = _Net(rng)
        n = int(rng.integers(1, 20))
        source = kind = pick(rng, "int8", "float32", "uint8")
        if kind == "int8":
            source = net.tensor((1, n), 0.02, 3)
            net.requantize()
        else:
            source = net.b.tensor((1, n), kind, **({"scale": 0.02, "zero_point": 131} if kind == "uint8" else {}))
            net.b.op("QUANTIZE", [source], [net.tensor((1, n), 0.02, pick(rng, 3, 5))], version=2)
        for _ in range(int(rng.integers(1, 3))):
            net.requantize()
        net.relu()
        y = net.at
        if op == "DEQUANTIZE":
            y = net.b.tensor(net.shape, "float32")
            net.b.op("DEQUANTIZE", [net.at], [y], version=2)
        model = net.b.build([source], [y])
    elif op in FLOAT_ONLY:
        model = in_float(op, rng)
    elif op in ("RSQRT", "SQRT"):
        model = rooted(op, rng)
    else:
        model = CASES[op](rng).model
        size = math.prod(schema.ModelT.InitFromPackedBuf(model, 0).subgraphs[0].tensors[-1].shape)
        if size > 600:  # large outputs say nothing more
            return one_operator(op, seed + 1_000)
    try:
        twins = load(float_twin(model, rng), model)
        if op == "MUL":
            graph = twins.pair.quantized
            SEMANTICS[op].rounding(graph.nodes[0], graph, Runtime.BUILTIN)
    except UnsupportedError:  # a sum or a product that could overflow a kernel's 16 bits
        return one_operator(op, seed + 1_000)
    return twins


def in_float(op: str, rng: Rng) -> bytes:
    """An operator in float32 between codes."""
    b, shape = Builder(), (1, int(rng.integers(1, 20)))
    about = {"scale": float(np.float32(2.0 ** rng.uniform(-9, 1))), "zero_point": int(rng.integers(-128, 128))}
    x, q, at, y = b.tensor(shape), b.tensor(shape, "int8", **about), b.tensor(shape), b.tensor(shape)
    b.op("QUANTIZE", [x], [q], version=2)
    b.op("DEQUANTIZE", [q], [at], version=2)
    b.op(op, [at], [y])
    return b.build([x], [y])


def rooted(op: str, rng: Rng) -> bytes:
    """SQRT or RSQRT of what is kept above 0 in both models."""
    b, n, s = Builder(), int(rng.integers(1, 20)), float(np.float32(2.0 ** rng.uniform(-12, 2)))
    about = {"scale": s, "zero_point": -128}
    least = np.maximum(codes(rng, (n,)), int(rng.integers(-127, 0))).astype(np.int8)
    x, c, y = (
        b.tensor((1, n), "int8", **about),
        b.tensor((n,), "int8", data=least, **about),
        b.tensor((1, n), "int8", **about),
    )
    top = 255 * s if op == "SQRT" else 1.0 / (s * (float(least.min()) + 128))
    out = float(np.float32(top**0.5 / 255 * pick(rng, 1.0, 0.3, 3.0)))
    z = b.tensor((1, n), "int8", scale=out, zero_point=int(rng.integers(-128, 128)))
    b.op("MAXIMUM", [x, c], [y], version=2)
    b.op(op, [y], [z], version=2)
    return b.build([x], [z])


def small_network(rng: Rng) -> bytes:
    """A random int8 network small enough to be analysed hundreds of times."""
    net = _Net(rng)
    shape = (1, *(int(v) for v in rng.integers(2, 6, 2)), int(rng.integers(1, 4)))
    outside = pick(rng, "int8", "int8", "uint8", "float32")
    scale, zero = float(rng.uniform(0.005, 0.05)), int(pick(rng, -128, 0, 3, 127))
    if outside == "int8":
        source = net.tensor(shape, scale, zero)
    else:
        about = {"scale": scale, "zero_point": zero + 128} if outside == "uint8" else {}
        source = net.b.tensor(shape, outside, **about)
        net.b.op("QUANTIZE", [source], [net.tensor(shape, scale, zero)], version=2)
    for _ in range(int(rng.integers(0, 5))):
        pick(
            rng,
            lambda: net.conv(int(rng.integers(1, 5)), int(pick(rng, 1, 3)), int(pick(rng, 1, 2)), same=True),
            lambda: _padded_conv(net),
            lambda: net.depthwise(int(pick(rng, 1, 2))),
            net.residual,
            net.relu,
            net.requantize,
            lambda: net.pool("AVERAGE_POOL_2D"),
            lambda: net.pool("MAX_POOL_2D"),
        )()
    net.flatten()
    for _ in range(int(rng.integers(1, 4))):
        m = int(rng.integers(1, 9))
        net.linear("FULLY_CONNECTED", np.maximum(codes(rng, (m, net.shape[1])), -127), 0, (1, m))
    net.head()
    y = net.at
    if outside == "float32":
        y = net.b.tensor(net.shape, "float32")
        net.b.op("DEQUANTIZE", [net.at], [y], version=2)
    elif outside == "uint8":
        y = net.b.tensor(net.shape, "uint8", scale=net.scale, zero_point=net.zero + 128)
        net.b.op("QUANTIZE", [net.at], [y], version=2)
    return net.b.build([source], [y])


def _padded_conv(net: _Net) -> None:
    net.pad()
    net.conv(int(net.rng.integers(1, 4)), int(min(3, *net.shape[1:3])), 1, same=False)


def random_pair(seed: int) -> Twins:
    rng = np.random.default_rng(seed)
    model = small_network(rng)
    return load(float_twin(model, rng), model)


def codec_of(pair: Pair, rng: Rng | None = None) -> InputCodec:
    mode = "nearest" if rng is None else pick(rng, "nearest", "truncate")
    return InputCodec.of(pair.quantized, mode)


def grid_cell(pair: Pair, codec: InputCodec, rng: Rng) -> Cell:
    """A box of codes: some inputs fixed, some free by a little or by everything."""
    shape = pair.quantized.input.shape
    least, most = codec.dtype.code_range
    kind = rng.integers(5)
    centre = rng.integers(least, most + 1, shape)
    radius = {0: 0, 1: 1, 2: int(rng.integers(1, 12)), 3: int(rng.integers(10, 100)), 4: 255}[int(kind)]
    r = np.where(rng.random(shape) < 0.7, radius, 0)
    lo, hi = (np.clip(v, least, most).astype(np.int32) for v in (centre - r, centre + r))
    ends = [codec.grid(c).astype(np.float64) for c in (lo, hi)]
    return Cell(ends[0], ends[1], (lo, hi), 0, codec.grid(centre).astype(np.float64))


def real_cell(pair: Pair, codec: InputCodec, rng: Rng) -> Cell:
    """A box of float32 numbers, from below one quantum to beyond the codes."""
    shape = pair.quantized.input.shape
    least, most = codec.dtype.code_range
    middle = (rng.uniform(least - 5, most + 5, shape) - codec.zero_point) * codec.scale
    r = codec.scale * float(pick(rng, 0.0, 0.3, 1.0, rng.uniform(1, 60), 300.0)) * rng.uniform(0.2, 1.0, shape)
    lo, hi = ((middle + d).astype(np.float32).astype(np.float64) for d in (-r, r))
    return Cell(lo, hi, None, 0, middle)


def task_of(
    pair: Pair, cell: Cell, codec: InputCodec, runtime: Runtime, floats: FloatSemantics = "float32", limit: float = 1.0
) -> Task:
    size = pair.float.output.size
    return Task(pair, cell, codec, Property("max_abs", limit), tuple(range(size)), runtime, floats)
