"""What this installation can do: packages, runtimes, and whether qebgate's executors equal the runtimes here."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qebgate._version import __version__
from qebgate.errors import ExitCode, QebgateError
from qebgate.runtimes.host import shortcomings
from qebgate.runtimes.profiles import DEPLOYED, MICRO, Runtime
from qebgate.runtimes.replay import PACKAGE, Replayer, cpu_features, runtime_version

MODELS = Path(__file__).parent / "models"
"""Networks of a few operators each, int8."""
ROWS = 128
PYTHONS = ((3, 10), (3, 12))


@dataclass(frozen=True, slots=True)
class Package:
    """An installed or missing distribution.  ``extra`` installs it; "" for what qebgate cannot do without."""

    name: str
    version: str | None
    extra: str
    purpose: str

    @property
    def fix(self) -> str | None:
        """What installs it; None where it is there."""
        if self.version is not None:
            return None
        return f"pip install 'qebgate[{self.extra}]'" if self.extra else "pip install --force-reinstall qebgate"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One runtime: ``compared`` outputs of the self-test's networks, ``mismatches`` that differ from qebgate's.

    ``problem`` says why nothing was compared: an emulated profile, or a runtime that failed.
    """

    runtime: str
    version: str | None
    compared: int
    mismatches: int
    problem: str | None
    emulated: bool = False

    @property
    def right(self) -> bool:
        return self.emulated or (self.problem is None and self.compared > 0 and not self.mismatches)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was found."""

    version: str
    python: str
    machine: str
    packages: tuple[Package, ...]
    runtimes: tuple[Comparison, ...]
    advice: tuple[str, ...]
    seconds: float

    @property
    def exit_code(self) -> ExitCode:
        """0, or 70 where a check could give no verdict, or a wrong one."""
        whole = all(p.version is not None for p in self.packages if not p.extra)
        return ExitCode.PASS if whole and all(r.right for r in self.runtimes) else ExitCode.BUG


_PACKAGES = (
    ("numpy", "", "all arithmetic"),
    ("scipy", "", "sparse relaxations"),
    ("ortools", "", "bounds by linear and integer programming"),
    (PACKAGE, "", "replaying every counterexample in the deployed runtime"),
    ("pydantic", "", "policies"),
    ("ruamel.yaml", "", "policies"),
    ("typer", "", "the command line"),
    ("rich", "", "reports on a terminal"),
    ("jinja2", "", "HTML reports"),
    ("junitparser", "", "JUnit reports"),
    ("threadpoolctl", "", "one thread for each process"),
    ("h5py", "keras", "float references in .keras and .h5 files, TF-MOT models in .h5 files"),
    ("tensorflow", "tensorflow", "the Keras callback; never for checking files"),
    ("tf-keras", "tensorflow", "the callback with Keras 2 models"),
    ("tensorflow-model-optimization", "tfmot", "TF-MOT models in memory; its .h5 files need [keras] only"),
)


def diagnose() -> Diagnosis:
    """Look at the installation, and run the self-test in every runtime that is installed.  Takes some seconds."""
    start = time.monotonic()
    packages = tuple(Package(n, _version(n), extra, purpose) for n, extra, purpose in _PACKAGES)
    runtimes = tuple(_runtimes())
    return Diagnosis(
        version=__version__,
        python=platform.python_version(),
        machine=" ".join((platform.system(), *cpu_features())),
        packages=packages,
        runtimes=runtimes,
        advice=tuple(_advice(packages, runtimes)),
        seconds=time.monotonic() - start,
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _runtimes() -> Iterator[Comparison]:
    for runtime in DEPLOYED:
        yield compare(runtime)
    for runtime in MICRO:
        yield Comparison(
            runtime.value, __version__, 0, 0, "emulated by qebgate; nothing here can run it", emulated=True
        )
    words = "a bound for all of the above at once; its counterexamples are replayed in those that can be"
    yield Comparison(Runtime.ENVELOPE.value, __version__, 0, 0, words, emulated=True)


def compare(runtime: Runtime, models: Path = MODELS) -> Comparison:
    """Run the self-test's networks in a runtime and in qebgate's executor, on random codes."""
    from qebgate.adapters import load_model
    from qebgate.semantics.execute import run_int

    version = runtime_version()
    compared = mismatches = 0
    rng = np.random.default_rng(2026)
    try:
        for path in sorted(models.glob("*.tflite")):
            graph = load_model(path)
            lo, hi = graph.input.dtype.code_range
            x = rng.integers(lo, hi + 1, (ROWS, *graph.input.shape)).astype(graph.input.dtype.numpy)
            with Replayer(path, runtime) as replayer:
                theirs = replayer.run(x)
            ours = run_int(graph, x, runtime)[graph.outputs[0]]
            compared += theirs.size
            mismatches += int((ours.reshape(theirs.shape) != theirs).sum())
    except QebgateError as e:
        return Comparison(runtime.value, version, compared, mismatches, f"{e.code}: {e.message}")
    return Comparison(runtime.value, version, compared, mismatches, None)


def _advice(packages: tuple[Package, ...], runtimes: tuple[Comparison, ...]) -> Iterator[str]:
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        yield f"Python {platform.python_version()} is not supported: use {PYTHONS[0][0]}.{PYTHONS[0][1]} to 3.12"
    yield from shortcomings()
    for p in packages:
        if p.fix is not None:
            lost = "nothing works without it" if not p.extra else f"needed for {p.purpose}"
            yield f"{p.name} is not installed ({lost}): {p.fix}"
    for r in runtimes:
        if r.emulated or r.right:
            continue
        if r.mismatches:
            yield (
                f"{r.runtime} {r.version}: {r.mismatches} of {r.compared} outputs differ from qebgate's: do not rely "
                f"on verdicts for it; install a version of {PACKAGE} that was measured, and report this"
            )
        else:
            yield f"{r.runtime}: {r.problem or 'nothing was compared'}"
