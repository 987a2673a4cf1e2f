"""Small pairs of networks with a counterexample built in: the verifier's own test pieces.

Every pair has an input of few int8 codes, so that the truth about it is known by executing all of its inputs.

- ``trigger``: the two networks agree but at one input of 65,536, somewhere inside: a bump in the second layer, whose
  bias the float network lacks.
- ``roundoff``: exactly the same function in real arithmetic, and large weights that cancel; in float32 they leave the
  roundoff of the products, and the quantized network leaves nothing.
- ``ties``: scales are powers of two, so that many sums lie exactly between two codes, where runtimes round differently.
- ``disguised``: any of these with every layer multiplied by a power of two and the next one divided by it: the
  integers are the same, and the float function too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qebgate.numerics.rounding import F64

LEAST, MOST = -128, 127


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A dense layer of both networks: float ``weights`` [m, n] and ``bias`` [m], integer ``codes`` and ``offsets``.

    ``codes`` are worth ``scale`` [m] each, outputs ``step`` from the zero point ``zero``.
    """

    weights: F64
    bias: F64
    codes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    scale: F64
    step: float
    zero: int
    relu: bool


@dataclass(frozen=True, slots=True, eq=False)
class Planted:
    """A pair: what kind it is of, its input's quantization, its layers, and where the counterexample is (if known)."""

    kind: str
    step: float
    zero: int
    layers: tuple[Layer, ...]
    at: NDArray[np.int64] | None = None

    @property
    def inputs(self) -> int:
        return self.layers[0].weights.shape[1]

    def float_model(self) -> bytes:
        """The float network as a .tflite file."""
        return _file(self, quantized=False)

    def quantized_model(self) -> bytes:
        """The int8 network as a .tflite file."""
        return _file(self, quantized=True)


def trigger(seed: int) -> Planted:
    """One input of 65,536 at which the quantized network is far from the float one."""
    rng = np.random.default_rng((seed, 1))
    step, zero = float(np.float32(rng.uniform(0.003, 0.1))), int(rng.integers(-20, 20))
    at = rng.integers(-110, 110, 2)
    n = int(rng.integers(2, 6))
    # |x - at| as four codes, exactly; beside them other neurons
    bump = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    w = np.concatenate([bump.astype(np.float64), rng.normal(0, 0.5, (n, 2))])
    b = np.concatenate([-(bump @ (at - zero)) * step, rng.normal(0, 3 * step, n)])
    reach = np.abs(w[4:]).sum(axis=1) * 150 * step + np.abs(b[4:])
    keep = np.minimum(255 * step / reach, 1.0)  # all codes have the step of the bump's
    w[4:], b[4:] = w[4:] * keep[:, None], b[4:] * keep
    first = _rounded(w, b, step, np.concatenate([np.full(4, 2.0**-6), _fitting(w[4:])]), step, relu=True)
    # 127 only where all four are 0
    scale = float(np.float32(rng.uniform(0.5, 2)))
    m = int(rng.integers(1, 4))
    v = np.concatenate([np.zeros((m, 4)), rng.normal(0, 0.4, (m, n))], axis=1)
    w2 = np.concatenate([np.r_[np.full(4, -127.0), np.zeros(n)][None] * scale, v])
    height = 127 * scale * step
    b2 = np.concatenate([[height], rng.normal(0, step, m)])
    most = max(height, float((np.abs(v).sum(axis=1) * 255 * step + np.abs(b2[1:])).max()))
    second = _rounded(w2, b2, step, np.r_[scale, _fitting(v)], most / 255, relu=True)
    lacking = second.bias.copy()
    lacking[0] = -rng.uniform(0, 0.1) * height  # the float network has no bump
    second = replace(second, bias=lacking)
    k = int(rng.integers(1, 4))
    u = np.concatenate([rng.uniform(0.5, 2, (k, 1)) * rng.choice([-1, 1], (k, 1)), rng.normal(0, 0.1, (k, m))], axis=1)
    c = rng.normal(0, step, k)
    span = float((np.abs(u) @ np.r_[height, np.full(m, 255 * second.step)] + np.abs(c)).max())
    third = _rounded(u, c, second.step, _fitting(u), span / 127, relu=False, zero=0)
    return Planted("trigger", step, zero, (first, second, third), at)


def roundoff(seed: int) -> Planted:
    """Large weights that cancel in the reals and in integers, and leave their roundoff in float32."""
    rng = np.random.default_rng((seed, 2))
    step, zero = float(np.float32(rng.uniform(0.003, 0.1))), int(rng.integers(-20, 20))
    copies = 3 + int(rng.integers(0, 3))
    sign = rng.choice([-1.0, 1.0], (1, 2))
    slope = np.float32(rng.uniform(0.3, 1.0, (1, 2))).astype(np.float64) * sign
    shift = float(np.float32(rng.uniform(0.1, 1.0)))
    w, b = np.repeat(slope, copies, axis=0), np.full(copies, shift)
    reach = float(np.abs(slope).sum() * 128 * step + shift)
    first = _rounded(w, b, step, _fitting(w), reach / 255, relu=True)
    unit = 2.0 ** float(rng.integers(-4, 30))
    codes = rng.integers(-60, 61, copies)
    codes[-1] = -codes[:-1].sum()
    if np.abs(codes).max() > 127 or not codes.any():
        codes[:] = 0
        codes[:3] = 127, -64, -63
    factor = float(np.float32(rng.uniform(1, 2)))  # products with it are not exact
    v = (codes * unit)[None] * factor
    whole = float(np.abs(v).sum() * reach)
    third = Layer(
        v.astype(np.float32).astype(np.float64), np.zeros(1), codes[None].astype(np.int64), np.zeros(1, np.int64),
        np.array([np.float32(unit * factor)], np.float64), _f32(whole / 127), 0, relu=False,
    )  # fmt: skip
    return Planted("roundoff", step, zero, (first, third))


def ties(seed: int) -> Planted:
    """Float and quantized weights are the same numbers; sums lie between two codes all the time."""
    rng = np.random.default_rng((seed, 3))
    step, zero = 2.0 ** float(rng.integers(-8, -2)), int(rng.integers(-20, 20))
    sizes = [2, *(int(v) for v in rng.integers(2, 6, int(rng.integers(1, 3)))), int(rng.integers(1, 4))]
    layers: list[Layer] = []
    before = step
    for i, (n, m) in enumerate(pairwise(sizes)):
        codes = rng.integers(-9, 10, (m, n))
        scale = np.full(m, 2.0 ** float(rng.integers(-6, 0)))
        unit = scale * before
        offsets = rng.integers(-40, 40, m)
        last = i == len(sizes) - 2
        reach = float((np.abs(codes) @ np.full(n, 255.0) * unit + np.abs(offsets) * unit).max())
        out = max(2.0 ** np.ceil(np.log2(reach / 255)), float(unit[0]) * 2)  # a multiplier of a half or less
        real = codes.astype(np.float64) * scale[:, None]
        layers.append(Layer(real, offsets * unit, codes, offsets, scale, float(out), 0 if last else LEAST, not last))
        before = float(out)
    return Planted("ties", step, zero, tuple(layers))


def disguised(p: Planted, exponents: Sequence[int]) -> Planted:
    """The same two functions: hidden layer i is worth ``2**exponents[i]`` times as much, the next one undoes it."""
    layers: list[Layer] = []
    before = 0
    for i, y in enumerate(p.layers):
        now = exponents[i] if i < len(p.layers) - 1 else 0
        f = 2.0 ** (now - before)
        layers.append(
            replace(y, weights=y.weights * f, scale=y.scale * f, bias=y.bias * 2.0**now, step=y.step * 2.0**now)
        )
        before = now
    return replace(p, kind="disguised", layers=tuple(layers))


KINDS: dict[str, Callable[[int], Planted]] = {"trigger": trigger, "roundoff": roundoff, "ties": ties}


def planted(kind: str, seed: int) -> Planted:
    """A pair of a kind; ``disguised`` takes one of the others, and exponents from -40 to 50."""
    if kind != "disguised":
        return KINDS[kind](seed)
    rng = np.random.default_rng((seed, 4))
    p = KINDS["ties" if seed % 2 else "trigger"](seed)
    return disguised(p, rng.integers(-40, 51, len(p.layers) - 1).tolist())


def _f32(x: float) -> float:
    return float(np.float32(x))


def _fitting(w: F64) -> F64:
    """Scales by which the weights of each row fill the codes."""
    return np.maximum(np.abs(w).max(axis=1), 1e-3).astype(np.float32).astype(np.float64) / 127


def _rounded(w: F64, b: F64, before: float, scale: F64, step: float, *, relu: bool, zero: int | None = None) -> Layer:
    """A layer and its quantization, weights and biases rounded to nearest; inputs have the step ``before``."""
    scale = scale.astype(np.float32).astype(np.float64)
    w, b = w.astype(np.float32).astype(np.float64), b.astype(np.float32).astype(np.float64)
    codes = np.rint(w / scale[:, None]).clip(-127, 127).astype(np.int64)
    offsets = np.rint(b / (scale * before)).astype(np.int64)
    return Layer(w, b, codes, offsets, scale, _f32(step), LEAST if zero is None else zero, relu)


def _file(p: Planted, *, quantized: bool) -> bytes:
    from ai_edge_litert import schema_py_generated as s

    schema: Any = s
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.subgraphs = 3, [schema.BufferT()], [graph]
    graph.tensors, graph.operators = [], []
    kinds = {np.float32: schema.TensorType.FLOAT32, np.int8: schema.TensorType.INT8, np.int32: schema.TensorType.INT32}

    def tensor(shape: tuple[int, ...], kind: type[Any], data: Any = None, scale: Any = None, zero: int = 0) -> int:
        t = schema.TensorT()
        t.name, t.shape, t.type, t.buffer = f"t{len(graph.tensors)}", np.array(shape, np.int32), kinds[kind], 0
        if data is not None:
            b = schema.BufferT()
            b.data = np.frombuffer(np.ascontiguousarray(data, kind).tobytes(), np.uint8)
            model.buffers.append(b)
            t.buffer = len(model.buffers) - 1
        if scale is not None:
            q = schema.QuantizationParametersT()
            q.scale = np.atleast_1d(np.asarray(scale, np.float32))
            q.zeroPoint, q.quantizedDimension = np.full(q.scale.shape, zero, np.int64), 0
            t.quantization = q
        graph.tensors.append(t)
        return len(graph.tensors) - 1

    kind = np.int8 if quantized else np.float32
    at = tensor((1, p.inputs), kind, scale=p.step if quantized else None, zero=p.zero)
    graph.inputs = np.array([at], np.int32)
    before = p.step
    for y in p.layers:
        m = len(y.bias)
        if quantized:
            w = tensor(y.codes.shape, np.int8, y.codes, y.scale)
            b = tensor((m,), np.int32, y.offsets, y.scale * before)
        else:
            w, b = tensor(y.weights.shape, np.float32, y.weights), tensor((m,), np.float32, y.bias)
        out = tensor((1, m), kind, scale=y.step if quantized else None, zero=y.zero)
        op, options = schema.OperatorT(), schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = int(y.relu)
        op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.FullyConnectedOptions, options
        op.opcodeIndex, op.inputs, op.outputs = 0, np.array([at, w, b], np.int32), np.array([out], np.int32)
        graph.operators.append(op)
        at, before = out, y.step
    graph.outputs = np.array([at], np.int32)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 5 if quantized else 1
    model.operatorCodes = [code]
    builder = schema.flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
