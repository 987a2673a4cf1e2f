"""action.yml: its steps run by bash with the environment that a runner would give them, in real git repositories."""

from __future__ import annotations

import html
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from ruamel.yaml import YAML

from qebgate.integrations import github
from qebgate.integrations.github import Inputs


def load(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text())


@dataclass(frozen=True)
class Outcome:
    code: int
    log: str
    summary: str
    outputs: dict[str, str]


@dataclass
class Runner:
    """What GitHub's runner does with a composite action, as far as this one needs it."""

    root: Path
    temp: Path
    offline: bool = True
    event: dict[str, Any] = field(default_factory=dict)
    more: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.action = load(self.root / "action.yml")
        self.steps = {s["name"]: s for s in self.action["runs"]["steps"]}

    def value(self, name: str, inputs: Mapping[str, str]) -> str:
        if name.startswith("inputs."):
            key = name.removeprefix("inputs.")
            default = str(self.action["inputs"][key]["default"])
            return inputs.get(key, default if "${{" not in default else "")
        if name.startswith("github.event."):
            at: Any = self.event
            for part in name.split(".")[2:]:
                at = at.get(part, {}) if isinstance(at, dict) else {}
            return at if isinstance(at, str) else ""
        return {"github.action_path": str(self.root), "runner.temp": str(self.temp)}[name]

    def environment(self) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
        if self.offline:
            # pip installs qebgate itself; its dependencies and build backend are those of this environment
            env |= {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
            env["PYTHONPATH"] = sysconfig.get_path("purelib")
        return env

    def step(self, name: str, cwd: Path, **given: str) -> Outcome:
        step = self.steps[name]
        inputs = {k.replace("_", "-"): v for k, v in given.items()}
        assert set(inputs) <= set(self.action["inputs"])

        def fill(text: str) -> str:
            return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda m: self.value(m[1], inputs), text)

        assert step["shell"] == "bash"
        files = {k: self.temp / k.lower() for k in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "GITHUB_EVENT_PATH")}
        for f in files.values():
            f.write_text("")
        files["GITHUB_EVENT_PATH"].write_text(json.dumps(self.event))
        env = {**self.environment(), "GITHUB_WORKSPACE": str(cwd), **self.more}
        env |= {k: str(v) for k, v in files.items()}
        env |= {k: fill(v) for k, v in step.get("env", {}).items()}
        script = self.temp / "script.sh"
        script.write_text(step["run"])  # as it stands: a runner would fill in expressions, and there are none
        command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)]
        folder = cwd / fill(step.get("working-directory", "."))
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
        said = re.findall(r"^([\w-]+)<<(\S+)\n(.*?)\n\2$", files["GITHUB_OUTPUT"].read_text(), re.MULTILINE | re.DOTALL)
        summary = html.unescape(files["GITHUB_STEP_SUMMARY"].read_text())
        return Outcome(done.returncode, done.stdout + done.stderr, summary, {k: v for k, _, v in said})

    def gate(self, cwd: Path, **inputs: str) -> Outcome:
        """The steps after the installation."""
        shutil.rmtree(self.temp / "qebgate-results", ignore_errors=True)
        base = self.step("Fetch the base", cwd, **inputs)
        if base.code:
            return base
        return self.step("Gate", cwd, **inputs)


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="needs the [dev] extra")
    temp = tmp_path_factory.mktemp("runner")
    install = Runner(root, temp).step("Install qebgate", root)
    assert install.code == 0, install.log
    return temp


@pytest.fixture
def runner(root: Path, installed: Path) -> Iterator[Runner]:
    yield Runner(root, installed)
    shutil.rmtree(installed / "qebgate-base", ignore_errors=True)


POLICY = """version: 1
models: {m: {float: models/float.tflite, quantized: models/int8.tflite, input_quantization: nearest}}
regions: {r: {kind: points, data: rows.npy, out_of_range: allow}}
checks:
  - {id: gap, model: m, region: r, property: {kind: max_abs, limit: LIMIT}}
"""


@dataclass
class Repository:
    """A repository with a base commit on the branch main, and a head that tests change."""

    folder: Path

    def git(self, *words: str) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *who, *words], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self) -> str:
        self.git("add", "-A")
        self.git("commit", "-qm", "x", "--allow-empty")
        return self.git("rev-parse", "HEAD")

    def write(self, limit: float, extra: str = "") -> None:
        (self.folder / "qebgate.yaml").write_text(POLICY.replace("LIMIT", repr(limit)) + extra)


@pytest.fixture
def repository(tmp_path: Path, models: Path) -> Repository:
    from qebgate.adapters import load_model

    r = Repository(tmp_path / "repo")
    (r.folder / "models").mkdir(parents=True)
    shutil.copy(models / "ratchet" / "float.tflite", r.folder / "models" / "float.tflite")
    shutil.copy(models / "ratchet" / "usual.tflite", r.folder / "models" / "int8.tflite")
    shape = load_model(models / "ratchet" / "float.tflite").input.shape[1:]
    np.save(r.folder / "rows.npy", np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype(np.float32))
    r.write(100.0)
    r.git("init", "-q", "-b", "main")
    return r


def pull(base: str, number: int = 7) -> dict[str, Any]:
    return {"pull_request": {"number": number, "base": {"sha": base}}}


def broken(r: Repository, models: Path) -> None:
    """The quantized model is calibrated on a fifth of the range: still the same network, and far off."""
    shutil.copy(models / "ratchet" / "worse.tflite", r.folder / "models" / "int8.tflite")


def tight(runner: Runner, r: Repository) -> float:
    """A limit that the model just meets."""
    out = runner.gate(r.folder)
    assert out.code == 0, out.log
    proven = json.loads(Path(out.outputs["result"]).read_text())["checks"][0]["proven"]
    return float(np.ceil(proven * 1100) / 1000)


def test_no_expression_stands_in_a_script_and_actions_are_pinned(root: Path) -> None:
    for file in (root / "action.yml", *(root / ".github" / "workflows").glob("*.yml")):
        document = load(file)
        jobs = document["jobs"].values() if "jobs" in document else [document["runs"]]
        steps = [s for job in jobs for s in job["steps"]]
        assert not [s for s in steps if "${{" in s.get("run", "")]
        for s in steps:
            assert "uses" not in s or s["uses"] == "./" or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", s["uses"]), s


def test_a_push_is_judged_by_its_own_policy(runner: Runner, repository: Repository) -> None:
    repository.commit()
    out = runner.gate(repository.folder)
    assert out.code == 0, out.log
    assert out.outputs["verdict"] == "pass" and out.outputs["exit-code"] == "0" and out.outputs["passed"] == "1"
    folder = Path(out.outputs["folder"]) / "gate"
    for name in ("result.json", "report.html", "junit.xml", "qebgate.sarif", "statement.intoto.json"):
        assert (folder / name).stat().st_size > 100
    assert "gap" in out.summary and "::notice" in out.log
    repository.write(0.0)
    out = runner.gate(repository.folder)
    assert out.code == 1 and out.outputs["verdict"] == "fail" and "::error" in out.log


def test_a_pull_request_is_judged_by_the_base(runner: Runner, repository: Repository, models: Path) -> None:
    limit = tight(runner, repository)
    repository.write(limit)
    runner.event = pull(repository.commit())
    (repository.folder / "README").write_text("harmless")
    repository.commit()
    out = runner.gate(repository.folder)
    assert out.code == 0 and "base branch's policy" in out.summary, out.log
    # a model that breaks the limit
    broken(repository, models)
    repository.commit()
    out = runner.gate(repository.folder)
    assert out.code == 1 and out.outputs["failed"] == "1", out.log
    assert "qebgate.yaml" in out.log and "line=5" in out.log
    # ... and the policy loosened to let it pass, or the check removed: judged by the old one all the same
    repository.write(1000.0)
    repository.commit()
    assert runner.gate(repository.folder).code == 1
    (repository.folder / "qebgate.yaml").write_text("version: 1\nchecks: []\n")
    repository.commit()
    out = runner.gate(repository.folder)
    assert out.code in (1, 2) and "gap" in out.summary
    (repository.folder / "qebgate.yaml").unlink()
    repository.commit()
    assert runner.gate(repository.folder).code in (1, 2)


def test_other_data_in_the_head_changes_nothing(runner: Runner, repository: Repository) -> None:
    repository.write(0.0)
    runner.event = pull(repository.commit())
    rows = np.load(repository.folder / "rows.npy")
    np.save(repository.folder / "rows.npy", rows[:1] * 0)
    repository.commit()
    out = runner.gate(repository.folder)
    assert out.code == 1 and "2 fail" in out.log, out.log


def test_new_and_tighter_checks_count_too(runner: Runner, repository: Repository) -> None:
    runner.event = pull(repository.commit())
    extra = "  - {id: new, model: m, region: r, property: {kind: max_abs, limit: 0}}\n"
    repository.write(100.0, extra)
    repository.commit()
    out = runner.gate(repository.folder)
    assert out.code == 1 and "adds or changes" in out.summary and "new" in out.summary
    repository.write(0.0)
    repository.commit()
    assert runner.gate(repository.folder).code == 1


def test_a_changed_reference_is_announced_and_compared(runner: Runner, repository: Repository, models: Path) -> None:
    runner.event = pull(repository.commit())
    data = (repository.folder / "models" / "float.tflite").read_bytes()
    (repository.folder / "models" / "float.tflite").write_bytes(data + bytes(16))
    repository.commit()
    out = runner.gate(repository.folder)
    assert out.code == 0, out.log
    assert "the float reference of m changed" in out.summary and "own float reference" in out.summary
    assert (Path(out.outputs["folder"]) / "reference" / "result.json").is_file()
    assert runner.gate(repository.folder, changed_reference="fail").code == 1


def test_without_a_base_policy_the_heads_is_used(runner: Runner, repository: Repository) -> None:
    (repository.folder / "qebgate.yaml").unlink()
    runner.event = pull(repository.commit())
    repository.write(100.0)
    repository.commit()
    out = runner.gate(repository.folder)
    assert out.code == 0 and "own policy is used" in out.summary, out.log


def test_nothing_changed_is_skipped_when_asked(runner: Runner, repository: Repository, models: Path) -> None:
    runner.event = pull(repository.commit())
    (repository.folder / "README").write_text("harmless")
    repository.commit()
    out = runner.gate(repository.folder, changed_only="true")
    assert out.code == 0 and out.outputs["verdict"] == "skipped" and "skipped" in out.summary, out.log
    broken(repository, models)
    repository.commit()
    assert runner.gate(repository.folder, changed_only="true").outputs["verdict"] != "skipped"


def test_shards_share_the_checks(runner: Runner, repository: Repository) -> None:
    extra = "".join(f"  - {{id: c{k}, model: m, region: r, property: {{kind: max_abs, limit: 100}}}}\n" for k in (1, 2))
    repository.write(100.0, extra)
    repository.commit()
    seen: list[str] = []
    for part in ("1/2", "2/2"):
        out = runner.gate(repository.folder, shard=part)
        assert out.code == 0, out.log
        seen += [c["id"] for c in json.loads(Path(out.outputs["result"]).read_text())["checks"]]
    assert sorted(seen) == ["c1", "c2", "gap"]
    assert runner.gate(repository.folder, shard="4/4").outputs["verdict"] == "skipped"


class Api(http.server.BaseHTTPRequestHandler):
    """As much of GitHub's API as the action uses, with or without permission to write."""

    comments: ClassVar[dict[int, str]] = {}
    logs: ClassVar[list[dict[str, Any]]] = []
    writable = True

    def do_GET(self) -> None:
        self.answer([{"id": k, "body": v} for k, v in self.comments.items()])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.writable:
            self.send_error(403)
            return
        if self.path.endswith("/sarifs"):
            self.logs.append(body)
        elif self.command == "PATCH":
            self.comments[int(self.path.rsplit("/", 1)[1])] = body["body"]
        else:
            self.comments[len(self.comments) + 1] = body["body"]
        self.answer({})

    do_PATCH = do_POST  # noqa: N815

    def answer(self, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def api(runner: Runner) -> Iterator[type[Api]]:
    Api.comments, Api.logs, Api.writable = {1: "hello"}, [], True
    server = http.server.HTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    runner.more = {"GITHUB_API_URL": f"http://127.0.0.1:{server.server_port}", "GITHUB_REPOSITORY": "o/r"}
    yield Api
    server.shutdown()


def test_one_comment_and_code_scanning(runner: Runner, repository: Repository, api: type[Api]) -> None:
    runner.event = pull(repository.commit())
    for _ in range(2):
        out = runner.gate(repository.folder, comment="true", sarif="true", token="t")
        assert out.code == 0, out.log
    assert len(api.comments) == 2 and api.comments[1] == "hello" and "PASS" in api.comments[2]
    assert len(api.logs) == 2
    # a pull request from a fork may not write: the summary has it all, and the verdict is the same
    api.writable = False
    out = runner.gate(repository.folder, comment="true", sarif="true", token="t")
    assert out.code == 0 and "token may not write" in out.log and "PASS" in out.summary


@pytest.mark.parametrize(
    "hostile",
    [
        "$(touch owned)",
        pytest.param("`touch owned`", marks=pytest.mark.slow),
        pytest.param('"; touch owned; "', marks=pytest.mark.slow),
        "--exit-zero",
        "a\nb",
    ],
)
def test_inputs_are_never_read_as_code(runner: Runner, repository: Repository, hostile: str) -> None:
    repository.commit()
    for name in ("policy", "checks", "set", "shard", "jobs", "base"):
        out = runner.gate(repository.folder, **{name: hostile})
        assert out.code in (2, 5) or (name == "checks" and out.outputs.get("verdict") == "skipped"), (name, out.log)
        assert not list(repository.folder.rglob("owned*")) and "Traceback" not in out.log
    runner.event = {"pull_request": {"base": {"sha": hostile}}}
    assert runner.gate(repository.folder).code == 2
    assert not list(repository.folder.rglob("owned*"))


def test_a_checkout_cannot_replace_the_program(runner: Runner, repository: Repository) -> None:
    """Modules in the pull request's own folders are not imported."""
    for name in ("numpy.py", "qebgate.py", "sitecustomize.py", "json.py"):
        (repository.folder / name).write_text("open('owned', 'w').close()\n")
    repository.commit()
    assert runner.gate(repository.folder).code == 0
    assert not (repository.folder / "owned").exists()


def test_hostile_names_inject_nothing(runner: Runner, repository: Repository) -> None:
    extra = '  - {id: "x::error file=a::b", model: m, region: r, property: {kind: max_abs, limit: 0}}\n'
    name = "rows\n::error::x<script>.npy"
    (repository.folder / "rows.npy").rename(repository.folder / name)
    text = POLICY.replace("LIMIT", "0.0").replace("rows.npy", json.dumps(name)) + extra
    (repository.folder / "qebgate.yaml").write_text(text)
    repository.commit()
    out = runner.gate(repository.folder)
    assert out.code in (1, 2), out.log
    assert not re.search(r"^::error::x", out.log, re.MULTILINE) and "<script>" not in out.log
    assert out.outputs["verdict"] in (*github.OF_EXIT.values(), "error")


def test_inputs_are_read_strictly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from qebgate.errors import PolicyError

    monkeypatch.chdir(tmp_path)
    for key, value in (("JOBS", "0"), ("SHARD", "3/2"), ("COMMENT", "yes"), ("CHANGED_REFERENCE", "ignore")):
        with pytest.raises(PolicyError, match="QEB239"):
            Inputs.read({f"QEBGATE_{key}": value})


@pytest.mark.slow
def test_install_with_dependencies(root: Path, repository: Repository, tmp_path: Path) -> None:
    runner = Runner(root, tmp_path, offline=False)
    install = runner.step("Install qebgate", root)
    assert install.code == 0, install.log
    repository.commit()
    assert runner.gate(repository.folder).code == 0
