"""The documentation: pages made from the program are up to date, links lead somewhere, and the site builds strictly."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qebgate.policy import demands, model
from qebgate.policy.base import Strict
from qebgate.policy.document import read_document
from qebgate.policy.schema import policy_schema
from qebgate.report.json import RESULT_SCHEMA

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
ONE_SCREEN = ("github-action", "gitlab", "pytest", "keras", "converter", "deploy", "python", "ml-engineer", "reviewer")


@pytest.fixture(scope="module")
def reference(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", root / "docs" / "tools" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["policy-reference.md", "command-line.md"])
def test_pages_made_from_the_program(root: Path, reference: ModuleType, name: str) -> None:
    """If this fails: python docs/tools/reference.py --write."""
    assert (root / "docs" / name).read_text("utf-8") == "\n".join(reference.PAGES[name]()) + "\n"


def test_examples_of_keys_are_valid(reference: ModuleType) -> None:
    known = {"Policy", *policy_schema()["$defs"]}
    assert {"ModelSpec", "BallSpec", "CheckSpec", "WaiverSpec"} <= known & set(reference.EXAMPLES)
    for name in known & set(reference.EXAMPLES):
        cls: type[Strict] = getattr(model, name, None) or getattr(demands, name)
        part = read_document(reference.EXAMPLES[name].encode(), name).data
        if name == "Policy":
            assert cls.model_validate({"version": 1, "models": {}, "regions": {}, "checks": [], **part})
            continue
        assert any(fits(cls, inner) for inner in inside(part)), name


def inside(part: Any) -> Iterator[Any]:
    """A value, and everything that is the only thing in it."""
    yield part
    if isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from inside(inner)


def fits(cls: type[Strict], part: Any) -> bool:
    try:
        cls.model_validate(part)
    except ValueError:
        return False
    return part != {}


def keys(schema: dict[str, Any]) -> Iterator[str]:
    for name, s in schema.get("properties", {}).items():
        yield name
        yield from keys(s)
        yield from keys(s.get("items", {}))
        for other in s.get("anyOf", []):
            yield from keys(other)


def test_result_file_page_names_every_key(root: Path) -> None:
    page = (root / "docs" / "result-file.md").read_text("utf-8")
    assert [k for k in keys(RESULT_SCHEMA) if f"`{k}`" not in page] == []


def test_readme_names_every_verb(root: Path, reference: ModuleType) -> None:
    from qebgate.cli.app import app

    table = (root / "README.md").read_text("utf-8").partition("## Commands")[2].partition("\n## ")[0]
    verbs = [words.split()[-1] for words, _ in reference.verbs("qebgate", app)]
    assert len(verbs) >= 15 and [v for v in verbs if not re.search(rf"\b{v}\b", table)] == []


def test_every_page_is_in_the_navigation(root: Path) -> None:
    """If this fails: add the page to mkdocs.yml."""
    nav = (root / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    names = [str(p.relative_to(root / "docs")) for p in (root / "docs").rglob("*.md")]
    assert [n for n in names if not re.search(rf"[ :] ?{re.escape(n)}$", nav, re.MULTILINE)] == []


def slugs(page: Path) -> set[str]:
    """Anchors of a page's headings, as forges make them."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    heads = re.findall(r"^#+ +(.*?) *$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower().replace("`", "")).replace(" ", "-") for h in heads}


def pages(root: Path) -> list[Path]:
    return [*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "examples").rglob("*.md")]


def test_links_lead_somewhere(root: Path) -> None:
    broken: list[str] = []
    for page in pages(root):
        for match in LINK.finditer(CODE.sub("", page.read_text("utf-8"))):
            target = match[1] or match[2]
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            found = (page.parent / path).resolve() if path else page
            if not found.exists() or (anchor and anchor not in slugs(found)):
                broken.append(f"{page.relative_to(root)}: {target}")
    assert broken == []


def test_files_of_the_project_that_pages_name_exist(root: Path) -> None:
    named = re.compile(r"`((?:qebgate|integrations|templates|examples|benchmarks|tests|docs)/[\w./*-]+)`")
    found = [(page, m[1]) for page in pages(root) for m in named.finditer(page.read_text("utf-8"))]
    missing = [f"{page.name}: {name}" for page, name in found if not any(root.glob(name.rstrip("/")))]
    assert len(found) > 30 and missing == []


def test_tables_have_as_many_cells_in_every_row(root: Path) -> None:
    """A bar inside of code ends a cell on forges."""
    wrong: list[str] = []
    for page in pages(root):
        cells = 0
        for line in re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL).splitlines():
            found = len(re.split(r"(?<!\\)\|", line.strip())) if line.lstrip().startswith("|") else 0
            if cells and found and found != cells:
                wrong.append(f"{page.relative_to(root)}: {line[:80]}")
            cells = found
    assert wrong == []


@pytest.mark.parametrize("name", ONE_SCREEN)
def test_integrations_fit_on_one_screen(root: Path, name: str) -> None:
    page = (root / "docs" / f"{name}.md").read_text("utf-8")
    assert len(page.splitlines()) <= 60 and "```" in page


def test_site_builds_strictly_and_loads_nothing_from_elsewhere(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs the [docs] extra")
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    built = sorted((tmp_path / "site").rglob("*.html"))
    sources = list((root / "docs").rglob("*.md"))
    assert len(built) == len(sources) + 1  # and 404.html
    for page in built:
        text = page.read_text("utf-8")
        assert "|---|" not in text, page
        loaded = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=\"([^\"]*)\"", text)
        assert loaded and [u for u in loaded if re.match(r"(?:https?:)?//", u)] == [], page
