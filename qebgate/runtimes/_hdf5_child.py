"""The child process of :mod:`qebgate.adapters.keras.hdf5`: everything in one HDF5 file, as plain bytes.

Standard input *is* the file; standard output gets frames of ``qebgate.runtimes._child``: one ``J`` with
attributes and the list of arrays (or an error), then an ``M`` with the bytes of each array.  The C
library is not made for hostile files: here it can crash, hang or ask for memory without harm.
Imports nothing but the standard library, numpy and h5py.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from qebgate.runtimes._child import limit_resources, send

MAX_OBJECTS = 20_000
MAX_DEPTH = 32
MAX_NAMES = 10_000
MAX_TEXT = 32 << 20
UNUSED = ("optimizer", "optimizer_weights", "metrics")
"""Groups of the training state: never opened."""
LISTS = ("weight_names", "layer_names")
"""Attributes of names; long lists are cut into ``weight_names0``, ``weight_names1``, ..."""
TEXTS = ("model_config", "keras_version", "backend", "name")


class RefusedError(Exception):
    """``(kind, where, found)``; ``kind`` is one of those that the parent has words for."""


def refuse(kind: str, where: str, found: object = "") -> NoReturn:
    """Stop reading."""
    raise RefusedError(kind, where, str(found))


def objects(h5py: Any, root: Any) -> Iterator[tuple[str, Any]]:
    """Every object that is reached by hard links, once each, with its path."""
    seen: set[int] = set()
    stack: list[tuple[str, Any, int]] = [("", root, 0)]
    count = 0
    while stack:
        path, group, depth = stack.pop()
        yield path, group
        if len(group) > MAX_OBJECTS or depth > MAX_DEPTH:
            refuse("large", path, f"{len(group)} members at depth {depth}")
        for name in group:
            inner = f"{path}/{name}" if path else name
            count += 1
            if count > MAX_OBJECTS:
                refuse("large", inner, f"more than {MAX_OBJECTS} objects")
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                refuse("link", inner, type(link).__name__)
            if depth == 0 and name in UNUSED:
                continue
            found = group[name]
            address = hash(found.id)  # of the file and the object's place in it
            if address in seen:
                refuse("shared", inner)
            seen.add(address)
            if isinstance(found, h5py.Group):
                stack.append((inner, found, depth + 1))
            elif isinstance(found, h5py.Dataset):
                yield inner, found
            else:
                refuse("type", inner, type(found).__name__)


def attributes(h5py: Any, path: str, group: Any) -> dict[str, Any]:
    """The texts and lists of names of one group."""
    out: dict[str, Any] = {}
    if len(group.attrs) > MAX_NAMES:
        refuse("large", path, f"{len(group.attrs)} attributes")
    for key in group.attrs:
        is_list = key.rstrip("0123456789") in LISTS
        if not is_list and key not in TEXTS:
            continue
        where = f"{path or '/'} attribute {key}"
        found = h5py.h5a.open(group.id, key.encode())
        points = found.get_space().get_simple_extent_npoints()
        if points == 0:
            out[key] = [] if is_list else ""
            continue
        if points > MAX_NAMES or found.get_storage_size() > MAX_TEXT:
            refuse("large", where, f"{points} elements")
        if not isinstance(found.get_type(), h5py.h5t.TypeStringID):
            refuse("type", where)
        value = group.attrs[key]
        if is_list:
            out[key] = [text(v, where) for v in value.ravel().tolist()] if hasattr(value, "ravel") else []
        else:
            out[key] = text(value.item() if hasattr(value, "item") else value, where)
    return out


def text(value: object, where: str) -> str:
    """A string, or bytes that hold one."""
    out = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    if not isinstance(out, str):
        refuse("type", where, type(value).__name__)
    if len(out) > MAX_TEXT:
        refuse("large", where, f"{len(out)} characters")
    return out


def check(h5py: Any, path: str, data: Any, left: int) -> int:
    """Size in bytes of an array that is really in the file, whole and as it is."""
    plist = data.id.get_create_plist()
    if plist.get_external_count():
        refuse("external", path)
    if plist.get_layout() == h5py.h5d.VIRTUAL:
        refuse("virtual", path)
    if plist.get_nfilters():
        refuse("filter", path)
    kind = data.id.get_type()
    if not isinstance(kind, (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID)) or kind.get_size() > 8:
        refuse("type", path, type(kind).__name__)
    shape = data.shape
    if shape is None or len(shape) > 8:
        refuse("type", path, "no shape" if shape is None else f"{len(shape)} axes")
    size = math.prod(int(n) for n in shape) * int(data.dtype.itemsize)
    stored = int(data.id.get_storage_size())
    chunked = plist.get_layout() == h5py.h5d.CHUNKED
    if size > left or (stored < size if chunked else stored != size):
        refuse("size", path, f"{shape} is {size} bytes; {stored} are stored")
    return size


def run() -> None:
    """Read the file and write the frames."""
    import h5py
    import numpy as np

    with os.fdopen(os.dup(0), "rb") as raw, h5py.File(raw, "r") as f:
        left = os.fstat(0).st_size
        described: dict[str, dict[str, Any]] = {}
        arrays: list[tuple[str, Any]] = []
        for path, found in objects(h5py, f):
            if isinstance(found, h5py.Dataset):
                left -= check(h5py, path, found, left)
                arrays.append((path, found))
            else:
                described[path] = attributes(h5py, path, found)
        index = [
            {"path": path, "dtype": d.dtype.newbyteorder("<").str, "shape": [int(n) for n in d.shape]}
            for path, d in arrays
        ]
        send(sys.stdout.buffer, b"J", json.dumps({"attributes": described, "arrays": index}).encode())
        for _, d in arrays:
            values = np.asarray(d[()], dtype=d.dtype.newbyteorder("<"), order="C")
            send(sys.stdout.buffer, b"M", values.tobytes())


def main() -> None:
    """``memory`` in bytes and ``seconds`` are the arguments."""
    limit_resources(int(sys.argv[1]), float(sys.argv[2]))
    try:
        run()
    except RefusedError as e:
        kind, where, found = e.args
        answer = {"error": kind, "where": where, "found": found}
    except MemoryError:
        answer = {"error": "large", "where": "", "found": "more memory than is allowed"}
    except Exception as e:  # noqa: BLE001 - whatever the library raises, the file is to blame
        answer = {"error": "damaged", "where": "", "found": f"{type(e).__name__}: {str(e)[:300]}"}
    else:
        return
    send(sys.stdout.buffer, b"J", json.dumps(answer).encode())


if __name__ == "__main__":
    main()
