"""Plain values (frozen dataclasses, arrays, numbers, text) as a digest, and as JSON that reads back exactly.

Neither knows what it is about: a field that is added to a dataclass becomes part of both by itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from fractions import Fraction
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

from qebgate.ir.tensor import Array, frozen

Update = Callable[[bytes], object]
_KINDS = "biuf"
"""Kinds of numpy types that are numbers."""


class UnknownKindError(TypeError):
    """A value of a kind that has no canonical form."""


def digest(*values: object) -> str:
    """SHA-256 of values: different for values that differ in any field, type, order, shape or bit.

    Fields of dataclasses that do not count in comparisons (``compare=False``) are left out.  Raises
    UnknownKindError for a value that is not plain.
    """
    h = hashlib.sha256()
    _feed(h.update, values)
    return h.hexdigest()


def _feed(update: Update, value: Any) -> None:
    # every value is its kind, then its length or an end mark: no two sequences of values look the same
    if value is None or isinstance(value, bool):
        update(f"{value};".encode())
    elif isinstance(value, Enum):
        update(f"enum {type(value).__qualname__}.{value.name};".encode())
    elif isinstance(value, (int, Fraction)):
        update(f"{type(value).__name__} {value};".encode())
    elif isinstance(value, float):
        update(b"float " + struct.pack("<d", value))
    elif isinstance(value, (str, bytes)):
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        update(f"{type(value).__name__} {len(data)}:".encode() + data)
    elif isinstance(value, (np.ndarray, np.generic)):
        a = np.asarray(value)
        if a.dtype.kind not in _KINDS:
            raise UnknownKindError(f"an array of {a.dtype}")
        update(f"array {a.dtype.str} {a.shape} ".encode())
        update(np.ascontiguousarray(a).data)  # type: ignore[arg-type]
    else:
        _feed_parts(update, value)


def _feed_parts(update: Update, value: Any) -> None:
    if isinstance(value, (tuple, list)):
        items = cast("list[Any]", value)
        update(f"{type(value).__name__} {len(items)}:".encode())
        for item in items:
            _feed(update, item)
    elif isinstance(value, Mapping):
        pairs = sorted((digest(k), k, v) for k, v in cast("Mapping[Any, Any]", value).items())
        update(f"mapping {len(pairs)}:".encode())
        for _, k, v in pairs:
            _feed(update, (k, v))
    elif isinstance(value, (set, frozenset)):
        _feed(update, ("set", sorted(digest(v) for v in cast("set[Any]", value))))
    elif is_dataclass(value) and not isinstance(value, type):
        counted = [f.name for f in fields(value) if f.compare]
        update(f"{type(value).__qualname__} {len(counted)}:".encode())
        for name in counted:
            _feed(update, name)
            _feed(update, getattr(value, name))
    else:
        raise UnknownKindError(f"a {type(value).__qualname__}")


def to_data(kind: Any, value: Any) -> Any:
    """A value of an annotated type as JSON data, exactly.  Raises UnknownKindError for a type it does not know."""
    if value is None:
        return None
    kind = _only(kind)
    origin = get_origin(kind)
    if kind is float:
        return float(value).hex()
    if kind in (int, str, bool):
        return kind(value)
    if origin is Literal:
        return value
    if origin is np.ndarray:
        a = np.asarray(value)
        if a.dtype.kind not in _KINDS:
            raise UnknownKindError(f"an array of {a.dtype}")
        plain = a.astype(a.dtype.newbyteorder("<"))
        return {"dtype": plain.dtype.str, "shape": list(a.shape), "data": base64.b64encode(plain.tobytes()).decode()}
    if origin is tuple:
        return [to_data(k, v) for k, v in zip(_items(kind, len(value)), value, strict=True)]
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return {f.name: to_data(hints[f.name], getattr(value, f.name)) for f in fields(kind)}
    raise UnknownKindError(str(kind))


def from_data(kind: Any, data: Any) -> Any:
    """The value again.  Raises ValueError for anything that :func:`to_data` could not have made of that type."""
    if data is None:
        if kind is not None and type(None) not in get_args(kind):
            raise ValueError("a value is missing")
        return None
    kind = _only(kind)
    origin = get_origin(kind)
    if kind is float:
        value = float.fromhex(_of(str, data))
        if value.hex() != data:
            raise ValueError("a number is not in its own form")
        return value
    if kind in (int, str, bool):
        return _of(kind, data)
    if origin is Literal:
        if type(data) not in (int, str, bool) or data not in get_args(kind):
            raise ValueError("a word is not one of those known")
        return data
    if origin is np.ndarray:
        return _array(kind, data)
    if origin is tuple:
        items = _of(list, data)
        return tuple(from_data(k, v) for k, v in zip(_items(kind, len(items)), items, strict=True))
    if is_dataclass(kind):
        hints, given = get_type_hints(kind), _of(dict, data)
        names = [f.name for f in fields(kind)]
        if set(given) != set(names):
            raise ValueError("fields are missing, or unknown")
        return cast("Any", kind)(**{n: from_data(hints[n], given[n]) for n in names})
    raise UnknownKindError(str(kind))


def _of(kind: type, data: Any) -> Any:
    if type(data) is not kind:
        raise ValueError(f"a {kind.__name__} is expected")
    return data


def _only(kind: Any) -> Any:
    """The one alternative of an optional type."""
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    left = [k for k in get_args(kind) if k is not type(None)]
    if len(left) != 1:
        raise UnknownKindError(str(kind))
    return left[0]


def _items(kind: Any, n: int) -> list[Any]:
    args = get_args(kind)
    if len(args) == 2 and args[1] is Ellipsis:
        return [args[0]] * n
    return list(args)


def _array(kind: Any, data: Any) -> Array:
    given = _of(dict, data)
    if set(given) != {"dtype", "shape", "data"}:
        raise ValueError("an array has a dtype, a shape and data")
    dtype = np.dtype(_of(str, given["dtype"]))
    wanted: Any = next(iter(get_args(get_args(kind)[1])), Any)
    if (
        dtype.kind not in _KINDS
        or dtype.str != given["dtype"]
        or (wanted is not Any and dtype.name != np.dtype(wanted).name)
    ):
        raise ValueError("an array is of another type")
    shape = tuple(_of(int, n) for n in _of(list, given["shape"]))
    if len(shape) > 8 or any(n < 0 for n in shape):
        raise ValueError("an array has no such shape")
    try:
        raw = base64.b64decode(_of(str, given["data"]), validate=True)
    except binascii.Error:
        raise ValueError("an array is damaged") from None
    flat: Array = np.frombuffer(raw, dtype)
    return frozen(flat.reshape(shape).astype(dtype.newbyteorder("=")))
