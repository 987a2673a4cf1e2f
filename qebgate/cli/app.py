"""The commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    name="qebgate",
    help="Proves that a quantized network stays within a bound of its float reference.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 pass, 1 fail, 2 usage or policy, 3 unknown, 4 model or data, 5 nothing checked, 70 bug, "
    "130 interrupted.",
)

Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar="F[=PATH]",
        help="rich (default), json, markdown, github, sarif, junit, html, intoto, codequality; to a file with =PATH. "
        "Repeatable.",
    ),
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, max=256, help="Processes to use.")]
ExitZero = Annotated[bool, typer.Option("--exit-zero", help="Exit 0 when checks fail or stay unknown (not on errors).")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Run every task, whatever earlier runs have answered.")]
Output = Annotated[Path, typer.Option("--output", metavar="DIR", help="Where counterexamples are written.")]


def _version(value: bool) -> None:
    if value:
        from qebgate._version import __version__

        typer.echo(f"qebgate {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks (also after a command).")] = False,
) -> None:
    """Proves that a quantized network stays within a bound of its float reference."""
    del version, debug


@app.command()
def check(
    policy: Annotated[Path | None, typer.Argument(help="Policy file [default: the nearest qebgate.yaml]")] = None,
    checks: Annotated[
        list[str] | None, typer.Option("--check", metavar="ID", help="Only this check. Repeatable.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="models.NAME.KEY=VALUE", help="Override a model's path or runtime. Repeatable."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", metavar="DIR", help="What the policy's paths are relative to.")
    ] = None,
    formats: Formats = None,
    jobs: Jobs = 1,
    exit_zero: ExitZero = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would run.")] = False,
    output: Output = Path(".qebgate"),
    evidence: Annotated[
        Path | None, typer.Option("--evidence", metavar="DIR", help="Write evidence for `recheck` here.")
    ] = None,
    no_cache: NoCache = False,
    effort: Annotated[
        Literal["quick", "standard", "deep"] | None, typer.Option("--effort", help="Instead of the policy's.")
    ] = None,
) -> int:
    """Run the gate: every check of a policy."""
    from qebgate.cli import commands

    args = commands.CheckArgs(
        policy, checks or [], sets or [], root, formats or [], jobs, exit_zero, output, evidence, cache=not no_cache,
        effort=effort,
    )  # fmt: skip
    return commands.plan(args) if plan else commands.check(args)


@app.command()
def compare(
    float_model: Annotated[
        Path, typer.Argument(metavar="FLOAT", help="The float reference (.tflite, .keras, .h5, a SavedModel, .npz).")
    ],
    quantized_model: Annotated[
        Path, typer.Argument(metavar="QUANTIZED", help="The quantized model (.tflite, .h5 of TF-MOT).")
    ],
    data: Annotated[Path, typer.Option("--data", help="Inputs, one per row (.npz or .npy).")],
    array: Annotated[
        str | None, typer.Option("--array", help="The array of an .npz file; INPUT=ARRAY,... for several inputs.")
    ] = None,
    values: Annotated[str | None, typer.Option("--values", help="What the data holds: real or codes.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N rows.")] = None,
    radius: Annotated[
        str | None, typer.Option("--radius", help="Ball around each row: 0.02, or 2lsb. Without it: the rows.")
    ] = None,
    domain: Annotated[
        str | None, typer.Option("--domain", help="real or grid [default: grid for a radius in lsb, else real]")
    ] = None,
    input_quantization: Annotated[
        str | None, typer.Option("--input-quantization", help="How the application quantizes: nearest or truncate.")
    ] = None,
    runtime: Annotated[
        list[str] | None, typer.Option("--runtime", help="[default: litert-xnnpack] Repeatable.")
    ] = None,
    max_abs: Annotated[float | None, typer.Option("--max-abs", help="Limit on the gap, in real units.")] = None,
    max_lsb: Annotated[float | None, typer.Option("--max-lsb", help="Limit on the gap, in output quanta.")] = None,
    max_rel: Annotated[
        float | None, typer.Option("--max-rel", help="Limit on the gap, relative to the float output (needs --floor).")
    ] = None,
    floor: Annotated[float | None, typer.Option("--floor", help="Smaller float outputs count as this.")] = None,
    max_l2: Annotated[float | None, typer.Option("--max-l2", help="Limit on the length of all gaps.")] = None,
    same_top1: Annotated[
        float | None,
        typer.Option("--same-top1", metavar="MARGIN", help="The same class where the float model is sure by MARGIN."),
    ] = None,
    tensor: Annotated[str, typer.Option("--tensor", help="output or logits.")] = "output",
    require: Annotated[str, typer.Option("--require", help="proof, proof_or_solver or tested.")] = "proof",
    effort: Annotated[str, typer.Option("--effort", help="quick, standard or deep.")] = "standard",
    formats: Formats = None,
    jobs: Jobs = 1,
    exit_zero: ExitZero = False,
    output: Output = Path(".qebgate"),
    no_cache: NoCache = False,
) -> int:
    """Ask one question without a policy file."""
    from qebgate.cli import commands

    question = commands.Question(
        float_model, quantized_model, data, array, values, limit, radius, domain,
        input_quantization, runtime or [], max_abs, max_lsb, max_rel, floor, max_l2, same_top1, tensor, require, effort,
    )  # fmt: skip
    return commands.compare(question, formats or [], jobs, exit_zero, output, cache=not no_cache)


@app.command()
def explain(
    check: Annotated[str, typer.Argument(metavar="CHECK", help="The check to explain.")],
    policy: Annotated[Path | None, typer.Argument(help="Policy file [default: the nearest qebgate.yaml]")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="models.NAME.KEY=VALUE", help="Override a model's path or runtime. Repeatable."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", metavar="DIR", help="What the policy's paths are relative to.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="F[=PATH]", help="rich (default) or json; to a file with =PATH. Repeatable."),
    ] = None,
    jobs: Jobs = 1,
    exit_zero: ExitZero = False,
) -> int:
    """Show where a check's bound comes from: layer, channel, source; and what would help most."""
    from qebgate.cli import commands

    args = commands.CheckArgs(policy, [check], sets or [], root, formats or [], jobs, exit_zero, Path())
    return commands.explain(check, args)


@app.command()
def falsify(
    policy: Annotated[Path | None, typer.Argument(help="Policy file [default: the nearest qebgate.yaml]")] = None,
    checks: Annotated[
        list[str] | None, typer.Option("--check", metavar="ID", help="Only this check. Repeatable.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="models.NAME.KEY=VALUE", help="Override a model's path or runtime. Repeatable."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", metavar="DIR", help="What the policy's paths are relative to.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="F[=PATH]", help="rich (default) or json; to a file with =PATH. Repeatable."),
    ] = None,
    jobs: Jobs = 1,
    exit_zero: ExitZero = False,
    output: Output = Path(".qebgate"),
) -> int:
    """Only search for counterexamples: nothing is proven, and every task's worst input is written."""
    from qebgate.cli import commands, witnesses

    args = commands.CheckArgs(policy, checks or [], sets or [], root, formats or [], jobs, exit_zero, output)
    return witnesses.falsify(args)


@app.command()
def replay(
    witness: Annotated[Path, typer.Argument(metavar="WITNESS", help="A witness file (.npz or .json).")],
    float_model: Annotated[
        Path | None, typer.Option("--float", metavar="MODEL", help="Another float model than the witness's.")
    ] = None,
    quantized_model: Annotated[
        Path | None, typer.Option("--quantized", metavar="MODEL", help="Another quantized model than the witness's.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="F[=PATH]", help="rich (default) or json; to a file with =PATH. Repeatable."),
    ] = None,
) -> int:
    """Run a witness in every installed runtime and beside the float reference."""
    from qebgate.cli import witnesses

    return witnesses.replay(witness, float_model, quantized_model, formats or [])


@app.command()
def recheck(
    evidence: Annotated[Path, typer.Argument(metavar="EVIDENCE", help="A bundle, or a folder of bundles.")],
    root: Annotated[
        Path | None, typer.Option("--root", metavar="DIR", help="What the bundle's paths are relative to.")
    ] = None,
) -> int:
    """Check evidence again, without an engine: 0 yes, 1 no, 2 damaged or about other files."""
    from qebgate.cli.recheck import recheck as run

    return run(evidence, root)


@app.command()
def init(
    float_model: Annotated[Path, typer.Argument(metavar="FLOAT", help="The float reference.")],
    quantized_model: Annotated[Path, typer.Argument(metavar="QUANTIZED", help="The quantized model.")],
    data: Annotated[Path | None, typer.Option("--data", help="Inputs, one per row (.npz or .npy).")] = None,
    array: Annotated[str | None, typer.Option("--array", help="The array of an .npz file.")] = None,
    values: Annotated[str | None, typer.Option("--values", help="What the data holds: real or codes.")] = None,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The policy, or its folder.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing policy.")] = False,
) -> int:
    """Write a starting policy from measured gaps, and run it."""
    from qebgate.cli.init import init as run
    from qebgate.initial import Sources

    return run(Sources(float_model, quantized_model, data, array, values), output, force=force)


data_app = typer.Typer(help="Make the data that policies name.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.callback()
def data() -> None:
    """Make the data that policies name."""


@data_app.command("pack")
def data_pack(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Images, .npy files, or folders (sub-folders: classes).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .npz to write.")],
    size: Annotated[str | None, typer.Option("--size", metavar="HxW", help="Resize images to this.")] = None,
    mode: Annotated[Literal["gray", "rgb"], typer.Option("--mode", help="Channels of images.")] = "rgb",
    layout: Annotated[Literal["nhwc", "nchw", "flat"], typer.Option("--layout", help="Order of axes.")] = "nhwc",
    dtype: Annotated[Literal["float32", "uint8"], typer.Option("--dtype", help="What is written.")] = "float32",
    scale: Annotated[str, typer.Option("--scale", help="(raw * SCALE - MEAN) / STD; a number or 1/255.")] = "1",
    mean: Annotated[float, typer.Option("--mean")] = 0.0,
    std: Annotated[float, typer.Option("--std")] = 1.0,
) -> int:
    """Pack images or arrays into one .npz of rows."""
    from qebgate.adapters.pack import Packing
    from qebgate.cli.data import data_pack as run
    from qebgate.cli.data import parse_scale, parse_size

    return run(sources, output, Packing(parse_size(size), mode, layout, dtype, parse_scale(scale), mean, std))


_Policy = Annotated[Path | None, typer.Argument(help="Policy file [default: the nearest qebgate.yaml]")]
_Checks = Annotated[list[str] | None, typer.Option("--check", metavar="ID", help="Only this check. Repeatable.")]
_Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="models.NAME.KEY=VALUE", help="Override a model's path or runtime. Repeatable."),
]
_Root = Annotated[Path | None, typer.Option("--root", metavar="DIR", help="What the policy's paths are relative to.")]
ratchet = typer.Typer(help="The ratchet: record proven bounds, and compare with them.", no_args_is_help=True)
app.add_typer(ratchet, name="baseline")


@ratchet.command()
def update(
    policy: _Policy = None, checks: _Checks = None, sets: _Sets = None, root: _Root = None, jobs: Jobs = 1
) -> int:
    """Run the gate and record what its passes have proven."""
    from qebgate.cli import baseline, commands

    return baseline.update(commands.CheckArgs(policy, checks or [], sets or [], root, [], jobs, False, Path()))


@ratchet.command()
def diff(policy: _Policy = None, checks: _Checks = None, sets: _Sets = None, root: _Root = None, jobs: Jobs = 1) -> int:
    """Run the gate and show each bound beside the baseline's."""
    from qebgate.cli import baseline, commands

    return baseline.diff(commands.CheckArgs(policy, checks or [], sets or [], root, [], jobs, False, Path()))


@app.command()
def inspect(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL [MODEL]", help="A model; or a float model and its quantized one.")
    ],
) -> int:
    """Show operators, shapes, scales and coverage; of two models also how they align."""
    from qebgate.cli import commands

    return commands.inspect(models)


@app.command()
def verify(
    evidence: Annotated[
        Path, typer.Argument(metavar="EVIDENCE", help="A result file, or the folder of `check --evidence`.")
    ],
    model: Annotated[Path, typer.Option("--model", metavar="M", help="The quantized model that is to be deployed.")],
    policy: Annotated[Path | None, typer.Option("--policy", metavar="P", help="[default: the nearest]")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="models.NAME.KEY=VALUE", help="As it was given to `check`. Repeatable."),
    ] = None,
    runtime: Annotated[
        list[str] | None, typer.Option("--runtime", help="NAME or 'NAME VERSION' that must have been checked.")
    ] = None,
) -> int:
    """Confirm that this very model passed this very policy, without solving again: 0 yes, 1 no."""
    from qebgate.cli.deploy import verify as run

    return run(evidence, model, policy, sets or [], runtime or [])


@app.command()
def doctor(
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="F[=PATH]", help="rich (default) or json; to a file with =PATH. Repeatable."),
    ] = None,
) -> int:
    """Say what is installed, which runtimes can be replayed, and whether they equal qebgate's executors here."""
    from qebgate.cli.doctor import doctor as run

    return run(formats or [])


@app.command()
def selftest() -> int:
    """Run planted counterexamples through this installation: 0 where every answer is right, else 70."""
    from qebgate.cli.selftest import selftest as run

    return run()


@app.command()
def schema(
    result: Annotated[bool, typer.Option("--result", help="The schema of result files instead.")] = False,
) -> int:
    """Print the JSON schema of policy files."""
    from qebgate.cli import commands

    return commands.schema(result=result)
