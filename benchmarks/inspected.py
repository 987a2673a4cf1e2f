"""Every pair of real files: does `inspect` say what their manifest says, and are executions and checks exact?

    QEBGATE_DATA=... python -m benchmarks.inspected [--only NAME ...] [--rows 4] [--write docs/benchmarks.md]

``QEBGATE_DATA`` names a folder with ``tflite/manifest.json`` and the models it lists.  In every folder each file is
taken for the float reference of each other one.  Pairs that are the same network are checked at ``--points`` inputs in
every runtime that loads them: where the quantized file computes in integers, what a check says of it must rest on
execution.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import write_part
from qebgate.adapters import load_model
from qebgate.errors import ModelError, QebgateError
from qebgate.gate import check
from qebgate.ir.align import align
from qebgate.ir.graph import Graph
from qebgate.policy import parse_policy
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.runtimes.replay import Replayer, cpu_features, runtime_version
from qebgate.semantics.execute import run_int

SCHEMES = {
    "float": "float32",
    "float_h5": "float32",
    "float_mismatched": "float32",
    "int8": "full int8",
    "int8_float_io": "full int8",
    "dynamic_range": "dynamic range",
    "weight_only": "weight-only int8",
    "int8_partial": "partly quantized",
}
"""What the manifest's roles are called by `inspect`."""
MIXED_UP = ("no float reference", "no quantized model")
UNSUPPORTED = ("QEB430", "QEB435")
NOT_THE_SAME = ("QEB463", "QEB464", "QEB465", "QEB467", "QEB468", "QEB469")


@dataclass(frozen=True)
class Answer:
    """One question: what the manifest says (None: nothing), what was found, and whether that is true."""

    what: str
    said: str | None
    found: str
    right: bool


def entries(folder: Path) -> list[dict[str, Any]]:
    return [e for e in json.loads((folder / "manifest.json").read_text()) if e.get("role") in SCHEMES]


def corresponds(reference: dict[str, Any], quantized: dict[str, Any]) -> bool | None:
    """Whether two files are the same network; None where the manifest does not say."""
    if reference["role"] == "float_mismatched" and quantized["role"] in ("int8", "dynamic_range"):
        return False
    if "SAME WEIGHTS as conv_fc_mnist" in quantized["notes"] and reference["file"].endswith("conv_fc_mnist.tflite"):
        return True
    same = quantized["role"] == "int8" and quantized["notes"].startswith("SAME WEIGHTS")
    return True if same and reference["role"] in ("float", "float_h5") else None


def read(folder: Path, e: dict[str, Any]) -> Graph | ModelError:
    try:
        return load_model(folder / e["file"])
    except ModelError as error:
        return error


def schemes(found: dict[str, Graph | ModelError], known: list[dict[str, Any]]) -> Iterator[Answer]:
    for e in known:
        graph, said = found[e["file"]], SCHEMES[e["role"]]
        if isinstance(graph, ModelError):
            yield Answer(e["file"], said, f"refused by name: {graph.code} {graph.message}", graph.code in UNSUPPORTED)
        else:
            yield Answer(e["file"], said, graph.scheme.value, graph.scheme.value == said)


def pairs(found: dict[str, Graph | ModelError], known: list[dict[str, Any]]) -> Iterator[Answer]:
    for a in known:
        for b in known:
            f, q = found[a["file"]], found[b["file"]]
            if a is b or a["name"] != b["name"] or isinstance(f, ModelError) or isinstance(q, ModelError):
                continue
            said = corresponds(a, b)
            what = f"{a['file']} and {Path(b['file']).name}"
            try:
                worst = max(x.worst for x in align(f, q).agreements)
            except ModelError as e:
                if SCHEMES[a["role"]] != "float32":
                    yield Answer(what, MIXED_UP[0], f"{e.code}: {e.found}", e.code == "QEB461")
                elif SCHEMES[b["role"]] == "float32":
                    yield Answer(what, MIXED_UP[1], f"{e.code}: {e.found}", e.code == "QEB462")
                else:
                    expected = None if said is None else "the same" if said else "another network"
                    yield Answer(what, expected, f"{e.code}: {e.found}", not said and e.code in NOT_THE_SAME)
                continue
            expected = None if said is None else "the same" if said else "another network"
            yield Answer(what, expected, f"the same, weights within {worst:.3f} quanta", said is not False)


def executions(folder: Path, found: dict[str, Graph | ModelError], rows: int) -> Iterator[Answer]:
    for file, graph in found.items():
        if isinstance(graph, ModelError) or not graph.scheme.value.startswith("full") or not file.endswith(".tflite"):
            continue
        x = inputs((folder / file).parent, graph, rows)
        for runtime in DEPLOYED:
            what = f"{file} in {runtime.value}"
            try:
                with Replayer(folder / file, runtime) as replayer:
                    theirs = replayer.run(x)
            except QebgateError as e:
                yield Answer(what, None, f"does not load it: {e.code}", True)
                continue
            ours = run_int(graph, x, runtime)[graph.outputs[0]].reshape(theirs.shape)
            wrong = int((ours != theirs).sum())
            yield Answer(what, "exact", f"{wrong} mismatches in {theirs.size} outputs", wrong == 0)


def checks(
    folder: Path, found: dict[str, Graph | ModelError], known: list[dict[str, Any]], points: int
) -> Iterator[Answer]:
    for a in known:
        for b in known:
            f, q = found[a["file"]], found[b["file"]]
            if a is b or a["name"] != b["name"] or isinstance(f, ModelError) or isinstance(q, ModelError):
                continue
            try:
                align(f, q)
            except ModelError:
                continue
            for runtime in DEPLOYED:
                what = f"check {a['file']} and {Path(b['file']).name} at {points} points in {runtime.value}"
                try:
                    with Replayer(folder / b["file"], runtime) as replayer:
                        replayer.run(inputs((folder / b["file"]).parent, q, 1))
                except QebgateError as e:
                    yield Answer(what, None, f"does not load it: {e.code}", True)
                    continue
                yield _checked(what, folder, (a["file"], b["file"]), q, runtime, points)


def _checked(what: str, folder: Path, files: tuple[str, str], q: Graph, runtime: Runtime, points: int) -> Answer:
    data = str(Path(files[0]).parent / "inputs.npy")
    region: dict[str, Any] = {"kind": "points", "data": data, "limit": points, "out_of_range": "allow"}
    if q.input.dtype.is_code or q.in_integers:
        region["domain"] = "grid"
    policy = {
        "version": 1,
        "models": {"m": {"float": files[0], "quantized": files[1], "runtime": runtime.value}},
        "regions": {"r": region},
        "checks": [{"id": "c", "model": "m", "region": "r", "property": {"kind": "max_abs", "limit": 1e9}}],
    }
    report = check(parse_policy(policy, "benchmark", folder))
    if report.errors:
        return Answer(what, "exact" if q.in_integers else None, str(report.errors[0].error.code), not q.in_integers)
    tasks = report.checks[0].tasks
    seen = max((t.witnessed for t in tasks if t.witnessed is not None), default=None)
    proven = max((t.proven for t in tasks if t.proven is not None), default=None)
    how = "executed" if all(t.evidence == "exhaustive" for t in tasks) else "bounded"
    inside = all(
        t.witnessed is not None and t.proven is not None and t.witnessed <= t.proven and t.verdict == "pass"
        for t in tasks
    )
    words = f"{how}: gap {'-' if seen is None else f'{seen:.4g}'} to {'-' if proven is None else f'{proven:.4g}'}"
    return Answer(what, "exact" if q.in_integers else None, words, inside and (how == "executed" or not q.in_integers))


def inputs(folder: Path, graph: Graph, rows: int) -> np.ndarray:
    """Plausible inputs as the model takes them."""
    t = graph.input
    given = np.load(folder / "inputs.npy", allow_pickle=False)[:rows]
    x = given.reshape(len(given), *t.shape)
    if not t.dtype.is_code or x.dtype == t.dtype.numpy:
        return x.astype(t.dtype.numpy)
    lo, hi = t.dtype.code_range
    return np.clip(np.rint(x / t.q.s) + t.q.z, lo, hi).astype(t.dtype.numpy)


def measure(folder: Path, only: list[str], rows: int, points: int = 0) -> list[Answer]:
    """All answers; ``folder`` has the manifest."""
    known = [e for e in entries(folder) if not only or e["name"] in only]
    found = {e["file"]: read(folder, e) for e in known}
    asked = checks(folder, found, known, points) if points else ()
    return [*schemes(found, known), *pairs(found, known), *executions(folder, found, rows), *asked]


def table(answers: list[Answer], command: str) -> list[str]:
    wrong = [a for a in answers if not a.right]
    about = f"LiteRT {runtime_version()}, {' '.join(cpu_features())}"
    head = [
        "## What inspect says of real files",
        f"`{command}`, {about}. {len(answers)} answers, {len(wrong)} wrong.",
        "",
        "| question | manifest | found |",
        "|---|---|---|",
    ]
    mixed = [a for a in answers if a.said in MIXED_UP]
    shown = [a for a in answers if a.said not in MIXED_UP or not a.right]
    head[1] += f" Of these, {len(mixed)} are about files in the wrong place, which are not shown where they are named."
    return head + [f"| {a.what} | {a.said or '-'} | {'' if a.right else 'WRONG: '}{a.found} |" for a in shown]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--points", type=int, default=1, help="inputs of each check (0: none)")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    command = "python -m benchmarks.inspected" + (f" --rows {args.rows}" if args.rows != 4 else "")
    lines = table(measure(Path(os.environ["QEBGATE_DATA"]) / "tflite", args.only, args.rows, args.points), command)
    print("\n".join(lines))
    if args.write is not None:
        write_part(args.write, "inspected", lines)


if __name__ == "__main__":
    main()
