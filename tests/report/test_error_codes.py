"""docs/errors.md and the source agree on the codes."""

from __future__ import annotations

import re
from pathlib import Path


def documented(root: Path) -> set[int]:
    out: set[int] = set()
    for line in (root / "docs" / "errors.md").read_text().splitlines():
        if not line.startswith("| QEB"):
            continue
        cell = line.split("|")[1]
        numbers = [int(n) for n in re.findall(r"QEB(\d{3})", cell)]
        out |= set(range(numbers[0], numbers[1] + 1)) if " to " in cell else set(numbers)
    return out


def test_no_code_is_in_two_rows(root: Path) -> None:
    rows = re.findall(r"^\| (QEB\d{3}) \|", (root / "docs" / "errors.md").read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(set(rows)) and rows


def test_every_code_is_documented(root: Path) -> None:
    files = [*(root / "qebgate").rglob("*.py"), *(root / "integrations").glob("*.py")]
    used = {int(n) for p in files for n in re.findall(r"QEB(\d{3})", p.read_text())} - {999}
    known = documented(root)
    assert sorted(used - known) == []
    ranges = (
        set(range(421, 426)) | set(range(431, 439)) | set(range(461, 471)) | set(range(701, 706)) | set(range(901, 913))
    )
    assert sorted(known - used - ranges) == []
