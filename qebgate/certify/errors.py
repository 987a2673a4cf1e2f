"""Errors of evidence."""

from __future__ import annotations

from typing import ClassVar

from qebgate.errors import ExitCode, QebgateError


class EvidenceError(QebgateError):
    """Evidence is damaged, does not belong to these models, or uses something that cannot be rechecked (exit 2)."""

    exit_code: ClassVar[ExitCode] = ExitCode.USAGE


def cannot(why: str, where: str | None = None) -> EvidenceError:
    """The checker does not know how to check it: neither yes nor no."""
    return EvidenceError("QEB486", f"the evidence cannot be rechecked: {why}", where=where)
