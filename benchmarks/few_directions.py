"""Finite regions with few free inputs, executed completely: time, memory, exact worst gap.

    QEBGATE_DATA=... OPENBLAS_NUM_THREADS=1 python -m benchmarks.few_directions [--runtime R] [--pair NAME]
                                                                              [--write docs/few-directions.md]

Every float/int8 pair of the benchmark data: its first input, 8 inputs (drawn at random, seed 0) free by 3
codes each way: 5,764,801 inputs.  The two deep convolutional networks, of which everything is reached: 3
inputs.  Each pair in a process of its own; seconds of processor time include restricting the networks and bounding
the reference's roundoff.  Beside it, the speed of the executors of the whole networks.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.tables import write_part
from qebgate.adapters.tflite.reader import read_tflite
from qebgate.engines.concrete import Inputs, Session, gaps
from qebgate.engines.enumerate import Enumerate, all_codes
from qebgate.evidence import Bound, Witness
from qebgate.ir.align import align
from qebgate.properties import Property
from qebgate.regions.cell import Cell, InputCodec
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.task import Budget, Task

PAIRS = {
    "sl_autoencoder_ecg": ("autoencoder_example.float32", "autoencoder_example", 8),
    "sl_micro_speech": ("micro_speech_h5_float_from_h5", "tflite_micro_speech", 8),
    "sl_kws_on_off": ("on_off_float_from_h5", "keyword_spotting_on_off", 8),
    "sl_magic_wand": ("magic_wand_float_from_h5", "tflite_micro_magic_wand", 8),
    "mlperf_ad01": ("ad01_fp32", "ad01_int8", 8),
    "mlperf_ic01": ("pretrainedResnet", "pretrainedResnet_quant", 3),
    "mlperf_vww01": ("vww_96_float", "vww_96_int8", 3),
}
RADIUS = 3

HEAD = """\
A region with few free inputs is finite on the quantized grid, so it is executed completely: the result is exact up to
the float reference's roundoff. Only what the free inputs reach is executed; see `qebgate/engines/reached.py`. Of the
float network little is left: neurons that do not switch in the region are composed into sums of the inputs
(`qebgate/engines/forms/collapse.py`). Of many outputs, only those that could be worst are looked at: the bound then
rests on outward rounding for the others (`certified`).
Measured with `{command}`
({machine}, one thread, numpy {numpy}, {runtime} semantics).

First input of each pair, some inputs free by {radius} codes each way, compared at the logits. *Witnessed* is the
largest gap (absolute value), replayed in the installed runtime. *Real* is the proven bound against the exact real float
network (`float_semantics: real`), *float32* against any float32 evaluation of it. *Whole* is the speed of the executors
of the whole networks, for comparison. Seconds of processor time, everything included.

| pair | free | inputs | witnessed | real | float32 | seconds | inputs/s | whole, inputs/s | peak memory |
|---|---|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Result:
    """One row."""

    pair: str
    free: int
    count: int
    witnessed: float
    real: float
    float32: float
    seconds: float
    whole: float
    memory: int

    @property
    def row(self) -> str:
        return (
            f"| {self.pair} | {self.free} | {self.count:,} | {self.witnessed:.5f} | {self.real:.5f} | "
            f"{self.float32:.5f} | "
            f"{self.seconds:.1f} | {self.count / self.seconds:,.0f} | {self.whole:,.0f} | "
            f"{self.memory / 2**20:.0f} MiB |"
        )


def task(folder: Path, name: str, runtime: Runtime) -> Task:
    """The question about one pair."""
    f, q, free = PAIRS[name]
    pair = align(*(read_tflite(folder / name / f"{n}.tflite") for n in (f, q))).at("logits")
    codec = InputCodec.of(pair.quantized, "nearest")
    x = np.load(folder / name / "inputs.npy", allow_pickle=False)[0].reshape(pair.quantized.input.shape)
    centre = x.astype(np.int32) if x.dtype.kind == "i" else codec.encode(x)
    least, most = codec.dtype.code_range
    flat = centre.ravel()
    room = np.flatnonzero((flat - RADIUS >= least) & (flat + RADIUS <= most))
    radius = np.zeros(flat.size, np.int32)
    radius[np.random.default_rng(0).choice(room, free, replace=False)] = RADIUS
    lo, hi = centre - radius.reshape(centre.shape), centre + radius.reshape(centre.shape)
    real = [codec.grid(c).astype(np.float64) for c in (lo, hi, centre)]
    cell = Cell(real[0], real[1], (lo, hi), 0, real[2])
    return Task(pair, cell, codec, Property("max_abs", 1.0), tuple(range(pair.float.output.size)), runtime)


def measure(folder: Path, name: str, runtime: Runtime) -> Result:
    """Enumerate one region."""
    t = task(folder, name, runtime)
    count = t.cell.count
    assert count is not None
    some = Inputs.of_codes(t, next(all_codes(t.cell, min(count, 256))))
    gaps(t, some)
    start = time.process_time()
    gaps(t, some)
    whole = len(some) / (time.process_time() - start)
    with Session() as session:
        start = time.process_time()
        bound, witness = Enumerate().run(t, [], replace(Budget(), enumerate=count, seconds=3600.0), session)
        seconds = time.process_time() - start
        exact, _ = Enumerate().run(
            replace(t, float_semantics="real"), [], replace(Budget(), enumerate=count, seconds=3600.0), session
        )
    assert isinstance(bound, Bound)
    assert isinstance(exact, Bound)
    assert isinstance(witness, Witness)
    float32, real = (float(np.maximum(-b.lower, b.upper).max()) for b in (bound, exact))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Result(name, PAIRS[name][2], count, float(np.abs(witness.gap).max()), real, float32, seconds, whole, memory)


def main(argv: Sequence[str] | None = None) -> int:
    """Print, and perhaps write, the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=[r.value for r in DEPLOYED], default=Runtime.XNNPACK.value)
    parser.add_argument("--pair", choices=list(PAIRS), action="append")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args(argv)
    data = os.environ.get("QEBGATE_DATA")
    if data is None:
        sys.stderr.write("QEBGATE_DATA is not set: nothing to measure\n")
        return 2
    rows: list[str] = []
    for name in args.pair or PAIRS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            result = pool.submit(measure, Path(data) / "tflite", name, Runtime(args.runtime)).result()
        rows.append(result.row)
        sys.stdout.write(result.row + "\n")
        sys.stdout.flush()
    if args.write is not None:
        command = (
            f"OPENBLAS_NUM_THREADS=1 python -m benchmarks.few_directions --runtime {args.runtime} --write {args.write}"
        )
        head = HEAD.format(
            command=command, machine=platform.machine(), numpy=np.__version__, runtime=args.runtime, radius=RADIUS
        )
        write_part(args.write, "few inputs", (head + "\n".join(rows) + "\n" + TAIL).splitlines())
    return 0


TAIL = """
The memory is that of the whole process, interpreters and models included. The two deep networks are executed as a
whole, as every region of fewer than 4,096 inputs is; their seconds go mostly into bounding the reference's roundoff
over the region.
"""

if __name__ == "__main__":
    sys.exit(main())
