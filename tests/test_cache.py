"""The cache: everything that matters is in the key, what is read back is judged again, interrupted runs go on."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from qebgate.cache import Cache, _sha256, environment, storable
from qebgate.canonical import UnknownKindError, digest, from_data, to_data
from qebgate.cli import run
from qebgate.gate import Options, Silent, check
from qebgate.plan import Job, make_plan
from qebgate.policy import PolicyFile, parse_policy
from qebgate.regions.line import Line
from qebgate.report.json import RESULT_SCHEMA, to_json
from qebgate.result import Report, RuntimeInfo, TaskResult, WitnessResult
from tests.support.interrupt import interrupted

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(autouse=True)
def _unedited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool's source may be edited while its tests run."""
    monkeypatch.setattr("qebgate.cache._source", lambda: "the source")


def ask(
    folder: Path, models: Path, limit: float = 1e-3, region: dict[str, Any] | None = None, **more: Any
) -> PolicyFile:
    """Four rows with balls around them: about a tiny converted pair."""
    if not (folder / "x.npy").exists():
        np.save(folder / "x.npy", np.random.default_rng(0).uniform(-0.5, 0.5, (4, 2)).astype(np.float32))
    model = {
        "float": str(models / "dense_4.float.tflite"),
        "quantized": str(models / "dense_4.int8.tflite"),
        "input_quantization": "nearest",
        **more.pop("model", {}),
    }
    ball = {"kind": "ball", "data": "x.npy", "radius": 4, "unit": "lsb", "domain": "grid"}
    data = {
        "version": 1,
        "models": {"m": model},
        "regions": {"r": {**ball, **(region or {})}},
        "checks": [{"id": "c", "model": "m", "region": "r", "property": {"kind": "max_abs", "limit": limit}, **more}],
    }
    return parse_policy(data, "test", folder)


class Count(Silent):
    """Counts the tasks that were really run."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.ran = 0
        self.seen = 0
        self.stop = stop_after

    def finished(self, result: TaskResult) -> None:
        self.seen += 1
        self.ran += not result.from_cache
        if self.seen == self.stop:
            raise KeyboardInterrupt


def go(source: PolicyFile, folder: Path, stop_after: int = 10**9) -> tuple[Report, Count, Cache]:
    cache, count = Cache.open(folder / "cache"), Count(stop_after)
    assert cache is not None and cache.usable
    return check(source, Options(observer=count, cache=cache)), count, cache


@pytest.fixture(scope="module")
def _answered(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """A cache with the results of both limits."""
    folder = tmp_path_factory.mktemp("answered")
    with pytest.MonkeyPatch.context() as m:
        m.setattr("qebgate.cache._source", lambda: "the source")
        for limit in (1e-3, 1e3):
            go(ask(folder, models, limit), folder)
    return folder / "cache"


@pytest.fixture
def stored(_answered: Path, tmp_path: Path) -> Path:
    """A copy of it in this test's folder."""
    shutil.copytree(_answered, tmp_path / "cache")
    return tmp_path


def held(source: PolicyFile, folder: Path) -> tuple[int, Cache]:
    """How many of a policy's tasks the cache answers."""
    cache = Cache.open(folder / "cache")
    assert cache is not None and cache.usable
    return sum(cache.get(j) is not None for c in make_plan(source).checks for j in c.jobs), cache


def entry(source: PolicyFile, folder: Path) -> Path:
    """The entry of a policy's first task."""
    cache = Cache.open(folder / "cache")
    assert cache is not None
    key = cache.key(make_plan(source).checks[0].jobs[0])
    (path,) = (p for p in entries(folder) if p.stem == key)
    return path


def same(a: TaskResult, b: TaskResult) -> None:
    """Every field, bit for bit, but for where it came from."""
    assert to_data(TaskResult, replace(a, from_cache=False)) == to_data(TaskResult, replace(b, from_cache=False))


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_the_second_run_computes_nothing(tmp_path: Path, models: Path, limit: float) -> None:
    source = ask(tmp_path, models, limit)
    one, ran, _ = go(source, tmp_path)
    two, again, cache = go(source, tmp_path)
    assert (ran.ran, again.ran, again.seen) == (4, 0, 4) and not cache.notices
    assert one.verdict == two.verdict == ("fail" if limit < 1 else "pass")
    for a, b in zip(one.checks[0].tasks, two.checks[0].tasks, strict=True):
        assert b.from_cache and not a.from_cache
        same(a, b)
    data = json.loads(json.dumps(to_json(two)))
    jsonschema.validate(data, RESULT_SCHEMA)
    assert [t["from_cache"] for t in data["checks"][0]["tasks"]] == [True] * 4


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, models: Path) -> None:
    source = ask(tmp_path, models, 1e3)
    first, _, _ = go(source, tmp_path, stop_after=2)
    assert first.interrupted and first.exit_code == 130 and first.verdict == "unknown"
    second, count, _ = go(source, tmp_path)
    assert (count.ran, count.seen) == (2, 4) and second.verdict == "pass" and second.checks[0].complete


CHANGES: list[dict[str, Any]] = [
    {"limit": 2e3},
    {"region": {"radius": 3}},
    {"region": {"domain": "real", "out_of_range": "allow"}},
    {"region": {"clip": [-0.4, 0.4]}},
    {"model": {"runtime": "litert-reference"}},
    {"model": {"float_semantics": "real"}},
    {"model": {"input_quantization": "truncate"}},
    {"model": {"preprocess": {"scale": 2.0, "mean": 0.0, "std": 1.0}}},
    {"require": "proof_or_solver"},
    {"effort": "deep"},
    {"engines": ["dra"]},
]


def keys(source: PolicyFile, cache: Cache) -> set[str]:
    found = {cache.key(j) for c in make_plan(source).checks for j in c.jobs}
    assert None not in found
    return {k for k in found if k is not None}


def test_whatever_matters_changes_the_key(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache.open(tmp_path / "cache")
    assert cache is not None
    base = keys(ask(tmp_path, models, 1e3), cache)
    assert len(base) == 4 and keys(ask(tmp_path, models, 1e3), cache) == base
    seen = set(base)
    for change in CHANGES:
        new = keys(ask(tmp_path, models, **{"limit": 1e3, **change}), cache)
        assert not new & seen, change
        seen |= new
    for key, name in (("float", "dense_4.float"), ("quantized", "dense_4.int8")):
        content = bytearray((models / f"{name}.tflite").read_bytes())
        content += b"\0" * 8  # the same network in another file is another model
        (tmp_path / "other.tflite").write_bytes(content)
        new = keys(ask(tmp_path, models, 1e3, model={key: "other.tflite"}), cache)
        assert not new & seen
    for name, value in (("cpu_features", lambda: ("another",)), ("__version__", "9"), ("_source", lambda: "edited")):
        with monkeypatch.context() as m:
            m.setattr(f"qebgate.cache.{name}", value)
            other = Cache.open(tmp_path / "cache")
            assert other is not None and not keys(ask(tmp_path, models, 1e3), other) & base
    with monkeypatch.context() as m:
        m.setattr("qebgate.cache.importlib.metadata.version", lambda name: "0")
        assert environment() != cache._environment


def test_every_field_of_a_job_is_in_the_key(tmp_path: Path, models: Path) -> None:
    """A field that somebody adds is counted without being named; names and row numbers do not count."""
    cache = Cache.open(tmp_path / "cache")
    assert cache is not None
    job = make_plan(ask(tmp_path, models)).checks[0].jobs[0]
    base = cache.key(job)
    assert cache.key(replace(job, check="another")) == base
    assert cache.key(replace(job, cell=replace(job.cell, index=7))) == base
    other = {
        "pair": job.pair.at("logits") if job.pair.at("logits") is not job.pair else None,
        "cell": replace(job.cell, centre=job.cell.centre + 1),
        "codec": replace(job.codec, mode="truncate"),
        "outputs": None,
        "info": RuntimeInfo(job.info.name, "0"),
        "budget": replace(job.budget, seed=1),
        "blocked": True,
        "keep": True,
    }
    for f in fields(Job):
        if f.name == "check" or (f.name in other and f.name == "pair"):
            continue
        value = other.get(f.name, "something else")
        assert cache.key(replace(job, **{f.name: value})) != base, f.name
    pair = replace(job.pair, steps=job.pair.steps[:-1])
    assert cache.key(replace(job, pair=pair)) != base


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "v1").glob("*/*.json"))


def forged(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """An entry with another result, and the right checksum for it."""
    entry = json.loads(path.read_text())
    result = json.loads(entry["result"])
    change(result)
    entry["result"] = json.dumps(result)
    entry["sha256"] = _sha256(entry["result"])
    path.write_text(json.dumps(entry))


def _set(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda r: r.update(values)


FORGERIES: list[Callable[[dict[str, Any]], None]] = [
    _set(verdict="fail", reason="refuted"),
    _set(verdict="perhaps"),
    _set(proven=(0.5).hex()),
    _set(lower=None, upper=None),
    _set(lower=None, upper=None, proven=None),
    _set(evidence=None),
    _set(evidence="tested"),
    _set(evidence="solver"),
    _set(outputs=[1]),
    _set(evidence="tested", proven=None, lower=None, upper=None),
    _set(outputs=[10**6, 0, 1]),
    _set(outputs=[]),
    _set(witnessed=(2e3).hex()),
    _set(witnessed="nan"),
    _set(witnessed=1.5),
    _set(seconds=(-1.0).hex()),
    _set(reason="guard_time"),
    _set(unknown_field=1),
    lambda r: r.pop("engine"),
    lambda r: r["upper"].update(data=r["upper"]["data"][:-8]),
    lambda r: r["upper"].update(dtype="|O"),
    lambda r: r["upper"].update(shape=[-1]),
    lambda r: r["upper"].update(shape=[1 << 70, 0]),
    lambda r: r.update(upper=to_data(get_type_hints(TaskResult)["upper"], np.full(len(r["outputs"]), 2e3))),
    lambda r: r.update(upper=to_data(get_type_hints(TaskResult)["upper"], np.full(len(r["outputs"]), np.nan))),
    lambda r: r.update(upper=r["lower"], lower=r["upper"]),
]


def test_entries_that_cannot_be_are_ignored(stored: Path, models: Path) -> None:
    tmp_path = stored
    source = ask(tmp_path, models, 1e3)
    good = {p: p.read_bytes() for p in entries(tmp_path)}
    path = entry(source, tmp_path)
    jobs = make_plan(source).checks[0].jobs
    for n, change in enumerate([None, *FORGERIES]):
        cache = Cache.open(tmp_path / "cache")
        assert cache is not None
        if change is not None:
            forged(path, change)
        found = [cache.get(j) is not None for j in jobs]
        if change is None:
            assert found == [True] * 4 and not cache.notices
        else:
            assert found.count(False) == 1 and "damaged" in cache.notices[0], n
        path.write_bytes(good[path])
    for content in (
        b"",
        b"{",
        b"[]",
        b"\xff",
        good[path][:-9],
        b"[" * 100_000,
        b'{"qebgate": NaN}',
        next(content for p, content in good.items() if p != path),
    ):
        path.write_bytes(content)
        cache = Cache.open(tmp_path / "cache")
        assert cache is not None
        assert [cache.get(j) is not None for j in jobs].count(False) == len(cache.notices) == 1, content[:20]
    report, count, cache = go(source, tmp_path)
    assert report.verdict == "pass" and count.ran == 1 and len(cache.notices) == 1
    assert path.read_bytes() != content and held(source, tmp_path)[0] == 4


def test_a_counterexample_is_run_again(stored: Path, models: Path) -> None:
    """A stored FAIL whose input does not fail, or is not of the region, is no FAIL."""
    tmp_path = stored
    failing, passing = ask(tmp_path, models, 1e-3), ask(tmp_path, models, 1e3)
    cache = Cache.open(tmp_path / "cache")
    assert cache is not None
    bad, good = (make_plan(s).checks[0].jobs[0] for s in (failing, passing))
    result = cache.get(bad)
    assert result is not None and result.verdict == "fail" and result.witness is not None
    forged_fail = replace(result, from_cache=False, witnessed=5e3, proven=None, lower=None, upper=None, evidence=None)
    cache.put(good, forged_fail)
    report, count, _ = go(passing, tmp_path)
    assert report.verdict == "pass" and count.ran == 1
    w = result.witness
    assert w.codes is not None
    for moved in (
        replace(w, codes=w.codes + np.int32(100), x=bad.codec.grid(w.codes + 100)),
        replace(w, codes=w.codes + np.int32(1)),
        replace(w, codes=None),
        replace(w, x=w.x[..., :1]),
        replace(w, x=w.x * np.float32(np.nan)),
    ):
        cache.put(bad, replace(result, from_cache=False, witness=moved))
        assert cache.get(bad) is None and cache.notices


def test_errors_and_guarded_tasks_are_not_stored(stored: Path, models: Path) -> None:
    tmp_path = stored
    source = ask(tmp_path, models, 1e3)
    job = make_plan(source).checks[0].jobs[0]
    cache = Cache.open(tmp_path / "cache")
    assert cache is not None
    r = cache.get(job)
    assert r is not None
    for reason in ("guard_time", "guard_memory"):
        assert not storable(job, replace(r, verdict="unknown", reason=reason))
    assert storable(job, replace(r, verdict="unknown", reason="effort"))
    assert not storable(job, replace(r, verdict="fail", reason="out_of_range"))
    assert not storable(replace(job, blocked=True), r)
    assert not storable(job, replace(r, waived=True))
    assert not storable(replace(job, waived=1.0), replace(r, verdict="unknown", reason="effort"))
    line = Line.__new__(Line)
    assert not storable(replace(job, cell=replace(job.cell, line=line)), replace(r, verdict="fail", reason="refuted"))
    stopped = parse_policy(
        {**source.policy.model_dump(mode="json", by_alias=True, exclude_unset=True), "guard": {"total": "0.000001ms"}},
        "test",
        tmp_path,
    )
    for p in entries(tmp_path):
        p.unlink()
    assert go(stopped, tmp_path)[0].checks[0].reason == "guard_time" and not entries(tmp_path)


def test_private_inputs_are_written_nowhere(tmp_path: Path, models: Path) -> None:
    source = ask(tmp_path, models, 1e-3)
    data = source.policy.model_dump(mode="json", by_alias=True, exclude_unset=True)
    private = parse_policy({**data, "evidence": {"inputs": "omit"}}, "test", tmp_path)
    assert go(private, tmp_path)[0].verdict == "fail" and not entries(tmp_path)


def test_only_the_users_own_files_are_believed(stored: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path = stored
    source = ask(tmp_path, models, 1e3)
    folder, path = tmp_path / "cache", entry(source, tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700 and path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o666)
    n, cache = held(source, tmp_path)
    assert n == 3 and "ignored" in cache.notices[0]
    target = tmp_path / "elsewhere.json"
    path.replace(target)
    path.symlink_to(target)
    assert held(source, tmp_path)[0] == 3
    path.unlink()
    os.mkfifo(path)
    assert held(source, tmp_path)[0] == 3
    folder.chmod(0o777)
    cache = Cache.open(folder)
    assert cache is not None and not cache.usable and "others can write" in cache.notices[0]
    folder.chmod(0o700)
    with monkeypatch.context() as m:
        m.setattr("qebgate.cache.os.geteuid", lambda: os.getuid() + 1)
        cache = Cache.open(folder)
        assert cache is not None and not cache.usable
    (tmp_path / "file").write_text("")
    cache = Cache.open(tmp_path / "file")
    assert cache is not None and not cache.usable
    report = check(source, Options(cache=cache))
    assert report.verdict == "pass" and not any(t.from_cache for t in report.checks[0].tasks)


def test_a_full_cache_drops_its_oldest_entries(stored: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path = stored
    old = entries(tmp_path)
    for p in old:
        os.utime(p, (1, 1))
    monkeypatch.setattr("qebgate.cache.MAX_TOTAL", sum(p.stat().st_size for p in old) + 100)
    go(ask(tmp_path, models, 2e3), tmp_path)
    left = entries(tmp_path)
    assert len(set(left) - set(old)) == 4 and len(left) <= len(old)


def test_results_read_back_exactly() -> None:
    x = np.array([1e-45, -0.0, np.inf, 0.1], np.float32)
    w = WitnessResult(x, np.array([[1, -2]], np.int32), None, np.array([0.1, math.nextafter(1, 2)]), 5e-324, "e", None)
    r = TaskResult("c", 3, RuntimeInfo("r", None), "fail", "refuted", 0.1 + 0.2, math.inf, (0, 2),
                   np.array([-np.inf, 1e308]), None, None, "dra", 1e-9, w, (0.1, 1 / 3))  # fmt: skip
    data = json.loads(json.dumps(to_data(TaskResult, r)))
    again = from_data(TaskResult, data)
    assert to_data(TaskResult, again) == data and again.witness.x.tobytes() == x.tobytes()
    assert (again.witnessed, again.proven, again.noise_floor, again.outputs) == (
        0.1 + 0.2,
        math.inf,
        (0.1, 1 / 3),
        (0, 2),
    )
    assert again.lower.tolist() == [-math.inf, 1e308] and again.witness.gap.dtype == np.float64


@dataclass(frozen=True)
class Two:
    a: object
    b: object


def test_digests_tell_values_apart() -> None:
    values: list[Any] = [
        None, True, False, 0, 1, 0.0, -0.0, 1.0, "1", b"1", "", (), [], ("", ""), ("",), (1, (2,)), ((1,), 2), (1, 2),
        Fraction(1, 2), 0.5, {"a": 1}, {"a": 1.0}, {1, 2}, np.zeros(2), np.zeros((1, 2)), np.zeros(2, np.float32),
        np.zeros(2, np.int64), np.array(0.0), Two(1, 2), Two(2, 1), Two("ab", "c"), Two("a", "bc"), float("nan"),
    ]  # fmt: skip
    assert len({digest(v) for v in values}) == len(values)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) and digest(np.ones((2, 3)).T) == digest(np.ones((3, 2)))
    assert digest(np.arange(6).reshape(2, 3).T) != digest(np.arange(6).reshape(3, 2))
    for v in (object(), lambda: 1, np.array([object()]), Two):
        with pytest.raises(UnknownKindError):
            digest(v)


POLICY = """version: 1
models: {{m: {{float: "{f}", quantized: "{q}"}}}}
regions: {{r: {{kind: ball, data: x.npy, radius: 2, unit: lsb, domain: grid}}}}
checks: [{{id: c, model: m, region: r, property: {{kind: max_abs, limit: 1000}}}}]
"""


def test_ctrl_c_then_the_same_command_again(
    tmp_path: Path, models: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted after its first stored results, the second run takes what was done from the cache."""
    monkeypatch.undo()
    f, q = models / "dense_4.float.tflite", models / "dense_4.int8.tflite"
    (tmp_path / "qebgate.yaml").write_text(POLICY.format(f=f, q=q))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(-0.5, 0.5, (2000, 2)).astype(np.float32))
    env = {**os.environ, "PYTHONPATH": str(root), "QEBGATE_CACHE_DIR": str(tmp_path / "cache")}
    code, out, err = interrupted(tmp_path, env, "check", tasks=5)
    assert code == 130, err
    assert "INTERRUPTED" in out and "Traceback" not in err
    stored = len(entries(tmp_path))
    assert 5 <= stored < 2000
    np.save(tmp_path / "x.npy", np.load(tmp_path / "x.npy")[: stored + 2])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QEBGATE_CACHE_DIR", str(tmp_path / "cache"))

    def said(*words: str) -> str:
        assert run(list(words)) == 0
        return capsys.readouterr().out

    plan = said("check", "--plan")
    assert f"{stored + 2} tasks in 1 checks, {stored} of them in the cache" in plan
    assert "last time" in plan and "took" not in plan  # no run was complete
    assert f"({stored} from cache)" in said("check")
    assert f"{stored + 2} of them in the cache; last time {stored + 2} tasks took" in said("check", "--plan")
    assert "from cache" not in said("check", "--no-cache")
