"""The runtimes whose arithmetic qebgate knows, by name.

A profile says *which* of the known arithmetics a runtime uses; what that arithmetic does is in
``qebgate.semantics`` and ``qebgate.numerics.fixed_point``.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum


class Runtime(str, Enum):
    """A runtime profile; the value is its name in policies and reports."""

    REFERENCE = "litert-reference"
    """LiteRT with ``OpResolverType.BUILTIN_REF``."""
    BUILTIN = "litert-builtin"
    """LiteRT with ``BUILTIN_WITHOUT_DEFAULT_DELEGATES`` (ruy)."""
    XNNPACK = "litert-xnnpack"
    """LiteRT's default: the XNNPACK delegate, builtin for what it leaves."""

    TFLM = "tflm"
    """TensorFlow Lite Micro's reference kernels as built by default: two roundings.  Emulated, never run."""
    TFLM_SINGLE = "tflm-single-rounding"
    """The same built with ``TFLITE_SINGLE_ROUNDING``."""
    ENVELOPE = "envelope"
    """Every profile of :data:`MEMBERS` at once: what is proven holds in each of them."""

    FIXED_POINT = "fixed-point"
    """No deployed runtime: qebgate's own exact evaluation of networks that it quantized itself."""

    @property
    def emulated(self) -> bool:
        """Whether nothing here can run the profile: its witnesses are replayed in qebgate's own evaluator."""
        return self in (Runtime.TFLM, Runtime.TFLM_SINGLE, Runtime.FIXED_POINT)

    @property
    def members(self) -> Sequence[Runtime]:
        """The profiles that a bound must hold for: those of the envelope, or this one."""
        return MEMBERS if self is Runtime.ENVELOPE else (self,)

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
MICRO = (Runtime.TFLM, Runtime.TFLM_SINGLE)
"""The profiles of TensorFlow Lite Micro, which are emulated."""
MEMBERS = DEPLOYED + MICRO
"""What the envelope covers."""
