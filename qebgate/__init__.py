"""qebgate: proofs that a quantized network stays within a bound of its float reference.

:func:`check` runs a policy, :func:`compare` asks one question; both are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qebgate._version import __version__

if TYPE_CHECKING:
    from qebgate.api import Answer, Region, ball, box, check, compare, points, segment
    from qebgate.errors import QebgateError

__all__ = [
    "Answer",
    "QebgateError",
    "Region",
    "__version__",
    "ball",
    "box",
    "check",
    "compare",
    "points",
    "segment",
]


def __getattr__(name: str) -> Any:
    """Names of the public interface, loaded when they are first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module("qebgate.errors" if name == "QebgateError" else "qebgate.api")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
