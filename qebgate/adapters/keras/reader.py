"""Keras models -> :class:`~qebgate.ir.graph.Graph`: ``.keras``, legacy ``.h5``, and models in memory.

A file is data: its configuration is JSON, its weights are arrays.  Nothing in it is deserialised,
imported or executed, and neither Keras nor TensorFlow is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qebgate.adapters.files import read_file
from qebgate.adapters.keras.archive import read_archive
from qebgate.adapters.keras.call import Call
from qebgate.adapters.keras.config import parse_json, parse_network
from qebgate.adapters.keras.draft import Draft, Op
from qebgate.adapters.keras.hdf5 import SIGNATURE, read_hdf5
from qebgate.adapters.keras.layers import LAYERS, NOT_YET
from qebgate.adapters.keras.nesting import MAX_DEPTH
from qebgate.adapters.keras.network import Layer, Network, Ref
from qebgate.adapters.keras.quantized import quantize
from qebgate.adapters.keras.settings import Settings
from qebgate.adapters.keras.weights import Keras3Weights, LegacyWeights, LiveWeights, NamedWeights, Weights
from qebgate.adapters.keras.wrappers import INPUT as QUANTIZE_LAYER
from qebgate.adapters.keras.wrappers import check_live
from qebgate.errors import ModelError, UnsupportedError, printable
from qebgate.ir.graph import Graph, Source

MAX_BYTES = 192 << 20
MAX_CALLS = 4096
SUFFIXES = (".keras", ".h5", ".hdf5")
KNOWN = frozenset(LAYERS) | {"InputLayer"}
_KERAS = ("keras", "tf_keras")
_TFMOT = "tensorflow_model_optimization"


def read_keras(path: Path, *, quantized: bool = False) -> Graph:
    """Read a ``.keras`` or ``.h5`` file as a network in the normal form of converted files.

    A model of quantization-aware training (``.h5``) is read as the float network of its weights; with
    ``quantized`` as the integer network that it becomes.  Raises ModelError for a file that is not one,
    UnsupportedError for a network that is not read.
    """
    data = read_file(path, MAX_BYTES, ModelError)
    source = Source(str(path), hashlib.sha256(data).hexdigest(), "keras")
    where = source.label
    if data.startswith(SIGNATURE):
        return _read_legacy(data, source, quantized)
    if data[:4] != b"PK\x03\x04":
        raise ModelError(
            "QEB475",
            "the file is neither a .keras archive nor an HDF5 file",
            where=where,
            fix="save the model with model.save('model.keras')",
        )
    archive = read_archive(data, where)
    config = parse_json(archive.config, f"{where}: config.json")
    metadata = {} if archive.metadata is None else parse_json(archive.metadata, f"{where}: metadata.json")
    network = parse_network(config, where, _major(metadata.get("keras_version")), KNOWN, NOT_YET)
    return _finish(network, Keras3Weights.of_network(read_hdf5(archive.weights, where), network), source, quantized)


def read_live(model: Any, *, quantized: bool = False) -> Graph:
    """A ``keras.Model`` or ``tf_keras.Model`` in memory, by its configuration and its weights.

    The configuration goes through JSON, as it would into a file.  ``quantized`` and errors as for
    :func:`read_keras`; the quantizers of TF-MOT's wrappers are asked themselves, so that configurations
    of one's own are read too.
    """
    where = f"Keras model {printable(getattr(model, 'name', '?'), 60)}"
    try:
        text = str(model.to_json())
        named = dict(_layers(model))
        layers = list(named.values())
        arrays = {n: [(str(v.name), np.asarray(v)) for v in _variables(a)] for n, a in named.items()}
        foreign = [a for a in layers if type(a).__module__.split(".")[0] not in (*_KERAS, _TFMOT)]
    except (AttributeError, NotImplementedError, TypeError, ValueError) as e:
        raise UnsupportedError(
            "QEB478", "the model's layers cannot be listed", where=where, found=printable(e)
        ) from None
    wrapped = [a for a in layers if type(a).__module__.split(".")[0] == _TFMOT]
    inner = [a.layer for a in wrapped if hasattr(a, "layer")]
    foreign += [a for a in inner if type(a).__module__.split(".")[0] not in _KERAS]
    if foreign:
        kind = type(foreign[0])
        raise UnsupportedError(
            "QEB478",
            "a layer is not one of Keras' own",
            where=f"{where}: layer {printable(foreign[0].name, 60)}",
            found=printable(f"{kind.__module__}.{kind.__qualname__}"),
        )
    for layer in wrapped:
        check_live(layer, where)
    config = parse_json(text, where)
    version = _major(config.get("keras_version", "3"))
    network = parse_network(config, where, version, KNOWN, NOT_YET, wrapped="checked" if wrapped else "no")
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        for _, a in arrays[name]:
            digest.update(f"{name} {a.shape} {a.dtype}".encode() + a.tobytes())
    source = Source(where, digest.hexdigest(), "keras-live")
    if wrapped:
        return _finish(network, NamedWeights(arrays, where), source, quantized)
    plain = {name: [a for _, a in found] for name, found in arrays.items()}
    return _finish(network, LiveWeights(plain, where), source, quantized)


def _layers(model: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Layers by name; those of nested models under the models' names."""
    for layer in model.layers:
        name = prefix + str(layer.name)
        if hasattr(layer, "layers") and depth < MAX_DEPTH:
            yield from _layers(layer, f"{name}/", depth + 1)
        else:
            yield name, layer


def _variables(layer: Any) -> list[Any]:
    """A layer's variables in the order of ``get_weights``."""
    return list(layer.weights)


def _read_legacy(data: bytes, source: Source, quantized: bool) -> Graph:
    where = source.label
    file = read_hdf5(data, where)
    root = file.attributes.get("", {})
    text = root.get("model_config")
    if not text:
        raise UnsupportedError(
            "QEB477",
            "the HDF5 file has no configuration of a model",
            where=where,
            found="weights only" if "model_weights" not in file.attributes else "no attribute model_config",
            fix="save the whole model: model.save('model.keras'), not save_weights",
        )
    config, version = parse_json(text, where), _major(root.get("keras_version"))
    network = parse_network(config, where, version, KNOWN, NOT_YET, wrapped="file")
    return _finish(network, LegacyWeights(file), source, quantized)


def _major(version: object) -> int:
    """2 where it is not known: the stricter reading."""
    first = str(version).split(".")[0]
    return int(first) if first.isascii() and first.isdigit() and len(first) < 4 else 2


def _finish(network: Network, weights: Weights, source: Source, quantized: bool) -> Graph:
    draft, inputs, outputs = _build(network, weights, source)
    if quantized and network.wrapped:
        return quantize(draft, inputs, outputs, replace(source, format=source.format.replace("keras", "tfmot")))
    return draft.finish(inputs, outputs, source)


def _build(network: Network, weights: Weights, source: Source) -> tuple[Draft, tuple[int, ...], tuple[int, ...]]:
    draft = Draft(source.label)
    values: dict[Ref, int] = {}
    waiting = [(layer, k) for layer in network.layers for k in range(len(layer.calls))]
    if len(waiting) > MAX_CALLS:
        found = f"{len(waiting)} calls of layers, at most {MAX_CALLS}"
        raise ModelError("QEB406", "the model has too many layers", where=source.label, found=found)
    while waiting:
        later: list[tuple[Layer, int]] = []
        for layer, k in waiting:
            if all(r in values for r in layer.calls[k]):
                values[layer.name, k, 0] = _call(draft, weights, layer, k, values, network.keras)
            else:
                later.append((layer, k))
        if len(later) == len(waiting):
            raise _unconnected(source, later[0][0].calls[later[0][1]], values, later[0][0].label)
        waiting = later
    ends: list[tuple[int, ...]] = []
    for refs in (network.inputs, network.outputs):
        for r in refs:
            if r not in values:
                raise _unconnected(source, refs, values, "the model's ends")
        ends.append(tuple(values[r] for r in refs))
    inputs = {layer.name for layer in network.layers if layer.kind == "InputLayer"}
    if not ends[0] or not ends[1] or {r[0] for r in network.inputs} != inputs or len(set(ends[0])) < len(ends[0]):
        raise _unconnected(source, network.inputs, values, "the model's inputs")
    return draft, ends[0], ends[1]


def _call(draft: Draft, weights: Weights, layer: Layer, k: int, values: dict[Ref, int], keras: int) -> int:
    settings = Settings(layer, draft.where)
    if layer.kind == "InputLayer":
        if layer.calls[k]:
            raise ModelError("QEB477", "an input layer reads other layers", where=f"{draft.where}: {layer.label}")
        for key in ("sparse", "ragged", "optional"):
            settings.only(key, False, None)
        shape = settings.shape()
        settings.done()
        return draft.value(layer.name, shape)
    x = tuple(values[r] for r in layer.calls[k])
    before = len(draft.ops)
    out = LAYERS[layer.kind](Call(draft, weights, layer, settings, x, keras))
    settings.done()
    if layer.wrapped:
        _quantizers(draft, weights, layer, draft.ops[before:], out)
    return out


def _quantizers(draft: Draft, weights: Weights, layer: Layer, ops: list[Op], out: int) -> None:
    """Note the ranges of one layer's weights and values."""
    heavy = [op for op in ops if op.weights is not None]
    for op in heavy[:1]:
        op.span = weights.span(layer, "depthwise_kernel" if layer.kind == "DepthwiseConv2D" else "kernel")
    places = {"pre_activation": heavy[0].output if heavy else None, "post_activation": out, "output": out}
    if layer.kind == QUANTIZE_LAYER:
        places[layer.name] = out
    for name, place in places.items():
        span = weights.span(layer, name)
        if span is None:
            continue
        if place is None or span[0].size != 1 or (place in draft.spans and draft.spans[place] != span):
            raise UnsupportedError(
                "QEB479",
                "a value's quantizer is not one range for the whole value, or not the only one",
                where=f"{draft.where}: {layer.label}",
                found=f"{name}, {span[0].size} ranges",
            )
        draft.spans[place] = span


def _unconnected(source: Source, refs: tuple[Ref, ...], values: dict[Ref, int], where: str) -> ModelError:
    missing = [r for r in refs if r not in values]
    return ModelError(
        "QEB477",
        "the model's layers are not connected as Keras connects them",
        where=f"{source.label}: {where}",
        found=printable(f"tensor {missing[0]}" if missing else "inputs and input layers differ", 120),
    )
