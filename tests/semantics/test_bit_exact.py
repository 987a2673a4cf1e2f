"""Law 1: integer execution equals the installed interpreter, bit for bit, in every runtime."""

from __future__ import annotations

import numpy as np
import pytest

from qebgate.errors import UnsupportedError
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.delegation import owner
from qebgate.semantics.execute import run_int
from qebgate.semantics.moves import Move
from qebgate.semantics.registry import SEMANTICS
from tests.semantics.cases import CASES, Case, codes
from tests.semantics.compare import ABSENT, compare, interpret, load
from tests.semantics.networks import network
from tests.support.tflite_builder import Builder

SEEDS = range(14)
OVERFLOW = "may overflow 16 bits"


def test_every_registered_operator_has_cases() -> None:
    assert set(CASES) == set(SEMANTICS)


@pytest.mark.parametrize("runtime", DEPLOYED)
@pytest.mark.parametrize("op", sorted(CASES))
def test_one_operator(op: str, runtime: Runtime) -> None:
    compared = 0
    if (op, runtime) in ABSENT:
        with pytest.raises(UnsupportedError, match="no kernel"):
            compare(CASES[op](np.random.default_rng(0)), runtime, ours_only=True)
        return
    for seed in SEEDS:
        case = CASES[op](np.random.default_rng(seed))
        if op in ("ADD", "SUB") and _refused(case):
            continue
        if op == "MUL" and _wraps(case, runtime):
            continue
        result = compare(case, runtime)
        assert result.mismatches == 0, f"seed {seed}: {result}"
        # whose kernel moves entries says nothing
        assert result.delegation_agrees or isinstance(SEMANTICS[op], Move), f"seed {seed}: {result}"
        compared += 1
    assert compared >= len(SEEDS) // 2


def _refused(case: Case) -> bool:
    try:
        load(case.model)
    except Exception as e:
        assert OVERFLOW in str(e)
        return True
    return False


def _wraps(case: Case, runtime: Runtime) -> bool:
    try:
        run_int(load(case.model), case.x, runtime)
    except UnsupportedError as e:
        assert OVERFLOW in str(e)
        assert runtime is Runtime.BUILTIN
        return True
    return False


def test_products_beyond_16_bits_are_refused_where_they_wrap() -> None:
    """179 * 180 codes times 1.11: the builtin kernel gives -128 for what is 127, and the others do not."""
    case = CASES["MUL"](np.random.default_rng(1_000_066))
    graph = load(case.model)
    theirs = {r: interpret(case.model, case.x, r)[0] for r in DEPLOYED}
    for r in (Runtime.REFERENCE, Runtime.XNNPACK):
        np.testing.assert_array_equal(run_int(graph, case.x, r)[graph.outputs[0]], theirs[r])
    assert ((theirs[Runtime.BUILTIN] == -128) & (theirs[Runtime.REFERENCE] == 127)).any()
    node = graph.nodes[0]
    for ask in (
        lambda: run_int(graph, case.x, Runtime.BUILTIN),
        lambda: SEMANTICS["MUL"].rounding(node, graph, Runtime.BUILTIN),
    ):
        with pytest.raises(UnsupportedError, match=OVERFLOW):
            ask()


@pytest.mark.parametrize("seed", [1_000_001, 1_000_135])
def test_gelu_next_to_ties(seed: int) -> None:
    """The table is made with erfc: with 1 + erf these codes were off by one."""
    assert compare(CASES["GELU"](np.random.default_rng(seed)), Runtime.BUILTIN).mismatches == 0


@pytest.mark.parametrize(("op", "least", "most"), [("MUL", -16, 8), ("SUB", -10, 8), ("ADD", -10, 8)])
def test_whose_kernel_it_is_at_the_ends_of_its_scales(op: str, least: int, most: int) -> None:
    for e in (least - 0.01, least, most - 0.01, most):
        b = Builder()
        x = b.tensor((1, 16), "int8", scale=float(np.float32(2.0**e)), zero_point=3)
        c = b.tensor((1, 16), "int8", data=np.arange(16).reshape(1, 16) - 7, scale=1.0, zero_point=1)
        y = b.tensor((1, 16), "int8", scale=1.0, zero_point=-5)
        b.op(op, [x, c], [y], version=2)
        model = b.build([x], [y])
        taken = interpret(model, np.zeros((1, 1, 16), np.int8), Runtime.XNNPACK)[1]
        assert taken == (least <= e < most)
        try:
            graph = load(model)
        except UnsupportedError:
            assert e > 7  # sums and products that far apart are refused
            continue
        assert (owner(graph.nodes[0], graph, Runtime.XNNPACK) is Runtime.XNNPACK) == taken


@pytest.mark.parametrize("seed", range(20))
def test_networks(seed: int) -> None:
    case = network(np.random.default_rng(seed), batch=12)
    graph = load(case.model)
    for runtime in DEPLOYED:
        theirs, _ = interpret(case.model, case.x, runtime)
        ours = run_int(graph, case.x, runtime)[graph.outputs[0]]
        np.testing.assert_array_equal(ours, theirs, err_msg=runtime.value)


def test_delegate_is_really_active() -> None:
    """Otherwise litert-xnnpack would be compared with builtin kernels."""
    taken = {op: _taken(CASES[op](np.random.default_rng(0))) for op in CASES}
    assert taken["CONV_2D"]
    assert taken["FULLY_CONNECTED"]
    assert taken["ADD"]
    assert not taken["SOFTMAX"]
    assert not taken["AVERAGE_POOL_2D"]


def _taken(case: Case) -> bool:
    return interpret(case.model, case.x[:1], Runtime.XNNPACK)[1]


def test_the_runtimes_differ_where_they_should() -> None:
    """Every accumulator -3000..3000 at M = 3/8: three different roundings, all of them reproduced."""
    b = Builder()
    x = b.tensor((1, 2), "int8", scale=1.0, zero_point=0)
    w = b.tensor((1, 2), "int8", data=[[1, 25]], scale=0.375)
    y = b.tensor((1, 1), "int8", scale=1.0, zero_point=0)
    b.op("FULLY_CONNECTED", [x, w, -1], [y], version=4)
    grid = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-13, 14)), -1).reshape(-1, 1, 2).astype(np.int8)
    model = b.build([x], [y])
    results = {}
    for runtime in DEPLOYED:
        theirs, _ = interpret(model, grid, runtime)
        results[runtime] = run_int(load(model), grid, runtime)[2]
        np.testing.assert_array_equal(results[runtime], theirs)
    assert (results[Runtime.REFERENCE] != results[Runtime.BUILTIN]).any()
    assert (results[Runtime.REFERENCE] != results[Runtime.XNNPACK]).any()
    assert (results[Runtime.BUILTIN] != results[Runtime.XNNPACK]).any()


@pytest.mark.parametrize("zero", [-128, -33, -32, 5])
@pytest.mark.parametrize("activation", [1, 2, 3])
def test_limits_of_fused_activations_at_ties(zero: int, activation: int) -> None:
    """6 / 4, 6 / 12, 1 / 2: XNNPACK rounds the limit to even after adding the zero point."""
    for scale in (4.0, 12.0, 2.0, 6.0 / 5.0, 2.4):
        b = Builder()
        x = b.tensor((1, 256), "int8", scale=scale, zero_point=zero)
        y = b.tensor((1, 256), "int8", scale=scale, zero_point=zero)
        c = b.tensor((1,), "int8", data=[0], scale=scale)
        b.op("ADD", [x, c], [y], version=2, fused_activation=activation)
        case = Case("ADD", b.build([x], [y]), np.arange(-128, 128).astype(np.int8).reshape(1, 1, 256))
        for runtime in DEPLOYED:
            assert compare(case, runtime).mismatches == 0


def test_owner_follows_the_delegate_inside_a_network() -> None:
    rng = np.random.default_rng(3)
    graph = load(network(rng).model)
    for node in graph.nodes:
        assert owner(node, graph, Runtime.REFERENCE) is Runtime.REFERENCE
        assert owner(node, graph, Runtime.XNNPACK) in (Runtime.XNNPACK, Runtime.BUILTIN)


def test_batches_of_any_size_agree() -> None:
    """Chunking by memory must not show."""
    case = CASES["CONV_2D"](np.random.default_rng(1))
    graph = load(case.model)
    x = codes(np.random.default_rng(2), (700, *case.x.shape[1:]))
    whole = run_int(graph, x, Runtime.BUILTIN)[graph.outputs[0]]
    parts = [run_int(graph, x[k : k + 1], Runtime.BUILTIN)[graph.outputs[0]] for k in range(0, 700, 97)]
    np.testing.assert_array_equal(whole[::97], np.concatenate(parts))
    assert run_int(graph, x[:0], Runtime.BUILTIN)[graph.outputs[0]].shape[0] == 0


TANH_NEAR_TIES = (
    0.010294721461832523,
    0.009994658641517162,
    0.042769189924001694,
    0.05776141211390495,
    0.0445454902946949,
)
LOGISTIC_NEAR_TIES = (
    0.004798093810677528, 0.04892382770776749, 0.0293721966445446, 0.03578312322497368, 0.04153050109744072,
    0.01676139235496521, 0.03083193674683571, 0.05633009225130081, 0.007034145761281252, 0.035034023225307465,
    0.04693189263343811, 0.050250083208084106, 0.041241664439439774, 0.03046533279120922, 0.04110799357295036,
)  # fmt: skip


@pytest.mark.parametrize("op", ["TANH", "LOGISTIC"])
def test_tables_next_to_ties(op: str) -> None:
    """Scales found by search, at which plausible formulas of the tables give different codes."""
    scales, out = (TANH_NEAR_TIES, (1 / 128, 0)) if op == "TANH" else (LOGISTIC_NEAR_TIES, (1 / 256, -128))
    x = np.arange(-128, 128).astype(np.int8).reshape(1, 1, 256)
    for scale in scales:
        b = Builder()
        i = b.tensor((1, 256), "int8", scale=scale, zero_point=0)
        o = b.tensor((1, 256), "int8", scale=out[0], zero_point=out[1])
        b.op(op, [i], [o], version=2)
        case = Case(op, b.build([i], [o]), x)
        for runtime in DEPLOYED:
            assert compare(case, runtime).mismatches == 0
