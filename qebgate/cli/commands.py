"""What the commands do: read, call, print."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from qebgate.errors import PRECEDENCE, ExitCode, PolicyError, printable
from qebgate.policy import PolicyFile, find_policy, load_policy, parse_policy
from qebgate.policy.load import Effort
from qebgate.policy.messages import did_you_mean
from qebgate.result import Report

FORMATS = ("rich", "json", "markdown", "github", "sarif", "junit", "html", "intoto", "codequality")
EXPLAIN_FORMATS = ("rich", "json")


@dataclass(frozen=True, slots=True)
class CheckArgs:
    """Arguments of ``check``."""

    policy: Path | None
    checks: list[str]
    sets: list[str]
    root: Path | None
    formats: list[str]
    jobs: int
    exit_zero: bool
    output: Path
    evidence: Path | None = None
    cache: bool = False
    effort: Effort | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """Arguments of ``compare``."""

    float_model: Path
    quantized_model: Path
    data: Path
    array: str | None
    values: str | None
    limit: int | None
    radius: str | None
    domain: str | None
    input_quantization: str | None
    runtimes: list[str]
    max_abs: float | None
    max_lsb: float | None
    max_rel: float | None
    floor: float | None
    max_l2: float | None
    same_top1: float | None
    tensor: str
    require: str
    effort: str


@dataclass(frozen=True, slots=True)
class Format:
    """A report to write; to the standard output without a path."""

    name: str
    path: Path | None


def console(*, stderr: bool = False) -> Console:
    """A console that leaves names alone, and does not squeeze tables into 80 columns of a log."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 160
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def check(args: CheckArgs) -> int:
    """``qebgate check``."""
    formats = parse_formats(args.formats)
    forget(formats)
    source = _annotating(args, formats)
    return _run(
        source,
        tuple(args.checks),
        repeating(args),
        formats,
        args.jobs,
        args.output,
        exit_zero=args.exit_zero,
        evidence=args.evidence,
        cached=args.cache,
    )


def compare(
    q: Question, formats: Sequence[str], jobs: int, exit_zero: bool, output: Path, *, cache: bool = False
) -> int:
    """``qebgate compare``."""
    wanted = parse_formats(formats)
    forget(wanted)
    source = parse_policy(question_policy(q), "the command line", Path())
    command = ("qebgate", *_repeatable(sys.argv[1:]))
    return _run(source, (), command, wanted, jobs, output, exit_zero=exit_zero, cached=cache)


def explain(name: str, args: CheckArgs) -> int:
    """``qebgate explain``."""
    from qebgate.cli.progress import watching
    from qebgate.explain import explain as run_explain
    from qebgate.gate import Options
    from qebgate.report.explain import explanation_json, render_explanation

    formats = parse_formats(args.formats)
    for f in formats:
        if f.name not in EXPLAIN_FORMATS:
            raise PolicyError(
                "QEB220", "an explanation has no such format", found=f.name, fix=" or ".join(EXPLAIN_FORMATS)
            )
    forget(formats)
    with watching(console(stderr=True)) as observer:
        found = run_explain(load(args), name, Options(jobs=args.jobs, command=repeating(args), observer=observer))
    for f in formats:
        if f.name == "rich":
            print_or_save(f, lambda out: render_explanation(found, out))
        else:
            text_or_save(f, explanation_json(found))
    return exit_code(found.report, exit_zero=args.exit_zero)


def plan(args: CheckArgs) -> int:
    """``qebgate check --plan``."""
    from qebgate.cache import Cache
    from qebgate.plan import make_plan
    from qebgate.report.plan import Before, render_plan
    from qebgate.report.terminal import render_error

    source = load(args)
    made = make_plan(source, args.checks)
    cache = Cache.open() if args.cache else None
    before = Before({}, {})
    if cache is not None:
        before = Before(cache.stored(made), cache.last(None if source.path is None else str(source.path)))
        _warn(cache.notices)
    render_plan(made, console(), before)
    for e in made.errors:
        render_error(e.error, console(stderr=True))
    return int(min((e.error.exit_code for e in made.errors), key=PRECEDENCE.index, default=ExitCode.PASS))


def inspect(models: Sequence[Path]) -> int:
    """``qebgate inspect``."""
    from qebgate.adapters import load_model
    from qebgate.report.inspect import render_graph, render_pair

    if len(models) > 2:
        raise PolicyError("QEB222", "inspect takes one model or two", found=f"{len(models)} models")
    out = console()
    graphs = [load_model(m, quantized=k == len(models) - 1) for k, m in enumerate(models)]
    for g in graphs:
        render_graph(g, out)
    if len(graphs) == 2:
        from qebgate.ir.align import align

        render_pair(align(graphs[0], graphs[1]), out)
    return 0


def schema(*, result: bool) -> int:
    """``qebgate schema``."""
    from qebgate.policy.schema import policy_schema
    from qebgate.report.json import RESULT_SCHEMA

    sys.stdout.write(json.dumps(RESULT_SCHEMA if result else policy_schema(), indent=2) + "\n")
    return 0


def parse_formats(texts: Sequence[str]) -> list[Format]:
    """``F`` or ``F=PATH`` each; PolicyError for unknown ones and for two on the standard output."""
    out: list[Format] = []
    for text in texts:
        name, eq, path = text.partition("=")
        if name not in FORMATS:
            raise PolicyError(
                "QEB220",
                f"there is no format {printable(name)!r}",
                where=f"--format {printable(text)}",
                fix=did_you_mean(name, FORMATS),
            )
        if eq and not path:
            raise PolicyError("QEB220", "--format has an empty path", where=f"--format {printable(text)}")
        out.append(Format(name, Path(path) if eq else None))
    printed = [f.name for f in out if f.path is None]
    if len(printed) > 1:
        raise PolicyError(
            "QEB220",
            "only one format can go to the standard output",
            found=", ".join(printed),
            fix="give the others a =PATH",
        )
    return out if printed else [Format("rich", None), *out]


def _named_array(text: str) -> tuple[str, str]:
    name, eq, array = text.partition("=")
    if not (name and eq and array):
        raise PolicyError(
            "QEB221",
            "the arrays of several inputs are not named",
            where="--array",
            found=printable(text, 80),
            fix="give one for each input: --array INPUT=ARRAY,INPUT=ARRAY",
        )
    return name, array


def question_policy(q: Question) -> dict[str, Any]:
    """A policy with one check, as data."""
    from qebgate.api import one_check, property_of

    limits = {
        "max_abs": q.max_abs, "max_lsb": q.max_lsb, "max_rel": q.max_rel, "max_l2": q.max_l2, "same_top1": q.same_top1,
    }  # fmt: skip
    prop = property_of(limits, floor=q.floor, where="the command line", prefix="--") | {"tensor": q.tensor}
    region: dict[str, Any] = {"kind": "points", "data": str(q.data)}
    named = q.array is not None and "=" in q.array  # of several inputs: INPUT=ARRAY,INPUT=ARRAY
    arrays = dict(_named_array(one) for one in q.array.split(",")) if q.array is not None and named else None
    optional = {"array": None if named else q.array, "arrays": arrays, "values": q.values, "limit": q.limit}
    region |= {k: v for k, v in optional.items() if v is not None}
    if q.radius is not None:
        m = re.fullmatch(r"([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?) ?(lsb)?", q.radius)
        if m is None:
            raise PolicyError(
                "QEB221",
                "the radius is not a number",
                where=f"--radius {printable(q.radius)}",
                fix="a number in real units such as 0.02, or in quanta of the input such as 2lsb",
            )
        region |= {"kind": "ball", "radius": float(m[1]), "unit": "lsb" if m[2] else "real"}
    region["domain"] = q.domain or ("grid" if region.get("unit") == "lsb" else "real")
    model: dict[str, Any] = {"float": str(q.float_model), "quantized": str(q.quantized_model)}
    if q.runtimes:
        model["runtime"] = list(q.runtimes)
    if q.input_quantization is not None:
        model["input_quantization"] = q.input_quantization
    return one_check("compare", model, region, prop, q.require, q.effort)


def load(args: CheckArgs) -> PolicyFile:
    """The policy that the arguments name, or the nearest one."""
    path = args.policy if args.policy is not None else find_policy(Path.cwd())
    if args.root is not None and not args.root.is_dir():
        raise PolicyError("QEB223", "--root is not a folder", where=f"--root {printable(args.root)}")
    if args.policy is None and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return load_policy(path, root=args.root, sets=args.sets, effort=args.effort)


def _annotating(args: CheckArgs, formats: Sequence[Format]) -> PolicyFile:
    """The policy; its errors become annotations too where those are asked for."""
    try:
        return load(args)
    except PolicyError as e:
        from qebgate.report.github import render_policy_error

        for f in formats:
            if f.name == "github":
                text_or_save(f, render_policy_error(e))
        raise


def repeating(args: CheckArgs) -> tuple[str, ...]:
    """The command line that repeats a check."""
    words = ["qebgate", "check"]
    if args.policy is not None:
        words.append(str(args.policy))
    for s in args.sets:
        words += ["--set", s]
    if args.root is not None:
        words += ["--root", str(args.root)]
    if args.effort is not None:
        words += ["--effort", args.effort]
    return tuple(words)


def _repeatable(words: Sequence[str]) -> list[str]:
    """A command line without options that say where reports go."""
    out: list[str] = []
    skip = False
    for w in words:
        if skip:
            skip = False
        elif w in ("--format", "--output"):
            skip = True
        elif not w.startswith(("--format=", "--output=")) and w not in ("--exit-zero", "--debug"):
            out.append(w)
    return out


def _run(
    source: PolicyFile,
    only: tuple[str, ...],
    command: tuple[str, ...],
    formats: Sequence[Format],
    jobs: int,
    output: Path,
    *,
    exit_zero: bool,
    evidence: Path | None = None,
    cached: bool = False,
) -> int:
    from qebgate.cache import Cache
    from qebgate.cli.progress import watching
    from qebgate.gate import Options
    from qebgate.gate import check as run_gate
    from qebgate.report.witness import save_witnesses

    err = console(stderr=True)
    with watching(err) as observer:
        cache = Cache.open() if cached else None
        report = run_gate(source, Options(only, jobs, command, observer, cache=cache))
    report, warnings = save_witnesses(report, output / "witnesses")
    _warn([*(() if cache is None else cache.notices), *warnings])
    if evidence is not None:
        from qebgate.cli.recheck import keep
        from qebgate.report.json import render_json

        keep(source, report, only, evidence)
        _save(evidence / "result.json", render_json(report).encode())
    for f in formats:
        _write(report, f, source)
    return exit_code(report, exit_zero=exit_zero)


def _warn(warnings: Sequence[str]) -> None:
    err = console(stderr=True)
    for w in warnings:
        err.print(f"warning: {w}", soft_wrap=True)


def exit_code(report: Report, *, exit_zero: bool) -> int:
    """The process's exit code after a report."""
    code = report.exit_code
    return 0 if exit_zero and code in (ExitCode.FAIL, ExitCode.UNKNOWN) else int(code)


def forget(formats: Sequence[Format]) -> None:
    """Remove result files of an earlier run: if this one ends in an error, nobody must read the old verdict."""
    for f in formats:
        if f.name == "json" and f.path is not None and f.path.is_file() and f.path.stat().st_size > 0:
            with f.path.open("rb") as old:
                ours = old.read(64).startswith(b'{"schema": ')
            if ours:
                f.path.unlink()


def _write(report: Report, f: Format, source: PolicyFile) -> None:
    from qebgate.report.render import rendered
    from qebgate.report.terminal import render_terminal

    if f.name == "rich":
        print_or_save(f, lambda out: render_terminal(report, out))
    else:
        text_or_save(f, rendered(report, f.name, source))


def print_or_save(f: Format, render: Callable[[Console], None]) -> None:
    """What is printed for people: to the terminal, or as text into a file."""
    if f.path is None:
        render(console())
        return
    plain = Console(highlight=False, markup=False, emoji=False, width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    render(plain)
    _save(f.path, plain.export_text().encode())


def text_or_save(f: Format, text: str) -> None:
    """Text for programs: to the standard output, or into a file."""
    if f.path is None:
        sys.stdout.write(text)
    else:
        _save(f.path, text.encode())


def _save(path: Path, data: bytes) -> None:
    from qebgate.report.witness import write_file

    try:
        special = path.exists() and not stat.S_ISREG(path.stat().st_mode)
        if special or str(path) == os.environ.get("GITHUB_STEP_SUMMARY"):  # a summary that other steps share
            with path.open("ab") as f:
                f.write(data)
        else:
            write_file(path, data)
    except OSError as e:
        raise PolicyError("QEB224", "a report cannot be written", where=printable(path), found=e.strerror) from None
