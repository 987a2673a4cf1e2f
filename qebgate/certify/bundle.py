"""The file format of evidence: a folder of ``evidence.json`` and ``hints.npz``; everything read is hostile.

Nothing is unpickled or executed; sizes are limited, types strict, unknown and duplicate keys refused, numbers finite.
``sha256`` covers the whole of the JSON, and the JSON names the hash of the arrays: it finds damage, not malice.  What
makes a bundle right is that :mod:`.recheck` derives the claim itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qebgate.adapters.data import load_arrays
from qebgate.adapters.files import read_file
from qebgate.certify.box import Box
from qebgate.certify.check import Hints, Shape
from qebgate.certify.errors import EvidenceError
from qebgate.certify.forms import Splits, Targets
from qebgate.errors import DataError, printable
from qebgate.ir.tensor import Array

SCHEMA = 1
JSON_FILE, ARRAYS_FILE = "evidence.json", "hints.npz"
MAX_JSON = 64 << 20
MAX_ARRAYS = 256 << 20
MAX_LEAVES = 4096
MAX_LARGEST = 2.0**40
"""Largest slope or multiplier that is read: beyond it only roundoff would come."""

FAR = 2.0**100
"""Stands for infinity in the splits of a tree."""

Text = Annotated[str, Field(max_length=4096)]
Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Index = Annotated[int, Field(ge=0, lt=1 << 31)]


class Part(BaseModel):
    """A part of the JSON."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, frozen=True, extra="forbid")


class File(Part):
    path: Text
    sha256: Sha


class FixedPointPart(Part):
    """How a network was quantized on the fly; ``float_scale`` is a fraction, or null for the quantized one's own."""

    bits: Index
    weight_int_bits: int
    bias_int_bits: int
    activation_int_bits: int
    input_bits: Index
    input_signed: bool
    input_int_bits: int
    float_scale: tuple[int, Annotated[int, Field(gt=0)]] | None


class Models(Part):
    """Either a quantized file or a scheme; paths are relative to ``root``, which is relative to the bundle."""

    root: Text
    float_file: File
    quantized_file: File | None
    fixed_point: FixedPointPart | None


class RegionPart(Part):
    """A box of codes (``grid``) or of real inputs, flattened."""

    domain: Literal["grid", "real"]
    lower: Annotated[list[Finite], Field(min_length=1)]
    upper: Annotated[list[Finite], Field(min_length=1)]


class QuestionPart(Part):
    tensor: Literal["output", "logits"]
    outputs: Annotated[list[Index], Field(min_length=1)]
    runtime: Text
    runtime_version: Text | None
    float_semantics: Literal["float32", "real"]
    input_quantization: Literal["nearest", "truncate"] | None
    property: Literal["max_abs", "max_lsb"]
    limit: Annotated[float, Field(allow_inf_nan=False, ge=0)]
    region: RegionPart


class Claim(Part):
    """``lower <= quantized - float <= upper`` at the outputs, and the property's figure on that box."""

    lower: list[Finite]
    upper: list[Finite]
    proven: Finite


class Restriction(Part):
    """Ends of one input: codes (``grid``) or real values."""

    kind: Literal["input"]
    input: Index
    at_least: Finite | None = None
    at_most: Finite | None = None


class TargetPart(Part):
    value: Index
    kind: Literal["z", "q", "d", "gap"]


class LeafPart(Part):
    """A part of the region that is executed, or has hints of its own: arrays ``leafK.*`` for leaf K."""

    restrictions: list[Restriction]
    executed: bool
    refine: dict[str, Literal[1, 2]]
    targets: list[TargetPart]


class Statement(Part):
    """The whole of ``evidence.json``."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal["qebgate evidence"]
    tool: Text
    check: Text
    row: Index
    models: Models
    policy: File | None
    question: QuestionPart
    claim: Claim
    engine: Text
    seed: int
    limits: dict[str, Finite]
    assumptions: list[Text]
    leaves: Annotated[list[LeafPart], Field(min_length=1, max_length=MAX_LEAVES)]
    arrays: File
    sha256: Sha


def digest(fields: Mapping[str, Any]) -> str:
    """Hash of a statement's JSON without its own hash."""
    rest = {k: v for k, v in fields.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def pack(arrays: Mapping[str, Array]) -> bytes:
    """The bytes of ``hints.npz``."""
    out = BytesIO()
    np.savez_compressed(out, **dict(arrays))  # type: ignore[arg-type]
    return out.getvalue()


def write(folder: Path, fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write a bundle: the statement's fields but for the hashes, and its arrays."""
    data = pack(arrays)
    named = {**fields, "arrays": {"path": ARRAYS_FILE, "sha256": hashlib.sha256(data).hexdigest()}}
    named["sha256"] = digest(named)
    text = json.dumps(named, indent=1, allow_nan=False) + "\n"
    Statement.model_validate_json(text)  # what cannot be read must not be written
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ARRAYS_FILE).write_bytes(data)
    (folder / JSON_FILE).write_text(text)


def arrays_of(hints: Hints | None, leaf: int) -> tuple[dict[str, Array], dict[str, Any]]:
    """A leaf's arrays, and its part of the JSON, of hints that were :func:`rounded`; None for one that is executed."""
    if hints is None:
        return {}, {"executed": True, "refine": {}, "targets": []}
    out: dict[str, Array] = {f"leaf{leaf}.slopes.{v}": s.astype(np.float32) for v, s in hints.slopes.items()}
    for k, t in enumerate(hints.targets):
        name = f"leaf{leaf}.target{k}"
        out |= {f"{name}.entries": t.entries.astype(np.int32), f"{name}.signs": t.signs.astype(np.int8)}
        out |= {f"{name}.multipliers.{v}": m.astype(np.float32) for v, m in t.multipliers.items()}
        for v, s in t.splits.items():
            columns = np.stack([s.row, s.neuron, *s.z, *s.code], axis=1).astype(np.float64)
            out[f"{name}.splits.{v}"] = np.clip(columns, -FAR, FAR)
    targets = [{"value": t.value, "kind": t.kind} for t in hints.targets]
    return out, {"executed": False, "refine": {str(v): level for v, level in hints.refine.items()}, "targets": targets}


def rounded(hints: Hints) -> Hints:
    """The hints as they are written: float32 is enough for slopes."""
    small = lambda x: np.clip(x, -MAX_LARGEST, MAX_LARGEST).astype(np.float32).astype(np.float64)  # noqa: E731
    targets = [replace(t, multipliers={v: small(m) for v, m in t.multipliers.items()}) for t in hints.targets]
    return Hints({v: small(s) for v, s in hints.slopes.items()}, hints.refine, targets)


def read(path: Path) -> tuple[Statement, dict[str, Array], Path]:
    """A bundle's statement and arrays, and its folder.  EvidenceError for whatever is not as it must be."""
    folder = path if path.is_dir() else path.parent
    where = printable(folder / JSON_FILE)
    raw = read_file(folder / JSON_FILE, MAX_JSON, EvidenceError)
    try:
        fields: Any = json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_constant)
        statement = Statement.model_validate_json(raw)
    except (ValidationError, ValueError, RecursionError) as e:
        raise _damaged("the statement is not of the form that it must have", where, _first(e)) from None
    if digest(fields) != statement.sha256:
        raise _damaged("the statement does not have the hash that it names", where)
    if statement.arrays.path != ARRAYS_FILE:
        raise _damaged("the arrays' file has another name", where, statement.arrays.path)
    data = read_file(folder / ARRAYS_FILE, MAX_ARRAYS, EvidenceError)
    if hashlib.sha256(data).hexdigest() != statement.arrays.sha256:
        raise _damaged("the arrays do not have the hash that the statement names", printable(folder / ARRAYS_FILE))
    try:
        arrays = load_arrays(data, printable(folder / ARRAYS_FILE), 1 << 16)
    except DataError as e:
        raise EvidenceError("QEB481", f"the evidence is damaged: {e.message}", where=e.where, found=e.found) from None
    return statement, arrays, folder


def hints_of(statement: Statement, arrays: Mapping[str, Array], leaf: int, shape: Shape) -> Hints | None:
    """A leaf's hints, None where it is executed; EvidenceError for missing, surplus, or misshapen arrays.

    ``arrays`` are the leaf's own.
    """
    part, sizes, left = statement.leaves[leaf], shape.layers, dict(arrays)
    if part.executed:
        if left or part.refine or part.targets:
            raise _damaged("there are hints that belong to nothing", found=f"leaf {leaf}")
        return None

    def take(name: str, kind: str, shape: tuple[int, ...] | None = None) -> Array:
        a = left.pop(f"leaf{leaf}.{name}", None)
        if a is None or a.dtype.kind != kind or (shape is not None and a.shape != shape):
            raise _damaged("hints are missing, or of another type or shape", found=printable(f"leaf {leaf}: {name}"))
        if kind == "f" and ".splits." not in name and not (np.abs(a) <= MAX_LARGEST).all():
            raise _damaged("a hint is absurdly large", found=printable(name))
        return a.astype(np.float64) if kind == "f" else a

    slopes = {v: take(f"slopes.{v}", "f", (10, m)) for v, m in shape.lines.items()}
    refine = {int(v): level for v, level in part.refine.items() if len(v) < 10 and v.isdecimal() and int(v) in sizes}
    if len(refine) != len(part.refine):
        raise _damaged("a layer to refine does not exist", found=f"leaf {leaf}")
    targets: list[Targets] = []
    for k, t in enumerate(part.targets):
        entries, signs = (take(f"target{k}.{n}", "i") for n in ("entries", "signs"))
        count = entries.size
        most = sizes.get(t.value, 0) if t.kind != "gap" or t.value == shape.output else 0
        inside = entries.shape == signs.shape == (count,) and entries.min() >= 0 and entries.max() < most
        if not inside or not np.isin(signs, (-1, 1)).all():
            raise _damaged("a target's entries or signs are wrong", found=f"leaf {leaf}: target {k}")
        below = {v: m for v, m in sizes.items() if f"leaf{leaf}.target{k}.multipliers.{v}" in left}
        found = {v: take(f"target{k}.multipliers.{v}", "f", (2, count, m)) for v, m in below.items()}
        named = {v: m for v, m in sizes.items() if f"leaf{leaf}.target{k}.splits.{v}" in left}
        splits = {v: _splits(take(f"target{k}.splits.{v}", "f"), count, m) for v, m in named.items()}
        if splits and t.kind != "gap":
            raise _damaged("a target within the network is split", found=f"leaf {leaf}: target {k}")
        targets.append(Targets(t.value, t.kind, entries.astype(np.intp), signs.astype(np.float64), found, splits))
    if left:
        raise _damaged("there are hints that belong to nothing", found=printable(next(iter(left))))
    return Hints(slopes, refine, targets)


def _splits(a: Array, rows: int, neurons: int) -> Splits:
    """Splits of ``neurons`` neurons in some rows: row, neuron, ends of z, ends of the code."""
    whole = a.ndim == 2 and a.shape[1] == 6 and not (a[:, [0, 1, 4, 5]] % 1.0).any()
    if not whole or not ((a[:, :2] >= 0) & (a[:, :2] < (rows, neurons))).all() or (a[:, [2, 4]] > a[:, [3, 5]]).any():
        raise _damaged("a tree's splits are wrong")
    ends = [np.where(np.abs(e) >= FAR, np.copysign(np.inf, e), e) for e in a[:, 2:].T]
    return Splits(a[:, 0].astype(np.intp), a[:, 1].astype(np.intp), Box(*ends[:2]), Box(*ends[2:]))


def _damaged(what: str, where: str | None = None, found: str | None = None) -> EvidenceError:
    return EvidenceError("QEB481", f"the evidence is damaged: {what}", where=where, found=found)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key is given twice")
    return out


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _first(e: Exception) -> str:
    if isinstance(e, ValidationError):
        first = e.errors(include_url=False, include_input=False)[0]
        return printable(f"{'.'.join(str(p) for p in first['loc'])}: {first['msg']}")
    return printable(e) or type(e).__name__
