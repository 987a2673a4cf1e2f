"""Wrong edits of forms, bisection and sweeps, made on purpose: every one must be caught by the checks the tests use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from qebgate.domains.gap import Interval
from qebgate.engines import enumerate as enumeration
from qebgate.engines import memo, sweep
from qebgate.engines.concrete import Inputs, gaps
from qebgate.engines.enumerate import all_codes
from qebgate.engines.forms import bisect, collapse, form, neurons, steps, windows
from qebgate.engines.forms import engine as forms_engine
from qebgate.engines.forms.network import whole_region
from qebgate.engines.guard import Guard
from qebgate.errors import InternalError
from qebgate.runtimes.profiles import DEPLOYED
from qebgate.task import Budget
from tests.engines.test_reached import few_free
from tests.laws.contain import Seen
from tests.laws.forms import check, network
from tests.laws.pairs import codec_of, grid_cell, one_operator, random_pair, real_cell, task_of

Patch = pytest.MonkeyPatch


def _forms(where: str, seed: int, how: str) -> str | None:
    twins = random_pair(seed) if where == "networks" else one_operator(where, seed)
    rng, seen = np.random.default_rng(seed), Seen()
    codec = codec_of(twins.pair)
    make = real_cell if how == "real" else grid_cell
    cell = make(twins.pair, codec, rng)
    while not (cell.upper > cell.lower).any():
        cell = make(twins.pair, codec, rng)
    task = task_of(twins.pair, cell, codec, DEPLOYED[seed % 3], "real")
    symbols = (0, 8)[seed % 2]
    check(task, network(task, symbols), symbols, rng, seen)
    return seen.violations[0] if seen.violations else None


def _executed(seed: int, how: str) -> str | None:
    """Small grids: bisection or sweep against every input."""
    rng = np.random.default_rng(seed)
    pair = random_pair(seed).pair.at("logits")
    cell = few_free(pair, rng, 2)
    assert cell.count is not None
    if cell.count > 4000 or cell.is_point:
        return None
    task = task_of(pair, cell, codec_of(pair), DEPLOYED[seed % 3], "real")
    truth = np.concatenate([gaps(task, Inputs.of_codes(task, c)) for c in all_codes(cell, 4096)])
    if how == "sweep":
        small = enumeration.reached(task)
        ready = None if small is None else sweep.prepared(task, small)
        if ready is None:
            return None
        lo, hi, _, _ = ready.extremes(lambda _: None)
    else:
        net, index = network(task), np.asarray(task.outputs)
        budget = Budget(cells=40)
        limit = 0.9 * float(np.abs(truth).max())
        points = forms_engine._points(task, net, budget, Guard(budget))
        reals = lambda codes: task.codec.grid(codes).astype(np.float64)  # noqa: E731
        cut = lambda i, lo, hi: (lo + hi) / 2  # noqa: E731
        search = bisect.Bisection(net, points, index, whole_region(task, net.free), limit, np.inf, reals, cut)
        search.run(40, lambda _: None)
        lo, hi = search.bound.lo, search.bound.hi
    size = 1e-12 * (1.0 + np.abs(truth).max())
    bad = (truth < lo - size) | (truth > hi + size)
    return f"{int(bad.sum())} of {bad.size}" if bad.any() else None


def hunt(where: str, how: str, tries: int = 30) -> str | None:
    """The first violation (or contradiction) found."""
    for seed in range(tries):
        try:
            found = _executed(seed, how) if where == "executed" else _forms(where, seed, how)
        except (InternalError, AssertionError) as e:
            return f"{type(e).__name__}: {e}"
        if found:
            return found
    return None


@dataclass(frozen=True)
class Mutant:
    """A wrong edit, and where to look."""

    name: str
    apply: Callable[[Patch], None]
    where: str
    how: str = "grid"


def _remainder_dropped(m: Patch) -> None:
    real = form.image

    def dropped(*a):
        out = real(*a)
        return replace(out, form=replace(out.form, r=0.0 * out.form.r))

    m.setattr(steps, "image", dropped)


def _remainder_of_the_layer_dropped(m: Patch) -> None:
    real = form.Form.scaled

    def scaled(self, slope, offset, spread):
        out = real(self, slope, offset, spread)
        return replace(out, r=np.abs(slope) * self.r)

    m.setattr(form.Form, "scaled", scaled)


def _columns_forgotten(m: Patch) -> None:
    real = form.Form.interval
    m.setattr(form.Form, "interval", lambda self, spread=None: real(self, 0.5 * self.spread))


def _chord_on_the_wrong_side(m: Patch) -> None:
    real = neurons.float_chords

    def wrong(z, a, b):
        chord, one = real(z, a, b)
        o = chord.offset
        return replace(chord, offset=Interval(-o.hi, -o.lo)), one

    m.setattr(neurons, "float_chords", wrong)


def _corner_forgotten(m: Patch) -> None:
    """The clamp's corners are left out: only the ends of the interval count."""
    real = neurons._extremes
    m.setattr(neurons, "_extremes", lambda tops, bottoms, slope: real(tops[:2], bottoms[:2], slope))


def _rounding_dropped(m: Patch) -> None:
    real = neurons.code_chords
    m.setattr(
        neurons, "code_chords", lambda q, out, n: real(q, out, replace(n, below=0.0 * n.below, above=0.0 * n.above))
    )


def _snapped_to_one_side(m: Patch) -> None:
    real = steps.codes_of

    def low(*a):
        lo, _ = real(*a)
        return lo, lo

    m.setattr(steps, "codes_of", low)


def _snapped_inwards(m: Patch) -> None:
    real = steps.codes_of

    def inner(*a):
        lo, hi = real(*a)
        return np.minimum(lo + 1, hi), hi

    m.setattr(steps, "codes_of", inner)


def _weights_difference_dropped(m: Patch) -> None:
    real = steps.image
    m.setattr(steps, "image", lambda terms, bias, n: real(terms[:1] if len(terms) > 1 else terms, bias, n))


def _what_does_not_move_forgotten(m: Patch) -> None:
    real = steps.affine_intervals

    def none(layer, inputs):
        pre = real(layer, inputs)
        zero = 0.0 * pre.z.lo
        return replace(pre, z=Interval(zero, zero), q=Interval(zero, zero), d=Interval(zero, zero))

    m.setattr(steps, "affine_intervals", none)


def _errors_taken_out_and_lost(m: Patch) -> None:
    """Errors leave the remainder, but get no symbol."""
    real = neurons._move
    m.setattr(neurons, "_move", lambda h, n, first, forms: real(h, n, first, [(f, 0.0) for f, _ in forms]))


def _pool_cannot_be_overtaken(m: Patch) -> None:
    m.setattr(windows, "_rise", lambda x, chosen, bounds, at, idx, pad: np.zeros(at.shape))


def _cell_lost(m: Patch) -> None:
    real = bisect.Bisection._halves

    def first(self, c):
        halves = real(self, c)
        return None if halves is None else halves[:1]

    m.setattr(bisect.Bisection, "_halves", first)


def _halves_leave_a_gap(m: Patch) -> None:
    real = bisect.Bisection._halves

    def apart(self, c):
        halves = real(self, c)
        if halves is not None and (halves[1].lo < halves[1].hi)[c.widest]:
            halves[1].lo[c.widest] += 1
        return halves

    m.setattr(bisect.Bisection, "_halves", apart)
    m.setattr(bisect, "LEAF", 1)


def _closed_cells_forgotten(m: Patch) -> None:
    def bound(self):
        parts = [*self._closed[-1:], *(c.gap for _, _, c in self._open)]
        return Interval(np.min([p.lo for p in parts], axis=0), np.max([p.hi for p in parts], axis=0))

    m.setattr(bisect.Bisection, "bound", property(bound))


def _point_forgotten(m: Patch) -> None:
    real = sweep.box_codes
    m.setattr(sweep, "box_codes", lambda lo, hi, rows: (c[:-1] if len(c) > 1 else c for c in real(lo, hi, rows)))


def _group_forgets_a_point(m: Patch) -> None:
    """Every input is taken for one of the first group."""
    m.setattr(memo, "_WORTH", np.inf)
    m.setattr(sweep, "_MANY", 1)
    m.setattr(memo.Memo, "rows", lambda self, number: np.zeros(number.size, np.intp))


def _switching_neuron_composed_away(m: Patch) -> None:
    real = collapse.Collapsed._assembled
    nothing = np.empty(0, np.intp)
    m.setattr(
        collapse.Collapsed,
        "_assembled",
        lambda self, z, h, still, switching, new: real(self, z, h, still, nothing, nothing),
    )


def _clamp_of_a_variable_forgotten(m: Patch) -> None:
    real = collapse._Unit
    m.setattr(collapse, "_Unit", lambda w, c, first, a, b: real(w, c, first, -np.inf, np.inf))


MUTANTS = (
    Mutant("the remainder of the sums is dropped", _remainder_dropped, "networks"),
    Mutant("the remainder of the neurons is dropped", _remainder_of_the_layer_dropped, "networks"),
    Mutant("half of the columns", _columns_forgotten, "networks"),
    Mutant("the chord is on the wrong side", _chord_on_the_wrong_side, "networks"),
    Mutant("a corner is forgotten", _corner_forgotten, "networks"),
    Mutant("the rounding is dropped", _rounding_dropped, "networks"),
    Mutant("snapped to the lower code", _snapped_to_one_side, "networks"),
    Mutant("snapped one code too far", _snapped_inwards, "networks"),
    Mutant("the weights' difference is dropped", _weights_difference_dropped, "networks"),
    Mutant("what does not move is forgotten", _what_does_not_move_forgotten, "FULLY_CONNECTED"),
    Mutant("errors leave the remainder for nothing", _errors_taken_out_and_lost, "networks"),
    Mutant("the likely winner of a pool always wins", _pool_cannot_be_overtaken, "MAX_POOL_2D"),
    Mutant("one half of a cell is lost", _cell_lost, "executed", "bisection"),
    Mutant("the halves leave a gap", _halves_leave_a_gap, "executed", "bisection"),
    Mutant("closed cells are forgotten", _closed_cells_forgotten, "executed", "bisection"),
    Mutant("a point of every batch is forgotten", _point_forgotten, "executed", "sweep"),
    Mutant("a group forgets its points", _group_forgets_a_point, "executed", "sweep"),
    Mutant("a switching neuron is composed away", _switching_neuron_composed_away, "executed", "sweep"),
    Mutant("a variable is not clamped", _clamp_of_a_variable_forgotten, "executed", "sweep"),
)


@pytest.fixture(autouse=True)
def _always_swept(monkeypatch: Patch) -> None:
    monkeypatch.setattr(sweep, "_WORTH", np.inf)
    monkeypatch.setattr(bisect, "LEAF", 20)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_the_checks_catch_it(mutant: Mutant, monkeypatch: Patch) -> None:
    mutant.apply(monkeypatch)
    assert hunt(mutant.where, mutant.how) is not None


@pytest.mark.parametrize("where,how", sorted({(m.where, m.how) for m in MUTANTS}))
def test_they_find_nothing_in_what_was_not_changed(where: str, how: str) -> None:
    assert hunt(where, how, tries=2 if where.isupper() else 6) is None
