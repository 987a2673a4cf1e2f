"""The package as users get it: from a wheel, from an editable install, in a type checker (decision 0001)."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="needs the [dev] extra")


def run(*command: object, cwd: Path) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(kind: str, root: Path, folder: Path) -> Path:
    """A wheel made by the build backend, without network access."""
    name = run(sys.executable, "-c", f"import hatchling.build as b; print(b.build_{kind}({str(folder)!r}))", cwd=root)
    return folder / name.strip().splitlines()[-1]


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request: pytest.FixtureRequest, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds nothing but qebgate, without its dependencies."""
    folder = tmp_path_factory.mktemp(request.param)
    wheel = build(request.param, root, folder)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    return folder


def test_integrations_are_importable(installed: Path, root: Path) -> None:
    code = (
        "import qebgate, qebgate.integrations, importlib.util as u; print(qebgate.__file__);"
        "print(qebgate.integrations.__file__); print(u.find_spec('qebgate.integrations.keras').origin)"
    )
    places = [Path(p) for p in run(installed / "env" / "bin" / "python", "-c", code, cwd=installed).split()]
    assert {p.is_relative_to(installed) for p in places} == {installed.name.startswith("wheel")}
    assert places[2].read_text() == (root / "integrations" / "keras.py").read_text()


def test_type_checker_finds_the_integrations(installed: Path) -> None:
    pytest.importorskip("pyright", reason="needs the [dev] extra")
    (installed / "use.py").write_text(
        "from qebgate.errors import ExitCode\nfrom qebgate.integrations.keras import QuantizationGate\n"
        "reveal_type(QuantizationGate)\nreveal_type(ExitCode)\n"
    )
    config = {"include": ["use.py"], "venvPath": str(installed), "venv": "env"}
    (installed / "pyrightconfig.json").write_text(json.dumps(config))
    out = json.loads(run(sys.executable, "-m", "pyright", "--outputjson", cwd=installed))
    said = [d["message"] for d in out["generalDiagnostics"]]
    assert said == ['Type of "QuantizationGate" is "type[QuantizationGate]"', 'Type of "ExitCode" is "type[ExitCode]"']


def test_entry_point_and_metadata(installed: Path) -> None:
    code = (
        "from importlib.metadata import distribution as d; import qebgate; q = d('qebgate');"
        "print(sorted(e.value for e in q.entry_points), q.version == qebgate.__version__,"
        " q.metadata['License-Expression'])"
    )
    said = run(installed / "env" / "bin" / "python", "-c", code, cwd=installed).strip()
    scripts = ["qebgate.cli:main", "qebgate.integrations.github:action", "qebgate.integrations.pytest_plugin"]
    assert said == f"{scripts} True Apache-2.0"


def test_wheel_holds_the_package_and_nothing_else(root: Path, tmp_path: Path) -> None:
    names = zipfile.ZipFile(build("wheel", root, tmp_path)).namelist()
    here = {p.relative_to(root).as_posix() for p in (root / "qebgate").rglob("*.py")}
    here |= {f"qebgate/integrations/{p.name}" for p in (root / "integrations").glob("*.py")}
    assert {n for n in names if n.endswith(".py")} == here
    assert "qebgate/py.typed" in names
    assert {n.split("/")[0] for n in names} == {"qebgate"} | {n.split("/")[0] for n in names if ".dist-info/" in n}


def test_wheel_from_the_source_archive_is_the_same(root: Path, tmp_path: Path) -> None:
    direct = zipfile.ZipFile(build("wheel", root, tmp_path))
    with tarfile.open(build("sdist", root, tmp_path)) as archive:
        archive.extractall(tmp_path / "source")
    (source,) = (tmp_path / "source").iterdir()
    (tmp_path / "again").mkdir()
    again = zipfile.ZipFile(build("wheel", source, tmp_path / "again"))
    files = {n: direct.read(n) for n in direct.namelist() if n.startswith("qebgate/")}
    assert files == {n: again.read(n) for n in again.namelist() if n.startswith("qebgate/")}
    assert not any(p.is_symlink() and not p.exists() for p in source.rglob("*"))


def test_changelog_knows_this_version(root: Path) -> None:
    from qebgate import __version__

    assert re.search(rf"^## \[{re.escape(__version__)}\]", (root / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_no_file_names_a_machine(root: Path) -> None:
    """No committed text names a home folder, a temporary folder or another package index."""
    git = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
    if git.returncode != 0:
        pytest.skip("not a git checkout")
    private = re.compile(r"(?<![\w.])/(home|root|Users|work|opt)/|--(extra-)?index-url|find-links")
    bad = []
    for name in filter(None, git.stdout.split("\0")):
        path = root / name
        data = path.read_bytes() if path.is_file() and path != Path(__file__) else b""
        if b"\0" not in data:  # models and arrays are no text
            text = data.decode("utf-8")
            bad += [f"{name}:{k}" for k, line in enumerate(text.splitlines(), 1) if private.search(line)]
    assert not bad
