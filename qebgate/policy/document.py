"""Reading the small, safe part of YAML that policies use, with the place of every key and value.

Built on the parser's events, so that nothing is constructed, merged or expanded.  Anchors, aliases,
tags, merge keys and numbers that YAML readers disagree on are errors; all of a file's are reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from qebgate.errors import PolicyError, printable

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_ERRORS = 50

Path = tuple[str | int, ...]

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_DOUBTFUL = re.compile(
    r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)([eE][-+]?[0-9]+)?"  # 1e-3, 1_000, 012, 1.0e4
    r"|[-+]?0[xob][0-9a-fA-F_]+|[-+]?[0-9]+(:[0-5]?[0-9])+"  # 0x10, 1:30
    r"|[-+]?(inf|infinity|nan)",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Document:
    """A YAML file as plain data, with marks ``path -> (line, column)`` from 1 for values and for keys.

    ``bad`` are the places of values that were no good as YAML and have a stand-in in ``data``.
    """

    name: str
    data: Any = None
    values: dict[Path, tuple[int, int]] = field(default_factory=dict[Path, tuple[int, int]])
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict[Path, tuple[int, int]])
    errors: list[PolicyError] = field(default_factory=list[PolicyError])
    bad: list[Path] = field(default_factory=list[Path])
    overrides: dict[Path, str] = field(default_factory=dict[Path, str])

    def where(self, path: Path, *, key: bool = False) -> str:
        """``file:line:column`` of a value (or its key); of the nearest enclosing one where it has none."""
        if path in self.overrides:
            return self.overrides[path]
        if key and path in self.keys:
            return self.at(*self.keys[path])
        while path and path not in self.values:
            path = path[:-1]
        return self.at(*self.values[path]) if path in self.values else self.name

    def at(self, line: int, column: int) -> str:
        """``file:line:column``."""
        return f"{self.name}:{line}:{column}"


def read_document(data: bytes, name: str) -> Document:
    """Parse a YAML file; raises PolicyError where it is no YAML at all, collects the other errors."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if len(data) > MAX_BYTES:
        raise PolicyError(
            "QEB203", "the policy is too large", where=name, found=f"{len(data)} bytes, at most {MAX_BYTES}"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise PolicyError("QEB203", "the policy is not UTF-8 text", where=name, found=f"byte {e.start}") from None
    doc = Document(name)
    yaml: Any = YAML(typ="safe", pure=True)
    try:
        _Builder(doc, yaml.parse(text)).run()
    except MarkedYAMLError as e:
        error: Any = e
        mark: Any = error.problem_mark or error.context_mark
        where = name if mark is None else doc.at(mark.line + 1, mark.column + 1)
        raise PolicyError(
            "QEB204", "the policy is not valid YAML", where=where, found=_one_line(error.problem)
        ) from None
    except (YAMLError, ValueError) as e:
        raise PolicyError("QEB204", "the policy is not valid YAML", where=name, found=_one_line(e)) from None
    return doc


def _one_line(text: object) -> str:
    return printable(" ".join(str(text).split()))


class _TooMany(Exception):  # noqa: N818 - control flow, not an error
    pass


class _Builder:
    """Turns events into data; every method consumes the events of one node."""

    def __init__(self, doc: Document, events: Iterator[Any]) -> None:
        self.doc = doc
        self.events = events

    def run(self) -> None:
        documents = 0
        try:
            for e in self.events:
                kind = type(e).__name__
                if kind == "DocumentStartEvent":
                    documents += 1
                    if documents > 1:
                        self._error(e, "QEB205", "a policy is one YAML document", "a second `---`")
                        return
                elif kind not in ("StreamStartEvent", "StreamEndEvent", "DocumentEndEvent", "CommentEvent"):
                    self.doc.data = self._node(e, ())
        except _TooMany:
            return
        if documents == 0:
            self.doc.data = None

    def _error(self, event: Any, code: str, message: str, found: str | None = None, fix: str | None = None) -> None:
        mark = event.start_mark
        where = self.doc.at(mark.line + 1, mark.column + 1)
        self.doc.errors.append(PolicyError(code, message, where, None if found is None else printable(found), fix))
        if len(self.doc.errors) >= MAX_ERRORS:
            raise _TooMany

    def _node(self, e: Any, path: Path) -> Any:
        self.doc.values.setdefault(path, (e.start_mark.line + 1, e.start_mark.column + 1))
        kind = type(e).__name__
        if kind == "AliasEvent":
            self.doc.bad.append(path)
            self._error(e, "QEB205", "YAML aliases are not allowed", f"*{e.anchor}", "write the value out")
            return None
        if e.anchor is not None:
            self._error(e, "QEB205", "YAML anchors are not allowed", f"&{e.anchor}", "write the value out")
        if getattr(e, "tag", None) not in (None, "!"):
            self.doc.bad.append(path)
            self._error(e, "QEB205", "YAML tags are not allowed", str(e.tag), "remove the tag")
        if len(path) > MAX_DEPTH:
            self._error(e, "QEB205", "the policy is nested too deeply")
            raise _TooMany
        if kind == "MappingStartEvent":
            return self._mapping(path)
        if kind == "SequenceStartEvent":
            return self._sequence(path)
        return self._scalar(e, path)

    def _mapping(self, path: Path) -> dict[str, Any]:
        out: dict[str, Any] = {}
        while type(e := next(self.events)).__name__ != "MappingEndEvent":
            if type(e).__name__ != "ScalarEvent":
                self._error(e, "QEB211", "a key is not plain text")
                self._node(e, (*path, "?"))
                self._node(next(self.events), (*path, "?"))
                continue
            key = str(e.value)
            if e.anchor is not None:
                self._error(e, "QEB205", "YAML anchors are not allowed", f"&{e.anchor}", "write the value out")
            if key == "<<" and e.implicit[0]:
                self._error(e, "QEB205", "YAML merge keys are not allowed", "<<", "write the values out")
                self._node(next(self.events), (*path, "?"))
                continue
            where = (*path, key)
            if key in out:
                first = self.doc.keys[where]
                self._error(
                    e, "QEB206", "a key is given twice", f"{key!r}, first on line {first[0]}", "remove one of them"
                )
                self._node(next(self.events), (*path, "?"))
                continue
            self.doc.keys[where] = (e.start_mark.line + 1, e.start_mark.column + 1)
            out[key] = self._node(next(self.events), where)
        return out

    def _sequence(self, path: Path) -> list[Any]:
        out: list[Any] = []
        while type(e := next(self.events)).__name__ != "SequenceEndEvent":
            out.append(self._node(e, (*path, len(out))))
        return out

    def _scalar(self, e: Any, path: Path) -> Any:
        text = str(e.value)
        if not e.implicit[0]:  # quoted, or a block
            return text
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if _INT.fullmatch(text) and len(text) < 20:
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _SPECIAL.fullmatch(text):
            self.doc.bad.append(path)
            self._error(e, "QEB208", "a number is not finite", text)
            return 0.0
        if _DOUBTFUL.fullmatch(text):
            self.doc.bad.append(path)
            self._error(
                e,
                "QEB207",
                "YAML readers disagree on whether this is a number or text",
                text,
                "write a decimal number such as 0.001 or 1.0e-3 (with a point, and a sign after e), or quote text",
            )
            return 0
        return text
