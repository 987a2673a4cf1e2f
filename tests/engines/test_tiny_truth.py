"""Engines against the whole truth of tiny converted models, in every runtime; zero tolerance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qebgate.engines import portfolio
from qebgate.engines.concrete import Session
from qebgate.engines.dra.engine import Dra
from qebgate.engines.enumerate import Enumerate, all_codes
from qebgate.engines.execute import Execute
from qebgate.evidence import Bound, Stopped, Witness
from qebgate.runtimes.profiles import Runtime
from qebgate.task import Budget
from qebgate.verdict import judge
from tests.engines.tiny import ENTRIES, RUNTIMES, USUAL, outside, tiny

EXACT = 2.0**-55
"""More than the error of the 80-bit execution of these networks, whose values are below 16."""

WHOLE = ("dense_relu6-int8", "residual_relu-int8", "average_pool-int8", "linear-float_io")


@pytest.fixture(scope="module")
def session():
    with Session() as s:
        yield s


def figure(bound: Bound) -> float:
    return float(np.maximum(-bound.lower, bound.upper).max())


@pytest.mark.parametrize("name", USUAL)
def test_dra_on_random_boxes(name: str, session: Session) -> None:
    """Small boxes, segments and points: where the bound is tight, a missing term shows."""
    t = tiny(name)
    rng = np.random.default_rng(sum(name.encode()))
    for runtime in RUNTIMES:
        q = t.quantized(runtime)
        for k in range(3):
            cell = t.box(rng)
            rows = t.rows(cell)
            for floats, h, error in (("float32", t.float32, 0.0), ("real", t.real, EXACT)):
                if k % 2 == (floats == "real"):
                    continue
                (b,) = Dra().run(t.task(cell, runtime, floats), [], Budget(), session)
                assert isinstance(b, Bound)
                assert b.trust == "certified"
                assert outside(b.lower, b.upper, q[rows].astype(np.longdouble) - h[rows], error) == 0


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        pytest.param(n, r, marks=[pytest.mark.slow] if (k + i) % 3 else [])
        for k, n in enumerate(WHOLE)
        for i, r in enumerate(RUNTIMES)
    ],
)
def test_whole_grid(name: str, runtime: Runtime, session: Session) -> None:
    """65,536 inputs: every bound above the truth, and the full chain's verdict right on both sides of it."""
    t = tiny(name)
    gap = t.quantized(runtime).astype(np.longdouble) - t.float32
    truth = float(np.abs(gap).max())
    task = t.task(t.whole, runtime)
    (dra,) = Dra().run(task, [], Budget(), session)
    enumerated, witness = Enumerate().run(task, [], Budget(), session)
    assert isinstance(dra, Bound)
    assert isinstance(enumerated, Bound)
    assert isinstance(witness, Witness)
    assert outside(dra.lower, dra.upper, gap) == outside(enumerated.lower, enumerated.upper, gap) == 0
    assert figure(enumerated) < 1.01 * truth
    assert witness.replayed
    assert float(np.abs(witness.gap).max()) >= 0.999 * truth
    for factor, expected in ((1.02, "pass"), (0.98, "fail")):
        ask = replace(task, prop=replace(task.prop, limit=factor * truth))
        assert judge(ask.prop, "proof", portfolio.run(ask, Budget(), session=session)).verdict == expected


@pytest.mark.parametrize("name", ["dense_8_8-int8", "softmax-int8", "max_pool-int8"])
def test_enumeration_contains_litert_itself(name: str, session: Session) -> None:
    """The exhaustive bound holds for the float model as the installed runtime evaluates it."""
    t = tiny(name)
    rng = np.random.default_rng(1)
    for runtime in RUNTIMES:
        cell = t.box(rng)
        rows = t.rows(cell)[:3000]
        from tests.engines.tiny import MODELS
        from tests.semantics.compare import interpret

        y, _ = interpret((MODELS / ENTRIES[name]["float"]).read_bytes(), t.inputs.x[rows], runtime)
        gap = t.quantized(runtime)[rows].astype(np.longdouble) - y.reshape(len(y), -1)
        exact = t.quantized(runtime)[rows].astype(np.longdouble) - t.real[rows]
        for floats, truth, error in (("float32", gap, 0.0), ("real", exact, EXACT)):
            found = Enumerate().run(t.task(cell, runtime, floats), [], Budget(), session)  # type: ignore[arg-type]
            assert isinstance(found[0], Bound)
            assert outside(found[0].lower, found[0].upper, truth, error) == 0


@pytest.mark.parametrize("name", ["dense_deep-int8", "conv_stride-int8", "dense_4-float_io"])
@pytest.mark.parametrize("floats", ["float32", "real"])
def test_execute_at_points(name: str, floats: str, session: Session) -> None:
    t = tiny(name)
    rng = np.random.default_rng(2)
    h, error = (t.float32, 0.0) if floats == "float32" else (t.real, EXACT)
    for runtime in RUNTIMES:
        q = t.quantized(runtime)
        for _ in range(4):
            row = int(rng.integers(len(q)))
            codes = next(iter(all_codes(t.whole, 1 << 17)))[row]
            cell = t.cell(codes, codes)
            bound, witness = Execute().run(t.task(cell, runtime, floats), [], Budget(), session)  # type: ignore[arg-type]
            assert isinstance(bound, Bound)
            assert isinstance(witness, Witness)
            assert bound.trust == "exhaustive"
            assert (
                outside(bound.lower, bound.upper, q[row : row + 1].astype(np.longdouble) - h[row : row + 1], error) == 0
            )
            assert (witness.gap >= bound.lower).all() or floats == "real"
            assert (bound.upper - bound.lower).max() < 1e-4 * max(1.0, float(np.abs(h).max()))
            assert judge(t.task(cell, runtime).prop, "proof", [bound, witness]).verdict in ("pass", "fail")


def test_enumerate_gives_up_beyond_its_budget(session: Session) -> None:
    t = tiny("linear-int8")
    (stopped,) = Enumerate().run(t.task(t.whole, Runtime.BUILTIN), [], Budget(enumerate=65_535), session)
    assert isinstance(stopped, Stopped)
    assert stopped.reason == "effort"
    assert isinstance(
        Enumerate().run(t.task(t.whole, Runtime.BUILTIN), [], Budget(enumerate=65_536), session)[0], Bound
    )


def test_all_codes_of_a_cell_once_each() -> None:
    t = tiny("linear-int8")
    rng = np.random.default_rng(3)
    for _ in range(10):
        cell = t.box(rng)
        got = np.concatenate(list(all_codes(cell, 7)))
        assert cell.codes is not None
        assert len({tuple(r.ravel()) for r in got}) == len(got) == cell.count
        assert (got >= cell.codes[0]).all()
        assert (got <= cell.codes[1]).all()
        assert (t.inputs.codes[t.rows(cell)].reshape(len(got), -1).sum(axis=1) == 0).sum() >= 0
