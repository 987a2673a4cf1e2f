"""The child process of :mod:`qebgate.runtimes.replay`: one interpreter, fed through pipes.

Protocol: frames of a 1-byte kind, an 8-byte little-endian length and that many bytes.  ``J`` carries
JSON, ``M`` a model, ``A`` one array in numpy's ``.npy`` format (never pickled).  The parent sends
``J`` (configuration) and ``M``, the child answers ``J`` (description or error); then one ``A`` for each
input of the model, in its order, is answered by ``A`` or by a ``J`` with an error.  Imports nothing but the
standard library, numpy and ai_edge_litert.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
from typing import Any, BinaryIO

HEADER = struct.Struct("<cQ")
FRAME_LIMIT = 1 << 31


def send(stream: BinaryIO, kind: bytes, payload: bytes) -> None:
    """Write one frame."""
    stream.write(HEADER.pack(kind, len(payload)))
    stream.write(payload)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[bytes, bytes]:
    """Read one frame; EOFError at the end of the stream or for a torn frame."""
    head = stream.read(HEADER.size)
    if len(head) < HEADER.size:
        raise EOFError
    kind, length = HEADER.unpack(head)
    if length > FRAME_LIMIT:
        raise EOFError
    payload = stream.read(length)
    if len(payload) < length:
        raise EOFError
    return kind, payload


def limit_resources(memory: int, seconds: float) -> None:
    """Bound address space, CPU time (renewed for every frame), core dumps and file sizes, where the system can."""
    try:
        import resource
    except ImportError:  # not on Windows; the parent's time limit still holds
        return
    wanted = (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 1 << 24),
        (resource.RLIMIT_CPU, int(sum(os.times()[:2]) + seconds + 10.0)),
    )
    for what, soft in wanted:
        _, hard = resource.getrlimit(what)
        value = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        try:
            resource.setrlimit(what, (value, hard))
        except (ValueError, OSError):  # macOS refuses some of them
            continue


def describe(interpreter: Any, version: str) -> dict[str, Any]:
    """Inputs, outputs and operators as JSON can carry them."""

    def tensor(d: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        return {"index": int(d["index"]), "shape": [int(n) for n in d["shape"]], "dtype": np.dtype(d["dtype"]).name}

    ops = [
        {"op": str(o["op_name"]), "inputs": [int(i) for i in o["inputs"]], "outputs": [int(i) for i in o["outputs"]]}
        for o in interpreter._get_ops_details()  # noqa: SLF001 - the only way to see a delegate at work
    ]
    return {
        "version": version,
        "inputs": [tensor(d) for d in interpreter.get_input_details()],
        "outputs": [tensor(d) for d in interpreter.get_output_details()],
        "ops": ops,
    }


def main() -> int:
    """Serve one parent until it closes the pipe."""
    stdin = sys.stdin.buffer
    stdout = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the runtime prints goes to stderr, not into the protocol
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _, raw = receive(stdin)
    config = json.loads(raw)
    _, model = receive(stdin)
    try:
        import numpy as np
        from ai_edge_litert import interpreter as litert
    except ImportError as error:
        send(stdout, b"J", json.dumps({"error": "missing", "text": str(error)}).encode())
        return 0
    limit_resources(int(config["memory"]), float(config["seconds"]))
    try:
        interpreter = litert.Interpreter(
            model_content=model,
            experimental_op_resolver_type=getattr(litert.OpResolverType, config["resolver"]),
            num_threads=1,
        )
        interpreter.allocate_tensors()
        described = describe(interpreter, config["version"])
    except (ValueError, RuntimeError, MemoryError, TypeError) as error:
        send(stdout, b"J", json.dumps({"error": "refused", "text": str(error)[:2000]}).encode())
        return 0
    send(stdout, b"J", json.dumps(described).encode())
    sources, target = [d["index"] for d in described["inputs"]], described["outputs"][0]["index"]
    while True:
        try:
            given = [receive(stdin)[1] for _ in sources]
        except EOFError:
            return 0
        limit_resources(int(config["memory"]), float(config["seconds"]))
        arrays = [np.load(io.BytesIO(raw), allow_pickle=False) for raw in given]
        try:
            y = []
            for rows in zip(*arrays, strict=True):
                interpreter.reset_all_variables()  # every invocation is the first
                for source, row in zip(sources, rows, strict=True):
                    interpreter.set_tensor(source, row)
                interpreter.invoke()
                y.append(interpreter.get_tensor(target))
            out = io.BytesIO()
            np.save(out, np.stack(y), allow_pickle=False)
        except (ValueError, RuntimeError, MemoryError) as error:
            send(stdout, b"J", json.dumps({"error": "refused", "text": str(error)[:2000]}).encode())
            continue
        send(stdout, b"A", out.getvalue())


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # everything is sent; to tidy up the interpreter would take as long as many small models
