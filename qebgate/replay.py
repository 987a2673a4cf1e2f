"""Running a witness again: in every installed runtime, and beside the float network in float64.

A witness is a JSON file and the arrays that it names (:mod:`qebgate.report.witness` writes both).  It is
read like any hostile file: sizes are limited, nothing is unpickled, and what it asks is a policy that is
validated as such.  The quantized input and the float one are derived from each other again, so that a
witness can only ever be about one input.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from qebgate.adapters.data import load_arrays
from qebgate.adapters.files import read_file
from qebgate.engines.concrete import Inputs, Session, float_outputs, quantized_outputs
from qebgate.errors import DataError, ExitCode, PolicyError, printable
from qebgate.ir.joined import MOST_INPUTS
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64
from qebgate.plan import Job, make_plan
from qebgate.policy import parse_policy
from qebgate.result import WITNESS_VERSION, RuntimeInfo
from qebgate.runtimes.profiles import DEPLOYED
from qebgate.semantics.execute import exact
from qebgate.task import Task, witnessed

MAX_JSON = 4 << 20
MAX_ARRAYS = 64 << 20
"""Bytes."""
MOST_ARRAYS = 8 + 2 * MOST_INPUTS


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """A witness in one runtime.

    ``quantized`` and ``gap`` [K] as measured there; ``reference`` [K] is the float network in float64 and
    ``agrees`` says whether qebgate's own execution gives the same quantized outputs, bit for bit.
    """

    runtime: RuntimeInfo
    quantized: F64
    gap: F64
    figure: float
    reference: F64
    agrees: bool


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """A witness in every runtime.  ``outputs`` [K]; ``claimed`` is the figure that its file states for ``found_in``."""

    check: str
    row: int
    outputs: tuple[int, ...]
    kind: str
    limit: float
    claimed: float | None
    found_in: str
    changed: tuple[str, ...]
    """Which models are not those that the witness was found on: float, quantized."""
    models: tuple[str, str]
    runs: tuple[Replayed, ...]

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.FAIL if any(not r.figure <= self.limit for r in self.runs) else ExitCode.PASS


def replay(path: Path, float_model: Path | None = None, quantized_model: Path | None = None) -> Replay:
    """Run a witness file (its ``.json`` or its ``.npz``) again; other models take the place of its own where given.

    Raises DataError for a file that is no witness, PolicyError where what it asks is not valid, and ModelError.
    """
    path = path.with_suffix(".json") if path.suffix == ".npz" else path
    about = _read(path)
    arrays = _arrays(about, path)
    where = printable(path)
    domain = _text(about, "domain", where)
    if domain not in ("grid", "real"):
        raise _damaged(where, f"domain {printable(domain)}")
    model = dict(_mapping(about, "model", where))
    if "runtime" in model or "preprocess" in model:
        raise _damaged(where, "runtime or preprocess of a model")
    on_the_fly = isinstance(model.get("quantized"), dict)
    _replace(model, float_model, quantized_model)
    if not on_the_fly:
        model["runtime"] = [r.value for r in DEPLOYED]
    # a model that quantizes its input itself was given the float32 numbers of the grid
    named = _inputs(about, where)
    coded = domain == "grid" and all("codes" in i for i in named)
    used = {i["name"]: i["codes" if coded else "x"] for i in named}
    if coded and not set(used.values()) <= set(arrays):
        coded, used = False, {i["name"]: i["x"] for i in named}
    missing = [name for name in used.values() if name not in arrays]
    if missing:
        raise _damaged(where, f"no array {printable(missing[0], 80)}")
    stored: dict[str, Any] = {"kind": "points", "data": str(_mapping(about, "arrays", where)["file"])}
    stored |= {"arrays": used} if "inputs" in about else {"array": used[""]}
    stored |= {"domain": "grid", "values": "codes"} if coded else {"domain": "real"}
    stored["out_of_range"] = "allow"
    ask = {"id": "replay", "model": "witness", "region": "input", "property": _mapping(about, "property", where)}
    policy = {"version": 1, "models": {"witness": model}, "regions": {"input": stored}, "checks": [ask]}
    try:
        plan = make_plan(parse_policy(policy, where, path.parent))
    except PolicyError as e:
        raise _damaged(where, f"{e.code}: {e.message}" + (f" ({e.found})" if e.found else "")) from None
    for e in plan.errors:
        raise e.error
    (planned,) = plan.checks
    jobs = planned.jobs
    outputs = jobs[0].outputs
    if outputs is None or len({j.cell.index for j in jobs}) != 1:
        raise _damaged(where, "outputs: predicted" if outputs is None else f"{len(planned.rows)} inputs")
    hashes = _mapping(about, "sha256", where)
    now = {"float": planned.pair.float.source.sha256, "quantized": planned.pair.quantized.source.sha256}
    with Session() as session:
        runs = tuple(_run(job, outputs, session) for job in jobs)
    runtime = _mapping(about, "runtime", where)
    figure = about.get("figure")
    return Replay(
        check=str(about.get("check", "")),
        row=row if isinstance(row := about.get("row"), int) else 0,
        outputs=outputs,
        kind=planned.spec.property.kind,
        limit=planned.spec.property.limit,
        claimed=float(figure) if isinstance(figure, (int, float)) else None,
        found_in=str(runtime.get("name", "")),
        changed=tuple(k for k in ("float", "quantized") if hashes.get(k) != now[k]),
        models=(planned.pair.float.source.path, planned.pair.quantized.source.path),
        runs=runs,
    )


def _run(job: Job, outputs: tuple[int, ...], session: Session) -> Replayed:
    semantics = "real" if job.float_semantics == "real" else "float32"
    task = Task(job.pair, job.cell, job.codec, job.prop, outputs, job.runtime, semantics)
    cell = job.cell
    inputs = Inputs.of_codes(task, cell.codes[0][None]) if cell.codes is not None else _real(task)
    found = session.witness(task, inputs, "replay")
    given = inputs.x if inputs.codes is None else inputs.codes
    q = session.outputs(task.pair.quantized, given, task.runtime)[0, list(outputs)]
    own = quantized_outputs(task, inputs)[0]
    # float32 computation has no order of its own: a last digit may differ
    agrees = bool((q == own).all()) if exact(task.pair.quantized) else bool(np.allclose(q, own, 1e-4, 1e-5))
    return Replayed(job.info, q, found.gap, witnessed(job.prop, found), float_outputs(task, inputs)[0], agrees)


def _real(task: Task) -> Inputs:
    return Inputs.of_reals(task, task.cell.lower[None])


def _read(path: Path) -> dict[str, Any]:
    where = printable(path)
    data = read_file(path, MAX_JSON, DataError)
    try:
        about: object = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError, MemoryError):
        raise _damaged(where, "no JSON") from None
    if not isinstance(about, dict):
        raise _damaged(where, "no object")
    found = cast("dict[str, Any]", about)
    if found.get("witness") != WITNESS_VERSION:
        raise DataError(
            "QEB459",
            "the file is not a witness, or one of another version",
            where=where,
            found=f"witness: {printable(found.get('witness'), 40)}",
            fix="give the .json or .npz file that `qebgate check` or `qebgate falsify` wrote",
        )
    return found


def _refuse(name: str) -> float:
    raise ValueError(name)


def _arrays(about: Mapping[str, Any], path: Path) -> dict[str, Array]:
    where = printable(path)
    named = _mapping(about, "arrays", where)
    name = _text(named, "file", where)
    if Path(name).name != name or not name.endswith(".npz"):
        raise _damaged(where, f"arrays in {printable(name)}, which is not beside it")
    beside = path.parent / name
    data = read_file(beside, MAX_ARRAYS, DataError)
    if hashlib.sha256(data).hexdigest() != named.get("sha256"):
        raise DataError(
            "QEB460",
            "the witness's arrays are not those that its JSON file was written with",
            where=printable(beside),
            fix="keep the two files together, as they were written",
        )
    return load_arrays(data, printable(beside), MOST_ARRAYS)


def _inputs(about: Mapping[str, Any], where: str) -> list[dict[str, str]]:
    """What the arrays of each input are called; of the only one, which has no name here, ``x`` and ``codes``."""
    if "inputs" not in about:
        return [{"name": "", "x": "x", "codes": "codes"}]
    given: object = about["inputs"]
    found: list[dict[str, str]] = []
    for entry in cast("list[object]", given) if isinstance(given, list) else []:
        fields = cast("dict[object, object]", entry) if isinstance(entry, dict) else {}
        texts = {k: v for k, v in fields.items() if isinstance(k, str) and isinstance(v, str)}
        if not {"name", "x"} <= texts.keys() or len(found) >= MOST_INPUTS:
            raise _damaged(where, "inputs")
        found.append(texts)
    if not found or len({i["name"] for i in found}) < len(found):
        raise _damaged(where, "inputs")
    return found


def _replace(model: dict[str, Any], float_model: Path | None, quantized_model: Path | None) -> None:
    if float_model is not None:
        given = str(float_model.absolute())
        old = model.get("float")
        model["float"] = {**cast("dict[str, Any]", old), "file": given} if isinstance(old, dict) else given
    if quantized_model is not None:
        if isinstance(model.get("quantized"), dict):
            raise PolicyError("QEB225", "this witness's quantized network is made on the fly: it is no file to replace")
        model["quantized"] = str(quantized_model.absolute())


def _mapping(about: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value: object = about.get(key)
    if not isinstance(value, dict):
        raise _damaged(where, f"no {key}")
    return cast("dict[str, Any]", value)


def _text(about: Mapping[str, Any], key: str, where: str) -> str:
    value: object = about.get(key)
    if not isinstance(value, str):
        raise _damaged(where, f"no {key}")
    return value


def _damaged(where: str, found: str) -> DataError:
    return DataError("QEB458", "the witness file is damaged", where=where, found=found)
