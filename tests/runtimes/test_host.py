"""Machines without guards say so, with a code."""

from __future__ import annotations

import importlib.util
import platform
import re
from pathlib import Path

import pytest

from qebgate.gate import Options, check
from qebgate.policy import load_policy
from qebgate.runtimes import host

ON_LINUX = platform.system() == "Linux" and platform.machine() == "x86_64"


@pytest.mark.skipif(not ON_LINUX, reason="of Linux on x86-64")
def test_nothing_is_missing_where_it_was_measured() -> None:
    assert host.measured()
    assert host.shortcomings() == ()


def test_windows_and_macos_say_what_is_missing(monkeypatch: pytest.MonkeyPatch, digits: Path) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(host, "STATM", Path("/nowhere/statm"))
    assert [line[:6] for line in host.shortcomings()] == ["QEB930", "QEB932"]
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "resource" else found(name))
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    said = host.shortcomings()
    assert [line[:6] for line in said] == ["QEB930", "QEB931", "QEB932"]
    assert all(re.match(r"QEB93\d: .*(Windows|arm64)", line) for line in said)
    report = check(load_policy(digits / "failing.yaml", effort="quick"), Options())
    assert set(said) <= set(report.notes)
    assert "covers the x86-64 kernels of litert-xnnpack" in report.checks[0].assumptions[0]
