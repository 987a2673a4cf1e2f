"""Every format is accepted by its consumer, and names from files stay text in all of them."""

from __future__ import annotations

import base64
import json
import struct
import xml.etree.ElementTree as ET
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from junitparser import JUnitXml

from qebgate.engines.noise_floor import NoiseFloor
from qebgate.errors import ModelError, PolicyError
from qebgate.explain import Advice, Explanation, LayerState
from qebgate.report.github import WORST, render_github, render_policy_error
from qebgate.report.html import picture, render_html
from qebgate.report.junit import render_junit
from qebgate.report.sarif import to_sarif
from qebgate.result import CheckError, Report, WitnessResult
from tests.report.test_reports import RUNTIME, check, task

SARIF = json.loads((Path(__file__).parent / "sarif-2.1.0.schema.json").read_text())
"""The schema that OASIS publishes with the standard, unchanged."""
NASTY = "a\n::error file=x::b\x1b[31m<script>alert(1)</script>,%0A|`'\"&\u202e"


def report(*checks: object, errors: tuple[CheckError, ...] = (), **fields: object) -> Report:
    places = {c.id: (10 + k, 5) for k, c in enumerate(checks)}  # type: ignore[attr-defined]
    base = Report("0.1.0", "gate/qebgate.yaml", "ab" * 32, checks, errors, ("qebgate", "check"), 1.5, places=places)  # type: ignore[arg-type]
    return replace(base, **fields)  # type: ignore[arg-type]


def mixed() -> Report:
    """One of everything."""
    broken = CheckError("e", ModelError("QEB301", "cannot be read", "m.tflite", NASTY, "fix it"))
    warns = replace(check("unknown"), id="w", on_unknown="warn")
    return report(
        check("pass"), replace(check("fail"), id="f"), replace(check("unknown"), id="u"), warns, errors=(broken,)
    )


def nasty() -> Report:
    """Names from files wherever a name can be."""
    witness = WitnessResult(
        np.zeros((1, 4), np.float32), None, None, np.array([-0.5, 0.25]), 0.5, NASTY, NASTY, np.zeros(2)
    )
    t = replace(task("fail"), runtime=replace(RUNTIME, name=NASTY), engine=NASTY, witness=witness)
    c = replace(check("fail"), id=NASTY, model=NASTY, region=NASTY, tasks=(t,), assumptions=(NASTY,))
    broken = CheckError(NASTY, PolicyError("QEB210", NASTY, NASTY, NASTY, NASTY))
    return report(c, errors=(broken,), policy=NASTY)


def explained(r: Report) -> dict[str, Explanation]:
    """Every check with an explanation whose names are hostile."""
    states = (LayerState(NASTY, 4, 0.25, 1.0, 1, 2, 3), LayerState("out", 2, float("inf"), 1.0, 0, 0, 0))
    noise = NoiseFloor(0, np.arange(1), np.array([0.1]), 1.0, ())
    advice = (Advice(NASTY, 0.1),)
    return {c.id: Explanation(r, c, c.tasks[0], None, NASTY, False, noise, 0.25, advice, states) for c in r.checks}


class Page(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("make", [mixed, nasty, lambda: report(check()), lambda: report(errors=mixed().errors)])
def test_sarif_validates(make) -> None:  # type: ignore[no-untyped-def]
    log = to_sarif(make())
    jsonschema.Draft7Validator(SARIF, format_checker=jsonschema.FormatChecker()).validate(log)
    rules = [r["id"] for r in log["runs"][0]["tool"]["driver"]["rules"]]
    for result in log["runs"][0]["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]


def test_sarif_says_what_happened() -> None:
    results = to_sarif(mixed())["runs"][0]["results"]
    assert [(r["ruleId"], r["level"]) for r in results] == [
        ("refuted", "error"), ("effort", "error"), ("effort", "warning"), ("error", "error"),
    ]  # fmt: skip
    place = results[0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "gate/qebgate.yaml", "uriBaseId": "%SRCROOT%"}
    assert place["region"] == {"startLine": 11, "startColumn": 5}
    assert results[0]["properties"]["witnessed"] == 0.5
    assert to_sarif(report(check()))["runs"][0]["results"] == []


def test_junit_counts() -> None:
    xml = render_junit(mixed())
    root = ET.fromstring(xml)
    assert root.attrib["tests"] == "5" and root.attrib["failures"] == "2"
    assert root.attrib["errors"] == "1" and root.attrib["skipped"] == "1"
    suites = {s.name: s for s in JUnitXml.fromstring(xml.encode())}
    assert set(suites) == {"c", "f", "u", "w", "e"}
    (case,) = list(suites["f"])
    assert case.result[0].type == "refuted" and "0.5" in case.result[0].message
    assert ET.fromstring(render_junit(nasty())).find(".//error") is not None


def test_annotations() -> None:
    lines = render_github(mixed()).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["::error", "::error", "::error", "::warning", "::notice"]
    assert "file=gate/qebgate.yaml,line=11,col=5" in lines[1] and "0.5" in lines[1]
    many = report(*(replace(check("fail"), id=f"c{k}") for k in range(3 * WORST)))
    lines = render_github(many).splitlines()
    assert len(lines) == WORST + 2 and f"{2 * WORST} more" in lines[WORST]


def test_annotations_are_found_from_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path / "models")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    assert "file=models/gate/qebgate.yaml," in render_github(mixed())


def test_a_wrong_policy_is_annotated_at_its_place() -> None:
    error = PolicyError("QEB211", "two errors")
    error.related = (PolicyError("QEB212", "first", "q.yaml:3:7"), PolicyError("QEB213", "second", "q.yaml:9:1"))  # type: ignore[misc]
    lines = render_policy_error(error).splitlines()
    assert "file=q.yaml,line=3,col=7" in lines[1] and "file=q.yaml,line=9,col=1" in lines[2]


def test_hostile_names_are_inert() -> None:
    r = nasty()
    for line in render_github(r).splitlines():
        assert line.startswith(("::error ", "::notice ")) and line.isprintable()
        properties = line.split("::")[1].split(" ", 1)[1]  # GitHub's own way to take them apart
        names = [p.split("=", 1)[0] for p in properties.split(",")]
        assert set(names) <= {"title", "file", "line", "col"} and len(names) == len(set(names))
    page = Page(render_html(r, explained(r)))
    assert not any(tag == "script" for tag, _ in page.elements)
    assert "<script>alert(1)</script>" in page.text
    for text in (render_html(r, explained(r)), render_junit(r), json.dumps(to_sarif(r)), render_github(r)):
        assert "\x1b" not in text and "\u202e" not in text


@pytest.mark.parametrize("make", [mixed, nasty])
def test_html_loads_nothing(make) -> None:  # type: ignore[no-untyped-def]
    r = make()
    html = render_html(r, explained(r))
    page = Page(html)
    (policy,) = [a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:").startswith("data:image/png;base64,") or "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in html and "@import" not in html


def test_html_shows_figures_layers_and_the_input() -> None:
    w = WitnessResult(
        np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8, 1), None, None, np.array([-0.5, 0.25]), 0.5, "falsify",
        reference=np.array([1.0, 2.0]),
    )  # fmt: skip
    r = report(replace(check("fail"), tasks=(replace(task("fail"), witness=w),)))
    page = Page(render_html(r, explained(r)))
    assert any(tag == "img" for tag, _ in page.elements)
    for words in ("quantized - float = -0.5", "0.25", "infinite", "To reproduce", "qebgate check --check c"):
        assert words in page.text


def test_a_picture_is_a_png_of_the_input() -> None:
    x = np.arange(6 * 7 * 3, dtype=np.float32).reshape(6, 7, 3)
    shown = picture(x)
    assert shown is not None and (shown.low, shown.high) == (0.0, 125.0)
    data = base64.b64decode(shown.uri.split(",")[1])
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", data[16:24]) == (7, 6)
    size = struct.unpack(">I", data[33:37])[0]
    rows = np.frombuffer(zlib.decompress(data[41 : 41 + size]), np.uint8).reshape(6, 1 + 21)
    assert (rows[:, 1:].reshape(6, 7, 3) == np.rint(255 * x / 125).astype(np.uint8)).all()
    assert picture(np.zeros(784)) is None and picture(np.full((8, 8), np.nan)) is None
