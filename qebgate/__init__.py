"""qebgate: proofs that a quantized network stays within a bound of its float reference."""

from qebgate._version import __version__

__all__ = ["__version__"]
