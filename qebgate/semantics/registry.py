"""All operators whose meaning is known, by name."""

from __future__ import annotations

from types import MappingProxyType

from qebgate.semantics.base import Semantics
from qebgate.semantics.fully_connected import FullyConnected

_ALL: tuple[type[Semantics], ...] = (FullyConnected,)

SEMANTICS = MappingProxyType({cls.name: cls() for cls in _ALL})
"""Operator name -> its exact meaning."""
