"""Networks of quotients, squares, roots, products with a matrix and logarithms: every engine against the truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qebgate.engines import portfolio
from qebgate.engines.concrete import Session
from qebgate.engines.dra.analysis import Settings
from qebgate.errors import UnboundedError
from qebgate.evidence import Bound, Witness
from qebgate.runtimes.profiles import DEPLOYED
from qebgate.semantics.execute import run_int
from tests.laws import forms
from tests.laws.contain import Seen, check, samples
from tests.laws.mixed import Mixed, Value, stored
from tests.laws.pairs import Twins, codec_of, float_twin, grid_cell, real_cell, task_of
from tests.laws.test_mixed import SMALL, small_box, truth
from tests.semantics.compare import interpret
from tests.semantics.compare import load as read
from tests.semantics.draw import Rng, codes, pick

OPERATORS = {"BATCH_MATMUL", "DIV", "LOG_SOFTMAX", "RSQRT", "SQRT", "SQUARED_DIFFERENCE"}


class Arithmetic(Mixed):
    """Blocks such as a normalization is made of."""

    def zero(self) -> int:
        return int(self.rng.integers(-60, 60))

    def constant(self, data: np.ndarray, about: Value) -> int:
        return self.b.tensor((about.n,), "int8", data=data, **about.about)

    def difference(self, x: Value, y: Value) -> Value:
        out = self.tensor((1, x.n), (80 * (x.s + y.s)) ** 2 / 255, -128)
        return self.op("SQUARED_DIFFERENCE", [x.at, y.at], out, version=2)

    def root(self, x: Value) -> Value:
        return self.op("SQRT", [x.at], self.tensor((1, x.n), (255 * x.s) ** 0.5 / 255, self.zero()), version=2)

    def inverse(self, x: Value) -> Value:
        """Of what is some codes above 0 in both models."""
        least = int(self.rng.integers(4, 40))
        c = self.constant(np.full(x.n, x.z + least), x)
        m = self.op("MAXIMUM", [x.at, c], self.tensor((1, x.n), x.s, x.z), version=2)
        return self.op("RSQRT", [m.at], self.tensor((1, x.n), 1.0 / (255 * (least * x.s) ** 0.5), -128), version=2)

    def divided(self, x: Value) -> Value:
        c = np.sign(self.rng.normal(size=x.n)) * self.rng.integers(40, 120, x.n)
        at = self.b.tensor((x.n,), "int8", data=c, scale=float(np.float32(0.02)))
        return self.op("DIV", [x.at, at], self.tensor((1, x.n), x.s / 1.5, self.zero()), version=2)

    def matrix(self, x: Value) -> Value:
        w = np.clip(codes(self.rng, (x.n, 6)), -127, 127)
        at = self.b.tensor(w.shape, "int8", data=w, scale=0.008, zero_point=int(pick(self.rng, 0, 5)))
        return self.op("BATCH_MATMUL", [x.at, at], self.tensor((1, 6), x.s * 1.5, self.zero()), version=4)

    def product(self, x: Value, y: Value) -> Value:
        return self.op("MUL", [x.at, y.at], self.tensor((1, x.n), 90 * x.s * y.s, self.zero()), version=2)


def arithmetic_model(rng: Rng) -> tuple[bytes, set[str]]:
    net = Arithmetic(rng, 4)
    x, other = net.dense(net.source, 6), net.dense(net.source, 6)
    square = net.difference(x, other)
    kind = rng.integers(3)
    y = net.product(net.divided(x), net.inverse(square)) if kind else net.root(square)
    y = net.matrix(y)
    if kind == 2:
        return net.b.build([net.source.at], [net.root(net.difference(y, other)).at]), net.used
    y = net.dense(y, 3)
    out = net.op("LOG_SOFTMAX", [y.at], net.tensor((1, 3), 1 / 16, 127), version=2) if rng.random() < 0.5 else y
    return net.b.build([net.source.at], [out.at]), net.used


def arithmetic_pair(seed: int, folder: Path) -> Twins:
    rng = np.random.default_rng(seed)
    model, _ = arithmetic_model(rng)
    return stored(float_twin(model, rng), model, folder, str(seed))


def test_networks_are_executed_bit_for_bit() -> None:
    used: set[str] = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        model, ops = arithmetic_model(rng)
        graph = read(model)
        used |= ops
        x = rng.integers(-128, 128, (40, 1, 4)).astype(np.int8)
        for runtime in DEPLOYED:
            theirs, _ = interpret(model, x, runtime)
            np.testing.assert_array_equal(run_int(graph, x, runtime)[graph.outputs[0]], theirs)
    assert used >= OPERATORS


def test_bounds_and_forms_contain_what_happens(tmp_path: Path) -> None:
    seen, unbounded = Seen(), 0
    for seed in range(9):
        twins, rng = arithmetic_pair(seed, tmp_path), np.random.default_rng(1000 + seed)
        codec, runtime = codec_of(twins.pair, rng), DEPLOYED[seed % 3]
        cell = (grid_cell if rng.random() < 0.6 else real_cell)(twins.pair, codec, rng)
        task = task_of(twins.pair, cell, codec, runtime, "real" if rng.random() < 0.5 else "float32")
        try:
            check(task, samples(task, rng, 60), Settings(), seen, twins.float)
            if (task.cell.upper > task.cell.lower).any():
                forms.check(task, forms.network(task), 0, rng, seen, cells=2, count=16)
        except UnboundedError:
            unbounded += 1
    assert not seen.violations, seen.violations[:5]
    assert seen.values > 10_000 and unbounded <= 2


@pytest.mark.parametrize("seed", range(3))
def test_no_engine_is_wrong(seed: int, tmp_path: Path) -> None:
    """Every engine's bounds contain every gap of a small box, and every witness is one of its gaps."""
    answered: set[str] = set()
    twins, rng = arithmetic_pair(seed, tmp_path), np.random.default_rng(seed)
    codec, runtime = codec_of(twins.pair), DEPLOYED[seed % 3]
    task = task_of(twins.pair, small_box(twins.pair, codec, rng), codec, runtime, "real", 1e-3)
    lo, hi, own = truth(task)
    point = replace(task.cell, upper=task.cell.lower, codes=(task.cell.codes[0],) * 2)  # type: ignore[index]
    with Session() as session:
        for t in (task, replace(task, cell=point)):
            low, high, _ = (lo, hi, own) if t is task else truth(t)
            for engine in portfolio.ORDER:
                for e in portfolio.run(t, SMALL, [engine.name], session=session):
                    if isinstance(e, Bound):
                        answered.add(e.engine)
                        assert (e.lower <= low + own).all() and (e.upper >= high - own).all(), (seed, e.engine)
                    if isinstance(e, Witness):
                        assert (e.gap >= lo - 1e-6).all() and (e.gap <= hi + 1e-6).all(), (seed, e.engine)
    assert {"execute", "dra", "enumerate"} <= answered
