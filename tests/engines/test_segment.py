"""Segments against the whole truth of tiny converted models, in every runtime; zero tolerance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qebgate.engines import portfolio
from qebgate.engines.concrete import Inputs, Session, quantized_outputs
from qebgate.engines.dra.program import program
from qebgate.engines.enumerate import Enumerate
from qebgate.engines.falsify import Falsify
from qebgate.engines.milp import Milp
from qebgate.engines.segment import Segment
from qebgate.engines.segment_walk import Walk
from qebgate.evidence import Bound, Evidence, Stopped, Witness
from qebgate.numerics.rounding import passes
from qebgate.regions import Cell, Line, Region, expand
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.execute import run_float
from qebgate.task import Budget, Task
from qebgate.verdict import judge
from tests.engines.tiny import ENTRIES, MODELS, RUNTIMES, USUAL, Tiny, outside, tiny
from tests.semantics.compare import interpret

EXACT = 2.0**-54
"""More than the error of the 80-bit execution of these networks, whose values are below 16."""
CURVED = ("softmax", "logistic", "tanh")


@pytest.fixture(scope="module")
def session():
    with Session() as s:
        yield s


def draw(t: Tiny, domain: str, rng: np.random.Generator, mode: str = "nearest") -> tuple[Cell, Tiny]:
    """A segment in a random direction, sometimes clipped, sometimes along ones, one entry or none."""
    c = t.codec if t.codec.in_model else replace(t.codec, mode=mode)  # type: ignore[arg-type]
    shape = t.pair.quantized.input.shape
    least, most = c.dtype.code_range
    d = rng.choice([-1.0, 0.0, 1.0, 0.5, float(rng.normal())], shape)
    if rng.random() < 0.3:
        d = np.ones(shape)
    a = -float(rng.choice([0.0, 0.5, 3.0, 20.0, 60.0]))
    b = float(rng.choice([0.0, 0.5, 2.2, 9.0]))
    row = rng.integers(least, most + 1, shape)
    values = "codes"
    if domain == "real" and rng.random() < 0.6:
        row = ((row + rng.uniform(-0.5, 0.5, shape) - c.zero_point) * c.scale).astype(np.float32)
        values = "real"
    ends = sorted(float(x) for x in rng.uniform(least - c.zero_point, most - c.zero_point, 2) * c.scale)
    clip = (ends[0], ends[1]) if rng.random() < 0.3 and ends[1] - ends[0] > 2 * c.scale else None
    region = Region("segment", 0.0, "lsb", domain, values, clip, span=(a, b))  # type: ignore[arg-type]
    (instance,) = expand(region, c, shape, row[None], [0], directions=d)
    return instance.cell, t


def tracks(line: Line) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    parts = [p for t in line.tracks for p in t.parts(50)]
    return tuple(np.concatenate([getattr(p, n) for p in parts]) for n in ("codes", "begin", "end"))  # type: ignore[return-value]


def outputs(task: Task, codes: np.ndarray) -> np.ndarray:
    return quantized_outputs(task, Inputs.of_codes(task, codes.reshape(-1, *task.cell.lower.shape)))


def kinks(task: Task) -> np.ndarray:
    """About where the float network bends."""
    p = program(replace(task, float_semantics="real"))
    assert task.cell.line is not None
    walk = Walk(p.layers, p.output, np.asarray(task.outputs))
    _, begin, end = tracks(task.cell.line)
    return np.concatenate([leaf.t for leaf in walk.along(task.cell.line, np.unique(np.concatenate([begin, end])))])


def real_gaps(task: Task, rng: np.random.Generator, count: int = 60) -> np.ndarray:
    """Gaps ``[B, K]`` at many points of a real segment, each with all codes that it may become; in 80 bits."""
    line = task.cell.line
    assert line is not None
    codes, begin, end = tracks(line)
    q = outputs(task, codes)
    bends = kinks(task)
    if len(bends) > 2000:
        bends = rng.choice(bends, 2000, replace=False)
    ts = np.concatenate([begin, end, rng.uniform(*line.range, count), bends])
    wide = np.longdouble
    start, d = line.start.astype(wide), line.direction.astype(wide)
    x = start + ts.astype(wide).reshape(-1, *[1] * start.ndim) * d
    x = np.clip(x, line.low.astype(wide), line.high.astype(wide))
    h = run_float(task.pair.float, x, dtype=wide)[task.pair.float.outputs[0]]  # type: ignore[arg-type]
    h = h.reshape(len(ts), -1)[:, list(task.outputs)]
    found = [q[(begin <= t) & (t <= end)].astype(wide) - h[k] for k, t in enumerate(ts)]
    assert all(len(f) for f in found)
    return np.concatenate(found)


def parts(evidence: list[Evidence]) -> tuple[Bound, Witness]:
    (bound,) = [e for e in evidence if isinstance(e, Bound)]
    (witness,) = [e for e in evidence if isinstance(e, Witness)]
    assert bound.trust == "exhaustive"
    assert witness.replayed
    return bound, witness


def figure(bound: Bound) -> float:
    return float(np.maximum(-bound.lower, bound.upper).max())


@pytest.mark.parametrize("name", USUAL)
def test_grid_segments_are_executed(name: str, session: Session) -> None:
    t = tiny(name)
    rng = np.random.default_rng(sum(name.encode()))
    for k in range(3):
        cell, _ = draw(t, "grid", rng)
        if cell.line is None:
            continue
        runtime = RUNTIMES[k % 3]
        codes, _, _ = tracks(cell.line)
        for floats, dtype, error in (("real", np.longdouble, EXACT), ("float32", np.float32, 0.0)):
            if floats == "float32" and k % 2:
                continue
            task = t.task(cell, runtime, floats)  # type: ignore[arg-type]
            x = task.codec.grid(codes.reshape(-1, *cell.lower.shape))
            h = run_float(t.pair.float, x, dtype=dtype)[t.pair.float.outputs[0]].reshape(len(x), -1)  # type: ignore[arg-type]
            gap = outputs(task, codes).astype(np.longdouble) - h
            bound, witness = parts(Segment().run(task, [], Budget(), session))
            assert outside(bound.lower, bound.upper, gap, error) == 0
            truth = float(np.abs(gap).max())
            if floats == "real":
                assert figure(bound) <= truth * (1 + 1e-9) + 1e-12
                assert float(np.abs(witness.gap).max()) >= truth * (1 - 1e-9) - 1e-12
            else:
                assert figure(bound) <= 1.01 * truth + 1e-5
            assert witness.codes is None or tuple(witness.codes.ravel()) in {tuple(c) for c in codes}
            assert judge(task.prop, "proof", [bound, witness]).verdict in ("pass", "fail")


@pytest.mark.parametrize("mode", ["nearest", "truncate"])
@pytest.mark.parametrize("name", USUAL)
def test_real_segments_are_walked(name: str, mode: str, session: Session) -> None:
    t = tiny(name)
    if t.codec.in_model and mode == "truncate":
        return
    rng = np.random.default_rng(sum(name.encode()) + len(mode))
    witnessed: list[float] = []
    for k in range(3):
        cell, _ = draw(t, "real", rng, mode)
        if cell.line is None:
            continue
        task = replace(t.task(cell, RUNTIMES[k % 3], "real"))
        if not t.codec.in_model:
            task = replace(task, codec=replace(t.codec, mode=mode))  # type: ignore[arg-type]
        found = Segment().run(task, [], Budget(), session)
        bound, *witnesses = found
        assert isinstance(bound, Bound)
        gap = real_gaps(task, rng)
        assert outside(bound.lower, bound.upper, gap, EXACT) == 0
        truth = float(np.abs(gap).max())
        assert figure(bound) <= (1.01 if name.startswith(CURVED) else 1.002) * truth + 1e-9
        # where entries stay between two codes, no float32 input shows both
        witnessed.append(
            max((float(np.abs(w.gap).max()) for w in witnesses if isinstance(w, Witness)), default=0.0) / figure(bound)
        )
        assert judge(task.prop, "proof", found).verdict in ("pass", "fail")
    assert max(witnessed) > 0.99 or mode == "truncate"


@pytest.mark.parametrize("name", ["dense_8_8-int8", "dense_4-float_io", "max_pool-int8", "softmax-int8", "conv-int8"])
def test_what_litert_itself_does_along_a_line(name: str, session: Session) -> None:
    """Float32 inputs of real segments, through both real models; codes as the application makes them."""
    t = tiny(name)
    rng = np.random.default_rng(8)
    checked = 0
    for k in range(6):
        cell, _ = draw(t, "real", rng)
        if cell.line is None:
            continue
        runtime = RUNTIMES[k % 3]
        task = t.task(cell, runtime)
        bound, witness = parts(Segment().run(task, [], Budget(), session))
        x = cell.line.some(t.codec, 200).reshape(-1, *cell.lower.shape)
        if not len(x):
            continue
        q, _ = interpret(
            (MODELS / ENTRIES[name]["quantized"]).read_bytes(),
            x if t.codec.in_model else t.codec.encode(x).astype(np.int8),
            runtime,
        )
        h, _ = interpret((MODELS / ENTRIES[name]["float"]).read_bytes(), x, runtime)
        out = t.pair.quantized.output
        real = out.q.dequantize(q) if out.dtype.is_code else q
        gap = real.reshape(len(x), -1).astype(np.longdouble) - h.reshape(len(x), -1)
        assert outside(bound.lower, bound.upper, gap) == 0
        assert (witness.gap >= bound.lower).all() and (witness.gap <= bound.upper).all()
        checked += len(x)
    assert checked > 100


@pytest.mark.parametrize("domain", ["grid", "real"])
@pytest.mark.parametrize("name", ["dense_deep-int8", "conv-float_io"])
def test_evaluation_errors_stretch_by_stretch(
    name: str, domain: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qebgate.engines import segment

    t, rng = tiny(name), np.random.default_rng(11)
    tried = 0
    for k in range(4):
        cell, _ = draw(t, domain, rng)
        if cell.line is None:
            continue
        task = t.task(cell, RUNTIMES[k % 3], limit=100.0)
        whole, _ = parts(Segment().run(task, [], Budget(), session))
        with monkeypatch.context() as m:
            m.setattr(segment, "passes", lambda bound, limit: False)
            bound, _ = parts(Segment().run(task, [], Budget(), session))
        assert (bound.lower >= whole.lower).all() and (bound.upper <= whole.upper).all()
        x = cell.line.some(t.codec, 300)
        inputs = (Inputs.of_codes if domain == "grid" else Inputs.of_reals)(task, x.reshape(-1, *cell.lower.shape))
        h = run_float(t.pair.float, inputs.x, dtype=np.float32)[t.pair.float.outputs[0]].reshape(len(x), -1)
        gap = quantized_outputs(task, inputs).astype(np.longdouble) - h
        assert outside(bound.lower, bound.upper, gap) == 0
        tried += len(x)
    assert tried > 20


def test_the_chain_answers_on_both_sides_of_the_truth(session: Session) -> None:
    t = tiny("dense_8_8-int8")
    rng = np.random.default_rng(2)
    asked = 0
    for domain in ("grid", "real") * 4:
        cell, _ = draw(t, domain, rng)
        if cell.line is None:
            continue
        task = t.task(cell, Runtime.BUILTIN, "real")
        truth = float(np.abs(parts(Segment().run(task, [], Budget(), session))[1].gap).max())
        for factor, expected in ((1.01, "pass"), (0.99, "fail")):
            ask = replace(task, prop=replace(task.prop, limit=factor * truth))
            v = judge(ask.prop, "proof", portfolio.run(ask, Budget(), session=session))
            assert (v.verdict, v.engine) == (expected, "segment")
            asked += 1
    assert asked >= 8


def box_truth_differs(t: Tiny) -> Task:
    """A segment whose bounding box holds far larger gaps than itself."""
    rng = np.random.default_rng(0)
    best: tuple[float, Task] | None = None
    for _ in range(40):
        c, shape = t.codec, t.pair.quantized.input.shape
        row = rng.integers(-100, 100, shape)
        d = np.ones(shape)
        d.ravel()[0] = -1.0
        (i,) = expand(
            Region("segment", 0.0, "lsb", "grid", "codes", None, span=(-20.0, 20.0)),
            c,
            shape,
            row[None],
            [0],
            directions=d,
        )
        task = t.task(i.cell, Runtime.REFERENCE, "real")
        assert i.cell.line is not None and i.cell.codes is not None
        line = np.abs(
            outputs(task, tracks(i.cell.line)[0])
            - t.real[np.ravel_multi_index(tuple((tracks(i.cell.line)[0] + 128).T[::-1]), (256, 256))]
        ).max()
        box = np.abs((t.quantized(Runtime.REFERENCE) - t.real)[t.rows(i.cell)]).max()
        if best is None or box / line > best[0]:
            best = (float(box / line), replace(task, prop=replace(task.prop, limit=float(0.5 * (box + line)))))
    assert best is not None and best[0] > 1.2
    return best[1]


def test_no_engine_leaves_the_segment(session: Session) -> None:
    """The box around a segment has gaps beyond the limit; the segment has not."""
    task = box_truth_differs(tiny("dense_8_8-int8"))
    line = task.cell.line
    assert line is not None
    inputs = {tuple(c) for c in tracks(line)[0].tolist()}
    rest = [e.name for e in portfolio.ORDER if e is not Segment]
    for engines in (None, rest, *([name] for name in rest)):
        found = portfolio.run(task, Budget(), engines, session=session)
        for e in found:
            assert not isinstance(e, Witness) or (e.codes is not None and tuple(e.codes.ravel().tolist()) in inputs)
        assert judge(task.prop, "proof", found).verdict == ("pass" if engines is None else "unknown")
    assert Enumerate().run(task, [], Budget(), session) == Milp().run(task, [], Budget(), session) == []
    (w,) = Falsify().run(task, [], Budget(), session)
    assert isinstance(w, Witness) and task.prop.of_gap(w.gap) <= task.prop.limit


@pytest.mark.parametrize("name", ["dense_8_8-int8", "dense_8_8-float_io"])
def test_the_search_stays_on_real_segments(name: str, session: Session) -> None:
    t = tiny(name)
    rng = np.random.default_rng(4)
    tried = 0
    for _ in range(8):
        cell, _ = draw(t, "real", rng)
        if cell.line is None:
            continue
        task = t.task(cell, Runtime.BUILTIN)
        bound, _ = parts(Segment().run(task, [], Budget(), session))
        for w in Falsify().run(task, [], Budget(falsify=300), session):
            assert isinstance(w, Witness)
            assert (w.gap >= bound.lower).all() and (w.gap <= bound.upper).all()
            tried += 1
        assert Falsify().run(task, [bound], Budget(), session) == []
    assert tried >= 4


@pytest.mark.parametrize("domain", ["grid", "real"])
def test_stopped_engines_prove_nothing(domain: str, session: Session) -> None:
    t = tiny("dense_8_8-int8")
    shape = t.pair.quantized.input.shape
    row = np.zeros((1, *shape), np.int64)
    (i,) = expand(Region("segment", 0.0, "lsb", domain, "codes", None, span=(-50.0, 50.0)), t.codec, shape, row, [0])  # type: ignore[arg-type]
    task = t.task(i.cell, Runtime.BUILTIN, "real")
    for budget, reason in (
        (Budget(enumerate=100), "effort"),
        (Budget(seconds=0.0), "guard_time"),
        (Budget(memory=1), "guard_memory"),
    ):
        found = Segment().run(task, [], budget, session)
        assert not any(isinstance(e, Bound) for e in found)
        (stopped,) = [e for e in found if isinstance(e, Stopped)]
        assert stopped.reason == reason
        assert judge(replace(task.prop, limit=1e9), "proof", found).verdict == "unknown"


def test_nothing_is_known_of_values_beyond_float64(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A form that is not a number, or infinite, gives no bound that passes."""
    from qebgate.engines import segment_walk

    real = segment_walk._image
    for bad in (np.nan, np.inf):

        def broken(layer, state, bad=bad):
            z, error = real(layer, state)
            z[-1] = bad
            return z, error

        monkeypatch.setattr(segment_walk, "_image", broken)
        t = tiny("dense_8_8-int8")
        shape = t.pair.quantized.input.shape
        for domain in ("grid", "real"):
            (i,) = expand(
                Region("segment", 0.0, "lsb", domain, "codes", None, span=(-5.0, 5.0)),  # type: ignore[arg-type]
                t.codec, shape, np.zeros((1, *shape), np.int64), [0],
            )  # fmt: skip
            found = Segment().run(t.task(i.cell, Runtime.BUILTIN, "real"), [], Budget(), session)
            for b in found:
                assert not isinstance(b, Bound) or not passes(figure(b), 1e30)


def test_engines_without_a_line_do_not_apply(session: Session) -> None:
    t = tiny("linear-int8")
    assert Segment().run(t.task(t.whole, Runtime.BUILTIN), [], Budget(), session) == []


def test_chunks_change_nothing(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    from qebgate.engines import segment, segment_state, segment_walk

    t = tiny("residual_relu-int8")
    rng = np.random.default_rng(9)
    cells = [draw(t, d, rng)[0] for d in ("real", "grid") * 4]
    tasks = [t.task(c, Runtime.BUILTIN, "real") for c in cells if c.line is not None]
    before = [parts(Segment().run(x, [], Budget(), session))[0] for x in tasks]
    monkeypatch.setattr(segment_walk, "CHUNK_BYTES", 2000)
    monkeypatch.setattr(segment, "PART_BYTES", 100)
    monkeypatch.setattr(segment_state, "BLOCK", 2)
    for x, b in zip(tasks, before, strict=True):
        bound, _ = parts(Segment().run(x, [], Budget(), session))
        assert np.allclose(bound.lower, b.lower, rtol=0, atol=1e-10)
        assert np.allclose(bound.upper, b.upper, rtol=0, atol=1e-10)
        if x.cell.line is not None and not x.cell.line.grid:
            assert outside(bound.lower, bound.upper, real_gaps(x, rng), EXACT) == 0


def test_a_policy_with_segments(tmp_path: Path, models: Path) -> None:
    """From the policy to the report, through the gate."""
    from qebgate.gate import check
    from qebgate.policy import parse_policy

    x = np.random.default_rng(0).uniform(-1, 1, (3, *tiny("dense_4-int8").pair.quantized.input.shape[1:]))
    d = np.random.default_rng(1).normal(size=x.shape[1:])
    np.savez(tmp_path / "x.npz", x=x.astype(np.float32), d=d)
    region = {"kind": "segment", "data": "x.npz", "array": "x", "range": [-3.0, 3.0], "unit": "lsb", "limit": 2}
    regions = {
        "ones": {**region, "direction": "ones", "domain": "grid"},
        "along": {**region, "direction": "d", "domain": "real"},
    }
    model = {
        "float": str(models / "dense_4.float.tflite"),
        "quantized": str(models / "dense_4.int8.tflite"),
        "input_quantization": "nearest",
    }
    prop = {"kind": "max_abs", "limit": 10.0}
    checks = [{"id": r, "model": "m", "region": r, "property": prop} for r in regions]
    report = check(
        parse_policy({"version": 1, "models": {"m": model}, "regions": regions, "checks": checks}, "t", tmp_path)
    )
    assert report.errors == ()
    for c in report.checks:
        assert c.verdict == "pass" and c.evidence == "exhaustive" and len(c.tasks) == 2
        assert {x.engine for x in c.tasks} == {"segment"}
    assert any("exact division" in a for a in report.checks[1].assumptions)
