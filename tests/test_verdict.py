"""The judge never says PASS or FAIL on evidence that does not carry it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qebgate.errors import InternalError
from qebgate.evidence import Bound, Sampled, Stopped, Witness
from qebgate.properties import Property
from qebgate.verdict import NothingCheckedError, TaskVerdict, check_verdict, judge

PROP = Property("max_abs", 1.0)


def bound(lo: float, hi: float, trust: str = "certified", engine: str = "dra") -> Bound:
    return Bound(np.array([lo]), np.array([hi]), trust, engine, 0.0)  # type: ignore[arg-type]


def seen(gap: float, replayed: bool = True) -> Witness:
    return Witness(np.zeros((1, 1), np.float32), None, np.array([gap]), replayed, "falsify")


TRUTH_TABLE = [
    # require, evidence, verdict, reason, evidence class, proven, witnessed
    ("proof", [], "unknown", "effort", None, None, None),
    ("proof", [bound(-0.5, 0.75)], "pass", None, "certified", 0.75, None),
    ("proof", [bound(-1.0, 1.0)], "pass", None, "certified", 1.0, None),
    ("proof", [bound(-math.nextafter(1, 2), 1.0)], "unknown", "effort", "certified", math.nextafter(1, 2), None),
    ("proof", [bound(-2.0, 0.5), bound(-0.5, 2.0)], "pass", None, "certified", 0.5, None),
    ("proof", [bound(-math.inf, math.inf)], "unknown", "effort", None, None, None),
    ("proof", [bound(-0.5, math.inf)], "unknown", "effort", None, None, None),
    ("proof", [bound(-0.5, 0.5, "solver")], "unknown", "effort", None, None, None),
    ("proof_or_solver", [bound(-0.5, 0.5, "solver")], "pass", None, "solver", 0.5, None),
    ("proof_or_solver", [bound(-0.5, 0.5, "solver"), bound(-0.9, 0.9)], "pass", None, "certified", 0.9, None),
    ("proof_or_solver", [bound(-0.5, 0.5, "solver"), bound(-3, 3)], "pass", None, "solver", 0.5, None),
    ("proof", [bound(-0.5, 0.5, "exhaustive"), bound(-0.9, 0.9)], "pass", None, "exhaustive", 0.5, None),
    ("proof", [seen(1.5)], "fail", "refuted", None, None, 1.5),
    ("proof", [seen(-1.5)], "fail", "refuted", None, None, 1.5),
    ("proof", [seen(1.0)], "unknown", "effort", None, None, 1.0),
    ("proof", [seen(math.inf)], "fail", "refuted", None, None, math.inf),
    ("proof", [seen(1.5, replayed=False)], "unknown", "effort", None, None, None),
    ("proof", [bound(-2, 2), seen(1.5)], "fail", "refuted", "certified", 2.0, 1.5),
    ("proof", [bound(-2, 2), seen(0.5)], "unknown", "effort", "certified", 2.0, 0.5),
    ("proof", [bound(-2, 2), Stopped("milp", "guard_time", "")], "unknown", "guard_time", "certified", 2.0, None),
    (
        "proof",
        [Stopped("dra", "guard_memory", ""), Stopped("milp", "effort", "")],
        "unknown",
        "guard_memory",
        None,
        None,
        None,
    ),
    ("proof", [bound(-0.5, 0.5), Stopped("milp", "guard_time", "")], "pass", None, "certified", 0.5, None),
    ("tested", [seen(0.5)], "pass", None, "tested", None, 0.5),
    ("tested", [], "unknown", "effort", None, None, None),
    ("tested", [seen(0.5, replayed=False)], "unknown", "effort", None, None, None),
    ("tested", [seen(0.5), seen(1.5, replayed=False)], "unknown", "effort", None, None, 0.5),
    ("tested", [seen(0.5), Stopped("falsify", "guard_time", "")], "unknown", "guard_time", None, None, 0.5),
    ("tested", [seen(0.5), Stopped("dra", "guard_time", "")], "pass", None, "tested", None, 0.5),
    ("tested", [seen(0.5), Stopped("falsify", "effort", "")], "pass", None, "tested", None, 0.5),
    ("tested", [seen(0.5), bound(-3, 3)], "pass", None, "tested", None, 0.5),
    ("tested", [seen(0.5), bound(-0.75, 0.75)], "pass", None, "certified", 0.75, 0.5),
    ("tested", [seen(1.5)], "fail", "refuted", None, None, 1.5),
]


@pytest.mark.parametrize("row", TRUTH_TABLE, ids=range(len(TRUTH_TABLE)))
def test_truth_table(row: tuple) -> None:
    require, evidence, verdict, reason, trust, proven, witnessed = row
    got = judge(PROP, require, evidence)
    assert (got.verdict, got.reason, got.evidence, got.proven, got.witnessed) == (
        verdict,
        reason,
        trust,
        proven,
        witnessed,
    )


@pytest.mark.parametrize(
    "evidence",
    [
        [bound(-0.5, 0.5), seen(0.6)],
        [bound(-0.5, 0.5), seen(1.5)],
        [bound(-0.5, 0.5), seen(math.nextafter(0.5, 1))],
        [bound(-0.5, 0.5, "solver"), seen(0.6)],
        [bound(0.2, 0.5), bound(-0.5, 0.1)],
        [bound(0.2, 0.5), seen(0.1)],
        [seen(math.nan)],
    ],
)
def test_contradictions_are_bugs(evidence: list) -> None:
    for require in ("proof", "proof_or_solver", "tested"):
        with pytest.raises(InternalError):
            judge(PROP, require, evidence)  # type: ignore[arg-type]


def test_bounds_of_different_length_are_a_bug() -> None:
    two = Bound(np.zeros(2), np.ones(2), "certified", "dra", 0.0)
    with pytest.raises(InternalError):
        judge(PROP, "proof", [two, bound(0, 1)])


floats = st.floats(allow_nan=False, width=64)
trusts = st.sampled_from(["exhaustive", "certified", "solver"])
bounds = st.tuples(floats, floats, trusts).map(lambda t: bound(min(t[:2]), max(t[:2]), t[2]))
witnesses = st.tuples(floats, st.booleans()).map(lambda t: seen(*t))
stops = st.sampled_from(["effort", "guard_time", "guard_memory"]).map(lambda r: Stopped("x", r, ""))


@given(
    st.lists(st.one_of(bounds, witnesses, stops), max_size=6), st.sampled_from(["proof", "proof_or_solver", "tested"])
)
def test_verdicts_are_carried(evidence: list, require: str) -> None:
    """Recomputed from first principles, on arbitrary evidence."""
    try:
        got = judge(PROP, require, evidence)  # type: ignore[arg-type]
    except InternalError:
        return
    trusted = {"exhaustive", "certified"} | ({"solver"} if require == "proof_or_solver" else set())
    usable = [e for e in evidence if isinstance(e, Bound) and e.trust in trusted]
    lo = max((e.lower[0] for e in usable), default=-math.inf)
    hi = min((e.upper[0] for e in usable), default=math.inf)
    replayed = [abs(e.gap[0]) for e in evidence if isinstance(e, Witness) and e.replayed]
    if got.verdict == "pass" and got.evidence != "tested":
        assert max(-lo, hi) <= PROP.limit
    if got.verdict == "pass" and got.evidence == "tested":
        assert require == "tested" and replayed and max(replayed) <= PROP.limit and got.proven is None
    if got.verdict == "fail":
        assert max(replayed) > PROP.limit and got.witness is not None and got.witness.replayed
    if got.verdict == "unknown":
        assert got.reason in ("effort", "guard_time", "guard_memory")
        assert not max(-lo, hi) <= PROP.limit
        assert not any(r > PROP.limit for r in replayed)
    if got.proven is not None:
        assert math.isfinite(got.proven) and got.lower is not None and got.upper is not None
        assert got.witnessed is None or got.witnessed <= got.proven


@given(st.lists(bounds, max_size=4), st.randoms())
def test_order_of_evidence_does_not_matter(evidence: list, rnd: object) -> None:
    shuffled = list(evidence)
    rnd.shuffle(shuffled)  # type: ignore[attr-defined]
    results = []
    for e in (evidence, shuffled):
        try:
            v = judge(PROP, "proof_or_solver", e)
            results.append((v.verdict, v.proven, v.evidence))
        except InternalError:
            results.append("contradiction")
    assert results[0] == results[1]


@given(st.integers(0, 1 << 20), st.floats(2.0**-100, 1024.0, width=32))
def test_whole_quanta_are_not_rounded_up(n: int, scale: float) -> None:
    """A gap of exactly n quanta proves `max_lsb` n, and no less."""
    prop = Property("max_lsb", float(n), unit=scale)
    gap = np.array([n * scale])
    assert prop.of_box(gap, gap) == n == prop.of_gap(gap)


@given(st.floats(0, 1e6), st.floats(2.0**-20, 1024.0, width=32))
def test_max_lsb_of_a_box_is_an_upper_bound(gap: float, scale: float) -> None:
    from fractions import Fraction

    prop = Property("max_lsb", 1.0, unit=scale)
    g = np.array([gap])
    assert Fraction(prop.of_box(-g, g)) * Fraction(scale) >= Fraction(gap)
    assert prop.of_gap(g) <= prop.of_box(-g, g)


def task(
    verdict: str,
    reason: str | None = None,
    witnessed: float | None = None,
    proven: float | None = None,
    cls: str | None = None,
) -> TaskVerdict:
    return TaskVerdict(verdict, reason, witnessed, proven, None, None, cls, None, None)  # type: ignore[arg-type]


RARE = Sampled(1_000, 0, 0.0, 0.004, "statistical")
SOME = Sampled(1_000, 20, 0.012, 0.031, "statistical")


@pytest.mark.parametrize("require", ["proof", "proof_or_solver", "tested"])
@pytest.mark.parametrize("rate", [None, 0.01, 1.0])
def test_a_sample_is_no_proof(require: str, rate: float | None) -> None:
    for sampled in (RARE, SOME):
        got = judge(PROP, require, [bound(-2, 2), sampled], rate)  # type: ignore[arg-type]
        assert (got.verdict, got.reason, got.evidence) == ("unknown", "effort", "certified")
        assert judge(PROP, require, [sampled], rate).verdict == "unknown"  # type: ignore[arg-type]


SAMPLED_TABLE = [
    # require, evidence, rate, verdict, evidence class
    ("proof_or_statistical", [RARE], 0.01, "pass", "statistical"),
    ("proof_or_statistical", [RARE], 0.004, "pass", "statistical"),
    ("proof_or_statistical", [RARE], 0.0039, "unknown", None),
    ("proof_or_statistical", [RARE], None, "unknown", None),
    ("proof_or_statistical", [RARE, bound(-2, 2)], 0.01, "pass", "statistical"),
    ("proof_or_statistical", [RARE, bound(-0.5, 0.5)], 0.01, "pass", "certified"),
    ("proof_or_statistical", [RARE, seen(1.5)], 0.01, "fail", None),
    ("proof_or_statistical", [SOME], 0.02, "unknown", None),
    ("statistical", [RARE], 0.01, "pass", "statistical"),
    ("statistical", [RARE], None, "unknown", None),
    ("statistical", [bound(-0.5, 0.5)], 0.01, "unknown", None),
    ("statistical", [SOME, seen(1.5)], 0.01, "fail", None),
    ("statistical", [SOME, seen(1.5)], 0.02, "unknown", None),
    ("statistical", [SOME, seen(1.5)], 0.04, "pass", "statistical"),
]


@pytest.mark.parametrize("row", SAMPLED_TABLE, ids=range(len(SAMPLED_TABLE)))
def test_what_a_sample_carries(row: tuple) -> None:
    require, evidence, rate, verdict, trust = row
    got = judge(PROP, require, evidence, rate)
    assert (got.verdict, got.evidence) == (verdict, trust)


def test_check_is_its_worst_task() -> None:
    good, bad = task("pass", None, 0.1, 0.2, "exhaustive"), task("fail", "refuted", 3.0, 4.0, "certified")
    open_ = task("unknown", "guard_time", None, None, None)
    assert check_verdict([good]).verdict == "pass"
    assert (check_verdict([good, bad]).verdict, check_verdict([good, bad]).reason) == ("fail", "refuted")
    assert (check_verdict([open_, bad]).verdict, check_verdict([open_, bad]).reason) == ("fail", "refuted")
    assert (check_verdict([good, open_]).verdict, check_verdict([good, open_]).reason) == ("unknown", "guard_time")
    both = check_verdict([good, bad])
    assert (both.witnessed, both.proven, both.evidence) == (3.0, 4.0, "certified")
    assert check_verdict([good, open_]).proven is None and check_verdict([good, open_]).evidence is None


def test_a_check_without_tasks_is_not_a_pass() -> None:
    with pytest.raises(NothingCheckedError) as e:
        check_verdict([])
    assert e.value.exit_code == 5
