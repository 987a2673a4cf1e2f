"""Small random networks of every operator beyond those of :mod:`tests.semantics.networks`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.ir.align import align
from tests.laws.pairs import Twins, float_twin, load
from tests.semantics.draw import Rng, codes, pick
from tests.support.tflite_builder import Builder

TABLES = ("ABS", "ELU", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "PRELU", "TANH")
PAIRS = ("ADD", "SUB", "MUL")


@dataclass(frozen=True)
class Value:
    """A tensor ``(1, n)`` of codes."""

    at: int
    n: int
    s: float
    z: int

    @property
    def about(self) -> dict[str, float]:
        return {"scale": self.s, "zero_point": self.z}


class Mixed:
    """Adds operators to values ``(1, n)``; scales are such that little saturates."""

    def __init__(self, rng: Rng, n: int) -> None:
        self.rng, self.b = rng, Builder()
        self.source = self.tensor((1, n), 0.02, int(rng.integers(-20, 20)))
        self.used: set[str] = set()

    def tensor(self, shape: tuple[int, ...], s: float, z: int) -> Value:
        s = float(np.float32(s))
        return Value(self.b.tensor(shape, "int8", scale=s, zero_point=z), int(np.prod(shape)), s, z)

    def op(self, name: str, inputs: list[int], out: Value, **options) -> Value:
        self.used.add(name)
        self.b.op(name, inputs, [out.at], **options)
        return out

    def ints(self, *values: int) -> int:
        return self.b.tensor((len(values),), "int32", data=list(values))

    def dense(self, x: Value, m: int, activation: int = 0) -> Value:
        w = np.clip(codes(self.rng, (m, x.n)), -127, 127)
        s_w = 2.0 / 127 / max(1.0, x.n**0.5)
        wi = self.b.tensor(w.shape, "int8", data=w, scale=s_w)
        bias = self.b.tensor((m,), "int32", data=self.rng.integers(-500, 500, m), scale=x.s * s_w)
        y = self.tensor((1, m), x.s * float(self.rng.uniform(0.6, 1.6)), int(self.rng.integers(-60, 60)))
        return self.op("FULLY_CONNECTED", [x.at, wi, bias], y, version=5, fused_activation=activation)

    def table(self, x: Value) -> Value:
        name = str(self.rng.choice(TABLES))
        s, z = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}.get(
            name, (x.s * float(pick(self.rng, 1.0, 0.7, 1.4)), int(self.rng.integers(-60, 60)))
        )
        y, ins, options = self.tensor((1, x.n), s, z), [x.at], {}
        if name == "PRELU":
            ins.append(self.b.tensor((x.n,), "int8", data=codes(self.rng, (x.n,)), scale=0.01, zero_point=-20))
        if name == "LEAKY_RELU":
            options = {"alpha": float(self.rng.uniform(0, 0.5)), "version": 2}
        if name == "GELU":
            options = {"approximate": bool(self.rng.integers(2)), "version": 2}
        if name in ("LOGISTIC", "TANH", "ABS"):
            options["version"] = 2
        return self.op(name, ins, y, **options)

    def pair(self, x: Value, y: Value | None = None) -> Value:
        name = str(self.rng.choice(PAIRS))
        if y is None or self.rng.random() < 0.3:
            data = codes(self.rng, (x.n,))
            other = self.tensor((1,), 0.01, int(self.rng.integers(-30, 30)))
            other = Value(self.b.tensor((x.n,), "int8", data=data, **other.about), x.n, other.s, other.z)
        else:
            other = y
        ins = [x.at, other.at] if self.rng.random() < 0.5 else [other.at, x.at]
        s = 64 * x.s * other.s if name == "MUL" else 0.7 * (x.s + other.s)
        out = self.tensor((1, x.n), s, int(self.rng.integers(-60, 60)))
        return self.op(name, ins, out, version=2, fused_activation=int(pick(self.rng, 0, 0, 1, 3)))

    def halves(self, x: Value) -> Value:
        """SPLIT, a selection of the halves, and both behind one another."""
        parts = [self.tensor((1, x.n // 2), x.s, x.z) for _ in range(2)]
        axis = self.b.tensor((), "int32", data=1)
        self.used.add("SPLIT")
        self.b.op("SPLIT", [axis, x.at], [p.at for p in parts], version=2, num_splits=2)
        name = str(self.rng.choice(["MAXIMUM", "MINIMUM"]))
        best = self.op(name, [p.at for p in parts], self.tensor((1, x.n // 2), x.s, x.z), version=2)
        out = self.tensor((1, x.n), x.s, x.z)
        return self.op("CONCATENATION", [best.at, parts[0].at], out, version=2, axis=1)

    def turned(self, x: Value) -> Value:
        """TRANSPOSE, and a reduction that is added to every entry by broadcasting."""
        shaped = self.op("RESHAPE", [x.at, self.ints(1, 2, x.n // 2)], self.tensor((1, 2, x.n // 2), x.s, x.z))
        new = self.tensor((1, x.n // 2, 2), x.s, x.z)
        turned = self.op("TRANSPOSE", [shaped.at, self.ints(0, 2, 1)], new, version=2)
        name = str(self.rng.choice(["REDUCE_MAX", "REDUCE_MIN"]))
        most = self.tensor((1, 1, 2), x.s, x.z)
        self.op(name, [turned.at, self.ints(1)], most, version=2, keep_dims=True)
        gate = self.op("MUL", [turned.at, most.at], self.tensor(new_shape(x), 64 * x.s * x.s, 3), version=2)
        return self.op("RESHAPE", [gate.at, self.ints(1, x.n)], self.tensor((1, x.n), gate.s, gate.z))


def new_shape(x: Value) -> tuple[int, ...]:
    return (1, x.n // 2, 2)


def mixed_model(rng: Rng) -> tuple[bytes, set[str]]:
    """A model with 4 inputs and 3 outputs, and the operators in it."""
    net = Mixed(rng, 4)
    x = net.dense(net.source, 6, activation=int(pick(rng, 0, 1)))
    for _ in range(int(rng.integers(2, 5))):
        kind = rng.integers(4)
        if kind == 0:
            x = net.table(x)
        elif kind == 1:
            x = net.pair(x, net.dense(net.source, 6))
        elif kind == 2:
            x = net.halves(x)
        else:
            x = net.turned(x)
    y = net.dense(x, 3) if rng.random() < 0.7 else x
    return net.b.build([net.source.at], [y.at]), net.used


def mixed_pair(seed: int, folder: Path | None = None) -> Twins:
    """A pair, whose files stay in a folder where one is given."""
    rng = np.random.default_rng(seed)
    model, _ = mixed_model(rng)
    twin = float_twin(model, rng)
    return load(twin, model) if folder is None else stored(twin, model, folder, str(seed))


def stored(twin: bytes, model: bytes, folder: Path, name: str) -> Twins:
    """A pair whose files stay."""
    paths = folder / f"{name}.float.tflite", folder / f"{name}.tflite"
    for path, content in zip(paths, (twin, model), strict=True):
        path.write_bytes(content)
    return Twins(twin, model, align(*(read_tflite(path) for path in paths)))
