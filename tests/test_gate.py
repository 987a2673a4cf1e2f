"""The gate on real models and the real interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from qebgate.adapters import load_model
from qebgate.errors import PolicyError
from qebgate.gate import Options, Silent, check
from qebgate.policy import PolicyFile, parse_policy
from qebgate.report.json import RESULT_SCHEMA, to_json
from qebgate.result import Report, TaskResult
from qebgate.runtimes.profiles import Runtime
from qebgate.runtimes.replay import Replayer
from qebgate.verdict import NothingCheckedError
from tests.support.interrupt import interrupted

RUNTIMES = ["litert-reference", "litert-builtin", "litert-xnnpack"]


@pytest.fixture
def pair(models: Path) -> dict[str, Any]:
    return {
        "float": str(models / "dense_4.float.tflite"),
        "quantized": str(models / "dense_4.int8.tflite"),
        "input_quantization": "nearest",
    }


def ask(
    tmp_path: Path,
    pair: dict[str, Any],
    region: dict[str, Any],
    prop: dict[str, Any],
    *,
    policy: dict[str, Any] | None = None,
    **more: Any,
) -> PolicyFile:
    data = {
        "version": 1,
        "models": {"m": pair},
        "regions": {"r": region},
        "checks": [{"id": "c", "model": "m", "region": "r", "property": {"kind": "max_abs", **prop}, **more}],
        **(policy or {}),
    }
    return parse_policy(data, "test", tmp_path)


def rows(tmp_path: Path, pair: dict[str, Any], n: int = 4) -> np.ndarray:
    g = load_model(Path(pair["quantized"]))
    shape = g.input.shape[1:]
    span = (-(g.input.q.z + 128) * g.input.q.s, (127 - g.input.q.z) * g.input.q.s) if g.input.dtype.is_code else (-1, 1)
    x = np.random.default_rng(1).uniform(*span, (n, *shape)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    return x


def gaps(pair: dict[str, Any], x: np.ndarray, runtime: str) -> np.ndarray:
    """What the installed interpreter returns: quantized minus float, per row, computed here independently."""
    q = load_model(Path(pair["quantized"]))
    t = q.input.q
    codes = np.clip(np.rint(x / np.float32(t.s) + np.float32(t.z)), -128, 127).astype(np.int8)
    with Replayer(pair["float"], Runtime(runtime)) as rf, Replayer(pair["quantized"], Runtime(runtime)) as rq:
        yf = rf.run(x[:, None] if x.ndim == 2 else x).reshape(len(x), -1)
        yq = rq.run(codes[:, None] if x.ndim == 2 else codes).reshape(len(x), -1)
    o = q.output.q
    return (yq.astype(np.float64) - o.z) * o.s - yf.astype(np.float64)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_points_give_the_interpreters_gap(tmp_path: Path, pair: dict[str, Any], runtime: str) -> None:
    x = rows(tmp_path, pair)
    truth = np.abs(gaps(pair, x, runtime)).max(axis=1)
    region = {"kind": "points", "data": "x.npy"}
    report = check(ask(tmp_path, {**pair, "runtime": runtime}, region, {"limit": 1000.0}))
    tasks = report.checks[0].tasks
    assert [t.index for t in tasks] == [0, 1, 2, 3]
    for t, want in zip(tasks, truth, strict=True):
        assert t.witnessed == want
        assert t.verdict == "pass" and t.proven is not None and want <= t.proven <= want + 1e-4
    assert report.verdict == "pass" and report.exit_code == 0


def test_pass_above_and_fail_below_the_truth(tmp_path: Path, pair: dict[str, Any]) -> None:
    """Every code of the whole input: the limit's own ends, in all three runtimes."""
    region = {"kind": "box", "lower": -1000.0, "upper": 1000.0, "domain": "grid"}
    spec = {**pair, "runtime": RUNTIMES}
    del spec["input_quantization"]
    first = check(ask(tmp_path, spec, region, {"limit": 1000.0}, engines=["falsify", "enumerate"]))
    assert [t.runtime.name for t in first.checks[0].tasks] == RUNTIMES
    for t in first.checks[0].tasks:
        assert t.verdict == "pass" and t.evidence == "exhaustive"
        assert t.witnessed is not None and t.proven is not None and t.witnessed <= t.proven
        for factor, verdict in ((1.02, "pass"), (0.98, "fail")):
            prop = {"limit": t.proven * factor}
            one = check(ask(tmp_path, {**spec, "runtime": t.runtime.name}, region, prop)).checks[0]
            assert one.verdict == verdict, (t.runtime, factor)


def test_a_failure_shows_its_input(tmp_path: Path, pair: dict[str, Any]) -> None:
    """The witness, run again from outside, gives the gap that the report claims."""
    x = rows(tmp_path, pair)
    region = {"kind": "ball", "data": "x.npy", "radius": 1, "unit": "lsb", "domain": "grid"}
    report = check(ask(tmp_path, pair, region, {"limit": 0.0}))
    assert report.verdict == "fail" and report.exit_code == 1
    seen = 0
    for t in report.checks[0].tasks:
        if t.verdict != "fail":
            continue
        w = t.witness
        assert w is not None and w.codes is not None and t.reason == "refuted"
        t_in = load_model(Path(pair["quantized"])).input.q
        assert (w.x == ((w.codes.astype(np.float64) - t_in.z) * t_in.s).astype(np.float32)).all()
        quanta = np.abs(w.x.reshape(-1) - x[t.index].reshape(-1)) / t_in.s
        assert quanta.max() <= 1.5 + 1e-3
        again = gaps(pair, w.x.reshape(1, *x.shape[1:]), t.runtime.name)[0]
        assert again[list(t.outputs)].tolist() == w.gap.tolist()
        assert w.figure == t.witnessed == np.abs(w.gap).max() > 0.0
        seen += 1
    assert seen > 0


def test_result_file(tmp_path: Path, pair: dict[str, Any]) -> None:
    rows(tmp_path, pair)
    region = {"kind": "ball", "data": "x.npy", "radius": 0.01, "out_of_range": "allow"}
    data = to_json(check(ask(tmp_path, pair, region, {"limit": 0.001})))
    jsonschema.validate(json.loads(json.dumps(data)), RESULT_SCHEMA)
    one = data["checks"][0]
    import hashlib

    assert one["model"]["quantized_sha256"] == hashlib.sha256(Path(pair["quantized"]).read_bytes()).hexdigest()
    assert one["model"]["float_sha256"] == hashlib.sha256(Path(pair["float"]).read_bytes()).hexdigest()
    for t in one["tasks"]:
        if t["proven"] is not None:
            assert len(t["outputs"]) == len(t["lower"]) == len(t["upper"])
            assert max(max(-lo, hi) for lo, hi in zip(t["lower"], t["upper"], strict=True)) == t["proven"]
            assert t["witnessed"] is None or t["witnessed"] <= t["proven"]
    words = " ".join(one["assumptions"])
    for w in ("litert-xnnpack", "float32", "nearest", "domain real", "4 of 4 rows"):
        assert w in words


def test_max_lsb_counts_output_quanta(tmp_path: Path, pair: dict[str, Any]) -> None:
    rows(tmp_path, pair)
    region = {"kind": "points", "data": "x.npy"}
    real = check(ask(tmp_path, pair, region, {"limit": 1000.0})).checks[0]
    lsb = check(ask(tmp_path, pair, region, {"kind": "max_lsb", "limit": 1000.0})).checks[0]
    scale = load_model(Path(pair["quantized"])).output.q.s
    assert real.witnessed is not None and lsb.witnessed == real.witnessed / scale


def test_float_output_is_measured_in_the_quanta_behind_it(tmp_path: Path, models: Path) -> None:
    spec = {"float": str(models / "dense_4.float.tflite"), "quantized": str(models / "dense_4.float_io.tflite")}
    g = load_model(models / "dense_4.float_io.tflite")
    inner = g.tensors[g.producer[g.outputs[0]].inputs[0]].q.s
    np.save(tmp_path / "x.npy", np.zeros((1, *g.input.shape[1:]), np.float32))
    region = {"kind": "points", "data": "x.npy"}
    real = check(ask(tmp_path, spec, region, {"limit": 1000.0})).checks[0]
    lsb = check(ask(tmp_path, spec, region, {"kind": "max_lsb", "limit": 1000.0})).checks[0]
    assert real.witnessed is not None and lsb.witnessed == real.witnessed / inner


def test_predicted_and_chosen_outputs(tmp_path: Path, pair: dict[str, Any]) -> None:
    x = rows(tmp_path, pair)
    region = {"kind": "points", "data": "x.npy"}
    with Replayer(pair["float"], Runtime.REFERENCE) as r:
        y = r.run(x.reshape(len(x), 1, -1)).reshape(len(x), -1)
    found = check(ask(tmp_path, pair, region, {"limit": 1000.0, "outputs": "predicted"})).checks[0].tasks
    assert [t.outputs for t in found] == [(int(k),) for k in y.argmax(axis=1)]
    chosen = check(ask(tmp_path, pair, region, {"limit": 1000.0, "outputs": [0]})).checks[0].tasks
    every = check(ask(tmp_path, pair, region, {"limit": 1000.0})).checks[0].tasks
    for a, b in zip(chosen, every, strict=True):
        assert a.outputs == (0,) and a.lower is not None and b.lower is not None and a.lower[0] == b.lower[0]


def test_out_of_range_regions_fail_unless_allowed(tmp_path: Path, pair: dict[str, Any]) -> None:
    x = rows(tmp_path, pair, 2)
    x[1] = 1e3
    np.save(tmp_path / "x.npy", x)
    region = {"kind": "points", "data": "x.npy"}
    report = check(ask(tmp_path, pair, region, {"limit": 1e6}))
    assert [(t.verdict, t.reason) for t in report.checks[0].tasks] == [("pass", None), ("fail", "out_of_range")]
    assert (report.checks[0].reason, report.exit_code) == ("out_of_range", 1)
    allowed = check(ask(tmp_path, pair, {**region, "out_of_range": "allow"}, {"limit": 1e6}))
    assert allowed.verdict == "pass"
    assert any("beyond the quantized input's range" in a for a in allowed.checks[0].assumptions)


def test_preprocessing_maps_raw_rows(tmp_path: Path, pair: dict[str, Any]) -> None:
    x = rows(tmp_path, pair)
    region = {"kind": "points", "data": "x.npy"}
    plain = check(ask(tmp_path, pair, region, {"limit": 1000.0})).checks[0]
    np.save(tmp_path / "raw.npy", (x * 4 + 8).astype(np.float32))
    x2 = ((np.load(tmp_path / "raw.npy") * np.float32(0.25)) - np.float32(2)).astype(np.float32)
    np.save(tmp_path / "x2.npy", x2)
    spec = {**pair, "preprocess": {"scale": 0.25, "mean": 2.0, "std": 1.0}}
    raw = check(ask(tmp_path, spec, {**region, "data": "raw.npy"}, {"limit": 1000.0})).checks[0]
    direct = check(ask(tmp_path, pair, {**region, "data": "x2.npy"}, {"limit": 1000.0})).checks[0]
    assert [t.witnessed for t in raw.tasks] == [t.witnessed for t in direct.tasks]
    assert plain.verdict == raw.verdict == "pass"


def test_rows_are_chosen_as_the_policy_says(tmp_path: Path, pair: dict[str, Any]) -> None:
    rows(tmp_path, pair, 20)

    def indices(**region: Any) -> list[int]:
        found = check(ask(tmp_path, pair, {"kind": "points", "data": "x.npy", **region}, {"limit": 1000.0}))
        return [t.index for t in found.checks[0].tasks]

    assert indices(limit=3) == [0, 1, 2]
    assert indices(limit=99) == list(range(20))
    a = indices(sample=5, seed=7)
    assert a == indices(sample=5, seed=7) and len(set(a)) == 5 and a == sorted(a)
    assert a != indices(sample=5, seed=8)


def test_several_processes_give_the_same_answers(tmp_path: Path, pair: dict[str, Any]) -> None:
    rows(tmp_path, pair, 3)
    region = {"kind": "ball", "data": "x.npy", "radius": 2, "unit": "lsb", "domain": "grid"}
    source = ask(tmp_path, {**pair, "runtime": RUNTIMES[:2]}, region, {"limit": 0.01})

    def facts(r: Report) -> list[tuple[Any, ...]]:
        return [(t.index, t.runtime, t.verdict, t.reason, t.witnessed, t.evidence) for t in r.checks[0].tasks]

    one, two = check(source), check(source, Options(jobs=2))
    assert facts(one) == facts(two)
    proven = [[t.proven for t in r.checks[0].tasks] for r in (one, two)]
    # sums of float64 depend on how memory is aligned: proven bounds agree to their own roundoff
    assert proven[0] == pytest.approx(proven[1], rel=1e-9)


def test_errors_travel_between_processes(tmp_path: Path, pair: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A coded error inside a worker is the same error outside, and a bug stops the run."""
    from qebgate.errors import DataError, InternalError
    from qebgate.running import _Coded

    error = DataError("QEB456", "bad row", "row 1", "nan", "fix it")
    again = _Coded(type(error), (error.code, error.message, error.where, error.found, error.fix)).error()
    assert str(again) == str(error) and type(again) is DataError
    with pytest.raises(InternalError):
        _Coded(InternalError, ("QEB999", "a bug", None, None, None)).error()


def test_a_time_guard_leaves_tasks_unknown(tmp_path: Path, pair: dict[str, Any]) -> None:
    rows(tmp_path, pair)
    region = {"kind": "points", "data": "x.npy"}
    source = ask(tmp_path, pair, region, {"limit": 1000.0}, policy={"guard": {"total": "0.000001ms"}})
    report = check(source)
    assert {(t.verdict, t.reason) for t in report.checks[0].tasks} == {("unknown", "guard_time")}
    assert (report.verdict, report.exit_code) == ("unknown", 3)
    warned = ask(tmp_path, pair, region, {"limit": 1.0}, policy={"guard": {"total": "0.000001ms"}}, on_unknown="warn")
    assert check(warned).exit_code == 0 and check(warned).verdict == "unknown"


class Stopper(Silent):
    """Interrupts after the first task."""

    def finished(self, result: TaskResult) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_run_never_passes(tmp_path: Path, pair: dict[str, Any]) -> None:
    rows(tmp_path, pair)
    source = ask(tmp_path, pair, {"kind": "points", "data": "x.npy"}, {"limit": 1000.0})
    report = check(source, Options(observer=Stopper()))
    assert report.interrupted and report.exit_code == 130
    assert report.verdict == "unknown" and not report.checks[0].complete
    assert len(report.checks[0].tasks) == 1 and report.checks[0].proven is None
    failing = ask(tmp_path, pair, {"kind": "points", "data": "x.npy"}, {"limit": 0.0})
    assert check(failing, Options(observer=Stopper())).verdict == "fail"


def test_tested_is_not_proof(tmp_path: Path, pair: dict[str, Any]) -> None:
    rows(tmp_path, pair, 1)
    region = {"kind": "ball", "data": "x.npy", "radius": 0.01, "out_of_range": "allow"}
    report = check(ask(tmp_path, pair, region, {"limit": 1000.0}, require="tested", engines=["falsify"]))
    one = report.checks[0]
    assert (one.verdict, one.evidence, one.proven) == ("pass", "tested", None)
    assert one.witnessed is not None
    proof = check(ask(tmp_path, pair, region, {"limit": 1000.0}, engines=["falsify"])).checks[0]
    assert (proof.verdict, proof.reason) == ("unknown", "effort")


def test_unknown_checks_and_empty_policies(tmp_path: Path, pair: dict[str, Any]) -> None:
    rows(tmp_path, pair)
    source = ask(tmp_path, pair, {"kind": "points", "data": "x.npy"}, {"limit": 1.0})
    with pytest.raises(PolicyError) as e:
        check(source, Options(only=("d",)))
    assert e.value.code == "QEB218"
    with pytest.raises(PolicyError):
        check(source, Options(jobs=0))
    empty = parse_policy({"version": 1, "models": {}, "regions": {}, "checks": []}, "test", tmp_path)
    with pytest.raises(NothingCheckedError):
        check(empty)


POLICY = """\
version: 1
models:
  m: {{float: "{float}", quantized: "{quantized}", input_quantization: nearest}}
regions:
  r: {{kind: points, data: x.npy}}
checks:
  - {{id: good, model: m, region: r, property: {{kind: max_abs, limit: 1000}}}}
  - {{id: bad, model: m, region: r, property: {{kind: max_abs, limit: 0}}}}
"""


@pytest.fixture
def folder(tmp_path: Path, pair: dict[str, Any]) -> Path:
    rows(tmp_path, pair)
    (tmp_path / "qebgate.yaml").write_text(POLICY.format(**pair))
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with this repository's package first."""
    root = Path(__file__).resolve().parents[1]
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", **more}


def shell(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qebgate", *args],
        cwd=folder,
        env=environment(**env),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_line(folder: Path) -> None:
    done = shell(folder, "check", "--format", "json=out/r.json", "--format", "markdown=r.md", "--format", "rich")
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1] == "To reproduce: qebgate check --check bad"
    assert done.stdout.splitlines()[-2].startswith("FAIL: 1 passed, 1 failed; covers litert-xnnpack")
    result = json.loads((folder / "out/r.json").read_text())
    jsonschema.validate(result, RESULT_SCHEMA)
    assert [c["verdict"] for c in result["checks"]] == ["pass", "fail"]
    assert "FAIL" in (folder / "r.md").read_text()
    file = result["checks"][1]["tasks"][0]["witness"]["file"]
    assert (folder / file).is_file() and file in done.stdout


def test_the_command_line_passes(folder: Path) -> None:
    done = shell(folder, "check", "--check", "good")
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("PASS: 1 passed")
    assert "To reproduce" not in done.stdout


def test_exit_zero_and_json_on_the_standard_output(folder: Path) -> None:
    done = shell(folder, "check", "--exit-zero", "--format", "json")
    assert done.returncode == 0 and json.loads(done.stdout)["verdict"] == "fail"


def test_the_job_summary_is_shared(folder: Path) -> None:
    (folder / "summary").write_text("before\n")
    path = str(folder / "summary")
    shell(folder, "check", "--format", f"markdown={path}", GITHUB_STEP_SUMMARY=path)
    text = (folder / "summary").read_text()
    assert text.startswith("before\n") and "qebgate" in text


def test_set_replaces_a_model(folder: Path, models: Path) -> None:
    done = shell(folder, "check", "--set", f"models.m.quantized={models}/dense_8_8.int8.tflite")
    assert done.returncode == 4 and "--set" in done.stdout


def test_plan_runs_nothing(folder: Path) -> None:
    done = shell(folder, "check", "--plan")
    assert done.returncode == 0 and "8 tasks in 2 checks" in done.stdout


def test_compare(folder: Path, pair: dict[str, Any]) -> None:
    words = ["compare", pair["float"], pair["quantized"], "--data", "x.npy", "--radius", "2lsb"]
    assert shell(folder, *words, "--max-abs", "1000").returncode == 0
    done = shell(folder, *words, "--max-abs", "0", "--format", "json=r.json")
    assert done.returncode == 1
    assert f"qebgate compare {pair['float']}" in done.stdout and "--format" not in done.stdout.split("reproduce:")[1]
    need = shell(folder, *words[:5], "--max-lsb", "1")
    assert need.returncode == 2 and "QEB245" in need.stdout


def test_inspect(folder: Path, pair: dict[str, Any]) -> None:
    done = shell(folder, "inspect", pair["float"], pair["quantized"])
    assert done.returncode == 0 and "FULLY_CONNECTED" in done.stdout and "the same network" in done.stdout
    assert shell(folder, "inspect", "x.npy").returncode == 4


def test_schema_command(folder: Path) -> None:
    schema = json.loads(shell(folder, "schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(shell(folder, "schema", "--result").stdout) == RESULT_SCHEMA


def test_a_check_imports_no_tensorflow(folder: Path) -> None:
    script = (
        "import sys; from qebgate.cli import run; code = run(['check', '--exit-zero']);"
        "print('RESULT', code, [m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'keras', 'tf_keras')])"
    )
    env = environment()
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "RESULT 0 []"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c(folder: Path, pair: dict[str, Any], jobs: str) -> None:
    """An interrupted process group ends with 130, says what it knows, and leaves nothing running."""
    rows(folder, pair, 20000)
    code, out, err = interrupted(folder, environment(), "check", "--check", "good", "--jobs", jobs)
    assert code == 130, err
    assert "INTERRUPTED" in out and "Traceback" not in err and "PASS:" not in out
