"""Whether forms over cells contain what really happens, without tolerance (see :mod:`tests.laws.contain`)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qebgate.domains.gap import Interval
from qebgate.engines.concrete import Inputs
from qebgate.engines.dra.program import direct, program
from qebgate.engines.forms.form import Form
from qebgate.engines.forms.network import Network, whole_region
from qebgate.engines.forms.steps import Cells
from qebgate.semantics.execute import run_float, run_int
from qebgate.task import Task
from tests.laws.contain import LONG, OWN_ERROR, Seen
from tests.semantics.cases import Rng


def network(task: Task, symbols: int = 0) -> Network:
    p = direct(program(replace(task, float_semantics="real")))
    free = np.flatnonzero((task.cell.upper > task.cell.lower).ravel())
    return Network(p, free, whole_region(task, free), symbols)


def some_cells(task: Task, net: Network, rng: Rng, count: int) -> Cells:
    """Parts of a region: all of it first, then boxes of any size, points among them."""
    whole = whole_region(task, net.free)
    ends = whole.codes if whole.codes is not None else (whole.lo, whole.hi)
    lo, hi = ends[0][0], ends[1][0]
    parts = [(lo, hi)]
    for _ in range(count - 1):
        if whole.codes is not None:
            two = np.sort(rng.integers(lo, hi + 1, (2, lo.size)), axis=0)
        else:
            two = np.sort((lo + (hi - lo) * rng.random((2, lo.size))).astype(np.float32).astype(np.float64), axis=0)
            two = np.clip(two, lo, hi)
        if rng.random() < 0.3:
            two[1] = two[0]
        elif rng.random() < 0.3:
            two[:, rng.random(lo.size) < 0.7] = two[0, 0]
            two = np.clip(two, lo, hi)
        parts.append((two[0], two[1]))
    a, b = (np.stack([p[n] for p in parts]) for n in (0, 1))
    if whole.codes is None:
        return Cells(a, b, None)
    real = lambda c: task.codec.grid(c).astype(np.float64)  # noqa: E731
    return Cells(real(a), real(b), (a, b))


def inside(task: Task, net: Network, cells: Cells, cell: int, rng: Rng, count: int) -> Inputs:
    """Corners of one cell, and anything in it."""
    on_grid = cells.codes is not None
    ends = cells.codes if cells.codes is not None else (cells.lo, cells.hi)
    lo, hi = ends[0][cell], ends[1][cell]
    k = lo.size
    corner = np.where(rng.random((count // 2, k)) < 0.5, lo, hi)
    if on_grid:
        x = np.concatenate([corner, rng.integers(lo, hi + 1, (count - count // 2, k))])
    else:
        x = lo + (hi - lo) * rng.random((count - count // 2, k))
        half = 0.5 if task.codec.in_model or task.codec.mode == "nearest" else 0.0
        tie = (np.floor(x / task.codec.scale) + half) * task.codec.scale
        x = np.where(rng.random(x.shape) < 0.5, tie, x).astype(np.float32)
        step = rng.integers(-1, 2, x.shape)
        away = np.where(step < 0, np.float32(-np.inf), np.float32(np.inf))
        x = np.concatenate([corner, np.where(step == 0, x, np.nextafter(x, away))])
        x = np.clip(x.astype(np.float32), lo.astype(np.float32), hi.astype(np.float32))
    base = task.cell.codes[0] if task.cell.codes is not None else task.cell.lower
    full = np.repeat(base.reshape(1, -1).astype(np.float64), count, axis=0)
    full[:, net.free] = x
    full = full.reshape(-1, *base.shape)
    return Inputs.of_codes(task, full) if on_grid else Inputs.of_reals(task, full)


def check(task: Task, net: Network, symbols: int, rng: Rng, seen: Seen, cells: int = 4, count: int = 24) -> None:
    """Compare every value of the pair over some cells, and the facts about the region, with execution."""
    pair = task.pair
    parts = some_cells(task, net, rng, cells)
    values = net.values(parts, symbols)
    keep_f, keep_q = {v.float_tensor for v in pair.values}, {v.quantized_tensor for v in pair.values}
    for cell in range(len(parts)):
        inputs = inside(task, net, parts, cell, rng, count)
        given = inputs.x if inputs.codes is None else inputs.codes
        q = run_int(pair.quantized, given, task.runtime, keep=keep_q)
        q[pair.quantized.inputs[0]] = given
        f = run_float(pair.float, inputs.x, dtype=LONG, keep=keep_f)  # type: ignore[arg-type]
        f[pair.float.inputs[0]] = inputs.x
        size = max(float(np.abs(v).max(initial=0.0)) for v in f.values())
        error = OWN_ERROR * size
        e = _symbols(net, parts, cell, inputs)
        for k, v in enumerate(pair.values):
            if k not in net.facts:
                continue
            t = pair.quantized.tensors[v.quantized_tensor]
            c = q[v.quantized_tensor].reshape(len(given), -1)
            real = (c.astype(np.float64) - t.q.z) * t.q.s if t.dtype.is_code else c.astype(np.float64)
            h = f[v.float_tensor].reshape(len(given), -1).astype(LONG)
            fact, delta = net.facts[k], real.astype(LONG) - h
            where = f"{task.runtime.value} value {k} cell {cell}"
            seen.check(f"{where} region float", fact.gap.float, h, error)
            seen.check(f"{where} region quantized", fact.gap.quantized, real)
            seen.check(f"{where} region delta", fact.gap.delta, delta, error)
            if k not in values:
                continue
            x, live = values[k], fact.live
            if x.gap.codes is not None and t.dtype.is_code:
                ends = Interval(*(b[cell].astype(np.float64) for b in x.gap.codes))
                seen.check(f"{where} code", ends, c[:, live])
            for name, form, interval, truth, own in (
                ("float", x.f, x.gap.float, h[:, live], error),
                ("quantized", x.q, x.gap.quantized, real[:, live].astype(LONG), 0.0),
                ("delta", x.d, x.gap.delta, delta[:, live], error),
            ):
                seen.check(f"{where} {name}", Interval(interval.lo[cell], interval.hi[cell]), truth, own)
                _form(f"{where} form of {name}", form, cell, e, truth, own, seen)


def _symbols(net: Network, cells: Cells, cell: int, inputs: Inputs) -> np.ndarray:
    """The values of the first symbols at some inputs, ``[B, k]``; nan where a cell has no width."""
    x = inputs.x.reshape(len(inputs), -1)[:, net.free].astype(LONG)
    lo, hi = cells.lo[cell].astype(LONG), cells.hi[cell].astype(LONG)
    half = (hi - lo) / 2
    return np.where(half > 0, (x - (lo + hi) / 2) / np.where(half > 0, half, 1), 0)


def _form(what: str, form: Form, cell: int, e: np.ndarray, truth: np.ndarray, own: float, seen: Seen) -> None:
    """The form at known values of its first symbols; the others are anything in [-1, 1]."""
    k = e.shape[1]
    g = form.g[cell].astype(LONG)
    moved = np.flatnonzero(g[:k].any(axis=1) & e.any(axis=0))  # 80-bit products are slow
    at = form.c[cell].astype(LONG) + e[:, moved] @ g[moved]
    # this sum itself is rounded, and the symbols' values are
    own = own + 2.0**-58 * (np.abs(form.c[cell]) + np.abs(form.g[cell]).sum(0) + np.abs(truth).max(0)).astype(LONG)
    rest = form.r[cell].astype(LONG) + np.abs(g[k:]).sum(0)
    off = np.abs(truth - at)
    seen.values += off.size
    bad = off > rest + own
    if bad.any():
        row, n = np.argwhere(bad)[0]
        seen.violations.append(f"{what}[{n}]: off by {off[row, n]!r}, remainder {rest[n]!r}")
