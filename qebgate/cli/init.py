"""``qebgate init``: measure, write a policy, run it."""

from __future__ import annotations

from pathlib import Path

from qebgate.cli.commands import console
from qebgate.errors import PolicyError, printable
from qebgate.initial import Sources, measure, write_policy
from qebgate.policy.load import FILE_NAME


def init(sources: Sources, output: Path, *, force: bool) -> int:
    """Write a starting policy and run its checks; the exit code is theirs."""
    from qebgate.gate import Options, check
    from qebgate.policy import load_policy
    from qebgate.report.terminal import render_terminal
    from qebgate.report.witness import write_file

    path = output / FILE_NAME if output.is_dir() else output
    if path.exists() and not force:
        raise PolicyError("QEB236", "the policy exists already", where=printable(path), fix="--force replaces it")
    err = console(stderr=True)
    found = measure(sources, lambda words: err.print(f"init: {words}", soft_wrap=True))
    text = write_policy(found, path.parent)
    try:
        write_file(path, text.encode())
    except OSError as e:
        raise PolicyError("QEB224", "the policy cannot be written", where=printable(path), found=e.strerror) from None
    out = console()
    if found.ball is None:
        out.print(f"No ball around the data can be proven usefully: {printable(found.why, 500)}.", soft_wrap=True)
        out.print("The policy asks about the rows and segments through them instead, which are exact.", soft_wrap=True)
    report = check(load_policy(path), Options(command=("qebgate", "check", str(path))))
    render_terminal(report, out)
    out.print(f"\nWritten: {printable(path, 500)}. Next: `qebgate check {printable(path, 500)}`", soft_wrap=True)
    return int(report.exit_code)
