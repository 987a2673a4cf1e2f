"""Running a model in the installed LiteRT interpreter, in a child process with limits.

A well-formed model can abort, crash or hang the interpreter; here that becomes a ReplayError.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from qebgate.errors import DataError, ReplayError, printable
from qebgate.ir.tensor import Array
from qebgate.runtimes._child import receive, send
from qebgate.runtimes.patch import redirect_output
from qebgate.runtimes.profiles import Runtime

if TYPE_CHECKING:
    from typing_extensions import Self

PACKAGE = "ai-edge-litert"
_ROOT = Path(__file__).resolve().parents[2]
_CHUNK_BYTES = 1 << 23
_CHUNK_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """``seconds`` for loading, and for each chunk of at most 1024 invocations; ``memory`` in bytes of address space."""

    seconds: float = 120.0
    memory: int = 8 << 30


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of the interpreter's list; ``delegated`` where the XNNPACK delegate runs it."""

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    delegated: bool


def runtime_version() -> str | None:
    """Version of the installed ai-edge-litert; None where it is missing."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_features() -> tuple[str, ...]:
    """The vector extensions that select the runtimes' kernels (Linux on x86; else only the machine's name)."""
    interesting = ("sse4_1", "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "amx_int8")
    found: tuple[str, ...] = (platform.machine(),)
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return found
    flags = next((line.split(":", 1)[1].split() for line in text.splitlines() if line.startswith("flags")), [])
    return found + tuple(f for f in interesting if f in flags)


class Replayer:
    """An interpreter in a child process: ``run`` invokes it once per row of a batch, single-threaded.

    ``model`` is the file's bytes or its path; ``output`` is the index of a tensor to return instead of
    the model's output.  Raises ReplayError when the package is missing, when the runtime refuses the
    model, crashes, or exceeds its limits (and the child is then gone).
    """

    def __init__(
        self,
        model: bytes | str | os.PathLike[str],
        runtime: Runtime,
        output: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.runtime = runtime
        self.limits = limits or Limits()
        content = model if isinstance(model, bytes) else Path(model).read_bytes()
        self._where = "the model" if isinstance(model, bytes) else printable(model)
        self._content = content if output is None else redirect_output(content, output)
        self._child: subprocess.Popen[bytes] | None = None
        self._timed_out = False
        self._info: dict[str, Any] = {}
        version = runtime_version()
        if version is None:
            raise self._missing("no distribution of that name")
        self.version = version

    # -- lifetime -------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONSTARTUP", "PYTHONINSPECT")}
        env |= {"TF_CPP_MIN_LOG_LEVEL": "3", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "qebgate.runtimes._child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=_ROOT,  # -m puts the working directory first on the path
            env=env,
        )
        config = {
            "resolver": self.runtime.resolver,
            "memory": self.limits.memory,
            "seconds": self.limits.seconds,
            "version": self.version,
        }
        try:
            kind, payload = self._exchange([(b"J", json.dumps(config).encode()), (b"M", self._content)])
            self._info = self._json(kind, payload)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child; safe to call twice."""
        child, self._child = self._child, None
        if child is None:
            return
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with suppress(OSError):  # unsent bytes of a dead child
                    stream.close()
        try:
            child.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        self._log.close()

    # -- what was loaded ------------------------------------------------------------------------

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of the first input."""
        return self.input_shapes[0]

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of each input, in the file's order."""
        return tuple(tuple(d["shape"]) for d in self._info["inputs"])

    @property
    def output_shape(self) -> tuple[int, ...]:
        return tuple(self._info["outputs"][0]["shape"])

    @property
    def operators(self) -> tuple[Operator, ...]:
        """The file's operators in order, with what the delegate took over.

        The interpreter lists the original operators first and one DELEGATE per partition after them,
        with the tensors that enter and leave it; what lies between belongs to the partition.
        """
        ops = [o for o in self._info["ops"] if o["op"] != "DELEGATE"]
        producer = {t: k for k, o in enumerate(ops) for t in o["outputs"]}
        taken: set[int] = set()
        for d in (o for o in self._info["ops"] if o["op"] == "DELEGATE"):
            entering, todo = set(d["inputs"]), list(d["outputs"])
            while todo:
                k = producer.get(todo.pop())
                if k is None or k in taken:
                    continue
                taken.add(k)
                todo += [t for t in ops[k]["inputs"] if t not in entering]
        return tuple(Operator(o["op"], tuple(o["inputs"]), tuple(o["outputs"]), k in taken) for k, o in enumerate(ops))

    # -- running --------------------------------------------------------------------------------

    def run(self, *inputs: Array) -> Array:
        """Outputs ``[B, *output_shape]`` of an array ``[B, *shape]`` for each input, in the file's order.

        Codes may be of any integer type.
        """
        shapes, given = self.input_shapes, tuple(x.shape[1:] for x in inputs)
        if given != shapes or len({len(x) for x in inputs}) != 1:
            found = ", expected ".join(", ".join(map(str, each)) for each in (given, shapes))
            raise DataError("QEB441", "the data does not have the model's input shape", where=self._where, found=found)
        arrays = [self._typed(x, np.dtype(d["dtype"])) for x, d in zip(inputs, self._info["inputs"], strict=True)]
        count = len(arrays[0])
        if not count:
            return np.zeros((0, *self.output_shape), np.dtype(self._info["outputs"][0]["dtype"]))
        rows = int(max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // max(1, sum(x[0].nbytes for x in arrays)))))
        return np.concatenate([self._run_chunk([x[k : k + rows] for x in arrays]) for k in range(0, count, rows)])

    def _typed(self, x: Array, dtype: np.dtype[Any]) -> Array:
        data = x.astype(dtype)
        if dtype.kind in "iu" and not np.array_equal(data, x):
            raise DataError("QEB442", f"the data does not fit the model's input type {dtype.name}", where=self._where)
        return data

    def _run_chunk(self, arrays: list[Array]) -> Array:
        frames: list[tuple[bytes, bytes]] = []
        for x in arrays:
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(x), allow_pickle=False)
            frames.append((b"A", buffer.getvalue()))
        kind, payload = self._exchange(frames)
        if kind != b"A":
            self._json(kind, payload)
        return cast(Array, np.load(io.BytesIO(payload), allow_pickle=False))

    def _exchange(self, frames: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
        child = self._child
        if child is None:
            raise ReplayError("QEB704", "the interpreter's process is not running", where=self._where)
        timer = threading.Timer(self.limits.seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            for kind, payload in frames:
                send(cast(BinaryIO, child.stdin), kind, payload)
            return receive(cast(BinaryIO, child.stdout))
        except (EOFError, OSError):
            raise self._died(child) from None
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self._timed_out = True
        if self._child is not None:
            self._child.kill()

    def _died(self, child: subprocess.Popen[bytes]) -> ReplayError:
        try:
            code: int | None = child.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            child.kill()
            code = None
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - 300))
        tail = printable(self._log.read().decode(errors="replace").strip()[-200:])
        self.close()
        where = f"{self._where} in {self.runtime.value} ({PACKAGE} {self.version})"
        if self._timed_out:
            return ReplayError(
                "QEB702", f"the runtime did not answer within {self.limits.seconds:g} seconds", where=where
            )
        return ReplayError("QEB703", "the runtime crashed on the model", where=where, found=f"exit {code}; {tail}")

    def _json(self, kind: bytes, payload: bytes) -> dict[str, Any]:
        info = cast("dict[str, Any]", json.loads(payload)) if kind == b"J" else {"error": "protocol", "text": ""}
        if "error" not in info:
            return info
        if info["error"] == "missing":
            raise self._missing(str(info["text"]))
        raise ReplayError(
            "QEB705",
            "the runtime refused the model",
            where=f"{self._where} in {self.runtime.value} ({PACKAGE} {self.version})",
            found=printable(info["text"]),
        )

    def _missing(self, found: str) -> ReplayError:
        return ReplayError(
            "QEB701",
            f"the package {PACKAGE}, which runs .tflite files, is not installed",
            found=printable(found),
            fix=f"pip install {PACKAGE}",
        )
