"""Wrong edits of the walk, made on purpose: every one must be caught; wrong breakpoints must not matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from qebgate.engines import segment_state, segment_walk
from qebgate.engines.concrete import Inputs, Session, quantized_outputs
from qebgate.engines.dra.program import program
from qebgate.engines.segment import Segment
from qebgate.engines.segment_state import State, Values
from qebgate.engines.segment_walk import Walk
from qebgate.errors import InternalError
from qebgate.evidence import Bound
from qebgate.regions import Region, expand
from qebgate.regions import line as line_module
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.execute import run_float
from qebgate.task import Budget, Task
from tests.engines.test_segment import EXACT, draw
from tests.engines.tiny import Tiny, outside, tiny
from tests.laws.pairs import one_operator

Patch = pytest.MonkeyPatch
PARTS, BETWEEN = line_module.Track.parts, segment_walk.Leaf.between  # as they are without mutants
NAMES = (
    "dense_8_8-int8",
    "dense_relu6-int8",
    "max_pool-int8",
    "residual_relu-int8",
    "dense_large-int8",
    "conv-float_io",
)


def truth(task: Task, rng: np.random.Generator) -> np.ndarray:
    """Gaps at points that are not about to change codes, in 80 bits, by definitions of this test's own."""
    line, c, wide = task.cell.line, task.codec, np.longdouble
    assert line is not None
    if line.grid:
        codes = np.concatenate([p.codes for t in line.tracks for p in PARTS(t, 64)]).reshape(-1, *line.start.shape)
        x = c.grid(codes).astype(wide)
    else:
        a, b = line.range
        t = np.concatenate([[a, b, 0.5 * (a + b)], a + (b - a) * rng.random(300)]).clip(a, b)
        x = line.start.astype(wide) + t.astype(wide).reshape(-1, *[1] * line.start.ndim) * line.direction.astype(wide)
        x = np.clip(x, line.low.astype(wide), line.high.astype(wide))
        y = x / wide(c.scale) + c.zero_point
        least, most = c.dtype.code_range
        settled = (np.abs(y - np.floor(y) - 0.5) > 2.0**-11) | (y < least - 1) | (y > most + 1)
        keep = settled.reshape(len(x), -1).all(axis=1)
        x, codes = x[keep], np.clip(np.floor(y[keep] + wide(0.5)), least, most).astype(np.int32)
    q = quantized_outputs(task, Inputs.of_codes(task, codes)).astype(wide)
    h = run_float(task.pair.float, x, dtype=wide)[task.pair.float.outputs[0]]  # type: ignore[arg-type]
    return q - h.reshape(len(x), -1)[:, list(task.outputs)]


def walked(task: Task, rng: np.random.Generator) -> bool:
    """Whether the float outputs, in 80 bits, are where the walk says, piece by piece."""
    line, wide = task.cell.line, np.longdouble
    assert line is not None
    p = program(task)
    walk = Walk(p.layers, p.output, np.asarray(task.outputs))
    a, b = line.range
    for leaf in walk.along(line, np.unique([a, 0.3 * a + 0.7 * b, b])):
        t = leaf.t[0] + (leaf.t[-1] - leaf.t[0]) * rng.random(300)
        near = 1e-9 * max(1.0, abs(a), abs(b))
        first = np.maximum(np.searchsorted(leaf.t, t - near) - 1, 0)
        last = np.minimum(np.searchsorted(leaf.t, t + near), len(leaf.t) - 1)
        x = line.start.astype(wide) + t.astype(wide).reshape(-1, *[1] * line.start.ndim) * line.direction.astype(wide)
        x = np.clip(x, line.low.astype(wide), line.high.astype(wide))
        h = run_float(task.pair.float, x, dtype=wide)[task.pair.float.outputs[0]].reshape(len(x), -1)  # type: ignore[arg-type]
        for k in range(len(t)):
            lower, upper = BETWEEN(leaf, int(first[k]), int(last[k]))
            if outside(lower, upper, h[k : k + 1], EXACT):
                return False
    return True


def hunt(domain: str, names: tuple[str, ...] = NAMES, tries: int = 8) -> str | None:
    """The first bound that the truth violates (or an internal contradiction)."""
    with Session() as session:
        for name in names:
            t = tiny(name)
            rng = np.random.default_rng(sum(name.encode()))
            for k in range(tries):
                cell, _ = draw(t, domain, rng)
                if cell.line is None:
                    continue
                task = t.task(cell, Runtime.BUILTIN, "real")
                gap = truth(task, rng)
                try:
                    if domain == "real" and not walked(task, rng):
                        return f"{name} {k}: walk"
                    found = Segment().run(task, [], Budget(), session)
                except (InternalError, AssertionError, IndexError) as e:
                    return f"{name} {k}: {e!r}"
                for b in found:
                    if isinstance(b, Bound) and outside(b.lower, b.upper, gap, EXACT):
                        return f"{name} {k}"
    return None


@dataclass(frozen=True)
class Mutant:
    """A wrong edit, and where to look."""

    name: str
    apply: Callable[[Patch], None]
    domain: str = "real"
    names: tuple[str, ...] = NAMES


def _no_roundoff(m: Patch) -> None:
    real = segment_walk._image

    def image(layer, state):
        z, error = real(layer, state)
        return z, np.zeros_like(error)

    m.setattr(segment_walk, "_image", image)


def _nothing_cut(m: Patch) -> None:
    m.setattr(segment_walk, "cuts", lambda state, z, level, columns: (np.empty(0, int), np.empty(0)))


def _no_bends(m: Patch) -> None:
    """Neither cut nor charged."""
    _nothing_cut(m)
    none = np.empty(0, int)
    m.setattr(segment_walk, "crossings", lambda z, level, columns: (none, none, np.empty(0)))


def _no_rivals(m: Patch) -> None:
    real = segment_walk._rivals
    m.setattr(segment_walk, "_rivals", lambda w: tuple(np.zeros_like(x) for x in real(w)))


def _last_piece_missing(m: Patch) -> None:
    real = segment_walk.Leaf.between
    m.setattr(segment_walk.Leaf, "between", lambda leaf, i, j: real(leaf, i, max(i, j - 1)))


def _last_leaf_missing(m: Patch) -> None:
    real = segment_walk.Walk.along
    m.setattr(segment_walk, "CHUNK_BYTES", 2000)

    def along(walk, line, t):
        leaves = list(real(walk, line, t))
        return iter(leaves[:-1] or leaves)

    m.setattr(segment_walk.Walk, "along", along)


def _first_vector_missing(m: Patch) -> None:
    real = line_module.Track.parts

    def parts(track, size):
        for i, p in enumerate(real(track, size)):
            yield (
                p if i or len(p.codes) < 2 else line_module.Part(p.codes[[1, *range(1, len(p.codes))]], p.begin, p.end)
            )

    m.setattr(line_module.Track, "parts", parts)


def _switches_late(m: Patch) -> None:
    real = line_module.middles
    m.setattr(line_module, "middles", lambda codec: real(codec) + 0.2 * codec.scale)


def _always_rising(m: Patch) -> None:
    real = line_module.Track.parts
    m.setattr(line_module.Track, "parts", lambda t, n: real(replace(t, step=np.abs(t.step)), n))


def _wrong_side(m: Patch) -> None:
    """Upper and lower clamps swapped where they are settled: the error of a dead neuron for an active one."""
    real = segment_state.State.extremes
    m.setattr(segment_state.State, "extremes", lambda s, z: tuple(reversed(real(s, z))))


def _parts_mirrored(m: Patch) -> None:
    real = State.refined
    m.setattr(State, "refined", lambda s, piece, part: _swapped(real(s, piece, part), s, piece, part))


def _swapped(new: State, old: State, piece: np.ndarray, part: np.ndarray) -> State:
    """Values at new breakpoints as if from the other end."""
    at = piece + 1 + np.arange(piece.size)
    for k, v in old.values.items():
        rows = part[:, None] * v.at[piece] + (1 - part[:, None]) * v.at[piece + 1]
        new.values[k].at[at] = rows
    return new


def _errors_of_other_blocks(m: Patch) -> None:
    m.setattr(segment_walk, "_at_breakpoints", lambda state, error: np.zeros((len(state.t), error.shape[1])))


def _clip_ignored(m: Patch) -> None:
    real = segment_walk.Walk.along
    free = lambda line: replace(line, low=np.full_like(line.low, -np.inf), high=np.full_like(line.high, np.inf))  # noqa: E731
    m.setattr(segment_walk.Walk, "along", lambda w, line, t: real(w, free(line), t))


def _dead_are_settled_early(m: Patch) -> None:
    """Neurons count as dead although they are not."""
    real = State.extremes

    def extremes(s, z):
        lo, hi = real(s, z)
        return lo - 0.5, hi - 0.5

    m.setattr(State, "extremes", extremes)


MUTANTS = (
    Mutant("roundoff is dropped", _no_roundoff, "grid"),
    Mutant("errors are dropped at the end", _errors_of_other_blocks, "grid"),
    Mutant("bends are neither cut nor charged", _no_bends),
    Mutant("the last piece of a vector is missing", _last_piece_missing),
    Mutant("the last part of the line is missing", _last_leaf_missing),
    Mutant("the first vector is not executed", _first_vector_missing),
    Mutant("the first vector is not executed, on the grid", _first_vector_missing, "grid"),
    Mutant("codes change late", _switches_late),
    Mutant("codes only rise", _always_rising),
    Mutant("extremes are swapped", _wrong_side),
    Mutant("new breakpoints have values from the wrong end", _parts_mirrored),
    Mutant("the clip is forgotten", _clip_ignored),
    Mutant("neurons die early", _dead_are_settled_early),
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_the_checks_catch_it(mutant: Mutant, monkeypatch: Patch) -> None:
    mutant.apply(monkeypatch)
    assert hunt(mutant.domain, mutant.names) is not None


@pytest.mark.parametrize("domain", ["real", "grid"])
def test_they_find_nothing_in_what_was_not_changed(domain: str) -> None:
    assert hunt(domain) is None


@pytest.mark.parametrize("mutate", [None, _no_rivals])
def test_pools(mutate: Callable[[Patch], None] | None, monkeypatch: Patch) -> None:
    """Pools of many entries that move against each other."""
    if mutate is not None:
        mutate(monkeypatch)
    right, switched = True, 0
    for seed in range(6):
        t = Tiny("pool", one_operator("MAX_POOL_2D", seed).pair)
        rng = np.random.default_rng(seed)
        c, shape = t.codec, t.pair.quantized.input.shape
        row, d = rng.integers(-60, 60, shape), rng.normal(size=shape)
        (i,) = expand(
            Region("segment", 0.0, "lsb", "real", "codes", None, span=(-50.0, 50.0)),
            c,
            shape,
            row[None],
            [0],
            directions=d,
        )
        task = t.task(i.cell, Runtime.BUILTIN, "real")
        right &= walked(task, rng)
        p = program(task)
        assert i.cell.line is not None
        walk = Walk(p.layers, p.output, np.asarray(task.outputs))
        switched += sum(len(leaf.t) - 2 for leaf in walk.along(i.cell.line, np.array([-50.0, 50.0])))
    assert right == (mutate is None)
    assert switched > 20


def _wrong_cuts(m: Patch) -> None:
    """Breakpoints in the wrong places."""
    real = segment_walk.cuts

    def cuts(state, z, level, columns):
        piece, part = real(state, z, level, columns)
        return segment_state.merged(piece, np.random.default_rng(0).uniform(0.01, 0.99, part.size))

    m.setattr(segment_walk, "cuts", cuts)


def _few_rounds(m: Patch) -> None:
    m.setattr(segment_walk, "_ROUNDS", 1)


@pytest.mark.parametrize("harm", [_nothing_cut, _wrong_cuts, _few_rounds])
def test_soundness_does_not_rest_on_breakpoints(harm: Callable[[Patch], None], monkeypatch: Patch) -> None:
    harm(monkeypatch)
    assert hunt("real") is None


def test_forms_of_refined_states_stay_where_they_were() -> None:
    rng = np.random.default_rng(0)
    t = np.sort(rng.uniform(-1, 1, 40))
    v = rng.normal(size=(40, 6))
    state = segment_state.started(t, {0: v}, {0: np.zeros_like(v)}, points=False)
    piece = np.sort(rng.integers(0, 39, 500))
    part = rng.random(500)
    order = np.lexsort((part, piece))
    new = state.refined(piece[order], part[order])
    assert len(new.t) == 540 and (np.diff(new.t) >= 0).all() and new.first.size > state.first.size
    exact = np.stack([np.interp(new.t, t, v[:, j]) for j in range(6)], axis=1)
    x: Values = new.values[0]
    assert np.allclose(x.at, exact, atol=1e-12)
    assert (x.error > 0).all() and (x.error < 1e-14).all()
    left, right = new.halves()
    assert left.t[-1] == right.t[0] and len(left.t) + len(right.t) == 541
    for s in (new, left, right):
        lo, hi = s.extremes(s.values[0].at)
        assert (np.maximum(np.abs(lo), np.abs(hi)) <= s.values[0].most).all()
        assert s.owner.size == s.pieces and s.owner.max() == s.first.size - 1
