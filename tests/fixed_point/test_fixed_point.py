"""Networks in fixed point: exact semantics, sound bounds, and the mistakes of the code that they come from."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from qebgate.adapters.fixed_point import FixedPoint, build, quantize
from qebgate.adapters.npz import DenseNetwork
from qebgate.domains.layers import Affine
from qebgate.engines.concrete import Inputs, Session, gaps
from qebgate.engines.dra.engine import Dra
from qebgate.engines.dra.program import program
from qebgate.engines.enumerate import Enumerate
from qebgate.engines.execute import Execute
from qebgate.engines.falsify import Falsify
from qebgate.engines.milp import Milp
from qebgate.errors import UnsupportedError
from qebgate.evidence import Bound, Witness
from qebgate.ir.graph import INPUT_PART, Node
from qebgate.numerics.rounding import U32
from qebgate.ops.registry import ALL_LOWERINGS, LOWERINGS
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.execute import run_float, run_int
from qebgate.semantics.fixed_point import DenseAttrs, finish, rounding
from qebgate.semantics.float_error import Computed, float_error
from qebgate.semantics.registry import ALL_SEMANTICS, IN_FILES, SEMANTICS
from qebgate.task import Budget
from tests.fixed_point.slow import Net, quant, random_net

BITS = (4, 6, 8, 10, 16)


def dense(*layers: tuple[list[list[float]], list[float]]) -> DenseNetwork:
    return DenseNetwork(tuple((np.array(w, np.float32), np.array(b, np.float32)) for w, b in layers), "n.npz", "0")


def scheme(bits: int, signed: bool = False) -> FixedPoint:
    return FixedPoint(bits, 2 if signed else 1, 2, 2, 8, signed, 0)


def corner(rng: np.random.Generator, net: Net, most: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    least, top = net.pair.quantized.input.dtype.code_range
    lo = rng.integers(least, top - most + 1, 2)
    hi = lo + rng.integers(0, most + 1, 2)
    return tuple(lo.tolist()), tuple(hi.tolist())


# -- what is computed ---------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_integer_execution_equals_python_integers(bits: int, signed: bool) -> None:
    rng = np.random.default_rng(bits + signed)
    saturated = 0
    for _ in range(20):
        net = random_net(rng, bits, signed, spread=float(rng.choice([0.5, 3.0, 40.0])))
        graph = net.pair.quantized
        lo, hi = graph.input.dtype.code_range
        x = rng.integers(lo, hi + 1, (30, 1, 2))
        x[:4, 0] = [[lo, lo], [hi, hi], [lo, hi], [hi, lo]]
        y = run_int(graph, x, Runtime.FIXED_POINT)[graph.outputs[0]]
        assert y.dtype == np.float64
        assert [[Fraction(v) for v in row] for row in y[:, 0].tolist()] == [
            net.quantized(tuple(r)) for r in x[:, 0].tolist()
        ]
        w = graph.tensors[2].const
        assert w is not None
        saturated += int((w == -(2 ** (bits - 1))).any())
    assert saturated


def test_rounding_of_weights_is_away_from_zero_and_saturates() -> None:
    v = np.array([0.5, -0.5, 1.5, -1.5, 0.49, -0.49, 7.4, 7.5, 100.0, -8.5, -100.0, 0.0], np.float32)
    assert quantize(v, 4, 0).tolist() == [1, -1, 2, -2, 0, 0, 7, 7, 7, -8, -8, 0]
    rng = np.random.default_rng(0)
    w = np.concatenate([rng.uniform(-40, 40, 500), rng.integers(-64, 64, 500) / 64]).astype(np.float32)
    for bits in BITS:
        for fraction in (0, bits - 2, bits - 1, bits):
            assert quantize(w, bits, fraction).tolist() == [quant(float(a), bits, fraction) for a in w]


def test_activations_round_half_up_and_clamp_and_the_envelope_is_attained() -> None:
    graph = build(dense(([[0.5]], [0.0]), ([[0.5]], [0.0])), scheme(6), None)[1]
    node = graph.nodes[1]
    assert isinstance(node.attrs, DenseAttrs) and node.attrs.shift == 8 + 5 - 4
    e, unit = node.attrs.shift, 2.0**-4
    acc = np.concatenate([np.arange(-3000, 3000), [2**30, -(2**30)]])
    got = finish(node, graph, acc)
    assert got.tolist() == [max(0, min(63, math.floor(Fraction(int(a), 2**e) + Fraction(1, 2)))) for a in acc]
    below, above = rounding(node, graph)
    moved = np.floor(acc / 2.0**e + 0.5) * unit - acc * (unit / 2.0**e)
    assert moved.min() == -below[0] and moved.max() == above[0]


def test_a_layer_without_fraction_to_drop_is_not_rounded() -> None:
    how = FixedPoint(4, 4, 4, 4, 8, False, 8)
    net = Net(dense(([[1.0, 2.0], [3.0, -1.0]], [0.0, 1.0]), ([[1.0, 1.0]], [0.0])), how, None)
    node = net.pair.quantized.nodes[1]
    assert node.attrs == DenseAttrs(0)
    assert not np.stack(rounding(node, net.pair.quantized)).any()
    low, high = net.truth((0, 0), (9, 9))
    bound = dra(net, (0, 0), (9, 9))
    assert bound.lower[0] <= low[0] and high[0] <= bound.upper[0]


def test_both_networks_read_the_same_integers() -> None:
    net = Net(dense(([[1.0]], [0.0])), scheme(8), Fraction(1, 255))
    x = np.arange(256).reshape(-1, 1, 1)
    f = run_float(net.pair.float, x, dtype=np.float64)[net.pair.float.outputs[0]].ravel()
    q = run_int(net.pair.quantized, x, Runtime.FIXED_POINT)[net.pair.quantized.outputs[0]].ravel()
    np.testing.assert_allclose(f, np.arange(256) / 255, rtol=1e-15)
    assert (q == np.arange(256) / 256 * (127 / 128)).all()  # the weight 1 saturates at 127/128
    layer = next(x for x in program(net.task((0,), (255,))).layers if isinstance(x, Affine) and x.f[0] != x.q[0])
    assert [m.factor for m in (*layer.f, *layer.q)] == [1 / 255, 1 / 256] and layer.grid is None  # type: ignore[attr-defined]


def test_weights_may_saturate_by_any_number_of_quanta_only_here() -> None:
    pair = Net(dense(([[-32.0, 0.25]], [0.1])), scheme(8, signed=True), None).pair
    assert pair.agreements[0].worst == (32 - 2) * 2**6
    assert pair.agreements[0].bias is not None
    pair = Net(dense(([[0.3, 0.25]], [0.1])), scheme(8), None).pair
    assert pair.agreements[0].worst <= 0.5


def test_operators_have_a_meaning_and_bounds_and_no_file_can_name_them() -> None:
    new = {"FIXED_POINT_INPUT", "FIXED_POINT_DENSE", INPUT_PART}
    at_the_end = {"ARG_MAX"}  # executed, never bounded
    assert set(ALL_SEMANTICS) == set(SEMANTICS) | at_the_end | new and not new & set(IN_FILES)
    assert set(ALL_LOWERINGS) == set(LOWERINGS) | new and not new & set(LOWERINGS)
    from qebgate.adapters.tflite.opcodes import OPTIONS_TYPE

    assert not new & set(OPTIONS_TYPE)


def test_float32_error_of_the_scaled_input() -> None:
    graph = Net(dense(([[1.0]], [0.0])), scheme(8), Fraction(1, 255)).pair.float
    node: Node = graph.nodes[0]
    x = np.arange(256.0)
    for xi in x.tolist():
        e = float(float_error(node, graph, [Computed.within(np.full((1, 1), xi))]).item())
        exact = Fraction(int(xi), 255)
        ways = (np.float32(xi) / np.float32(255), np.float32(xi) * np.float32(1 / 255))
        assert all(abs(Fraction(float(v)) - exact) <= e for v in ways)
        assert e <= 4 * U32 * max(xi / 255, 1e-30)


# -- what is proven -----------------------------------------------------------------------------


def dra(net: Net, lo: tuple[int, ...], hi: tuple[int, ...], floats: str = "real") -> Bound:
    with Session() as session:
        (bound,) = Dra().run(net.task(lo, hi, floats), [], Budget(), session)  # type: ignore[arg-type]
    assert isinstance(bound, Bound)
    return bound


def contains(bound: Bound, low: list[Fraction], high: list[Fraction]) -> bool:
    return all(
        Fraction(a) <= x and y <= Fraction(b)
        for a, b, x, y in zip(bound.lower.tolist(), bound.upper.tolist(), low, high, strict=True)
    )


@pytest.mark.parametrize("floats", ["real", "float32"])
@pytest.mark.parametrize("bits", BITS)
def test_bounds_contain_the_exact_gaps(bits: int, floats: str) -> None:
    rng = np.random.default_rng(100 + bits)
    for k in range(8):
        net = random_net(rng, bits, signed=bool(k % 2), spread=float(rng.choice([0.8, 1.5, 20.0])))
        lo, hi = corner(rng, net, int(rng.choice([0, 1, 6])))
        low, high = net.truth(lo, hi)
        task = net.task(lo, hi, floats)  # type: ignore[arg-type]
        proven: list[Bound] = []
        witnesses: list[Witness] = []
        with Session() as session:
            for engine in (Execute(), Dra(), Enumerate(), Falsify(), *([Milp()] if k % 4 == 0 else [])):
                for e in engine.run(task, [], Budget(milp=4, falsify=64, seconds=2.0), session):
                    if isinstance(e, Bound):
                        assert contains(e, low, high), (engine.name, bits, k)
                        proven.append(e)
                    elif isinstance(e, Witness):
                        assert e.replayed
                        witnesses.append(e)
                        if floats == "real":  # what is certain: no farther from 0 than the truth
                            assert all(
                                min(x, 0) <= Fraction(g) <= max(y, 0)
                                for x, y, g in zip(low, high, e.gap.tolist(), strict=True)
                            )
        assert len(proven) >= 2 and witnesses
        for b, w in itertools.product(proven, witnesses):
            assert ((b.lower <= w.gap + w.slack) & (w.gap - w.slack <= b.upper)).all(), (b.engine, w.engine, bits, k)


def test_enumeration_is_the_truth() -> None:
    rng = np.random.default_rng(7)
    net = random_net(rng, 8)
    lo, hi = (10, 20), (16, 26)
    low, high = net.truth(lo, hi)
    with Session() as session:
        bound = Enumerate().run(net.task(lo, hi), [], Budget(), session)[0]
    assert isinstance(bound, Bound) and bound.trust == "exhaustive"
    np.testing.assert_allclose(bound.lower, [float(v) for v in low], atol=1e-12)
    np.testing.assert_allclose(bound.upper, [float(v) for v in high], atol=1e-12)


def test_one_file_read_with_two_input_scales_shares_nothing() -> None:
    net = Net(dense(([[1.0]], [0.0])), scheme(8), Fraction(1, 255))
    other = replace(net, scale=Fraction(1, 100))
    with Session() as session:
        for n in (net, other):
            bound = Execute().run(n.task((200,), (200,)), [], Budget(), session)[0]
            assert isinstance(bound, Bound)
            assert contains(bound, *n.truth((200,), (200,)))


def test_gaps_of_the_executors_are_the_exact_ones() -> None:
    rng = np.random.default_rng(3)
    net = random_net(rng, 10)
    task = net.task((0, 0), (255, 255))
    x = rng.integers(0, 256, (40, 1, 2)).astype(np.int32)
    got = gaps(task, Inputs.of_codes(task, x))
    want = [
        [float(q - h) for q, h in zip(net.quantized(r), net.float(r), strict=True)]
        for r in map(tuple, x[:, 0].tolist())
    ]
    np.testing.assert_allclose(got, want, atol=1e-12)


# -- mistakes of the published code ----------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
def test_at_radius_0_the_interval_holds_the_true_gap(bits: int) -> None:
    """There, output bounds rounded to nearest came out inverted."""
    rng = np.random.default_rng(bits)
    for _ in range(20):
        net = random_net(rng, bits)
        x = tuple(rng.integers(0, 256, 2).tolist())
        bound = dra(net, x, x)
        assert (bound.lower <= bound.upper).all()
        assert contains(bound, *net.truth(x, x))


def test_the_float_side_is_not_clipped_where_the_quantized_one_saturates() -> None:
    """Hidden float values of 200 against quantized ones of at most 4; inputs at the end of their range."""
    net = Net(dense(([[100.0, 100.0]], [0.0]), ([[0.5]], [0.0])), scheme(6), Fraction(1, 255))
    low, high = net.truth((250, 250), (255, 255))
    assert low[0] < -90
    bound = dra(net, (250, 250), (255, 255))
    assert contains(bound, low, high)
    net = Net(dense(([[1.0, -1.0]], [0.0]), ([[0.5]], [0.0])), scheme(6, signed=True), Fraction(1, 100))
    lo, hi = (-128, 120), (-120, 127)
    assert contains(dra(net, lo, hi), *net.truth(lo, hi))


def test_nothing_is_computed_in_float32() -> None:
    """A gap of 2**-30 between outputs near 1 is seen, and bounded as tightly as float64 allows."""
    net = Net(dense(([[0.5]], [2.0**-30])), scheme(8), None)
    low, high = net.truth((255,), (255,))
    assert low == high == [Fraction(-1, 2**30)]
    bound = dra(net, (255,), (255,))
    assert contains(bound, low, high)
    assert bound.upper[0] - bound.lower[0] < 1e-13


def test_at_16_bits_the_slack_is_smaller_than_a_quantum() -> None:
    """A rounding epsilon of 1e-4 would be 1.6 quanta of 2**-14: here a fixed input leaves no more than roundoff."""
    net = Net(dense(([[0.3, 0.4]], [0.1]), ([[0.7]], [0.0])), scheme(16), None)
    x = (111, 222)
    bound = dra(net, x, x)
    assert contains(bound, *net.truth(x, x))
    assert bound.upper[0] - bound.lower[0] < 1e-12 < 2.0**-14


def test_a_limit_at_the_truth_is_not_a_violation() -> None:
    """Only a replayed input refutes, whatever a solver says when it stops."""
    from qebgate.engines import portfolio
    from qebgate.verdict import judge

    net = random_net(np.random.default_rng(11), 8)
    lo, hi = (3, 4), (9, 9)
    low, high = net.truth(lo, hi)
    worst = max(abs(v) for v in (*low, *high))
    for milp in (0, 16):
        for shift, want in ((1e-9, "pass"), (-1e-9, "fail")):
            task = net.task(lo, hi, limit=float(worst) + shift)
            found = portfolio.run(task, Budget(milp=milp))
            assert judge(task.prop, "proof", found).verdict == want


# -- what does not fit ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        FixedPoint(8, 8, 0, 2, 8, False, 8),  # 8 fractional bits of the bias, 0 of the accumulator
        FixedPoint(8, 8, 8, 0, 8, False, 8),  # 8 of the activation
    ],
)
def test_bits_that_do_not_fit_are_refused(how: FixedPoint) -> None:
    with pytest.raises(UnsupportedError) as e:
        build(dense(([[0.5]], [0.0]), ([[0.5]], [0.0])), how, None)
    assert e.value.code == "QEB473"


def test_accumulators_beyond_40_bits_are_refused() -> None:
    n = 1 << 10
    wide = DenseNetwork(((np.full((1, n), 1.0, np.float32), np.zeros(1, np.float32)),), "n.npz", "0")
    how = FixedPoint(16, 1, 2, 2, 16, False, 0)
    with pytest.raises(UnsupportedError) as e:
        build(wide, how, None)
    assert e.value.code == "QEB432"
    build(wide, replace(how, input_bits=8), None)
