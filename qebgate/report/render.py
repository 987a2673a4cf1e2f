"""A report as text, in each of the formats for programs and pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from qebgate.explain import explain_all
from qebgate.policy import PolicyFile
from qebgate.report.codequality import render_codequality
from qebgate.report.github import render_github
from qebgate.report.html import render_html
from qebgate.report.intoto import render_intoto
from qebgate.report.json import render_json
from qebgate.report.junit import render_junit
from qebgate.report.markdown import render_markdown
from qebgate.report.sarif import render_sarif
from qebgate.result import Report

Name = Literal["json", "markdown", "github", "sarif", "junit", "html", "intoto", "codequality"]
EXPLAINING = 20.0
"""Seconds for finding out where a bound that is not good enough comes from."""
_RENDERERS: dict[str, Callable[[Report], str]] = {
    "json": render_json,
    "markdown": render_markdown,
    "github": render_github,
    "sarif": render_sarif,
    "junit": render_junit,
    "intoto": render_intoto,
    "codequality": render_codequality,
}


def rendered(report: Report, name: str, source: PolicyFile) -> str:
    """A report in the format ``name`` (:data:`Name`); ``html`` takes the worst bound of one check apart first."""
    if name == "html":
        return render_html(report, explain_all(source, report, EXPLAINING))
    return _RENDERERS[name](report)
