"""The command line.  No logic here: it reads arguments, calls the gate, prints reports, sets the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn

from qebgate._version import __version__
from qebgate.errors import ExitCode, QebgateError, printable

BUG_REPORT = "this is a bug in qebgate, please report it with the output of --debug"


def main() -> NoReturn:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that the terminal cannot show must not end the run
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run a command line and return its exit code: 70 for whatever is not a coded error, never 1."""
    words = list(args)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end] or os.environ.get("QEBGATE_DEBUG", "") not in ("", "0")
    words = [w for w in words[:end] if w != "--debug"] + words[end:]
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        return _say("interrupted", ExitCode.INTERRUPTED)
    except QebgateError as e:
        if debug:
            _traceback()
        if e.exit_code is ExitCode.BUG:
            return _say(f"{_clean(e)}\n{BUG_REPORT}", ExitCode.BUG)
        return _say(_full(e), e.exit_code)
    except Exception as e:  # noqa: BLE001 - the last line of defence: a bug must not look like a verdict
        if debug:
            _traceback()
        what = "a package cannot be imported" if isinstance(e, ImportError) else "internal error"
        return _say(
            f"{what}: {type(e).__name__}: {printable(e, 500)} (qebgate {__version__}); {BUG_REPORT}", ExitCode.BUG
        )


def _dispatch(words: list[str]) -> int:
    import typer

    from qebgate.cli.app import app

    # typer brings its own click or uses the installed one, depending on its version: ask it which
    usage_error = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

    try:
        result: object = app(words, prog_name="qebgate", standalone_mode=False)
    except typer.Abort:
        return _say("interrupted", ExitCode.INTERRUPTED)
    except Exception as e:
        if not isinstance(e, usage_error):
            raise
        e.show()  # type: ignore[attr-defined]
        return int(ExitCode.USAGE)
    return int(result) if isinstance(result, int) else int(ExitCode.PASS)


def _clean(e: QebgateError) -> str:
    return "\n".join(printable(line, 2000) for line in str(e).splitlines())


def _full(e: QebgateError) -> str:
    """A coded error and, in full, those that it holds."""
    lines = [f"error {e.code}: {printable(e.message, 2000)}"]
    for label, value in (("where", e.where), ("found", e.found), ("fix", e.fix)):
        if value:
            lines.append(f"  {label}: {printable(value, 2000)}")
    return "\n".join([*lines, *(_full(r) for r in e.related)])


def _traceback() -> None:
    import traceback

    traceback.print_exc()


def _say(text: str, code: ExitCode) -> int:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
    return int(code)
