"""What makes pages that are written for a forge read the same on the site.

Links to files of the repository (``../templates/...``) lead to copies of them on the site, shown as text. A forge
begins a list right after a line of text; Python-Markdown needs an empty line between the two.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

OUTSIDE = re.compile(r"\]\((\.\./[^)#\s]+)\)")
"""A link out of the folder of pages."""
FENCE = re.compile(r"\s*(```|~~~)")
ITEM = re.compile(r"([-*+]|\d+\.) ")


def on_files(files: Files, config: Any) -> Files:
    """Add the files of the repository that pages link to."""
    docs = Path(config["docs_dir"])
    for page in sorted(docs.glob("*.md")):
        for target in sorted(set(OUTSIDE.findall(page.read_text("utf-8")))):
            source = (docs / target).resolve()
            if source.is_file() and files.get_file_from_path(name := copy_of(target)) is None:
                files.append(File.generated(config, name, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links out of the folder to the copies, and set lists apart from text."""
    return spaced(OUTSIDE.sub(lambda m: f"]({copy_of(m[1])})", markdown))


def copy_of(target: str) -> str:
    """The name on the site of a file of the repository."""
    return f"repository/{target.removeprefix('../')}.txt"


def spaced(markdown: str) -> str:
    """An empty line before each list that follows text."""
    out: list[str] = []
    fenced = False
    for line in markdown.splitlines():
        if FENCE.match(line):
            fenced = not fenced
        before = out[-1] if out else ""
        if not fenced and ITEM.match(line) and before.strip() and not ITEM.match(before) and not before.startswith(" "):
            out.append("")
        out.append(line)
    return "\n".join(out) + "\n"
