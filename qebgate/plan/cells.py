"""Regions of a policy: their instances, the true classes of their rows, and what tells one from another."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from qebgate.adapters.data import fit_rows, load_rows
from qebgate.adapters.vnnlib import read_boxes
from qebgate.errors import DataError, PolicyError, printable
from qebgate.ir.pair import Pair
from qebgate.ir.tensor import Array
from qebgate.plan import several
from qebgate.plan.settings import numbers
from qebgate.policy import PolicyFile
from qebgate.policy.model import (
    BallSpec,
    BoxSpec,
    PointsSpec,
    RegionSpec,
    SegmentSpec,
    VnnlibSpec,
)
from qebgate.regions import InputCodec, Instance, JoinedCodec, Preprocess, Region, expand
from qebgate.regions.segment import fit_directions


@dataclass(slots=True)
class Cells:
    """Expands regions; arrays of data files that several use are read once."""

    source: PolicyFile
    rows: dict[tuple[Path, str | None], Array] = field(default_factory=dict[tuple[Path, str | None], Array])

    def expand(
        self, region: RegionSpec, codec: InputCodec, pair: Pair, preprocess: Preprocess
    ) -> tuple[list[Instance], str]:
        if isinstance(codec, JoinedCodec):
            return self._expand_several(region, codec, pair, preprocess)
        _one_input(region, pair)
        shape = pair.quantized.input.shape
        clip = None if region.clip is None else (region.clip[0], region.clip[1])
        if isinstance(region, BoxSpec):
            spec = Region(
                "box", domain=region.domain, clip=clip, lower=numbers(region.lower), upper=numbers(region.upper)
            )
            return expand(spec, codec, shape, preprocess=preprocess), "one box of inputs"
        if isinstance(region, VnnlibSpec):
            path = self.source.resolve(region.file)
            boxes = read_boxes(path, math.prod(shape))
            cells: list[Instance] = []
            for k, (lower, upper) in enumerate(boxes):
                spec = Region("box", domain=region.domain, clip=clip, lower=lower, upper=upper)
                (made,) = expand(spec, codec, shape, preprocess=preprocess)
                cells.append(Instance(replace(made.cell, index=k), made.excess))
            return cells, f"{len(boxes)} boxes of {printable(region.file)}"
        path = self.source.resolve(region.data)
        rows = fit_rows(self._array(path, _array_of(region)), shape, where=printable(path))
        indices = _choose(region, len(rows))
        note = f"{len(indices)} of {len(rows)} rows of {printable(region.data)}"
        chosen = np.asarray(indices)
        if isinstance(region, SegmentSpec):
            span = region.range[0], region.range[1]
            spec = Region("segment", 0.0, region.unit, region.domain, region.values, clip, span=span)
            along = None
            if region.direction != "ones":
                along = fit_directions(self._array(path, region.direction), shape, len(rows))[chosen]
            return expand(spec, codec, shape, rows[chosen], indices, preprocess, along), note
        if isinstance(region, BallSpec):
            spec = Region("ball", region.radius, region.unit, region.domain, region.values, clip)
        else:
            spec = Region("points", domain=region.domain, values=region.values, clip=clip)
        return expand(spec, codec, shape, rows[chosen], indices, preprocess), note

    def _expand_several(
        self, region: RegionSpec, codec: JoinedCodec, pair: Pair, preprocess: Preprocess
    ) -> tuple[list[Instance], str]:
        several.check_region(region, preprocess)
        assert isinstance(region, PointsSpec | BallSpec | BoxSpec)
        if isinstance(region, BoxSpec):
            return several.instances_of(region, codec, pair, None, ()), f"one box of {len(codec.parts)} inputs"
        rows = self._several_rows(region, pair)
        indices = _choose(region, len(rows[0]))
        note = f"{len(indices)} of {len(rows[0])} rows of {printable(region.data)}, {len(codec.parts)} inputs each"
        return several.instances_of(region, codec, pair, rows, indices), note

    def _several_rows(self, region: PointsSpec | BallSpec, pair: Pair) -> list[Array]:
        path = self.source.resolve(region.data)
        return several.rows_of(region, pair, lambda name: self._array(path, name), printable(path))

    def labels(self, region: RegionSpec) -> Array | None:
        """The true classes of the region's rows."""
        if not isinstance(region, PointsSpec | BallSpec | SegmentSpec) or region.labels is None:
            return None
        path = self.source.resolve(region.data)
        y, n = self._array(path, region.labels), len(self._array(path, _array_of(region)))
        if y.size != n or not np.issubdtype(y.dtype, np.integer):
            raise DataError(
                "QEB496",
                "`labels` needs one whole number for each row of the data",
                where=f"{printable(path)}: array {printable(region.labels)}",
                found=f"shape {y.shape}, dtype {y.dtype}; {n} rows",
            )
        return y.ravel()[_choose(region, n)]

    def key(self, region: RegionSpec, codec: InputCodec, pair: Pair, pre: Preprocess) -> str:
        """A digest of the region in real units, whatever the quantized input can represent of it."""
        about: list[object] = [region.kind, region.domain, region.clip, pre.scale, pre.mean, pre.std]
        if isinstance(codec, JoinedCodec):
            assert isinstance(region, PointsSpec | BallSpec | BoxSpec)
            rows = None if isinstance(region, BoxSpec) else self._several_rows(region, pair)
            indices = [] if rows is None or isinstance(region, BoxSpec) else _choose(region, len(rows[0]))
            return digest([*about, several.key_of(region, codec, pair, rows, indices)])
        if isinstance(region, BoxSpec):
            return digest([*about, numbers(region.lower), numbers(region.upper)])
        if isinstance(region, VnnlibSpec):
            size = math.prod(pair.quantized.input.shape)
            return digest([*about, read_boxes(self.source.resolve(region.file), size)])
        path = self.source.resolve(region.data)
        rows = self._array(path, _array_of(region))
        codes = region.values == "codes"
        x = (codec.grid(rows) if codes else rows.astype(np.float32))[_choose(region, len(rows))]
        unit = codec.scale if not isinstance(region, PointsSpec) and region.unit == "lsb" else 1.0
        data = hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()
        about += [codes, list(x.shape), data]
        if isinstance(region, BallSpec):
            about.append(region.radius * unit)
        elif isinstance(region, SegmentSpec):
            along = region.direction
            if along != "ones":
                along = hashlib.sha256(self._array(path, along).astype(np.float64).tobytes()).hexdigest()
            about += [along, region.range[0] * unit, region.range[1] * unit]
        return digest(about)

    def _array(self, path: Path, name: str | None) -> Array:
        """An array of a data file, read once."""
        key = path, name
        if key not in self.rows:
            self.rows[key] = load_rows(path, name)
        return self.rows[key]


def digest(values: object) -> str:
    """SHA-256 of values that JSON can write."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _choose(region: PointsSpec | BallSpec | SegmentSpec, n: int) -> list[int]:
    """Which rows of the data are used."""
    if region.sample is not None:
        if region.sample > n:
            raise PolicyError(
                "QEB248",
                "`sample` asks for more rows than there are",
                found=f"{region.sample} of {n}",
                fix=f"at most {n}",
            )
        chosen = np.random.default_rng(region.seed or 0).choice(n, region.sample, replace=False)
        return sorted(int(i) for i in chosen)
    return list(range(n if region.limit is None else min(region.limit, n)))


def _array_of(region: PointsSpec | BallSpec | SegmentSpec) -> str | None:
    """The array that has the rows; of several inputs' the first, which has as many as the others."""
    return region.array if region.arrays is None else next(iter(region.arrays.values()))


def _one_input(region: RegionSpec, pair: Pair) -> None:
    """PolicyError where a region names inputs that a model of one input does not have."""
    arrays = None if isinstance(region, BoxSpec | VnnlibSpec) else region.arrays
    own = region.inputs if isinstance(region, PointsSpec | BallSpec | BoxSpec) else None
    names = {*pair.quantized.input_names, *pair.float.input_names}
    if own is not None or (arrays is not None and (len(arrays) != 1 or not set(arrays) <= names)):
        raise PolicyError(
            "QEB253",
            f"`{'arrays' if own is None else 'inputs'}` is about several inputs, and the model has one",
            found=", ".join(printable(n, 60) for n in (own or arrays or {})),
            fix="use `array: NAME`" if own is None else "state it for the region itself",
        )
