"""Our execution beside the installed interpreter's, in this process (fast; the models are our own)."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert import interpreter as litert

from qebgate.adapters.tflite.reader import read_tflite
from qebgate.ir.graph import Graph
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.semantics.delegation import owner
from qebgate.semantics.execute import run_int
from tests.semantics.cases import Case

ABSENT = {("ELU", Runtime.REFERENCE)}
"""Operators that a runtime does not have."""


def runtimes_of(graph: Graph) -> list[Runtime]:
    """The deployed runtimes that have every operator of a graph."""
    return [r for r in DEPLOYED if all((n.op, r) not in ABSENT for n in graph.nodes)]


def load(model: bytes) -> Graph:
    """The graph of a model's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.tflite"
        path.write_bytes(model)
        return read_tflite(path)


def interpret(model: bytes, x: np.ndarray, runtime: Runtime) -> tuple[np.ndarray, bool]:
    """Outputs of batch-1 invocations, and whether the XNNPACK delegate took the (only) operator."""
    it = litert.Interpreter(
        model_content=model,
        experimental_op_resolver_type=getattr(litert.OpResolverType, runtime.resolver),
        num_threads=1,
    )
    it.allocate_tensors()
    source, target = it.get_input_details()[0]["index"], it.get_output_details()[0]["index"]
    y = []
    for row in x:
        it.reset_all_variables()
        it.set_tensor(source, row)
        it.invoke()
        y.append(it.get_tensor(target))
    return np.stack(y), any(o["op_name"] == "DELEGATE" for o in it._get_ops_details())


@dataclass(frozen=True)
class Comparison:
    """Outputs compared and different, and whether delegation is as predicted."""

    outputs: int
    mismatches: int
    delegation_agrees: bool
    delegated: bool
    worst: float


def compare(case: Case, runtime: Runtime, *, ours_only: bool = False) -> Comparison:
    """Run a case both ways."""
    graph = load(case.model)
    if ours_only:
        run_int(graph, case.x, runtime)
    theirs, delegated = interpret(case.model, case.x, runtime)
    ours = run_int(graph, case.x, runtime)[graph.outputs[0]]
    expected = owner(graph.nodes[0], graph, runtime) is Runtime.XNNPACK
    diff = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    return Comparison(
        theirs.size, int((diff != 0).sum()), expected == delegated, delegated, float(diff.max(initial=0.0))
    )
