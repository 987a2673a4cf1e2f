"""Wrong edits, made on purpose: every one must be caught by the checks that the soundness tests use.

A mutant is a monkeypatch of one function.  ``hunt`` runs the same containment checks as the other tests on
pairs where such a mistake can show, and stops at the first violation (or internal contradiction).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from qebgate.domains import gap as gap_module
from qebgate.domains import layers, lines
from qebgate.domains.gap import Interval
from qebgate.engines.dra import analysis as analysis_module
from qebgate.engines.dra import backward, dual, forward
from qebgate.engines.dra import program as program_module
from qebgate.engines.dra.analysis import Settings
from qebgate.errors import InternalError
from qebgate.ops import averages, curves, fully_connected, linear, max_pool_2d, movement, products, squashing, sums
from qebgate.ops import base as ops_base
from qebgate.regions.cell import InputCodec
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from tests.engines.exact import evaluate, violations
from tests.engines.test_exact import analysis as exact_analysis
from tests.engines.test_exact import inputs as exact_inputs
from tests.engines.test_lp import excluded as multipliers_exclude
from tests.laws.contain import Seen, check, samples
from tests.laws.pairs import grid_cell, one_operator, random_pair, real_cell, task_of

RUNTIMES = DEPLOYED
Patch = pytest.MonkeyPatch


def _contains(twins, seed: int, runtime: Runtime, how: str, floats: str) -> str | None:
    rng = np.random.default_rng(seed)
    mode = "truncate" if how == "truncate" else "nearest"
    codec = InputCodec.of(twins.pair.quantized, mode)
    cell = real_cell(twins.pair, codec, rng) if how in ("real", "truncate") else grid_cell(twins.pair, codec, rng)
    if how == "point":
        assert cell.codes is not None
        cell = replace(cell, upper=cell.lower, codes=(cell.codes[0], cell.codes[0]))
    task = task_of(twins.pair, cell, codec, runtime, floats)  # type: ignore[arg-type]
    seen = Seen()
    try:
        check(task, samples(task, rng, 60), Settings(), seen)
    except InternalError as e:
        return str(e)
    return seen.violations[0] if seen.violations else None


def hunt(where: str, how: str = "grid", floats: str = "real", tries: int = 40) -> str | None:
    """The first violation on random pairs of an operator, on small ``networks``, or on ``exact`` dense pairs."""
    for seed in range(tries):
        if where == "lp":
            found = multipliers_exclude(seed)
            if found:
                return found
            continue
        if where == "exact":
            try:
                a, task, rng = exact_analysis(seed, big_bias=how == "bias", point=how in ("point", "bias"))
                bad = [
                    v
                    for c in exact_inputs(task, rng, 2)
                    for v in violations(a, task.pair, evaluate(task.pair, c, task))
                ]
            except InternalError as e:
                return str(e)
            if bad:
                return bad[0]
            continue
        twins = random_pair(seed) if where == "networks" else one_operator(where, seed)
        for runtime in RUNTIMES:
            found = _contains(twins, seed, runtime, how, floats)
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
    floats: str = "real"


def _no_rounding(m: Patch) -> None:
    def none(node, graph, runtime):
        n = graph.tensors[node.outputs[0]].size
        return np.zeros(n), np.zeros(n)

    for module in (linear, sums, averages, movement, squashing, curves, products):
        m.setattr(module, "rounding_of", none)


def _mirror_keeps_the_envelope(m: Patch) -> None:
    real = lines.Neurons.mirrored
    m.setattr(lines.Neurons, "mirrored", lambda n: replace(real(n), below=n.below, above=n.above))


def _no_clamp_in_the_line(m: Patch) -> None:
    m.setattr(lines, "clamp_line", lambda x, a, b: lines.Line(np.ones_like(x.lo), np.zeros_like(x.lo)))


def _zero_point_sign(m: Patch) -> None:
    m.setattr(layers.CodeGrid, "real", lambda g, c: Interval((c[0] + g.zero) * g.unit, (c[1] + g.zero) * g.unit))


def _chord_below(m: Patch) -> None:
    real = lines._relu_chord

    def below(x):
        s, _ = real(x)
        return s, np.zeros_like(s)

    m.setattr(lines, "_relu_chord", below)


def _no_noise(m: Patch) -> None:
    m.setattr(ops_base.Context, "noise", lambda self, step: None)


def _half_the_noise(m: Patch) -> None:
    real = ops_base.Context.noise

    def half(self, step):
        f = real(self, step)
        return None if f is None else lambda x: f(x) * 0.02

    m.setattr(ops_base.Context, "noise", half)


def _inward(m: Patch) -> None:
    for module in (forward, lines, gap_module, backward):
        for name, other in (("up", "down"), ("down", "up")):
            if hasattr(module, name):
                from qebgate.numerics import rounding

                m.setattr(module, name, getattr(rounding, other))


def _wrong_tail(m: Patch) -> None:
    real = linear._requantizer
    m.setattr(linear, "_requantizer", lambda *a, tail, **k: real(*a, tail=None if tail is None else ~tail, **k))


def _max_pool_swapped(m: Patch) -> None:
    real = forward.max_pool

    def swapped(layer, x):
        out, resolved = real(layer, x)
        idx, pad = np.maximum(layer.index, 0), layer.index < 0
        lo = np.where(pad, np.inf, x.delta.lo[idx]).max(1, where=~pad, initial=-np.inf)
        return replace(out, delta=Interval(np.minimum(lo, out.delta.hi), out.delta.hi)), resolved

    m.setattr(analysis_module, "max_pool", swapped)


def _narrow_input_rounding(m: Patch) -> None:
    m.setattr(program_module, "_application_rounding", lambda codec, box: (np.full(box.lo.size, 0.4),) * 2)


def _truncation_as_rounding(m: Patch) -> None:
    m.setattr(program_module, "_application_rounding", lambda codec, box: (np.full(box.lo.size, 0.51),) * 2)


def _softmax_sign(m: Patch) -> None:
    real = squashing._softmax_gap
    m.setattr(squashing, "_softmax_gap", lambda p, d, beta, width: real(p, Interval(-d.hi, -d.lo), beta, width))


def _padding_counted(m: Patch) -> None:
    real = averages._average

    def counted(index, n):
        s = real(index, n)
        s.matrix.data[:] = 1.0 / index.shape[1]
        return s

    m.setattr(averages, "_average", counted)


def _gap_bias_sign(m: Patch) -> None:
    m.setattr(layers.Affine, "bd", property(lambda self: self.bf - self.bq))


def _gap_weights_dropped(m: Patch) -> None:
    m.setattr(layers.Affine, "d", property(lambda self: tuple(f.minus(f) for f in self.f)))


def _bias_roundoff(m: Patch) -> None:
    m.setattr(layers.Affine, "bd_size", property(lambda self: np.abs(self.bd)))


def _roundoff_dropped(m: Patch) -> None:
    for module in (forward, backward):
        m.setattr(module, "gamma", lambda n: 0.0)


def _steps_without_rounding(m: Patch) -> None:
    real = lines.staircase_line
    m.setattr(lines, "staircase_line", lambda x, k, unit, above: real(x, k, unit, 0.0 * above))


def _steps_end_early(m: Patch) -> None:
    real = lines.staircase_line
    m.setattr(
        lines,
        "staircase_line",
        lambda x, k, unit, above: real(x, Interval(k.lo, np.maximum(k.lo, k.hi - 1)), unit, above),
    )


def _kernel_of_another_runtime(m: Patch) -> None:
    real = linear._requantizer
    other = {Runtime.REFERENCE: Runtime.XNNPACK, Runtime.BUILTIN: Runtime.REFERENCE, Runtime.XNNPACK: Runtime.BUILTIN}
    m.setattr(
        linear,
        "_requantizer",
        lambda q, node, ctx, *a, **k: real(q, node, replace(ctx, runtime=other[ctx.runtime]), *a, **k),
    )


def _bias_of_other_channels(m: Patch) -> None:
    m.setattr(linear, "spread", lambda v, size: np.repeat(v, size // v.size))


def _limits_of_the_delegate(m: Patch) -> None:
    m.setattr(ops_base, "owner", lambda node, graph, runtime: runtime)


def _half_the_slope(m: Patch) -> None:
    real = curves.Shape.steep
    m.setattr(curves.Shape, "steep", lambda self, x: Interval(0.4 * real(self, x).lo, 0.4 * real(self, x).hi))


def _branch_forgotten(m: Patch) -> None:
    m.setattr(backward.Form, "add", lambda self, other, *rest: other)


def _root_swapped(m: Patch) -> None:
    m.setattr(backward, "Run", type("Swapped", (backward.Run,), {"__init__": _swapped_init}))


def _swapped_init(self, root, rows) -> None:
    super(type(self), self).__init__(root, rows)
    mid = root.centre
    self.root = Interval(np.maximum(root.lo, np.minimum(mid, root.hi)), np.maximum(root.lo, np.minimum(mid, root.hi)))


def _relu_of_the_wrong_side(m: Patch) -> None:
    """The quantized clamp taken for the float one."""
    real = linear.lower_linear

    def wrong(step, ctx, make, activation, **k):
        layer = real(step, ctx, make, activation, **k)
        return layer if layer.grid is None else replace(layer, float_range=layer.grid.range)

    m.setattr(fully_connected, "lower_linear", wrong)


def _delta_one_stream(m: Patch) -> None:
    """The gap bounded by D without the float side's change: delta = D although one side is clamped."""
    real = lines._gap_candidates

    def only(n, *a):
        found, ends = real(n, *a)
        return found, [n.rounded_gap.hi, *ends]

    m.setattr(lines, "_gap_candidates", only)


def _max_pool_takes_the_first(m: Patch) -> None:
    real = max_pool_2d.taps
    m.setattr(max_pool_2d, "taps", lambda *a: real(*a)[:, :1])


def _other_points(m: Patch, change: Callable) -> None:
    real = dual.Corners.of

    def of(cls, n):
        c = real(n)
        return replace(c, points=change(n, c.points))

    m.setattr(dual.Corners, "of", classmethod(of))


def _first_corner(m: Patch) -> None:
    first = lambda n, p: replace(p, **{k: getattr(p, k)[:1] for k in ("z", "q", "h", "above", "below")})  # noqa: E731
    _other_points(m, first)


def _multipliers_of_one_side(m: Patch) -> None:
    real = dual.Certified.relax

    def relax(self, layer, form):
        pre = real(self, layer, form)
        return replace(pre, q=None) if layer.output in self.at else pre

    m.setattr(dual.Certified, "relax", relax)


def _corners_without_rounding(m: Patch) -> None:
    _other_points(m, lambda n, p: replace(p, above=p.below))


def _corners_of_the_clamp(m: Patch) -> None:
    """The quantized activation taken for its clamp."""
    _other_points(m, lambda n, p: replace(p, above=np.clip(p.q, n.aq, n.bq), below=np.clip(p.q, n.aq, n.bq)))


MUTANTS = (
    Mutant("the rounding is dropped", _no_rounding, "ADD"),
    Mutant("mirroring keeps the envelope's sides", _mirror_keeps_the_envelope, "FULLY_CONNECTED", "truncate"),
    Mutant("a clamp is missing from its line", _no_clamp_in_the_line, "networks"),
    Mutant("the zero point has the wrong sign", _zero_point_sign, "FULLY_CONNECTED"),
    Mutant("the chord of relu is on the wrong side", _chord_below, "exact"),
    Mutant("the float32 noise is dropped", _no_noise, "FULLY_CONNECTED", "point", "float32"),
    Mutant("the float32 noise is too small", _half_the_noise, "FULLY_CONNECTED", "point", "float32"),
    Mutant("everything is rounded inwards", _inward, "exact", "point"),
    Mutant("depthwise rounds the wrong channels as ruy", _wrong_tail, "DEPTHWISE_CONV_2D", "point"),
    Mutant("a max pool's lower and upper gap are swapped", _max_pool_swapped, "networks"),
    Mutant("an application rounds by at most 0.4", _narrow_input_rounding, "FULLY_CONNECTED", "real"),
    Mutant("truncation is taken for rounding", _truncation_as_rounding, "FULLY_CONNECTED", "truncate"),
    Mutant("the softmax gap has the wrong sign", _softmax_sign, "networks"),
    Mutant("an average counts padding", _padding_counted, "AVERAGE_POOL_2D"),
    Mutant("the biases' difference has the wrong sign", _gap_bias_sign, "exact"),
    Mutant("the weights' difference is dropped", _gap_weights_dropped, "exact"),
    Mutant("the biases' own roundoff is dropped", _bias_roundoff, "exact", "bias"),
    Mutant("roundoff is dropped", _roundoff_dropped, "exact", "point"),
    Mutant("steps without their rounding", _steps_without_rounding, "exact"),
    Mutant("the staircase ends one step early", _steps_end_early, "exact"),
    Mutant("the exact kernel is another runtime's", _kernel_of_another_runtime, "CONV_2D", "point"),
    Mutant("channels are repeated, not tiled", _bias_of_other_channels, "CONV_2D"),
    Mutant("limits of the delegate for nodes it leaves", _limits_of_the_delegate, "limits"),
    Mutant("half the slope of a sigmoid", _half_the_slope, "networks"),
    Mutant("one branch of a residual is forgotten", _branch_forgotten, "networks"),
    Mutant("only the region's centre counts", _root_swapped, "exact"),
    Mutant("the quantized clamp taken for the float one", _relu_of_the_wrong_side, "exact"),
    Mutant("the gap of a clamped neuron is D", _delta_one_stream, "exact"),
    Mutant("a max pool sees one input", _max_pool_takes_the_first, "MAX_POOL_2D"),
    Mutant("a neuron's supremum is at its first corner", _first_corner, "lp"),
    Mutant("the quantized side's multipliers are not passed on", _multipliers_of_one_side, "lp"),
    Mutant("corners without rounding", _corners_without_rounding, "lp"),
    Mutant("corners of the clamp instead of the steps", _corners_of_the_clamp, "lp"),
)


def left_to_builtin() -> str | None:
    """A pool with RELU6 that XNNPACK leaves to builtin, at a scale where the two round the limit differently."""
    from tests.laws.pairs import float_twin, load
    from tests.support.tflite_builder import Builder

    for op in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "ADD"):
        b = Builder()
        scale = float(np.float32(12 / 41))
        # for an ADD, ratios of scales that the delegate's multipliers do not hold
        x = b.tensor((1, 2, 2, 1), "int8", scale=scale * (127.0 if op == "ADD" else 1.0), zero_point=-128)
        shape = (1, 2, 2, 1) if op == "ADD" else (1, 1, 1, 1)
        y = b.tensor(shape, "int8", scale=scale, zero_point=-128)
        if op == "ADD":
            c = b.tensor((1, 2, 2, 1), "int8", data=np.zeros(4), scale=scale * 2.0**-11)
            b.op(op, [x, c], [y], version=2, fused_activation=3)
        else:
            far = 3 if op == "MAX_POOL_2D" else 2  # windows with gaps between them
            b.op(
                op, [x], [y], version=2, padding=1, stride_h=far, stride_w=far, filter_height=2, filter_width=2,
                fused_activation=3,
            )  # fmt: skip
        model = b.build([x], [y])
        twins = load(float_twin(model, np.random.default_rng(0)), model)
        for runtime in RUNTIMES:
            for seed in range(6):
                found = _contains(twins, seed, runtime, "grid", "real")
                if found:
                    return f"{op}: {found}"
    return None


def test_limits_of_nodes_that_the_delegate_leaves() -> None:
    assert left_to_builtin() is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_the_checks_catch_it(mutant: Mutant, monkeypatch: Patch) -> None:
    mutant.apply(monkeypatch)
    found = left_to_builtin() if mutant.where == "limits" else hunt(mutant.where, mutant.how, mutant.floats)
    assert found is not None


@pytest.mark.parametrize(
    "where,how,floats", sorted({(m.where, m.how, m.floats) for m in MUTANTS if m.where != "limits"})
)
def test_they_find_nothing_in_what_was_not_changed(where: str, how: str, floats: str) -> None:
    assert hunt(where, how, floats, tries=4) is None
