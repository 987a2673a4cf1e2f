"""What TF-MOT wraps around layers in quantization-aware training, read as data.

The inner layer takes the wrapper's place.  Which variables are quantized stands in the names of the
wrapper's own variables (``kernel_min``, ``post_activation_max``, ...); how many bits they have is only
known for TF-MOT's own 8-bit configurations, because those of others are Python code.
"""

from __future__ import annotations

from typing import Any, cast

from qebgate.errors import UnsupportedError, printable

WRAPPERS = ("QuantizeWrapper", "QuantizeWrapperV2")
INPUT = "QuantizeLayer"
_PACKAGE = "tensorflow_model_optimization"
_CONFIGS = (
    "Default8BitQuantizeConfig",
    "Default8BitConvQuantizeConfig",
    "Default8BitActivationQuantizeConfig",
    "Default8BitOutputQuantizeConfig",
    "NoOpQuantizeConfig",
    "OutputOnlyConfig",
)
_QUANTIZERS = ("AllValuesQuantizer", "MovingAverageQuantizer", "LastValueQuantizer")

Entry = dict[str, Any]


def is_wrapper(entry: Entry) -> bool:
    """Whether a layer's entry is one of TF-MOT's."""
    return own(entry) and (entry.get("class_name") in WRAPPERS or entry.get("class_name") == INPUT)


def own(entry: object) -> bool:
    """Whether an object says that it is TF-MOT's, or (in older files) says nothing."""
    if not isinstance(entry, dict):
        return False
    fields = cast("Entry", entry)
    module = fields.get("module")
    if module is None:
        return True
    return isinstance(module, str) and module.split(".")[0] == _PACKAGE


def unwrap(entry: Entry, where: str, *, checked: bool) -> Entry:
    """The inner layer's entry under the wrapper's name; a QuantizeLayer as it is.

    ``checked``: the quantizers of a model in memory have been looked at themselves.  Raises
    UnsupportedError QEB488 for quantizers whose bits the file does not state.
    """
    config = cast("Entry", entry["config"])
    name = config.get("name")
    if entry["class_name"] == INPUT:
        if not checked:
            _check_quantizer(config.get("quantizer"), name, where)
        return {**entry, "config": {"name": name, "dtype": config.get("dtype")}, "module": None}
    found = config.get("layer")
    how = config.get("quantize_config")
    if not isinstance(found, dict) or not isinstance(cast("Entry", found).get("config"), dict):
        raise _refuse(name, "no inner layer", where)
    if not checked:
        _check_config(how, name, where)
    inner = cast("Entry", found)
    own_config = dict(cast("Entry", inner["config"]))
    own_config["name"] = name
    if "activation" in own_config:
        own_config["activation"] = _activation(own_config["activation"])
    out = {**inner, "config": own_config, "name": name}
    if "inbound_nodes" in entry:
        out["inbound_nodes"] = entry["inbound_nodes"]
    return out


def _activation(found: object, depth: int = 0) -> object:
    """The activation function that TF-MOT wraps."""
    if not isinstance(found, dict) or not own(cast("Entry", found)):
        return found
    fields = cast("Entry", found)
    config = fields.get("config")
    if fields.get("class_name") == "NoOpActivation":
        return "linear"
    if fields.get("class_name") == "QuantizeAwareActivation" and isinstance(config, dict) and depth < 2:
        return _activation(cast("Entry", config).get("activation"), depth + 1)
    return cast("object", found)


def _check_config(how: object, name: object, where: str) -> None:
    fields = cast("Entry", how) if isinstance(how, dict) else {}
    kind = fields.get("class_name")
    registered = fields.get("registered_name")
    if not own(how) or kind not in _CONFIGS or registered not in (None, kind, f"Custom>{kind}"):
        raise _refuse(name, f"configuration {printable(kind, 60)}", where)
    inner = fields.get("config")
    if kind == "OutputOnlyConfig" and isinstance(inner, dict):
        _check_config(cast("Entry", inner).get("quantize_config"), name, where)


def _check_quantizer(found: object, name: object, where: str) -> None:
    fields = cast("Entry", found) if isinstance(found, dict) else {}
    config = fields.get("config")
    values = cast("Entry", config) if isinstance(config, dict) else {}
    wanted = {"num_bits": 8, "per_axis": False, "narrow_range": False}
    if (
        not own(found)
        or fields.get("class_name") not in _QUANTIZERS
        or any(values.get(k) != v or type(values.get(k)) is not type(v) for k, v in wanted.items())
    ):
        raise _refuse(name, f"quantizer {printable(fields.get('class_name'), 60)} {printable(values, 80)}", where)


def _refuse(name: object, found: str, where: str) -> UnsupportedError:
    return UnsupportedError(
        "QEB488",
        "a layer's quantizers are not TF-MOT's own 8-bit ones: what they do is Python code outside the file",
        where=f"{where}: layer {printable(name, 60)}",
        found=found,
        fix="read the model in memory (read_quantized_live), or convert it to .tflite",
    )


def check_live(layer: Any, where: str) -> None:
    """Ask the quantizers of a wrapper in memory; raises UnsupportedError QEB488 for any but 8-bit ones."""
    if type(layer).__name__ == INPUT:
        found = [(layer.quantizer, False)] if layer.quantizer is not None else []
    else:
        config, inner = layer.quantize_config, layer.layer
        found = [(q, True) for _, q in config.get_weights_and_quantizers(inner)]
        found += [(q, False) for _, q in config.get_activations_and_quantizers(inner)]
        found += [(q, False) for q in config.get_output_quantizers(inner)]
    for quantizer, weights in found:
        kind = type(quantizer)
        values = {k: getattr(quantizer, k, None) for k in ("num_bits", "narrow_range", "per_axis")}
        right = values["num_bits"] == 8 and bool(values["narrow_range"]) == weights
        base = any(c.__name__ in _QUANTIZERS and c.__module__.split(".")[0] == _PACKAGE for c in kind.__mro__)
        changed = "__call__" in vars(kind) and kind.__module__.split(".")[0] != _PACKAGE
        if not right or not base or changed or (values["per_axis"] and not weights):
            raise _refuse(getattr(layer, "name", "?"), f"quantizer {printable(kind.__name__, 60)} {values}", where)
