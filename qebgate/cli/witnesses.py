"""``qebgate falsify`` and ``qebgate replay``: read, call, print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qebgate.cli import commands
from qebgate.cli.commands import CheckArgs, Format
from qebgate.errors import PolicyError

FORMATS = ("rich", "json")


def falsify(args: CheckArgs) -> int:
    """``qebgate falsify``: the gate with engines that only run inputs."""
    from qebgate.cli.progress import watching
    from qebgate.gate import Options, check
    from qebgate.report.json import render_json
    from qebgate.report.search import render_search
    from qebgate.report.witness import save_witnesses

    formats = _formats(args.formats)
    commands.forget(formats)
    source = commands.load(args)
    err = commands.console(stderr=True)
    command = ("qebgate", "falsify", *commands.repeating(args)[2:])
    with watching(err) as observer:
        report = check(source, Options(tuple(args.checks), args.jobs, command, search=True, observer=observer))
    report, warnings = save_witnesses(report, args.output / "witnesses")
    for w in warnings:
        err.print(f"warning: {w}", soft_wrap=True)
    for f in formats:
        if f.name == "rich":
            commands.print_or_save(f, lambda out: render_search(report, out))
        else:
            commands.text_or_save(f, render_json(report))
    return commands.exit_code(report, exit_zero=args.exit_zero)


def replay(witness: Path, float_model: Path | None, quantized_model: Path | None, formats: Sequence[str]) -> int:
    """``qebgate replay``."""
    from qebgate.replay import replay as run
    from qebgate.report.replay import render_replay, replay_json

    wanted = _formats(formats)
    found = run(witness, float_model, quantized_model)
    for f in wanted:
        if f.name == "rich":
            commands.print_or_save(f, lambda out: render_replay(found, out))
        else:
            commands.text_or_save(f, replay_json(found))
    return int(found.exit_code)


def _formats(texts: Sequence[str]) -> list[Format]:
    formats = commands.parse_formats(texts)
    for f in formats:
        if f.name not in FORMATS:
            fix = " or ".join(FORMATS)
            raise PolicyError("QEB220", "there is no such format here", where=f"--format {f.name}", fix=fix)
    return formats
