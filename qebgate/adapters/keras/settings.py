"""A layer's configuration, read key by key: what nobody has asked for must not mean anything."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, cast

from qebgate.adapters.keras.network import Layer
from qebgate.errors import UnsupportedError, printable

_SILENT = """
name trainable dtype batch_shape batch_input_shape batch_size input_dtype sparse ragged optional seed noise_shape
rate momentum renorm_momentum renorm_clipping synchronized activity_regularizer
"""
_SILENT_KEYS = frozenset(_SILENT.split())
"""Keys that change nothing when the network only computes, or that are checked for every layer."""
_SILENT_ENDS = ("_initializer", "_regularizer", "_constraint")
_NUMBERS = 1 << 31

T = TypeVar("T")


@dataclass(slots=True)
class Settings:
    """The configuration of one layer; every reader raises UnsupportedError QEB479."""

    layer: Layer
    where: str
    used: set[str] = field(default_factory=set[str])

    def get(self, key: str, default: object = None) -> Any:
        self.used.add(key)
        return self.layer.config.get(key, default)

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive integer."""
        found = self.get(key, default)
        return found if _positive(found) else self.wrong(key, found)

    def real(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        found = self.get(key, default)
        if (
            isinstance(found, (int, float))
            and not isinstance(found, bool)
            and abs(found) < 1e300
            and math.isfinite(found)
        ):
            return float(found)
        return self.wrong(key, found)

    def flag(self, key: str, default: bool) -> bool:
        found = self.get(key, default)
        return found if isinstance(found, bool) else self.wrong(key, found)

    def integers(self, key: str, count: int, default: object = None) -> tuple[int, ...]:
        """``count`` positive integers, or one for all."""
        found = self.get(key, default)
        if _positive(found):
            return (found,) * count
        values = cast("list[Any]", found) if isinstance(found, (list, tuple)) else []
        if len(values) != count or not all(_positive(v) for v in values):
            self.wrong(key, found)
        return tuple(values)

    def one_of(self, key: str, allowed: tuple[T, ...], default: object = None) -> T:
        """One of a few values."""
        found = self.get(key, default)
        for a in allowed:
            if found == a and type(found) is type(a):
                return a
        return self.wrong(key, found)

    def only(self, key: str, *allowed: object) -> None:
        """A setting that must have one of a few values, or be left out."""
        found = self.get(key, allowed[0])
        if not any(found == a and isinstance(found, bool) == isinstance(a, bool) for a in allowed):
            self.wrong(key, found)

    def channels_last(self) -> None:
        self.only("data_format", "channels_last", None)

    def shape(self) -> tuple[int, ...]:
        """An input's shape with a batch of 1."""
        found = self.get("batch_shape") or self.get("batch_input_shape")
        dims = list(cast("list[Any]", found)) if isinstance(found, (list, tuple)) else []
        if not dims or not all(_positive(d) for d in dims[1:]) or len(dims) > 6:
            raise UnsupportedError(
                "QEB416",
                "the shape of the model's input is not known",
                where=f"{self.where}: {self.layer.label}",
                found=printable(found, 80),
                fix="build the model for a fixed input shape; only the batch may vary",
            )
        if dims[0] not in (None, 1):
            raise UnsupportedError(
                "QEB419",
                "the model's input does not have a batch of 1, or one that may vary",
                where=f"{self.where}: {self.layer.label}",
                found=printable(found, 80),
            )
        return (1, *dims[1:])

    def done(self) -> None:
        """Refuse what has not been read: it could change what the layer computes."""
        self._dtype()
        for key, value in self.layer.config.items():
            silent = key in self.used or key in _SILENT_KEYS or key.endswith(_SILENT_ENDS)
            if not silent and value not in (None, False, [], {}):
                self.wrong(key, value)

    def _dtype(self) -> None:
        found = self.layer.config.get("dtype")
        if isinstance(found, dict):
            policy = cast("dict[str, Any]", found)
            inner = policy.get("config")
            known = policy.get("class_name") in ("DTypePolicy", "Policy")
            found = cast("dict[str, Any]", inner).get("name") if isinstance(inner, dict) and known else "?"
        if found not in (None, "float32"):
            self.wrong("dtype", self.layer.config.get("dtype"))

    def wrong(self, key: str, found: object) -> NoReturn:
        raise UnsupportedError(
            "QEB479",
            f"a layer's setting `{printable(key, 60)}` is not supported",
            where=f"{self.where}: {self.layer.label}",
            found=printable(found, 80),
        )


def _positive(v: object) -> bool:
    return type(v) is int and 0 < v < _NUMBERS
