"""Statistical evidence: the numbers are the textbook's, the sample is the region's, and it is never called a proof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from qebgate.engines.concrete import Inputs, Session, float_outputs, quantized_outputs
from qebgate.engines.statistical import Statistical, clopper_pearson, drawn, needed
from qebgate.evidence import Sampled, Stopped, Witness
from qebgate.gate import check
from qebgate.policy import PolicyFile, parse_policy
from qebgate.report.text import sample_words
from qebgate.runtimes.profiles import Runtime
from qebgate.task import Budget, Sampling
from qebgate.verdict import judge
from tests.engines.test_figures import sample, task


@pytest.mark.parametrize(("confidence", "rate", "n"), [(0.95, 0.05, 59), (0.999, 1e-4, 69075), (0.99, 0.01, 459)])
def test_the_number_of_inputs_is_the_smallest_that_does(confidence: float, rate: float, n: int) -> None:
    assert needed(confidence, rate) == n
    if n < 1000:
        assert (1 - Fraction(rate)) ** n <= 1 - Fraction(confidence) < (1 - Fraction(rate)) ** (n - 1)
    assert clopper_pearson(n, 0, confidence)[1] <= rate < clopper_pearson(n - 1, 0, confidence)[1]


@pytest.mark.parametrize("failures", [0, 1, 3, 17, 100])
def test_clopper_pearson_against_the_binomial_tails(failures: int) -> None:
    n, confidence = 100, 0.99
    lower, upper = clopper_pearson(n, failures, confidence)
    assert 0 <= lower <= failures / n <= upper <= 1
    if failures < n:  # so few failures have probability of at most 1 - confidence at the upper bound
        assert binom.cdf(failures, n, upper) <= (1 - confidence) * (1 + 1e-6)
        assert binom.cdf(failures, n, upper * (1 - 1e-4)) > 1 - confidence
    if failures:
        assert binom.sf(failures - 1, n, lower) <= (1 - confidence) * (1 + 1e-6)


def test_the_bound_covers_as_often_as_it_says() -> None:
    """Over many experiments with a known share, the bound is below it in at most 1 - confidence of them."""
    rng = np.random.default_rng(0)
    share, n, confidence = 0.03, 400, 0.9
    counts = rng.binomial(n, share, 4000)
    bound = {k: clopper_pearson(n, k, confidence)[1] for k in set(counts.tolist())}
    missed = np.mean([bound[k] < share for k in counts.tolist()])
    assert missed <= 1 - confidence


@pytest.mark.parametrize("domain", ["grid", "real"])
def test_samples_are_uniform_on_the_region(models: Path, domain: str) -> None:
    t = task(models, "dense_8_8", "max_l2", domain)
    asked = Sampling((t.cell, t.cell), 5000, 0.99, 0.01, seed=3)
    parts = list(drawn(t, asked))
    x = np.concatenate([p.x for p in parts]).reshape(5000, -1)
    lo, hi = t.cell.lower.ravel(), t.cell.upper.ravel()
    assert ((x >= lo.astype(np.float32)) & (x <= hi.astype(np.float32))).all()
    assert np.allclose(x.mean(axis=0), (lo + hi) / 2, atol=0.05 * (hi - lo).max())
    assert np.allclose(x.std(axis=0), (hi - lo) / np.sqrt(12), atol=0.06 * (hi - lo).max())
    again = np.concatenate([p.x for p in drawn(t, asked)]).reshape(5000, -1)
    other = np.concatenate([p.x for p in drawn(t, replace(asked, seed=4))]).reshape(5000, -1)
    assert (x == again).all() and (x != other).any()
    if domain == "grid":
        codes = np.concatenate([t.codec.encode(p.x) for p in parts])
        a, b = t.cell.codes  # type: ignore[misc]
        assert len(np.unique(codes.reshape(5000, -1), axis=0)) == t.cell.count
        assert (codes >= a).all() and (codes <= b).all()


@pytest.mark.parametrize("runtime", [Runtime.XNNPACK, Runtime.ENVELOPE])
def test_failures_are_those_of_the_runtime(models: Path, runtime: Runtime) -> None:
    """As many as an independent execution of the same sample counts; the verdict follows from the rate alone."""
    t = task(models, "dense_8_8", "max_l2", "grid")
    f = float_outputs(t, sample(t, 4000))
    with Session() as s:
        one = replace(t, runtime=runtime.members[0])
        limit = float(np.quantile(one.prop.scores(quantized_outputs(one, sample(t, 4000)), f), 0.9))
        t = replace(t, prop=replace(t.prop, limit=limit), runtime=runtime)
        t = replace(t, sampling=Sampling((t.cell,), 1000, 0.99, 0.01, seed=1))
        found = Statistical().run(t, [], Budget(), s)
        (sampled,) = [e for e in found if isinstance(e, Sampled)]
        (w,) = [e for e in found if isinstance(e, Witness)]
        assert t.sampling is not None
        inputs = next(iter(drawn(t, t.sampling)))
        worst: list[np.ndarray] = []
        for member in runtime.members:
            q = s.outputs(t.pair.quantized, t.codec.encode(inputs.x), member)
            if member.emulated:
                q = quantized_outputs(replace(t, runtime=member), inputs)
            gap = q - s.outputs(t.pair.float, inputs.x, member)
            worst.append(np.sqrt((gap**2).sum(axis=1)))
        failures = int((np.max(worst, axis=0) > limit).sum())
    assert sampled.n == 1000 and sampled.failures == failures > 0
    assert judge(t.prop, "statistical", found, 0.5).verdict == "pass"
    assert judge(t.prop, "statistical", found, 0.01).verdict == "fail"  # surely more than that
    near = judge(t.prop, "statistical", found, (sampled.lower + sampled.upper) / 2)
    assert (near.verdict, near.reason) == ("unknown", "effort")
    assert judge(t.prop, "proof", found, 0.5).verdict == "fail" and w.replayed
    stopped = Statistical().run(t, [], Budget(seconds=0.0), Session())
    assert [type(e) for e in stopped] == [Stopped]
    assert judge(t.prop, "statistical", stopped, 0.5).reason == "guard_time"


@pytest.fixture
def ask(tmp_path: Path, models: Path) -> Callable[..., PolicyFile]:
    def go(require: Any, kind: str = "ball", limit: float = 10.0, n: int = 3, **region: Any) -> PolicyFile:
        rng = np.random.default_rng(0)
        np.save(tmp_path / "x.npy", rng.uniform(-0.5, 0.5, (n, 2)).astype(np.float32))
        spec = {"kind": kind, "data": "x.npy", "domain": "grid", **({"radius": 0.05} if kind == "ball" else {})}
        model = {"float": str(models / "dense_8_8.float.tflite"), "quantized": str(models / "dense_8_8.int8.tflite")}
        data = {
            "version": 1,
            "models": {"m": model},
            "regions": {"r": {**spec, **region}},
            "checks": [
                {"id": "c", "model": "m", "region": "r", "property": {"kind": "max_abs", "limit": limit}}
                | {"require": require}
            ],
        }
        return parse_policy(data, "test", tmp_path)

    return go


def test_statistical_checks_have_one_task_and_no_proof(ask: Callable[..., PolicyFile]) -> None:
    """A bound on one row must never speak for the others."""
    source = ask({"statistical": {"confidence": 0.99, "max_failure_rate": 0.01, "seed": 7}})
    (c,) = check(source).checks
    (t,) = c.tasks
    assert (c.verdict, c.evidence, c.proven, t.lower) == ("pass", "statistical", None, None)
    assert t.statistics is not None and (t.statistics.n, t.statistics.failures) == (459, 0)
    words = sample_words(t)
    assert "This is no proof" in words and "459" in words and "0.99" in words
    assert "proven" not in words and "proof" not in words.replace("This is no proof", "")


def test_many_failures_fail_and_some_leave_it_open(ask: Callable[..., PolicyFile]) -> None:
    (c,) = check(ask({"statistical": {"confidence": 0.99, "max_failure_rate": 0.01}}, limit=0.0)).checks
    assert (c.verdict, c.reason, c.proven) == ("fail", "refuted", None)
    assert c.tasks[0].witness is not None


def test_rows_of_the_data_as_the_sample(ask: Callable[..., PolicyFile]) -> None:
    require = {"statistical": {"confidence": 0.9, "max_failure_rate": 0.2, "distribution": "rows"}}
    (c,) = check(ask(require, kind="points", n=11)).checks
    s = c.tasks[0].statistics
    assert c.verdict == "pass" and s is not None and s.n == 11 == needed(0.9, 0.2)
    (e,) = check(ask(require, kind="points", n=10)).errors
    assert e.error.code == "QEB229" and "10" in (e.error.found or "")
    (e,) = check(ask(require, n=11)).errors
    assert e.error.code == "QEB229" and "points" in (e.error.fix or "")


def test_more_samples_than_needed_may_fail_now_and_then(ask: Callable[..., PolicyFile]) -> None:
    few = {"confidence": 0.99, "max_failure_rate": 0.01}
    (e,) = check(ask({"statistical": {**few, "samples": 458}})).errors
    assert e.error.code == "QEB229" and e.error.fix == "at least 459"
    (c,) = check(ask({"statistical": {**few, "samples": 1000}})).checks
    s = c.tasks[0].statistics
    assert s is not None and s.n == 1000 and s.upper < 0.005


def test_proof_or_statistical_proves_first(ask: Callable[..., PolicyFile]) -> None:
    (c,) = check(ask("proof_or_statistical")).checks
    assert c.evidence == "exhaustive" and len(c.tasks) == 3 and all(t.statistics is None for t in c.tasks)
    source = ask("proof_or_statistical")
    only = source.policy.checks[0].model_copy(update={"engines": ["statistical"]})
    policy = source.policy.model_copy(update={"checks": [only]})
    (c,) = check(replace(source, policy=policy)).checks
    assert c.evidence == "statistical" and c.proven is None
    assert [t.statistics.n for t in c.tasks if t.statistics is not None] == [needed(0.999, 0.001)] * 3
    found = ask("proof_or_statistical", limit=0.0)
    assert check(found).checks[0].verdict == "fail"


def test_points_are_never_drawn_from_a_line(models: Path) -> None:
    t = task(models, "dense_8_8", "max_l2", "grid")
    with Session() as s:
        assert Statistical().run(t, [], Budget(), s) == []
    assert isinstance(sample(t, 3), Inputs)
