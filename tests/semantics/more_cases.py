"""Cases of the operators beyond those that small classifiers need (see :mod:`tests.semantics.cases`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.semantics.draw import HI, LO, Case, Rng, activation_of, codes, out_scale, pick, scale_of, zero_of
from tests.semantics.lstm_cases import lstm_case
from tests.support.tflite_builder import Builder

Shape = tuple[int, ...]


def image_shape(rng: Rng, most: int = 6) -> Shape:
    return (1, *(int(v) for v in rng.integers(1, most, 2)), int(pick(rng, 1, 3, 8, rng.integers(1, 20))))


def two_operands(rng: Rng, b: Builder, shape: Shape, s1: float, s2: float, z2: int | None = None) -> tuple[int, list]:
    """The only input, and a node's operands made from it: with itself, with a slice of itself, or with a constant."""
    z1 = zero_of(rng)
    x = b.tensor(shape, "int8", scale=s1, zero_point=z1)
    kind = rng.integers(4)
    if kind == 0:
        return x, [x, x]
    other = shape if kind == 1 else pick(rng, (shape[3],), (1, 1, 1, shape[3]), (1, shape[1], 1, 1), (1,), (1, 1, 1, 1))
    z = zero_of(rng) if z2 is None else z2
    c = b.tensor(other, "int8", data=codes(rng, other), scale=s2, zero_point=z)
    return x, [x, c] if rng.random() < 0.6 else [c, x]


def _sub(rng: Rng, batch: int = 10) -> Case:
    shape, b, s1 = image_shape(rng, 12), Builder(), scale_of(rng)
    s2 = float(np.float32(s1 * pick(rng, 1.0, 0.5, 2.0**-6, 2.0**-9, *rng.uniform(0.05, 20.0, 2))))
    x, ins = two_operands(rng, b, shape, s1, s2)
    so = out_scale(rng, 128 * (s1 + s2), min(s1, s2))
    so = float(np.float32(max(so, 2.0**-6 * max(s1, s2))))
    y = b.tensor(shape, "int8", scale=so, zero_point=zero_of(rng))
    b.op("SUB", ins, [y], version=2, fused_activation=activation_of(rng))
    return Case("SUB", b.build([x], [y]), codes(rng, (batch, *shape)))


def _mul(rng: Rng, batch: int = 10) -> Case:
    shape, b, s1, s2 = image_shape(rng, 12), Builder(), scale_of(rng), scale_of(rng)
    x, ins = two_operands(rng, b, shape, s1, s2)
    so = out_scale(rng, 128 * 128 * s1 * s2, s1 * s2)
    so = float(np.float32(np.clip(so, s1 * s2 * 2.0**-7, s1 * s2 * 2.0**15)))
    y = b.tensor(shape, "int8", scale=so, zero_point=zero_of(rng))
    b.op("MUL", ins, [y], version=2, fused_activation=activation_of(rng))
    return Case("MUL", b.build([x], [y]), codes(rng, (batch, *shape)))


def _div(rng: Rng, batch: int = 10) -> Case:
    """By a constant without its zero point; the output's scale is such that the kernel's shifts fit in 31 bits."""
    shape, b, s1, s2 = image_shape(rng, 12), Builder(), scale_of(rng), scale_of(rng)
    z2 = zero_of(rng)
    other = pick(rng, shape, (shape[3],), (1, 1, 1, shape[3]), (1, shape[1], 1, 1), (1,), (1, 1, 1, 1))
    c = codes(rng, other).astype(np.int64)
    least = int(pick(rng, 1, 1, 20))
    near = np.abs(c - z2) < least
    c = np.where(near, z2 + (least if z2 + least <= HI else -least), c)
    most = int(np.abs(c - z2).max())
    so = s1 / (s2 * most) * float(pick(rng, 1.0, 0.5, 2.0, *rng.uniform(0.01, 1.0, 2)))
    x = b.tensor(shape, "int8", scale=s1, zero_point=zero_of(rng))
    d = b.tensor(other, "int8", data=c, scale=s2, zero_point=z2)
    y = b.tensor(shape, "int8", scale=float(np.float32(so)), zero_point=zero_of(rng))
    b.op("DIV", [x, d], [y], version=2, fused_activation=activation_of(rng))
    return Case("DIV", b.build([x], [y]), codes(rng, (batch, *shape)))


def _batch_matmul(rng: Rng, batch: int = 8) -> Case:
    """By one matrix, transposed or not, with a zero point or without, of as many axes as the input or not."""
    n, m, k = int(rng.integers(3, 60)), int(rng.integers(1, 40)), int(rng.integers(1, 9))
    lead = pick(rng, (1, k), (1, k), (1, 2, k), (1, 1, 3, k), (1,))
    turned, rank = bool(rng.integers(2)), int(pick(rng, 2, 2, len(lead) + 1, 3))
    b, s1, s2 = Builder(), scale_of(rng), scale_of(rng)
    w = codes(rng, (m, n) if turned else (n, m))
    so = out_scale(rng, float(np.sqrt((w.astype(float) ** 2).sum() / m) * 75 + 1) * s1 * s2, s1 * s2)
    so = float(np.float32(max(so, s1 * s2 / 128)))
    x = b.tensor((*lead, n), "int8", scale=s1, zero_point=zero_of(rng))
    shape = (*(1,) * (rank - 2), *w.shape)
    c = b.tensor(shape, "int8", data=w, scale=s2, zero_point=int(pick(rng, 0, 0, zero_of(rng))))
    y = b.tensor((*(1,) * (rank - len(lead) - 1), *lead, m), "int8", scale=so, zero_point=zero_of(rng))
    b.op("BATCH_MATMUL", [x, c], [y], version=4, adj_y=turned)
    return Case("BATCH_MATMUL", b.build([x], [y]), codes(rng, (batch, *lead, n)))


def _squared_difference(rng: Rng, batch: int = 10) -> Case:
    shape, b, s1 = image_shape(rng, 12), Builder(), scale_of(rng)
    s2 = float(np.float32(s1 * pick(rng, 1.0, 0.5, 2.0**-6, *rng.uniform(0.05, 20.0, 2))))
    x, ins = two_operands(rng, b, shape, s1, s2)
    largest = max(s1, s2)
    so = out_scale(rng, (128 * largest) ** 2, s1 * s2)
    so = float(np.float32(max(so, 1.01 * largest**2 * 2.0**-12)))  # LiteRT aborts on smaller scales
    y = b.tensor(shape, "int8", scale=so, zero_point=zero_of(rng))
    b.op("SQUARED_DIFFERENCE", ins, [y], version=2)
    return Case("SQUARED_DIFFERENCE", b.build([x], [y]), codes(rng, (batch, *shape)))


def _selection(op: str) -> Callable[[Rng], Case]:
    def make(rng: Rng, batch: int = 6) -> Case:
        shape, b, s = image_shape(rng), Builder(), scale_of(rng)
        z = zero_of(rng)
        x, ins = two_operands(rng, b, shape, s, s, z)
        for i in ins:
            b.graph.tensors[i].quantization.zeroPoint[:] = z
        y = b.tensor(shape, "int8", scale=s, zero_point=z)
        b.op(op, ins, [y], version=2)
        return Case(op, b.build([x], [y]), codes(rng, (batch, *shape)))

    return make


def _reduction(op: str) -> Callable[[Rng], Case]:
    def make(rng: Rng, batch: int = 6) -> Case:
        shape, b, s, z = image_shape(rng, 9), Builder(), scale_of(rng), zero_of(rng)
        axes = pick(rng, (1, 2), (1, 2), (2, 1), (-2, 1), (1,), (2,), (3,), (1, 2, 3))
        keep, gone = bool(rng.integers(2)), {a % 4 for a in axes}
        new = tuple(1 if a in gone else n for a, n in enumerate(shape) if keep or a not in gone)
        x = b.tensor(shape, "int8", scale=s, zero_point=z)
        a = b.tensor((len(axes),), "int32", data=list(axes))
        y = b.tensor(new, "int8", scale=s, zero_point=z)
        b.op(op, [x, a], [y], version=2, keep_dims=keep)
        return Case(op, b.build([x], [y]), codes(rng, (batch, *shape)))

    return make


def _table(op: str, options: Callable[[Rng], dict[str, Any]] = lambda _: {}) -> Callable[[Rng], Case]:
    def make(rng: Rng, batch: int = 3) -> Case:
        b, s, z = Builder(), float(np.float32(scale_of(rng) * 2.0 ** rng.uniform(-2, 2))), zero_of(rng)
        n = int(pick(rng, 256, rng.integers(1, 300)))
        so = float(np.float32(s * pick(rng, 0.5, 2.0, 1.0, 0.8, 1.2, *rng.uniform(0.03, 20.0, 2))))
        x = b.tensor((1, n), "int8", scale=s, zero_point=z)
        y = b.tensor((1, n), "int8", scale=so, zero_point=zero_of(rng))
        ins = [x]
        if op == "PRELU":
            sa = scale_of(rng)
            ins.append(b.tensor((n,), "int8", data=codes(rng, (n,)), scale=sa, zero_point=zero_of(rng)))
        b.op(op, ins, [y], **options(rng))
        data = codes(rng, (batch, 1, n))
        data[0, 0] = np.resize(np.arange(LO, HI + 1), n)
        return Case(op, b.build([x], [y]), data)

    return make


def _root(op: str) -> Callable[[Rng], Case]:
    """All codes are at or above the zero point."""

    def make(rng: Rng, batch: int = 3) -> Case:
        b, s, n = Builder(), float(np.float32(2.0 ** rng.uniform(-16, 2))), int(pick(rng, 256, rng.integers(1, 300)))
        top = 255 * s if op == "SQRT" else 1.0 / s
        so = float(np.float32(top**0.5 / 255 * pick(rng, 0.5, 2.0, 1.0, 0.1, *rng.uniform(0.03, 4.0, 2))))
        x = b.tensor((1, n), "int8", scale=s, zero_point=LO)
        y = b.tensor((1, n), "int8", scale=so, zero_point=int(pick(rng, LO, LO, zero_of(rng))))
        b.op(op, [x], [y], version=2)
        data = codes(rng, (batch, 1, n))
        data[0, 0] = np.resize(np.arange(LO, HI + 1), n)
        return Case(op, b.build([x], [y]), data)

    return make


def _log_softmax(rng: Rng, batch: int = 40) -> Case:
    n, lead = int(pick(rng, 1, 2, 5, 10, 100, rng.integers(1, 400))), pick(rng, (1,), (1,), (1, 3), (1, 2, 2))
    b = Builder()
    s = float(np.float32(pick(rng, 2.0**-4, 2.0**-7, rng.uniform(0.001, 1.0), rng.uniform(1.0, 30.0))))
    x = b.tensor((*lead, n), "int8", scale=s, zero_point=zero_of(rng))
    y = b.tensor((*lead, n), "int8", scale=1 / 16, zero_point=127)
    b.op("LOG_SOFTMAX", [x], [y], version=2)
    return Case("LOG_SOFTMAX", b.build([x], [y]), codes(rng, (batch, *lead, n)))


Make = Callable[[Rng, Builder, Shape], tuple[list[int], Shape, dict[str, Any]]]


def _move(op: str, make: Make, *, first: bool = True) -> Callable[[Rng], Case]:
    """``make`` gives the further inputs, the output's shape and options; -1 among the inputs stands for the input."""

    def case(rng: Rng, batch: int = 4) -> Case:
        b, s, z = Builder(), scale_of(rng), zero_of(rng)
        shape = image_shape(rng)
        if op == "SPACE_TO_DEPTH":
            shape = (1, 2 * shape[1], 2 * shape[2], shape[3])
        if op == "DEPTH_TO_SPACE":
            shape = (*shape[:3], 4 * shape[3])
        if op in ("SPLIT", "MIRROR_PAD"):
            shape = (1, 2 * shape[1], 2 * shape[2], 2 * shape[3])
        x = b.tensor(shape, "int8", scale=s, zero_point=z)
        about = {"scale": s, "zero_point": z}
        b.same = about  # type: ignore[attr-defined]
        more, new, options = make(rng, b, shape)
        outputs = options.pop("outputs", 1)
        version = options.pop("version", 2)
        ys = [b.tensor(new, "int8", **about) for _ in range(outputs)]
        ins = [x, *more] if first else [x if i < 0 else i for i in more]
        b.op(op, ins, ys, version=version, **options)
        return Case(op, b.build([x], [ys[int(rng.integers(outputs))]]), codes(rng, (batch, *shape)))

    return case


def _ints(b: Builder, values: Sequence[int], shape: Shape | None = None) -> int:
    return b.tensor((len(values),) if shape is None else shape, "int32", data=list(values))


def _concatenation(rng: Rng, b: Builder, shape: Shape) -> tuple[list[int], Shape, dict[str, Any]]:
    axis = int(pick(rng, 1, 2, 3, -1, 3))
    other = list(shape)
    other[axis] = int(rng.integers(1, 5))
    constant = b.tensor(other, "int8", data=codes(rng, tuple(other)), **b.same)  # type: ignore[attr-defined]
    ins = pick(rng, [-1, constant], [constant, -1], [-1, -1], [-1, constant, -1])
    new = list(shape)
    new[axis] = sum(shape[axis] if i < 0 else other[axis] for i in ins)
    return ins, tuple(new), {"axis": axis}


def _pack(rng: Rng, b: Builder, shape: Shape) -> tuple[list[int], Shape, dict[str, Any]]:
    axis = int(pick(rng, 0, 1, 2, 3))
    constant = b.tensor(shape, "int8", data=codes(rng, shape), **b.same)  # type: ignore[attr-defined]
    ins = pick(rng, [-1, constant], [constant, -1], [-1, -1])
    return ins, (*shape[:axis], 2, *shape[axis:]), {"axis": axis, "values_count": 2}


def _transpose(rng: Rng, b: Builder, shape: Shape) -> tuple[list[int], Shape, dict[str, Any]]:
    axes = [0, *(1 + rng.permutation(3)).tolist()]
    return [_ints(b, axes)], tuple(shape[a] for a in axes), {}


def _squeeze(rng: Rng, b: Builder, shape: Shape) -> tuple[list[int], Shape, dict[str, Any]]:
    ones = [k for k in range(1, 4) if shape[k] == 1]
    dims = ones[: int(rng.integers(0, len(ones) + 1))] if ones else [0]
    gone = dims or [0, *ones]
    new = tuple(n for k, n in enumerate(shape) if k not in gone)
    if not new:
        return _squeeze(rng, b, shape)
    return [], new, {"squeeze_dims": np.array(dims, np.int32), "version": 1}


def _expand(rng: Rng, b: Builder, shape: Shape) -> tuple[list[int], Shape, dict[str, Any]]:
    axis = int(rng.integers(0, 5))
    return [_ints(b, [axis], pick(rng, (1,), ()))], (*shape[:axis], 1, *shape[axis:]), {"version": 1}


def _split(rng: Rng, b: Builder, shape: Shape) -> tuple[list[int], Shape, dict[str, Any]]:
    axis = int(pick(rng, 1, 2, 3, -1))
    new = list(shape)
    new[axis] //= 2
    return [_ints(b, [axis], ()), -1], tuple(new), {"num_splits": 2, "outputs": 2}


def _strided(rng: Rng, b: Builder, shape: Shape) -> tuple[list[int], Shape, dict[str, Any]]:
    first, last, step, shrink, new = [0], [1], [1], 0, [1]
    for k in range(1, 4):
        n = shape[k]
        begin = int(rng.integers(-n, n))
        if rng.random() < 0.2:
            shrink |= 1 << k
            first, last, step = [*first, begin], [*last, begin + 1], [*step, 1]
            continue
        s = int(pick(rng, 1, 1, 2, -1))
        end = int(begin % n + (rng.integers(1, n + 2) if s > 0 else -1 - rng.integers(0, n)))
        size = len(range(n)[begin % n : end if end >= 0 else None : s])
        if end < 0 and s < 0:
            end = -n - 1
        first, last, step, new = [*first, begin], [*last, end], [*step, s], [*new, max(size, 1)]
    index = tuple(
        b0 if shrink >> k & 1 else slice(b0, e, s) for k, (b0, e, s) in enumerate(zip(first, last, step, strict=True))
    )
    made = np.empty(shape)[index].shape
    return [_ints(b, v) for v in (first, last, step)], made, {"shrink_axis_mask": shrink}


def _slice(rng: Rng, b: Builder, shape: Shape) -> tuple[list[int], Shape, dict[str, Any]]:
    first = [0, *(int(rng.integers(0, n)) for n in shape[1:])]
    size = [1, *(int(rng.integers(1, n - f + 1)) for n, f in zip(shape[1:], first[1:], strict=True))]
    given = [s if rng.random() < 0.7 or f + s < n else -1 for s, f, n in zip(size, first, shape, strict=True)]
    return [_ints(b, first), _ints(b, given)], tuple(size), {}


def _pad_v2(rng: Rng, b: Builder, shape: Shape) -> tuple[list[int], Shape, dict[str, Any]]:
    amounts = [(0, 0), *((int(a), int(c)) for a, c in rng.integers(0, 4, (3, 2)))]
    fill = b.tensor((1,), "int8", data=codes(rng, (1,)), **b.same)  # type: ignore[attr-defined]
    new = tuple(n + a + c for n, (a, c) in zip(shape, amounts, strict=True))
    return [b.tensor((4, 2), "int32", data=amounts), fill], new, {}


def _gather(rng: Rng, b: Builder, shape: Shape) -> tuple[list[int], Shape, dict[str, Any]]:
    axis, k = int(pick(rng, 1, 2, 3, -1)), int(rng.integers(1, 5))
    chosen = _ints(b, rng.integers(0, shape[axis], k).tolist())
    new = list(shape)
    new[axis] = k
    return [chosen], tuple(new), {"axis": axis}


def _mirror(rng: Rng, b: Builder, shape: Shape) -> tuple[list[int], Shape, dict[str, Any]]:
    mode = int(rng.integers(2))
    amounts = [(0, 0), *(tuple(int(v) for v in rng.integers(0, n + mode, 2)) for n in shape[1:])]
    new = tuple(n + a + c for n, (a, c) in zip(shape, amounts, strict=True))
    return [b.tensor((4, 2), "int32", data=amounts)], new, {"mode": mode}


def _blocks(op: str) -> Make:
    def make(rng: Rng, b: Builder, shape: Shape) -> tuple[list[int], Shape, dict[str, Any]]:
        n, h, w, c = shape
        new = (n, h // 2, w // 2, 4 * c) if op == "SPACE_TO_DEPTH" else (n, 2 * h, 2 * w, c // 4)
        return [], new, {"block_size": 2, "version": 1}

    return make


def _nearest(rng: Rng, b: Builder, shape: Shape) -> tuple[list[int], Shape, dict[str, Any]]:
    size = [int(v) for v in rng.integers(1, 24, 2)]
    corners = bool(rng.integers(2))
    how = {"align_corners": corners, "half_pixel_centers": not corners and bool(rng.integers(2))}
    return [_ints(b, size)], (1, *size, shape[3]), {**how, "version": 3}


def _tile(rng: Rng, b: Builder, shape: Shape) -> tuple[list[int], Shape, dict[str, Any]]:
    times = [1, *(int(v) for v in rng.integers(1, 4, 3))]
    return [_ints(b, times)], tuple(n * k for n, k in zip(shape, times, strict=True)), {}


def _bilinear(rng: Rng, batch: int = 4) -> Case:
    """Twice the size often; never so much larger that the portable kernels would read beyond the input."""
    shape = image_shape(rng, 9)
    size = [2 * n for n in shape[1:3]] if rng.random() < 0.3 else [int(v) for v in rng.integers(1, 24, 2)]
    b, about = Builder(), {"scale": scale_of(rng), "zero_point": zero_of(rng)}
    x, y = b.tensor(shape, "int8", **about), b.tensor((1, *size, shape[3]), "int8", **about)
    corners = bool(rng.integers(3) == 0)
    how = {"align_corners": corners, "half_pixel_centers": not corners and bool(rng.integers(2))}
    b.op("RESIZE_BILINEAR", [x, _ints(b, size)], [y], version=3, **how)
    return Case("RESIZE_BILINEAR", b.build([x], [y]), codes(rng, (batch, *shape)))


def _leaky(rng: Rng) -> dict[str, Any]:
    return {"alpha": float(np.float32(pick(rng, 0.3, 0.01, 0.5, 0.0, rng.uniform(0, 1.5)))), "version": 2}


def _float_only(op: str) -> Callable[[Rng], Case]:
    def make(rng: Rng, batch: int = 8) -> Case:
        b, shape = Builder(), (1, int(rng.integers(1, 300)))
        x, y = b.tensor(shape), b.tensor(shape)
        b.op(op, [x], [y])
        data = rng.normal(size=(batch, *shape)) * 10.0 ** rng.uniform(-6, 6, (batch, *shape))
        return Case(op, b.build([x], [y]), data.astype(np.float32))

    return make


FLOAT_ONLY = frozenset({"NEG", "SQUARE"})
"""Operators without a form on codes."""

MORE: dict[str, Callable[[Rng], Case]] = {
    "ABS": _table("ABS", lambda _: {"version": 2}),
    "BATCH_MATMUL": _batch_matmul,
    "CONCATENATION": _move("CONCATENATION", _concatenation, first=False),
    "DEPTH_TO_SPACE": _move("DEPTH_TO_SPACE", _blocks("DEPTH_TO_SPACE")),
    "DIV": _div,
    "ELU": _table("ELU"),
    "EXPAND_DIMS": _move("EXPAND_DIMS", _expand),
    "GATHER": _move("GATHER", _gather),
    "GELU": _table("GELU", lambda rng: {"approximate": bool(rng.integers(2)), "version": 2}),
    "HARD_SWISH": _table("HARD_SWISH"),
    "LEAKY_RELU": _table("LEAKY_RELU", _leaky),
    "LOG_SOFTMAX": _log_softmax,
    "MAXIMUM": _selection("MAXIMUM"),
    "MINIMUM": _selection("MINIMUM"),
    "MIRROR_PAD": _move("MIRROR_PAD", _mirror),
    "MUL": _mul,
    **{op: _float_only(op) for op in sorted(FLOAT_ONLY)},
    "PACK": _move("PACK", _pack, first=False),
    "PADV2": _move("PADV2", _pad_v2),
    "PRELU": _table("PRELU"),
    "REDUCE_MAX": _reduction("REDUCE_MAX"),
    "REDUCE_MIN": _reduction("REDUCE_MIN"),
    "RESIZE_BILINEAR": _bilinear,
    "RSQRT": _root("RSQRT"),
    "SQRT": _root("SQRT"),
    "RESIZE_NEAREST_NEIGHBOR": _move("RESIZE_NEAREST_NEIGHBOR", _nearest),
    "SLICE": _move("SLICE", _slice),
    "SPACE_TO_DEPTH": _move("SPACE_TO_DEPTH", _blocks("SPACE_TO_DEPTH")),
    "SPLIT": _move("SPLIT", _split, first=False),
    "SQUEEZE": _move("SQUEEZE", _squeeze),
    "STRIDED_SLICE": _move("STRIDED_SLICE", _strided),
    "SQUARED_DIFFERENCE": _squared_difference,
    "SUB": _sub,
    "TILE": _move("TILE", _tile),
    "TRANSPOSE": _move("TRANSPOSE", _transpose),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": lstm_case,
}
