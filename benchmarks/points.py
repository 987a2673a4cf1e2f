"""Real pairs at points: exact gaps in every runtime, and how long a check takes.

    QEBGATE_DATA=... python -m benchmarks.points [--write docs/points.md]

``QEBGATE_DATA`` names a folder with ``tflite/manifest.json`` and the models it lists.  Pairs that the
manifest says are not the same network must be refused.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path

from qebgate.errors import ModelError
from qebgate.gate import check
from qebgate.policy import parse_policy
from qebgate.runtimes.profiles import DEPLOYED
from qebgate.runtimes.replay import cpu_features, runtime_version

PAIRS = {
    "anomaly detection (MLPerf Tiny)": ("mlperf_ad01", "ad01_fp32", "ad01_int8"),
    "ResNet-8 (MLPerf Tiny)": ("mlperf_ic01", "pretrainedResnet", "pretrainedResnet_quant"),
    "VWW MobileNet (MLPerf Tiny)": ("mlperf_vww01", "vww_96_float", "vww_96_int8"),
    "ECG autoencoder": ("sl_autoencoder_ecg", "autoencoder_example.float32", "autoencoder_example"),
    "micro_speech": ("sl_micro_speech", "micro_speech_h5_float_from_h5", "tflite_micro_speech"),
    "magic_wand": ("sl_magic_wand", "magic_wand_float_from_h5", "tflite_micro_magic_wand"),
    "keyword spotting on/off": ("sl_kws_on_off", "on_off_float_from_h5", "keyword_spotting_on_off"),
}
NOT_PAIRS = {
    "keyword spotting (MLPerf Tiny), another run": ("mlperf_kws01", "kws_float_from_savedmodel", "kws_ref_model"),
    "its dynamic-range file as the reference": ("mlperf_kws01", "kws_ref_model_float32", "kws_ref_model"),
    "MNIST of another training run": ("aeq_mnist", "conv_fc_mnist", "conv_fc_mnist_srq_a8w8"),
}
HEADER = "| pair | reference | gap, largest over runtimes | proven | processor seconds, three runtimes | peak MiB |"


def ask(folder: Path, names: tuple[str, str, str], semantics: str) -> tuple[float, float, float]:
    """Witnessed and proven worst gap of the logits at the first stored input, and seconds of processor time."""
    where, f, q = names
    policy = {
        "version": 1,
        "models": {
            "m": {
                "float": f"{where}/{f}.tflite",
                "quantized": f"{where}/{q}.tflite",
                "runtime": [r.value for r in DEPLOYED],
                "float_semantics": semantics,
            }
        },
        "regions": {
            "r": {
                "kind": "points",
                "data": f"{where}/inputs.npy",
                "domain": "grid",
                "limit": 1,
                "out_of_range": "allow",
            }
        },
        "checks": [
            {"id": "c", "model": "m", "region": "r", "property": {"kind": "max_abs", "limit": 1e6, "tensor": "logits"}}
        ],
    }
    start = time.process_time()
    report = check(parse_policy(policy, "benchmark", folder))
    seconds = time.process_time() - start
    for e in report.errors:
        raise e.error
    result = report.checks[0]
    assert result.witnessed is not None and result.proven is not None, report
    assert len(result.tasks) == len(DEPLOYED)
    return result.witnessed, result.proven, seconds


def main() -> None:
    """Run all pairs and print (or write) the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    out = parser.parse_args().write
    folder = Path(os.environ["QEBGATE_DATA"]) / "tflite"
    lines = [
        "# Points: the exact gap of real pairs",
        "",
        "One stored input of each pair, gap of the logits, all three LiteRT runtimes in one check (replay in the",
        "interpreter included). `real`: the float reference in exact arithmetic, so the proven figure is the gap.",
        "`float32`: the proven figure covers every order in which a runtime may sum in float32. Written by",
        f"`python -m benchmarks.points --write docs/points.md` (ai-edge-litert {runtime_version()},",
        f"{', '.join(cpu_features())}; one process, one BLAS thread).",
        "",
        HEADER,
        "|---|---|---|---|---|---|",
    ]
    for name, names in PAIRS.items():
        for semantics in ("real", "float32"):
            gap, proven, seconds = ask(folder, names, semantics)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            lines.append(f"| {name} | {semantics} | {gap:.6g} | {proven:.6g} | {seconds:.1f} | {peak:.0f} |")
    lines += ["", "Not the same network, and refused:", "", "| pair | answer |", "|---|---|"]
    for name, names in NOT_PAIRS.items():
        try:
            ask(folder, names, "real")
        except ModelError as e:  # noqa: PERF203
            lines.append(f"| {name} | {e.code}: {e.message.split('(')[0].strip()}; {e.found or e.fix or ''} |")
        else:
            raise SystemExit(f"{name} was not refused")
    text = "\n".join(lines) + "\n"
    if out is None:
        print(text)
    else:
        out.write_text(text)


if __name__ == "__main__":
    main()
