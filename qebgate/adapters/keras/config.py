"""The JSON that Keras writes about a network -> layers and which tensors they are called on.

Read as data: class names are looked up in a list, nothing is imported, and no code that a file may hold
(Lambda layers do) is ever looked at.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, NoReturn, cast

from qebgate.adapters.keras import wrappers
from qebgate.adapters.keras.nesting import flatten
from qebgate.adapters.keras.network import Layer, Network, Ref
from qebgate.errors import ModelError, UnsupportedError, printable

MAX_LAYERS = 2000
MAX_INPUTS = 16
_MODELS = ("Sequential", "Functional", "Model")


def parse_json(text: bytes | str, where: str) -> dict[str, Any]:
    """A JSON object; raises ModelError QEB477 for anything else, absurd nesting included."""
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError, MemoryError) as e:
        raise ModelError(
            "QEB477", "the model's configuration is not JSON", where=where, found=printable(e) or type(e).__name__
        ) from None
    if not isinstance(found, dict):
        raise ModelError("QEB477", "the model's configuration is not a JSON object", where=where)
    return cast("dict[str, Any]", found)


def parse_network(
    config: dict[str, Any],
    where: str,
    keras: int,
    known: Collection[str],
    later: Mapping[str, str],
    *,
    wrapped: Literal["no", "file", "checked"] = "no",
) -> Network:
    """The network of a model's configuration.

    ``known`` are the classes of layers that are read, ``later`` says what others would need.  ``wrapped``
    says whether layers may be in TF-MOT's wrappers: as a file states them, or checked by the caller.

    Raises ModelError QEB477, and UnsupportedError QEB478 that names every other layer.
    """
    try:
        return flatten(_Parser(where, keras, known, later, wrapped).network(config), where)
    except RecursionError:
        raise ModelError("QEB477", "the model's configuration is nested absurdly", where=where) from None


class _Parser:
    def __init__(self, where: str, keras: int, known: Collection[str], later: Mapping[str, str], wrapped: str) -> None:
        self.where, self.keras, self.known, self.later, self.wrapped = where, keras, known, later, wrapped
        self.inside: set[str] = set()  # layers in wrappers, by the wrapper's name
        self.problems: list[ModelError] = []
        self.total = 0

    def network(self, model: dict[str, Any]) -> Network:
        kind = model.get("class_name")
        if kind not in _MODELS or not _builtin(model):
            raise UnsupportedError(
                "QEB478",
                "the model is not a Sequential or functional Keras model",
                where=self.where,
                found=_class(model),
                fix="a subclassed model is Python code: build it from layers, or convert it to .tflite",
            )
        config = self._dict(model.get("config"), "config")
        entries = self._list(config.get("layers"), "layers")
        self.total += len(entries)
        if self.total > MAX_LAYERS:
            raise ModelError(
                "QEB406",
                "the model has too many layers",
                where=self.where,
                found=f"{self.total}, at most {MAX_LAYERS}",
            )
        entries = [self._unwrapped(self._dict(e, "layers")) for e in entries]
        for e in entries:
            self._check(e)
        if self.problems:
            raise _summary(self.problems, self.where, self.known)
        names = [self._name(e) for e in entries]
        if len(set(names)) < len(names):
            self._damaged("two layers have the same name")
        if kind == "Sequential":
            return self._sequential(config, entries)
        layers = tuple(self._layer(e, tuple(self._calls(e))) for e in entries)
        inputs, outputs = (tuple(self._ends(config.get(k), k)) for k in ("input_layers", "output_layers"))
        return Network(layers, inputs, outputs, self.keras)

    def _sequential(self, config: dict[str, Any], entries: list[dict[str, Any]]) -> Network:
        layers: list[Layer] = []
        if not entries:
            self._damaged("a model without layers")
        if entries[0]["class_name"] != "InputLayer":
            layers.append(self._input(config, entries[0]))
        for e in entries:
            before = (((layers[-1].name, 0, 0),),) if layers else ((),)
            layers.append(self._layer(e, before))
        return Network(tuple(layers), ((layers[0].name, 0, 0),), ((layers[-1].name, 0, 0),), self.keras)

    def _input(self, config: dict[str, Any], first: dict[str, Any]) -> Layer:
        """The input that a Sequential model without one was built for."""
        own = first["config"]
        built = first.get("build_config")
        shape = own.get("batch_shape") or own.get("batch_input_shape") or config.get("build_input_shape")
        if shape is None and isinstance(built, dict):
            shape = cast("dict[str, Any]", built).get("input_shape")
        if shape is None:
            raise UnsupportedError(
                "QEB416",
                "the model was saved before the shape of its input was known",
                where=self.where,
                fix="start it with keras.Input(shape), or call model.build(shape)",
            )
        return Layer("input", "InputLayer", {"name": "input", "batch_shape": shape, "dtype": "float32"}, ((),))

    def _layer(self, entry: dict[str, Any], calls: tuple[tuple[Ref, ...], ...]) -> Layer:
        name = self._name(entry)
        kind: str = entry["class_name"]
        inner = self.network(entry) if kind in _MODELS else None
        return Layer(name, kind, entry["config"], calls or ((),), name in self.inside, inner, name)

    def _unwrapped(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The entry without TF-MOT's wrapper."""
        if self.wrapped == "no" or not wrappers.is_wrapper(entry):
            return entry
        self._dict(entry.get("config"), "config of a layer")
        out = wrappers.unwrap(entry, self.where, checked=self.wrapped == "checked")
        self.inside.add(self._name(out))
        return out

    def _name(self, entry: dict[str, Any]) -> str:
        name = entry.get("name") or entry["config"].get("name")
        return name if isinstance(name, str) else self._damaged("a layer without a name")

    def _check(self, entry: dict[str, Any]) -> None:
        """Only known layers of Keras itself; the others are collected."""
        self._dict(entry.get("config"), "config of a layer")
        if entry.get("class_name") in (*self.known, *_MODELS) and _builtin(entry):
            return
        label = f"layer {printable(self._name(entry), 60)}"
        kind = str(entry.get("class_name"))
        needs = f" (it needs {self.later[kind]})" if kind in self.later and _builtin(entry) else ""
        self.problems.append(UnsupportedError("QEB478", f"{_class(entry)} is not supported{needs}", where=label))

    # -- calls ----------------------------------------------------------------------------------

    def _calls(self, entry: dict[str, Any]) -> Iterator[tuple[Ref, ...]]:
        label = f"layer {printable(self._name(entry), 60)}"
        for node in self._list(entry.get("inbound_nodes"), "inbound_nodes"):
            if isinstance(node, dict):
                fields = cast("dict[str, Any]", node)
                args = self._list(fields.get("args"), "args")
                extra = list(self._dict(fields.get("kwargs", {}), "kwargs").items())
                extra += [("a second argument", a) for a in args[1:]]
                tensors = args[:1]
                if tensors and isinstance(tensors[0], list):
                    tensors = cast("list[Any]", tensors[0])
                refs = tuple(self._tensor(t) for t in tensors)
            else:
                tensors = self._list(node, "inbound_nodes")
                if len(tensors) == 4 and isinstance(tensors[0], str):  # one tensor may stand without its list
                    tensors = [tensors]
                refs = tuple(self._ref(t) for t in tensors)
                extra = [i for t in tensors if len(t) > 3 for i in self._dict(t[3], "call arguments").items()]
            for key, value in extra:
                if value is not None and not (key == "training" and value is False):
                    raise UnsupportedError(
                        "QEB479",
                        f"a layer is called with `{printable(key, 40)}`, which is not supported",
                        where=f"{self.where}: {label}",
                        found=printable(value, 80),
                    )
            if len(refs) > MAX_INPUTS:
                self._damaged(f"{len(refs)} inputs of one layer")
            yield refs

    def _tensor(self, t: Any) -> Ref:
        fields = self._dict(t, "args")
        if fields.get("class_name") != "__keras_tensor__":
            raise UnsupportedError(
                "QEB479",
                "a layer is called on a constant, which is not supported",
                where=self.where,
                found=_class(fields),
            )
        return self._ref(self._dict(fields.get("config"), "args").get("keras_history"))

    def _ends(self, value: Any, what: str) -> Iterator[Ref]:
        found = self._list(value, what)
        if len(found) == 3 and isinstance(found[0], str):
            yield self._ref(found)
            return
        for t in found:
            yield self._ref(t)

    def _ref(self, t: Any) -> Ref:
        found = self._list(t, "a reference to a tensor")
        if len(found) < 3 or not isinstance(found[0], str) or not all(type(v) is int for v in found[1:3]):
            self._damaged(f"a reference to a tensor {printable(found, 80)}")
        return found[0], found[1], found[2]

    # -- types ----------------------------------------------------------------------------------

    def _dict(self, value: object, what: str) -> dict[str, Any]:
        return cast("dict[str, Any]", value) if isinstance(value, dict) else self._damaged(f"{what} is no object")

    def _list(self, value: object, what: str) -> list[Any]:
        return (
            list(cast("list[Any]", value)) if isinstance(value, (list, tuple)) else self._damaged(f"{what} is no list")
        )

    def _damaged(self, found: str) -> NoReturn:
        raise ModelError(
            "QEB477", "the model's configuration is not one that Keras writes", where=self.where, found=found
        )


def _builtin(entry: dict[str, Any]) -> bool:
    """Whether an object says that it is Keras' own: custom classes name their package."""
    module, registered = entry.get("module"), entry.get("registered_name")
    if module is not None and (not isinstance(module, str) or module.split(".")[0] not in ("keras", "tf_keras")):
        return False
    return registered is None or registered == entry.get("class_name")


def _class(entry: dict[str, Any]) -> str:
    kind = printable(entry.get("class_name"), 60)
    registered = entry.get("registered_name")
    package = "" if registered in (None, entry.get("class_name")) else f", registered as {printable(registered, 60)}"
    module = entry.get("module")
    return kind + ("" if module is None or _builtin(entry) else f" of {printable(module, 60)}") + package


def _summary(problems: list[ModelError], where: str, known: Collection[str]) -> UnsupportedError:
    allowed = ", ".join(sorted(known))
    fix = f"supported are {allowed}; or convert the model to .tflite"
    if len(problems) == 1:
        p = problems[0]
        return UnsupportedError(p.code, f"a layer is not supported: {p.message}", f"{where}: {p.where}", fix=fix)
    message = f"{len(problems)} layers are not supported"
    return UnsupportedError("QEB478", message, where, fix=fix, related=tuple(problems[:50]))
