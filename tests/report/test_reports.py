"""Reports say the same in every form, read back exactly, and cannot be forged by names from files."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from qebgate.errors import ExitCode, ModelError, PolicyError
from qebgate.report import text
from qebgate.report.json import RESULT_SCHEMA, render_json, to_json
from qebgate.report.markdown import MAX_BYTES, escape, render_markdown
from qebgate.report.terminal import render_terminal
from qebgate.report.witness import save_witnesses
from qebgate.result import CheckError, CheckResult, Report, RuntimeInfo, TaskResult, WitnessResult

RUNTIME = RuntimeInfo("litert-xnnpack", "2.3.0")


def task(verdict: str = "pass", **fields: object) -> TaskResult:
    base = TaskResult(
        "c",
        0,
        RUNTIME,
        "pass",
        None,
        0.1,
        0.2,
        (0, 3),
        np.array([-0.2, -0.1]),
        np.array([0.1, 0.2]),
        "certified",
        "dra",
        0.04,
    )
    if verdict == "fail":
        w = WitnessResult(
            np.zeros((1, 4), np.float32), np.ones((1, 4), np.int32), None, np.array([-0.5, 0.25]), 0.5, "falsify"
        )
        base = replace(base, verdict="fail", reason="refuted", witnessed=0.5, proven=0.7, witness=w)
    if verdict == "unknown":
        base = replace(base, verdict="unknown", reason="effort", proven=None, lower=None, upper=None, evidence=None)
    return replace(base, **fields)  # type: ignore[arg-type]


def check(verdict: str = "pass", **fields: object) -> CheckResult:
    t = task(verdict)
    base = CheckResult(
        "c", t.verdict, t.reason, "max_abs", 0.25, "proof", "fail", t.witnessed, t.proven, t.evidence,
        "m", "r", "ab", "cd", (t,), ("covers litert-xnnpack 2.3.0",),
    )  # fmt: skip
    return replace(base, **fields)  # type: ignore[arg-type]


def report(*checks: CheckResult, errors: tuple[CheckError, ...] = (), **fields: object) -> Report:
    base = Report("0.1.0", "qebgate.yaml", "ff", checks, errors, ("qebgate", "check", "a b.yaml"), 1.25)
    return replace(base, **fields)  # type: ignore[arg-type]


def terminal(r: Report, **kwargs: object) -> str:
    out = io.StringIO()
    render_terminal(r, Console(file=out, width=160, highlight=False, markup=False, emoji=False, **kwargs))  # type: ignore[arg-type]
    return out.getvalue()


BROKEN = CheckError("d", ModelError("QEB401", "no model", where="x.tflite", found="nothing", fix="add it"))
WRONG = CheckError("e", PolicyError("QEB245", "wrong policy"))


@pytest.mark.parametrize(
    ("r", "verdict", "code"),
    [
        (report(check()), "pass", 0),
        (report(check("fail")), "fail", 1),
        (report(check("unknown")), "unknown", 3),
        (report(check("unknown", on_unknown="warn")), "unknown", 0),
        (report(check(), check("unknown"), check("fail")), "fail", 1),
        (report(check(), errors=(BROKEN,)), None, 4),
        (report(check("fail"), errors=(BROKEN,)), "fail", 4),
        (report(check("fail"), errors=(BROKEN, WRONG)), "fail", 2),
        (report(check("unknown"), errors=(BROKEN,)), None, 4),
        (report(errors=(BROKEN,)), None, 4),
        (report(), None, 5),
        (report(check(), interrupted=True), "unknown", 130),
        (report(check("fail"), interrupted=True), "fail", 130),
    ],
)
def test_verdict_and_exit_code(r: Report, verdict: str | None, code: int) -> None:
    assert r.verdict == verdict
    assert r.exit_code == ExitCode(code)
    data = json.loads(render_json(r))
    assert (data["verdict"], data["exit_code"]) == (verdict, code)
    assert ("PASS" in text.summary(r)) == (verdict == "pass")
    assert (data["reproduce"] is None) == (verdict == "pass")
    assert ("To reproduce" in terminal(r)) == (verdict != "pass") == ("To reproduce" in render_markdown(r))


@pytest.mark.parametrize("r", [report(check(), check("fail"), check("unknown"), errors=(BROKEN, WRONG)), report()])
def test_json_follows_its_schema(r: Report) -> None:
    jsonschema.Draft202012Validator.check_schema(RESULT_SCHEMA)
    jsonschema.validate(json.loads(render_json(r)), RESULT_SCHEMA)


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=5))
def test_json_floats_read_back_exactly(values: list[float]) -> None:
    a = np.array(values)
    t = task(lower=a, upper=a, witnessed=values[0], proven=values[-1], outputs=tuple(range(len(values))))
    out = json.loads(render_json(report(check(tasks=(t,)))))["checks"][0]["tasks"][0]
    want = [v if math.isfinite(v) else None for v in values]
    assert out["lower"] == want == out["upper"]
    assert (out["witnessed"], out["proven"]) == (want[0], want[-1])


def test_what_is_not_established_is_null() -> None:
    t = to_json(report(check("unknown")))["checks"][0]["tasks"][0]
    assert t["proven"] is None and t["lower"] is None and t["evidence"] is None and t["witness"] is None


@given(st.floats(min_value=0, allow_infinity=False), st.floats(min_value=0, allow_infinity=False))
def test_shown_figures_are_safe(value: float, limit: float) -> None:
    """A proven bound is never shown smaller, a witness never larger, and neither as the limit when it is not."""
    up, down = float(text.proven(value, limit)), float(text.witnessed(value, limit))
    assert down <= value <= up
    if value != limit:
        assert up != limit and down != limit


HOSTILE = "x|</td>\n`[a](http://e)`<script>\x1b[31m@me ![i](u) **b** \\| \u202e\u2028 [bold]b[/]"


def test_names_cannot_forge_reports() -> None:
    rt = RuntimeInfo("litert-xnnpack", HOSTILE)
    t = task("fail", runtime=rt, engine=HOSTILE)
    error = CheckError(HOSTILE, ModelError("QEB401", HOSTILE, where=HOSTILE, found=HOSTILE, fix=HOSTILE))
    r = report(
        check("fail", id=HOSTILE, tasks=(t,), assumptions=(HOSTILE,)),
        errors=(error,),
        command=("qebgate", "check", HOSTILE),
    )
    shown = terminal(r)
    assert "\x1b" not in shown and "\u202e" not in shown and "[bold]b[/]" in shown
    md = render_markdown(r)
    for bad in ("<script", "</td>", "\x1b", "](http", "![", "@me", "**b", "\u202e", "\u2028"):
        assert bad not in md, bad
    rows = [line for line in md.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {8}
    json.loads(render_json(r))


def test_escape_leaves_plain_words_alone() -> None:
    assert escape("row 3: ok, 0.25") == "row 3: ok, 0.25"
    assert "|" not in escape("a|b") and "<" not in escape("<b>")


def test_markdown_stays_within_githubs_limit() -> None:
    many = [check("fail", id=f"check-{k}", assumptions=("x" * 900,) * 20) for k in range(300)]
    md = render_markdown(report(*many))
    assert len(md.encode()) <= MAX_BYTES
    assert "left out" in md and "To reproduce" in md


def test_terminal_without_a_tty_has_no_control_characters() -> None:
    shown = terminal(report(check(), check("fail"), check("unknown"), errors=(BROKEN,)))
    assert all(c == "\n" or c.isprintable() for c in shown)
    lines = shown.splitlines()
    assert lines[-2].startswith("FAIL: 1 passed, 1 failed, 1 unknown, 1 could not run; covers litert-xnnpack 2.3.0")
    assert "  row 0, litert-xnnpack 2.3.0: refuted; witnessed 0.5, proven 0.7, limit 0.25 (dra)" in lines
    assert "    output 0: quantized - float = -0.5" in lines
    assert lines[-1] == "To reproduce: qebgate check 'a b.yaml' --check c --check c --check d"


def test_terminal_in_colour() -> None:
    assert "\x1b[" in terminal(report(check("fail")), force_terminal=True)


def test_witnesses_are_written(tmp_path: Path) -> None:
    r, warnings = save_witnesses(report(check("fail", id="a/../../b c")), tmp_path / "w")
    file = r.checks[0].tasks[0].witness.file  # type: ignore[union-attr]
    assert warnings == [] and file is not None and Path(file).parent == tmp_path / "w"
    with np.load(file, allow_pickle=False) as z:
        assert sorted(z.files) == ["codes", "gap", "outputs", "x"]
        assert z["gap"].tolist() == [-0.5, 0.25] and z["outputs"].tolist() == [0, 3] and z["x"].dtype == np.float32
    assert to_json(r)["checks"][0]["tasks"][0]["witness"]["file"] == file
    assert file in terminal(r).replace("\n", "")


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("a file")
    r, warnings = save_witnesses(report(check("fail")), tmp_path / "w")
    assert len(warnings) == 1 and r.checks[0].tasks[0].witness.file is None  # type: ignore[union-attr]
    assert r.verdict == "fail"
