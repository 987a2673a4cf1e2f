"""Parts of the policy language that later versions will have: refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, cast

from qebgate.policy.document import Path

_SUFFIXES = (".keras", ".h5", ".hdf5", ".npz", ".pb")
_FLOAT = _SUFFIXES[:-1]
"""Formats of float references."""
_QUANTIZED = (".h5", ".hdf5")
"""Those of quantized ones: models of quantization-aware training."""


def later_features(data: Any) -> Iterator[tuple[Path, Path, str]]:
    """``(path, scope, what)`` of each later feature in use; other errors inside the scope say nothing new."""
    top = _dict(data)
    for name, model in _dict(top.get("models")).items():
        yield from _model(("models", name), _dict(model))


def _model(at: Path, model: dict[str, Any]) -> Iterator[tuple[Path, Path, str]]:
    for key in ("float", "quantized"):
        path = model.get(key)
        if key == "float" and isinstance(path, dict):
            path = cast("dict[str, Any]", path).get("file")
        suffix = PurePath(path).suffix if isinstance(path, str) else ""
        if suffix.lower() in _SUFFIXES and suffix.lower() not in (_FLOAT if key == "float" else _QUANTIZED):
            yield (*at, key), (*at, key), f"a {key} model of format {suffix}"


def _dict(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
