"""Which operators are supported, and how: written from the registries and from what they do with example models.

python -m benchmarks.support --write docs/support.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from qebgate.adapters.tflite.schemes import HYBRID
from qebgate.certify.errors import EvidenceError
from qebgate.certify.rows import rows_of
from qebgate.domains.layers import Layer, MaxPool, Opaque
from qebgate.engines.dra.program import direct, program
from qebgate.engines.milp_encoding import applies
from qebgate.ops.registry import LOWERINGS, lower
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.emulation import EMULATED
from qebgate.semantics.registry import SEMANTICS
from tests.laws.pairs import Twins, codec_of, grid_cell, one_operator, task_of
from tests.semantics.more_cases import FLOAT_ONLY
from tests.semantics.test_bit_exact import ABSENT
from tests.semantics.wide import takes_int16

YES, NO = "yes", "-"
SEEDS = range(3, 7)
"""Of the networks of one operator that are looked at."""
WEAKEST = (NO, "lines", "winner", "exact")
"""An operator has the weakest that one of them has."""


def lines(layers: tuple[Layer, ...]) -> str:
    """How back-substitution goes through the layers of an operator."""
    if any(isinstance(x, Opaque) and x.lines is None for x in layers):
        return NO
    if any(isinstance(x, Opaque) for x in layers):
        return "lines"
    return "winner" if any(isinstance(x, MaxPool) for x in layers) else "exact"


def solver(twins: Twins) -> str:
    """Whether mixed-integer programs hold the operator."""
    codec = codec_of(twins.pair)
    cell = grid_cell(twins.pair, codec, np.random.default_rng(0))
    return YES if applies(direct(program(task_of(twins.pair, cell, codec, Runtime.BUILTIN))).layers) else NO


def certificate(twins: Twins) -> str:
    """Whether the independent checker knows the operator."""
    codec = codec_of(twins.pair)
    cell = grid_cell(twins.pair, codec, np.random.default_rng(0))
    try:
        rows_of(twins.pair, cell, codec, Runtime.BUILTIN, float32=True)
    except EvidenceError as e:
        return YES if "compute nothing" in str(e) else NO  # what is no step at all needs no check
    return YES


def runtimes(op: str) -> str:
    if op in FLOAT_ONLY:
        return "float32"
    missing = sorted(r.value.removeprefix("litert-") for o, r in ABSENT if o == op)
    return f"not {', '.join(missing)}" if missing else YES


def row(op: str) -> str:
    twins = one_operator(op, 3)
    samples = (lower(one_operator(op, seed).pair, Runtime.BUILTIN, float32=True) for seed in SEEDS)
    cells = [
        runtimes(op),
        YES if takes_int16(op) else NO,
        YES if op in HYBRID else NO,
        YES if op in EMULATED else NO,
        YES,
        min(map(lines, samples), key=WEAKEST.index),
        YES,
        solver(twins),
        certificate(twins),
    ]
    return f"| {op} | {' | '.join(cells)} |"


def page() -> list[str]:
    """The page's lines."""
    return [
        "# Supported operators",
        "",
        "Written by `python -m benchmarks.support --write docs/support.md`; a test keeps it up to date.",
        "",
        "- `int8`: executed bit for bit as LiteRT's reference, builtin and XNNPACK kernels do (compared with them).",
        "- `int16x8`: the same with int16 activations. `hybrid`: int8 weights with float activations, enclosed.",
        "- `tflm`: emulated for TensorFlow Lite Micro, and so in the `envelope` of all runtimes.",
        "- `interval`, `gap`: bounds of both sides and of their difference.",
        "- `back-substitution`: `exact` (linear before a clamp), `winner` (a selection), `lines` (a line and a rest).",
        "- `MILP`: a network of such operators alone is encoded for solvers. `certificate`: the checker knows it.",
        "",
        "ARG_MAX may end a network: it is executed, and what comes before it is bounded (`tensor: logits`).",
        "DIV needs a divisor that is not 0 in the region; SQRT and RSQRT on int8 an input without codes below 0.",
        "Every other operator is refused by name. Arithmetic on shapes (SHAPE, STRIDED_SLICE, PACK and so on) is",
        "folded when the model is read. What an engine does not know, it leaves to the others.",
        "",
        "| operator | int8 | int16x8 | hybrid | tflm | interval | back-substitution | gap | MILP | certificate |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(row(op) for op in sorted(LOWERINGS)),
        "",
        f"{len(SEMANTICS)} operators.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    out = parser.parse_args().write
    text = "\n".join(page()) + "\n"
    if out:
        out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
