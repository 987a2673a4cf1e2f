"""Models inside models -> one network of layers, each under the names of the models around it."""

from __future__ import annotations

import re
from dataclasses import replace

from qebgate.adapters.keras.network import Layer, Network, Ref
from qebgate.errors import ModelError

MAX_CALLS = 4096
MAX_DEPTH = 16


def flatten(network: Network, where: str) -> Network:
    """The same network without nested models; raises ModelError QEB406 or QEB477."""
    flat, alias = _flatten(network, "", "", where, 0)
    layers = tuple(
        replace(x, calls=tuple(tuple(_resolve(r, alias, where) for r in call) for call in x.calls)) for x in flat.layers
    )
    inputs, outputs = (tuple(_resolve(r, alias, where) for r in refs) for refs in (flat.inputs, flat.outputs))
    return Network(layers, inputs, outputs, network.keras)


def _flatten(network: Network, prefix: str, group: str, where: str, depth: int) -> tuple[Network, dict[Ref, Ref]]:
    if depth > MAX_DEPTH:
        raise ModelError("QEB477", "the model's configuration is nested absurdly", where=where)
    out: list[Layer] = []
    alias: dict[Ref, Ref] = {}
    counts: dict[str, int] = {}

    def renamed(refs: tuple[Ref, ...]) -> tuple[Ref, ...]:
        return tuple((prefix + n, k, t) for n, k, t in refs)

    for layer in network.layers:
        kind = snake_case(layer.kind)
        count = counts[kind] = counts.get(kind, -1) + 1
        place = f"{group}layers/{kind}" + (f"_{count}" if count else "")
        calls = tuple(renamed(c) for c in layer.calls)
        name = prefix + layer.name
        if layer.inner is None:
            out.append(replace(layer, name=name, own=layer.name, calls=calls, group=place))
        else:
            sub, inside = _flatten(layer.inner, f"{name}/", f"{place}/", where, depth + 1)
            base = _first_call(layer, network)
            out += _called(sub, inside, calls, alias, where)
            for c in range(len(calls)):
                for t, ref in enumerate(sub.outputs):
                    alias[name, base + c, t] = _shifted(ref, c, sub)
        if sum(len(x.calls) for x in out) > MAX_CALLS:
            found = f"more than {MAX_CALLS} calls of layers"
            raise ModelError("QEB406", "the model has too many layers", where=where, found=found)
    return Network(tuple(out), renamed(network.inputs), renamed(network.outputs), network.keras), alias


def _called(
    sub: Network, inside: dict[Ref, Ref], calls: tuple[tuple[Ref, ...], ...], alias: dict[Ref, Ref], where: str
) -> list[Layer]:
    """The layers of a nested model, each called as often as the model is; its inputs become the callers' tensors."""
    inputs = {r[0] for r in sub.inputs}
    for c, given in enumerate(calls):
        if len(given) != len(sub.inputs):
            found = f"{len(given)} tensors for a model of {len(sub.inputs)} inputs"
            raise ModelError("QEB477", "a nested model is called wrongly", where=where, found=found)
        for ref, tensor in zip(sub.inputs, given, strict=True):
            alias[_shifted(ref, c, sub)] = tensor
        for a, b in inside.items():
            alias[a[0], a[1] + c * _INNER, a[2]] = _shifted(b, c, sub)
    return [
        replace(x, calls=tuple(tuple(_shifted(r, c, sub) for r in call) for c in range(len(calls)) for call in x.calls))
        for x in sub.layers
        if x.name not in inputs
    ]


_INNER = 1 << 16
"""Between the numbers of the calls of a nested model that is no layer any more."""


def _shifted(ref: Ref, c: int, sub: Network) -> Ref:
    """A tensor of a nested model's ``c``-th call."""
    name, k, t = ref
    calls = next((len(x.calls) for x in sub.layers if x.name == name), _INNER)
    return name, k + c * calls, t


def _first_call(layer: Layer, network: Network) -> int:
    """The number of a nested model's first call: functional models count the one that built them."""
    used = [k for x in network.layers for call in x.calls for n, k, _ in call if n == layer.name]
    used += [k for n, k, _ in network.outputs if n == layer.name]
    if 0 in used:
        return 0
    if max(used, default=0) >= len(layer.calls):
        return 1
    return 0 if layer.kind == "Sequential" and network.keras >= 3 else 1


def _resolve(ref: Ref, alias: dict[Ref, Ref], where: str) -> Ref:
    for _ in range(4 * MAX_DEPTH):
        if ref not in alias:
            return ref
        ref = alias[ref]
    raise ModelError("QEB477", "the model's configuration is nested absurdly", where=where)


def snake_case(name: str) -> str:
    """As Keras does it."""
    spaced = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", spaced).lower()
