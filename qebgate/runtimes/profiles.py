"""The runtimes whose arithmetic qebgate knows, by name.

A profile says *which* of the known arithmetics a runtime uses; what that arithmetic does is in
``qebgate.semantics`` and ``qebgate.numerics.fixed_point``.
"""

from __future__ import annotations

from enum import Enum


class Runtime(str, Enum):
    """A runtime profile; the value is its name in policies and reports."""

    REFERENCE = "litert-reference"
    """LiteRT with ``OpResolverType.BUILTIN_REF``."""
    BUILTIN = "litert-builtin"
    """LiteRT with ``BUILTIN_WITHOUT_DEFAULT_DELEGATES`` (ruy)."""
    XNNPACK = "litert-xnnpack"
    """LiteRT's default: the XNNPACK delegate, builtin for what it leaves."""

    FIXED_POINT = "fixed-point"
    """No deployed runtime: qebgate's own exact evaluation of networks that it quantized itself."""

    @property
    def resolver(self) -> str:
        """The name of LiteRT's ``OpResolverType`` member; KeyError for a profile that is not LiteRT's."""
        return {
            Runtime.REFERENCE: "BUILTIN_REF",
            Runtime.BUILTIN: "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
            Runtime.XNNPACK: "BUILTIN",
        }[self]


DEPLOYED = (Runtime.REFERENCE, Runtime.BUILTIN, Runtime.XNNPACK)
"""The profiles of LiteRT, which can be installed and asked."""
