"""The ratchet: a model whose quantization got worse is caught although it is within the limit."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qebgate.baseline import Baseline, compared, entry_of, read_baseline
from qebgate.cli import run
from qebgate.errors import PolicyError
from qebgate.gate import Options, check
from qebgate.plan import make_plan
from qebgate.policy import load_policy
from qebgate.result import CheckResult

POLICY = """\
# kept as it is
version: 1
models:
  m: {float: float.tflite, quantized: now.tflite, input_quantization: nearest}
regions:
  near: {kind: ball, data: x.npy, limit: 1, radius: 0.05, out_of_range: allow}
checks:
  - {id: c, model: m, region: near, property: {kind: max_abs, limit: 9.0}, effort: quick, engines: [dra]}
baseline: {file: base.json, max_increase: 5%}   # and this
"""


@pytest.fixture
def gate(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CheckResult]:
    """Run the policy for one of the quantized models; returns its only check."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(models / "ratchet" / "float.tflite", tmp_path)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(-0.9, 0.9, (3, 4)).astype(np.float32))

    def go(model: str, text: str = POLICY, **options: Any) -> CheckResult:
        shutil.copy(models / "ratchet" / f"{model}.tflite", tmp_path / "now.tflite")
        (tmp_path / "qebgate.yaml").write_text(text)
        (c,) = check(load_policy(tmp_path / "qebgate.yaml"), Options(**options)).checks
        return c

    return go


def test_worse_is_caught_and_better_is_recorded(
    gate: Callable[..., CheckResult], tmp_path: Path, capsys: pytest.CaptureFixture[str], models: Path
) -> None:
    first = gate("usual")
    assert first.verdict == "pass" and first.baseline is not None and first.baseline.state == "none"
    assert run(["check"]) == 0 and "qebgate baseline update" in capsys.readouterr().out
    assert run(["baseline", "update"]) == 0
    assert (tmp_path / "qebgate.yaml").read_text() == POLICY  # comments, order and all
    same = gate("usual")
    assert same.verdict == "pass" and same.baseline is not None and same.baseline.state == "compared"
    assert same.baseline.proven == same.proven == first.proven

    worse = gate("worse")
    assert worse.proven is not None and first.proven is not None and worse.proven > 1.05 * first.proven
    assert worse.proven <= worse.limit  # the limit alone would let it pass
    assert (worse.verdict, worse.reason) == ("fail", "regressed")
    assert {t.verdict for t in worse.tasks} == {"pass"}
    assert run(["check", "--format", "json=r.json"]) == 1
    written = json.loads((tmp_path / "r.json").read_text())["checks"][0]
    assert written["reason"] == "regressed" and written["baseline"]["proven"] == first.proven
    assert "rose above the baseline's" in capsys.readouterr().out
    assert run(["baseline", "diff"]) == 1
    assert re.search(r"c +fail, regressed +\S+ +\S+ +\+[0-9.e+]+ %", capsys.readouterr().out)

    better = gate("better")
    assert better.verdict == "pass" and better.proven is not None and better.proven < first.proven
    assert run(["baseline", "update"]) == 0
    assert f"(was {first.proven:.6g})" in capsys.readouterr().out
    back = gate("usual")
    assert (back.verdict, back.reason) == ("fail", "regressed")
    assert gate("usual", POLICY.replace("5%", "900%")).verdict == "pass"
    assert gate("usual", POLICY.split("baseline:", maxsplit=1)[0]).verdict == "pass"


OTHER = [
    ("effort: quick", "effort: standard", "effort"),
    ("radius: 0.05", "radius: 0.04", "region"),
    ("radius: 0.05", "radius: 0.05, clip: [-2, 2]", "region"),
    ("limit: 1,", "limit: 2,", "region"),
    ("kind: max_abs", "kind: max_l2", "property"),
    ("input_quantization: nearest", "input_quantization: truncate", "quantized"),
    ("engines: [dra]", "engines: [dra, falsify]", "engines"),
]


@pytest.fixture(scope="module")
def worse_result(tmp_path_factory: pytest.TempPathFactory, models: Path) -> tuple[Path, CheckResult, Baseline]:
    """A folder with a policy, the result of the worse model, and a baseline of half of its bound."""
    folder = tmp_path_factory.mktemp("ratchet")
    shutil.copy(models / "ratchet" / "float.tflite", folder)
    shutil.copy(models / "ratchet" / "worse.tflite", folder / "now.tflite")
    np.save(folder / "x.npy", np.random.default_rng(0).uniform(-0.9, 0.9, (3, 4)).astype(np.float32))
    (folder / "qebgate.yaml").write_text(POLICY)
    source = load_policy(folder / "qebgate.yaml")
    (result,) = check(source, Options(ratchet=False)).checks
    entry = entry_of(make_plan(source).checks[0], result)
    assert entry is not None
    (name, bound), *_ = entry.runtimes.items()
    half = entry.model_copy(update={"runtimes": {name: bound.model_copy(update={"proven": bound.proven / 2})}})
    return folder, result, Baseline(folder / "base.json", {"c": half}, exists=True)


def again(about: tuple[Path, CheckResult, Baseline], text: str) -> CheckResult:
    """The same result as the answer to another policy's question, beside the baseline."""
    folder, result, baseline = about
    (folder / "qebgate.yaml").write_text(text)
    (planned,) = make_plan(load_policy(folder / "qebgate.yaml")).checks
    return compared(result, planned, baseline, "5")


@pytest.mark.parametrize(("old", "new", "what"), OTHER, ids=[o[1] for o in OTHER])
def test_only_answers_to_the_same_question_are_compared(
    worse_result: tuple[Path, CheckResult, Baseline], old: str, new: str, what: str
) -> None:
    assert again(worse_result, POLICY).reason == "regressed"
    c = again(worse_result, POLICY.replace(old, new))
    assert c.baseline is not None and c.baseline.state == "not_compared" and what in c.baseline.note
    assert c.verdict == "pass"


def test_a_limit_alone_changes_no_question(worse_result: tuple[Path, CheckResult, Baseline]) -> None:
    assert again(worse_result, POLICY.replace("limit: 9.0", "limit: 8.0")).reason == "regressed"


def test_another_version_of_the_tool_is_not_compared(worse_result: tuple[Path, CheckResult, Baseline]) -> None:
    folder, result, baseline = worse_result
    old = {"c": baseline.checks["c"].model_copy(update={"tool": "0.0.1"})}
    c = again((folder, result, replace(baseline, checks=old)), POLICY)
    assert c.verdict == "pass" and c.baseline is not None and "0.0.1" in c.baseline.note


def test_the_increase_is_exact(worse_result: tuple[Path, CheckResult, Baseline]) -> None:
    """A bound of exactly the allowed size passes, the next number above does not."""
    folder, result, baseline = worse_result
    (folder / "qebgate.yaml").write_text(POLICY)
    (planned,) = make_plan(load_policy(folder / "qebgate.yaml")).checks
    was = baseline.checks["c"].runtimes["litert-xnnpack"].proven
    for figure, verdict in ((was * 2, "pass"), (math.nextafter(was * 2, math.inf), "fail")):
        now = replace(result, tasks=tuple(replace(t, proven=figure, witnessed=0.0) for t in result.tasks))
        assert compared(now, planned, baseline, "100").verdict == verdict


def test_failures_are_not_recorded(
    gate: Callable[..., CheckResult], tmp_path: Path, capsys: pytest.CaptureFixture[str], recorded: dict[str, Any]
) -> None:
    before = json.dumps(recorded)
    (tmp_path / "base.json").write_text(before)
    gate("worse", POLICY.replace("9.0", "0.001"))
    assert run(["baseline", "update"]) == 3
    assert (tmp_path / "base.json").read_text() == before
    assert "not recorded: unknown, effort" in capsys.readouterr().out


def _change(path: tuple[str, ...], value: object) -> Callable[[Any], Any]:
    def go(data: Any) -> Any:
        here = data
        for key in path[:-1]:
            here = here[key]
        here[path[-1]] = value
        return data

    return go


DAMAGED: list[tuple[str, Any]] = [
    ("no JSON", b"{"),
    ("not text", b"\xff\xfe\x00"),
    ("a list", b"[]"),
    ("nested", b"[" * 100_000),
    ("infinity", b'{"qebgate_baseline": 1, "checks": {"c": Infinity}}'),
    ("version", _change(("qebgate_baseline",), 2)),
    ("negative bound", _change(("checks", "c", "runtimes", "litert-xnnpack", "proven"), -1.0)),
    ("text as bound", _change(("checks", "c", "runtimes", "litert-xnnpack", "proven"), "1.0")),
    ("true as bound", _change(("checks", "c", "runtimes", "litert-xnnpack", "proven"), True)),
    ("no digest", _change(("checks", "c", "region"), "../../etc/passwd")),
    ("effort", _change(("checks", "c", "effort"), "huge")),
    ("extra key", _change(("checks", "c", "extra"), 1)),
]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    digest = "0" * 64
    entry = {"tool": "0.1.0", "effort": "quick", "engines": "auto", "region": digest, "question": digest}
    entry |= {"quantized_sha256": digest, "runtimes": {"litert-xnnpack": {"proven": 0.5, "witnessed": None}}}
    return {"qebgate_baseline": 1, "checks": {"c": entry}}


@pytest.mark.parametrize(("content"), [d[1] for d in DAMAGED], ids=[d[0] for d in DAMAGED])
def test_damaged_baselines(tmp_path: Path, recorded: dict[str, Any], content: Any) -> None:
    path = tmp_path / "base.json"
    path.write_text(json.dumps(recorded))
    assert read_baseline(path).checks["c"].runtimes["litert-xnnpack"].proven == 0.5
    data = content if isinstance(content, bytes) else json.dumps(content(json.loads(json.dumps(recorded)))).encode()
    path.write_bytes(data)
    with pytest.raises(PolicyError) as e:
        read_baseline(path)
    assert e.value.code == "QEB232" and str(path) in (e.value.where or "") and e.value.fix


def _waiver(models: Path, model: str, limit: float, expires: str) -> str:
    import hashlib

    sha = hashlib.sha256((models / "ratchet" / f"{model}.tflite").read_bytes()).hexdigest()
    return (
        f"waivers:\n  - {{check: c, model_sha256: '{sha}', limit: {limit}, owner: '@ml', reason: '#412', "
        f"expires: {expires}}}\n"
    )


TODAY = dt.date(2027, 1, 31)
STRICT = POLICY.split("baseline:", maxsplit=1)[0].replace(", engines: [dra]", "")


def test_a_waiver_counts_only_where_it_is_needed(gate: Callable[..., CheckResult], models: Path) -> None:
    free = gate("worse", STRICT)
    assert free.witnessed is not None and free.proven is not None
    tight = STRICT.replace("9.0", f"{free.witnessed / 2:.6f}")
    assert gate("worse", tight).reason == "refuted"
    wide = _waiver(models, "worse", 9.0, "2027-01-31")
    used = gate("worse", tight + wide, today=TODAY)
    assert used.verdict == "pass" and used.waiver is not None and used.waiver.state == "used"
    assert used.proven is not None and used.limit < used.proven <= 9.0
    assert any(t.waived for t in used.tasks)
    # not beyond its own limit
    narrow = _waiver(models, "worse", round(free.witnessed * 0.9, 6), "2027-01-31")
    assert gate("worse", tight + narrow, today=TODAY).reason == "refuted"
    # needed by no task: not counted
    unused = gate("worse", STRICT + _waiver(models, "worse", 20.0, "2027-01-31"), today=TODAY)
    assert unused.waiver is not None and unused.waiver.state == "unused" and not any(t.waived for t in unused.tasks)
    # another model: another question
    other = gate("worse", tight + _waiver(models, "better", 9.0, "2027-01-31"), today=TODAY)
    assert other.verdict == "fail" and other.waiver is not None and other.waiver.state == "other_model"


def test_an_expired_waiver_fails_the_check(gate: Callable[..., CheckResult], models: Path) -> None:
    free = gate("worse", STRICT)
    assert free.witnessed is not None
    tight = STRICT.replace("9.0", f"{free.witnessed / 2:.6f}") + _waiver(models, "worse", 9.0, "2027-01-31")
    late = gate("worse", tight, today=TODAY + dt.timedelta(days=1))
    assert (late.verdict, late.reason) == ("fail", "waiver_expired")
    assert late.waiver is not None and late.waiver.state == "expired"
    # nothing to suppress: nothing to fail
    kept = STRICT + _waiver(models, "worse", 20.0, "2027-01-31")
    assert gate("worse", kept, today=TODAY + dt.timedelta(days=1)).verdict == "pass"


def test_reports_show_waivers_and_the_data(
    gate: Callable[..., CheckResult], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate("usual", STRICT)
    np.savez(tmp_path / "x.npz", x=np.load(tmp_path / "x.npy"), y=np.array([0, 1, 2]))
    text = STRICT.replace("data: x.npy", "data: x.npz, array: x, labels: y").replace("9.0", "0.001")
    (tmp_path / "qebgate.yaml").write_text(text + _waiver(models, "usual", 9.0, "2999-12-31"))
    assert run(["check", "--format", "rich", "--format", "json=r.json", "--format", "markdown=r.md"]) == 0
    out = capsys.readouterr().out
    assert "passes only by a waiver up to 9 until 2999-12-31, by @ml: #412" in out
    assert "the models choose the same class on 1 (100.0 %); right are: float" in out
    c = json.loads((tmp_path / "r.json").read_text())["checks"][0]
    assert c["waiver"]["state"] == "used" and c["data"]["rows"] == 1 and c["data"]["float_right"] is not None
    assert "until 2999-12-31" in (tmp_path / "r.md").read_text()
    assert run(["baseline", "update"]) == 0  # nothing is recorded that only a waiver lets pass
    assert "by a waiver" in capsys.readouterr().out


def test_inputs_may_be_left_out(gate: Callable[..., CheckResult], tmp_path: Path) -> None:
    text = STRICT.replace("9.0", "0.001") + "evidence: {inputs: omit}\n"
    c = gate("usual", text)
    shown = [t.witness for t in c.tasks if t.witness is not None]
    assert shown and all(w.omitted and w.x.size == 0 and w.codes is None and w.raw is None for w in shown)
    formats = [w for f in ("json", "markdown", "html", "sarif", "junit") for w in ("--format", f"{f}=r.{f}")]
    assert run(["check", *formats]) == 1
    tasks = json.loads((tmp_path / "r.json").read_text())["checks"][0]["tasks"]
    assert any(t["witness"] for t in tasks)
    assert all(t["witness"]["input"] is t["witness"]["codes"] is t["witness"]["file"] is None for t in tasks)
    assert not (tmp_path / ".qebgate").exists()


def test_labels_must_fit(gate: Callable[..., CheckResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate("usual", STRICT)
    for y in (np.array([0, 1]), np.array([0.0, 1.0, 2.0]), np.zeros((3, 3), np.int64)):
        np.savez(tmp_path / "x.npz", x=np.load(tmp_path / "x.npy"), y=y)
        (tmp_path / "qebgate.yaml").write_text(STRICT.replace("data: x.npy", "data: x.npz, array: x, labels: y"))
        assert run(["check"]) == 4
        assert "QEB496" in capsys.readouterr().out
