"""action.yml, its steps executed by bash with the environment that a runner would give them."""

import html
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML


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

    def __post_init__(self) -> None:
        self.action = load(self.root / "action.yml")
        self.steps = [s for s in self.action["runs"]["steps"] if "run" in s]

    def values(self, inputs: Mapping[str, str]) -> dict[str, str]:
        known = self.action["inputs"]
        assert set(inputs) <= set(known)
        given = {f"inputs.{k}": inputs.get(k, v["default"]) for k, v in known.items()}
        return {**given, "github.action_path": str(self.root), "runner.temp": str(self.temp)}

    def environment(self) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
        if (
            self.offline
        ):  # pip installs qebgate itself; its dependencies and build backend are those of this environment
            env |= {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
            env["PYTHONPATH"] = sysconfig.get_path("purelib")
        return env

    def step(self, step: Mapping[str, Any], inputs: Mapping[str, str], cwd: Path) -> Outcome:
        values = self.values(inputs)

        def fill(text: str) -> str:
            return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda m: values[m[1]], text)

        assert step["shell"] == "bash"
        summary, outputs = self.temp / "summary", self.temp / "outputs"
        for f in (summary, outputs):
            f.write_text("")
        env = {**self.environment(), "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(outputs)}
        env |= {k: fill(v) for k, v in step.get("env", {}).items()}
        script = self.temp / "script.sh"
        script.write_text(step["run"])  # as it stands: a runner would fill in expressions, and there are none
        command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)]
        folder = cwd / fill(step.get("working-directory", "."))
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
        said = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
        return Outcome(done.returncode, done.stdout + done.stderr, html.unescape(summary.read_text()), said)


@pytest.fixture(scope="module")
def runner(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    pytest.importorskip("hatchling", reason="needs the [dev] extra")
    runner = Runner(root, tmp_path_factory.mktemp("runner"))
    install = runner.step(runner.steps[0], {}, root)
    assert install.code == 0, install.log
    return runner


def check(runner: Runner, cwd: Path, **inputs: str) -> Outcome:
    return runner.step(runner.steps[1], {k.replace("_", "-"): v for k, v in inputs.items()}, cwd)


def test_no_expression_stands_in_a_script(root: Path) -> None:
    for file in (root / "action.yml", *(root / ".github" / "workflows").glob("*.yml")):
        document = load(file)
        jobs = document["jobs"].values() if "jobs" in document else [document["runs"]]
        scripts = [s["run"] for job in jobs for s in job["steps"] if "run" in s]
        assert scripts
        assert not [s for s in scripts if "${{" in s]


def test_passing_policy(runner: Runner, digits: Path) -> None:
    out = check(runner, digits, policy="qebgate.yaml")
    assert out.code == 0, out.log
    assert out.outputs["exit-code"] == "0"
    result = json.loads(Path(out.outputs["result"]).read_text())
    assert result["verdict"] == "pass"
    for c in result["checks"]:
        assert c["id"] in out.summary


def test_policy_is_found_and_one_check_is_selected(runner: Runner, digits: Path, tmp_path: Path) -> None:
    out = check(
        runner, digits.parent, working_directory="digits", checks="qat-logits\n", result=str(tmp_path / "r.json")
    )
    assert out.code == 0, out.log
    result = json.loads((tmp_path / "r.json").read_text())
    assert [c["id"] for c in result["checks"]] == ["qat-logits"]


def test_failing_policy_fails_the_step(runner: Runner, digits: Path) -> None:
    out = check(runner, digits, policy="failing.yaml")
    assert out.code == 1, out.log
    assert out.outputs["exit-code"] == "1"
    assert json.loads(Path(out.outputs["result"]).read_text())["verdict"] == "fail"
    assert "mlp-logits-too-tight" in out.summary


def test_set_replaces_a_model(runner: Runner, digits: Path) -> None:
    wrong = "models.mlp.quantized=models/cnn_int8.tflite"
    out = check(runner, digits, policy="failing.yaml", set=wrong)
    assert out.code == 4, out.log
    assert out.outputs["exit-code"] == "4"


def test_missing_policy_writes_a_summary(runner: Runner, digits: Path) -> None:
    out = check(runner, digits, policy="absent.yaml")
    assert out.code == 2, out.log
    assert out.summary.strip()
    assert "Traceback" not in out.log


@pytest.mark.parametrize("hostile", ["$(touch owned)", "`touch owned`", '"; touch owned; "', "--exit-zero", "a\nb"])
def test_inputs_are_never_read_as_code(runner: Runner, digits: Path, tmp_path: Path, hostile: str) -> None:
    for name in ("policy", "checks", "set"):
        inputs = {"policy": str(digits / "failing.yaml"), name: hostile}
        out = check(runner, tmp_path, **inputs)
        assert out.code == 2, out.log
        assert not list(tmp_path.rglob("owned*"))


@pytest.mark.slow
def test_install_with_dependencies(root: Path, digits: Path, tmp_path: Path) -> None:
    runner = Runner(root, tmp_path, offline=False)
    install = runner.step(runner.steps[0], {}, root)
    assert install.code == 0, install.log
    assert check(runner, digits, policy="failing.yaml").code == 1
