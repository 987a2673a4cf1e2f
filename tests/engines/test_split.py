"""Splitting the inputs: against every input executed, on real boxes, interrupted, and with wrong edits."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import acas
from benchmarks import tiny as tiny_benchmark
from qebgate.certify.cover import covers
from qebgate.engines import bisection, portfolio
from qebgate.engines.bisection import Bisection
from qebgate.engines.concrete import Session
from qebgate.engines.guard import Guard, GuardedStop
from qebgate.engines.split import tree as split_tree
from qebgate.engines.split.certificate import split_certificate
from qebgate.engines.split.engine import Split, tree_of
from qebgate.engines.split.tree import Tree
from qebgate.evidence import Bound, Stopped, Witness
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.execute import run_float, run_int
from qebgate.task import Budget
from qebgate.verdict import judge
from tests.engines.test_real_inputs import _codes, _near
from tests.engines.tiny import Tiny, outside, tiny
from tests.laws.pairs import task_of

EXACT = 2.0**-55
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def session():
    with Session() as s:
        yield s


def small_leaves(patch: Patch, points: int) -> None:
    """Only parts of so few points are executed, after they were bounded."""
    patch.setattr(Tree, "leaf", points)
    patch.setattr(split_tree, "SMALL", min(points, 4))


def truth_of(t: Tiny, cell: Cell, runtime: Runtime, floats: str) -> tuple[np.ndarray, float]:
    """All gaps of a box, and by how much they are off."""
    rows = t.rows(cell)
    h, error = (t.float32, 0.0) if floats == "float32" else (t.real, EXACT)
    return t.quantized(runtime).astype(np.longdouble)[rows] - h[rows], error


@pytest.mark.parametrize("name", ["dense_8_8-int8", "conv-float_io", "softmax-int8"])
def test_grids(name: str, session: Session, monkeypatch: Patch) -> None:
    """Whatever the budget and the leaves, the bound contains every gap; it only falls; witnesses are within it."""
    t, rng = tiny(name), np.random.default_rng(sum(name.encode()))
    for k, runtime in enumerate(DEPLOYED[:2]):
        small_leaves(monkeypatch, (1, 40)[k])
        cell = t.box(rng)
        if cell.is_point:
            continue
        floats = ("float32", "real")[k % 2]
        gap, error = truth_of(t, cell, runtime, floats)
        limit = float(np.abs(gap).max()) * (1.0001, 0.5)[k % 2] + 1e-9
        task = t.task(cell, runtime, floats, limit)  # type: ignore[arg-type]
        widths = []
        for parts in (1, 9, 30):
            bound, *rest = Split().run(task, [], Budget(split=parts), session)
            assert isinstance(bound, Bound)
            assert bound.trust == "certified"
            assert outside(bound.lower, bound.upper, gap, error) == 0
            slack = 1e-5 if floats == "float32" else EXACT
            found = [w for w in rest if isinstance(w, Witness)]
            assert all((bound.lower - slack <= w.gap).all() and (w.gap <= bound.upper + slack).all() for w in found)
            assert len(found) == 1
            widths.append(float(np.maximum(-bound.lower, bound.upper).max()))
        assert widths[0] >= widths[1] >= widths[2]


@pytest.mark.parametrize("name", ["dense_8_8-int8", "max_pool-int8"])
def test_complete_on_both_sides_of_the_truth(name: str, session: Session) -> None:
    """Nothing but this engine: limits of 1.02 and 0.98 times the largest gap are decided."""
    t, budget = tiny(name), Budget(split=2000)
    truth = float(np.abs(truth_of(t, t.whole, Runtime.XNNPACK, "float32")[0]).max())
    for factor, expected in ((1.02, "pass"), (0.98, "fail")):
        task = t.task(t.whole, Runtime.XNNPACK, limit=factor * truth)
        found = portfolio.run(task, budget, ["split"], session=session)
        assert judge(task.prop, "proof", found).verdict == expected
        again = portfolio.run(task, budget, ["split"], session=session)
        assert [type(e) for e in again] == [type(e) for e in found]  # and deterministic
        for a, b in zip(found, again, strict=True):
            assert not isinstance(a, Bound) or (isinstance(b, Bound) and (a.lower == b.lower).all())


@pytest.mark.parametrize("name", ["dense_large-int8", "linear-float_io"])
def test_real_boxes(name: str, session: Session) -> None:
    """Every way in which an application rounds, near ties too."""
    t, rng = tiny(name), np.random.default_rng(7)
    for k in range(3):
        mode = None if t.codec.in_model else ("nearest", "truncate")[k % 2]
        codec = InputCodec.of(t.pair.quantized, mode)  # type: ignore[arg-type]
        least, most = codec.dtype.code_range
        middle = (rng.uniform(least, most, t.pair.quantized.input.shape) - codec.zero_point) * codec.scale
        r = codec.scale * float(rng.choice([0.6, 2.0, 9.0]))
        lo, hi = ((middle + d).astype(np.float32).astype(np.float64) for d in (-r, r))
        task = task_of(t.pair, Cell(lo, hi, None, 0, middle), codec, DEPLOYED[k % 3], "real", 1e-3)
        bound, *_ = Split().run(task, [], Budget(split=40), session)
        assert isinstance(bound, Bound)
        first, *_ = Split().run(task, [], Budget(split=1), session)
        assert isinstance(first, Bound)
        assert np.maximum(-bound.lower, bound.upper).max() <= np.maximum(-first.lower, first.upper).max()
        x = _near(codec, lo, hi, rng, 400)
        h = run_float(t.pair.float, x, dtype=np.longdouble)[t.pair.float.outputs[0]]  # type: ignore[arg-type]
        for way in ("",) if mode is None else ("divide", "reciprocal", "double", "late"):
            y = run_int(t.pair.quantized, x if mode is None else _codes(codec, x, way), DEPLOYED[k % 3])
            out = y[t.pair.quantized.outputs[0]]
            q = t.pair.quantized.output.q.dequantize(out) if t.pair.quantized.output.dtype.is_code else out
            assert outside(bound.lower, bound.upper, (q - h).reshape(len(x), -1), EXACT) == 0, (way, lo, hi)


def test_interrupted_and_used_up(session: Session) -> None:
    """A part that was being split is still open: what is proven holds at any time."""
    t = tiny("dense_8_8-int8")
    gap, _ = truth_of(t, t.whole, Runtime.BUILTIN, "float32")
    task = t.task(t.whole, Runtime.BUILTIN, limit=1.01 * float(np.abs(gap).max()))
    for calls in (3, 40):
        left = calls

        def stop() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise GuardedStop("guard_time", "stopped")

        tree = tree_of(Tree, task, [], Budget(), Guard(Budget()))
        tree.pulse = stop
        with pytest.raises(GuardedStop):
            tree.run(1000, lambda _: None)
        assert outside(tree.bound.lo, tree.bound.hi, gap) == 0
    *_, last = Split().run(task, [], Budget(split=3), session)
    assert isinstance(last, Stopped)
    assert last.reason == "effort"
    exhaustive = Bound(
        np.full(len(task.outputs), -9.0), np.full(len(task.outputs), 9.0), "exhaustive", "enumerate", 0.0
    )
    assert Split().run(task, [exhaustive], Budget(), session) == Split().run(task, [], Budget(split=0), session) == []


def violation(domain: str, seed: int) -> str | None:
    """What is wrong with a tree of a tiny network, if anything: a gap outside, or a part of the region left out."""
    rng = np.random.default_rng(seed)
    t = tiny(("dense_8_8-int8", "dense_large-int8", "dense_4-int8")[seed % 3])
    runtime = DEPLOYED[seed % 3]
    cell = t.box(rng)
    if cell.is_point:
        return None
    task = t.task(cell, runtime, "real", 0.0)
    if domain == "real":
        codec = InputCodec.of(t.pair.quantized, "nearest")
        s = codec.scale * float(rng.uniform(0.1, 0.7))
        lo, hi = ((v + d).astype(np.float32).astype(np.float64) for v, d in ((cell.lower, -s), (cell.lower, s)))
        task = replace(task, codec=codec, cell=Cell(lo, hi, None, 0, lo))
    whole, *_ = Split().run(task, [], Budget(split=1), SESSION)
    assert isinstance(whole, Bound)
    worst = task.prop.of_box(whole.lower, whole.upper)
    task = replace(task, prop=Property("max_abs", worst * float(rng.uniform(0.6, 0.95))))
    tree = tree_of(Tree, task, [], Budget(), Guard(Budget()))
    tree.run(50, lambda _: None)
    if domain == "grid":
        gap, error = truth_of(t, task.cell, runtime, "real")
        if outside(tree.bound.lo, tree.bound.hi, gap, error):
            return "a gap is outside"
    leaves = split_certificate(task, Budget(split=120), 1e-6)
    if leaves:
        c = task.cell.codes or (task.cell.lower, task.cell.upper)
        ends = [x.cell.codes or (x.cell.lower, x.cell.upper) for x in leaves]
        flat = [(a.ravel().astype(np.float64), b.ravel().astype(np.float64)) for a, b in (c, *ends)]
        if not covers(flat[1:], *flat[0], 0.5 if domain == "grid" else 0.0):
            return "the leaves do not cover the region"
    return None


SESSION = Session()


@dataclass(frozen=True)
class Mutant:
    """A wrong edit, and the domain that it shows in."""

    name: str
    apply: Callable[[Patch], None]
    domain: str = "grid"


def _halves(change: Callable[[list[bisection.Part], int], list[bisection.Part]]) -> Callable[[Patch], None]:
    real = Bisection._halves

    def apply(m: Patch) -> None:
        def halves(self, c):
            parts = real(self, c)
            return None if parts is None else change(parts, c.widest)

        m.setattr(Bisection, "_halves", halves)
        small_leaves(m, 2)

    return apply


def _moved(parts: list[bisection.Part], i: int, by: float) -> list[bisection.Part]:
    parts[1].lo[i] = min(parts[1].lo[i] + by, parts[1].hi[i])
    return parts


def _leaf_forgotten(m: Patch) -> None:
    real = Bisection._file
    m.setattr(Tree, "_file", lambda self, closed: real(self, closed[1:]))
    small_leaves(m, 2)


def _interrupted_part_lost(m: Patch) -> None:
    real = Bisection._push
    m.setattr(Tree, "_push", lambda self, c: None if self.done > 8 else real(self, c))
    small_leaves(m, 2)


def _point_forgotten(m: Patch) -> None:
    real = bisection.box_codes
    m.setattr(bisection, "box_codes", lambda lo, hi, n: (c[:-1] if len(c) > 1 else c for c in real(lo, hi, n)))


def _cell_of_the_wrong_codes(m: Patch) -> None:
    real = Tree.cell
    m.setattr(Tree, "cell", lambda self, lo, hi: real(self, lo, np.maximum(lo, hi - 1)))
    small_leaves(m, 2)


def _executed_without_error(m: Patch) -> None:
    """Executed parts take the place of what was known of them, with the wrong sign."""
    real = Tree.look
    m.setattr(Tree, "look", lambda self, points: 0.5 * real(self, points))


MUTANTS = (
    Mutant("one half is dropped", _halves(lambda parts, _: parts[:1])),
    Mutant("the other half is dropped", _halves(lambda parts, _: parts[1:])),
    Mutant("the code after the split is in neither half", _halves(lambda parts, i: _moved(parts, i, 1.0))),
    Mutant("the open interval between two codes is in neither half", _halves(lambda p, i: _moved(p, i, 0.01)), "real"),
    Mutant("a real half begins at the next code", _halves(lambda p, i: _moved(p, i, 0.05)), "real"),
    Mutant("a leaf is not filed", _leaf_forgotten),
    Mutant("open parts are lost", _interrupted_part_lost),
    Mutant("the last point of a leaf is not executed", _point_forgotten),
    Mutant("parts are bounded without their last code", _cell_of_the_wrong_codes),
    Mutant("executed gaps are halved", _executed_without_error),
)


def hunt(domain: str, tries: int) -> str | None:
    for seed in range(tries):
        try:
            found = violation(domain, seed)
        except (ValueError, AssertionError) as e:
            return f"{type(e).__name__}: {e}"
        if found:
            return found
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_wrong_edits_are_caught(mutant: Mutant, monkeypatch: Patch) -> None:
    mutant.apply(monkeypatch)
    assert hunt(mutant.domain, 20) is not None


@pytest.mark.parametrize("domain", ["grid", "real"])
def test_nothing_is_found_in_what_was_not_changed(domain: str, monkeypatch: Patch) -> None:
    small_leaves(monkeypatch, 2)
    assert hunt(domain, 4) is None


def test_the_benchmark_of_tiny_networks() -> None:
    lines, wrong = tiny_benchmark.run(4, 1)
    assert wrong == 0
    assert sum(int(line.split("|")[2]) for line in lines[2:]) == 1


@pytest.mark.skipif(not os.environ.get("QEBGATE_DATA"), reason="QEBGATE_DATA does not name the benchmark data's folder")
def test_the_benchmark_of_acas_xu() -> None:
    data = Path(os.environ["QEBGATE_DATA"]) / "qebverif"
    lines, wrong = acas.run(data, {0.01: 1}, ["1_1"], [8], Budget(split=200))
    assert wrong == 0
    assert "100.0 %" in lines[-1]
