"""Coded, user-facing errors.

Every mistake a user can make ends in one of these: a stable code, what is wrong, where, what was
found and how to fix it.  The class decides the process's exit code (``contract``: 2 policy or usage,
4 model or data, 130 interrupted); anything else that escapes is a bug and exits 70.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Process exit codes; when several apply, :data:`PRECEDENCE` says which one wins."""

    PASS = 0
    FAIL = 1
    USAGE = 2
    UNKNOWN = 3
    MODEL = 4
    NOTHING = 5
    BUG = 70
    INTERRUPTED = 130


PRECEDENCE: tuple[ExitCode, ...] = (
    ExitCode.BUG,
    ExitCode.USAGE,
    ExitCode.MODEL,
    ExitCode.FAIL,
    ExitCode.UNKNOWN,
    ExitCode.NOTHING,
    ExitCode.PASS,
)
"""Most severe first."""


def printable(text: object, limit: int = 200) -> str:
    """Escape control characters of a name that comes from a file, and shorten it.

    Newlines, escape sequences and other non-printable characters become ``\\x..`` escapes, so that a
    hostile tensor name cannot forge a line of output.
    """
    raw = str(text)
    out = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in raw[: limit + 1])
    return out if len(raw) <= limit else out[: limit - 1] + "…"


@dataclass(eq=False)
class QebgateError(Exception):
    """Base of all coded errors.

    ``code`` is stable (``QEB2xx`` policy and usage, ``QEB4xx`` models and data), ``where`` names file,
    operator or tensor, ``found`` the offending value, ``fix`` what to do about it.
    """

    code: str
    message: str
    where: str | None = None
    found: str | None = None
    fix: str | None = None
    related: tuple[QebgateError, ...] = field(default=())

    exit_code: ClassVar[ExitCode] = ExitCode.BUG

    def __post_init__(self) -> None:
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.message}"]
        lines += [
            f"  {label}: {value}"
            for label, value in (("where", self.where), ("found", self.found), ("fix", self.fix))
            if value
        ]
        lines += [f"  - {r.message}" + (f" ({r.where})" if r.where else "") for r in self.related]
        return "\n".join(lines)


class PolicyError(QebgateError):
    """The policy file or the command line is wrong (exit 2)."""

    exit_code = ExitCode.USAGE


class ModelError(QebgateError):
    """A model cannot be read, is not supported, or two models are not the same network (exit 4)."""

    exit_code = ExitCode.MODEL


class UnsupportedError(ModelError):
    """A well-formed model uses something that qebgate does not analyse (exit 4)."""


class UnboundedError(UnsupportedError):
    """Bounds of a region reach what an operator is not defined for: a division by 0, a root of less than 0 (exit 4).

    An engine that meets it has nothing to say; others may.
    """


class AlignmentError(ModelError):
    """Two models are not the same network (exit 4)."""


class DataError(QebgateError):
    """A data file cannot be read or does not fit the model (exit 4)."""

    exit_code = ExitCode.MODEL


class ReplayError(QebgateError):
    """The installed runtime failed on a model: crash, time-out, out of memory (exit 70).

    Exit 70 because a verdict that needs a replay cannot be given: neither PASS nor UNKNOWN is true.
    """

    exit_code = ExitCode.BUG


class WorkerError(QebgateError):
    """A process that worked on tasks was ended from outside (exit 70).

    By the system for lack of memory, most often; what it was working on has no verdict.
    """

    exit_code = ExitCode.BUG


class InternalError(QebgateError):
    """An invariant of qebgate itself does not hold (exit 70)."""

    exit_code = ExitCode.BUG
