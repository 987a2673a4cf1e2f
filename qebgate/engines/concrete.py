"""Concrete inputs of a task: executed on the exact executors, and replayed in the installed runtime."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qebgate.domains.gap import Interval
from qebgate.engines.dra.analysis import Analysis, Settings
from qebgate.engines.guard import GuardedStop
from qebgate.engines.reference import enclosure
from qebgate.errors import ModelError
from qebgate.evidence import Progress, Witness, silent
from qebgate.ir.graph import Graph, Source
from qebgate.ir.tensor import Array, frozen
from qebgate.numerics.rounding import F64, U64
from qebgate.regions.cell import Cell
from qebgate.runtimes.profiles import Runtime
from qebgate.runtimes.replay import Replayer
from qebgate.semantics.execute import require_numbers, run_float, run_int
from qebgate.task import Task, witnessed

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """A batch of inputs of a task's region: ``x [B, *shape]`` float32, ``codes`` the integers they became.

    ``codes`` is None where the quantized model takes floats.
    """

    x: NDArray[np.float32]
    codes: NDArray[np.int32] | None

    @classmethod
    def of_codes(cls, task: Task, codes: Array) -> Inputs:
        """Inputs on the grid."""
        c = codes.astype(np.int32)
        return cls(task.codec.grid(c), None if task.codec.in_model else c)

    @classmethod
    def of_reals(cls, task: Task, x: Array) -> Inputs:
        """Real inputs, quantized as the application does."""
        v = x.astype(np.float32)
        return cls(v, None if task.codec.in_model else task.codec.encode(v))

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: slice | NDArray[np.intp]) -> Inputs:
        return Inputs(self.x[rows], None if self.codes is None else self.codes[rows])


def gaps(task: Task, inputs: Inputs) -> F64:
    """Gaps ``[B, K]`` at the task's outputs: exact quantized execution minus float64 execution.

    Of the first runtime where the task is about several: searches start from it, and nothing is proven by it.
    """
    task = replace(task, runtime=task.runtime.members[0])
    return quantized_outputs(task, inputs) - float_outputs(task, inputs)


def quantized_outputs(task: Task, inputs: Inputs) -> F64:
    """Real quantized outputs ``[B, K]`` as the runtime computes them (exact)."""
    graph = task.pair.quantized
    given = inputs.x if inputs.codes is None else inputs.codes
    y = run_int(graph, given, task.runtime)[graph.outputs[0]]
    require_numbers(y, graph)
    return real_values(graph, y)[:, list(task.outputs)]


def float_outputs(task: Task, inputs: Inputs) -> F64:
    """Float outputs ``[B, K]`` in float64."""
    graph = task.pair.float
    y = run_float(graph, inputs.x, dtype=np.float64)[graph.outputs[0]]
    require_numbers(y, graph)
    return y.reshape(len(y), -1)[:, list(task.outputs)]


def real_values(graph: Graph, y: Array) -> F64:
    """Outputs of a quantized graph in real units, ``[B, n]``."""
    t = graph.output
    real = t.q.dequantize(y.reshape(len(y), *t.shape)) if t.dtype.is_code else y.astype(np.float64)
    return real.reshape(len(y), -1)


@dataclass
class Session:
    """What the tasks of one process share: interpreters kept alive, enclosures of the float reference.

    A context manager.  Every model's bytes are checked against the hash of what was analysed.
    """

    progress: Progress = silent
    enclosures: dict[tuple[object, ...], Interval] = field(default_factory=dict)
    unbounded: dict[tuple[object, ...], GuardedStop] = field(default_factory=dict)
    """References that an effort did not suffice for, and why: it never will."""
    last: tuple[Task, Analysis] | None = None
    """The latest task whose bounds were propagated, by what is left of that; other engines go on from there."""
    _open: dict[tuple[str, Runtime, int], Replayer] = field(default_factory=dict)
    _content: dict[str, bytes] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for r in self._open.values():
            r.close()
        self._open.clear()

    def analysis_of(self, task: Task) -> Analysis | None:
        """The sharpest analysis of this very task, of its program without the layers that hand inputs on."""
        return self.last[1] if self.last is not None and self.last[0] is task else None

    def _get(self, graph: Graph, runtime: Runtime) -> Replayer:
        key = (graph.source.sha256, runtime, graph.outputs[0])
        if key not in self._open:
            replayer = Replayer(self._bytes(graph.source), runtime, output=graph.outputs[0])
            self._open[key] = replayer.__enter__()
        return self._open[key]

    def _bytes(self, source: Source) -> bytes:
        if source.sha256 not in self._content:
            content = Path(source.path).read_bytes()
            if hashlib.sha256(content).hexdigest() != source.sha256:
                raise ModelError("QEB471", "a model file changed while it was being checked", where=source.label)
            self._content[source.sha256] = content
        return self._content[source.sha256]

    def outputs(self, graph: Graph, x: Array, runtime: Runtime) -> F64:
        """Real outputs ``[B, n]`` of a graph in the installed runtime.

        Emulated profiles have none: they are evaluated here, the float side in float32.  A model that is not
        converted yet is no file that a runtime could load: it is evaluated here as the runtime would.
        """
        if runtime.emulated or graph.source.unconverted:
            exact = graph.is_quantized
            y = run_int(graph, x, runtime) if exact else run_float(graph, x, dtype=np.float32)
            return real_values(graph, y[graph.outputs[0]])
        parts = sorted(graph.parts, key=lambda p: p.position)
        return real_values(graph, self._get(graph, runtime).run(*([p.of(x) for p in parts] or [x])))

    def reference(
        self, task: Task, inputs: Inputs, settings: Settings, pulse: Callable[[], None] = lambda: None
    ) -> Interval:
        """The float outputs [K] at one input, whatever ``float_semantics`` allows them to be.

        They do not depend on the runtime, so they are shared between the tasks of several.
        """
        graph = task.pair.float
        # one file may be read with several input scales, or with its inputs in another order
        read = tuple((n.op, n.attrs) for n in graph.nodes)
        key = (graph.source.sha256, read, graph.outputs, task.float_semantics, task.outputs, inputs.x.tobytes())
        if key not in self.enclosures:
            x = inputs.x[0].astype(np.float64)
            # an input of a real-valued region is not on the grid, whatever codes the application made of it
            codes = None if task.cell.codes is None or inputs.codes is None else (inputs.codes[0], inputs.codes[0])
            point = replace(task, cell=Cell(x, x, codes, task.cell.index, x))
            tried = (*key, settings.work)
            if tried in self.unbounded:
                raise GuardedStop("effort", self.unbounded[tried].detail)
            try:
                self.enclosures[key] = enclosure(point, inputs.x[0], settings, pulse)
            except GuardedStop as stop:
                if stop.reason == "effort":  # another task's guards may let it finish
                    self.unbounded[tried] = stop
                raise
        return self.enclosures[key]

    def witness(self, task: Task, inputs: Inputs, engine: str, exact: Interval | None = None) -> Witness:
        """Replay one input in the runtime, on both sides.

        With ``float_semantics: real`` the float side is enclosed in exact arithmetic instead, and a float
        model that no runtime here evaluates (a Keras file) in all its float32 evaluations.  The gap is then
        the value of the enclosure that is nearest to 0: what is certain.  ``exact`` [K] holds the exact
        float outputs, where the caller knows them.
        """
        if len(task.runtime.members) > 1:
            each = [self.witness(replace(task, runtime=r), inputs, engine, exact) for r in task.runtime.members]
            return max(each, key=lambda w: witnessed(task.prop, w))
        pick = list(task.outputs)
        given = inputs.x if inputs.codes is None else inputs.codes
        q = self.outputs(task.pair.quantized, given, task.runtime)[0, pick]
        runs = task.runtime.emulated or task.pair.float.source.format == "tflite"
        if task.float_semantics == "float32" and runs:
            h = self.outputs(task.pair.float, inputs.x, task.runtime)[0, pick]
            floats = h, h
            gap = q - h
            slack = np.abs(gap) * (2 * U64)  # the subtraction's rounding
        else:
            known = exact if task.float_semantics == "real" else None
            h = known or self.reference(task, inputs, Settings())
            floats = h.lo, h.hi
            gap, slack = _certain(Interval.point(q).minus(h))
        x = frozen(inputs.x[0].copy())
        codes = None if inputs.codes is None else frozen(inputs.codes[0].copy())
        return Witness(x, codes, gap, True, engine, slack, (floats, q))


def _certain(gap: Interval) -> tuple[F64, F64]:
    """The end of an enclosure that is nearest to 0 (0 where it contains 0), and the enclosure's width."""
    nearest = np.where(gap.lo > 0, gap.lo, np.where(gap.hi < 0, gap.hi, 0.0))
    return nearest, np.nextafter(gap.width, np.inf)
