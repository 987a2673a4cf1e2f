"""The files that users copy: they run, and they are valid."""

import importlib.resources
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from ruamel.yaml import YAML

from qebgate.adapters import load_model
from qebgate.policy.load import load_policy


@pytest.fixture
def environment(root: Path, tmp_path: Path) -> dict[str, str]:
    """A PATH with a `qebgate` on it."""
    command = tmp_path / "bin" / "qebgate"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nimport sys\nfrom qebgate.cli import main\nsys.exit(main())\n")
    command.chmod(0o755)
    return {**os.environ, "PYTHONPATH": str(root), "PATH": f"{command.parent}:{os.environ['PATH']}"}


def predeploy(root: Path, env: dict[str, str], cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = root / "templates" / "predeploy.sh"
    return subprocess.run([script, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)


@pytest.fixture
def example(digits: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "digits"
    shutil.copytree(digits, folder)
    return folder


def test_predeploy_passes(root: Path, environment: dict[str, str], example: Path) -> None:
    done = predeploy(root, environment, example)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((example / "qebgate-result.json").read_text())["verdict"] == "pass"
    assert "predeploy: passed" in done.stdout


def test_predeploy_stops_a_bad_model(root: Path, environment: dict[str, str], example: Path) -> None:
    done = predeploy(root, environment | {"QEBGATE_RESULT": "r.json"}, example, "failing.yaml")
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads((example / "r.json").read_text())["verdict"] == "fail"
    assert "not deploying" in done.stderr


def test_predeploy_checks_the_file_that_is_shipped(root: Path, environment: dict[str, str], example: Path) -> None:
    other = "models.mlp.quantized=models/mlp_qat_int8.tflite"
    done = predeploy(root, environment | {"QEBGATE_SET": other}, example, "failing.yaml")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "not deploying" in done.stderr


def test_predeploy_without_a_policy(root: Path, environment: dict[str, str], tmp_path: Path) -> None:
    done = predeploy(root, environment, tmp_path, "absent.yaml")
    assert done.returncode == 2, done.stdout + done.stderr


def test_starting_policy_is_valid(root: Path) -> None:
    policy = load_policy(root / "templates" / "qebgate.yaml").policy
    assert [c.id for c in policy.checks] == ["logits-near-golden"]


def schema(name: str) -> dict[str, Any]:
    """A schema that check-jsonschema carries (SchemaStore's, GitLab's own)."""
    folder = Path(str(importlib.resources.files("check_jsonschema"))) / "builtin_schemas" / "vendor"
    return json.loads((folder / f"{name}.json").read_text())


def document(path: Path) -> Any:
    return json.loads(json.dumps(YAML(typ="safe", pure=True).load(path.read_text())))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("templates/github-workflow.yml", "github-workflows"),
        ("templates/github-workflow-sharded.yml", "github-workflows"),
        (".github/workflows/ci.yml", "github-workflows"),
        (".github/workflows/release.yml", "github-workflows"),
        ("action.yml", "github-actions"),
        ("templates/gitlab-ci.yml", "gitlab-ci"),
    ],
)
def test_files_for_services_follow_their_schemas(root: Path, file: str, name: str) -> None:
    jsonschema.Draft7Validator(schema(name)).validate(document(root / file))


def test_workflows_pass_the_security_linter(root: Path, tmp_path: Path) -> None:
    """zizmor: no injection, no unpinned action, no needless permission."""
    workflows = tmp_path / ".github" / "workflows"
    workflows.mkdir(parents=True)
    for p in (*(root / "templates").glob("github-*.yml"), *(root / ".github" / "workflows").glob("*.yml")):
        shutil.copy(p, workflows / p.name)
    shutil.copy(root / "action.yml", tmp_path / "action.yml")
    command = [str(Path(sys.executable).parent / "zizmor"), "--offline", "--no-progress", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "No findings" in done.stdout + done.stderr, done.stdout + done.stderr


def test_workflows_pass_actionlint(root: Path) -> None:
    """Of whoever has it: most ways to install it download a program."""
    linter = shutil.which("actionlint")
    if linter is None:
        pytest.skip("actionlint is not installed")
    files = [*(root / "templates").glob("github-*.yml"), *(root / ".github" / "workflows").glob("*.yml")]
    assert len(files) == 4
    done = subprocess.run([linter, *map(str, files)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_policies_are_valid(root: Path) -> None:
    policies = sorted((root / "templates" / "policies").glob("*.yaml"))
    assert len(policies) == 4
    for p in policies:
        assert load_policy(p).policy.checks


def test_the_hook_runs_before_a_push(root: Path, models: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """pre-commit itself runs the hook's entry in a real repository."""
    hook = document(root / ".pre-commit-hooks.yaml")[0]
    assert document(root / "templates" / "pre-commit-config.yaml")["repos"][0]["hooks"] == [{"id": hook["id"]}]
    hook = {k: v for k, v in hook.items() if k != "additional_dependencies"} | {"language": "system"}
    folder = tmp_path / "repo"
    folder.mkdir()
    for name in ("float", "usual"):
        shutil.copy(models / "ratchet" / f"{name}.tflite", folder)
    shape = load_model(folder / "float.tflite").input.shape[1:]
    np.save(folder / "rows.npy", np.zeros((1, *shape), np.float32))
    (folder / ".pre-commit-config.yaml").write_text(json.dumps({"repos": [{"repo": "local", "hooks": [hook]}]}))
    policy = """version: 1
models: {m: {float: float.tflite, quantized: usual.tflite}}
regions: {r: {kind: points, data: rows.npy, domain: grid, out_of_range: allow}}
checks: [{id: c, model: m, region: r, property: {kind: max_abs, limit: LIMIT}}]
"""
    command = [sys.executable, "-m", "pre_commit", "run", "--hook-stage", "pre-push", "--all-files"]
    env = environment | {"PRE_COMMIT_HOME": str(tmp_path / "home")}
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    for limit, code in (("100", 0), ("0", 1)):
        (folder / "qebgate.yaml").write_text(policy.replace("LIMIT", limit))
        subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stdout + done.stderr
        assert ("Failed" in done.stdout) == (code == 1) and "qebgate" in done.stdout
