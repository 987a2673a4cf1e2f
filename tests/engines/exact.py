"""Dense pairs evaluated in rational arithmetic: the exact z, zq, h, hq of every layer."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from qebgate.engines.dra.analysis import Analysis
from qebgate.ir.pair import Pair
from qebgate.semantics.base import Activation
from qebgate.semantics.execute import run_int
from qebgate.semantics.linear import LinearNode
from qebgate.task import Task
from tests.laws.pairs import Twins, float_twin, load
from tests.semantics.cases import Rng, pick
from tests.support.tflite_builder import Builder


def dense_pair(rng: Rng, *, big_bias: bool = False) -> Twins:
    """FULLY_CONNECTED layers with wild scales; ``big_bias``: biases that nearly cancel between the two networks."""
    b = Builder()
    n = int(rng.integers(1, 4))
    s = float(np.float32(10.0 ** rng.uniform(-3, 1)))
    source = at = b.tensor((1, n), "int8", scale=s, zero_point=int(rng.integers(-128, 128)))
    for _ in range(int(rng.integers(1, 4))):
        m = int(rng.integers(1, 5))
        w = rng.integers(-127, 128, (m, n))
        s_w = np.float32(10.0 ** rng.uniform(-3, 1, m if rng.random() < 0.5 else 1))
        reach = (1 << 21) - 1 if big_bias else 20_000
        bias = rng.integers(reach // 2 if big_bias else -reach, reach, m)
        typical = (
            (300 * float(np.abs(w).max()) * n**0.5 / 3 + (float(bias.mean()) if big_bias else 0.0))
            * s
            * float(s_w.max())
        )
        wi = b.tensor((m, n), "int8", data=w, scale=s_w)
        bi = b.tensor((m,), "int32", data=bias, scale=s_w.astype(np.float64) * s)
        act = int(pick(rng, 0, 1, 2, 3))
        s = float(np.float32(typical / pick(rng, 30, 100, 200)))
        y = b.tensor((1, m), "int8", scale=s, zero_point=int(pick(rng, -128, 0, rng.integers(-128, 128))))
        b.op("FULLY_CONNECTED", [at, wi, bi], [y], version=4, fused_activation=act)
        at, n = y, m
    model = b.build([source], [at])
    # the float bias a few bits off: the difference is tiny beside either
    return load(float_twin(model, rng, noise=1e-6 if big_bias else 0.49), model)


@dataclass(frozen=True)
class Truth:
    """Exact values of one layer at one input."""

    z: list[Fraction]
    zq: list[Fraction]
    h: list[Fraction]
    hq: list[Fraction]


def evaluate(pair: Pair, codes: np.ndarray, task: Task) -> list[Truth]:
    """Layer by layer; the quantized codes come from the exact executor."""
    keep = [v.quantized_tensor for v in pair.values]
    q = run_int(pair.quantized, codes[None], task.runtime, keep=keep)
    q[pair.quantized.inputs[0]] = codes[None]
    h = [Fraction(float(v)) for v in task.codec.grid(codes).ravel()]
    out: list[Truth] = []
    for step in pair.steps:
        assert step.float_node is not None
        assert step.quantized_node is not None
        f, g = LinearNode.of(step.float_node, pair.float), LinearNode.of(step.quantized_node, pair.quantized)
        assert f.bias is not None
        assert g.bias is not None
        z = [
            sum((Fraction(float(w)) * x for w, x in zip(row, h, strict=True)), Fraction(float(b)))
            for row, b in zip(f.weights, f.bias, strict=True)
        ]
        before = q[step.quantized_node.inputs[0]].ravel().tolist()
        units = [Fraction(g.x.q.s) * Fraction(float(v)) for v in np.broadcast_to(g.w.q.scale, len(g.bias))]
        zq = [
            u * (int(b) + sum(int(w) * (c - g.x.q.z) for w, c in zip(row, before, strict=True)))
            for u, row, b in zip(units, g.weights, g.bias, strict=True)
        ]
        attrs = step.float_node.attrs
        activation: Activation = attrs.activation  # type: ignore[attr-defined]
        a, b_ = activation.range
        h = [max(v, Fraction(a)) if np.isfinite(a) else v for v in z]
        h = [min(v, Fraction(b_)) if np.isfinite(b_) else v for v in h]
        after = q[step.quantized_node.outputs[0]].ravel().tolist()
        out.append(Truth(z, zq, list(h), [Fraction(g.y.q.s) * (int(c) - g.y.q.z) for c in after]))
    return out


def violations(a: Analysis, pair: Pair, truth: list[Truth]) -> list[str]:
    """Everything of one exact evaluation that an analysis excludes."""
    bad: list[str] = []

    def check(what: str, lo: np.ndarray, hi: np.ndarray, v: list[Fraction]) -> None:
        bad.extend(
            f"{what}[{k}]: {float(x)!r} not in [{lo[k]!r}, {hi[k]!r}]"
            for k, x in enumerate(v)
            if not Fraction(float(lo[k])) <= x <= Fraction(float(hi[k]))
        )

    for step, t in zip(pair.steps, truth, strict=True):
        p, s = a.pre[step.output], a.states[step.output]
        check("z", p.z.lo, p.z.hi, t.z)
        check("zq", p.q.lo, p.q.hi, t.zq)
        check("D", p.d.lo, p.d.hi, [q - z for q, z in zip(t.zq, t.z, strict=True)])
        check("h", s.float.lo, s.float.hi, t.h)
        check("hq", s.quantized.lo, s.quantized.hi, t.hq)
        check("delta", s.delta.lo, s.delta.hi, [q - h for q, h in zip(t.hq, t.h, strict=True)])
    out = pair.steps[-1].output
    top = np.arange(len(truth[-1].h))
    gap, value = a.gap(out, top), a.float_value(out, top)
    check("gap", gap.lo, gap.hi, [q - h for q, h in zip(truth[-1].hq, truth[-1].h, strict=True)])
    check("float", value.lo, value.hi, truth[-1].h)
    return bad
