"""Regions of the policy for models of several inputs: data by name, and what some of them have of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from qebgate.adapters.data import fit_rows
from qebgate.errors import DataError, PolicyError, printable
from qebgate.ir.pair import Pair
from qebgate.ir.tensor import Array
from qebgate.policy.messages import did_you_mean
from qebgate.policy.model import BallSpec, BoxSpec, InputSpec, PointsSpec, RegionSpec
from qebgate.regions import Instance, JoinedCodec, Preprocess, Region, expand_several

T = TypeVar("T")
Load = Callable[[str], Array]
"""An array of the region's data file, by its name."""


def check_region(region: RegionSpec, preprocess: Preprocess) -> None:
    """PolicyError for what means nothing where a model has several inputs."""
    found = None
    if not isinstance(region, PointsSpec | BallSpec | BoxSpec):
        found = f"kind: {region.kind}"
    elif isinstance(region, BoxSpec) and (isinstance(region.lower, list) or isinstance(region.upper, list)):
        found = "a list as the corner of all inputs together"
    elif not preprocess.identity:
        found = "preprocess"
    if found is not None:
        raise PolicyError(
            "QEB254",
            "the region cannot be about a model of several inputs",
            found=found,
            fix="use points, a ball or a box; what differs between inputs goes under `inputs:`, by their names",
        )


def by_input(given: Mapping[str, T], pair: Pair, what: str, *, every: bool) -> list[T | None]:
    """What a mapping of the policy gives each input, in the order of the quantized graph's parts.

    Names are those of the quantized model, or of the float one.  Raises PolicyError for a name that no input has,
    and (``every``) for an input that is not named.
    """
    parts = [[p.name for p in g.parts] for g in (pair.quantized, pair.float)]
    names = next((n for n in parts if set(given) <= set(n)), parts[0])
    unknown = [n for n in given if n not in names]
    if unknown:
        known = ", ".join(printable(n, 60) for n in names[:10])
        raise PolicyError(
            "QEB253",
            f"`{what}` names an input that the model does not have",
            found=f"{printable(unknown[0], 80)!r}; the inputs are {known}",
            fix=did_you_mean(unknown[0], names),
        )
    missing = [n for n in names if n not in given]
    if missing and every:
        raise PolicyError(
            "QEB253",
            f"`{what}` leaves out an input of the model",
            found=", ".join(printable(n, 60) for n in missing[:10]),
            fix=f"{what}: {{{', '.join(f'{printable(n, 60)}: ARRAY' for n in names[:10])}}}",
        )
    return [given.get(n) for n in names]


def rows_of(region: PointsSpec | BallSpec, pair: Pair, load: Load, where: str) -> list[Array]:
    """The data of each input, ``[N, *shape]``, in the order of the quantized graph's parts."""
    parts = pair.quantized.parts
    arrays = by_input(region.arrays or {}, pair, "arrays", every=True)
    rows: list[Array] = []
    for part, name in zip(parts, arrays, strict=True):
        assert name is not None
        rows.append(fit_rows(load(name), part.shape, f"{where}: array {printable(name, 80)}, input {part.label}"))
    counts = {len(r) for r in rows}
    if len(counts) > 1:
        found = ", ".join(f"{p.label}: {len(r)}" for p, r in zip(parts[:10], rows, strict=False))
        raise DataError("QEB441", "the inputs' arrays have different numbers of rows", where=where, found=found)
    return rows


def regions_of(region: PointsSpec | BallSpec | BoxSpec, pair: Pair) -> list[Region]:
    """The region of each input, in the order of the quantized graph's parts."""
    own = by_input(region.inputs or {}, pair, "inputs", every=False)
    return [_region(region, InputSpec() if i is None else i) for i in own]


def _region(region: PointsSpec | BallSpec | BoxSpec, own: InputSpec) -> Region:
    ends = own.clip or region.clip
    clip = None if ends is None else (float(ends[0]), float(ends[1]))
    fits = {"radius": BallSpec, "lower": BoxSpec, "upper": BoxSpec}
    for key, kind in fits.items():
        if getattr(own, key) is not None and not isinstance(region, kind):
            found = f"{key} under `inputs:` of a region of kind {region.kind}"
            raise PolicyError("QEB254", "an input has what the region's kind does not", found=found)
    if isinstance(region, BoxSpec):
        lower, upper = (
            tuple(float(v) for v in (x if isinstance(x, list) else [x]))
            for x in (
                region.lower if own.lower is None else own.lower,
                region.upper if own.upper is None else own.upper,
            )
        )
        return Region("box", domain=region.domain, clip=clip, lower=lower, upper=upper)
    if isinstance(region, BallSpec):
        radius = region.radius if own.radius is None else own.radius
        return Region("ball", radius, region.unit, region.domain, region.values, clip)
    return Region("points", domain=region.domain, values=region.values, clip=clip)


def instances_of(
    region: PointsSpec | BallSpec | BoxSpec,
    codec: JoinedCodec,
    pair: Pair,
    rows: Sequence[Array] | None,
    indices: Sequence[int],
) -> list[Instance]:
    """The region's cells; of ``indices`` of the rows."""
    chosen = np.asarray(indices, np.intp)
    given = [None] * len(codec.parts) if rows is None else [r[chosen] for r in rows]
    return expand_several(regions_of(region, pair), codec, given, indices)


def key_of(
    region: PointsSpec | BallSpec | BoxSpec,
    codec: JoinedCodec,
    pair: Pair,
    rows: Sequence[Array] | None,
    indices: Sequence[int],
) -> list[object]:
    """What tells a region in real units from others, input by input."""
    about: list[object] = []
    for k, (part, own, r) in enumerate(zip(codec.parts, codec.each, regions_of(region, pair), strict=True)):
        unit = own.scale if r.kind == "ball" and r.unit == "lsb" else 1.0
        about.append([part.name, list(part.shape), r.kind, r.radius * unit, r.clip, r.lower, r.upper])
        if rows is not None:
            x = rows[k][np.asarray(indices, np.intp)]
            x = own.grid(x) if r.values == "codes" else x.astype(np.float32)
            about.append(hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest())
    return about
