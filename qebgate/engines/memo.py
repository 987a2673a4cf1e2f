"""Quantized outputs of inputs that meet in few codes: the rest of the network runs once for each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qebgate.engines.subnetwork import LINEAR, Network, Step
from qebgate.ir.tensor import Array
from qebgate.numerics.rounding import F64

F32 = NDArray[np.float32]
Keys = NDArray[np.uint64]
Finish = Callable[[Array], F64]
"""Real outputs ``[B, K]`` from the output's live entries ``[B, m]``."""

Steps = list[tuple[tuple[int, ...], int, Step]]

_BYTES = 8
"""Code vectors of so many entries at most: their bytes are one integer, the key of the table."""
_TABLE_BYTES = 1 << 26
_SAMPLE = 2048
_WORTH = 0.7
"""Estimated cost, relative to execution without a table, below which one is used."""


@dataclass(slots=True, eq=False)
class Memo:
    """Executes a network up to a tensor whose code vectors repeat, and looks the outputs up from there."""

    net: Network
    cut: int
    finish: Finish
    first: Steps
    rest: Steps
    lo: F32
    keys: Keys = field(default_factory=lambda: np.empty(0, np.uint64))
    table: F64 = field(default_factory=lambda: np.empty((0, 0)))

    def numbers(self, codes: Array) -> Keys:
        """A key ``[B]`` for each code vector ``[B, k]``, different ones for different vectors."""
        packed = np.zeros((len(codes), _BYTES), np.uint8)
        packed[:, : codes.shape[1]] = codes - self.lo
        return packed.view(np.uint64).ravel()

    def outputs(self, x: Array) -> F64 | None:
        """Real outputs ``[B, K]``; None once the table has become too large."""
        number = self.learn(x)
        return None if number is None else np.take(self.table, self.rows(number), axis=0)

    def rows(self, number: Keys) -> NDArray[np.intp]:
        """Where the outputs of known keys are in the table, ``[B]``."""
        return np.searchsorted(self.keys, number)

    def learn(self, x: Array) -> Keys | None:
        """Keys ``[B]`` of inputs, whose outputs are then in the table; None once that has become too large."""
        codes = self.net.execute(self.first, {self.net.graph.inputs[0]: x})[self.cut]
        number = self.numbers(codes)
        place = np.searchsorted(self.keys, number)
        known = place < self.keys.size
        known[known] = self.keys[place[known]] == number[known]
        if not known.all():
            new, row = np.unique(number[~known], return_index=True)
            values = self.net.execute(self.rest, {self.cut: codes[~known][row]})
            found = self.finish(values[self.net.graph.outputs[0]])
            if (self.keys.size + new.size) * found.shape[1] * 8 > _TABLE_BYTES:
                return None
            order = np.argsort(np.concatenate([self.keys, new]), kind="stable")
            self.keys = np.concatenate([self.keys, new])[order]
            self.table = (np.concatenate([self.table, found]) if self.table.size else found.copy())[order]
        return number


def memo(net: Network, finish: Finish, width: int, sample: Callable[[int], Array]) -> Memo | None:
    """The best place to look outputs up, going by a sample; None where none pays.

    ``sample(n)`` draws inputs, ``width`` is K.
    """
    costs = np.array([cost(net, step) for step in net.steps])
    total = float(costs.sum()) + 3.0 * width
    choices: list[tuple[float, Memo]] = []
    values: dict[int, Array] | None = None
    for at, (_, cut, _) in enumerate(net.steps[:-1]):
        part, rest = net.parts[cut], net.steps[at + 1 :]
        made = {cut, *(o for _, o, _ in rest)}
        if any(i not in made for inputs, _, _ in rest for i in inputs):
            continue
        looked_up = float(costs[: at + 1].sum()) + 2.0 * part.live.size + 40.0 + width
        if part.live.size > _BYTES or (part.hi - part.lo).max() > 255 or looked_up >= _WORTH * total:
            continue
        if values is None:
            values = net.execute(net.steps[:-1], {net.graph.inputs[0]: sample(_SAMPLE)})
        entry = Memo(net, cut, finish, net.steps[: at + 1], rest, part.lo.astype(np.float32))
        distinct = np.unique(entry.numbers(values[cut])).size / _SAMPLE
        whole = looked_up + distinct * (total - float(costs[: at + 1].sum()))
        if distinct <= 0.5 and whole < _WORTH * total:
            choices.append((whole, entry))
    return min(choices, key=lambda c: c[0])[1] if choices else None


def cost(net: Network, step: tuple[tuple[int, ...], int, Step]) -> float:
    """Roughly, in nanoseconds for one input."""
    inputs, output, _ = step
    node = net.graph.producer[output]
    size = net.parts[output].live.size
    return size * (1.0 + (net.parts[inputs[0]].live.size / 25.0 if node.op in LINEAR else 3.0))
