"""A small part of benchmarks/attacks.py: no engine passes a pair below its planted counterexample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.attacks import RAISES, SOLVERS, Direct, ask, broken, numbers, page, pieces, solvers, truth
from benchmarks.attacks import Tally as Answers
from qebgate.cli import run
from qebgate.engines.dra.engine import Dra
from qebgate.errors import InternalError
from qebgate.evidence import Bound
from qebgate.gate import check
from qebgate.planted import disguised, planted
from qebgate.policy import parse_policy
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.selftest import all_gaps, policy, trials, written

CHAINS = {"roundoff": ("dra", "forms", "split")}
"""Where nothing decides, the whole chain takes long."""


@pytest.mark.parametrize("kind", ["trigger", "roundoff", "ties", "disguised"])
def test_no_wrong_answer_about_planted_pairs(kind: str, tmp_path: Path) -> None:
    tally = Answers()
    with Direct() as session:
        t = truth(planted(kind, 3), DEPLOYED[1], tmp_path, session)
        assert t.worst > 0
        ask("seed 3", t, kind, tally, session, CHAINS.get(kind, ("dra", "forms", "all but executing")))
    assert tally.wrong == []
    assert sum(tally.answers["dra"].values()) == 1
    assert kind == "roundoff" or tally.answers["all but executing"]["fail"] == 1


def test_a_wrong_bound_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack itself: an engine that forgets a thousandth of the gap is caught both ways."""

    def shrunk(self: object, task: object, *_: object) -> list[Bound]:
        return [Bound(t.least * 0.999, t.most * 0.999, "certified", "dra", 0.0)]

    tally = Answers()
    with Direct() as session:
        t = truth(planted("ties", 4), Runtime.REFERENCE, tmp_path, session)
        monkeypatch.setattr(Dra, "run", shrunk)
        ask("seed 4", t, "ties", tally, session, ("dra",))
    assert any("excludes" in w for w in tally.wrong) and any("passes" in w for w in tally.wrong)
    assert "**Wrong answers: 2.**" in page(1, {"ties": tally}, [], ["a", "b"], 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_a_trigger_is_one_input_of_65536(seed: int, tmp_path: Path) -> None:
    p = planted("trigger", seed)
    gap = np.abs(all_gaps(written(p, tmp_path), Runtime.XNNPACK)).max(axis=1)
    assert p.at is not None
    worst = int(gap.argmax())
    assert [worst // 256 - 128, worst % 256 - 128] == p.at.tolist()
    assert gap[worst] > 5 * np.delete(gap, worst).max()


@pytest.mark.parametrize("k", [-40, -1, 17, 50])
def test_a_disguise_changes_neither_function(k: int, tmp_path: Path) -> None:
    p = planted("trigger", 5)
    plain = all_gaps(written(p, tmp_path), Runtime.REFERENCE, np.float32)
    q = disguised(p, [k, -k])
    assert q.float_model() != p.float_model() and q.quantized_model() != p.quantized_model()
    assert (all_gaps(written(q, tmp_path), Runtime.REFERENCE, np.float32) == plain).all()


def test_roundoff_is_only_in_float32(tmp_path: Path) -> None:
    """The same function in the reals, up to the roundoff of float64; not so in float32."""
    pair = written(planted("roundoff", 0), tmp_path)
    double, single = (float(np.abs(all_gaps(pair, Runtime.REFERENCE, d)).max()) for d in (np.float64, np.float32))
    assert single > 1e6 * double


def test_broken_numbers_are_refused() -> None:
    seen, wrong = numbers(every=9)
    assert wrong == [] and sum(seen.values()) == -(-len(list(broken())) // 9)
    assert seen["pass"] == 0 and any(k.startswith("refused") for k in seen)


def test_a_failing_solver_proves_nothing() -> None:
    seen, wrong = solvers([0])
    assert wrong == [] and set(seen) == set(SOLVERS) and all(c["pass"] == 0 for c in seen.values())
    assert seen[RAISES] == {"error (QEB916)": 2}


def test_a_solver_that_raises_ends_the_gate(tmp_path: Path) -> None:
    """No report and no verdict of a run whose solver broke: the error comes out (exit 70)."""
    p = planted("ties", 7000)
    with Direct() as session:
        worst = truth(p, Runtime.REFERENCE, tmp_path, session).worst
    asked = policy(0.999 * worst, Runtime.REFERENCE, effort="standard", require="proof_or_solver", engines=["milp"])
    with SOLVERS[RAISES](), pytest.raises(InternalError, match="injected") as caught:
        check(parse_policy(asked, "attack", tmp_path))
    assert caught.value.code == "QEB916" and caught.value.exit_code == 70


def test_every_power_of_two_is_tried() -> None:
    names = [label.split(",")[0] for kind, label, _ in pieces(91) if kind == "disguised"]
    assert sorted(names) == sorted(f"2^{k}" for k in range(-40, 51))


def test_selftest(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "__defaults__", ((("ties", 1),),))
    assert run(["selftest"]) == 0
    out = capsys.readouterr().out
    assert "3 of 3 answers about planted counterexamples are right" in out and "WRONG" not in out


def test_selftest_notices_a_wrong_pass(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 70 where an engine proves too much."""

    def nothing(self: object, task: object, *_: object) -> list[Bound]:
        return [Bound(np.zeros(1), np.zeros(1), "certified", "dra", 0.0)]

    monkeypatch.setattr(Dra, "run", nothing)
    monkeypatch.setattr("qebgate.engines.falsify.Falsify.run", lambda *_: [])
    monkeypatch.setattr(trials, "__defaults__", ((("roundoff", 0),),))
    assert run(["selftest"]) == 70
    assert "WRONG roundoff" in capsys.readouterr().out
