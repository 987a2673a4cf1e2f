"""keras.applications with random weights, exported to int8: read, executed, checked at points.

    python -m benchmarks.applications [--models NAME ...] [--inputs 20] [--keep FOLDER] [--write docs/benchmarks.md]

Needs TensorFlow (the ``bench`` extra).  The models go to a temporary folder and are removed with it, or to ``--keep``,
where they are used again.  Each is exported twice: as ``keras.applications`` gives it (1,000 classes; with the moving
statistics of a network that was never trained, activations all but vanish), and with 100 classes and statistics of one
batch, so that every layer has values of about 1.  The exporter, every reference interpreter (it aborts the process on
some of these SOFTMAX) and every check are child processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.tables import write_part
from qebgate.adapters.tflite.reader import read_tflite
from qebgate.errors import UnsupportedError
from qebgate.ir.align import align
from qebgate.runtimes.profiles import DEPLOYED
from qebgate.semantics.execute import run_int

MODELS = ("MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "ResNet50")
VARIANTS = ("as it is", "normalized")
SIDE = 96
LIMITS = (60.0, 4096.0)
"""Seconds and MiB of one check."""
VACUOUS = 1e6
"""The limit that is asked for; a bound beyond it says nothing."""


def export(name: str, variant: str, folder: Path) -> None:
    """Write ``float.tflite``, ``int8.tflite`` and ``inputs.npy`` (runs in a child process)."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(7)
    normalized = variant == VARIANTS[1]
    shape = (SIDE, SIDE, 3)
    model = getattr(tf.keras.applications, name)(input_shape=shape, weights=None, classes=100 if normalized else 1000)
    rng = np.random.default_rng(3)
    pixels = 255.0 if name in ("MobileNetV3Small", "EfficientNetB0") else 1.0
    data = (rng.uniform(0, 1, (16, *shape)) * pixels).astype(np.float32)
    if normalized:
        for layer in model.layers:
            if isinstance(layer, tf.keras.layers.BatchNormalization):
                layer.momentum = 0.0
        model(data, training=True)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    (folder / "float.tflite").write_bytes(converter.convert())
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x[None]] for x in data)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    (folder / "int8.tflite").write_bytes(converter.convert())
    np.save(folder / "inputs.npy", data)


def interpret(model: Path, resolver: str, inputs: Path, outputs: Path) -> None:
    """Run the installed interpreter (in a child process)."""
    from ai_edge_litert import interpreter as litert

    it = litert.Interpreter(
        str(model), experimental_op_resolver_type=getattr(litert.OpResolverType, resolver), num_threads=1
    )
    it.allocate_tensors()
    source, target = it.get_input_details()[0]["index"], it.get_output_details()[0]["index"]
    found = []
    for x in np.load(inputs):
        it.set_tensor(source, x)
        it.invoke()
        found.append(it.get_tensor(target))
    np.save(outputs, np.stack(found))


def check(folder: Path) -> None:
    """One check at a point in every runtime that loads the model; prints JSON (in a child process)."""
    import resource

    from qebgate.gate import check as run
    from qebgate.policy import parse_policy

    runtimes = json.loads((folder / "runtimes.json").read_text())
    policy = {
        "version": 1,
        "models": {"m": {"float": "float.tflite", "quantized": "int8.tflite", "runtime": runtimes}},
        "regions": {
            "r": {
                "kind": "points", "data": "inputs.npy", "domain": "grid", "limit": 1,
                "out_of_range": "allow",
            }
        },
        "checks": [
            {
                "id": "c", "model": "m", "region": "r",
                "property": {"kind": "max_abs", "limit": VACUOUS, "tensor": "logits"},
            }
        ],
    }  # fmt: skip
    # wall-clock time says nothing on a machine that does other work too
    policy["guard"] = {"per_task": "15m"}
    report = run(parse_policy(policy, "benchmark", folder))
    for e in report.errors:
        raise e.error
    tasks = [t for c in report.checks for t in c.tasks]
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({
        "verdicts": [t.verdict for t in tasks],
        "witnessed": max((t.witnessed for t in tasks if t.witnessed is not None), default=None),
        "proven": max((t.proven for t in tasks if t.proven is not None), default=None),
        "seconds": sum(u.ru_utime + u.ru_stime for u in used),
        "mib": max(u.ru_maxrss for u in used) / 1024,
    }))  # fmt: skip


def child(*args: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.applications", *args]
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, check=False)


def executed(folder: Path, inputs: int) -> dict[str, str]:
    """Per runtime: how many outputs differ, or why there are none."""
    graph = read_tflite(folder / "int8.tflite")
    rng = np.random.default_rng(0)
    data = np.load(folder / "inputs.npy")[: inputs // 2]
    q = graph.input.q
    near = np.clip(np.rint(data / q.s) + q.z, -128, 127)[:, None].astype(np.int8)
    noise = rng.integers(-128, 128, (inputs - len(near), *graph.input.shape)).astype(np.int8)
    x = np.concatenate([near, noise])
    np.save(folder / "codes.npy", x)
    found: dict[str, str] = {}
    for runtime in DEPLOYED:
        out = folder / f"{runtime.value}.npy"
        done = child("--interpret", str(folder / "int8.tflite"), runtime.resolver, str(folder / "codes.npy"), str(out))
        try:
            ours = run_int(graph, x, runtime)[graph.outputs[0]]
        except UnsupportedError as e:
            found[runtime.value] = f"refused ({e.code}); the interpreter " + (
                "runs it" if done.returncode == 0 else f"ends with {done.returncode}"
            )
            continue
        if done.returncode:
            found[runtime.value] = f"the interpreter ends with {done.returncode}"
            continue
        theirs = np.load(out)
        found[runtime.value] = f"{int((ours != theirs).sum())} of {theirs.size}"
    return found


def row(name: str, variant: str, inputs: int, keep: Path | None = None) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if keep is None else keep / f"{name}-{variant.replace(' ', '_')}"
        folder.mkdir(parents=True, exist_ok=True)
        where = str(folder)
        if not (folder / "inputs.npy").exists():
            done = child("--export", name, variant, where)
            if done.returncode:
                return f"| {name}, {variant} | not exported: {done.stderr.strip().splitlines()[-1][:100]} ||||||"
        graphs = read_tflite(folder / "float.tflite"), read_tflite(folder / "int8.tflite")
        steps = len(align(*graphs).steps)
        found = executed(folder, inputs)
        runs = [r.value for r in DEPLOYED if found[r.value].startswith("0 of")]
        (folder / "runtimes.json").write_text(json.dumps(runs))
        answer = child("--check", where)
        if answer.returncode:
            last = (answer.stderr.strip().splitlines() or ["?"])[-1][:100]
            point = f"{last} | | "
        else:
            a = json.loads(answer.stdout.strip().splitlines()[-1])
            useful = a["proven"] is not None and a["proven"] <= VACUOUS
            proven = f"{a['proven']:.4g}" if useful else "nothing"
            over = [w for w, v, most in zip(("s", "MiB"), (a["seconds"], a["mib"]), LIMITS, strict=True) if v > most]
            point = f"{a['witnessed']:.4g} to {proven} | {a['seconds']:.1f} | {a['mib']:.0f}"
            point += f" (over the limit: {', '.join(over)})" if over else ""
        cells = " | ".join(found[r.value] for r in DEPLOYED)
        return f"| {name}, {variant} | {steps} | {cells} | {point} |"


def table(models: list[str], inputs: int, keep: Path | None = None) -> list[str]:
    names = " | ".join(r.value for r in DEPLOYED)
    lines = [
        "## keras.applications",
        "",
        "`OPENBLAS_NUM_THREADS=1 python -m benchmarks.applications --write docs/benchmarks.md` (one core)",
        "",
        f"Random weights, {SIDE}x{SIDE}, int8, {inputs} inputs: outputs that differ from the interpreter's, and one",
        "check of the logits at one point in all runtimes that load the model, against every float32 evaluation of the",
        "reference. Seconds are processor time of the whole check, reading and replays included; memory is its largest",
        "process's peak. Limits: 60 s and 4096 MiB. The quantized side is executed bit for bit; *nothing* is proven",
        "where the worst order of summation of so deep a float32 reference is not bounded below a million: that is",
        "UNKNOWN.",
        "*As it is*: moving statistics of a network that was never trained, so activations all but vanish;",
        "*normalized*: statistics of one batch, so every layer has values of about 1.",
        "",
        f"| model | steps | {names} | gap, witnessed to proven | processor seconds | MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in models:
        for variant in VARIANTS:
            lines.append(row(name, variant, inputs, keep))
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--inputs", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="a folder for the exported models, which are used again")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--export", nargs=3, metavar=("NAME", "VARIANT", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--interpret", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--check", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.export:
        export(args.export[0], args.export[1], Path(args.export[2]))
    elif args.interpret:
        model, resolver, inputs, outputs = args.interpret
        interpret(Path(model), resolver, Path(inputs), Path(outputs))
    elif args.check:
        check(args.check)
    else:
        lines = table(args.models, args.inputs, args.keep)
        if args.write:
            write_part(args.write, "applications", lines)


if __name__ == "__main__":
    main()
