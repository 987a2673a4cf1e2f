"""`make demo`: both policies end as they should, quickly, and the README shows what they print."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def demo(root: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """What the demo prints, and the CPU seconds that it took."""
    command = tmp_path_factory.mktemp("bin") / "qebgate"
    command.write_text(f"#!{sys.executable}\nfrom qebgate.cli import main\nmain()\n")
    command.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "CI", "GITHUB_ACTIONS")}
    env |= {"PYTHONPATH": str(root), "PATH": f"{command.parent}:{env['PATH']}", "COLUMNS": "120"}
    env["OPENBLAS_NUM_THREADS"] = "1"  # threads that wait for a busy machine's cores burn CPU time without working
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(["sh", digits / "demo.sh"], env=env, capture_output=True, text=True, timeout=600)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_demo_takes_less_than_20_seconds_of_cpu(demo: tuple[str, float]) -> None:
    assert demo[1] < 20


def test_readme_shows_the_output(demo: tuple[str, float], root: Path) -> None:
    shown = re.search(r"<!-- demo -->\n```\n(.*?)```\n<!-- /demo -->", (root / "README.md").read_text(), re.DOTALL)
    assert shown, "README.md has no output of the demo"
    assert plain(shown[1]) == plain(demo[0])


def plain(text: str) -> list[str]:
    """Lines without what differs from run to run or machine to machine: times, versions,
    processors, last digits, widths."""
    text = re.sub(r" on x86_64 [^,]*,", " on PROCESSOR,", text)
    text = re.sub(r"\b\d+(\.\d+)? ?(ms|s|min)\b", "TIME", text)
    text = re.sub(r"\b\d+\.\d+\.\d+\b", "VERSION", text)
    text = re.sub(r"\b\d+\.\d{3,}\b", lambda m: f"{float(m[0]):.3g}", text)
    lines = (re.sub(r"[ ─━═]+", " ", line).strip() for line in text.splitlines())
    return [line for line in lines if line]
